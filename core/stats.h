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

/*
 * Times are counted log-linearly: eight buckets of 125 ns below 1 us, then each doubling in eight equal
 * steps, so that no bucket is wider than an eighth of where it begins.  The last one takes all from
 * 125 s on.
 */
#define STATS_LAT_STEPS   8u
#define STATS_LAT_UNIT_NS 125u
#define STATS_LAT_OCTAVES 27u
#define STATS_LAT_BUCKETS (STATS_LAT_STEPS * (STATS_LAT_OCTAVES + 1))

struct shm_layout;

struct stats {
	struct shm_layout *shm; /* set before there are requests; NULL: nobody else counts */
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
	_Atomic uint64_t throttled;                    /* times that somebody had to wait for a limit */
};

#define stats_add(counter, n) atomic_fetch_add_explicit(&(counter), (n), memory_order_relaxed)
#define stats_get(counter)    atomic_load_explicit(&(counter), memory_order_relaxed)

/*
 * Requests that finish together, of which neighbours are mostly of one kind: their sums are kept here and
 * added to the shared counters when the kind changes and at the end.  The caller's own, on its stack.
 */
struct stats_batch {
	struct stats *stats;
	enum stat_op op;
	uint64_t done, errors, bytes, ns;
};

static inline struct stats_batch stats_batch_begin(struct stats *stats)
{
	return (struct stats_batch){.stats = stats};
}

/* A request has come, and will be counted as finished. */
void stats_submitted(struct stats *stats, enum stat_op op);
/* One had to wait for a free slot. */
void stats_out_of_requests(struct stats *stats);
/* Nothing is in flight: what a connection took with it will not be finished. */
void stats_connected(struct stats *stats);
/* Count one finished request. */
void stats_done(struct stats_batch *batch, enum stat_op op, uint64_t bytes, uint64_t ns, int err);
/* Once after the last one, before the requests are answered. */
void stats_batch_end(struct stats_batch *batch);

/* Which bucket takes a request of ns. */
unsigned stats_bucket(uint64_t ns);
/* Every time in the bucket is less than this; UINT64_MAX for the last. */
uint64_t stats_bucket_end(unsigned bucket);

/* A copy that can be computed with: what other threads add meanwhile may be in it or not. */
struct stats_times {
	uint64_t total;
	uint64_t count[STATS_LAT_BUCKETS];
};
void stats_times_read(struct stats *stats, enum stat_op op, struct stats_times *times);
/* So many per million of the requests took less than this, in ns; 0 if there are none.  Never too small,
 * and at most an eighth too large. */
uint64_t stats_times_quantile(const struct stats_times *times, uint32_t per_million);

#endif
