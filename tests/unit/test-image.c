/* Images: bounds, emulation, drivers that break their contract, and raw against a model array. */
#include "test.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>

#include "disk.h"

#define MODEL_SIZE (512 * KiB + 1536)

static int setup(void **state)
{
	(void)state;
	log_to_callback(disk_log_catch, NULL);
	return drv_load(disk_driver_dir());
}

static int teardown(void **state)
{
	(void)state;
	drv_unload();
	return 0;
}

/* ---- raw against a model
 * ------------------------------------------------------------------------- */

struct model {
	struct image *image;
	uint8_t *bytes;  /* what the disk must hold */
	uint8_t *buffer; /* page aligned, twice the largest request */
	uint64_t seed;
	uint32_t block;
};

/* The buffer cut into a few vectors at odd places; misaligned as a whole if the dice say so. */
static int cut(struct model *m, struct iovec *iov, uint8_t *base, uint64_t length)
{
	int n = 0;

	while (length) {
		uint64_t part = n == 7 ? length : 1 + disk_random(&m->seed) % length;

		if (disk_random(&m->seed) % 4)
			part = MIN(length, round_up(part, 512));
		iov[n++] = (struct iovec){ .iov_base = base, .iov_len = part };
		base += part;
		length -= part;
	}
	return n;
}

static void step(struct model *m)
{
	uint64_t blocks = img_info(m->image)->size / m->block;
	uint64_t offset = disk_random(&m->seed) % blocks * m->block;
	uint64_t most = MIN(img_info(m->image)->size - offset, (uint64_t)128 * KiB);
	uint64_t length = (1 + disk_random(&m->seed) % (most / m->block)) * m->block;
	uint8_t *base = m->buffer + (disk_random(&m->seed) % 2 ? 0 : disk_random(&m->seed) % 4096);
	struct iovec iov[8];
	int n = cut(m, iov, base, length), r = 0;

	switch (disk_random(&m->seed) % 8) {
	case 0:
		r = img_write_zeroes(m->image, offset, length,
				     disk_random(&m->seed) % 2 ? RD_ZERO_MAY_UNMAP : 0);
		memset(m->bytes + offset, 0, length);
		break;
	case 1:
		r = img_discard(m->image, offset, length);
		memset(m->bytes + offset, 0, length);
		break;
	case 2:
		r = img_flush(m->image);
		break;
	case 3:
	case 4:
	case 5:
		for (uint64_t i = 0; i < length; i++)
			base[i] = m->bytes[offset + i] = (uint8_t)disk_random(&m->seed);
		r = img_writev(m->image, iov, n, offset);
		break;
	default:
		memset(base, 0xee, length);
		r = img_readv(m->image, iov, n, offset);
		assert_memory_equal(base, m->bytes + offset, length);
	}
	assert_int_equal(r, 0);
}

static void run_model(bool tmpfs, uint32_t flags, const char *options, uint64_t size, int steps)
{
	struct model m = { .seed = 0x9e3779b97f4a7c15u };
	char *dir = disk_dir(tmpfs), params[4200];
	const char *path;
	struct stat st;

	if (!dir)
		return;
	path = disk_file(dir, "disk", size);
	snprintf(params, sizeof(params), "raw%s:%s", options, path);
	m.image = disk_open(params, flags);
	m.block = img_info(m.image)->logical_block;
	m.bytes = calloc(1, size);
	m.buffer = aligned_alloc(4096, 256 * KiB);
	for (int i = 0; i < steps; i++)
		step(&m);
	assert_int_equal(img_close(m.image), 0);
	/* As another program sees it, and not a byte longer. */
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, size);
	m.image = disk_open(params, 0);
	for (uint64_t at = 0; at < img_info(m.image)->size; at += m.block) {
		struct iovec iov = { .iov_base = m.buffer, .iov_len = m.block };

		assert_int_equal(img_readv(m.image, &iov, 1, at), 0);
		assert_memory_equal(m.buffer, m.bytes + at, m.block);
	}
	img_close(m.image);
	free(m.bytes);
	free(m.buffer);
	disk_remove(dir);
}

static void raw_equals_model_buffered(void **state)
{
	(void)state;
	run_model(false, RD_OPEN_WRITE, "", MODEL_SIZE, 600);
}

