/*
 * What a device may hold: buffers within the guest's budget, and pages of persistent grants within caps, on
 * a hypervisor that maps what it is told to.
 */
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bufs.h"
#include "grants.h"

/* --- buffers --- */

static void each_kind_is_granted_once(void **state)
{
	struct buf_budget budget = { .limit = 1 };
	struct bufs a, b;
	void *data, *arrays, *others;

	(void)state;
	bufs_init(&a, &budget);
	bufs_init(&b, &budget);
	data = bufs_get(&a, BUFS_DATA, 1 << 20);
	assert_non_null(data);
	assert_null(bufs_get(&a, BUFS_DATA, 1));
	arrays = bufs_get(&a, BUFS_ARRAYS, 10000);
	assert_non_null(arrays);
	assert_null(bufs_get(&a, BUFS_ARRAYS, 10000));
	/* Another disk of the guest has its own right. */
	others = bufs_get(&b, BUFS_DATA, 4096);
	assert_non_null(others);
	memset(data, 1, 1 << 20);
	bufs_put(&a, BUFS_DATA, data, 1 << 20);
	/* Over budget nothing is kept. */
	assert_int_equal(bufs_idle(&a), 0);
	bufs_put(&a, BUFS_ARRAYS, arrays, 10000);
	bufs_put(&b, BUFS_DATA, others, 4096);
	bufs_destroy(&a);
	bufs_destroy(&b);
	assert_int_equal(budget.used, 0);
}

static void idle_buffers_make_way(void **state)
{
	struct buf_budget budget = { .limit = 512 << 10 };
	struct bufs bufs;
	void *small[8], *big;

	(void)state;
	bufs_init(&bufs, &budget);
	for (unsigned i = 0; i < 8; i++)
		assert_non_null(small[i] = bufs_get(&bufs, BUFS_DATA, 45056));
	for (unsigned i = 1; i < 8; i++)
		bufs_put(&bufs, BUFS_DATA, small[i], 45056);
	assert_int_equal(bufs_idle(&bufs), 7 * (12 << 12));
	/* The same one again, at once. */
	assert_ptr_equal(bufs_get(&bufs, BUFS_DATA, 100), small[7]);
	bufs_put(&bufs, BUFS_DATA, small[7], 100);
	/* Another size does not fit beside the idle ones. */
	big = bufs_get(&bufs, BUFS_DATA, 128 << 10);
	assert_non_null(big);
	assert_true(budget.used <= budget.limit);
	bufs_put(&bufs, BUFS_DATA, big, 128 << 10);
	bufs_put(&bufs, BUFS_DATA, small[0], 45056);
	assert_true(bufs_trim(&bufs));
	assert_false(bufs_trim(&bufs));
	assert_int_equal(bufs_bytes(&bufs), 0);
	bufs_destroy(&bufs);
}

/* --- grants --- */

static unsigned maps, mapped_now, fail_next;
static uint8_t memory[1 << 22];

static int fake_map(struct hyp_gnt *gnt, uint32_t domid, const uint32_t *grefs, unsigned count,
		    bool writable, void **addr)
{
	(void)gnt, (void)domid, (void)writable, (void)grefs;
	if (fail_next) {
		fail_next--;
		return -EINVAL;
	}
	*addr = memory + (size_t)(maps * 8 % 512) * 4096;
	maps++;
	mapped_now += count;
	return 0;
}

static int fake_unmap(struct hyp_gnt *gnt, void *addr, unsigned count)
{
	(void)gnt, (void)addr;
	mapped_now -= count;
	return 0;
}

static const struct hyp_ops fake_ops = { .gnt_map = fake_map, .gnt_unmap = fake_unmap };
static struct hyp fake = { .ops = &fake_ops };
static struct grant_budget grant_budget;
static struct stats stats;
static struct grant_cache *cache;
static void *page[256];
static struct grant_map *pin[256];

static void start(unsigned cap, size_t limit)
{
	maps = fail_next = 0;
	grant_budget = (struct grant_budget){ .limit = limit };
	assert_int_equal(grants_create(&fake, NULL, 5, cap, &grant_budget, &stats, &cache), 0);
}

static void end(void)
{
	grants_destroy(cache);
	assert_int_equal(mapped_now, 0);
	assert_int_equal(grant_budget.used, 0);
}

