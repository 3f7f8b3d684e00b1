/*
 * stats.h - what a device counts
 *
 * Counters are relaxed atomics: written by pollers and workers, read by anyone.  They only grow while
 * the device lives; a reconnect does not reset them.
 */
#ifndef RD_STATS_H
#define RD_STATS_H

#include <stdatomic.h>
#include <stdint.h>

enum stat_op { STAT_READ, STAT_WRITE, STAT_FLUSH, STAT_DISCARD, STAT_OPS };

/* Bucket 0: under 1 us; n: from 2^(n-1) to under 2^n us. */
#define STATS_LAT_BUCKETS 32

struct stats {
	struct {
		_Atomic uint64_t done, errors, bytes, ns;
		_Atomic uint64_t latency[STATS_LAT_BUCKETS];
	} op[STAT_OPS];
	_Atomic uint64_t barriers, indirect;
	_Atomic uint64_t wakeups, spurious, notifies;  /* event channel */
	_Atomic uint64_t inline_io, pool_io, aio_io;   /* requests by who served them */
	_Atomic uint64_t grants_mapped, grants_copied; /* pages */
	_Atomic uint64_t bad_requests, unknown_ops;    /* the guest's mistakes */
	_Atomic uint64_t parked;                       /* requests that wait for the operator, now */
	_Atomic uint64_t polls, poll_hits;             /* adaptive polling */
};

#define stats_add(counter, n) atomic_fetch_add_explicit(&(counter), (n), memory_order_relaxed)
#define stats_get(counter)    atomic_load_explicit(&(counter), memory_order_relaxed)

/* Count one finished request. */
void stats_done(struct stats *stats, enum stat_op op, uint64_t bytes, uint64_t ns, int err);

#endif