static void raw_equals_model_on_tmpfs(void **state)
{
	(void)state;
	run_model(true, RD_OPEN_WRITE, "", MODEL_SIZE, 600);
}

static void raw_equals_model_direct(void **state)
{
	(void)state;
	run_model(false, RD_OPEN_WRITE | RD_OPEN_DIRECT, "", MODEL_SIZE, 300);
}

static void raw_equals_model_with_4096_sectors(void **state)
{
	(void)state;
	run_model(false, RD_OPEN_WRITE, ",sector-size=4096", 512 * KiB, 300);
}

/* ---- bounds
 * -------------------------------------------------------------------------------------- */

static void requests_outside_the_image_are_refused(void **state)
{
	static const struct {
		uint64_t offset, length;
	} outside[] = {
		{ 1 * MiB, 512 },
		{ 1 * MiB - 512, 1024 },
		{ UINT64_MAX - 511, 512 },
		{ UINT64_MAX, 1 },
		{ 1, 512 },
		{ 0, 511 },
		{ 0, 2 * MiB },
		{ 1ull << 63, 512 },
	};
	struct image *image = disk_open("null:1M", RD_OPEN_WRITE);
	static char buffer[2 * MiB];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
		struct iovec iov = { .iov_base = buffer, .iov_len = outside[i].length };
		struct rd_extent extent;
		uint64_t token;

		assert_int_equal(img_readv(image, &iov, 1, outside[i].offset), -EINVAL);
		assert_int_equal(img_writev(image, &iov, 1, outside[i].offset), -EINVAL);
		assert_int_equal(img_discard(image, outside[i].offset, outside[i].length), -EINVAL);
		assert_int_equal(img_write_zeroes(image, outside[i].offset, outside[i].length, 0),
				 -EINVAL);
		assert_int_equal(img_map(image, outside[i].offset, outside[i].length, false,
					 &extent, 1, &token),
				 -EINVAL);
	}
	img_close(image);
}

static void the_sum_of_vectors_cannot_wrap(void **state)
{
	struct image *image = disk_open("null:1M", RD_OPEN_WRITE);
	char buffer[512];
	struct iovec iov[2] = { { buffer, SIZE_MAX - 511 }, { buffer, 1024 } };

	(void)state;
	assert_int_equal(img_readv(image, iov, 2, 0), -EINVAL);
	img_close(image);
}

static void a_read_only_image_is_not_written(void **state)
{
	struct image *image = disk_open("null:1M", 0);
	char buffer[512];
	struct iovec iov = { buffer, sizeof(buffer) };
	struct rd_extent extent;
	uint64_t token;

	(void)state;
	assert_int_equal(img_writev(image, &iov, 1, 0), -EROFS);
	assert_int_equal(img_discard(image, 0, 512), -EROFS);
	assert_int_equal(img_write_zeroes(image, 0, 512, 0), -EROFS);
	assert_int_equal(img_resize(image, 512), -EROFS);
	assert_int_equal(img_map(image, 0, 512, true, &extent, 1, &token), -EROFS);
	assert_int_equal(img_map(image, 0, 512, false, &extent, 1, &token), 1);
	assert_int_equal(extent.kind, RD_EXTENT_ZERO);
	img_unmap(image, token);
	img_close(image);
}

/* ---- raw: what else it is
 * ------------------------------------------------------------------------ */

static void raw_notices_a_new_size(void **state)
{
	char *dir = disk_dir(false), params[4200];
	const char *path = disk_file(dir, "disk", 1 * MiB);
	struct image *image;

	(void)state;
	snprintf(params, sizeof(params), "raw:%s", path);
	image = disk_open(params, RD_OPEN_WRITE);
	assert_int_equal(img_refresh(image), 0);
	assert_int_equal(truncate(path, 2 * MiB + 100), 0);
	assert_int_equal(img_refresh(image), 1);
	assert_int_equal(img_info(image)->size, 2 * MiB);
	assert_int_equal(img_resize(image, 4 * MiB), 0);
	assert_int_equal(img_info(image)->size, 4 * MiB);
	assert_int_equal(img_resize(image, 4 * MiB + 1), -EINVAL);
	img_close(image);
	disk_remove(dir);
}

