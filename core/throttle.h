/*
 * throttle.h - limits on what a disk may do a second
 *
 * Six token buckets: operations and bytes, each for reads, for writes, and for both together.  A bucket fills
 * at its rate up to what `burst` milliseconds bring, and one.  An operation may start when there is a whole one in the
 * buckets for operations and anything at all in those for bytes; then it is paid, and bytes may go into debt.
 * So over any time no more operations start than the rate allows plus a full bucket, and no more bytes than that
 * plus one request.
 *
 * Pure but for the struct: the time is a parameter, in nanoseconds that do not run backwards.  One owner.
 */
#ifndef RD_THROTTLE_H
#define RD_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

enum throttle_limit {
	THROTTLE_IOPS,
	THROTTLE_IOPS_READ,
	THROTTLE_IOPS_WRITE,
	THROTTLE_BPS,
	THROTTLE_BPS_READ,
	THROTTLE_BPS_WRITE,
	THROTTLE_LIMITS
};

/* So that no product overflows. */
#define THROTTLE_MAX_IOPS     10000000u
#define THROTTLE_MAX_BPS      (64ull << 30)
#define THROTTLE_MAX_BURST_MS 60000u

struct throttle_limits {
	uint64_t rate[THROTTLE_LIMITS]; /* a second; 0: no limit */
	uint64_t burst_ms;
};

struct throttle {
	bool any; /* there is a limit */
	uint64_t then; /* filled up to this moment */
	struct throttle_bucket {
		int64_t rate;
		int64_t level, full; /* in millionths */
	} bucket[THROTTLE_LIMITS];
};

/* Change the limits.  All zero is a good start: no limits.  A limit that is new begins with a full bucket. */
void throttle_set(struct throttle *throttle, const struct throttle_limits *limits, uint64_t now);

/* How long until anything at all may start, in ns; 0: now. */
uint64_t throttle_wait_any(struct throttle *throttle, uint64_t now);
/* How long until a read or a write may start. */
uint64_t throttle_wait(struct throttle *throttle, bool write, uint64_t now);
/* It starts. */
void throttle_pay(struct throttle *throttle, bool write, uint64_t bytes);
/* So many may start now at most, as far as one can tell without knowing what they are. */
uint64_t throttle_room(const struct throttle *throttle);

#endif
