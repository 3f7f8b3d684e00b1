/*
 * poller-serve.c - consuming: from the ring to execution
 *
 * One step of a ring: take up to 32 slots under the ring lock, copy and check that many requests, give
 * each its turn (order.h) and its memory (exec_prepare), execute them: inline, by the kernel (aio), or by
 * workers.  Steps follow one another until the ring's final check finds nothing.
 *
 * A request that cannot go now (memory, a barrier) is held: one per ring, and the ring is not consumed any
 * further.  One that is over the disk's limits waits in a list, and what may go passes it; but nothing passes
 * a barrier.  Everything here runs on the poller thread.
 */
#include "poller-int.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "log.h"

#include <errno.h>
#include <limits.h>

#define PASS_BUDGET 1024u  /* requests per ring before the other things are looked at again */
#define LOOK_NS     20000u /* adaptive polling looks for so long */
#define LOOK_EVERY  32u    /* how often it is tried while it does not pay, doubling up to... */
#define LOOK_MAX    4096u
#define AIO_PART    (256u << 10) /* bytes of completed requests to copy before they are answered */

/* --- executing what was parsed --------------------------------------------------------------- */

static void aio_submit_list(struct poller *p, struct list_head *list, struct list_head *done)
{
	struct request *req, *next;
	unsigned n = 0;

	exec_copy_in(&p->exec, list);
	list_for_each_safe(req, next, list, node) {
		int err;

		if (req->err) {
			list_move_tail(&req->node, done);
			continue;
		}
		PROBE(request_submitted, p, req, now_ns());
		err = exec_aio_start(&p->exec, p->aio, req);
		if (err == -EAGAIN)
			continue;
		if (err == -EALREADY) {
			list_move_tail(&req->node, done);
			continue;
		}
		list_del(&req->node);
		n++;
	}
	if (n) {
		p->aio_inflight += n;
		stats_add(p->cfg.stats->aio_io, n);
		io_aio_submit(p->aio);
	}
}

static void aio_answer(struct poller *p, struct list_head *done)
{
	exec_finish_reads(&p->exec, done);
	finish(p, done, now_ns(), true);
}

void serve_aio(struct poller *p)
{
	struct io_aio_done ev[EXEC_BATCH];
	struct list_head done, again;
	uint64_t bytes;
	unsigned n;

	list_init(&again);
	do {
		list_init(&done);
		bytes = 0;
		n = io_aio_reap(p->aio, ev, EXEC_BATCH);
		for (unsigned i = 0; i < n; i++) {
			struct request *req = ev[i].tag;

			if (!exec_aio_done(&p->exec, req, ev[i].result))
				continue;
			p->aio_inflight--;
			/* What the kernel would not take as it was, a worker does. */
			if (req->err == -EAGAIN || req->err == -EINVAL) {
				req->err = 0;
				list_add_tail(&req->node, &again);
			} else {
				list_add_tail(&req->node, &done);
				bytes += req->length;
			}
			if (bytes >= AIO_PART) {
				aio_answer(p, &done);
				bytes = 0;
			}
		}
		aio_answer(p, &done);
	} while (n == EXEC_BATCH);
	work_enqueue(p, &again);
}

/* Those of list that failed already go to done. */
static void split_failed(struct list_head *list, struct list_head *done)
{
	struct request *req, *next;

	list_for_each_safe(req, next, list, node)
		if (req->err)
			list_move_tail(&req->node, done);
}

/* What is not served so stays in list. */
static void serve_inline(struct poller *p, struct list_head *list, struct list_head *done, uint64_t *now)
{
	struct list_head ran;
	struct request *req;
	unsigned n = 0;

	list_init(&ran);
	probe_submitted(p, list);
	p->exec.alone = list->next == list->prev && atomic_load(&p->active) == 1;
	exec_batch(&p->exec, list, true, &ran, now);
	list_for_each(req, &ran, node)
		n++;
	if (n)
		stats_add(p->cfg.stats->inline_io, n);
	list_splice_tail(&ran, done);
}

