/*
 * A qcow2 image, its metadata as the bytes want it, and what a guest and an administrator do to it.
 *
 * Input: a byte for the shape of the image; a byte that says how many changes of its metadata follow, each of
 * five bytes (which structure, which entry, how it is changed, and a value); then operations until the end, of
 * four bytes each (which, where, how long, which data).
 *
 * Without changes the image is good, and a plain array knows what is in it: all reads and all snapshots are
 * compared, and check never finds anything. With changes nothing crashes and nothing takes long; what check says
 * is wholly repaired is right when it is looked at again.
 *
 * The driver is the shared object of the build tree, through core as everywhere; the file is in memory where there
 * is a /dev/shm.
 */
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "image.h"
#include "log.h"

#define SNAPSHOTS  3
#define CHANGES    16
#define OPERATIONS 200
#define BOTH       (RD_CHECK_REPAIR_LEAKS | RD_CHECK_REPAIR_ERRORS)

struct disk {
	char path[PATH_MAX];
	size_t size;
	bool strict; /* nothing was changed: the model holds */
	struct image *image;
	uint8_t *model, *snapshot[SNAPSHOTS]; /* NULL: there is none */
	uint8_t *buf;
};

static char directory[64];

static void clean_up(void)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/a.qcow2", directory);
	unlink(path);
	rmdir(directory);
}

