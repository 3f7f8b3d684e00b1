/*
 * poller-finish.c - the queue to the workers, and finishing
 *
 * Requests that the poller cannot do at once stand in the device's todo list.  Up to JOBS workers take
 * from it: while calls are quick each takes up to 32 requests and answers them with one push; when calls
 * sleep, each takes one, so that they sleep side by side.  Flushes and discards always run alone.
 *
 * Whoever has executed a batch finishes it: gives the memory back, then under the ring lock writes the
 * responses, frees the slots and pushes, and after it notifies the guest and, if the poller stalled for
 * lack of anything, kicks it.  Requests that wait for the operator are parked instead of answered.
 */
#include "poller-int.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "events.h"
#include "log.h"

#include <assert.h>
#include <errno.h>

/* --- finishing: any thread ------------------------------------------------------------------- */

static void park_locked(struct pring *r, struct request *req)
{
	struct request *other;

	r->nparked++;
	list_for_each(other, &r->parked, node)
		if (other->seq > req->seq) {
			list_insert(&req->node, other->node.prev, &other->node);
			return;
		}
	list_add_tail(&req->node, &r->parked);
}

/* The ring's lock makes us the only writer: after a revoke the next connection's ring writes there. */
static __attribute__((noinline)) void trace_request(struct pring *r, const struct request *req)
{
	uint64_t now = now_ns();
	const struct trace_entry entry = {
		.end_ns = now,
		.ns = since_ns(req->start_ns, now),
		.offset = req->offset,
		.length = req->length,
		.id = req->id,
		.kind = stat_of(req),
		.err = req->err,
	};

	trace_put(r->poller->cfg.trace, r->index, &entry);
}

void finish_answer_locked(struct pring *r, struct request *req)
{
	bool revoked = atomic_load_explicit(&r->poller->revoked, memory_order_relaxed);

	lock_assert_held(&r->lock);
	assert(r->inflight);
	r->inflight--;
	if (!revoked)
		ring_respond(&r->ring, req->id, req->op, req_status(req->err));
	PROBE(request_responded, r->poller, req, now_ns());
	if (!revoked && trace_on(r->poller->cfg.trace))
		trace_request(r, req);
	list_add(&req->node, &r->free);
}

/* Why a request waits for the operator. */
enum { TELL_FLUSH = 1, TELL_NO_SPACE = 2, TELL_FAILED = 4 };

static unsigned why_parked(const struct request *req)
{
	if (!(req->flags & REQ_HALT))
		return TELL_FLUSH;
	return req->err == -ENOSPC ? TELL_NO_SPACE : TELL_FAILED;
}

/* Those of list that came from ring r: answer or park them, push once.  Returns what else to do. */
struct aftermath {
	bool notify, kick;
};

static struct aftermath finish_ring(struct pring *r, struct list_head *list)
{
	struct aftermath after = {0};
	struct request *req, *next;
	unsigned n = 0;
	bool revoked;

	LOCK_SCOPE(&r->lock);
	list_for_each_safe(req, next, list, node) {
		if (req->ring != r->index)
			continue;
		list_del(&req->node);
		n++;
		if (req->flags & REQ_PARK) {
			park_locked(r, req);
			if (req->flags & REQ_HALT)
				atomic_fetch_add(&r->poller->full, 1);
		} else {
			finish_answer_locked(r, req);
		}
	}
	/* Under the lock: revoke waits for it before the ring goes away. */
	revoked = atomic_load(&r->poller->revoked);
	after.notify = !revoked && ring_push(&r->ring);
	after.kick = r->stalled;
	r->stalled = false;
	atomic_fetch_sub(&r->poller->active, n);
	return after;
}

void finish_notify(struct pring *r)
{
	struct poller *p = r->poller;

	stats_add(p->cfg.stats->notifies, 1);
	p->cfg.hyp->ops->evtchn_notify(p->cfg.evtchn, r->port);
}