static void execute(struct poller *p, struct list_head *list, uint64_t now)
{
	struct list_head done;

	list_init(&done);
	split_failed(list, &done);
	if (p->exec.direct && p->aio) {
		aio_submit_list(p, list, &done);
		exec_finish_reads(&p->exec, &done);
	} else if (p->exec.inline_io && !list_empty(list)) {
		serve_inline(p, list, &done, &now);
	}
	finish(p, &done, now, true);
	work_enqueue(p, list);
}

/* --- consuming ------------------------------------------------------------------------------- */

static void stop_broken(struct pring *r)
{
	struct poller *p = r->poller;

	if (!atomic_exchange(&p->broken, true))
		p->cfg.event(p->cfg.arg, POLLER_BROKEN);
}

/* How many more requests max-requests lets start; 0: whoever finishes one will kick. */
static unsigned may_start(struct poller *p)
{
	unsigned limit = atomic_load_explicit(&p->max_requests, memory_order_relaxed);
	unsigned active;

	if (!limit)
		return UINT_MAX;
	do {
		active = atomic_load(&p->active);
		if (active < limit)
			return limit - active;
	} while (!atomic_exchange(&p->wanting, true));
	return 0;
}

/*
 * Take up to EXEC_BATCH slots for requests that wait.  Their number; 0: none wait; -EBUSY: none may be
 * taken now, and whoever finishes will kick, or it is time that must pass; -EPROTO: the ring is broken.
 */
static int take_slots(struct pring *r, struct list_head *slots, uint64_t now)
{
	struct poller *p = r->poller;
	uint32_t prod = ring_read_prod(&r->ring);
	unsigned take = EXEC_BATCH;
	int waiting, n = 0;

	if (prod != r->ring.req_cons)
		take = limits_room(p, now);
	if (take)
		take = MIN(take, may_start(p));

	LOCK_SCOPE(&r->lock);
	waiting = ring_pending(&r->ring, prod, r->ring.rsp_prod);
	if (waiting <= 0)
		return waiting;
	if (!take)
		return -EBUSY;
	take = MIN((unsigned)waiting, take);
	for (; n < (int)take && !list_empty(&r->free); n++)
		list_move_tail(r->free.next, slots);
	r->inflight += (unsigned)n;
	atomic_fetch_add(&p->active, (unsigned)n);
	if (!n) {
		r->stalled = true;
		stats_out_of_requests(p->cfg.stats);
	}
	return n ? n : -EBUSY;
}

static void give_slots_back(struct pring *r, struct list_head *slots, unsigned n)
{
	LOCK_SCOPE(&r->lock);
	r->inflight -= n;
	atomic_fetch_sub(&r->poller->active, n);
	list_splice_tail(slots, &r->free);
}

/* Copy the next request into req and check it. */
static void parse_next(struct pring *r, struct request *req, uint64_t now)
{
	struct poller *p = r->poller;
	struct ring_request wire;

	ring_copy_request(&r->ring, &wire);
	if (RD_PROBED(request_received))
		RD_PROBE(request_received, p->cfg.domid, p->cfg.vdev, wire.op, wire.sector, 0, 0, 0);
	req->seg = req->small_seg;
	req->iov = req->small_iov;
	req->pin = req->small_pin;
	req->page = req->small_page;
	req->seq = p->seq++;
	req->start_ns = now;
	req->iovcnt = 0;
	req->err = parse_request(&wire, &p->limits, req);
	if (!req->err && req->kind == REQ_DISCARD && atomic_load_explicit(&p->no_discard, memory_order_relaxed))
		req->err = -EOPNOTSUPP; /* a guest then asks for no more */
	stats_submitted(p->cfg.stats, stat_of(req));
	if (!req->err && req->flags & REQ_INDIRECT)
		req->indirect_gref = wire.indirect_gref[0];
	if (req->err == -EOPNOTSUPP)
		stats_add(p->cfg.stats->unknown_ops, 1);
	else if (req->err)
		stats_add(p->cfg.stats->bad_requests, 1);
	if (!(req->flags & REQ_INDIRECT) || req->err)
		PROBE(request_validated, p, req, now);
}

