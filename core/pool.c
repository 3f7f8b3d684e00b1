/*
 * The pool of worker threads. All of it is under one lock, taken once per submit and once per job: a
 * worker that ends a job gives it back and picks the next in the same critical section.
 *
 * Fairness: clients that have a job which may run now stand in a ring; a worker takes one job of the
 * first and sends it to the end.
 *
 * Waking: at most one worker is on its way at a time ("waking"). Who arrives takes a job and, if more
 * could run, wakes the next. A burst of submits so costs one wake-up by the submitter, and none when
 * all workers are busy or one is coming already. Idle workers are a stack: the warmest goes first, and
 * those at the bottom, if there are more than the minimum, leave after IDLE_MS. Workers within the minimum
 * sleep without a timeout.
 *
 * Growth: the keeper, one more thread per pool, sleeps until all workers are inside jobs while jobs
 * wait. Then it looks every TICK_MS. A worker that was in the same job for a whole tick counts as stuck,
 * and is made up for by a new one, up to the bound: the pool keeps "min" workers that move. Slow calls
 * then delay their own clients only, and a mere crowd of quick jobs makes no threads. The keeper also
 * joins the workers that left. It does not run while the pool keeps up.
 *
 * What can go wrong: no thread can be made; then the pool stays as large as it is, says so now and then,
 * and the keeper tries again at its next tick.
 *
 * Threads: any may submit; run() is called by workers with no lock held.
 */
#include "pool.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lock.h"
#include "log.h"
#include "thread.h"

#define TICK_MS    5
#define IDLE_MS    5000
#define PREFIX_MAX 8

enum worker_state { WORKER_NONE, WORKER_STARTING, WORKER_BUSY, WORKER_IDLE, WORKER_LEFT };

/* Lives in the pool's array, so that a signal that comes late still finds it. */
struct worker {
	struct pool *pool;     /* set before start */
	pthread_t thread;      /* keeper and pool_create only */
	pthread_cond_t wake;
	/* under the pool lock */
	enum worker_state state;
	struct list_head idle; /* in pool->idle; not on it while woken or working */
	bool woken;
	uint64_t since;        /* the tick in which its job began */
};

struct pool {
	/* set before start */
	char prefix[PREFIX_MAX + 1];
	unsigned min, max;
	struct worker *workers; /* max of them */
	pthread_t keeper;

	_Atomic unsigned signalling; /* threads between the lock's release and their signal; raised under it */
	struct rd_lock lock; /* RANK_POOL; protects the rest */
	struct list_head ready; /* of pool_client.ready */
	struct list_head idle;  /* of worker.idle, most recent first */
	unsigned threads, busy, queued, peak;
	unsigned left;     /* workers to be joined */
	unsigned drainers; /* in pool_client_drain */
	bool waking;       /* a worker was signalled and has not looked yet */
	bool watching;     /* the keeper looks every tick */
	bool stopping;
	uint64_t tick;
	bool asked_watching; /* as of the last pool_watched() */
	uint64_t asked_tick;
	pthread_cond_t drained;
	pthread_cond_t keep; /* for the keeper */
	struct log_limit limit;
};

/* ---- whom to wake; the decision under the lock, the signal after it --------------------------- */

static bool saturated_locked(const struct pool *pool)
{
	return !list_empty(&pool->ready) && pool->busy == pool->threads && pool->threads < pool->max;
}

/* The condition to signal after the lock is released, so that a job which may run is run; or NULL. */
static pthread_cond_t *choose_wake_locked(struct pool *pool)
{
	struct worker *worker;

	if (list_empty(&pool->ready) || pool->waking)
		return NULL;
	worker = list_first_entry_or_null(&pool->idle, struct worker, idle);
	if (worker) {
		list_del(&worker->idle);
		worker->woken = true;
		pool->waking = true;
		return &worker->wake;
	}
	if (!pool->watching && saturated_locked(pool)) {
		pool->watching = true;
		return &pool->keep;
	}
	return NULL;
}

static void signal_chosen(pthread_cond_t *cond)
{
	if (cond)
		pthread_cond_signal(cond);
}

