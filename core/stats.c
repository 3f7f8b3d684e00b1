/*
 * stats.c - what a device counts
 */
#include "stats.h"

/* Bucket 0: under 1 us; bucket n: from 2^(n-1) us to under 2^n us; the last takes the rest. */
static unsigned bucket(uint64_t ns)
{
	uint64_t us = ns / 1000;
	unsigned n = us ? 64u - (unsigned)__builtin_clzll(us) : 0;

	return n < STATS_LAT_BUCKETS ? n : STATS_LAT_BUCKETS - 1;
}

void stats_done(struct stats *stats, enum stat_op op, uint64_t bytes, uint64_t ns, int err)
{
	stats_add(stats->op[op].done, 1);
	if (err)
		stats_add(stats->op[op].errors, 1);
	else
		stats_add(stats->op[op].bytes, bytes);
	stats_add(stats->op[op].ns, ns);
	stats_add(stats->op[op].latency[bucket(ns)], 1);
}
