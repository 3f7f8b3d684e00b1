/*
 * poller.c - the thread that serves the rings of one device
 *
 * A pass: sleep until the event channel, a kick or aio has something; then for each ring take
 * up to 32 slots under the ring lock, copy and check that many requests, execute them (inline, by the
 * kernel, or by workers), and answer those that are done with one push and at most one notification.
 * When the final check finds nothing, the port is unmasked and the thread sleeps again.
 *
 *        event ---> take slots ---> copy, parse ---> prepare ---> inline ------------> finish
 *        kick          |                               |            \-> aio ... reap -^
 *                   none free:                      no memory,       \-> todo -> worker: finish
 *                   stalled                         barrier: held
 *
 * What can go wrong: an impossible producer index stops the device (POLLER_BROKEN) and no other; a
 * malformed request is answered and counted; a request that must wait for the operator is parked.
 *
 * Limits (poller-throttle.c) leave requests in the ring, too; there it is time that brings the poller back.
 *
 * Stalling.  When the poller leaves requests in a ring for lack of a slot or for a barrier, it sets
 * stalled under the ring lock; whoever finishes a request of that ring takes that back and kicks.  For
 * what the rings share, max-requests and memory, it sets wanting and tries once more; whoever finishes a
 * request of any ring gives back first and looks at wanting then.  So there is no wake-up that can be
 * lost, and none that nobody waits for.
 */
#include "poller-int.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "log.h"
#include "thread.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TRIM_MS     2000  /* idle for so long: give buffers back, and settle discards */
#define STORM       64u   /* spurious events in a row, from which on the port stays masked a while */
#define STORM_NS    1000000
#define RETRY_MS    50
#define AIO_DEPTH   128u
#define TICK_PASSES 16u   /* wake-ups between two looks at the clock for the tick */

void poller_kick(struct poller *p)
{
	p->cfg.hyp->ops->evtchn_kick(p->cfg.evtchn);
}

bool poller_may_consume(struct poller *p)
{
	return !atomic_load_explicit(&p->stop, memory_order_relaxed) &&
	       !atomic_load_explicit(&p->pausing, memory_order_acquire) &&
	       !atomic_load_explicit(&p->full, memory_order_relaxed) &&
	       !atomic_load_explicit(&p->broken, memory_order_relaxed);
}

/* --- pausing: poller ------------------------------------------------------------------------- */

/* Nothing of the ring is at work.  If something is, its end kicks us. */
static bool ring_idle(struct pring *r)
{
	bool idle;

	LOCK_SCOPE(&r->lock);
	idle = r->inflight - r->nparked == (r->held ? 1u : 0u) + r->nwaiting;
	r->stalled = r->stalled || !idle;
	return idle;
}

static void check_idle(struct poller *p)
{
	for (unsigned i = 0; i < p->nrings; i++)
		if (!ring_idle(&p->ring[i]))
			return;
	LOCK_SCOPE(&p->state_lock);
	/* A resume and another pause have come meanwhile: what is parked must start first. */
	if (atomic_load(&p->resuming))
		return;
	p->idle = true;
	pthread_cond_broadcast(&p->idle_cond);
}

/* After a pause: what was parked goes first. */
static void restart_parked(struct poller *p)
{
	struct list_head list;
	struct request *req;
	unsigned n = 0;

	list_init(&list);
	for (unsigned i = 0; i < p->nrings; i++) {
		struct pring *r = &p->ring[i];

		LOCK_SCOPE(&r->lock);
		list_splice_tail(&r->parked, &list);
		r->nparked = 0;
	}
	list_for_each(req, &list, node) {
		if (req->flags & REQ_HALT)
			atomic_fetch_sub(&p->full, 1);
		req->err = 0;
		req->flags &= ~(REQ_PARK | REQ_HALT);
		n++;
	}
	stats_add(p->cfg.stats->parked, -(uint64_t)n);
	atomic_fetch_add(&p->active, n);
	atomic_store(&p->told, 0);
	work_enqueue(p, &list);
}

/* --- the thread ------------------------------------------------------------------------------ */

/* error-timeout: how long to sleep until those that wait for the operator are given up, ms; -1: for ever.  While
 * he has paused the disk himself he is at it. */
static int give_up_in_ms(struct poller *p)
{
	uint64_t seconds = atomic_load_explicit(&p->error_timeout, memory_order_relaxed), now;

	if (!seconds || !atomic_load(&p->full) || atomic_load(&p->pausing)) {
		p->halted_at = 0;
		return -1;
	}
	now = now_ns();
	if (!p->halted_at)
		p->halted_at = now;
	return (int)MIN((since_ns(now, p->halted_at + seconds * NSEC_PER_SEC) + 999999) / 1000000,
			3600000u);
}

