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
#include "log.h"

#include <assert.h>
#include <errno.h>

/* --- finishing: any thread ------------------------------------------------------------------- */

static enum stat_op stat_of(const struct request *req)
{
	switch (req->kind) {
	case REQ_READ:
		return STAT_READ;
	case REQ_WRITE:
		return STAT_WRITE;
	case REQ_FLUSH:
		return STAT_FLUSH;
	default:
		return STAT_DISCARD;
	}
}

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

void finish_answer_locked(struct pring *r, struct request *req)
{
	lock_assert_held(&r->lock);
	assert(r->inflight);
	r->inflight--;
	if (!atomic_load_explicit(&r->poller->revoked, memory_order_relaxed))
		ring_respond(&r->ring, req->id, req->op, req_status(req->err));
	list_add(&req->node, &r->free);
}

/* Those of list that came from ring r: answer or park them, push once.  Returns what else to do. */
struct aftermath {
	bool notify, kick, parked;
};

static struct aftermath finish_ring(struct pring *r, struct list_head *list)
{
	struct aftermath after = {0};
	struct request *req, *next;
	bool revoked;

	LOCK_SCOPE(&r->lock);
	list_for_each_safe(req, next, list, node) {
		if (req->ring != r->index)
			continue;
		list_del(&req->node);
		if (req->flags & REQ_PARK) {
			park_locked(r, req);
			after.parked = true;
			if (req->err == -ENOSPC)
				atomic_store(&r->poller->full, true);
		} else {
			finish_answer_locked(r, req);
		}
	}
	/* Under the lock: revoke waits for it before the ring goes away. */
	revoked = atomic_load(&r->poller->revoked);
	after.notify = !revoked && ring_push(&r->ring);
	after.kick = r->stalled;
	r->stalled = false;
	return after;
}

void finish_notify(struct pring *r)
{
	struct poller *p = r->poller;

	stats_add(p->cfg.stats->notifies, 1);
	p->cfg.hyp->ops->evtchn_notify(p->cfg.evtchn, r->port);
}

static void count_done(struct poller *p, struct request *req, uint64_t now)
{
	stats_done(p->cfg.stats, stat_of(req), req->length, now - req->start_ns, req->err);
	if (req->flags & REQ_BARRIER)
		stats_add(p->cfg.stats->barriers, 1);
}

/* The end of a batch, on the poller or a worker.  list is empty afterwards. */
void finish(struct poller *p, struct list_head *list, uint64_t now, bool on_poller)
{
	struct request *req;
	bool parked = false, wake = false;

	list_for_each(req, list, node) {
		if (req->flags & REQ_PARK) {
			stats_add(p->cfg.stats->parked, 1);
			continue; /* keeps its memory */
		}
		count_done(p, req, now);
		exec_release(&p->exec, req);
	}
	while (!list_empty(list)) {
		struct pring *r = &p->ring[list_first_entry(list, struct request, node)->ring];
		struct aftermath after = finish_ring(r, list);

		if (after.notify)
			finish_notify(r);
		wake = wake || after.kick;
		parked = parked || after.parked;
	}
	if (wake && !on_poller)
		poller_kick(p);
	if (parked)
		p->cfg.event(p->cfg.arg, POLLER_PARKED);
}

/* Data gets ERROR.  A flush gets no answer: there is none that would be true. */
static bool fail_parked_locked(struct pring *r, struct list_head *list)
{
	struct request *req, *next;

	list_for_each_safe(req, next, list, node) {
		list_del(&req->node);
		req->flags &= ~REQ_PARK;
		if (req->err == -ENOSPC) {
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
	struct request *req;

	for (unsigned i = 0; i < p->nrings; i++) {
		struct pring *r = &p->ring[i];
		bool tell;

		list_init(&list);
		lock_acquire(&r->lock);
		list_splice_tail(&r->parked, &list);
		r->nparked = 0;
		lock_release(&r->lock);
		list_for_each(req, &list, node) {
			exec_release(&p->exec, req);
			stats_add(p->cfg.stats->parked, -(uint64_t)1);
		}
		lock_acquire(&r->lock);
		tell = fail_parked_locked(r, &list);
		lock_release(&r->lock);
		if (tell)
			finish_notify(r);
	}
	atomic_store(&p->full, false);
}

/* --- the way over the workers ----------------------------------------------------------------- */

/* Jobs that should be at work for what is queued. */
static unsigned wanted_locked(struct poller *p)
{
	unsigned per_job = atomic_load_explicit(&p->slow, memory_order_relaxed) ? 1 : EXEC_BATCH;

	return MIN((p->ntodo + per_job - 1) / per_job, JOBS);
}

/* Hand list over; it is empty afterwards. */
void work_enqueue(struct poller *p, struct list_head *list)
{
	struct io_job *start[JOBS];
	unsigned nstart = 0, n = 0;
	struct request *req;

	list_for_each(req, list, node)
		n++;
	if (!n)
		return;
	stats_add(p->cfg.stats->pool_io, n);
	lock_acquire(&p->todo_lock);
	list_splice_tail(list, &p->todo);
	p->ntodo += n;
	for (unsigned want = wanted_locked(p); p->active < want; p->active++) {
		start[nstart] = list_first_entry(&p->idle_jobs, struct io_job, node);
		list_del(&start[nstart++]->node);
	}
	lock_release(&p->todo_lock);
	for (unsigned i = 0; i < nstart; i++)
		pool_submit(&p->client, &start[i]->job);
}

/* What may take long by its nature runs alone, so that nobody's answer waits for it. */
static bool runs_alone(const struct request *req)
{
	return req->kind == REQ_FLUSH || req->kind == REQ_DISCARD ||
	       req->flags & (REQ_PREFLUSH | REQ_POSTFLUSH);
}

static unsigned take_batch(struct poller *p, struct list_head *batch)
{
	unsigned max = atomic_load_explicit(&p->slow, memory_order_relaxed) ? 1 : EXEC_BATCH, n = 0;
	struct request *req, *next;

	LOCK_SCOPE(&p->todo_lock);
	list_for_each_safe(req, next, &p->todo, node) {
		bool alone = runs_alone(req);

		if (n == max || (alone && n))
			break;
		list_move_tail(&req->node, batch);
		n++;
		if (alone)
			break;
	}
	p->ntodo -= n;
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
static void job_again(struct poller *p, struct io_job *job)
{
	bool more;

	lock_acquire(&p->todo_lock);
	more = p->ntodo != 0;
	if (!more) {
		p->active--;
		list_add(&job->node, &p->idle_jobs);
	}
	lock_release(&p->todo_lock);
	if (more)
		pool_submit(&p->client, &job->job);
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
	n = take_batch(p, &batch);
	if (n) {
		log_set_prefix(p->cfg.name);
		alone = runs_alone(list_first_entry(&batch, struct request, node));
		start = now_ns();
		exec_batch(&p->exec, &batch, false, &done, &start);
		end = now_ns();
		if (!alone)
			learn(p, end - start, n);
		finish(p, &done, end, false);
		log_set_prefix(NULL);
	}
	job_again(p, job);
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
