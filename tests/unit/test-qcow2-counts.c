/* qcow2/counts.h: sparse counters against what was put in, and entries of refcount blocks of each width. */
#include "test.h"

#include <errno.h>
#include <stdlib.h>

#include "qcow2/counts.h"

static void far_apart(void **state)
{
	struct counts c;

	(void)state;
	counts_init(&c);
	assert_int_equal(counts_get(&c, 7), 0);
	for (uint64_t i = 0; i < 3000; i++)
		assert_int_equal(counts_set(&c, i * 0x123456789u, i), 0);
	for (uint64_t i = 0; i < 3000; i++)
		assert_int_equal(counts_get(&c, i * 0x123456789u), i);
	assert_int_equal(counts_get(&c, 0x123456788u), 0);
	counts_free(&c);
}

static void sorted_by_key(void **state)
{
	struct counts c;
	struct group **all;

	(void)state;
	counts_init(&c);
	for (uint64_t i = 2000; i > 0; i--)
		assert_int_equal(counts_set(&c, i * 1000, 1), 0);
	all = counts_sorted(&c);
	assert_non_null(all);
	for (size_t i = 1; i < c.nr_groups; i++)
		assert_true(all[i - 1]->key < all[i]->key);
	free(all);
	counts_free(&c);
}

static void stays_in_range(void **state)
{
	struct counts c;

	(void)state;
	counts_init(&c);
	assert_int_equal(counts_add(&c, 5, 255, 300), 0);
	assert_int_equal(counts_add(&c, 5, 45, 300), 0);
	assert_int_equal(counts_add(&c, 5, 1, 300), -ERANGE);
	assert_int_equal(counts_add(&c, 5, -301, 300), -ERANGE);
	assert_int_equal(counts_get(&c, 5), 300);
	assert_int_equal(counts_add(&c, 5, -300, 300), 0);
	assert_int_equal(counts_get(&c, 5), 0);
	assert_int_equal(counts_get(&c, 4), 0);
	counts_free(&c);
}

static void takes_what_is_free(void **state)
{
	struct counts c;
	uint64_t at;

	(void)state;
	counts_init(&c);
	assert_int_equal(counts_set(&c, 0, 1), 0);
	assert_int_equal(counts_use(&c, 2, USE_PINNED), 0);
	assert_int_equal(counts_take(&c, 2, &at), 0);
	assert_int_equal(at, 3);
	assert_int_equal(counts_take(&c, 1, &at), 0);
	assert_int_equal(at, 1);
	assert_int_equal(counts_take(&c, 1, &at), 0);
	assert_int_equal(at, 5);
	counts_free(&c);
}

static void entries_of_each_width(void **state)
{
	uint8_t block[512];
	uint64_t n;

	(void)state;
	for (unsigned order = 0; order <= 6; order++) {
		memset(block, 0xff, sizeof(block));
		n = sizeof(block) * 8 >> order;
		for (uint64_t i = 0; i < n; i++)
			refcount_put(block, order, i, i & refcount_max(order));
		for (uint64_t i = 0; i < n; i++)
			assert_int_equal(refcount_at(block, order, i), i & refcount_max(order));
	}
	/* The format's own examples: bits from the lowest up, bytes from the highest down. */
	memset(block, 0, sizeof(block));
	refcount_put(block, 1, 2, 3);
	assert_int_equal(block[0], 0x30);
	refcount_put(block, 4, 1, 0x102);
	assert_int_equal(block[2], 1);
	assert_int_equal(block[3], 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(far_apart),	      cmocka_unit_test(sorted_by_key),
		cmocka_unit_test(stays_in_range),     cmocka_unit_test(takes_what_is_free),
		cmocka_unit_test(entries_of_each_width),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
