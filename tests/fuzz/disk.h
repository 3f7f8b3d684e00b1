/*
 * disk.h - a disk of any format and the array that says what is in it: for the fuzzers of image formats
 *
 * Operations are four bytes each: which, where, how long, which data. All of them go through core, and the mapped
 * ones to the files directly, as core does that itself. A disk whose metadata nobody has touched is strict: every
 * operation succeeds and every read gives what the array says. Of one that was changed, some drivers still promise
 * that what could be read stays so until it is written (keeps): then the array has what was read first. No file is
 * opened but those in the fuzzer's directory.
 *
 * One thread. Images lie in $TMPDIR, or in memory where there is /dev/shm.
 */
#ifndef RD_FUZZ_DISK_H
#define RD_FUZZ_DISK_H

#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "image.h"
#include "io-syscalls.h"
#include "io.h"
#include "log.h"

#define SNAPSHOTS  3
#define OVERLAYS   3
#define OPERATIONS 200

struct disk {
	const char *driver;
	const char *options; /* of opening it, ",key=value" */
	const char *overlay; /* of making one that stands on it */
	size_t largest;      /* of what the array has room for */
	bool strict;         /* nothing was changed: the array is right */
	bool keeps;          /* if something was changed: what is known stays */

	unsigned layer; /* of how many others it is made */
	size_t size;    /* of what the array knows; at most that of the disk */
	struct image *image;
	uint8_t *model, *below, *buf; /* below: what the images below have */
	bool *known;                  /* sectors */
	uint8_t *snapshot[SNAPSHOTS]; /* NULL: there is none */
	size_t snapshot_size[SNAPSHOTS];
};

/* ---- files ------------------------------------------------------------------------------------------------- */

static char directory[PATH_MAX];
static struct io_syscalls real_sys;

static const char *layer_name(unsigned layer)
{
	static const char *const names[OVERLAYS + 1] = { "image", "overlay1", "overlay2",
							 "overlay3" };

	return names[layer];
}

static void file_path(char *path, size_t room, const char *name)
{
	MUST((size_t)snprintf(path, room, "%s/%s", directory, name) < room);
}

static void clean_up(void)
{
	static const char *const names[] = { "image", "overlay1", "overlay2", "overlay3",
					     "raw",   "base",     "middle" };
	char path[PATH_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		file_path(path, sizeof(path), names[i]);
		unlink(path);
	}
	rmdir(directory);
}

/* Whatever an image says: no file elsewhere is opened. */
static int open_here_only(const char *path, int flags, ...)
{
	char link[64], is[PATH_MAX] = "";
	int fd = real_sys.open(path, flags | O_CLOEXEC, 0600);

	if (fd >= 0) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		MUST(readlink(link, is, sizeof(is) - 1) > 0);
		MUST(!strncmp(is, directory, strlen(directory)) && is[strlen(directory)] == '/');
	}
	return fd;
}

static void no_log(void *opaque, enum log_level level, enum log_subsys subsys, const char *line)
{
	(void)opaque, (void)level, (void)subsys, (void)line;
}

static void set_up(const char *name)
{
	char exe[PATH_MAX] = "", drivers[PATH_MAX + 32];

	MUST(readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0);
	snprintf(drivers, sizeof(drivers), "%s/../../drivers/.libs", dirname(exe));
	/* libtool may have put the program one level deeper */
	if (access(drivers, R_OK))
		snprintf(drivers, sizeof(drivers), "%s/../../../drivers/.libs", exe);
	MUST(!drv_load(drivers));
	log_to_callback(no_log, NULL);
	snprintf(directory, sizeof(directory), "%s/fuzz-%s.XXXXXX",
		 getenv("TMPDIR")           ? getenv("TMPDIR")
		 : access("/dev/shm", W_OK) ? "/tmp"
					    : "/dev/shm",
		 name);
	MUST(mkdtemp(directory));
	atexit(clean_up);
	real_sys = io_sys;
	io_sys.open = open_here_only;
}

/* ---- making ------------------------------------------------------------------------------------------------ */

__attribute__((format(printf, 2, 3))) static struct params parse_params(bool must, const char *fmt,
									...)
{
	char text[2 * PATH_MAX], err[1024];
	struct params params;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	MUST(!params_parse(text, &params, err, sizeof(err)) || !must);
	return params;
}

