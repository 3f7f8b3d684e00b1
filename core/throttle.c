/*
 * throttle.c - limits on what a disk may do a second
 *
 * Levels are counted in millionths and time in whole microseconds, and a rest of less than one is left for
 * the next time: nothing is rounded, so nothing adds up.
 */
#include "throttle.h"

#include "base/bytes.h"

#define MILLION 1000000

static bool counts_bytes(unsigned limit)
{
	return limit >= THROTTLE_BPS;
}

/* What must be there for one to start. */
static int64_t need(unsigned limit)
{
	return counts_bytes(limit) ? 1 : MILLION;
}

static void fill(struct throttle *t, uint64_t now)
{
	uint64_t us = now > t->then ? (now - t->then) / 1000 : 0;

	t->then += us * 1000;
	for (unsigned i = 0; us && i < THROTTLE_LIMITS; i++) {
		struct throttle_bucket *b = &t->bucket[i];

		if (!b->rate)
			continue;
		/* Compared by division: a long time times a rate would overflow. */
		if (us > (uint64_t)((b->full - b->level) / b->rate))
			b->level = b->full;
		else
			b->level += b->rate * (int64_t)us;
	}
}

void throttle_set(struct throttle *t, const struct throttle_limits *limits, uint64_t now)
{
	uint64_t burst = MIN(limits->burst_ms, THROTTLE_MAX_BURST_MS);

	fill(t, now);
	if (!t->any)
		t->then = now;
	t->any = false;
	for (unsigned i = 0; i < THROTTLE_LIMITS; i++) {
		struct throttle_bucket *b = &t->bucket[i];
		bool is_new = !b->rate;

		b->rate = (int64_t)MIN(limits->rate[i],
				       counts_bytes(i) ? THROTTLE_MAX_BPS : THROTTLE_MAX_IOPS);
		/* And one, so that who comes late by no more than the burst loses nothing. */
		b->full = b->rate * (int64_t)burst * 1000 + MILLION;
		if (is_new || b->level > b->full)
			b->level = b->full;
		t->any = t->any || b->rate;
	}
}

static uint64_t wait_for(const struct throttle *t, unsigned limit)
{
	const struct throttle_bucket *b = &t->bucket[limit];
	int64_t missing = need(limit) - b->level;

	if (!b->rate || missing <= 0)
		return 0;
	return (uint64_t)((missing + b->rate - 1) / b->rate) * 1000;
}

static uint64_t longest(const struct throttle *t, unsigned a, unsigned b)
{
	uint64_t for_a = wait_for(t, a), for_b = wait_for(t, b);

	return MAX(for_a, for_b);
}

uint64_t throttle_wait_any(struct throttle *t, uint64_t now)
{
	uint64_t all, reads, writes;

	fill(t, now);
	all = longest(t, THROTTLE_IOPS, THROTTLE_BPS);
	reads = longest(t, THROTTLE_IOPS_READ, THROTTLE_BPS_READ);
	writes = longest(t, THROTTLE_IOPS_WRITE, THROTTLE_BPS_WRITE);
	return MAX(all, MIN(reads, writes));
}

uint64_t throttle_wait(struct throttle *t, bool write, uint64_t now)
{
	uint64_t all, own;

	fill(t, now);
	all = longest(t, THROTTLE_IOPS, THROTTLE_BPS);
	own = write ? longest(t, THROTTLE_IOPS_WRITE, THROTTLE_BPS_WRITE)
		    : longest(t, THROTTLE_IOPS_READ, THROTTLE_BPS_READ);
	return MAX(all, own);
}

static void take(struct throttle *t, unsigned limit, uint64_t units)
{
	if (t->bucket[limit].rate)
		t->bucket[limit].level -= (int64_t)units * MILLION;
}

void throttle_pay(struct throttle *t, bool write, uint64_t bytes)
{
	take(t, THROTTLE_IOPS, 1);
	take(t, write ? THROTTLE_IOPS_WRITE : THROTTLE_IOPS_READ, 1);
	take(t, THROTTLE_BPS, bytes);
	take(t, write ? THROTTLE_BPS_WRITE : THROTTLE_BPS_READ, bytes);
}

uint64_t throttle_room(const struct throttle *t)
{
	const struct throttle_bucket *b = &t->bucket[THROTTLE_IOPS];

	if (!b->rate)
		return UINT64_MAX;
	return b->level > 0 ? (uint64_t)(b->level / MILLION) : 0;
}