/* Copy and check the segments of an indirect request, once. */
static int fetch_segments(struct pring *r, struct request *req)
{
	struct poller *p = r->poller;
	int err = exec_fetch_segments(&p->exec, r->cache, req);

	if (err == -EAGAIN)
		return err;
	req->flags &= ~REQ_INDIRECT;
	stats_add(p->cfg.stats->indirect, 1);
	if (!err)
		err = parse_segments(&p->limits, req);
	if (err)
		stats_add(p->cfg.stats->bad_requests, 1);
	PROBE(request_validated, p, req, now_ns());
	return err;
}

/* Requests of the ring in flight that req may have to wait for; own of them are not among those.  Those that
 * wait for the limits came before a barrier, but do not run. */
static unsigned others_of(struct pring *r, const struct request *req, unsigned own)
{
	LOCK_SCOPE(&r->lock);
	return r->inflight - r->nparked - own - (req->flags & REQ_BARRIER ? 0 : r->nwaiting);
}

/* Give req its turn and its memory: 0, or -ETIME: over the limits, -EBUSY: not its turn, -EAGAIN: no memory.
 * own: slots taken that run not yet, req's too, but for those in the lists of the ring. */
static int admit(struct pring *r, struct request *req, unsigned own, uint64_t now)
{
	struct poller *p = r->poller;
	int err = req->err;

	if (err)
		return 0;
	if (!limits_allow(p, req, now))
		return -ETIME;
	if (req->flags & REQ_BARRIER || r->order.barrier_running) {
		unsigned others = others_of(r, req, own);

		/* What is parked is not running, but comes first. */
		if (atomic_load(&p->full) || !order_admit(&r->order, req, others))
			return -EBUSY;
	}
	if (req->flags & REQ_INDIRECT)
		err = fetch_segments(r, req);
	if (!err)
		err = exec_prepare(&p->exec, r->cache, req);
	if (err == -EAGAIN)
		return err;
	req->err = err;
	if (!err)
		limits_pay(p, req);
	return 0;
}

/* Whoever finishes a request of the ring will kick.  False: all have finished meanwhile.  own as in admit. */
static bool wait_for_turn(struct pring *r, const struct request *req, unsigned own)
{
	LOCK_SCOPE(&r->lock);
	r->stalled = true;
	return r->inflight - r->nparked - r->nwaiting > own || atomic_load(&r->poller->full) ||
	       (req->flags & REQ_BARRIER && r->nwaiting);
}

/* Whoever finishes a request of the device will kick; but it may be another disk of the guest that has
 * the memory.  False: try once more, now that they know. */
static bool wait_for_memory(struct poller *p)
{
	p->retry = true;
	return atomic_exchange(&p->wanting, true);
}

/* The request that waits: may it go now?  If not, somebody will kick, or it is retried soon. */
static bool may_go(struct pring *r, struct request *req, unsigned own, uint64_t now)
{
	int err;

	while ((err = admit(r, req, own, now)))
		if (err == -ETIME || (err == -EAGAIN ? wait_for_memory(r->poller)
						     : wait_for_turn(r, req, own)))
			return false;
	return true;
}

static bool release_held(struct pring *r, struct list_head *list, uint64_t now)
{
	if (!may_start(r->poller) || !may_go(r, r->held, 1, now))
		return false;
	list_add_tail(&r->held->node, list);
	r->held = NULL;
	atomic_fetch_add(&r->poller->active, 1);
	return true;
}

