/*
 * What once went wrong in the data path, or could: stalls, budgets, orders, and calls that do not return.
 */
#include "../unit/test.h"

#include "rig.h"

static struct rig rig;
static struct guest *guest;
static struct disk disk, other;
static struct mem mem;
static char path[4096], params[8300];

static void open_rig(size_t memory)
{
	rig_open(&rig, memory);
	assert_int_equal(guest_open(rig.socket, 5, 4096, 4096, &guest), 0);
	memset(&disk, 0, sizeof(disk));
	memset(&other, 0, sizeof(other));
	mem_get(&mem, guest, 64);
	snprintf(path, sizeof(path), "%s", disk_file(rig.files, "disk", 8 << 20));
	snprintf(params, sizeof(params), "raw:%s", path);
}

static int setup(void **state)
{
	(void)state;
	rig_drain_ms = RIG_PATIENT_MS;
	open_rig(8u << 20);
	return 0;
}

/* Here a call hangs, and is given up soon. */
static int setup_hang(void **state)
{
	(void)state;
	rig_drain_ms = RIG_DRAIN_MS;
	open_rig(8u << 20);
	return 0;
}

/* One page of buffers for all disks of the guest: each has what it is always granted, and no more. */
static int setup_poor(void **state)
{
	(void)state;
	rig_drain_ms = RIG_PATIENT_MS;
	open_rig(1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	disk_end(&disk);
	disk_end(&other);
	guest_close(guest);
	rig_close(&rig);
	return 0;
}

static void touch(const char *name)
{
	FILE *f = fopen(name, "w");

	assert_non_null(f);
	fclose(f);
}

static char *in_dir(const char *name)
{
	static char buf[4][4200];
	static unsigned next;
	char *p = buf[next++ % 4];

	snprintf(p, 4200, "%s/%s", rig.files, name);
	return p;
}

static void new_disk(const char *driver, const char *settings)
{
	snprintf(params, sizeof(params), "%s%sraw:%s", driver, *driver ? ":" : "", path);
	disk_new(&disk, &rig, guest, 51712, params, settings, true);
	rig_watched = &disk;
}

/* All bytes of the file from sector on: the one, or the other. */
static void assert_on_disk(uint64_t sector, int one, int other_one)
{
	static uint8_t buf[SEGS * 4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, buf, sizeof(buf), (off_t)(sector * 512)), sizeof(buf));
	close(fd);
	for (size_t i = 0; i < sizeof(buf); i++)
		if (buf[i] != one && (buf[i] != other_one || buf[i] != buf[0]))
			fail_msg("byte %zu behind sector %llu is %#x", i, (unsigned long long)sector,
				 buf[i]);
}

/* --- calls that do not return --- */

/* A write that hangs, and another that hangs too or stands behind it, when the guest's memory is taken away:
 * they write what they were to write, late, or nothing. */
static void late_write_is_what_it_was_to_be(const char *settings, bool persistent)
{
	char driver[8300];

	snprintf(driver, sizeof(driver), "delay,hang=write,nth=3,release=%s", in_dir("release"));
	new_disk(driver, settings);
	assert_int_equal(disk_connect(&disk, 0, 1, persistent), 0);
	memset(mem.data, 0x11, SEGS * 4096);
	assert_int_equal(q_do(&disk.q[0], BLKIF_OP_WRITE, 0, mem.gref, SEGS), 0);
	assert_int_equal(q_do(&disk.q[0], BLKIF_OP_WRITE, 800, mem.gref, SEGS), 0);
	memset(mem.data, 0x22, SEGS * 4096);
	q_put(&disk.q[0], BLKIF_OP_WRITE, 1, 0, mem.gref, SEGS);
	q_put(&disk.q[0], BLKIF_OP_WRITE, 2, 800, mem.gref, SEGS);
	q_push(&disk.q[0]);
	wait_until(stats_get(dev_stats(disk.dev)->pool_io) == 4);
	assert_int_equal(strand(&disk, do_disconnect), -ETIMEDOUT);
	mem_assert_unused(&mem, guest);
	memset(mem.data, 0x33, SEGS * 4096);
	touch(in_dir("release"));
	wait_until(disk_logged("has returned"));
	assert_on_disk(0, 0x22, 0x22);
	assert_on_disk(800, 0x11, 0x22);
	assert_false(q_answered(&disk.q[0]));
}

