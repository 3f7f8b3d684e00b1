/*
 * An open image: the one caller of a driver's callbacks.
 *
 * The normal path of a data call is: bounds, the turn of a serial driver, the callback, a look at
 * the result. img_map() has no turn and no lock. What a driver lacks is emulated (write_zeroes by
 * writing) or refused with -EOPNOTSUPP; what it answers with -EOPNOTSUPP is not asked again.
 *
 * What can go wrong: drivers. One that returns nonsense, reports an absurd size or maps beyond what
 * was asked gets -EIO, and a line in the log now and then.
 *
 * Threads as image.h says.
 */
#include "image.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/overflow.h"
#include "image-host.h"
#include "io.h"

#define SECTOR    512
#define DEPTH_MAX 128 /* images standing on each other */
#define ERRNO_MAX 4095
#define BLOCK_MAX (1 * GiB) /* of any granularity that a driver reports */

#define OPEN_FLAGS (RD_OPEN_WRITE | RD_OPEN_DIRECT | RD_OPEN_PROBE | RD_OPEN_UNSAFE)
#define ALL_CAPS                                                                                   \
	(RD_CAP_PARALLEL | RD_CAP_FLUSH | RD_CAP_DISCARD | RD_CAP_WRITE_ZEROES | RD_CAP_RESIZE |   \
	 RD_CAP_SNAPSHOT | RD_CAP_DISCARD_ZEROES | RD_CAP_DISCARD_FORGETS)

struct image {
	/* set by img_open */
	struct rd_host host; /* what the driver sees */
	const struct rd_driver *driver;
	void *handle;
	char *disk;
	uint32_t flags; /* RD_OPEN_* */
	bool serial;
	unsigned depth; /* images above this one */
	struct image *parent; /* the one above; it is closed after this one */
	struct rd_file *from; /* the parent's file that names this image; NULL: none does */

	struct rd_info info; /* size: atomic access; the rest is set by img_open and img_refresh */

	/* any thread */
	_Atomic bool no_discard;
	_Atomic bool no_write_zeroes;
	_Atomic bool unsettled; /* see img_unsettled */
	_Atomic bool remote;    /* one of its files, or of what it stands on, is */
	struct log_limit broken; /* for what a driver does wrong */

	/* A serial driver's calls one at a time. Held over the call: not one of the ranked locks.
	 */
	pthread_mutex_t turn;

	/* opening thread, during img_open only */
	int found; /* of a backing file: what its target is, O_PATH; else -1 */
	const char *target;
	char *err;
	size_t errlen;
};

/* ---- messages
 * ------------------------------------------------------------------------------------ */

void img_vsay(struct image *image, enum log_level level, const char *fmt, va_list ap)
{
	char text[1024];
	struct log_was was;

	vsnprintf(text, sizeof(text), fmt, ap);
	if (image->err && level == LOG_LVL_ERR)
		snprintf(image->err, image->errlen, "%s: %s", image->driver->name, text);
	was = log_enter(image->disk, image->driver->name);
	log_at(level, LOG_DRIVER, "%s: %s", image->driver->name, text);
	log_leave(was);
}

void img_say(struct image *image, enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	img_vsay(image, level, fmt, ap);
	va_end(ap);
}

const char *img_disk(const struct image *image)
{
	return image->disk;
}

uint32_t img_flags(const struct image *image)
{
	return image->flags;
}

/* The driver broke its contract. Always -EIO. */
static int broken(struct image *image, const char *callback, long long value)
{
	struct log_was was = log_enter(image->disk, image->driver->name);

	log_limited(&image->broken, LOG_LVL_ERR, LOG_DRIVER,
		    "%s: driver %s: %s returned nonsense (%lld)", image->disk, image->driver->name,
		    callback, value);
	log_leave(was);
	return -EIO;
}

/* What a callback may return: 0 or -errno. */
static int result(struct image *image, const char *callback, int r)
{
	return r <= 0 && r >= -ERRNO_MAX ? r : broken(image, callback, r);
}

/* ---- opening
 * ------------------------------------------------------------------------------------- */

static bool has_option(const struct rd_driver *driver, const char *option)
{
	size_t len = strcspn(option, "=");

	for (const struct rd_option *o = driver->options; o && o->key; o++)
		if (strlen(o->key) == len && !memcmp(o->key, option, len))
			return true;
	return false;
}

