/*
 * Ranked mutexes. In a debug build each thread keeps a small stack of the locks that it holds; acquiring
 * looks at the highest of them, before it waits, so that a wrong order is reported and not a deadlock.
 * Locks may be released in any order.
 *
 * What goes wrong here is a bug in the caller: a message that names both locks, and abort. The message goes
 * to stderr directly, since the log has a lock of its own.
 */
#include "lock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

__attribute__((noreturn)) static void die(const char *what, const struct rd_lock *lock, int err)
{
	fprintf(stderr, "lock \"%s\": %s%s%s\n", lock->name, what, err ? ": " : "",
		err ? strerror(err) : "");
	abort();
}

#ifdef RD_DEBUG
#define MAX_HELD 16

static _Thread_local struct rd_lock *held[MAX_HELD];
static _Thread_local int n_held;

static void check_order(const struct rd_lock *lock)
{
	for (int i = 0; i < n_held; i++) {
		if (held[i]->rank < lock->rank)
			continue;
		fprintf(stderr,
			"lock order: \"%s\" (rank %d) is taken while \"%s\" (rank %d) is held\n",
			lock->name, (int)lock->rank, held[i]->name, (int)held[i]->rank);
		abort();
	}
}

static int find_held(const struct rd_lock *lock)
{
	for (int i = n_held - 1; i >= 0; i--)
		if (held[i] == lock)
			return i;
	return -1;
}

static void note_acquired(struct rd_lock *lock)
{
	if (n_held == MAX_HELD)
		die("too many locks are held", lock, 0);
	held[n_held++] = lock;
}

static void note_released(struct rd_lock *lock)
{
	int i = find_held(lock);

	if (i < 0)
		die("released by a thread that does not hold it", lock, 0);
	memmove(&held[i], &held[i + 1], (size_t)(n_held - 1 - i) * sizeof(held[0]));
	n_held--;
}

static void check_wait(struct rd_lock *lock)
{
	lock_assert_held(lock);
	if (n_held != 1)
		die("waits on a condition while another lock is held", lock, 0);
}

void lock_assert_held(struct rd_lock *lock)
{
	if (find_held(lock) < 0)
		die("must be held here", lock, 0);
}

void lock_assert_none_held(void)
{
	if (n_held)
		die("must not be held here", held[n_held - 1], 0);
}
#else
static void check_order(const struct rd_lock *lock)
{
	(void)lock;
}

static void note_acquired(struct rd_lock *lock)
{
	(void)lock;
}

static void note_released(struct rd_lock *lock)
{
	(void)lock;
}

static void check_wait(struct rd_lock *lock)
{
	(void)lock;
}
#endif

/* Error-checking in debug builds, so that what the stack does not see (destroyed locks) is found too. */
void lock_init(struct rd_lock *lock, enum lock_rank rank, const char *name)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
#ifdef RD_DEBUG
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
#endif
	*lock = (struct rd_lock){ .rank = rank, .name = name };
	pthread_mutex_init(&lock->mutex, &attr);
	pthread_mutexattr_destroy(&attr);
}

void lock_destroy(struct rd_lock *lock)
{
	int err = pthread_mutex_destroy(&lock->mutex);

	if (err)
		die("cannot be destroyed", lock, err);
}

void lock_acquire(struct rd_lock *lock)
{
	int err;

	check_order(lock);
	err = pthread_mutex_lock(&lock->mutex);
	if (err)
		die("cannot be taken", lock, err);
	note_acquired(lock);
}

int lock_try(struct rd_lock *lock)
{
	int err = pthread_mutex_trylock(&lock->mutex);

	if (err == EBUSY)
		return 0;
	if (err)
		die("cannot be tried", lock, err);
	note_acquired(lock);
	return 1;
}

void lock_release(struct rd_lock *lock)
{
	int err;

	note_released(lock);
	err = pthread_mutex_unlock(&lock->mutex);
	if (err)
		die("cannot be released", lock, err);
}

void lock_wait(pthread_cond_t *cond, struct rd_lock *lock)
{
	check_wait(lock);
	pthread_cond_wait(cond, &lock->mutex);
}

int lock_wait_until(pthread_cond_t *cond, struct rd_lock *lock, long long deadline_ms)
{
	struct timespec ts = {
		.tv_sec = (time_t)(deadline_ms / 1000),
		.tv_nsec = (long)(deadline_ms % 1000) * 1000000,
	};

	check_wait(lock);
	return -pthread_cond_timedwait(cond, &lock->mutex, &ts);
}

void cond_init_monotonic(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

long long monotonic_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (long long)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}