static void late_write_persistent(void **state)
{
	(void)state;
	late_write_is_what_it_was_to_be("aio=threads", true);
}

static void late_write_mapped(void **state)
{
	(void)state;
	late_write_is_what_it_was_to_be("aio=threads grant=map", false);
}

static void late_write_mapped_singly(void **state)
{
	(void)state;
	late_write_is_what_it_was_to_be("aio=threads grant=map-single", false);
}

static void late_write_copied(void **state)
{
	(void)state;
	late_write_is_what_it_was_to_be("aio=threads grant=copy", false);
}

static void late_write_direct_mapped(void **state)
{
	(void)state;
	late_write_is_what_it_was_to_be("cache=none aio=threads grant=map", false);
}

/* The flush when the image is closed is a driver call, too. */
static void hanging_flush_at_the_end(void **state)
{
	char driver[8300];
	long long start;

	(void)state;
	snprintf(driver, sizeof(driver), "delay,hang=flush,release=%s", in_dir("release"));
	new_disk(driver, "");
	assert_int_equal(disk_connect(&disk, 0, 1, true), 0);
	assert_int_equal(q_do(&disk.q[0], BLKIF_OP_WRITE, 0, mem.gref, SEGS), 0);
	start = guest_now_ms();
	assert_int_equal(strand(&disk, do_disconnect), -ETIMEDOUT);
	assert_true(guest_now_ms() - start < RIG_DRAIN_MS + WAIT_MS);
	assert_int_equal(dev_state(disk.dev), DEV_IDLE);
	mem_assert_unused(&mem, guest);
	for (unsigned i = 0; i < 1; i++)
		assert_int_equal(guest_grant_in_use(guest, disk.q[0].gref[i]), 0);
	touch(in_dir("release"));
	/* A connect waits until the image is free again. */
	assert_int_equal(disk_connect(&disk, 0, 1, true), 0);
	assert_int_equal(q_do(&disk.q[0], BLKIF_OP_READ, 0, mem.gref, 1), 0);
}

/* --- budgets and bounds --- */

/* max-requests bounds the disk, not each of its rings, and rings that wait for it are served in the end. */
static void max_requests_over_all_rings(void **state)
{
	(void)state;
	new_disk("delay,read-ms=20", "aio=threads max-requests=3");
	assert_int_equal(disk_connect(&disk, 0, 4, true), 0);
	for (unsigned i = 0; i < 4; i++)
		for (unsigned n = 0; n < 8; n++)
			q_put(&disk.q[i], BLKIF_OP_READ, n, 0, mem.gref, 1);
	for (unsigned i = 0; i < 4; i++)
		q_push(&disk.q[i]);
	for (unsigned n = 0; n < 32; n++) {
		struct answer a;

		assert_true(disk_look(&disk).inflight <= 3);
		assert_true(q_try_answer(&disk.q[n / 8], &a, WAIT_MS));
		assert_int_equal(a.status, 0);
	}
}

/* One request at a time, and a flush that is held for ever: data is answered all the same. */
static void parked_flush_takes_no_turn(void **state)
{
	(void)state;
	new_disk("error,op=flush,errno=EIO,nth=1", "max-requests=1");
	assert_int_equal(disk_connect(&disk, 0, 1, true), 0);
	for (unsigned i = 0; i < 5; i++) {
		q_put(&disk.q[0], BLKIF_OP_FLUSH_DISKCACHE, 1, 0, NULL, 0);
		q_push(&disk.q[0]);
		wait_until(disk_look(&disk).parked == i + 1);
		assert_int_equal(q_do(&disk.q[0], BLKIF_OP_READ, 0, mem.gref, 1), BLKIF_RSP_ERROR);
	}
}

/* Every ring of a disk has a large indirect request, and the guest has no memory left. */
static void large_requests_of_all_rings_without_memory(const char *settings)
{
	uint8_t *table = guest_pages(guest, 1);
	uint32_t table_gref = guest_grant(guest, table, true);

	mem_table(&mem, table, 256);
	new_disk("", settings);
	assert_int_equal(disk_connect(&disk, 0, 4, true), 0);
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < 4; i++)
			for (unsigned n = 0; n < 8; n++)
				q_put_indirect(&disk.q[i], BLKIF_OP_READ, n, 0, table_gref, 256);
		for (unsigned i = 0; i < 4; i++)
			q_push(&disk.q[i]);
		for (unsigned n = 0; n < 32; n++)
			assert_int_equal(q_answer(&disk.q[n / 8]).status, 0);
	}
}