static int refuse_option(struct image *image, const char *option)
{
	const struct rd_option *o = image->driver->options;
	int len = (int)MIN(strcspn(option, "="), (size_t)64);
	char list[256] = "none";
	size_t used = 0;

	for (; o && o->key && used < sizeof(list); o++)
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used ? ", " : "",
					 o->key);
	img_say(image, LOG_LVL_ERR, "there is no option \"%.*s\"; the driver's own are: %s", len,
		option, list);
	return -EINVAL;
}

static int check_options(struct image *image, char *const *options)
{
	for (; options && *options; options++)
		if (!has_option(image->driver, *options))
			return refuse_option(image, *options);
	return 0;
}

/* What a capability needs that the driver does not have, or NULL. */
static const char *missing_callback(const struct rd_driver *d, uint32_t caps)
{
	if (caps & RD_CAP_FLUSH && !d->flush)
		return "flush";
	if (caps & RD_CAP_DISCARD && !d->discard)
		return "discard";
	if (caps & RD_CAP_WRITE_ZEROES && !d->write_zeroes)
		return "write_zeroes";
	if (caps & RD_CAP_RESIZE && !d->resize)
		return "resize";
	return NULL;
}

static bool block_valid(uint32_t block, uint32_t least)
{
	return is_pow2(block) && block >= least && block <= BLOCK_MAX;
}

/* Check what open or refresh found, and fill in what may be left 0. NULL, or what is wrong. */
static const char *check_info(const struct rd_driver *driver, struct rd_info *info)
{
	info->struct_size = sizeof(*info);
	if (info->logical_block != SECTOR && info->logical_block != 4096)
		return "the logical block size is neither 512 nor 4096";
	if (!info->physical_block)
		info->physical_block = info->logical_block;
	if (!info->discard_granularity)
		info->discard_granularity = info->logical_block;
	if (!block_valid(info->physical_block, info->logical_block))
		return "the physical block size is impossible";
	if (!block_valid(info->discard_granularity, info->logical_block))
		return "the discard granularity is impossible";
	if (info->optimal_io > BLOCK_MAX || info->optimal_io % info->logical_block)
		return "the optimal I/O size is impossible";
	if (!is_aligned(info->size, info->logical_block) || info->size > INT64_MAX)
		return "the size is impossible";
	if (info->caps & ~ALL_CAPS)
		return "it has capabilities that are unknown here";
	if (missing_callback(driver, info->caps))
		return "it claims a capability whose callback it does not have";
	return NULL;
}

static int call_open(struct image *image, const struct params *params)
{
	const struct rd_open_args args = {
		.struct_size = sizeof(args),
		.flags = image->flags,
		.target = params->target,
		.options = (const char *const *)params->options,
	};
	struct rd_info info = { .struct_size = sizeof(info) };
	const char *wrong;
	int r = image->driver->open(&image->host, &args, &image->handle, &info);

	if (r)
		return result(image, "open", r);
	wrong = check_info(image->driver, &info);
	if (!wrong) {
		image->info = info;
		image->serial = !(info.caps & RD_CAP_PARALLEL);
		return 0;
	}
	img_say(image, LOG_LVL_ERR, "%s: %s", params->target, wrong);
	image->driver->close(image->handle);
	return -EIO;
}

static int open_inner(struct image *image, const struct params *params)
{
	int r;

	if (image->flags & ~OPEN_FLAGS) {
		img_say(image, LOG_LVL_ERR, "unknown open flags %#x", image->flags & ~OPEN_FLAGS);
		return -EINVAL;
	}
	if (image->depth >= DEPTH_MAX) {
		img_say(image, LOG_LVL_ERR, "more than %d images stand on each other", DEPTH_MAX);
		return -ELOOP;
	}
	if (image->flags & RD_OPEN_WRITE && !image->driver->writev) {
		img_say(image, LOG_LVL_ERR, "this driver only reads");
		return -EROFS;
	}
	r = check_options(image, params->options);
	return r ? r : call_open(image, params);
}

static void image_free(struct image *image)
{
	pthread_mutex_destroy(&image->turn);
	free(image->disk);
	free(image);
}

/* Where an image stands; all zero and found -1 for one of the top. */
struct position {
	struct image *parent;
	struct rd_file *from;
	int found;
};