static void check_give_up(struct poller *p)
{
	if (!p->halted_at || give_up_in_ms(p))
		return;
	p->halted_at = 0;
	finish_give_up(p);
}

/* A guest that trims its file system need not flush afterwards: then nobody else would free the space.  While the
 * disk is paused the image may be changed for another one. */
static bool unsettled(struct poller *p)
{
	/* Nor when requests wait for the operator: the storage is sick, and a flush that fails is for ever. */
	if (atomic_load(&p->pausing) || atomic_load(&p->broken) || atomic_load(&p->full) ||
	    atomic_load(p->cfg.flush_failed))
		return false;
	return img_unsettled(p->exec.image);
}

/* How long to sleep, ms. */
static int patience(struct poller *p, bool more)
{
	int limit, give_up;

	if (more)
		return 0;
	limit = limits_sleep_ms(p);
	give_up = give_up_in_ms(p);
	if (limit < 0 || (give_up >= 0 && give_up < limit))
		limit = give_up;
	if (p->retry)
		return limit >= 0 ? MIN(limit, RETRY_MS) : RETRY_MS;
	if (limit >= 0)
		return limit;
	/* A discard that a worker does is to be settled, too: it says so before it is not active any more. */
	return atomic_load(&p->active) || bufs_idle(&p->bufs) || unsettled(p) ? TRIM_MS : -1;
}

/* A port that only ever rings for nothing stays masked for a moment. */
static void calm_storm(struct poller *p, unsigned found)
{
	const struct timespec moment = {.tv_nsec = STORM_NS};

	if (found) {
		p->spurious = 0;
		return;
	}
	stats_add(p->cfg.stats->spurious, 1);
	if (++p->spurious > STORM)
		nanosleep(&moment, NULL);
}

static void unmask(struct poller *p)
{
	if (p->unmask < 0)
		return;
	p->cfg.hyp->ops->evtchn_unmask(p->cfg.evtchn, p->unmask);
	p->unmask = -1;
}

/* With aio there are two things to wait for.  As evtchn_wait. */
static int wait_with_aio(struct poller *p, int timeout)
{
	struct pollfd fd[2] = {
		{.fd = p->cfg.hyp->ops->evtchn_fd(p->cfg.evtchn), .events = POLLIN},
		{.fd = io_aio_fd(p->aio), .events = POLLIN},
	};

	if (poll(fd, 2, timeout) <= 0)
		return -EAGAIN;
	if (fd[1].revents)
		serve_aio(p);
	return fd[0].revents ? p->cfg.hyp->ops->evtchn_pending(p->cfg.evtchn) : -EINTR;
}

/* Nothing has happened for TRIM_MS. */
static void rest(struct poller *p)
{
	bufs_trim(&p->bufs);
	if (unsettled(p))
		p->cfg.event(p->cfg.arg, POLLER_SETTLE);
}

/* Sleep until something is to be done; take in what woke us. */
static void sleep_and_collect(struct poller *p, bool more)
{
	int timeout = patience(p, more);
	int port = p->aio ? wait_with_aio(p, timeout)
			  : p->cfg.hyp->ops->evtchn_wait(p->cfg.evtchn, timeout);

	if (port == -EAGAIN && timeout == TRIM_MS)
		rest(p);
	p->retry = false;
	if (port < 0)
		return;
	p->unmask = port;
	stats_add(p->cfg.stats->wakeups, 1);
}

/* While there is work, once a second: whoever owns the device looks after slow things (the size). */
static void tick(struct poller *p, unsigned found)
{
	uint64_t now;

	if (!found || p->passes++ % TICK_PASSES)
		return;
	now = now_ns();
	if (now < p->next_tick)
		return;
	p->next_tick = now + NSEC_PER_SEC;
	p->cfg.event(p->cfg.arg, POLLER_TICK);
}

static void *poller_main(void *arg)
{
	struct poller *p = arg;
	bool more;

	log_set_prefix(p->cfg.name);
	log_set_driver(img_driver_name(p->exec.image));
	while (!atomic_load(&p->stop)) {
		unsigned found = 0;

		more = false;
		if (atomic_exchange(&p->resuming, false)) {
			log_set_driver(img_driver_name(p->exec.image));
			restart_parked(p);
		}
		check_give_up(p);
		limits_update(p);
		p->wake_at = 0;
		for (unsigned i = 0; i < p->nrings; i++)
			more |= serve_ring(&p->ring[(p->first + i) % p->nrings], &found);
		p->first += p->wake_at != 0;
		if (p->unmask >= 0)
			calm_storm(p, found);
		unmask(p);
		tick(p, found);
		if (atomic_load(&p->pausing))
			check_idle(p);
		sleep_and_collect(p, more);
	}
	return NULL;
}