static void raw_behind_a_shrunk_end_is_an_error(void **state)
{
	char *dir = disk_dir(false), params[4200], buffer[1024];
	const char *path = disk_file(dir, "disk", 1 * MiB);
	struct iovec iov = { buffer, sizeof(buffer) };
	struct image *image;

	(void)state;
	snprintf(params, sizeof(params), "raw:%s", path);
	image = disk_open(params, 0);
	assert_int_equal(truncate(path, 512), 0);
	assert_int_equal(img_readv(image, &iov, 1, 0), -EIO);
	img_close(image);
	disk_remove(dir);
}

static void open_fails(const char *params, uint32_t flags, const char *message)
{
	struct image *image;
	char err[1024];

	if (!disk_open_err(params, flags, &image, err, sizeof(err)))
		fail_msg("%s could be opened", params);
	if (!strstr(err, message))
		fail_msg("%s: expected \"%s\", got \"%s\"", params, message, err);
}

static void what_cannot_be_opened_says_why(void **state)
{
	char *dir = disk_dir(false), params[4200];

	(void)state;
	open_fails("raw:/nonexistent/x", 0, "raw: /nonexistent/x: No such file or directory");
	open_fails("raw:/dev/null", 0, "raw: /dev/null: is a character device");
	snprintf(params, sizeof(params), "raw:%s", dir);
	open_fails(params, 0, "is a directory");
	snprintf(params, sizeof(params), "%s/fifo", dir);
	assert_int_equal(mkfifo(params, 0600), 0);
	snprintf(params, sizeof(params), "raw:%s/fifo", dir);
	open_fails(params, 0, "is a fifo");
	snprintf(params, sizeof(params), "raw:%s", disk_file(dir, "empty", 0));
	open_fails(params, 0, "is empty");
	snprintf(params, sizeof(params), "raw,sector-size=513:%s", disk_file(dir, "d", 4096));
	open_fails(params, 0, "sector-size is 512 or 4096, not 513");
	snprintf(params, sizeof(params), "raw,speed=high:%s", disk_file(dir, "d", 4096));
	open_fails(params, 0, "there is no option \"speed\"; the driver's own are: sector-size");
	open_fails("null:lots", 0, "null: \"lots\" is not a size");
	disk_remove(dir);
}

static void null_takes_sizes(void **state)
{
	static const struct {
		const char *params;
		uint64_t size;
	} good[] = {
		{ "null:512", 512 },      { "null:1K", KiB },
		{ "null:64M", 64 * MiB }, { "null:10G", 10 * GiB },
		{ "null:3T", 3 * TiB },   { "null:8191P", 8191 * 1024 * TiB },
	};
	static const char *const bad[] = {
		"null:0",   "null:-1",   "null: 1M",   "null:1",   "null:513",
		"null:1MB", "null:1X",   "null:8192P", "null:G",   "null:99999999999999999999",
		"null:+1M", "null:1.5M", "null:0x200", "null:1M ",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct image *image = disk_open(good[i].params, 0);

		assert_int_equal(img_info(image)->size, good[i].size);
		img_close(image);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		open_fails(bad[i], 0, "is not a size");
}

/* ---- drivers that break their contract ----------------------------------------------------------- */

/* A driver whose every answer is set by the test. */
static struct {
	struct rd_info info;
	int result; /* of every data call */
	struct rd_extent extents[3];
	int mapped;   /* what map returns */
	int unmapped; /* calls of unmap */
	int closed;
	int calls;
	int inside, most; /* calls at once */
} fake;

static int fake_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		     struct rd_info *info)
{
	(void)args;
	*handle = (void *)(uintptr_t)host;
	*info = fake.info;
	return fake.mapped == INT_MAX ? fake.result : 0;
}

static int fake_close(void *handle)
{
	(void)handle;
	fake.closed++;
	return 0;
}

static int fake_call(void)
{
	int now = __atomic_add_fetch(&fake.inside, 1, __ATOMIC_SEQ_CST);

	if (now > __atomic_load_n(&fake.most, __ATOMIC_SEQ_CST))
		__atomic_store_n(&fake.most, now, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&fake.calls, 1, __ATOMIC_SEQ_CST);
	sched_yield();
	__atomic_sub_fetch(&fake.inside, 1, __ATOMIC_SEQ_CST);
	return fake.result;
}

