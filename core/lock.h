/*
 * Mutexes with a rank. A thread takes locks in rising rank only; two of the same rank are never held
 * together. Debug builds (--enable-debug, or with a sanitizer) check this at each acquisition against
 * what the thread holds already, and abort with both names: an order that is wrong is found at its first
 * use, not when two threads happen to meet.
 *
 * None of these locks is held over a blocking driver callback, a Xen call that may block, a store write,
 * or an admin reply.
 */
#ifndef RD_LOCK_H
#define RD_LOCK_H

#include <pthread.h>

/* Lower first. Gaps are for later. */
enum lock_rank {
	RANK_DEVTAB = 100, /* the device table */
	RANK_DEVICE = 200, /* a device: state, image, settings; never on the data path */
	RANK_POOL = 300,   /* the worker pool */
	RANK_RING = 400,   /* a ring: response producer, free slots, in-flight count */
	RANK_IMAGE = 500,  /* inside image and drivers */
	RANK_LEAF = 800,   /* takes no other lock but the log's */
	RANK_LOG = 900,    /* the log's own */
};

struct rd_lock {
	pthread_mutex_t mutex;
	enum lock_rank rank;
	const char *name;
};

/* @name stays the caller's and must outlive the lock. */
void lock_init(struct rd_lock *lock, enum lock_rank rank, const char *name);
/* Nobody may hold it. */
void lock_destroy(struct rd_lock *lock);

/* A lock that cannot be taken or given back (not ours, destroyed) is a bug: abort. */
void lock_acquire(struct rd_lock *lock);
void lock_release(struct rd_lock *lock);
/* 1 when it was free and is ours now, else 0. Any rank will do, as it cannot wait. */
int lock_try(struct rd_lock *lock) __attribute__((warn_unused_result));

/* Wait on @cond with @lock held, as pthread_cond_wait(). No other ranked lock may be held. */
void lock_wait(pthread_cond_t *cond, struct rd_lock *lock);
/* The same until @deadline_ms of CLOCK_MONOTONIC (cond_init_monotonic()). 0, or -ETIMEDOUT. */
int lock_wait_until(pthread_cond_t *cond, struct rd_lock *lock, long long deadline_ms);
/* A condition variable whose deadlines are CLOCK_MONOTONIC. */
void cond_init_monotonic(pthread_cond_t *cond);
/* CLOCK_MONOTONIC in milliseconds. */
long long monotonic_ms(void);

#ifdef RD_DEBUG
/* Abort unless the calling thread holds @lock. */
void lock_assert_held(struct rd_lock *lock);
/* Abort if the calling thread holds any ranked lock: before calls that may block. */
void lock_assert_none_held(void);
#else
static inline void lock_assert_held(struct rd_lock *lock)
{
	(void)lock;
}
static inline void lock_assert_none_held(void)
{
}
#endif

static inline struct rd_lock *lock_scope_enter_(struct rd_lock *lock)
{
	lock_acquire(lock);
	return lock;
}

static inline void lock_scope_leave_(struct rd_lock **lock)
{
	lock_release(*lock);
}

#define LOCK_JOIN_(a, b) a##b
#define LOCK_NAME_(line) LOCK_JOIN_(lock_scope_, line)

/* Hold @lock until the end of the enclosing block. */
#define LOCK_SCOPE(lock)                                                                           \
	__attribute__((cleanup(lock_scope_leave_), unused)) struct rd_lock *LOCK_NAME_(__LINE__) = \
		lock_scope_enter_(lock)

#endif