/* For who is no worker: the job may end, and the pool with it, before the signal is given. */
static void release_and_signal(struct pool *pool, pthread_cond_t *cond)
{
	atomic_fetch_add(&pool->signalling, 1);
	lock_release(&pool->lock);
	signal_chosen(cond);
	atomic_fetch_sub(&pool->signalling, 1);
}

/* ---- clients ------------------------------------------------------------------------------------ */

static void client_update_ready_locked(struct pool_client *client)
{
	if (client->in_ready || !client->queued || client->running >= client->limit)
		return;
	client->in_ready = true;
	list_add_tail(&client->ready, &client->pool->ready);
}

void pool_client_init(struct pool_client *client, struct pool *pool, unsigned limit)
{
	assert(limit > 0);
	*client = (struct pool_client){.pool = pool, .limit = limit};
	list_init(&client->ready);
	list_init(&client->queue);
}

void pool_client_set_limit(struct pool_client *client, unsigned limit)
{
	struct pool *pool = client->pool;
	pthread_cond_t *wake;

	assert(limit > 0);
	lock_acquire(&pool->lock);
	client->limit = limit;
	client_update_ready_locked(client);
	wake = choose_wake_locked(pool);
	release_and_signal(pool, wake);
}

void pool_submit(struct pool_client *client, struct pool_job *job)
{
	struct pool *pool = client->pool;
	pthread_cond_t *wake;

	lock_acquire(&pool->lock);
	list_add_tail(&job->node, &client->queue);
	client->queued++;
	pool->queued++;
	client_update_ready_locked(client);
	wake = choose_wake_locked(pool);
	/* From here on the job may be done and the client gone. */
	release_and_signal(pool, wake);
}

void pool_client_drain(struct pool_client *client)
{
	struct pool *pool = client->pool;

	lock_acquire(&pool->lock);
	pool->drainers++;
	while (client->queued || client->running)
		lock_wait(&pool->drained, &pool->lock);
	pool->drainers--;
	lock_release(&pool->lock);
}

/* ---- workers ------------------------------------------------------------------------------------ */

/* The next job, counted as running; NULL when there is none that may run. */
static struct pool_job *pick_locked(struct worker *worker, struct pool_client **client_out)
{
	struct pool *pool = worker->pool;
	struct pool_client *client;
	struct pool_job *job;

	do {
		client = list_first_entry_or_null(&pool->ready, struct pool_client, ready);
		if (!client)
			return NULL;
		list_del(&client->ready);
		client->in_ready = false;
		/* Again, if its limit was lowered while it stood in the ring: it comes back when a job ends. */
	} while (client->running >= client->limit);

	job = list_first_entry(&client->queue, struct pool_job, node);
	list_del(&job->node);
	client->queued--;
	client->running++;
	client_update_ready_locked(client);

	pool->queued--;
	pool->busy++;
	worker->state = WORKER_BUSY;
	worker->since = pool->tick;
	*client_out = client;
	return job;
}

/* The last time that a worker looks at the client. */
static void finish_locked(struct worker *worker, struct pool_client *client)
{
	struct pool *pool = worker->pool;

	assert(client->running > 0);
	client->running--;
	pool->busy--;
	client_update_ready_locked(client);
	if (!client->running && !client->queued && pool->drainers)
		pthread_cond_broadcast(&pool->drained);
}

/* Sleep until woken. False: time to leave, nobody needs this thread. */
static bool rest_locked(struct worker *worker)
{
	struct pool *pool = worker->pool;
	long long deadline = monotonic_ms() + IDLE_MS;
	int err = 0;

	worker->state = WORKER_IDLE;
	worker->woken = false;
	list_add(&worker->idle, &pool->idle);
	while (!worker->woken && !pool->stopping) {
		if (pool->threads <= pool->min)
			lock_wait(&worker->wake, &pool->lock);
		else if (err == -ETIMEDOUT)
			break;
		else
			err = lock_wait_until(&worker->wake, &pool->lock, deadline);
	}
	list_del(&worker->idle);
	if (worker->woken)
		pool->waking = false;
	return worker->woken;
}