static int fake_rw(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	(void)handle, (void)iov, (void)iovcnt, (void)offset;
	return fake_call();
}

static int fake_flush(void *handle)
{
	(void)handle;
	return fake_call();
}

static int fake_discard(void *handle, uint64_t offset, uint64_t length)
{
	(void)handle, (void)offset, (void)length;
	return fake_call();
}

static int fake_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
	(void)handle, (void)offset, (void)length, (void)flags;
	__atomic_add_fetch(&fake.calls, 1, __ATOMIC_SEQ_CST);
	return -EOPNOTSUPP;
}

static int fake_map(void *handle, uint64_t offset, uint64_t length, int write,
		    struct rd_extent *extents, int max_extents, uint64_t *token)
{
	(void)handle, (void)offset, (void)length, (void)write;
	for (int i = 0; i < MIN(max_extents, 3); i++)
		extents[i] = fake.extents[i];
	*token = 3;
	return fake.mapped;
}

static void fake_unmap(void *handle, uint64_t token)
{
	(void)handle;
	assert_int_equal(token, 3);
	fake.unmapped++;
}

static int fake_refresh(void *handle, struct rd_info *info)
{
	(void)handle;
	*info = fake.info;
	return fake.result;
}

static const struct rd_driver fake_driver = {
	.struct_size = sizeof(fake_driver),
	.api = RD_DRIVER_API,
	.name = "fake",
	.open = fake_open,
	.close = fake_close,
	.readv = fake_rw,
	.writev = fake_rw,
	.flush = fake_flush,
	.discard = fake_discard,
	.write_zeroes = fake_write_zeroes,
	.map = fake_map,
	.unmap = fake_unmap,
	.refresh = fake_refresh,
};

static int open_fake(struct image **image, char *err, size_t errlen)
{
	char target[] = "x";
	struct params params = { .driver = &fake_driver, .target = target };

	disk_log_clear();
	return img_open("9/xvdt", &params, RD_OPEN_WRITE, image, err, errlen);
}

static struct image *good_fake(uint32_t caps)
{
	struct image *image;

	memset(&fake, 0, sizeof(fake));
	fake.info = (struct rd_info){ .size = 1 * MiB, .logical_block = 512, .caps = caps };
	assert_int_equal(open_fake(&image, NULL, 0), 0);
	return image;
}

static void absurd_info_is_refused(void **state)
{
	static const struct rd_info absurd[] = {
		{ .size = MiB, .logical_block = 0 },
		{ .size = MiB, .logical_block = 1024 },
		{ .size = MiB, .logical_block = UINT32_MAX },
		{ .size = MiB + 511, .logical_block = 512 },
		{ .size = MiB + 512, .logical_block = 4096 },
		{ .size = UINT64_MAX - 511, .logical_block = 512 },
		{ .size = 1ull << 63, .logical_block = 512 },
		{ .size = MiB, .logical_block = 4096, .physical_block = 512 },
		{ .size = MiB, .logical_block = 512, .physical_block = 1000 },
		{ .size = MiB, .logical_block = 512, .physical_block = 1u << 31 },
		{ .size = MiB, .logical_block = 512, .discard_granularity = 513 },
		{ .size = MiB, .logical_block = 512, .discard_granularity = UINT32_MAX },
		{ .size = MiB, .logical_block = 512, .optimal_io = 1000 },
		{ .size = MiB, .logical_block = 512, .optimal_io = UINT32_MAX - 511 },
		{ .size = MiB, .logical_block = 512, .caps = 1u << 30 },
		{ .size = MiB, .logical_block = 512, .caps = RD_CAP_RESIZE },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(absurd); i++) {
		struct image *image;
		char err[256];

		memset(&fake, 0, sizeof(fake));
		fake.info = absurd[i];
		assert_int_equal(open_fake(&image, err, sizeof(err)), -EIO);
		assert_int_equal(fake.closed, 1);
		assert_non_null(strstr(err, "fake: x: "));
		/* The same on refresh: the old one stays. */
		image = good_fake(0);
		fake.info = absurd[i];
		assert_int_equal(img_refresh(image), -EIO);
		assert_int_equal(img_info(image)->size, 1 * MiB);
		img_close(image);
	}
}

