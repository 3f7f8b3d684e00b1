/*
 * poller-throttle.c - what a disk's limits do to its requests
 *
 * While nothing at all may start, requests stay in the ring.  Where only reads or only writes may not, one
 * must look at a request to know what it is: then those that may not go yet wait in two lists of their ring,
 * in their order, and the others pass.  When both wait, they take turns; and the poller begins with another
 * ring each time, so that rings take turns, too.
 *
 * Who waits sets the time of the poller's next wake-up, and there is none when nobody waits.  Flushes are
 * free: a guest that may not write should at least be told when what it wrote is safe.
 *
 * Poller thread only, but limits_apply.
 */
#include "poller-int.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <errno.h>

void limits_apply(struct poller *p, const struct settings *settings)
{
	for (unsigned i = 0; i < THROTTLE_LIMITS; i++)
		atomic_store_explicit(&p->limit[i], settings->value[SET_IOPS + i],
				      memory_order_relaxed);
	atomic_store_explicit(&p->burst, settings->value[SET_BURST], memory_order_relaxed);
	atomic_store(&p->relimit, true);
}

void limits_update(struct poller *p)
{
	struct throttle_limits limits;

	/* Nothing may start, so there is no hurry; and when a call hung the buckets may be the next poller's. */
	if (!poller_may_consume(p))
		return;
	if (!atomic_load_explicit(&p->relimit, memory_order_relaxed) ||
	    !atomic_exchange(&p->relimit, false))
		return;
	for (unsigned i = 0; i < THROTTLE_LIMITS; i++)
		limits.rate[i] = atomic_load_explicit(&p->limit[i], memory_order_relaxed);
	limits.burst_ms = atomic_load_explicit(&p->burst, memory_order_relaxed);
	LOCK_SCOPE(p->cfg.throttle_lock);
	throttle_set(p->cfg.throttle, &limits, now_ns());
	p->limited = p->cfg.throttle->any;
}

/* Somebody must wait for so long. */
static void come_back(struct poller *p, uint64_t now, uint64_t wait)
{
	if (!p->wake_at || now + wait < p->wake_at)
		p->wake_at = now + wait;
}

int limits_sleep_ms(struct poller *p)
{
	uint64_t now, ms;

	if (!p->wake_at || !poller_may_consume(p))
		return -1;
	now = now_ns();
	/* Rounded up: too early would be a wake-up for nothing. */
	ms = (since_ns(now, p->wake_at) + 999999) / 1000000;
	return (int)MIN(ms, 60000u);
}

unsigned limits_room(struct poller *p, uint64_t now)
{
	uint64_t wait, room;

	if (!p->limited)
		return EXEC_BATCH;
	lock_acquire(p->cfg.throttle_lock);
	wait = throttle_wait_any(p->cfg.throttle, now);
	room = throttle_room(p->cfg.throttle);
	lock_release(p->cfg.throttle_lock);
	if (wait) {
		stats_add(p->cfg.stats->throttled, 1);
		come_back(p, now, wait);
		return 0;
	}
	return (unsigned)MIN(MAX(room, 1u), EXEC_BATCH);
}

static bool is_limited(const struct request *req)
{
	return req->kind != REQ_FLUSH;
}

/* A discard counts as a write without data. */
static bool is_write(const struct request *req)
{
	return req->kind != REQ_READ;
}

bool limits_allow(struct poller *p, const struct request *req, uint64_t now)
{
	uint64_t wait;

	if (!p->limited || !is_limited(req))
		return true;
	lock_acquire(p->cfg.throttle_lock);
	wait = throttle_wait(p->cfg.throttle, is_write(req), now);
	lock_release(p->cfg.throttle_lock);
	if (wait)
		come_back(p, now, wait);
	return !wait;
}

void limits_pay(struct poller *p, const struct request *req)
{
	if (!p->limited || !is_limited(req))
		return;
	LOCK_SCOPE(p->cfg.throttle_lock);
	throttle_pay(p->cfg.throttle, is_write(req), req->kind == REQ_DISCARD ? 0 : req->length);
}

void limits_queue(struct pring *r, struct request *req)
{
	list_add_tail(&req->node, &r->waiting[is_write(req)]);
	r->nwaiting++;
	stats_add(r->poller->cfg.stats->throttled, 1);
	atomic_fetch_sub(&r->poller->active, 1); /* it does not run */
}

struct request *limits_next(struct pring *r, uint64_t now)
{
	for (unsigned i = 0; i < 2; i++) {
		struct list_head *list = &r->waiting[r->turn ^ i];
		struct request *req;

		if (list_empty(list))
			continue;
		req = list_first_entry(list, struct request, node);
		if (limits_allow(r->poller, req, now))
			return req;
	}
	return NULL;
}

void limits_unqueue(struct pring *r, struct request *req)
{
	list_del(&req->node);
	r->nwaiting--;
	r->turn = !is_write(req);
	atomic_fetch_add(&r->poller->active, 1);
}
