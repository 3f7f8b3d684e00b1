/* base/bytes.h: byte order at odd addresses, rounding at the edges. */
#include "test.h"

#include "base/bytes.h"

static const unsigned char bytes[9] = { 0xff, 1, 2, 3, 4, 5, 6, 7, 8 };

static void loads(void **state)
{
	(void)state;
	assert_int_equal(load_le16(bytes + 1), 0x0201);
	assert_int_equal(load_be16(bytes + 1), 0x0102);
	assert_int_equal(load_le32(bytes + 1), 0x04030201);
	assert_int_equal(load_be32(bytes + 1), 0x01020304);
	assert_true(load_le64(bytes + 1) == UINT64_C(0x0807060504030201));
	assert_true(load_be64(bytes + 1) == UINT64_C(0x0102030405060708));
}

static void stores(void **state)
{
	unsigned char out[9] = { 0xff };

	(void)state;
	store_be64(out + 1, UINT64_C(0x0102030405060708));
	assert_memory_equal(out, bytes, sizeof(bytes));
	store_le64(out + 1, UINT64_C(0x0807060504030201));
	assert_memory_equal(out, bytes, sizeof(bytes));
	store_le32(out + 1, 0x01020304);
	assert_int_equal(load_be32(out + 1), 0x04030201);
	store_be16(out + 1, 0xabcd);
	assert_int_equal(out[1], 0xab);
	assert_int_equal(out[0], 0xff);
}

static void rounding(void **state)
{
	(void)state;
	assert_true(round_up(0, 512) == 0);
	assert_true(round_up(1, 512) == 512);
	assert_true(round_up(512, 512) == 512);
	assert_true(round_up(UINT64_MAX - 511, 512) == UINT64_MAX - 511);
	assert_true(round_down(1023, 512) == 512);
	assert_true(is_aligned(4096, 512));
	assert_false(is_aligned(4097, 512));
	assert_true(div_round_up(0, 3) == 0);
	assert_true(div_round_up(UINT64_MAX, 2) == UINT64_C(1) << 63);
}

static void powers(void **state)
{
	(void)state;
	assert_false(is_pow2(0));
	assert_true(is_pow2(1));
	assert_false(is_pow2(6));
	assert_true(is_pow2(UINT64_C(1) << 63));
	assert_int_equal(log2_u64(1), 0);
	assert_int_equal(log2_u64(UINT64_MAX), 63);
}

static void min_max_evaluate_once(void **state)
{
	int n = 0;

	(void)state;
	assert_int_equal(MIN(n++, 5), 0);
	assert_int_equal(n, 1);
	assert_int_equal(MAX(3, n++), 3);
	assert_int_equal(n, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loads),
		cmocka_unit_test(stores),
		cmocka_unit_test(rounding),
		cmocka_unit_test(powers),
		cmocka_unit_test(min_max_evaluate_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
