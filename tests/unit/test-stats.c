/* stats.h: the buckets of times, what a batch adds up to, quantiles. */
#include "test.h"

#include <errno.h>
#include <pthread.h>

#include "stats.h"

/* Each time is in a bucket that ends behind it, and the one before ends at it or before. */
static void check(uint64_t ns)
{
	unsigned b = stats_bucket(ns);

	assert_true(b < STATS_LAT_BUCKETS);
	assert_true(ns < stats_bucket_end(b));
	if (b)
		assert_true(ns >= stats_bucket_end(b - 1));
}

static void every_time_has_its_bucket(void **state)
{
	(void)state;
	for (uint64_t ns = 0; ns < 40000; ns++)
		check(ns);
	for (unsigned shift = 10; shift < 64; shift++)
		for (int d = -2; d <= 2; d++)
			check((1ull << shift) + (uint64_t)d);
	assert_int_equal(stats_bucket(UINT64_MAX - 1), STATS_LAT_BUCKETS - 1);
	assert_int_equal(stats_bucket(125ull * 1000000000), STATS_LAT_BUCKETS - 2);
	assert_int_equal(stats_bucket(126ull * 1000000000), STATS_LAT_BUCKETS - 1);
}

static void buckets_are_narrow(void **state)
{
	(void)state;
	for (unsigned b = 8; b < STATS_LAT_BUCKETS - 1; b++) {
		uint64_t begin = stats_bucket_end(b - 1), end = stats_bucket_end(b);

		assert_true(end > begin);
		assert_true((end - begin) * 8 <= begin);
	}
	/* Powers of two in microseconds are borders: the protocol's "latency" relies on it. */
	for (unsigned n = 0; n < STATS_LAT_OCTAVES; n++)
		assert_int_equal(stats_bucket_end((n + 1) * STATS_LAT_STEPS - 1), 1000ull << n);
}

static void a_batch_adds_up(void **state)
{
	static struct stats stats;
	struct stats_batch batch = stats_batch_begin(&stats);
	struct stats_times times;

	(void)state;
	stats_done(&batch, STAT_READ, 4096, 1000, 0);
	stats_done(&batch, STAT_READ, 4096, 3000, 0);
	stats_done(&batch, STAT_WRITE, 512, 5000, -EIO);
	stats_done(&batch, STAT_READ, 8192, 1000, 0);
	stats_batch_end(&batch);
	stats_batch_end(&batch);
	assert_int_equal(stats_get(stats.op[STAT_READ].done), 3);
	assert_int_equal(stats_get(stats.op[STAT_READ].bytes), 16384);
	assert_int_equal(stats_get(stats.op[STAT_READ].ns), 5000);
	assert_int_equal(stats_get(stats.op[STAT_READ].errors), 0);
	assert_int_equal(stats_get(stats.op[STAT_WRITE].done), 1);
	assert_int_equal(stats_get(stats.op[STAT_WRITE].bytes), 0);
	assert_int_equal(stats_get(stats.op[STAT_WRITE].errors), 1);
	assert_int_equal(stats_get(stats.op[STAT_FLUSH].done), 0);
	stats_times_read(&stats, STAT_READ, &times);
	assert_int_equal(times.total, 3);
	assert_int_equal(times.count[stats_bucket(1000)], 2);
}

static void quantiles_are_never_too_small(void **state)
{
	static struct stats stats;
	struct stats_batch batch = stats_batch_begin(&stats);
	struct stats_times times;

	(void)state;
	stats_times_read(&stats, STAT_READ, &times);
	assert_int_equal(stats_times_quantile(&times, 500000), 0);
	/* 1 us, 2 us, ... 1000 us. */
	for (uint64_t us = 1; us <= 1000; us++)
		stats_done(&batch, STAT_READ, 0, us * 1000, 0);
	stats_batch_end(&batch);
	stats_times_read(&stats, STAT_READ, &times);
	for (uint32_t part = 1000; part <= 1000000; part += 1000) {
		uint64_t exact = (uint64_t)part * 1000 / 1000, q = stats_times_quantile(&times, part);

		assert_true(q > exact);
		assert_true(q <= exact + exact / 8 + STATS_LAT_UNIT_NS);
	}
	/* What took for ever does not overflow into nonsense. */
	stats_done(&batch, STAT_FLUSH, 0, UINT64_MAX / 2, 0);
	stats_batch_end(&batch);
	stats_times_read(&stats, STAT_FLUSH, &times);
	assert_int_equal(stats_times_quantile(&times, 500000), stats_bucket_end(STATS_LAT_BUCKETS - 2));
}

#define ROUNDS 20000

static void *count_along(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		struct stats_batch batch = stats_batch_begin(arg);

		stats_done(&batch, STAT_READ, 1, 1500, 0);
		stats_done(&batch, STAT_READ, 1, 1500, 0);
		stats_batch_end(&batch);
	}
	return NULL;
}

static void nothing_is_lost_among_threads(void **state)
{
	static struct stats stats;
	struct stats_times times;
	pthread_t thread[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, count_along, &stats), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	stats_times_read(&stats, STAT_READ, &times);
	assert_int_equal(times.total, 4 * 2 * ROUNDS);
	assert_int_equal(stats_get(stats.op[STAT_READ].done), 4 * 2 * ROUNDS);
	assert_int_equal(stats_get(stats.op[STAT_READ].bytes), 4 * 2 * ROUNDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_time_has_its_bucket),
		cmocka_unit_test(buckets_are_narrow),
		cmocka_unit_test(a_batch_adds_up),
		cmocka_unit_test(quantiles_are_never_too_small),
		cmocka_unit_test(nothing_is_lost_among_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