static void large_requests_copied(void **state)
{
	(void)state;
	large_requests_of_all_rings_without_memory("grant=copy aio=threads");
}

static void large_requests_direct(void **state)
{
	(void)state;
	large_requests_of_all_rings_without_memory("cache=none aio=native");
}

/* What the process has used, but for this thread, which may be busy waiting. */
static uint64_t others_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return cpu_ns() - ((uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec);
}

/* A barrier waits for memory that another ring of the disk has: without spinning, and it gets it. */
static void barrier_waits_for_memory(void **state)
{
	uint64_t cpu;
	long long start;

	(void)state;
	new_disk("delay,read-ms=2000", "grant=copy aio=threads barrier=on");
	assert_int_equal(disk_connect(&disk, 0, 2, true), 0);
	q_put(&disk.q[0], BLKIF_OP_READ, 1, 0, mem.gref, SEGS);
	q_push(&disk.q[0]);
	wait_until(stats_get(dev_stats(disk.dev)->pool_io) == 1);
	cpu = others_cpu_ns();
	start = guest_now_ms();
	q_put(&disk.q[1], BLKIF_OP_WRITE_BARRIER, 2, 0, mem.gref, SEGS);
	q_push(&disk.q[1]);
	assert_int_equal(q_answer(&disk.q[0]).status, 0);
	/* Spinning would take a processor for all of the time. */
	assert_true((others_cpu_ns() - cpu) / 1000000u < (uint64_t)(guest_now_ms() - start) * 7 / 10);
	assert_int_equal(q_answer(&disk.q[1]).status, 0);
}

/* --- order --- */

/* What stands behind a flush does not wait for it. */
static void reads_do_not_wait_for_a_flush(void **state)
{
	struct answer a;

	(void)state;
	new_disk("delay,flush-ms=1000", "aio=threads");
	assert_int_equal(disk_connect(&disk, 0, 1, true), 0);
	q_put(&disk.q[0], BLKIF_OP_FLUSH_DISKCACHE, 1, 0, NULL, 0);
	for (unsigned i = 2; i < 8; i++)
		q_put(&disk.q[0], BLKIF_OP_READ, i, 0, mem.gref, 1);
	q_push(&disk.q[0]);
	for (unsigned i = 2; i < 8; i++) {
		a = q_answer(&disk.q[0]);
		assert_int_not_equal(a.id, 1);
		assert_int_equal(a.status, 0);
	}
	/* Nor do those that come later. */
	q_put(&disk.q[0], BLKIF_OP_READ, 8, 0, mem.gref, 1);
	q_push(&disk.q[0]);
	assert_int_equal(q_answer(&disk.q[0]).id, 8);
	assert_int_equal(q_answer(&disk.q[0]).id, 1);
}

/* A write without space, then a barrier, then more: after the unpause all run, in order. */
static void barrier_behind_a_parked_write(void **state)
{
	struct answer a;

	(void)state;
	new_disk("error,op=write,errno=ENOSPC,nth=1,count=1", "barrier=on aio=threads");
	assert_int_equal(disk_connect(&disk, 0, 1, true), 0);
	memset(mem.data, 0x44, 8192);
	q_put(&disk.q[0], BLKIF_OP_WRITE, 1, 0, mem.gref, 1);
	q_put(&disk.q[0], BLKIF_OP_WRITE_BARRIER, 2, 0, mem.gref + 1, 1);
	q_put(&disk.q[0], BLKIF_OP_READ, 3, 0, mem.gref + 2, 1);
	q_push(&disk.q[0]);
	wait_until(disk_look(&disk).parked == 1);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(strand(&disk, do_pause), 0);
	assert_false(q_answered(&disk.q[0]));
	assert_int_equal(strand(&disk, do_unpause), 0);
	for (unsigned i = 1; i <= 3; i++) {
		a = q_answer(&disk.q[0]);
		assert_int_equal(a.id, i);
		assert_int_equal(a.status, 0);
	}
	assert_int_equal(mem.data[2 * 4096], 0x44);
}