/* At most one a second: who has many of them will know. */
static void tell_slow(struct poller *p, const struct request *req, uint64_t ns, uint64_t now)
{
	static const char *const name[STAT_OPS] = {
		[STAT_READ] = "read",
		[STAT_WRITE] = "write",
		[STAT_FLUSH] = "flush",
		[STAT_DISCARD] = "discard",
	};
	uint64_t not_before = atomic_load_explicit(&p->tell_slow, memory_order_relaxed);

	if (now < not_before ||
	    !atomic_compare_exchange_strong(&p->tell_slow, &not_before, now + NSEC_PER_SEC))
		return;
	event_emit(EVENT_SLOW, p->cfg.name, ns, "%s of %llu bytes at %llu took %llu ms",
		   name[stat_of(req)], (unsigned long long)req->length,
		   (unsigned long long)req->offset, (unsigned long long)(ns / 1000000));
}

static void count_done(struct poller *p, struct stats_batch *batch, struct request *req, uint64_t now)
{
	uint64_t ns = since_ns(req->start_ns, now);

	stats_done(batch, stat_of(req), req->length, ns, req->err);
	if (ns >= atomic_load_explicit(&p->slow_ns, memory_order_relaxed))
		tell_slow(p, req, ns, now);
	if (req->flags & REQ_BARRIER)
		stats_add(p->cfg.stats->barriers, 1);
}

/* Some requests wait now.  Each reason is told once, however many there are, until the disk goes on. */
static void tell_parked(struct poller *p, unsigned why)
{
	unsigned news = why & ~atomic_fetch_or(&p->told, why);

	if (atomic_load(&p->error_timeout))
		poller_kick(p); /* its clock runs from now on */
	if (news)
		p->cfg.event(p->cfg.arg, news & TELL_FAILED ? POLLER_FAILED : POLLER_PARKED);
}

/* The end of a batch, on the poller or a worker.  list is empty afterwards. */
void finish(struct poller *p, struct list_head *list, uint64_t now, bool on_poller)
{
	struct stats_batch batch = stats_batch_begin(p->cfg.stats);
	struct request *req;
	bool wake = false;
	unsigned why = 0;

	list_for_each(req, list, node) {
		if (req->flags & REQ_PARK) {
			why |= why_parked(req);
			stats_add(p->cfg.stats->parked, 1);
			continue; /* keeps its memory */
		}
		count_done(p, &batch, req, now);
		PROBE(request_completed, p, req, now);
		if (req->err)
			PROBE_FAILED(p, req);
		exec_release(&p->exec, req);
	}
	stats_batch_end(&batch);
	while (!list_empty(list)) {
		struct pring *r = &p->ring[list_first_entry(list, struct request, node)->ring];
		struct aftermath after = finish_ring(r, list);

		if (after.notify)
			finish_notify(r);
		wake = wake || after.kick;
	}
	/* On the poller too: the ring that wants may be another one, which has had its turn in this pass. */
	if (atomic_load(&p->wanting) && atomic_exchange(&p->wanting, false))
		poller_kick(p);
	else if (wake && !on_poller)
		poller_kick(p);
	if (why)
		tell_parked(p, why);
}

/* They have waited, and nobody came: as failed as any others, also in the counters. */
static void give_back_failed(struct poller *p, struct list_head *list)
{
	struct stats_batch batch = stats_batch_begin(p->cfg.stats);
	uint64_t now = now_ns();
	struct request *req;
	unsigned n = 0;

	list_for_each(req, list, node) {
		count_done(p, &batch, req, now);
		exec_release(&p->exec, req);
		n++;
	}
	stats_batch_end(&batch);
	stats_add(p->cfg.stats->parked, -(uint64_t)n);
}

/* Data gets ERROR.  A flush gets no answer: there is none that would be true. */
static bool fail_parked_locked(struct pring *r, struct list_head *list)
{
	struct request *req, *next;

	list_for_each_safe(req, next, list, node) {
		list_del(&req->node);
		req->flags &= ~REQ_PARK;
		if (req->flags & REQ_HALT) {
			req->flags &= ~REQ_HALT;
			atomic_fetch_sub(&r->poller->full, 1);
			finish_answer_locked(r, req);
			continue;
		}
		r->inflight--;
		list_add(&req->node, &r->free);
	}
	return !atomic_load(&r->poller->revoked) && ring_push(&r->ring);
}

