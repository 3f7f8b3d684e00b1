/*
 * Grants that fail: the kth segment that is mapped or copied, for every k, in each way of reaching the
 * guest's memory.
 */
#include "../unit/test.h"

#include "rig.h"

#define BIG 256u

static struct rig rig;
static struct guest *guest;
static struct disk disk;
static struct mem mem;
static uint8_t *table;
static uint32_t table_gref;

static int setup(void **state)
{
	(void)state;
	rig_open(&rig, 8u << 20);
	assert_int_equal(guest_open(rig.socket, 5, 1024, 1024, &guest), 0);
	memset(&disk, 0, sizeof(disk));
	mem_get(&mem, guest, BIG);
	table = guest_pages(guest, 1);
	table_gref = guest_grant(guest, table, true);
	mem_table(&mem, table, BIG);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	disk_end(&disk);
	guest_close(guest);
	rig_close(&rig);
	return 0;
}

static void put(uint8_t op, unsigned segs)
{
	if (segs <= SEGS)
		q_put(&disk.q[0], op, segs, 0, mem.gref, segs);
	else
		q_put_indirect(&disk.q[0], op, segs, 0, table_gref, segs);
	q_push(&disk.q[0]);
}

static void seed(uint8_t with, unsigned segs)
{
	for (unsigned i = 0; i < segs; i++)
		memset(mem.data + i * 4096, (uint8_t)(with + i), 4096);
}

/* One write and one read, of which the kth segment fails. If the answer is OK all the same, it is true. */
static void fail_at(unsigned k, unsigned segs, uint8_t with)
{
	struct answer a;

	seed(with, segs);
	assert_int_equal(guest_fault(rig.toolstack, LB_FAULT_GRANT, 5, k, -1), 0);
	put(BLKIF_OP_WRITE, segs);
	a = q_answer(&disk.q[0]);
	assert_in_range(-a.status, 0, 1);
	assert_int_equal(guest_fault(rig.toolstack, LB_FAULT_NONE, 5, 0, 0), 0);
	if (a.status) {
		put(BLKIF_OP_WRITE, segs);
		assert_int_equal(q_answer(&disk.q[0]).status, 0);
	}
	memset(mem.data, 0xee, (size_t)segs * 4096);
	assert_int_equal(guest_fault(rig.toolstack, LB_FAULT_GRANT, 5, k, -1), 0);
	put(BLKIF_OP_READ, segs);
	a = q_answer(&disk.q[0]);
	assert_int_equal(guest_fault(rig.toolstack, LB_FAULT_NONE, 5, 0, 0), 0);
	if (a.status) {
		put(BLKIF_OP_READ, segs);
		assert_int_equal(q_answer(&disk.q[0]).status, 0);
	}
	for (unsigned i = 0; i < segs; i++)
		assert_int_equal(mem.data[i * 4096 + 4095], (uint8_t)(with + i));
}

static void every_segment(const char *settings, bool persistent)
{
	static const unsigned counts[] = { 1, 2, SEGS, SEGS + 1, 32, 33 };
	static const unsigned edges[] = { 1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257 };
	char params[4200];
	struct lb_stats stats;
	uint8_t with = 1;

	snprintf(params, sizeof(params), "raw:%s", disk_file(rig.files, "disk", 2 << 20));
	disk_new(&disk, &rig, guest, 51712, params, settings, true);
	for (unsigned c = 0; c < ARRAY_SIZE(counts); c++) {
		/* Anew, so that nothing is mapped yet. */
		assert_int_equal(disk_connect(&disk, 0, 1, persistent), 0);
		for (unsigned k = 1; k <= counts[c] + 1; k++)
			fail_at(k, counts[c], with++);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(edges); i++) {
		assert_int_equal(disk_connect(&disk, 0, 1, persistent), 0);
		fail_at(edges[i], BIG, with++);
	}
	assert_int_equal(strand(&disk, do_disconnect), 0);
	mem_assert_unused(&mem, guest);
	assert_int_equal(guest_grant_in_use(guest, table_gref), 0);
	assert_int_equal(guest_stats(rig.toolstack, 5, &stats), 0);
	assert_int_equal(stats.mapped, 0);
}

static void persistent(void **state)
{
	(void)state;
	every_segment("", true);
}

static void persistent_small_cap(void **state)
{
	(void)state;
	every_segment("max-grants=8 aio=threads", true);
}

static void copy(void **state)
{
	(void)state;
	every_segment("grant=copy", false);
}

static void map(void **state)
{
	(void)state;
	every_segment("grant=map", false);
}

static void map_threads(void **state)
{
	(void)state;
	every_segment("grant=map aio=threads", false);
}

static void map_single(void **state)
{
	(void)state;
	every_segment("grant=map-single", false);
}

static void direct_persistent(void **state)
{
	(void)state;
	every_segment("cache=none aio=native", true);
}

static void direct_map(void **state)
{
	(void)state;
	every_segment("cache=none aio=threads grant=map", false);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(persistent), CASE(persistent_small_cap), CASE(copy),
		CASE(map), CASE(map_threads), CASE(map_single),
		CASE(direct_persistent), CASE(direct_map),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