/* A new image, over what was there by that name. */
static int make_image(const char *driver, const char *options, const char *name,
		      const struct img_create *what)
{
	struct img_create anew = *what;
	struct params params = parse_params(true, "%s%s:%s/%s", driver, options, directory, name);
	char err[1024];
	int r;

	anew.overwrite = true;
	r = img_create("fuzz", &params, &anew, err, sizeof(err));
	params_free(&params);
	return r;
}

static void disk_init(struct disk *d, size_t size)
{
	d->size = size;
	d->largest = 2 * size;
	d->model = calloc(1, d->largest);
	d->below = calloc(1, d->largest);
	d->known = calloc(d->largest / 512, sizeof(*d->known));
	d->buf = aligned_alloc(4096, (d->largest + 4095) & ~(size_t)4095);
	MUST(d->model && d->below && d->known && d->buf);
}

static void forget_snapshots(struct disk *d)
{
	for (unsigned i = 0; i < SNAPSHOTS; i++) {
		free(d->snapshot[i]);
		d->snapshot[i] = NULL;
	}
}

static void disk_free(struct disk *d)
{
	forget_snapshots(d);
	free(d->model);
	free(d->below);
	free(d->known);
	free(d->buf);
}

/* ---- reading ----------------------------------------------------------------------------------------------- */

static int read_into(struct disk *d, void *to, size_t offset, size_t length)
{
	struct iovec iov = { .iov_base = d->buf, .iov_len = length };
	int r = img_readv(d->image, &iov, 1, offset);

	MUST(r <= 0 && r > -4096);
	if (!r)
		memcpy(to, d->buf, length);
	return r;
}

/* The array has what is there, of a disk that is not strict. */
static void learn(struct disk *d, size_t offset, size_t length)
{
	size_t end = offset + length;

	if (d->strict || !d->keeps)
		return;
	if (!read_into(d, d->model + offset, offset, length)) {
		memset(d->known + offset / 512, 1, length / 512);
		return;
	}
	for (; offset < end; offset += 512)
		d->known[offset / 512] = !read_into(d, d->model + offset, offset, 512);
}

static bool same(const struct disk *d, const uint8_t *found, size_t offset, size_t length)
{
	for (size_t s = 0; s < length / 512; s++)
		if ((d->strict || d->known[offset / 512 + s]) &&
		    memcmp(found + s * 512, d->model + offset + s * 512, 512))
			return false;
	return true;
}

static void compare(struct disk *d, size_t offset, size_t length)
{
	struct iovec iov = { .iov_base = d->buf, .iov_len = length };
	int r = img_readv(d->image, &iov, 1, offset);

	MUST(r <= 0 && r > -4096);
	MUST(!r || !d->strict);
	if (!r && (d->strict || d->keeps))
		MUST(same(d, d->buf, offset, length));
	for (size_t at = offset; r && d->keeps && at < offset + length; at += 512) {
		iov.iov_len = 512;
		if (!d->known[at / 512])
			continue;
		MUST(!img_readv(d->image, &iov, 1, at));
		MUST(same(d, d->buf, at, 512));
	}
}

/* ---- opening ----------------------------------------------------------------------------------------------- */

/* False: it is refused. must: it cannot be. */
static bool open_with(struct disk *d, const char *more, bool must)
{
	struct params params = parse_params(true, "%s%s%s:%s/%s", d->driver, d->options, more,
					    directory, layer_name(d->layer));
	char err[1024] = "";
	int r = img_open("fuzz", &params, RD_OPEN_WRITE, &d->image, err, sizeof(err));

	params_free(&params);
	MUST(!r || err[0]);
	/* What was written to a fixed disk may look like the table of a dynamic one. Then it is asked, and can be said. */
	if (r == -EUCLEAN && must && strstr(err, "footer=end"))
		return open_with(d, ",footer=end", true);
	MUST(!r || !must);
	if (r)
		d->image = NULL;
	return !r;
}

/* For the first time. */
static bool open_disk(struct disk *d)
{
	if (!open_with(d, "", d->strict))
		return false;
	d->size = MIN(d->size, img_info(d->image)->size);
	learn(d, 0, d->size);
	return true;
}