static void positive_results_become_eio(void **state)
{
	static const int nonsense[] = { 1, 512, INT_MAX, -5000, INT_MIN };
	struct image *image = good_fake(RD_CAP_PARALLEL | RD_CAP_FLUSH | RD_CAP_DISCARD);
	char data[512], err[64];
	struct iovec iov = { data, sizeof(data) };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(nonsense); i++) {
		fake.result = nonsense[i];
		assert_int_equal(img_readv(image, &iov, 1, 0), -EIO);
		assert_int_equal(img_writev(image, &iov, 1, 0), -EIO);
		assert_int_equal(img_flush(image), -EIO);
		assert_int_equal(img_discard(image, 0, 512), -EIO);
		assert_int_equal(img_refresh(image), -EIO);
	}
	disk_assert_logged("driver fake: readv returned nonsense (1)");
	/* Said now and then only. */
	disk_log_clear();
	for (int i = 0; i < 1000; i++)
		img_readv(image, &iov, 1, 0);
	assert_true(strlen(disk_log) < 200);
	fake.result = -ENOSPC;
	assert_int_equal(img_writev(image, &iov, 1, 0), -ENOSPC);
	fake.result = 0;
	img_close(image);
	/* open */
	fake.mapped = INT_MAX;
	fake.result = 7;
	assert_int_equal(open_fake(&image, NULL, 0), -EIO);
	fake.result = -EPERM;
	assert_int_equal(open_fake(&image, err, sizeof(err)), -EPERM);
	assert_string_equal(err, "fake: x: Operation not permitted");
}

static void wrong_extents_become_eio(void **state)
{
	struct rd_file *file = (struct rd_file *)&fake;
	const struct {
		struct rd_extent extent;
		bool write;
	} wrong[] = {
		{ { .kind = RD_EXTENT_DATA, .length = 512 }, false },
		{ { .kind = RD_EXTENT_DATA, .length = 0, .file = file }, false },
		{ { .kind = RD_EXTENT_DATA, .length = 8192, .file = file }, false },
		{ { .kind = RD_EXTENT_DATA, .length = UINT64_MAX, .file = file }, false },
		{ { .kind = RD_EXTENT_DATA, .length = 512, .file = file, .flags = 1 }, false },
		{ { .kind = RD_EXTENT_DATA, .length = 512, .file = file, .file_offset = INT64_MAX },
		  false },
		{ { .kind = RD_EXTENT_DATA,
		    .length = 512,
		    .file = file,
		    .file_offset = UINT64_MAX },
		  false },
		{ { .kind = RD_EXTENT_ZERO, .length = 512, .file = file }, false },
		{ { .kind = 4, .length = 512 }, false },
		{ { .kind = RD_EXTENT_ZERO, .length = 512 }, true },
		{ { .kind = RD_EXTENT_HOLE, .length = 512 }, true },
	};
	struct image *image = good_fake(0);
	struct rd_extent extents[3];
	uint64_t token;

	(void)state;
	fake.mapped = 1;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		fake.unmapped = 0;
		fake.extents[0] = wrong[i].extent;
		assert_int_equal(img_map(image, 0, 4096, wrong[i].write, extents, 3, &token), -EIO);
		assert_int_equal(fake.unmapped, 1);
	}
	for (fake.mapped = -5000; fake.mapped < 10; fake.mapped += fake.mapped == -5000 ? 5000 : 4)
		assert_int_equal(img_map(image, 0, 4096, false, extents, 3, &token), -EIO);
	/* The second one is checked against what is left. */
	fake.mapped = 2;
	fake.extents[0] = (struct rd_extent){ .kind = RD_EXTENT_ZERO, .length = 3584 };
	fake.extents[1] = (struct rd_extent){ .kind = RD_EXTENT_VOID, .length = 513 };
	assert_int_equal(img_map(image, 0, 4096, false, extents, 3, &token), -EIO);
	fake.extents[1].length = 512;
	assert_int_equal(img_map(image, 0, 4096, false, extents, 3, &token), 2);
	assert_int_equal(extents[1].kind, RD_EXTENT_ZERO);
	fake.mapped = -EAGAIN;
	assert_int_equal(img_map(image, 0, 4096, false, extents, 3, &token), -EAGAIN);
	img_close(image);
}

