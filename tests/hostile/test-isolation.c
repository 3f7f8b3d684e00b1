/*
 * What one guest does, or its image, and what another feels of it; and what is left when they are gone.
 */
#include "../unit/test.h"

#include <sys/resource.h>

#include "rig.h"

#define IDLE_GUESTS 8u
#define IDLE_DISKS  32u /* of each */

static struct rig rig;
static struct guest *bad, *good;
static struct disk hostile, disk;
static struct mem bad_mem, mem;
static char path[4096], params[4200];

static int open_all(unsigned drain_ms)
{
	rig_drain_ms = drain_ms;
	rig_open(&rig, 1u << 20);
	assert_int_equal(guest_open(rig.socket, 5, 1024, 1024, &bad), 0);
	assert_int_equal(guest_open(rig.socket, 6, 256, 256, &good), 0);
	memset(&hostile, 0, sizeof(hostile));
	memset(&disk, 0, sizeof(disk));
	mem_get(&bad_mem, bad, 256);
	mem_get(&mem, good, SEGS);
	snprintf(path, sizeof(path), "%s", disk_file(rig.files, "bad", 8 << 20));
	snprintf(params, sizeof(params), "raw:%s", disk_file(rig.files, "good", 8 << 20));
	return 0;
}

static int setup(void **state)
{
	(void)state;
	return open_all(RIG_PATIENT_MS);
}

/* Here a call hangs, and is given up soon. */
static int setup_hang(void **state)
{
	(void)state;
	return open_all(RIG_DRAIN_MS);
}

static int teardown(void **state)
{
	(void)state;
	disk_end(&hostile);
	disk_end(&disk);
	guest_close(bad);
	guest_close(good);
	rig_close(&rig);
	return 0;
}

static void new_hostile(const char *driver, const char *settings)
{
	char string[8400];

	snprintf(string, sizeof(string), "%s%sraw:%s", driver, *driver ? ":" : "", path);
	disk_new(&hostile, &rig, bad, 51712, string, settings, true);
}

static void new_good(const char *settings)
{
	disk_new(&disk, &rig, good, 51712, params, settings, true);
	assert_int_equal(disk_connect(&disk, 0, 1, true), 0);
}

/* So many reads of the good guest, one after the other; the time they take. */
static long long time_reads(unsigned n)
{
	long long start = guest_now_ms();

	for (unsigned i = 0; i < n; i++)
		assert_int_equal(q_do(&disk.q[0], BLKIF_OP_READ, i * 8 % 8192, mem.gref, 1), 0);
	return guest_now_ms() - start;
}

/* --- events --- */

struct storm {
	pthread_t thread;
	unsigned long sent;
	_Atomic bool stop;
	uint64_t cpu_ns;
};

