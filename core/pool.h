/*
 * pool.h - a pool of worker threads shared by many clients
 *
 * Clients (devices) queue jobs; workers take them round-robin over clients, so that a deep queue of
 * one cannot starve another.  A client never has more than its limit of jobs running (1 = a strand:
 * jobs one after the other, in order).  When every worker is inside a job, jobs wait, and some
 * workers have been in the same job for some milliseconds, the pool grows, up to its bound; a thread that
 * idles for a while beyond the minimum leaves.
 *
 * The daemon has two: "w" does I/O, "c" does control work (open, connect, close, pause).
 * Lock: pool->lock, RANK_POOL, O(1) under it; never held while a job runs.
 */
#ifndef RD_POOL_H
#define RD_POOL_H

#include "base/list.h"

#include <stdbool.h>

struct pool;

/* Embed it in whatever is to be done.  run() owns the job from the call on; it may free it. */
struct pool_job {
	struct list_head node;                /* pool lock while queued */
	void (*run)(struct pool_job *job);
};

/* Fields are the pool's own; all under the pool lock. */
struct pool_client {
	struct pool *pool;
	struct list_head ready;   /* in pool's ring of clients that have something runnable */
	struct list_head queue;   /* of pool_job.node */
	unsigned limit, queued, running;
	bool in_ready;
};

/* min threads are kept (0: by the processors), max is the bound of growth.  Threads are named
 * PREFIX0, PREFIX1, ... */
int pool_create(const char *prefix, unsigned min, unsigned max, struct pool **pool);
/* Waits for all jobs; no client may submit any more.  Accepts NULL. */
void pool_destroy(struct pool *pool);

void pool_client_init(struct pool_client *client, struct pool *pool, unsigned limit);
void pool_client_set_limit(struct pool_client *client, unsigned limit);
/* Any thread.  Never fails. */
void pool_submit(struct pool_client *client, struct pool_job *job);
/* Until nothing of the client is queued or running, the return from run() included: after this no
 * worker touches the client.  Not from a job of the same client; nor may such a job free the client,
 * which its worker looks at once more when run() has returned. */
void pool_client_drain(struct pool_client *client);

struct pool_stats {
	unsigned threads, busy, queued, peak;
};
void pool_get_stats(struct pool *pool, struct pool_stats *stats);
/* Whether who makes up for stuck workers has looked since the last call, if there was reason to. For a
 * watchdog: one thread, which asks at intervals of seconds. */
bool pool_watched(struct pool *pool);

#endif