/* --- life: the device's strand ---------------------------------------------------------------- */

static void init_exec(struct poller *p)
{
	const struct poller_config *cfg = &p->cfg;
	enum grant_mode grant = cfg->settings->value[SET_GRANT];

	if (grant == GRANT_PERSISTENT && !cfg->persistent)
		grant = GRANT_COPY;
	p->exec = (struct exec){
		.hyp = cfg->hyp,
		.gnt = cfg->gnt,
		.domid = cfg->domid,
		.image = cfg->image,
		.bufs = &p->bufs,
		.stats = cfg->stats,
		.grant = grant,
		.direct = cfg->direct,
		.inline_io = cfg->settings->value[SET_AIO] == AIO_INLINE,
		.flush_failed = cfg->flush_failed,
	};
}

static void apply(struct poller *p, const struct settings *settings)
{
	atomic_store(&p->exec.sync, settings->value[SET_SYNC] != 0);
	atomic_store(&p->exec.report_enospc, settings->value[SET_ENOSPC] == ENOSPC_REPORT);
	atomic_store(&p->max_requests, (unsigned)settings->value[SET_MAX_REQUESTS]);
	atomic_store(&p->no_discard, settings->value[SET_DISCARD] == DISCARD_IGNORE);
	atomic_store(&p->look, settings->value[SET_POLL] != 0);
	atomic_store(&p->exec.halt_on_error, settings->value[SET_ON_ERROR] == ON_ERROR_PAUSE);
	atomic_store(&p->error_timeout, (unsigned)settings->value[SET_ERROR_TIMEOUT]);
	atomic_store(&p->slow_ns, settings->value[SET_SLOW] ? settings->value[SET_SLOW] * 1000000
							    : UINT64_MAX);
	limits_apply(p, settings);
}

void poller_apply(struct poller *p, const struct settings *settings)
{
	apply(p, settings);
	poller_kick(p); /* it may be asleep for the old limits, or wait for max-requests */
}

void poller_try_again(struct poller *p)
{
	if (p)
		atomic_store(&p->exec.gave_up, false);
}

static int init_ring(struct poller *p, unsigned index)
{
	const struct poller_ring_config *cfg = &p->cfg.ring[index];
	struct pring *r = &p->ring[index];
	int err;

	r->poller = p;
	r->index = index;
	r->port = cfg->port;
	list_init(&r->free);
	list_init(&r->parked);
	list_init(&r->waiting[0]);
	list_init(&r->waiting[1]);
	lock_init(&r->lock, RANK_RING, "ring");
	err = ring_attach(&r->ring, cfg->pages, cfg->order, cfg->abi);
	if (err)
		return err;
	r->slot = calloc(r->ring.size, sizeof *r->slot);
	if (!r->slot)
		return -ENOMEM;
	for (unsigned i = 0; i < r->ring.size; i++) {
		r->slot[i].ring = (uint16_t)index;
		list_add_tail(&r->slot[i].node, &r->free);
	}
	return grants_create(p->cfg.hyp, p->cfg.gnt, p->cfg.domid,
			     (unsigned)p->cfg.settings->value[SET_MAX_GRANTS], p->cfg.grants, p->cfg.stats,
			     &r->cache);
}

static void free_ring(struct pring *r)
{
	if (!r->poller)
		return;
	grants_destroy(r->cache);
	free(r->slot);
	lock_destroy(&r->lock);
}

/* Direct I/O goes to the kernel asynchronously, unless the disk is set to use threads. */
static void init_aio(struct poller *p)
{
	unsigned depth = (unsigned)p->cfg.settings->value[SET_MAX_REQUESTS];

	if (!p->cfg.direct || p->cfg.settings->value[SET_AIO] == AIO_THREADS)
		return;
	if (io_aio_create(depth ? depth : AIO_DEPTH, &p->aio))
		log_warn(LOG_POLLER, "no aio context to be had: using threads");
}