static void leave_locked(struct worker *worker)
{
	struct pool *pool = worker->pool;

	worker->state = WORKER_LEFT;
	pool->threads--;
	pool->left++;
	pthread_cond_signal(&pool->keep);
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	struct pool *pool = worker->pool;
	struct pool_client *client;
	struct pool_job *job;
	pthread_cond_t *wake;

	lock_acquire(&pool->lock);
	for (;;) {
		job = pick_locked(worker, &client);
		if (!job) {
			if (rest_locked(worker))
				continue;
			/* Nothing came while the lock was given up. */
			if (list_empty(&pool->ready))
				break;
			continue;
		}
		wake = choose_wake_locked(pool);
		lock_release(&pool->lock);
		signal_chosen(wake);

		job->run(job);

		lock_acquire(&pool->lock);
		finish_locked(worker, client);
	}
	leave_locked(worker);
	lock_release(&pool->lock);
	return NULL;
}

/* ---- the keeper ----------------------------------------------------------------------------------- */

/* A free place, counted as a thread from here on; NULL when the bound is reached. */
static struct worker *reserve_locked(struct pool *pool)
{
	if (pool->threads >= pool->max)
		return NULL;
	for (unsigned i = 0; i < pool->max; i++) {
		struct worker *worker = &pool->workers[i];

		if (worker->state != WORKER_NONE)
			continue;
		worker->state = WORKER_STARTING;
		pool->threads++;
		if (pool->threads > pool->peak)
			pool->peak = pool->threads;
		return worker;
	}
	return NULL;
}

/* Start the worker that was reserved. Not under the lock. */
static int start_worker(struct worker *worker)
{
	struct pool *pool = worker->pool;
	char name[PREFIX_MAX + 12];
	int err;

	snprintf(name, sizeof(name), "%s%u", pool->prefix, (unsigned)(worker - pool->workers));
	err = thread_start(&worker->thread, name, worker_main, worker);
	if (!err)
		return 0;
	lock_acquire(&pool->lock);
	worker->state = WORKER_NONE;
	pool->threads--;
	lock_release(&pool->lock);
	log_limited(&pool->limit, LOG_LVL_WARN, LOG_POOL, "no thread for pool %s: %s", pool->prefix,
	            strerror(-err));
	return err;
}

/* How many workers moved within the last tick. O(threads), but only the keeper asks, and rarely. */
static unsigned moving_locked(const struct pool *pool)
{
	unsigned moving = 0;

	for (unsigned i = 0; i < pool->max; i++) {
		const struct worker *worker = &pool->workers[i];

		if (worker->state == WORKER_STARTING || worker->state == WORKER_IDLE ||
		    (worker->state == WORKER_BUSY && worker->since >= pool->tick))
			moving++;
	}
	return moving;
}

/* Make up for the workers that are stuck. Releases the lock while it starts threads. */
static void grow_locked(struct pool *pool)
{
	unsigned moving = moving_locked(pool);
	struct worker *worker;
	int err = 0;

	while (!err && moving < pool->min && saturated_locked(pool)) {
		worker = reserve_locked(pool);
		if (!worker)
			return;
		lock_release(&pool->lock);
		err = start_worker(worker);
		lock_acquire(&pool->lock);
		moving++;
	}
}

/* Join those who left. Releases the lock meanwhile. */
static void reap_locked(struct pool *pool)
{
	for (unsigned i = 0; pool->left && i < pool->max; i++) {
		struct worker *worker = &pool->workers[i];

		if (worker->state != WORKER_LEFT)
			continue;
		lock_release(&pool->lock);
		pthread_join(worker->thread, NULL);
		lock_acquire(&pool->lock);
		worker->state = WORKER_NONE;
		pool->left--;
	}
}

/* One tick; false: the pool keeps up, no need to look again. */
static bool watch_locked(struct pool *pool)
{
	long long deadline = monotonic_ms() + TICK_MS;

	pool->tick++;
	while (monotonic_ms() < deadline)
		lock_wait_until(&pool->keep, &pool->lock, deadline);
	if (!saturated_locked(pool))
		return false;
	grow_locked(pool);
	return true;
}