static struct image *image_new(const char *disk, const struct rd_driver *driver, uint32_t flags,
			       const struct position *at)
{
	struct image *image = calloc(1, sizeof(*image));

	if (!image || !(image->disk = strdup(disk ? disk : ""))) {
		free(image);
		return NULL;
	}
	img_host_init(&image->host, image);
	pthread_mutex_init(&image->turn, NULL);
	log_limit_init(&image->broken, 5, 60000);
	image->driver = driver;
	image->flags = flags;
	image->parent = at->parent;
	image->from = at->from;
	image->found = at->found;
	image->depth = at->parent ? at->parent->depth + 1 : 0;
	return image;
}

static int open_at(const char *disk, const struct params *params, uint32_t flags,
		   const struct position *at, struct image **opened, char *err, size_t errlen)
{
	struct image *image = image_new(disk, params->driver, flags, at);
	struct log_was was;
	int r;

	if (!image) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	image->target = params->target;
	image->err = err;
	image->errlen = errlen;
	err[0] = '\0';
	/* What files say meanwhile is about this image, too. */
	was = log_enter(image->disk, image->driver->name);
	r = open_inner(image, params);
	log_leave(was);
	if (r && !err[0])
		snprintf(err, errlen, "%s: %.512s: %s", params->driver->name, params->target,
			 strerror(-r));
	image->err = NULL;
	image->target = NULL;
	if (r) {
		image_free(image);
		return r;
	}
	*opened = image;
	return 0;
}

int img_open(const char *disk, const struct params *params, uint32_t flags, struct image **image,
	     char *err, size_t errlen)
{
	const struct position top = { .found = -1 };
	char text[1024];

	if (!err || !errlen) {
		err = text;
		errlen = sizeof(text);
	}
	return open_at(disk, params, flags, &top, image, err, errlen);
}

/* One below another. */
static int open_under(struct image *parent, const struct position *at, const struct params *params,
		      uint32_t flags, struct image **child)
{
	char err[1024];
	int r = open_at(parent->disk, params, flags, at, child, err, sizeof(err));

	/* It has been logged. */
	if (r && parent->err)
		snprintf(parent->err, parent->errlen, "%s", err);
	return r;
}

int img_open_found(struct image *parent, struct rd_file *from, const struct rd_driver *driver,
		   const char *path, int found, struct image **child)
{
	const struct position at = { parent, from, found };
	CLEANUP_FREE char *target = strdup(path);
	const struct params params = { .driver = driver, .target = target };

	if (!target)
		return -ENOMEM;
	return open_under(parent, &at, &params, parent->flags & ~RD_OPEN_WRITE, child);
}

const struct image *img_parent(const struct image *image, struct rd_file **from)
{
	*from = image->from;
	return image->parent;
}

int img_found(const struct image *image, const char *path)
{
	return image->target && !strcmp(path, image->target) ? image->found : -1;
}

int img_open_below(struct image *parent, const char *string, uint32_t flags, struct image **child)
{
	const struct position at = { .parent = parent, .found = -1 };
	struct params params;
	char err[1024];
	int r = params_parse(string, &params, err, sizeof(err));

	if (!r) {
		r = open_under(parent, &at, &params, flags, child);
		params_free(&params);
		return r;
	}
	img_say(parent, LOG_LVL_ERR, "%s", err);
	return r;
}

int img_close(struct image *image)
{
	int r;

	if (!image)
		return 0;
	r = result(image, "close", image->driver->close(image->handle));
	image_free(image);
	return r;
}

const struct rd_info *img_info(const struct image *image)
{
	return &image->info;
}

struct rd_info img_info_now(const struct image *image)
{
	const struct rd_info *info = &image->info;

	return (struct rd_info){
		.struct_size = info->struct_size,
		.caps = info->caps,
		.size = __atomic_load_n(&info->size, __ATOMIC_RELAXED),
		.logical_block = info->logical_block,
		.physical_block = info->physical_block,
		.optimal_io = info->optimal_io,
		.discard_granularity = info->discard_granularity,
	};
}

const struct rd_driver *img_driver(const struct image *image)
{
	return image->driver;
}

const char *img_driver_name(const struct image *image)
{
	return image ? image->driver->name : NULL;
}

bool img_writable(const struct image *image)
{
	return image->flags & RD_OPEN_WRITE;
}

bool img_quick(const struct image *image)
{
	return image->driver->map && image->info.caps & RD_CAP_PARALLEL &&
	       !atomic_load_explicit(&image->remote, memory_order_relaxed);
}

void img_set_remote(struct image *image)
{
	for (; image; image = image->parent)
		atomic_store(&image->remote, true);
}

/* ---- for image-manage.c
 * -------------------------------------------------------------------------- */