void poller_fail_parked(struct poller *p)
{
	struct list_head list;

	for (unsigned i = 0; i < p->nrings; i++) {
		struct pring *r = &p->ring[i];
		bool tell;

		list_init(&list);
		lock_acquire(&r->lock);
		list_splice_tail(&r->parked, &list);
		r->nparked = 0;
		lock_release(&r->lock);
		give_back_failed(p, &list);
		lock_acquire(&r->lock);
		tell = fail_parked_locked(r, &list);
		lock_release(&r->lock);
		if (tell)
			finish_notify(r);
	}
}

/* Only those; a parked flush stays. */
static bool give_up_ring(struct pring *r)
{
	struct request *req, *next;
	struct list_head list;
	unsigned n = 0;
	bool tell;

	list_init(&list);
	lock_acquire(&r->lock);
	list_for_each_safe(req, next, &r->parked, node) {
		if (!(req->flags & REQ_HALT))
			continue;
		list_move_tail(&req->node, &list);
		r->nparked--;
		n++;
	}
	atomic_fetch_add(&r->poller->active, n);
	lock_release(&r->lock);
	give_back_failed(r->poller, &list);
	lock_acquire(&r->lock);
	tell = fail_parked_locked(r, &list);
	atomic_fetch_sub(&r->poller->active, n);
	lock_release(&r->lock);
	if (tell)
		finish_notify(r);
	return n != 0;
}

void finish_give_up(struct poller *p)
{
	bool any = false;

	atomic_store(&p->exec.gave_up, true);
	for (unsigned i = 0; i < p->nrings; i++)
		any |= give_up_ring(&p->ring[i]);
	atomic_store(&p->told, 0);
	if (any)
		p->cfg.event(p->cfg.arg, POLLER_GAVE_UP);
}

/* --- the way over the workers ----------------------------------------------------------------- */

/* Jobs that should be at work for what is queued; those that are busy with a flush will not come soon. */
static unsigned wanted_locked(struct poller *p)
{
	unsigned per_job = atomic_load_explicit(&p->slow, memory_order_relaxed) ? 1 : EXEC_BATCH;

	return MIN((p->ntodo + per_job - 1) / per_job + p->nalone, JOBS);
}

/* Take the jobs that should start now into start[JOBS]; submit them without the lock. */
static unsigned start_locked(struct poller *p, struct io_job **start)
{
	unsigned n = 0;

	for (unsigned want = wanted_locked(p); p->njobs < want; p->njobs++) {
		start[n] = list_first_entry(&p->idle_jobs, struct io_job, node);
		list_del(&start[n++]->node);
	}
	return n;
}

static void submit(struct poller *p, struct io_job **start, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		pool_submit(&p->client, &start[i]->job);
}

/* Hand list over; it is empty afterwards. */
void work_enqueue(struct poller *p, struct list_head *list)
{
	struct io_job *start[JOBS];
	unsigned nstart, n = 0;
	struct request *req;

	list_for_each(req, list, node)
		n++;
	if (!n)
		return;
	stats_add(p->cfg.stats->pool_io, n);
	lock_acquire(&p->todo_lock);
	list_splice_tail(list, &p->todo);
	p->ntodo += n;
	nstart = start_locked(p, start);
	lock_release(&p->todo_lock);
	submit(p, start, nstart);
}

/* What may take long by its nature runs alone, so that nobody's answer waits for it. */
static bool runs_alone(const struct request *req)
{
	return req->kind == REQ_FLUSH || req->kind == REQ_DISCARD ||
	       req->flags & (REQ_PREFLUSH | REQ_POSTFLUSH);
}