/* ---- what the host adds -------------------------------------------------------------------------- */

static void what_a_driver_lacks_is_emulated_or_refused(void **state)
{
	struct image *image = good_fake(RD_CAP_DISCARD | RD_CAP_WRITE_ZEROES);

	(void)state;
	assert_int_equal(img_flush(image), 0);
	assert_int_equal(fake.calls, 0);
	assert_int_equal(img_resize(image, 2 * MiB), -EOPNOTSUPP);
	/* write_zeroes answers EOPNOTSUPP: one call of it, then writes. */
	assert_int_equal(img_write_zeroes(image, 0, 4096, 0), 0);
	assert_int_equal(fake.calls, 2);
	assert_int_equal(img_write_zeroes(image, 0, 1 * MiB, RD_ZERO_MAY_UNMAP), 0);
	assert_int_equal(fake.calls, 3);
	assert_int_equal(img_write_zeroes(image, 0, 4096, 8), -EINVAL);
	/* discard is asked once. */
	fake.calls = 0;
	fake.result = -EOPNOTSUPP;
	assert_int_equal(img_discard(image, 0, 4096), -EOPNOTSUPP);
	assert_int_equal(img_discard(image, 0, 4096), -EOPNOTSUPP);
	assert_int_equal(fake.calls, 1);
	img_close(image);
}

static void *many_calls(void *arg)
{
	char data[512];
	struct iovec iov = { data, sizeof(data) };

	for (int i = 0; i < 500; i++)
		img_readv(arg, &iov, 1, 0);
	return NULL;
}

static void a_serial_driver_gets_one_call_at_a_time(void **state)
{
	struct image *image = good_fake(0);
	pthread_t threads[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, many_calls, image), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(fake.calls, 2000);
	assert_int_equal(fake.most, 1);
	img_close(image);
}

static void nothing_to_do_is_not_passed_on(void **state)
{
	struct image *image = good_fake(RD_CAP_DISCARD);
	struct iovec iov = { NULL, 0 };

	(void)state;
	assert_int_equal(img_readv(image, &iov, 1, 0), 0);
	assert_int_equal(img_writev(image, &iov, 0, 1 * MiB), 0);
	assert_int_equal(img_discard(image, 512, 0), 0);
	assert_int_equal(img_write_zeroes(image, 512, 0, 0), 0);
	assert_int_equal(fake.calls, 0);
	img_close(image);
}

/* ---- a filter that lies -------------------------------------------------------------------------- */

static struct {
	const struct rd_host *host;
	struct rd_child *child;
	struct rd_file *file;
	const char *below; /* params of the child, or NULL */
	const char *path;  /* of the file, or NULL */
	uint32_t flags;    /* with which it opens them */
	struct rd_info child_info;
} liar;

static int liar_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		     struct rd_info *info)
{
	int r = 0;

	(void)args;
	*handle = &liar;
	liar.host = host;
	liar.child_info.struct_size = sizeof(liar.child_info);
	if (liar.below)
		r = host->child_open(host, liar.below, liar.flags, &liar.child, &liar.child_info);
	else
		r = host->file_open(host, liar.path, liar.flags, &liar.file);
	*info = (struct rd_info){ .size = 1 * TiB, .logical_block = 512, .caps = RD_CAP_PARALLEL };
	return r;
}

static int liar_close(void *handle)
{
	(void)handle;
	if (liar.child)
		liar.host->child_close(liar.child);
	liar.host->file_close(liar.file);
	return 0;
}

static int liar_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	(void)handle;
	return liar.host->child_readv(liar.child, iov, iovcnt, offset);
}

static int liar_writev(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	(void)handle;
	return liar.host->child_writev(liar.child, iov, iovcnt, offset);
}

static int liar_map(void *handle, uint64_t offset, uint64_t length, int write,
		    struct rd_extent *extents, int max_extents, uint64_t *token)
{
	(void)handle;
	return liar.host->child_map(liar.child, offset, length, write, extents, max_extents, token);
}

static void liar_unmap(void *handle, uint64_t token)
{
	(void)handle;
	liar.host->child_unmap(liar.child, token);
}

