/* Images: bounds, emulation, drivers that break their contract, and raw against a model array. */
#include "test.h"

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
		iov[n++] = (struct iovec){.iov_base = base, .iov_len = part};
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
	struct model m = {.seed = 0x9e3779b97f4a7c15u};
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
		struct iovec iov = {.iov_base = m.buffer, .iov_len = m.block};

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
	    {1 * MiB, 512},
	    {1 * MiB - 512, 1024},
	    {UINT64_MAX - 511, 512},
	    {UINT64_MAX, 1},
	    {1, 512},
	    {0, 511},
	    {0, 2 * MiB},
	    {1ull << 63, 512},
	};
	struct image *image = disk_open("null:1M", RD_OPEN_WRITE);
	static char buffer[2 * MiB];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
		struct iovec iov = {.iov_base = buffer, .iov_len = outside[i].length};
		struct rd_extent extent;
		uint64_t token;

		assert_int_equal(img_readv(image, &iov, 1, outside[i].offset), -EINVAL);
		assert_int_equal(img_writev(image, &iov, 1, outside[i].offset), -EINVAL);
		assert_int_equal(img_discard(image, outside[i].offset, outside[i].length), -EINVAL);
		assert_int_equal(img_write_zeroes(image, outside[i].offset, outside[i].length, 0),
				 -EINVAL);
		assert_int_equal(
		    img_map(image, outside[i].offset, outside[i].length, false, &extent, 1, &token),
		    -EINVAL);
	}
	img_close(image);
}

static void the_sum_of_vectors_cannot_wrap(void **state)
{
	struct image *image = disk_open("null:1M", RD_OPEN_WRITE);
	char buffer[512];
	struct iovec iov[2] = {{buffer, SIZE_MAX - 511}, {buffer, 1024}};

	(void)state;
	assert_int_equal(img_readv(image, iov, 2, 0), -EINVAL);
	img_close(image);
}

static void a_read_only_image_is_not_written(void **state)
{
	struct image *image = disk_open("null:1M", 0);
	char buffer[512];
	struct iovec iov = {buffer, sizeof(buffer)};
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
	struct iovec iov = {buffer, sizeof(buffer)};
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
	snprintf(params, sizeof(params), "raw:%s", disk_file(dir, "empty", 511));
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
	    {"null:512", 512},      {"null:1K", KiB},     {"null:64M", 64 * MiB},
	    {"null:10G", 10 * GiB}, {"null:3T", 3 * TiB}, {"null:8191P", 8191 * 1024 * TiB},
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

int main(void)
{
	const struct CMUnitTest tests[] = {
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
