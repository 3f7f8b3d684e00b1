/* throttle.h: counted exactly, over simulated time. */
#include "test.h"

#include <stdlib.h>

#include "base/bytes.h"
#include "throttle.h"

#define MS  1000000ull
#define SEC 1000000000ull

static struct throttle throttle;

static void set(const struct throttle_limits *limits, uint64_t now)
{
	throttle = (struct throttle){0};
	throttle_set(&throttle, limits, now);
}

static void without_limits_nobody_waits(void **state)
{
	(void)state;
	set(&(struct throttle_limits){.burst_ms = 100}, 7);
	assert_false(throttle.any);
	assert_int_equal(throttle_wait_any(&throttle, 7), 0);
	throttle_pay(&throttle, true, UINT32_MAX);
	assert_int_equal(throttle_wait(&throttle, true, 8), 0);
	assert_int_equal(throttle_room(&throttle), UINT64_MAX);
}

/* Somebody who always wants more, and comes back as late as late_ms: how many operations until end. */
static uint64_t hungry(bool write, uint64_t bytes, uint64_t begin, uint64_t end, unsigned late_ms)
{
	uint64_t now = begin, n = 0, wait;

	while (now < end) {
		wait = throttle_wait(&throttle, write, now);
		if (!wait) {
			throttle_pay(&throttle, write, bytes);
			n++;
			continue;
		}
		/* What it says is enough, and no more than that. */
		assert_int_not_equal(throttle_wait(&throttle, write, now + wait - 1001), 0);
		now += wait + (late_ms ? (uint64_t)rand() % (late_ms * MS) : 0);
	}
	return n;
}

static void operations_are_exact_over_time(void **state)
{
	static const uint64_t rates[] = {1, 3, 7, 100, 999, 33333};

	(void)state;
	srand(1);
	for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		for (unsigned late = 0; late <= 9; late += 3) {
			struct throttle_limits limits = {.burst_ms = 10};
			uint64_t full = rates[i] / 100 + 1, n, begin = 12345678901ull;

			limits.rate[THROTTLE_IOPS] = rates[i];
			set(&limits, begin);
			n = hungry(late & 1, 1u << 20, begin, begin + 100 * SEC, late);
			assert_true(n <= full + rates[i] * 100);
			/* Who comes late by less than the burst has lost nothing but that. */
			assert_true(n + 2 + rates[i] * late / 1000 >= full + rates[i] * 100);
		}
	}
}

static void bytes_are_exact_over_time(void **state)
{
	static const uint64_t sizes[] = {512, 4096, 65536, 1u << 20};
	const uint64_t rate = 3000000, begin = 5;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct throttle_limits limits = {.burst_ms = 200};
		uint64_t full = rate / 5, bytes;

		limits.rate[THROTTLE_BPS_WRITE] = rate;
		set(&limits, begin);
		bytes = hungry(true, sizes[i], begin, begin + 60 * SEC, 0) * sizes[i];
		assert_true(bytes >= full + rate * 60 - 10);
		assert_true(bytes <= full + rate * 60 + sizes[i]);
	}
}

static void one_kind_does_not_wait_for_the_other(void **state)
{
	struct throttle_limits limits = {.burst_ms = 10};

	(void)state;
	limits.rate[THROTTLE_IOPS_WRITE] = 1;
	set(&limits, SEC);
	throttle_pay(&throttle, true, 0);
	assert_true(throttle_wait(&throttle, true, SEC) > 9 * SEC / 10);
	assert_int_equal(throttle_wait(&throttle, false, SEC), 0);
	assert_int_equal(throttle_wait_any(&throttle, SEC), 0);
	/* But both wait for what they share. */
	limits.rate[THROTTLE_IOPS] = 10;
	throttle_set(&throttle, &limits, SEC);
	throttle_pay(&throttle, false, 0);
	assert_int_equal(throttle_wait(&throttle, false, SEC), 9 * SEC / 100);
	assert_int_equal(throttle_wait_any(&throttle, SEC), 9 * SEC / 100);
	assert_true(throttle_wait(&throttle, true, SEC) > 9 * SEC / 10);
}

static void idle_time_is_saved_up_to_the_burst(void **state)
{
	struct throttle_limits limits = {.burst_ms = 2000};

	(void)state;
	limits.rate[THROTTLE_IOPS] = 500;
	set(&limits, 0);
	assert_int_equal(throttle_room(&throttle), 1001);
	assert_int_equal(hungry(false, 0, 0, 1, 0), 1001);
	assert_int_not_equal(throttle_wait(&throttle, false, 0), 0);
	assert_int_equal(hungry(false, 0, 3600 * SEC, 3600 * SEC + 1, 0), 1001);
}

static void changes_act_at_once(void **state)
{
	struct throttle_limits limits = {.burst_ms = 10};

	(void)state;
	limits.rate[THROTTLE_BPS] = 1000;
	set(&limits, 0);
	throttle_pay(&throttle, false, 1000010);
	assert_true(throttle_wait(&throttle, false, 0) > 999 * SEC);
	limits.rate[THROTTLE_BPS] = 1000000;
	throttle_set(&throttle, &limits, 0);
	assert_true(throttle_wait(&throttle, false, 0) <= SEC + 1000);
	limits.rate[THROTTLE_BPS] = 0;
	throttle_set(&throttle, &limits, 0);
	assert_int_equal(throttle_wait(&throttle, false, 0), 0);
	/* Set again it starts anew, without old debts. */
	limits.rate[THROTTLE_BPS] = 1;
	throttle_set(&throttle, &limits, 0);
	assert_int_equal(throttle_wait(&throttle, false, 0), 0);
}

static void extremes_do_not_overflow(void **state)
{
	struct throttle_limits limits = {.burst_ms = UINT64_MAX};

	(void)state;
	for (unsigned i = 0; i < THROTTLE_LIMITS; i++)
		limits.rate[i] = UINT64_MAX >> 1;
	set(&limits, UINT64_MAX / 2);
	/* A clock that goes back a little brings nothing and takes nothing. */
	assert_int_equal(throttle_wait_any(&throttle, UINT64_MAX / 2 - 5), 0);
	for (unsigned i = 0; i < 1000; i++)
		throttle_pay(&throttle, i & 1, 1u << 20);
	assert_int_equal(throttle_wait_any(&throttle, UINT64_MAX - 1), 0);
	for (unsigned i = 0; i < THROTTLE_LIMITS; i++) {
		assert_true(throttle.bucket[i].level > 0);
		assert_int_equal(throttle.bucket[i].level, throttle.bucket[i].full);
	}
	/* The other end: one a second, and a debt of 4 GiB. */
	for (unsigned i = 0; i < THROTTLE_LIMITS; i++)
		limits.rate[i] = 1;
	limits.burst_ms = 0;
	set(&limits, 0);
	throttle_pay(&throttle, true, UINT32_MAX);
	assert_int_equal(throttle_wait(&throttle, true, 0), (uint64_t)UINT32_MAX * SEC - SEC + 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_limits_nobody_waits),
		cmocka_unit_test(operations_are_exact_over_time),
		cmocka_unit_test(bytes_are_exact_over_time),
		cmocka_unit_test(one_kind_does_not_wait_for_the_other),
		cmocka_unit_test(idle_time_is_saved_up_to_the_burst),
		cmocka_unit_test(changes_act_at_once),
		cmocka_unit_test(extremes_do_not_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
