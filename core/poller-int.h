/*
 * poller-int.h - what the files of the poller share
 *
 *   poller.c           the thread: sleeping, pausing, start and end
 *   poller-serve.c     consuming: from the ring to execution (poller thread only)
 *   poller-throttle.c  who must wait for the disk's limits (poller thread only)
 *   poller-finish.c    the queue to the workers, and finishing: answers (poller and workers)
 *
 * Locks.  Ring lock (RANK_RING): response index, free slots, in-flight and parked counts and lists,
 * stalled.  todo lock (RANK_LEAF): the queue to the workers.  state lock (RANK_LEAF): idle, for pause.
 * Everything else belongs to the poller thread.
 */
#ifndef RD_POLLER_INT_H
#define RD_POLLER_INT_H

#include "poller.h"

#include "base/list.h"
#include "base/clock.h"
#include "lock.h"
#include "order.h"
#include "probes.h"
#include "request.h"

#include <pthread.h>
#include <stdatomic.h>

#define JOBS 16u /* workers that one device may occupy */

struct pring {
	/* set before start */
	struct poller *poller;
	unsigned index;
	int port;
	struct request *slot; /* ring.size of them, one table */
	struct grant_cache *cache; /* poller only */
	struct rd_lock lock;
	struct ring ring;          /* see ring.h for who uses what */
	/* under lock */
	struct list_head free;
	struct list_head parked;   /* by seq */
	unsigned inflight, nparked; /* parked ones are in flight, too */
	bool stalled;
	/* poller only */
	struct request *held;      /* copied and checked, waits for memory or for its turn */
	struct order order;
	/* Copied and checked, but over the disk's limits: reads, writes; in their order. */
	struct list_head waiting[2];
	unsigned nwaiting;         /* in flight, too */
	unsigned turn;             /* which of the two is next, if both may */
};

struct io_job {
	struct pool_job job;
	struct poller *poller;
	struct list_head node; /* idle ones; todo lock */
};

struct poller {
	/* set before start */
	struct poller_config cfg;
	char thread_name[16];
	unsigned nrings;
	struct pring *ring;
	struct bufs bufs;
	struct pool_client client;
	struct io_job job[JOBS];
	pthread_t thread;
	bool started;
	/* changed only while paused */
	struct exec exec;
	struct parse_limits limits;
	struct io_aio *aio;
	/* atomic */
	_Atomic bool stop, pausing, resuming, revoked, broken;
	_Atomic unsigned full;   /* requests with REQ_HALT: consume no more */
	_Atomic unsigned told;   /* why requests wait, TELL_*: said once, until they start again */
	_Atomic unsigned error_timeout; /* seconds until these are given up; 0: never */
	_Atomic unsigned active; /* in flight on all rings, but for parked ones and those that do not run yet */
	_Atomic bool wanting;    /* max-requests or memory: kick when any request finishes */
	_Atomic unsigned max_requests;
	_Atomic uint64_t slow_ns;   /* requests that take as long are told */
	_Atomic uint64_t tell_slow; /* but none before this */
	_Atomic uint64_t limit[THROTTLE_LIMITS], burst;
	_Atomic bool relimit; /* these have changed */
	_Atomic bool no_discard; /* ignore what the guest was offered */
	_Atomic bool look;  /* adaptive polling allowed */
	_Atomic bool slow;  /* workers: calls take long, one request per worker */
	/* poller only */
	uint64_t seq;
	unsigned aio_inflight;
	unsigned look_in, look_every; /* wake-ups until the next look, and the distance */
	uint64_t next_tick;
	unsigned passes;
	unsigned spurious;  /* events in a row that brought nothing */
	int unmask;         /* port to unmask when all is served, or -1 */
	bool limited;       /* there is a limit */
	uint64_t wake_at;   /* somebody waits for the limits until then; 0: nobody */
	uint64_t halted_at; /* since when there are some with REQ_HALT; 0: there are none */
	unsigned first;     /* ring to begin with */
	bool retry;         /* memory is short, perhaps another disk has it: look again soon */
	/* todo_lock */
	struct rd_lock todo_lock;
	struct list_head todo, idle_jobs;
	unsigned ntodo;
	unsigned njobs;  /* submitted or running */
	unsigned nalone; /* ... of which are busy with a request that runs alone */
	/* state_lock */
	struct rd_lock state_lock;
	pthread_cond_t idle_cond;
	bool idle; /* paused, and nothing in flight but what is parked */
};

static inline enum stat_op stat_of(const struct request *req)
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

/* A probe on the path of a request. now: only if it is looked at. */
#define PROBE(name, p, req, now)                                                                                       \
	do {                                                                                                           \
		if (RD_PROBED(name))                                                                                   \
			RD_PROBE(name, (p)->cfg.domid, (p)->cfg.vdev, (req)->op, (req)->offset / 512, (req)->length,   \
			         since_ns((req)->start_ns, now), (req)->err);                                          \
	} while (0)

/* Its last argument is the error: the seventh argument of the others is one more than bpftrace can read. */
#define PROBE_FAILED(p, req)                                                                                           \
	do {                                                                                                           \
		if (RD_PROBED(request_failed))                                                                         \
			RD_PROBE(request_failed, (p)->cfg.domid, (p)->cfg.vdev, (req)->op, (req)->offset / 512,        \
			         (req)->length, -(req)->err, (req)->err);                                              \
	} while (0)

/* --- poller.c */
void poller_kick(struct poller *p);
/* False: it is to stop, paused, full or broken. */
bool poller_may_consume(struct poller *p);

/* --- poller-serve.c: poller thread */
/* Serve a ring until it is empty.  Adds what was found to *found; true: there is more. */
bool serve_ring(struct pring *r, unsigned *found);
/* Finish what the kernel completed. */
void serve_aio(struct poller *p);

/* --- poller-throttle.c: poller thread */
/* [any thread] Take the limits over from settings. */
void limits_apply(struct poller *p, const struct settings *settings);
/* Before a pass: look whether they have changed. */
void limits_update(struct poller *p);
/* How many requests may be taken from a ring; 0: none, and the poller will wake up when one may. */
unsigned limits_room(struct poller *p, uint64_t now);
/* May req start?  If not the poller will wake up when it may. */
bool limits_allow(struct poller *p, const struct request *req, uint64_t now);
void limits_pay(struct poller *p, const struct request *req);
/* Let req wait in its ring's list; the next that may go, if any; take it out. */
void limits_queue(struct pring *r, struct request *req);
struct request *limits_next(struct pring *r, uint64_t now);
void limits_unqueue(struct pring *r, struct request *req);
/* How long to sleep at most for those who wait, in ms; -1: nobody does. */
int limits_sleep_ms(struct poller *p);

/* --- poller-finish.c: any thread */
/* The requests of list go to the image now. */
static inline void probe_submitted(struct poller *p, struct list_head *list)
{
	struct request *req;

	if (RD_PROBED(request_submitted))
		list_for_each(req, list, node)
			PROBE(request_submitted, p, req, now_ns());
}

/* The end of a batch: answer or park; list is empty afterwards. */
void finish(struct poller *p, struct list_head *list, uint64_t now, bool on_poller);
/* Answer one request, under the ring lock; the push is the caller's. */
void finish_answer_locked(struct pring *r, struct request *req);
void finish_notify(struct pring *r);
/* Answer all of the disk with REQ_HALT with ERROR. */
void finish_give_up(struct poller *p);
/* Hand list over to the workers; it is empty afterwards. */
void work_enqueue(struct poller *p, struct list_head *list);
/* Before the thread starts. */
void work_init(struct poller *p);

#endif
