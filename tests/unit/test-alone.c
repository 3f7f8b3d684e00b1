/*
 * What a guest has alone in flight: the poller makes the driver's blocking call itself (exec.c, run_on_poller). The
 * call may hang, fail, or come after one that did a part of it, with each way to move data.
 *
 * On a qcow2 image, through hooks in the system calls: what is asked for "at once" can be made to need another call.
 */
#include "test.h"

#include "io-syscalls.h"
#include "vbd.h"

#define PAGES 11u
#define BYTES (PAGES * 4096)

static struct vbd vbd;
static char *dir;
static uint8_t *data; /* of the guest */
static uint32_t gref[PAGES];
static const char *mode; /* settings of the disk */

/* --- system calls --- */

static struct io_syscalls real;
static struct {
	_Atomic bool hang;
	_Atomic unsigned hung;
	_Atomic int error;    /* of the next write */
	_Atomic int not_now;  /* what must not wait fails: 1 always, 2 now and then */
} sim;

static void maybe_hang(void)
{
	if (!sim.hang)
		return;
	sim.hung++;
	while (sim.hang)
		usleep(500);
}

static bool not_now(int flags)
{
	return flags & RWF_NOWAIT && sim.not_now && (sim.not_now == 1 || random() % 2);
}

static ssize_t sim_preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
	maybe_hang();
	return real.preadv(fd, iov, count, offset);
}

static ssize_t sim_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
	int error = atomic_exchange(&sim.error, 0);

	maybe_hang();
	if (!error)
		return real.pwritev(fd, iov, count, offset);
	errno = error;
	return -1;
}

static ssize_t sim_preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	if (!not_now(flags))
		return real.preadv2(fd, iov, count, offset, flags);
	errno = EAGAIN;
	return -1;
}

static ssize_t sim_pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	if (!not_now(flags))
		return real.pwritev2(fd, iov, count, offset, flags);
	errno = EAGAIN;
	return -1;
}

/* --- the disk --- */

static int setup(void **state)
{
	mode = *state;
	log_to_callback(disk_log_catch, NULL);
	disk_log_clear();
	assert_int_equal(drv_load(disk_driver_dir()), 0);
	vbd_setup(&vbd);
	dir = disk_dir(false);
	data = guest_pages(vbd.guest, PAGES);
	for (unsigned i = 0; i < PAGES; i++)
		gref[i] = guest_grant(vbd.guest, data + i * 4096, false);
	real = io_sys;
	sim.hang = false;
	sim.hung = 0;
	sim.error = sim.not_now = 0;
	io_sys.preadv = sim_preadv;
	io_sys.pwritev = sim_pwritev;
	io_sys.preadv2 = sim_preadv2;
	io_sys.pwritev2 = sim_pwritev2;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	sim.hang = false;
	vbd_teardown(&vbd);
	vbd.dev = NULL;
	io_sys = real;
	disk_remove(dir);
	log_to_callback(NULL, NULL);
	return 0;
}

static int connect_disk(void)
{
	return vbd_connect(&vbd, 0, !strstr(mode, "grant"));
}

static void new_disk(const char *settings)
{
	const struct img_create what = {.size = 16 << 20};
	char text[4200], all[100], err[512];
	struct params parsed;

	snprintf(text, sizeof(text), "qcow2:%s/alone", dir);
	assert_int_equal(params_parse(text, &parsed, err, sizeof(err)), 0);
	assert_int_equal(img_create("alone", &parsed, &what, err, sizeof(err)), 0);
	params_free(&parsed);
	snprintf(all, sizeof(all), "%s%s%s", mode, *mode && *settings ? " " : "", settings);
	vbd_create(&vbd, text, all, true);
	assert_int_equal(connect_disk(), 0);
}

static void nothing_is_in_use(void)
{
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(guest_grant_in_use(vbd.guest, gref[i]), 0);
}

static void fill(uint8_t seed)
{
	for (unsigned i = 0; i < BYTES; i++)
		data[i] = (uint8_t)(seed + i * 7 + i / 4096);
}

static bool is_filled(uint8_t seed)
{
	for (unsigned i = 0; i < BYTES; i++)
		if (data[i] != (uint8_t)(seed + i * 7 + i / 4096))
			return false;
	return true;
}

static uint64_t by_workers(void)
{
	return stats_get(dev_stats(vbd.dev)->pool_io);
}

/* --- it hangs --- */

