/* base/overflow.h: exact at the edges, refused one beyond. */
#include "test.h"

#include "base/overflow.h"

static void add_at_the_edge(void **state)
{
	uint64_t r;
	size_t s;

	(void)state;
	assert_true(add_u64(UINT64_MAX - 1, 1, &r));
	assert_true(r == UINT64_MAX);
	assert_false(add_u64(UINT64_MAX, 1, &r));
	assert_true(add_size(SIZE_MAX - 1, 1, &s));
	assert_true(s == SIZE_MAX);
	assert_false(add_size(SIZE_MAX, 1, &s));
}

static void sub_at_the_edge(void **state)
{
	uint64_t r;

	(void)state;
	assert_true(sub_u64(1, 1, &r));
	assert_true(r == 0);
	assert_false(sub_u64(0, 1, &r));
}

static void mul_at_the_edge(void **state)
{
	uint64_t r;
	size_t s;

	(void)state;
	assert_true(mul_u64(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &r));
	assert_true(r == 0xffffffff00000000u);
	assert_false(mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &r));
	assert_true(mul_size(SIZE_MAX / 2, 2, &s));
	assert_false(mul_size(SIZE_MAX / 2 + 1, 2, &s));
}

static void range_inside_never_wraps(void **state)
{
	(void)state;
	assert_true(range_inside(0, 10, 10));
	assert_true(range_inside(10, 0, 10));
	assert_false(range_inside(11, 0, 10));
	assert_false(range_inside(1, 10, 10));
	assert_false(range_inside(UINT64_MAX, 2, 10));
	assert_false(range_inside(1, UINT64_MAX, UINT64_MAX));
}

static void overlap_is_of_bytes(void **state)
{
	(void)state;
	assert_true(ranges_overlap(0, 2, 1, 2));
	assert_true(ranges_overlap(5, 1, 0, 10));
	assert_false(ranges_overlap(0, 1, 1, 1));
	assert_false(ranges_overlap(0, 0, 0, 10));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(add_at_the_edge),     cmocka_unit_test(sub_at_the_edge),
		cmocka_unit_test(mul_at_the_edge),     cmocka_unit_test(range_inside_never_wraps),
		cmocka_unit_test(overlap_is_of_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