static int close_disk(struct disk *d)
{
	int r = img_close(d->image);

	d->image = NULL;
	MUST(!r || (!d->strict && !d->keeps));
	return r;
}

static bool reopen(struct disk *d)
{
	close_disk(d);
	return open_with(d, "", d->strict || d->keeps);
}

/* ---- what a guest does ------------------------------------------------------------------------------------- */

static void range_of(const struct disk *d, const uint8_t *op, size_t *offset, size_t *length)
{
	size_t sectors = d->size / 512;

	*offset = (size_t)op[1] * sectors / 256;
	*length = 1 + (size_t)op[2] * op[2] * sectors / 65536;
	*length = MIN(*length, sectors - *offset) * 512;
	*offset *= 512;
}

/* What failed may be done in part. */
static void now_is(struct disk *d, size_t offset, size_t length, int value, int r)
{
	MUST(r <= 0 && r > -4096);
	MUST(!r || !d->strict);
	if (r) {
		learn(d, offset, length);
		return;
	}
	memset(d->model + offset, value, length);
	memset(d->known + offset / 512, 1, length / 512);
}

static void write_some(struct disk *d, size_t offset, size_t length, uint8_t value)
{
	struct iovec iov = { .iov_base = d->buf, .iov_len = length };

	memset(d->buf, value, length);
	now_is(d, offset, length, value, img_writev(d->image, &iov, 1, offset));
}

/* A hint: each sector is what it was or zeroes, or what is below if the format cannot say zeroes. */
static void discard(struct disk *d, size_t offset, size_t length)
{
	bool forgets = img_info(d->image)->caps & RD_CAP_DISCARD_FORGETS;
	int r = img_discard(d->image, offset, length);
	static const uint8_t zeroes[512];

	MUST(r <= 0 && r > -4096);
	/* the image was opened so that nothing is given back */
	if (r == -EOPNOTSUPP)
		return;
	MUST(!r || !d->strict);
	if (!d->strict && !d->keeps)
		return;
	for (size_t at = offset; at < offset + length; at += 512) {
		uint8_t now[512];

		if (read_into(d, now, at, 512)) {
			MUST(!d->strict);
			d->known[at / 512] = false;
			continue;
		}
		MUST(!memcmp(now, d->model + at, 512) || !memcmp(now, zeroes, 512) || !d->strict ||
		     (forgets && !memcmp(now, d->below + at, 512)));
		memcpy(d->model + at, now, 512);
		d->known[at / 512] = true;
	}
}

static int transfer(struct disk *d, const struct rd_extent *e, bool write, size_t offset,
		    uint8_t value)
{
	struct iovec iov = { .iov_base = d->buf, .iov_len = e->length };
	int r = 0;

	memset(d->buf, write ? value : 0, e->length);
	if (e->kind == RD_EXTENT_DATA)
		r = write ? io_writev(e->file, &iov, 1, e->file_offset)
			  : io_readv(e->file, &iov, 1, e->file_offset);
	if (write && e->kind == RD_EXTENT_DATA)
		now_is(d, offset, e->length, value, r);
	else if (!write && !r && (d->strict || d->keeps))
		MUST(same(d, d->buf, offset, e->length));
	return r;
}

/* As core does it: where metadata is in memory, the file is read and written directly. */
static void mapped(struct disk *d, bool write, size_t offset, size_t length, uint8_t value)
{
	struct rd_extent extents[8];
	uint64_t token;

	while (length) {
		int n = img_map(d->image, offset, length, write, extents, ARRAY_SIZE(extents),
				&token);
		uint64_t done = 0;

		if (n < 0)
			return;
		for (int i = 0; i < n && done < length; i++) {
			extents[i].length = MIN(extents[i].length, length - done);
			transfer(d, &extents[i], write, offset + done, value);
			done += extents[i].length;
		}
		img_unmap(d->image, token);
		offset += done;
		length -= done;
	}
}