static void wait_until_hung(void)
{
	wait_true(sim.hung, VBD_WAIT_MS);
	assert_int_equal(by_workers(), 0);
}

/* The poller itself: the guest gets its memory back all the same, and nobody touches it later. */
static void hangs(uint8_t op, uint64_t sector)
{
	new_disk("");
	fill(3);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, PAGES), 0);
	sim.not_now = 1;
	sim.hang = true;
	vbd_put(&vbd, op, 1, sector, gref, PAGES);
	vbd_push(&vbd);
	wait_until_hung();
	vbd_put(&vbd, BLKIF_OP_READ, 2, 0, gref, 1);
	vbd_push(&vbd);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), -ETIMEDOUT);
	assert_int_equal(dev_state(vbd.dev), DEV_IDLE);
	nothing_is_in_use();
	memset(data, 0x77, BYTES);
	sim.hang = false;
	wait_true(disk_logged("has returned"), VBD_WAIT_MS);
	for (unsigned i = 0; i < BYTES; i++)
		assert_int_equal(data[i], 0x77);
	assert_false(vbd_answered(&vbd));
	sim.not_now = 0;
	/* The image is locked until the thread that waited has closed it. */
	wait_true(!connect_disk(), VBD_WAIT_MS);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, PAGES), 0);
	assert_true(is_filled(3));
}

static void hanging_read(void **state)
{
	(void)state;
	hangs(BLKIF_OP_READ, 0);
}

static void hanging_write(void **state)
{
	(void)state;
	hangs(BLKIF_OP_WRITE, 8192);
}

/* --- it fails --- */

static void waits_for_the_operator(int error, uint64_t sector)
{
	vbd.events[DEV_EV_PARKED] = 0;
	fill((uint8_t)(sector >> 8));
	sim.error = error;
	vbd_put(&vbd, BLKIF_OP_WRITE, 1, sector, gref, PAGES);
	vbd_push(&vbd);
	wait_true(vbd.events[DEV_EV_PARKED], VBD_WAIT_MS);
	assert_false(vbd_answered(&vbd));
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	assert_false(vbd_answered(&vbd));
	fill(99);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, sector, gref, PAGES), 0);
	assert_true(is_filled((uint8_t)(sector >> 8)));
}

static void failing_write(void **state)
{
	(void)state;
	new_disk("on-error=pause");
	for (uint64_t i = 1; i < 5; i++)
		waits_for_the_operator(i % 2 ? ENOSPC : EIO, i * 256);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	nothing_is_in_use();
}

/* --- at once, or not, by turns --- */

static void read_beside_a_flush(uint64_t sector)
{
	vbd_put(&vbd, BLKIF_OP_READ, 1, sector, gref, PAGES);
	vbd_push(&vbd);
	vbd_put(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 2, 0, NULL, 0);
	vbd_push(&vbd);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	assert_int_equal(vbd_answer(&vbd).status, 0);
}

static void parts_of_both(void **state)
{
	uint8_t seed[128] = {0};

	(void)state;
	new_disk("");
	sim.not_now = 2;
	for (unsigned k = 0; k < 1000; k++) {
		unsigned at = (unsigned)random() % 128;
		uint64_t sector = at * 100u; /* across clusters */

		if (!seed[at] || random() % 2) {
			seed[at] = (uint8_t)(1 + random() % 200);
			fill(seed[at]);
			assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, sector, gref, PAGES), 0);
			continue;
		}
		memset(data, 0xee, BYTES);
		if (random() % 4)
			assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, sector, gref, PAGES), 0);
		else
			read_beside_a_flush(sector);
		assert_true(is_filled(seed[at]));
	}
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	nothing_is_in_use();
}

/* A write that must be durable before its answer sleeps. */
static void sync_is_for_workers(void **state)
{
	(void)state;
	new_disk("sync=on");
	for (uint64_t i = 0; i < 20; i++)
		assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, i * 128, gref, PAGES), 0);
	assert_int_equal(by_workers(), 20);
}

#define CASE(name, settings) \
	{ #name " " settings, name, setup, teardown, (void *)(uintptr_t)(settings) }
#define EACH(name) \
	CASE(name, ""), CASE(name, "grant=copy"), CASE(name, "grant=map"), CASE(name, "grant=map-single")

int main(void)
{
	const struct CMUnitTest tests[] = {
		EACH(hanging_read), EACH(hanging_write), EACH(failing_write), EACH(parts_of_both),
		CASE(sync_is_for_workers, ""),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