static const struct rd_driver liar_driver = {
	.struct_size = sizeof(liar_driver),
	.api = RD_DRIVER_API,
	.name = "liar",
	.open = liar_open,
	.close = liar_close,
	.readv = liar_readv,
	.writev = liar_writev,
	.map = liar_map,
	.unmap = liar_unmap,
};

static int open_liar(uint32_t flags, struct image **image, char *err, size_t errlen)
{
	char target[] = "x";
	struct params params = { .driver = &liar_driver, .target = target };

	disk_log_clear();
	return img_open("9/xvdt", &params, flags, image, err, errlen);
}

static void a_filter_does_not_get_past_the_end_of_its_child(void **state)
{
	struct image *image;
	struct rd_extent extent;
	char data[512];
	struct iovec iov = { data, sizeof(data) };
	uint64_t token;

	(void)state;
	memset(&liar, 0, sizeof(liar));
	liar.below = "null:1M";
	liar.flags = RD_OPEN_WRITE;
	assert_int_equal(open_liar(RD_OPEN_WRITE, &image, NULL, 0), 0);
	assert_int_equal(liar.child_info.size, 1 * MiB);
	assert_int_equal(img_readv(image, &iov, 1, 0), 0);
	assert_int_equal(img_readv(image, &iov, 1, 1 * MiB), -EINVAL);
	assert_int_equal(img_writev(image, &iov, 1, 1 * TiB - 512), -EINVAL);
	assert_int_equal(img_map(image, 1 * MiB, 512, true, &extent, 1, &token), -EIO);
	assert_int_equal(img_map(image, 0, 512, true, &extent, 1, &token), 1);
	img_unmap(image, token);
	img_close(image);
}

static void a_read_only_image_opens_nothing_for_writing(void **state)
{
	char *dir = disk_dir(false), err[256];
	struct image *image;

	(void)state;
	memset(&liar, 0, sizeof(liar));
	liar.flags = RD_OPEN_WRITE;
	liar.below = "null:1M";
	assert_int_equal(open_liar(0, &image, err, sizeof(err)), -EROFS);
	assert_non_null(strstr(err, "wants to write below a read-only image"));
	liar.below = NULL;
	liar.path = disk_file(dir, "d", 4096);
	assert_int_equal(open_liar(0, &image, err, sizeof(err)), -EROFS);
	disk_remove(dir);
}

static void a_probe_takes_no_lock_whatever_its_driver_asks(void **state)
{
	char *dir = disk_dir(false);
	struct rd_file *writer;
	struct image *image;

	(void)state;
	memset(&liar, 0, sizeof(liar));
	liar.path = disk_file(dir, "d", 4096);
	assert_int_equal(io_open("9/xvdt", liar.path, RD_OPEN_WRITE, &writer), 0);
	assert_int_equal(open_liar(0, &image, NULL, 0), -EBUSY);
	assert_int_equal(open_liar(RD_OPEN_PROBE, &image, NULL, 0), 0);
	img_close(image);
	io_close(writer);
	disk_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(absurd_info_is_refused),
		cmocka_unit_test(positive_results_become_eio),
		cmocka_unit_test(wrong_extents_become_eio),
		cmocka_unit_test(what_a_driver_lacks_is_emulated_or_refused),
		cmocka_unit_test(a_serial_driver_gets_one_call_at_a_time),
		cmocka_unit_test(nothing_to_do_is_not_passed_on),
		cmocka_unit_test(a_filter_does_not_get_past_the_end_of_its_child),
		cmocka_unit_test(a_read_only_image_opens_nothing_for_writing),
		cmocka_unit_test(a_probe_takes_no_lock_whatever_its_driver_asks),
		cmocka_unit_test(raw_equals_model_buffered),
		cmocka_unit_test(raw_equals_model_on_tmpfs),
		cmocka_unit_test(raw_equals_model_direct),
		cmocka_unit_test(raw_equals_model_with_4096_sectors),
		cmocka_unit_test(requests_outside_the_image_are_refused),
		cmocka_unit_test(the_sum_of_vectors_cannot_wrap),
		cmocka_unit_test(a_read_only_image_is_not_written),
		cmocka_unit_test(raw_notices_a_new_size),
		cmocka_unit_test(raw_behind_a_shrunk_end_is_an_error),
		cmocka_unit_test(what_cannot_be_opened_says_why),
		cmocka_unit_test(null_takes_sizes),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