/* Whole clusters, or up to the end. */
static void compressed(struct disk *d, size_t offset, size_t length, uint8_t value)
{
	size_t unit = img_info(d->image)->optimal_io, end = offset + length;
	struct iovec iov = { .iov_base = d->buf };
	int r;

	if (!img_driver(d->image)->write_compressed || !unit) {
		write_some(d, offset, length, value);
		return;
	}
	offset -= offset % unit;
	end = MIN((end + unit - 1) / unit * unit, d->size);
	/* Only where the array ends with the disk may it end inside of a cluster. */
	if (end % unit && end != img_info(d->image)->size)
		end -= end % unit;
	if (end <= offset)
		return;
	iov.iov_len = end - offset;
	memset(d->buf, value, end - offset);
	r = img_write_compressed(d->image, &iov, 1, offset);
	/* an image of version 2 or with subclusters may refuse that */
	if (r == -EOPNOTSUPP)
		return;
	now_is(d, offset, end - offset, value, r);
}

static void resize(struct disk *d, const uint8_t *op)
{
	size_t size = (8 + ((size_t)op[1] << 8 | op[2]) % (d->largest / 512 - 8)) * 512,
	       old = d->size;
	int r = img_resize(d->image, size);

	MUST(r <= 0 && r > -4096);
	/* with snapshots, or without the parent, some images cannot */
	MUST(!r || !d->strict || r == -EOPNOTSUPP);
	if (r && !d->strict)
		learn(d, 0, d->size);
	if (r)
		return;
	MUST(img_info(d->image)->size == size);
	/* Of a disk that was longer than the array the rest is not known. */
	d->size = size;
	if (size > old) {
		memset(d->model + old, 0, size - old);
		memset(d->below + old, 0, size - old);
		learn(d, old, size - old);
	}
}

/* The end of a disk that says it is larger than the array. */
static void far_away(struct disk *d, const uint8_t *op)
{
	uint64_t size = img_info(d->image)->size;
	size_t length = (1 + op[2] % 64) * 512u;
	struct iovec iov = { .iov_base = d->buf, .iov_len = length };

	if (size < d->size + length)
		return;
	memset(d->buf, op[3], length);
	if (op[1] & 1)
		img_writev(d->image, &iov, 1, size - length);
	else if (op[1] & 2)
		img_write_zeroes(d->image, size - length, length, op[3] & 1);
	else
		img_readv(d->image, &iov, 1, size - length);
}

static void guest(struct disk *d, const uint8_t *op)
{
	size_t offset, length;

	range_of(d, op, &offset, &length);
	switch (op[0] & 3) {
	case 0:
		compare(d, offset, length);
		break;
	case 1:
		write_some(d, offset, length, op[3] | 1);
		break;
	case 2:
		discard(d, offset, length);
		if (op[0] & 0x20)
			break;
		__attribute__((fallthrough));
	default:
		now_is(d, offset, length, 0, img_write_zeroes(d->image, offset, length, op[3] & 1));
		break;
	}
}

/* ---- what an administrator does ---------------------------------------------------------------------------- */

/* FUZZ_VERBOSE in the environment: each operation and each finding is told, for who wants to know about an input. */
static void note(void *ctx, int severity, const char *text)
{
	(void)ctx;
	fprintf(stderr, "check (%d): %s\n", severity, text);
}

/* good: nothing may be wrong. True: all is well, or is now. */
static bool check_once(struct disk *d, uint32_t flags, bool good)
{
	const struct rd_progress progress = { .note = note };
	struct rd_check found;
	int r = img_check(d->image, flags, getenv("FUZZ_VERBOSE") ? &progress : NULL, &found);

	MUST(r <= 0 && r > -4096);
	MUST(!r || !good);
	if (good && (found.errors || found.leaks || found.unchecked))
		fprintf(stderr, "%llu errors, %llu leaks, %llu unchecked\n", (unsigned long long)found.errors,
			(unsigned long long)found.leaks, (unsigned long long)found.unchecked);
	if (good)
		MUST(!found.errors && !found.leaks && !found.unchecked);
	return !r && found.errors == found.errors_fixed && found.leaks == found.leaks_fixed && !found.unchecked;
}

static void check(struct disk *d, uint32_t flags)
{
	bool well = check_once(d, flags, d->strict);

	if (flags && well)
		check_once(d, 0, true);
	/* what contradicts itself may be lost */
	if (flags)
		learn(d, 0, d->size);
}