static void set_up(void)
{
	char exe[PATH_MAX] = "", drivers[PATH_MAX + 32];

	MUST(readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0);
	snprintf(drivers, sizeof(drivers), "%s/../../drivers/.libs", dirname(exe));
	/* libtool may have put the program one level deeper */
	if (access(drivers, R_OK))
		snprintf(drivers, sizeof(drivers), "%s/../../../drivers/.libs", exe);
	MUST(!drv_load(drivers));
	snprintf(directory, sizeof(directory), "%s/fuzz-qcow2.XXXXXX",
		 access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	MUST(mkdtemp(directory));
	atexit(clean_up);
}

/* ---- the image ----------------------------------------------------------------------------------------- */

static const struct {
	const char *options;
	size_t size;
} shapes[] = {
	{ "cluster-size=512", 96 << 10 },
	{ "cluster-size=512,refcount-bits=1", 96 << 10 },
	{ "cluster-size=512,refcount-bits=64,compression=zstd", 96 << 10 },
	{ "cluster-size=4K,version=2", 300 << 10 },
	{ "cluster-size=4K,preallocation=metadata", 300 << 10 },
	{ "cluster-size=16K,extended-l2=on", 600 << 10 },
	{ "cluster-size=16K,extended-l2=on,preallocation=metadata,refcount-bits=8", 600 << 10 },
	{ "cluster-size=64K,lazy-refcounts=on", 1 << 20 },
};

static void make(struct disk *d, unsigned shape)
{
	struct img_create what = { .size = shapes[shape].size, .overwrite = true };
	struct params params;
	char text[PATH_MAX + 128], err[1024];

	d->size = what.size;
	snprintf(text, sizeof(text), "qcow2,%s:%s", shapes[shape].options, d->path);
	MUST(!params_parse(text, &params, err, sizeof(err)));
	MUST(!img_create("fuzz", &params, &what, err, sizeof(err)));
	params_free(&params);
	d->model = calloc(1, d->size);
	d->buf = aligned_alloc(4096, (d->size + 4095) & ~(size_t)4095);
	MUST(d->model && d->buf);
}

static bool open_image(struct disk *d)
{
	struct params params;
	char text[PATH_MAX + 128], err[1024];
	int r;

	snprintf(text, sizeof(text), "qcow2,backing=none:%s", d->path);
	MUST(!params_parse(text, &params, err, sizeof(err)));
	r = img_open("fuzz", &params, RD_OPEN_WRITE, &d->image, err, sizeof(err));
	params_free(&params);
	if (r)
		d->image = NULL;
	MUST(!r || !d->strict);
	return !r;
}

static void close_image(struct disk *d)
{
	int r = img_close(d->image);

	d->image = NULL;
	MUST(!r || !d->strict);
}

static uint64_t get64(int fd, off_t at)
{
	uint8_t b[8] = { 0 };
	uint64_t v = 0;

	if (pread(fd, b, 8, at) < 8)
		return 0;
	for (int i = 0; i < 8; i++)
		v = v << 8 | b[i];
	return v;
}

static void put64(int fd, off_t at, uint64_t v)
{
	uint8_t b[8];

	for (int i = 7; i >= 0; i--, v >>= 8)
		b[i] = (uint8_t)v;
	MUST(pwrite(fd, b, 8, at) == 8);
}

/* One change: structure, entry, way, value. */
static void change(int fd, const uint8_t *c)
{
	const uint64_t mask = 0x00fffffffffffe00u;
	uint64_t l1 = get64(fd, 40), table = get64(fd, 48), value, other;
	uint64_t l2 = get64(fd, (off_t)l1) & mask, block = get64(fd, (off_t)table) & mask;
	const uint64_t bases[] = { 0, l1, l2, table, block, get64(fd, 64), l2, l2 };
	uint64_t at = bases[c[0] & 7] + c[1] % 16 * 8 + (c[0] & 8 ? c[4] % 8 : 0);

	if (at > 1 << 24)
		return;
	value = get64(fd, (off_t)at);
	other = bases[c[3] & 7];
	switch (c[2] & 7) {
	case 0: /* a bit */
		value ^= 1ull << (c[3] & 63);
		break;
	case 1: /* points elsewhere that is something */
		value = other | (uint64_t)(c[3] >> 7) << 63;
		break;
	case 2:
		value = (value & ~mask) | (other & mask);
		break;
	case 3: /* a byte */
		value = (value & ~(0xffull << (c[3] & 7) * 8)) | (uint64_t)c[4] << (c[3] & 7) * 8;
		break;
	case 4:
		value = 0;
		break;
	case 5: /* the neighbour's */
		value = get64(fd, (off_t)(bases[c[0] & 7] + c[3] % 16 * 8));
		break;
	case 6: /* compressed */
		value = 1ull << 62 | (uint64_t)c[3] << 54 | (uint64_t)c[4] << 9 | c[1];
		break;
	default: /* far away */
		value += 1ull << (c[3] % 56);
		break;
	}
	put64(fd, (off_t)at, value);
}

static void change_all(struct disk *d, const uint8_t *changes, unsigned n)
{
	int fd = open(d->path, O_RDWR | O_CLOEXEC);

	MUST(fd >= 0);
	while (n--) {
		change(fd, changes);
		changes += 5;
	}
	close(fd);
}

/* ---- operations ---------------------------------------------------------------------------------------- */

static void succeeded(const struct disk *d, int r)
{
	MUST(r <= 0 && r > -4096);
	MUST(!r || !d->strict);
}

static void range_of(const struct disk *d, const uint8_t *op, size_t *offset, size_t *length)
{
	size_t sectors = d->size / 512;

	*offset = (size_t)op[1] * sectors / 256;
	*length = 1 + (size_t)op[2] * op[2] * sectors / 65536;
	*length = MIN(*length, sectors - *offset) * 512;
	*offset *= 512;
}

static void compare(struct disk *d, size_t offset, size_t length)
{
	struct iovec iov = { .iov_base = d->buf, .iov_len = length };
	int r = img_readv(d->image, &iov, 1, offset);

	succeeded(d, r);
	if (!r && d->strict)
		MUST(!memcmp(d->buf, d->model + offset, length));
}

static void guest(struct disk *d, const uint8_t *op)
{
	struct iovec iov = { .iov_base = d->buf };
	size_t offset, length;

	range_of(d, op, &offset, &length);
	iov.iov_len = length;
	switch (op[0] & 3) {
	case 0:
		compare(d, offset, length);
		break;
	case 1:
		memset(d->buf, op[3] | 1, length);
		memset(d->model + offset, op[3] | 1, length);
		succeeded(d, img_writev(d->image, &iov, 1, offset));
		break;
	case 2: /* a hint: what is there afterwards may be either, so say which */
		succeeded(d, img_discard(d->image, offset, length));
		__attribute__((fallthrough));
	default:
		succeeded(d, img_write_zeroes(d->image, offset, length, op[3] & 1));
		memset(d->model + offset, 0, length);
		break;
	}
}

static void check(struct disk *d, uint32_t flags)
{
	struct rd_check found, again;
	int r = img_check(d->image, flags, NULL, &found);

	succeeded(d, r);
	if (d->strict)
		MUST(!found.errors && !found.leaks && !found.unchecked);
	if (r || !flags || found.errors != found.errors_fixed || found.leaks != found.leaks_fixed ||
	    found.unchecked)
		return;
	MUST(!img_check(d->image, 0, NULL, &again));
	MUST(!again.errors && !again.leaks && !again.unchecked);
}

static void snapshot(struct disk *d, const uint8_t *op)
{
	static const char *const names[SNAPSHOTS] = { "a", "b", "c" };
	unsigned n = op[1] % SNAPSHOTS;
	int what = op[2] % 3, r = img_snapshot(d->image, what, names[n], NULL);

	MUST(r <= 0 && r > -4096);
	if (!d->strict)
		return;
	if (what == RD_SNAPSHOT_CREATE && !r) {
		MUST(!d->snapshot[n]);
		d->snapshot[n] = malloc(d->size);
		MUST(d->snapshot[n]);
		memcpy(d->snapshot[n], d->model, d->size);
	} else if (what != RD_SNAPSHOT_CREATE) {
		MUST(d->snapshot[n] ? !r : r == -ENOENT);
		if (!r && what == RD_SNAPSHOT_APPLY)
			memcpy(d->model, d->snapshot[n], d->size);
		if (!r && what == RD_SNAPSHOT_DELETE) {
			free(d->snapshot[n]);
			d->snapshot[n] = NULL;
		}
	} else { /* it is there already, or the refcounts are too narrow */
		MUST(r == -EEXIST || r == -ERANGE);
	}
}

/* False: it could not be opened again. */
static bool operate(struct disk *d, const uint8_t *op)
{
	switch (op[0] >> 2 & 7) {
	case 5:
		snapshot(d, op);
		break;
	case 6:
		check(d, op[1] & 3);
		break;
	case 7:
		if (op[1] & 1) {
			succeeded(d, img_flush(d->image));
		} else {
			close_image(d);
			return open_image(d);
		}
		break;
	default:
		guest(d, op);
	}
	/* A snapshot that was applied may have another size, where the image said so. */
	return img_info(d->image)->size >= d->size;
}

/* libFuzzer calls it first, if it is there: the driver must be loaded by then for its code to be counted. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	set_up();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct disk d = { .strict = true };
	unsigned shape, changes, n = 0;

	if (!directory[0])
		set_up();
	if (size < 2)
		return 0;
	snprintf(d.path, sizeof(d.path), "%s/a.qcow2", directory);
	shape = data[0] % ARRAY_SIZE(shapes);
	changes = data[1] % (CHANGES + 1);
	data += 2;
	size -= 2;
	changes = MIN(changes, (unsigned)(size / 5));
	make(&d, shape);
	/* Something must be there that can be changed. */
	if (changes && open_image(&d)) {
		static const uint8_t some[][4] = {
			{ 1, 0, 90, 7 }, { 20, 0, 0, 0 }, { 1, 20, 60, 9 }, { 3, 90, 80, 1 }
		};

		for (size_t i = 0; i < ARRAY_SIZE(some); i++)
			MUST(operate(&d, some[i]));
		close_image(&d);
		d.strict = false;
		change_all(&d, data, changes);
	}
	data += (size_t)changes * 5;
	size -= (size_t)changes * 5;
	if (open_image(&d)) {
		while (size >= 4 && n++ < OPERATIONS && operate(&d, data)) {
			data += 4;
			size -= 4;
		}
		if (d.image && d.strict) {
			compare(&d, 0, d.size);
			check(&d, 0);
		}
		if (d.image)
			close_image(&d);
	}
	for (unsigned i = 0; i < SNAPSHOTS; i++)
		free(d.snapshot[i]);
	free(d.model);
	free(d.buf);
	return 0;
}