static unsigned take_batch_locked(struct poller *p, struct list_head *batch, bool *alone)
{
	unsigned max = atomic_load_explicit(&p->slow, memory_order_relaxed) ? 1 : EXEC_BATCH, n = 0;
	struct request *req, *next;

	*alone = false;
	list_for_each_safe(req, next, &p->todo, node) {
		if (n == max || (n && runs_alone(req)))
			break;
		list_move_tail(&req->node, batch);
		n++;
		*alone = runs_alone(req);
		if (*alone)
			break;
	}
	p->ntodo -= n;
	p->nalone += *alone;
	return n;
}

/* What is to be done next; *alone: just one request, and what stands behind it has got its own worker. */
static unsigned take_batch(struct poller *p, struct list_head *batch, bool *alone)
{
	struct io_job *start[JOBS];
	unsigned n, nstart = 0;

	lock_acquire(&p->todo_lock);
	n = take_batch_locked(p, batch, alone);
	if (*alone)
		nstart = start_locked(p, start);
	lock_release(&p->todo_lock);
	submit(p, start, nstart);
	return n;
}

/* Are the calls quick, so that one worker takes many, or do they sleep, so that each gets its own? */
static void learn(struct poller *p, uint64_t ns, unsigned n)
{
	uint64_t each = ns / n;

	if (each > EXEC_SLOW_NS)
		atomic_store_explicit(&p->slow, true, memory_order_relaxed);
	else if (each < EXEC_SLOW_NS / 2)
		atomic_store_explicit(&p->slow, false, memory_order_relaxed);
}

/* Again, if there is more; through the pool, so that other devices get their turn. */
static void job_again(struct poller *p, struct io_job *job, bool alone)
{
	bool more;

	lock_acquire(&p->todo_lock);
	p->nalone -= alone;
	more = p->ntodo != 0;
	if (!more) {
		p->njobs--;
		list_add(&job->node, &p->idle_jobs);
	}
	lock_release(&p->todo_lock);
	if (more)
		pool_submit(&p->client, &job->job);
}

/* A call slept: what stood behind it in the batch goes back, first in the queue, to more workers. */
static void give_rest_back(struct poller *p, struct list_head *rest)
{
	struct io_job *start[JOBS];
	struct request *req;
	unsigned nstart, n = 0;

	list_for_each(req, rest, node)
		n++;
	atomic_store_explicit(&p->slow, true, memory_order_relaxed);
	lock_acquire(&p->todo_lock);
	list_splice_tail(&p->todo, rest);
	list_splice_tail(rest, &p->todo);
	p->ntodo += n;
	nstart = start_locked(p, start);
	lock_release(&p->todo_lock);
	submit(p, start, nstart);
}

/* On a worker. */
static void run_job(struct pool_job *pool_job)
{
	struct io_job *job = container_of(pool_job, struct io_job, job);
	struct poller *p = job->poller;
	struct list_head batch, done;
	uint64_t start, end;
	unsigned n;
	bool alone;

	list_init(&batch);
	list_init(&done);
	n = take_batch(p, &batch, &alone);
	if (n) {
		probe_submitted(p, &batch);
		log_set_prefix(p->cfg.name);
		log_set_driver(img_driver_name(p->exec.image));
		start = end = now_ns();
		exec_batch(&p->exec, &batch, false, &done, &end);
		if (!list_empty(&batch))
			give_rest_back(p, &batch);
		else if (!alone)
			learn(p, since_ns(start, end), n);
		finish(p, &done, end, false);
		log_set_prefix(NULL);
	}
	job_again(p, job, alone);
}

void work_init(struct poller *p)
{
	list_init(&p->todo);
	list_init(&p->idle_jobs);
	for (unsigned i = 0; i < JOBS; i++) {
		p->job[i].poller = p;
		p->job[i].job.run = run_job;
		list_add_tail(&p->job[i].node, &p->idle_jobs);
	}
	pool_client_init(&p->client, p->cfg.workers, p->cfg.serial ? 1 : JOBS);
}