static void snapshot(struct disk *d, const uint8_t *op)
{
	static const char *const names[SNAPSHOTS] = { "a", "b", "c" };
	unsigned n = op[1] % SNAPSHOTS;
	int what = op[2] % 3, r = img_snapshot(d->image, what, names[n], NULL);

	MUST(r <= 0 && r > -4096);
	if (!d->strict || r == -EOPNOTSUPP)
		return;
	if (what == RD_SNAPSHOT_CREATE && !r) {
		MUST(!d->snapshot[n]);
		d->snapshot[n] = malloc(d->size);
		MUST(d->snapshot[n]);
		memcpy(d->snapshot[n], d->model, d->size);
		d->snapshot_size[n] = d->size;
	} else if (what != RD_SNAPSHOT_CREATE) {
		MUST(d->snapshot[n] ? !r : r == -ENOENT);
		if (!r && what == RD_SNAPSHOT_APPLY) {
			d->size = d->snapshot_size[n];
			MUST(img_info(d->image)->size == d->size);
			memcpy(d->model, d->snapshot[n], d->size);
		}
		if (!r && what == RD_SNAPSHOT_DELETE) {
			free(d->snapshot[n]);
			d->snapshot[n] = NULL;
		}
	} else { /* it is there already, or the refcounts are too narrow */
		MUST(r == -EEXIST || r == -ERANGE);
	}
}

/* The image becomes the backing file of a new one. False: it could not be opened again. */
static bool overlay(struct disk *d)
{
	const struct img_create what = { .backing = layer_name(d->layer),
					 .backing_format = d->driver };
	bool good = d->strict || d->keeps;
	int r;

	if (d->layer == OVERLAYS || (!d->strict && img_info(d->image)->size > 1u << 30))
		return true;
	close_disk(d);
	r = make_image(d->driver, d->overlay, layer_name(d->layer + 1), &what);
	MUST(!r || !d->strict);
	if (!r) {
		memcpy(d->below, d->model, d->size);
		forget_snapshots(d);
		d->layer++;
	}
	/* What one can read of a damaged image, one can read through another on top of it. */
	return open_with(d, "", good);
}

/* ---- operations -------------------------------------------------------------------------------------------- */

static bool operate_more(struct disk *d, const uint8_t *op)
{
	size_t offset, length;

	range_of(d, op, &offset, &length);
	switch (op[0] >> 5) {
	case 4:
		mapped(d, op[0] & 1, offset, length, op[3] | 1);
		break;
	case 5:
		resize(d, op);
		break;
	case 6:
		compressed(d, offset, length, op[3] | 1);
		break;
	default:
		if (op[0] & 1)
			return overlay(d);
		far_away(d, op);
	}
	return true;
}

/* False: it could not be opened again, or is not what it was. */
static bool operate(struct disk *d, const uint8_t *op)
{
	if (getenv("FUZZ_VERBOSE"))
		fprintf(stderr, "operation %u.%u.%u %u %u %u, size %zu\n", op[0] >> 5,
			op[0] >> 2 & 7, op[0] & 3, op[1], op[2], op[3], d->size);
	switch (op[0] >> 2 & 7) {
	case 5:
		snapshot(d, op);
		break;
	case 6:
		check(d, op[1] & 3);
		break;
	case 7:
		if (!(op[1] & 1))
			return reopen(d);
		now_is(d, 0, 0, 0, img_flush(d->image));
		break;
	default:
		if (op[0] < 0x80)
			guest(d, op);
		else if (!operate_more(d, op))
			return false;
	}
	/* A snapshot that was applied may have another size, where the image said so. */
	return img_info(d->image)->size >= d->size;
}

/* All of them, and then a look at everything. The disk is open, and closed in the end. */
static void operate_all(struct disk *d, const uint8_t *data, size_t size)
{
	bool good = true;

	for (unsigned n = 0; good && size >= 4 && n < OPERATIONS; n++) {
		good = operate(d, data);
		data += 4;
		size -= 4;
	}
	if (!d->image)
		return;
	if (good && (d->strict || d->keeps))
		compare(d, 0, d->size);
	if (good && d->strict)
		check_once(d, 0, true);
	if (good && reopen(d) && (d->strict || d->keeps))
		compare(d, 0, d->size);
	if (d->image)
		close_disk(d);
}

#endif
