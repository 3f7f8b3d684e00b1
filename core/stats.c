/*
 * stats.c - what a device counts
 *
 * Finished requests come here from pollers and workers: one atomic addition each, for its time, and four
 * for the sums of a batch.  Who reads gets what is there; nobody waits for anybody.
 */
#include "stats.h"

#include "shm.h"

#include <stddef.h>

#define LOG2_STEPS 3u /* of STATS_LAT_STEPS */

unsigned stats_bucket(uint64_t ns)
{
	uint64_t units = ns / STATS_LAT_UNIT_NS;
	unsigned octave, n;

	if (units < STATS_LAT_STEPS)
		return (unsigned)units;
	octave = 63u - (unsigned)__builtin_clzll(units) - LOG2_STEPS; /* 0: 8..15 units */
	n = (octave + 1) * STATS_LAT_STEPS + ((unsigned)(units >> octave) & (STATS_LAT_STEPS - 1));
	return n < STATS_LAT_BUCKETS ? n : STATS_LAT_BUCKETS - 1;
}

uint64_t stats_bucket_end(unsigned bucket)
{
	unsigned octave = bucket / STATS_LAT_STEPS;
	uint64_t steps = bucket % STATS_LAT_STEPS + 1;

	if (bucket >= STATS_LAT_BUCKETS - 1)
		return UINT64_MAX;
	if (!octave)
		return steps * STATS_LAT_UNIT_NS;
	return ((STATS_LAT_STEPS + steps) << (octave - 1)) * STATS_LAT_UNIT_NS;
}

/* ---- for xentop --------------------------------------------------------------------------------------- */

static struct shm_op *shm_op(const struct stats *stats, enum stat_op op)
{
	if (!stats->shm)
		return NULL;
	return op == STAT_READ ? &stats->shm->read : op == STAT_WRITE ? &stats->shm->write : NULL;
}

void stats_submitted(struct stats *stats, enum stat_op op)
{
	struct shm_op *shm = shm_op(stats, op);

	if (shm)
		stats_add(shm->submitted, 1);
}

void stats_out_of_requests(struct stats *stats)
{
	if (stats->shm)
		stats_add(stats->shm->out_of_requests, 1);
}

void stats_connected(struct stats *stats)
{
	for (enum stat_op op = STAT_READ; op <= STAT_WRITE; op++) {
		struct shm_op *shm = shm_op(stats, op);

		if (shm)
			atomic_store_explicit(&shm->submitted, stats_get(shm->completed), memory_order_relaxed);
	}
}

/* ns: of all requests before this batch. */
static void batch_shm(const struct stats_batch *batch, uint64_t ns)
{
	struct shm_op *shm = shm_op(batch->stats, batch->op);

	if (!batch->stats->shm)
		return;
	if (batch->errors)
		stats_add(batch->stats->shm->io_errors, batch->errors);
	if (!shm)
		return;
	stats_add(shm->sectors, batch->bytes / 512);
	/* So that what is cut off here is counted by another. */
	stats_add(shm->ticks, (ns + batch->ns) / 1000 - ns / 1000);
	stats_add(shm->completed, batch->done);
}

/* ---- counting ----------------------------------------------------------------------------------------- */

void stats_batch_end(struct stats_batch *batch)
{
	struct stats *stats = batch->stats;

	if (!batch->done)
		return;
	stats_add(stats->op[batch->op].done, batch->done);
	batch_shm(batch, stats_add(stats->op[batch->op].ns, batch->ns));
	if (batch->bytes)
		stats_add(stats->op[batch->op].bytes, batch->bytes);
	if (batch->errors)
		stats_add(stats->op[batch->op].errors, batch->errors);
	batch->done = batch->errors = batch->bytes = batch->ns = 0;
}

void stats_done(struct stats_batch *batch, enum stat_op op, uint64_t bytes, uint64_t ns, int err)
{
	if (op != batch->op)
		stats_batch_end(batch);
	batch->op = op;
	batch->done++;
	batch->ns += ns;
	batch->errors += err != 0;
	batch->bytes += err ? 0 : bytes;
	stats_add(batch->stats->op[op].latency[stats_bucket(ns)], 1);
}

void stats_times_read(struct stats *stats, enum stat_op op, struct stats_times *times)
{
	times->total = 0;
	for (unsigned i = 0; i < STATS_LAT_BUCKETS; i++) {
		times->count[i] = stats_get(stats->op[op].latency[i]);
		times->total += times->count[i];
	}
}

uint64_t stats_times_quantile(const struct stats_times *times, uint32_t per_million)
{
	/* total * per_million / 1000000, rounded up, without overflow; at least the first. */
	uint64_t rank = times->total / 1000000 * per_million +
			(times->total % 1000000 * per_million + 999999) / 1000000;
	uint64_t seen = 0;

	if (!times->total)
		return 0;
	rank = rank ? rank : 1;
	for (unsigned i = 0; i < STATS_LAT_BUCKETS - 1; i++) {
		seen += times->count[i];
		if (seen >= rank)
			return stats_bucket_end(i);
	}
	return stats_bucket_end(STATS_LAT_BUCKETS - 2);
}