static void *keeper_main(void *arg)
{
	struct pool *pool = arg;

	lock_acquire(&pool->lock);
	while (!pool->stopping || pool->threads) {
		if (pool->left)
			reap_locked(pool);
		else if (pool->watching)
			pool->watching = watch_locked(pool);
		else
			lock_wait(&pool->keep, &pool->lock);
	}
	reap_locked(pool);
	lock_release(&pool->lock);
	return NULL;
}

/* ---- the pool ------------------------------------------------------------------------------------- */

static unsigned processors(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof(set), &set) || CPU_COUNT(&set) < 2)
		return 2;
	return (unsigned)CPU_COUNT(&set);
}

static void pool_free(struct pool *pool)
{
	for (unsigned i = 0; i < pool->max; i++)
		pthread_cond_destroy(&pool->workers[i].wake);
	pthread_cond_destroy(&pool->drained);
	pthread_cond_destroy(&pool->keep);
	lock_destroy(&pool->lock);
	free(pool->workers);
	free(pool);
}

static struct pool *pool_alloc(const char *prefix, unsigned min, unsigned max)
{
	struct pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	pool->workers = calloc(max, sizeof(*pool->workers));
	if (!pool->workers) {
		free(pool);
		return NULL;
	}
	snprintf(pool->prefix, sizeof(pool->prefix), "%s", prefix);
	pool->min = min;
	pool->max = max;
	lock_init(&pool->lock, RANK_POOL, "pool");
	list_init(&pool->ready);
	list_init(&pool->idle);
	cond_init_monotonic(&pool->drained);
	cond_init_monotonic(&pool->keep);
	log_limit_init(&pool->limit, 1, 60000);
	for (unsigned i = 0; i < max; i++) {
		pool->workers[i].pool = pool;
		list_init(&pool->workers[i].idle);
		cond_init_monotonic(&pool->workers[i].wake);
	}
	return pool;
}

int pool_create(const char *prefix, unsigned min, unsigned max, struct pool **out)
{
	char keeper_name[PREFIX_MAX + 8];
	struct pool *pool;
	int err;

	if (!min)
		min = processors();
	if (max < min)
		max = min;
	pool = pool_alloc(prefix, min, max);
	if (!pool)
		return -ENOMEM;

	snprintf(keeper_name, sizeof(keeper_name), "%s-keeper", pool->prefix);
	err = thread_start(&pool->keeper, keeper_name, keeper_main, pool);
	if (err) {
		pool_free(pool);
		return err;
	}
	for (unsigned i = 0; !err && i < min; i++) {
		struct worker *worker;

		lock_acquire(&pool->lock);
		worker = reserve_locked(pool);
		lock_release(&pool->lock);
		err = start_worker(worker);
	}
	if (err) {
		pool_destroy(pool);
		return err;
	}
	*out = pool;
	return 0;
}

void pool_destroy(struct pool *pool)
{
	struct worker *worker;

	if (!pool)
		return;
	lock_acquire(&pool->lock);
	pool->stopping = true;
	list_for_each(worker, &pool->idle, idle)
		pthread_cond_signal(&worker->wake);
	pthread_cond_signal(&pool->keep);
	lock_release(&pool->lock);
	pthread_join(pool->keeper, NULL);
	assert(!pool->queued && !pool->busy);
	while (atomic_load(&pool->signalling))
		sched_yield();
	pool_free(pool);
}

void pool_get_stats(struct pool *pool, struct pool_stats *stats)
{
	LOCK_SCOPE(&pool->lock);
	*stats = (struct pool_stats){
		.threads = pool->threads,
		.busy = pool->busy,
		.queued = pool->queued,
		.peak = pool->peak,
	};
}

bool pool_watched(struct pool *pool)
{
	bool idle;

	LOCK_SCOPE(&pool->lock);
	idle = pool->watching && pool->asked_watching && pool->tick == pool->asked_tick;
	pool->asked_watching = pool->watching;
	pool->asked_tick = pool->tick;
	return !idle;
}