/* Pin references first..first + count - 1; returns the groups pinned, or -errno. */
static int pin_range(uint32_t first, unsigned count)
{
	struct ring_seg seg[256];
	unsigned npins;
	int err;

	for (unsigned i = 0; i < count; i++)
		seg[i] = (struct ring_seg){ .gref = first + i };
	err = grants_pin(cache, seg, count, page, pin, &npins);
	assert_true(!err || !npins);
	return err ? err : (int)npins;
}

static void pages_are_mapped_once(void **state)
{
	void *before;

	(void)state;
	start(64, 1000);
	assert_int_equal(pin_range(100, 8), 1);
	before = page[3];
	grants_unpin(pin, 1);
	assert_int_equal(pin_range(103, 1), 1);
	assert_ptr_equal(page[0], before);
	grants_unpin(pin, 1);
	assert_int_equal(maps, 1);
	/* Half known, half new. */
	assert_int_equal(pin_range(104, 8), 2);
	grants_unpin(pin, 2);
	assert_int_equal(maps, 2);
	assert_int_equal(mapped_now, 12);
	assert_int_equal(grants_mapped(cache), 12);
	end();
}

static void duplicates_are_one_page(void **state)
{
	struct ring_seg seg[6] = { { .gref = 7 }, { .gref = 8 }, { .gref = 7 }, { .gref = 7 },
				   { .gref = 8 }, { .gref = 0xffffffff } };
	unsigned npins;

	(void)state;
	start(6, 6);
	assert_int_equal(grants_pin(cache, seg, 6, page, pin, &npins), 0);
	assert_int_equal(npins, 1);
	assert_int_equal(mapped_now, 3);
	assert_ptr_equal(page[0], page[2]);
	assert_ptr_equal(page[0], page[3]);
	assert_ptr_equal(page[1], page[4]);
	assert_int_equal(grant_budget.used, 3);
	grants_unpin(pin, npins);
	end();
}

static void least_recently_used_goes_first(void **state)
{
	(void)state;
	start(24, 1000);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(pin_range(i * 8, 8), 1);
		grants_unpin(pin, 1);
	}
	assert_int_equal(pin_range(0, 1), 1); /* the first is used again */
	grants_unpin(pin, 1);
	assert_int_equal(pin_range(100, 8), 1); /* so the second goes */
	grants_unpin(pin, 1);
	assert_int_equal(maps, 4);
	assert_int_equal(pin_range(0, 8), 1);
	grants_unpin(pin, 1);
	assert_int_equal(pin_range(16, 8), 1);
	grants_unpin(pin, 1);
	assert_int_equal(maps, 4);
	assert_int_equal(pin_range(8, 8), 1);
	grants_unpin(pin, 1);
	assert_int_equal(maps, 5);
	end();
}

static void pinned_pages_stay(void **state)
{
	struct grant_map *held;

	(void)state;
	start(8, 1000);
	assert_int_equal(pin_range(0, 6), 1);
	held = pin[0];
	assert_int_equal(pin_range(10, 3), -ENOSPC);
	assert_int_equal(pin_range(10, 2), 1);
	grants_unpin(pin, 1);
	grants_unpin(&held, 1);
	assert_int_equal(pin_range(20, 8), 1);
	grants_unpin(pin, 1);
	assert_int_equal(pin_range(20, 9), -ENOSPC);
	end();
}

static void budget_of_the_guest(void **state)
{
	(void)state;
	start(64, 10);
	grant_budget.used = 6; /* another disk's */
	assert_int_equal(pin_range(0, 5), -ENOSPC);
	assert_int_equal(pin_range(0, 4), 1);
	grants_unpin(pin, 1);
	grant_budget.used -= 6;
	end();
}

static void failed_map_leaves_nothing(void **state)
{
	(void)state;
	start(16, 16);
	for (unsigned i = 0; i < 40; i++) {
		fail_next = 1;
		assert_int_equal(pin_range(i, 8), -EINVAL);
		assert_int_equal(grants_mapped(cache), 0);
		assert_int_equal(grant_budget.used, 0);
	}
	assert_int_equal(pin_range(0, 16), 1);
	grants_unpin(pin, 1);
	end();
	start(0, 16);
	assert_int_equal(pin_range(0, 1), -ENOSPC);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_kind_is_granted_once),
		cmocka_unit_test(idle_buffers_make_way),
		cmocka_unit_test(pages_are_mapped_once),
		cmocka_unit_test(duplicates_are_one_page),
		cmocka_unit_test(least_recently_used_goes_first),
		cmocka_unit_test(pinned_pages_stay),
		cmocka_unit_test(budget_of_the_guest),
		cmocka_unit_test(failed_map_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