void *img_handle(const struct image *image)
{
	return image->handle;
}

int img_result(struct image *image, const char *callback, int r)
{
	return result(image, callback, r);
}

struct image *img_new_blank(const char *disk, const struct rd_driver *driver, char *err, size_t errlen)
{
	const struct position top = { .found = -1 };
	struct image *image = image_new(disk, driver, RD_OPEN_WRITE, &top);

	if (image) {
		image->err = err;
		image->errlen = errlen;
	}
	return image;
}

const struct rd_host *img_host(const struct image *image)
{
	return &image->host;
}

void img_free_blank(struct image *image)
{
	image_free(image);
}

/* ---- data
 * ---------------------------------------------------------------------------------------- */

static bool in_bounds(const struct image *image, uint64_t offset, uint64_t length)
{
	uint64_t size = __atomic_load_n(&image->info.size, __ATOMIC_RELAXED);

	return range_inside(offset, length, size) &&
	       is_aligned(offset | length, image->info.logical_block);
}

/* Bounds and mode of a request. */
static int check(const struct image *image, bool write, uint64_t offset, uint64_t length)
{
	if (write && !img_writable(image))
		return -EROFS;
	return in_bounds(image, offset, length) ? 0 : -EINVAL;
}

/* The same for one with vectors, whose sum goes to *length. */
static int check_vectors(const struct image *image, bool write, const struct iovec *iov, int iovcnt,
			 uint64_t offset, uint64_t *length)
{
	*length = 0;
	for (int i = 0; i < iovcnt; i++)
		if (!add_u64(*length, iov[i].iov_len, length))
			return -EINVAL;
	return check(image, write, offset, *length);
}

static void turn_begin(struct image *image)
{
	if (image->serial)
		pthread_mutex_lock(&image->turn);
}

static void turn_end(struct image *image)
{
	if (image->serial)
		pthread_mutex_unlock(&image->turn);
}

void img_turn_begin(struct image *image)
{
	turn_begin(image);
}

void img_turn_end(struct image *image)
{
	turn_end(image);
}

int img_check_write(const struct image *image, const struct iovec *iov, int iovcnt, uint64_t offset,
		    uint64_t *length)
{
	return check_vectors(image, true, iov, iovcnt, offset, length);
}

int img_readv(struct image *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	uint64_t length;
	int r = check_vectors(image, false, iov, iovcnt, offset, &length);

	if (r || !length)
		return r;
	turn_begin(image);
	r = image->driver->readv(image->handle, iov, iovcnt, offset);
	turn_end(image);
	return result(image, "readv", r);
}

int img_writev(struct image *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	uint64_t length;
	int r = check_vectors(image, true, iov, iovcnt, offset, &length);

	if (r || !length)
		return r;
	turn_begin(image);
	r = image->driver->writev(image->handle, iov, iovcnt, offset);
	turn_end(image);
	return result(image, "writev", r);
}

int img_flush(struct image *image)
{
	int r;

	/* Before: what is discarded meanwhile may be too late. */
	atomic_store(&image->unsettled, false);
	/* A driver without flush has nothing that could get lost; a failed flush would end the disk. */
	if (!(image->info.caps & RD_CAP_FLUSH))
		return 0;
	turn_begin(image);
	r = image->driver->flush(image->handle);
	turn_end(image);
	return result(image, "flush", r);
}

int img_discard(struct image *image, uint64_t offset, uint64_t length)
{
	int r = check(image, true, offset, length);

	if (r || !length)
		return r;
	if (!(image->info.caps & RD_CAP_DISCARD) || atomic_load(&image->no_discard))
		return -EOPNOTSUPP;
	turn_begin(image);
	r = image->driver->discard(image->handle, offset, length);
	turn_end(image);
	if (r == -EOPNOTSUPP)
		atomic_store(&image->no_discard, true);
	else
		atomic_store(&image->unsettled, true);
	return result(image, "discard", r);
}

bool img_unsettled(const struct image *image)
{
	return atomic_load_explicit(&image->unsettled, memory_order_relaxed);
}

static int write_zero_bytes(struct image *image, uint64_t offset, uint64_t length)
{
	static const char zeroes[64 * KiB] __attribute__((aligned(4096)));
	struct iovec iov[16];

	while (length) {
		uint64_t step = 0;
		int n = 0, r;

		for (; n < (int)ARRAY_SIZE(iov) && step < length; n++) {
			iov[n].iov_base = (void *)(uintptr_t)zeroes;
			iov[n].iov_len = MIN(sizeof(zeroes), length - step);
			step += iov[n].iov_len;
		}
		r = img_writev(image, iov, n, offset);
		if (r)
			return r;
		offset += step;
		length -= step;
	}
	return 0;
}