static void *storm(void *arg)
{
	struct storm *s = arg;
	struct timespec t;

	while (!s->stop || s->sent < 100000) {
		q_kick(&hostile.q[0]);
		s->sent++;
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	s->cpu_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	return NULL;
}

static void event_storm(void **state)
{
	struct storm s = { .sent = 0 };
	uint64_t cpu, wakeups;

	(void)state;
	new_hostile("", "");
	assert_int_equal(disk_connect(&hostile, 0, 1, true), 0);
	new_good("");
	wakeups = stats_get(dev_stats(hostile.dev)->wakeups);
	cpu = cpu_ns();
	assert_int_equal(pthread_create(&s.thread, NULL, storm, &s), 0);
	time_reads(300);
	s.stop = true;
	pthread_join(s.thread, NULL);
	cpu = cpu_ns() - cpu - s.cpu_ns;
	wakeups = stats_get(dev_stats(hostile.dev)->wakeups) - wakeups;
	assert_true(s.sent >= 100000);
	/* One in a hundred wakes the poller at most, and most of the time is the stormer's. */
	assert_true(wakeups < s.sent / 20);
	assert_true(cpu < s.cpu_ns + 2000000000u);
	/* And the stormer's disk works. */
	assert_int_equal(q_do(&hostile.q[0], BLKIF_OP_READ, 0, bad_mem.gref, 1), 0);
}

/* --- queues and memory --- */

static unsigned refill(uint64_t *id, unsigned inflight)
{
	for (; inflight < hostile.q[0].size; inflight++, ++*id)
		q_put(&hostile.q[0], BLKIF_OP_READ, *id, (*id * 8) % 8192, bad_mem.gref + *id % 200, SEGS);
	q_push(&hostile.q[0]);
	return inflight;
}

static void *keep_deep(void *arg)
{
	_Atomic bool *stop = arg;
	unsigned inflight = 0;
	struct answer a;
	uint64_t id = 0;

	while (!*stop) {
		inflight = refill(&id, inflight);
		while (q_try_answer(&hostile.q[0], &a, 100) && !*stop)
			if (--inflight < 64)
				break;
	}
	return NULL;
}

/* A guest keeps 256 requests in flight; the other has one at a time and is served in turn. */
static void deep_queue_next_door(void **state)
{
	_Atomic bool stop = false;
	pthread_t thread;
	long long took;

	(void)state;
	new_hostile("delay,read-ms=5", "aio=threads max-requests=0 grant=copy");
	assert_int_equal(disk_connect(&hostile, 4, 1, false), 0);
	new_good("aio=threads");
	assert_int_equal(pthread_create(&thread, NULL, keep_deep, &stop), 0);
	wait_until(disk_look(&hostile).inflight > 8);
	took = time_reads(100);
	stop = true;
	pthread_join(thread, NULL);
	/* Behind all of the other's queue each would take half a second. */
	if (took > 8000)
		fail_msg("100 reads took %lld ms", took);
}

/* The buffers of a guest are used up by its own disk, which goes on slowly; the other does not notice. */
static void memory_of_one_guest(void **state)
{
	uint8_t *table = guest_pages(bad, 1);
	uint32_t table_gref = guest_grant(bad, table, true);
	struct dev_view view;

	(void)state;
	mem_table(&bad_mem, table, 256);
	new_hostile("delay,read-ms=30", "aio=threads grant=copy");
	assert_int_equal(disk_connect(&hostile, 0, 1, false), 0);
	new_good("grant=copy");
	for (unsigned i = 0; i < 16; i++)
		q_put_indirect(&hostile.q[0], BLKIF_OP_READ, i, 0, table_gref, 256);
	q_push(&hostile.q[0]);
	wait_until(disk_look(&hostile).inflight > 0);
	time_reads(100);
	view = disk_look(&hostile);
	/* 1 MiB, and one largest request beyond it. */
	assert_true(view.memory <= (3u << 20));
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(q_answer(&hostile.q[0]).status, 0);
}

static void slow_image(void **state)
{
	(void)state;
	new_hostile("delay,read-ms=1000,write-ms=1000", "aio=threads");
	assert_int_equal(disk_connect(&hostile, 0, 1, true), 0);
	new_good("aio=threads");
	for (unsigned i = 0; i < 16; i++)
		q_put(&hostile.q[0], BLKIF_OP_READ, i, 0, bad_mem.gref, 1);
	q_push(&hostile.q[0]);
	wait_until(stats_get(dev_stats(hostile.dev)->pool_io) > 0);
	/* Both workers are in the slow image until the pool has grown. */
	if (time_reads(100) > 4000)
		fail_msg("the neighbour waits");
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(q_answer(&hostile.q[0]).status, 0);
}

/* --- calls that do not return --- */

static void *keep_reading(void *arg)
{
	_Atomic bool *stop = arg;

	while (!*stop)
		if (q_do(&disk.q[0], BLKIF_OP_READ, 0, mem.gref, SEGS))
			return disk.dev;
	return NULL;
}

static void hang_and_close(const char *settings, bool persistent, uint8_t op)
{
	char driver[4300], release[4200];
	_Atomic bool stop = false;
	pthread_t thread;
	void *failed;
	FILE *f;

	snprintf(release, sizeof(release), "%s/release", rig.files);
	snprintf(driver, sizeof(driver), "delay,hang=read+write+flush+discard,release=%s", release);
	new_hostile(driver, settings);
	assert_int_equal(disk_connect(&hostile, 0, 1, persistent), 0);
	new_good("aio=threads");
	assert_int_equal(pthread_create(&thread, NULL, keep_reading, &stop), 0);
	for (unsigned i = 0; i < 20; i++)
		q_put(&hostile.q[0], op, i, 0, bad_mem.gref + i, op == BLKIF_OP_FLUSH_DISKCACHE ? 0 : SEGS);
	q_push(&hostile.q[0]);
	wait_until(stats_get(dev_stats(hostile.dev)->pool_io) > 0);
	assert_int_equal(strand(&hostile, do_disconnect), -ETIMEDOUT);
	mem_assert_unused(&bad_mem, bad);
	assert_int_equal(guest_grant_in_use(bad, hostile.q[0].gref[0]), 0);
	assert_false(q_answered(&hostile.q[0]));
	stop = true;
	pthread_join(thread, &failed);
	assert_null(failed);
	f = fopen(release, "w");
	assert_non_null(f);
	fclose(f);
	wait_until(disk_logged("has returned"));
}

static void hang_persistent(void **state)
{
	(void)state;
	hang_and_close("", true, BLKIF_OP_WRITE);
}

static void hang_copy(void **state)
{
	(void)state;
	hang_and_close("grant=copy", false, BLKIF_OP_READ);
}

static void hang_map(void **state)
{
	(void)state;
	hang_and_close("grant=map", false, BLKIF_OP_READ);
}

static void hang_map_single(void **state)
{
	(void)state;
	hang_and_close("grant=map-single", false, BLKIF_OP_WRITE);
}

static void hang_direct(void **state)
{
	(void)state;
	hang_and_close("cache=none aio=threads", true, BLKIF_OP_WRITE);
}

static void hang_flush(void **state)
{
	(void)state;
	hang_and_close("", true, BLKIF_OP_FLUSH_DISKCACHE);
}

/* --- coming and going --- */

static unsigned cycles(void)
{
	const char *s = getenv("RINGDISK_CYCLES");

	return s ? (unsigned)atoi(s) : 400;
}

/* Connect and disconnect with I/O in flight; afterwards there are no more threads and files than before. */
static void come_and_go(void **state)
{
	static const char *const modes[] = { "", "aio=threads", "grant=copy aio=threads", "grant=map",
					     "cache=none aio=native", "grant=map-single aio=threads" };
	unsigned threads = 0, files = 0;
	uint64_t x = 4711;

	(void)state;
	for (unsigned n = 0; n < cycles(); n++) {
		uint64_t r = disk_random(&x);

		if (n % 40 == 0) {
			disk_end(&hostile);
			new_hostile(n % 80 ? "delay,read-ms=1" : "", modes[n / 40 % ARRAY_SIZE(modes)]);
		}
		/* Where the pool has grown to what it needs. */
		if (n == 200) {
			assert_int_equal(strand(&hostile, do_disconnect), 0);
			files = count_entries("/proc/self/fd");
		}
		assert_int_equal(disk_connect_at(&hostile, r % 3, 1 + r / 8 % 3, r & 4, RING_ABI_X86_64,
						 (uint32_t)r), 0);
		for (unsigned i = 0; i < 20; i++)
			q_put(&hostile.q[0], i % 3 ? BLKIF_OP_READ : BLKIF_OP_WRITE, i, i * 88,
			      bad_mem.gref + i, 1 + (unsigned)(r >> 8) % SEGS);
		q_push(&hostile.q[0]);
		if (r & 64)
			usleep((useconds_t)(r >> 32) % 700);
		assert_int_equal(strand(&hostile, do_disconnect), 0);
		if (n % 16 == 0)
			mem_assert_unused(&bad_mem, bad);
	}
	assert_int_equal(count_entries("/proc/self/fd"), files);
	/* main, rd-loopback, two pools with their keepers: no poller, and no thread of a disconnect. */
	threads = count_entries("/proc/self/task");
	assert_true(threads <= 2 + 2 + 1 + 64 + 2);
	disk_end(&hostile);
	wait_until(count_entries("/proc/self/task") <= 2 + 2 + 2 + 3 + 2);
}

/* --- idle disks --- */

static long rss_kib(void)
{
	long pages = 0, skip;
	FILE *f = fopen("/proc/self/statm", "r");

	assert_int_equal(fscanf(f, "%ld %ld", &skip, &pages), 2);
	fclose(f);
	return pages * 4;
}

static long switches(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_nvcsw + u.ru_nivcsw;
}

/* 256 connected disks with rings of 16 pages that have worked and now rest. */
static void idle_disks(void **state)
{
	struct disk *all = calloc(IDLE_GUESTS * IDLE_DISKS, sizeof(*all));
	struct guest *guests[IDLE_GUESTS];
	long before, after, sw;
	uint64_t cpu;

	(void)state;
	assert_non_null(all);
	for (unsigned g = 0; g < IDLE_GUESTS; g++) {
		struct mem m;

		assert_int_equal(guest_open(rig.socket, 10 + g, 1024, 1024, &guests[g]), 0);
		mem_get(&m, guests[g], SEGS);
	}
	before = rss_kib();
	for (unsigned i = 0; i < IDLE_GUESTS * IDLE_DISKS; i++) {
		struct disk *d = &all[i];

		disk_new(d, &rig, guests[i % IDLE_GUESTS], 51712 + 16 * (i / IDLE_GUESTS), "null:8M",
			 "max-ring-page-order=4", true);
		assert_int_equal(disk_connect(d, 4, 1, true), 0);
		/* The pages of guest memory count as ours, too: the first grants are those of mem_get. */
		assert_int_equal(q_do(&d->q[0], BLKIF_OP_READ, 0, (uint32_t[]){ d->q[0].gref[15] }, 1), 0);
	}
	after = rss_kib();
#ifndef RD_SANITIZED
	if ((after - before) / (long)(IDLE_GUESTS * IDLE_DISKS) > 1024)
		fail_msg("%ld KiB for each idle disk", (after - before) / (long)(IDLE_GUESTS * IDLE_DISKS));
#else
	(void)before, (void)after;
#endif
	/* Buffers and workers' patience have run out by then. */
	wait_until(count_entries("/proc/self/task") <= 2 + IDLE_GUESTS * IDLE_DISKS + 10);
	usleep(2500000);
	cpu = cpu_ns();
	sw = switches();
	usleep(1000000);
	cpu = cpu_ns() - cpu;
	sw = switches() - sw;
	if (sw > 20 || cpu > 50000000u)
		fail_msg("%ld context switches and %llu ns in a second of idleness", sw,
			 (unsigned long long)cpu);
	for (unsigned i = 0; i < IDLE_GUESTS * IDLE_DISKS; i++)
		disk_end(&all[i]);
	for (unsigned g = 0; g < IDLE_GUESTS; g++)
		guest_close(guests[g]);
	free(all);
}

int main(void)
{
#define HANG(name) cmocka_unit_test_setup_teardown(name, setup_hang, teardown)
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(event_storm),   CASE(deep_queue_next_door), CASE(memory_of_one_guest),
		CASE(slow_image),    HANG(hang_persistent),      HANG(hang_copy),
		HANG(hang_map),      HANG(hang_map_single),      HANG(hang_direct),
		HANG(hang_flush),    CASE(come_and_go),          CASE(idle_disks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