/* Pause and go on as fast as it goes, with parked requests that fail again each time: what a pause finds
 * parked does not run before the resume. */
static int do_flap(struct disk *d)
{
	int err = dev_unpause(d->dev, NULL);

	if (!err)
		err = dev_pause(d->dev);
	if (!err && disk_look(d).inflight != disk_look(d).parked)
		err = -EBUSY;
	return err;
}

static void parked_requests_rest_while_paused(void **state)
{
	(void)state;
	new_disk("error,op=write,errno=ENOSPC", "");
	assert_int_equal(disk_connect(&disk, 0, 2, true), 0);
	for (unsigned i = 0; i < 6; i++)
		q_put(&disk.q[i / 3], BLKIF_OP_WRITE, i, 0, mem.gref, 1);
	q_push(&disk.q[0]);
	wait_until(disk_look(&disk).parked == 3);
	q_push(&disk.q[1]);
	assert_int_equal(strand(&disk, do_pause), 0);
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(strand(&disk, do_flap), 0);
	assert_int_equal(strand(&disk, do_unpause), 0);
	wait_until(disk_look(&disk).parked >= 3);
	assert_int_equal(strand(&disk, do_disconnect), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(q_answer(&disk.q[0]).status, BLKIF_RSP_ERROR);
}

/* --- states --- */

/* The ring is impossible from the first moment on: the device is broken, and says so. */
static void *spoil(void *arg)
{
	uint32_t *h = arg;

	for (int i = 0; i < 100; i++) {
		usleep(20);
		__atomic_store_n(&h[0], 1000000u, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void broken_at_once_is_seen(void **state)
{
	(void)state;
	new_disk("", "");
	for (unsigned i = 0; i < 20; i++) {
		pthread_t thread;
		bool connected;

		disk.events[DEV_EV_BROKEN] = 0;
		assert_int_equal(disk_connect(&disk, 0, 1, true), 0);
		assert_int_equal(strand(&disk, do_disconnect), 0);
		q_init(&disk.q[0], 0, RING_ABI_X86_64, 0);
		assert_int_equal(pthread_create(&thread, NULL, spoil, disk.q[0].pages), 0);
		connected = strand(&disk, do_connect) == 0;
		pthread_join(thread, NULL);
		if (!connected)
			continue;
		q_kick(&disk.q[0]);
		wait_until(disk.events[DEV_EV_BROKEN] == 1);
		assert_int_equal(dev_state(disk.dev), DEV_BROKEN);
	}
}

static int do_swap_to_nothing(struct disk *d)
{
	return dev_unpause(d->dev, "raw:/nonexistent/image");
}

/* Neither the new image nor the old one can be opened: the disk stays paused, and can be taken away. */
static void swap_that_loses_both_images(void **state)
{
	(void)state;
	new_disk("", "");
	assert_int_equal(disk_connect(&disk, 0, 1, true), 0);
	assert_int_equal(strand(&disk, do_pause), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(strand(&disk, do_swap_to_nothing), -ENOENT);
	assert_int_equal(dev_state(disk.dev), DEV_PAUSED);
	assert_int_equal(strand(&disk, do_unpause), -ENOENT);
	assert_int_equal(strand(&disk, do_disconnect), 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define HANG(name) cmocka_unit_test_setup_teardown(name, setup_hang, teardown)
#define POOR(name) cmocka_unit_test_setup_teardown(name, setup_poor, teardown)
	const struct CMUnitTest tests[] = {
		HANG(late_write_persistent),
		HANG(late_write_mapped),
		HANG(late_write_mapped_singly),
		HANG(late_write_copied),
		HANG(late_write_direct_mapped),
		HANG(hanging_flush_at_the_end),
		CASE(max_requests_over_all_rings),
		CASE(parked_flush_takes_no_turn),
		POOR(large_requests_copied),
		POOR(large_requests_direct),
		POOR(barrier_waits_for_memory),
		CASE(reads_do_not_wait_for_a_flush),
		CASE(barrier_behind_a_parked_write),
		CASE(parked_requests_rest_while_paused),
		CASE(broken_at_once_is_seen),
		CASE(swap_that_loses_both_images),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
