/*
 * poller.h - the thread that serves the rings of one device
 *
 * Life: poller_create, poller_start, then any number of poller_pause / poller_resume, then
 * poller_pause, poller_destroy.  All of these on the device's strand, one at a time.
 */
#ifndef RD_POLLER_H
#define RD_POLLER_H

#include "bufs.h"
#include "exec.h"
#include "grants.h"
#include "hyp.h"
#include "image.h"
#include "parse.h"
#include "pool.h"
#include "ring.h"
#include "settings.h"
#include "stats.h"
#include "throttle.h"
#include "trace.h"

#include <stdbool.h>

struct poller;

#define POLLER_BROKEN 1 /* a ring's producer index is impossible */
#define POLLER_PARKED 2 /* a request waits for the operator */
#define POLLER_TICK   3 /* about once a second while there is work */
#define POLLER_FAILED 4 /* the same as PARKED, after an error that is not ENOSPC */
#define POLLER_GAVE_UP 5 /* error-timeout: requests that waited have been answered with errors */
#define POLLER_SETTLE 6 /* idle, and what was discarded waits for a flush before its space is free */

struct poller_ring_config {
	void *pages;       /* mapped by the caller, who also unmaps */
	unsigned order;
	enum ring_abi abi;
	int port;          /* bound on evtchn by the caller */
};

struct poller_config {
	const char *name;  /* of the thread and in the log: "5/xvda"; stays valid */
	struct hyp *hyp;
	struct hyp_gnt *gnt;
	struct hyp_evtchn *evtchn;
	uint32_t domid, vdev;
	struct pool *workers;
	struct image *image;
	struct parse_limits limits;
	const struct settings *settings;
	bool persistent;   /* the frontend agreed */
	bool serial;       /* the driver takes one call at a time */
	bool direct;       /* the image is open with RD_OPEN_DIRECT */
	bool paused;       /* it starts paused: poller_resume follows */
	struct buf_budget *memory;
	struct grant_budget *grants;
	struct stats *stats;
	struct trace *trace;
	struct throttle *throttle; /* the device's, so that a reconnect brings no new burst */
	struct rd_lock *throttle_lock; /* NBD clients share it */
	_Atomic bool *flush_failed;
	void (*event)(void *arg, int what); /* POLLER_*: from the poller or a worker, no lock held */
	void *arg;
	unsigned nrings;
	const struct poller_ring_config *ring;
};

/* Nothing is served yet.  -errno: nothing is left behind. */
int poller_create(const struct poller_config *config, struct poller **poller);
/* If it starts paused it is so at the return, as after poller_pause. */
int poller_start(struct poller *poller);

/* Stop consuming, and wait until all but the parked requests are answered: 0, or -ETIMEDOUT at
 * deadline_ms (CLOCK_MONOTONIC; -1: never) and it goes on waiting by itself: ask again, or give up. */
int poller_pause(struct poller *poller, long long deadline_ms);
/* Paused: go on, parked requests first, in order; on another image if it is not NULL. */
void poller_resume(struct poller *poller, struct image *image, const struct parse_limits *limits,
		   bool direct, bool serial);
/* Paused: answer parked requests for good: data with ERROR, flushes not at all.  For the end. */
void poller_fail_parked(struct poller *poller);

/*
 * A pause timed out: a call does not return.  Take the guest's memory away from whatever is in flight.
 * Afterwards the caller revokes and unbinds the rings, and some thread of its own waits in poller_pause
 * until the call returns (perhaps never), then calls poller_destroy.
 */
void poller_revoke(struct poller *poller);
/* Paused: joins the thread, frees all.  Accepts NULL. */
void poller_destroy(struct poller *poller);

struct poller_view {
	unsigned inflight, parked, grants;
	size_t memory;
	bool broken;
};
void poller_look(struct poller *poller, struct poller_view *view);
/* Live settings: sync, enospc, max-requests, poll, limits. */
void poller_apply(struct poller *poller, const struct settings *settings);
/* The operator is there: what fails from now on waits for him again, also after error-timeout has given up.
 * Accepts NULL. */
void poller_try_again(struct poller *poller);

#endif