/* Those that wait for the limits: what may go now, into list.  Their number. */
static int release_waiting(struct pring *r, struct list_head *list, uint64_t now)
{
	struct request *req;
	int n = 0;

	while (r->nwaiting && n < (int)EXEC_BATCH && may_start(r->poller)) {
		req = limits_next(r, now);
		/* A held one is not in the lists, but does not run either. */
		if (!req || !may_go(r, req, r->held ? 1 : 0, now))
			break;
		limits_unqueue(r, req);
		req->start_ns = now;
		list_add_tail(&req->node, list);
		n++;
	}
	return n;
}

/* Copy, check and admit what waits in the ring, into list.  As take_slots. */
static int gather_new(struct pring *r, struct list_head *list, uint64_t now)
{
	struct list_head slots;
	struct request *req;
	int n, err;

	list_init(&slots);
	n = take_slots(r, &slots, now);
	for (int i = 0; i < n; i++) {
		req = list_first_entry(&slots, struct request, node);
		list_del(&req->node);
		parse_next(r, req, now);
		err = admit(r, req, (unsigned)(n - i), now);
		if (!err) {
			list_add_tail(&req->node, list);
		} else if (err == -ETIME && !(req->flags & REQ_BARRIER)) {
			limits_queue(r, req);
		} else {
			r->held = req;
			/* It does not run: those that it waits for may need its place. */
			atomic_fetch_sub(&r->poller->active, 1);
			give_slots_back(r, &slots, (unsigned)(n - i - 1));
			break;
		}
	}
	return n;
}

/* The same with what was left before: in the order of its coming, but for the limits. */
static int gather(struct pring *r, struct list_head *list, uint64_t now)
{
	int n = release_waiting(r, list, now);

	if (n)
		return n;
	if (r->held)
		return release_held(r, list, now) ? 1 : -EBUSY;
	return gather_new(r, list, now);
}

/* One step of a ring: gather and execute up to a batch. As take_slots. */
static int consume(struct pring *r)
{
	struct poller *p = r->poller;
	struct list_head list;
	uint64_t now;
	int n;

	/* The common end of a pass: nothing new, without a lock. */
	if (!r->held && !r->nwaiting && ring_read_prod(&r->ring) == r->ring.req_cons)
		return 0;
	list_init(&list);
	now = now_ns();
	if (!exec_enter(&p->exec))
		return -EBUSY;
	n = gather(r, &list, now);
	exec_leave(&p->exec);
	if (n == -EPROTO)
		stop_broken(r);
	if (n > 0)
		execute(p, &list, now);
	return n;
}

/* Adaptive polling: it paid lately, or it is time to find out again: look for a moment longer. */
static bool look(struct pring *r)
{
	struct poller *p = r->poller;
	uint64_t end;

	if (!atomic_load_explicit(&p->look, memory_order_relaxed) || p->look_in--)
		return false;
	stats_add(p->cfg.stats->polls, 1);
	end = now_ns() + LOOK_NS;
	do {
		if (ring_read_prod(&r->ring) != r->ring.req_cons) {
			stats_add(p->cfg.stats->poll_hits, 1);
			p->look_every = p->look_in = 0;
			return true;
		}
		for (int i = 0; i < 16; i++)
			cpu_relax();
	} while (now_ns() < end);
	p->look_every = p->look_every ? MIN(p->look_every * 2, LOOK_MAX) : LOOK_EVERY;
	p->look_in = p->look_every;
	return false;
}

/* Serve a ring until it is empty.  Adds what was found to *found; true: there is more. */
bool serve_ring(struct pring *r, unsigned *found)
{
	unsigned done = 0;
	int n;

	while (poller_may_consume(r->poller)) {
		n = consume(r);
		if (n > 0)
			done += (unsigned)n;
		else if (n < 0 || !((done && look(r)) || ring_final_check(&r->ring)))
			break;
		if (done >= PASS_BUDGET) {
			*found += done;
			return true;
		}
	}
	*found += done;
	return false;
}