int img_write_zeroes(struct image *image, uint64_t offset, uint64_t length, uint32_t flags)
{
	int r = check(image, true, offset, length);

	if (!r && flags & ~RD_ZERO_MAY_UNMAP)
		r = -EINVAL;
	if (r || !length)
		return r;
	if (!(image->info.caps & RD_CAP_WRITE_ZEROES) || atomic_load(&image->no_write_zeroes))
		return write_zero_bytes(image, offset, length);
	turn_begin(image);
	r = image->driver->write_zeroes(image->handle, offset, length, flags);
	turn_end(image);
	if (flags & RD_ZERO_MAY_UNMAP)
		atomic_store(&image->unsettled, true);
	if (r != -EOPNOTSUPP)
		return result(image, "write_zeroes", r);
	atomic_store(&image->no_write_zeroes, true);
	return write_zero_bytes(image, offset, length);
}

/* ---- map
 * ----------------------------------------------------------------------------------------- */

static bool extent_valid(struct rd_extent *e, bool write, uint64_t rest)
{
	uint64_t end;

	if (!e->length || e->length > rest || e->flags)
		return false;
	if (e->kind == RD_EXTENT_DATA)
		return e->file && add_u64(e->file_offset, e->length, &end) && end <= INT64_MAX;
	if (e->file || e->kind > RD_EXTENT_VOID)
		return false;
	if (write)
		return e->kind == RD_EXTENT_VOID;
	if (e->kind == RD_EXTENT_VOID)
		e->kind = RD_EXTENT_ZERO;
	return true;
}

int img_map(struct image *image, uint64_t offset, uint64_t length, bool write,
	    struct rd_extent *extents, int max_extents, uint64_t *token)
{
	const struct rd_driver *driver = image->driver;
	uint64_t done = 0;
	int n, i;

	if (!driver->map)
		return -EAGAIN;
	n = check(image, write, offset, length);
	if (n || !length || max_extents < 1)
		return n ? n : -EINVAL;
	n = driver->map(image->handle, offset, length, write, extents, max_extents, token);
	if (n == -EAGAIN)
		return n;
	if (n < 1 || n > max_extents)
		return broken(image, "map", n);
	for (i = 0; i < n && extent_valid(&extents[i], write, length - done); i++)
		done += extents[i].length;
	if (i == n)
		return n;
	driver->unmap(image->handle, *token);
	return broken(image, "map", i);
}

void img_unmap(struct image *image, uint64_t token)
{
	image->driver->unmap(image->handle, token);
}

/* ---- size
 * ---------------------------------------------------------------------------------------- */

int img_refresh(struct image *image)
{
	struct rd_info info = { .struct_size = sizeof(info) };
	uint64_t before = image->info.size;
	const char *wrong;
	int r;

	if (!image->driver->refresh)
		return 0;
	turn_begin(image);
	r = image->driver->refresh(image->handle, &info);
	turn_end(image);
	if (r)
		return result(image, "refresh", r);
	wrong = check_info(image->driver, &info);
	if (!wrong && info.logical_block != image->info.logical_block)
		wrong = "the logical block size has changed";
	if (wrong) {
		img_say(image, LOG_LVL_ERR, "refresh: %s", wrong);
		return -EIO;
	}
	__atomic_store_n(&image->info.size, info.size, __ATOMIC_RELAXED);
	return info.size != before;
}

int img_resize(struct image *image, uint64_t size)
{
	int r;

	if (!img_writable(image))
		return -EROFS;
	if (!(image->info.caps & RD_CAP_RESIZE))
		return -EOPNOTSUPP;
	if (!size || size > INT64_MAX || !is_aligned(size, image->info.logical_block))
		return -EINVAL;
	turn_begin(image);
	r = image->driver->resize(image->handle, size);
	turn_end(image);
	if (r) {
		/* what failed may have come far enough that the size is another now */
		img_refresh(image);
		return result(image, "resize", r);
	}
	if (image->driver->refresh)
		r = img_refresh(image);
	else
		__atomic_store_n(&image->info.size, size, __ATOMIC_RELAXED);
	return r < 0 ? r : 0;
}