int poller_create(const struct poller_config *config, struct poller **poller)
{
	struct poller *p = calloc(1, sizeof *p);
	int err;

	if (!p)
		return -ENOMEM;
	p->cfg = *config;
	p->limits = config->limits;
	p->unmask = -1;
	atomic_init(&p->pausing, config->paused);

	lock_init(&p->todo_lock, RANK_LEAF, "todo");
	lock_init(&p->state_lock, RANK_LEAF, "poller state");
	cond_init_monotonic(&p->idle_cond);
	bufs_init(&p->bufs, config->memory);
	init_exec(p);
	apply(p, config->settings);
	work_init(p);
	init_aio(p);
	p->ring = calloc(config->nrings, sizeof *p->ring);
	err = p->ring ? 0 : -ENOMEM;
	for (unsigned i = 0; !err && i < config->nrings; i++) {
		err = init_ring(p, i);
		p->nrings = i + 1;
	}
	p->cfg.ring = NULL;
	p->cfg.settings = NULL;
	if (err)
		poller_destroy(p);
	else
		*poller = p;
	return err;
}

int poller_start(struct poller *p)
{
	int err;

	snprintf(p->thread_name, sizeof p->thread_name, "r%s", p->cfg.name);
	err = thread_start(&p->thread, p->thread_name, poller_main, p);
	p->started = !err;
	return err || !p->cfg.paused ? err : poller_pause(p, -1);
}

int poller_pause(struct poller *p, long long deadline_ms)
{
	int err = 0;

	if (!p->started)
		return 0;
	lock_acquire(&p->state_lock);
	p->idle = false;
	atomic_store(&p->pausing, true);
	lock_release(&p->state_lock);
	poller_kick(p);
	lock_acquire(&p->state_lock);
	while (!p->idle && !err) {
		if (deadline_ms < 0)
			lock_wait(&p->idle_cond, &p->state_lock);
		else
			err = lock_wait_until(&p->idle_cond, &p->state_lock, deadline_ms);
	}
	err = p->idle ? 0 : err;
	lock_release(&p->state_lock);
	if (!err)
		pool_client_drain(&p->client);
	return err;
}

void poller_resume(struct poller *p, struct image *image, const struct parse_limits *limits,
		   bool direct, bool serial)
{
	if (image) {
		p->exec.image = image;
		p->exec.direct = direct;
		pool_client_set_limit(&p->client, serial ? 1 : JOBS);
	}
	if (limits)
		p->limits = *limits;
	atomic_store(&p->resuming, true);
	atomic_store(&p->pausing, false);
	poller_kick(p);
}

void poller_revoke(struct poller *p)
{
	/* Whoever finishes does so under the ring lock: after this nobody writes to a ring. */
	for (unsigned i = 0; i < p->nrings; i++) {
		LOCK_SCOPE(&p->ring[i].lock);
		atomic_store(&p->revoked, true);
	}
	exec_revoke(&p->exec);
	for (unsigned i = 0; i < p->nrings; i++) {
		struct pring *r = &p->ring[i];

		grants_revoke(r->cache);
		for (unsigned n = 0; n < r->ring.size; n++)
			exec_revoke_request(&p->exec, &r->slot[n]);
	}
}

static void poller_join(struct poller *p)
{
	if (!p->started)
		return;
	atomic_store(&p->stop, true);
	poller_kick(p);
	pthread_join(p->thread, NULL);
	p->started = false;
}

/* What was copied but never started goes with the ring. */
static void drop_held(struct poller *p)
{
	struct request *req;

	for (unsigned i = 0; i < p->nrings; i++) {
		struct pring *r = &p->ring[i];

		if (r->held)
			exec_release(&p->exec, r->held);
		for (unsigned dir = 0; r->nwaiting && dir < 2; dir++)
			list_for_each(req, &r->waiting[dir], node)
				exec_release(&p->exec, req);
	}
}

void poller_destroy(struct poller *p)
{
	if (!p)
		return;
	poller_join(p);
	pool_client_drain(&p->client);
	if (p->nrings)
		poller_fail_parked(p);
	drop_held(p);
	for (unsigned i = 0; i < p->nrings; i++)
		free_ring(&p->ring[i]);
	free(p->ring);
	io_aio_destroy(p->aio);
	bufs_destroy(&p->bufs);
	pthread_cond_destroy(&p->idle_cond);
	lock_destroy(&p->state_lock);
	lock_destroy(&p->todo_lock);
	free(p);
}

void poller_look(struct poller *p, struct poller_view *view)
{
	*view = (struct poller_view){
		.memory = bufs_bytes(&p->bufs),
		.broken = atomic_load(&p->broken),
	};
	for (unsigned i = 0; i < p->nrings; i++) {
		struct pring *r = &p->ring[i];

		view->grants += grants_mapped(r->cache);
		LOCK_SCOPE(&r->lock);
		view->inflight += r->inflight;
		view->parked += r->nparked;
	}
}
