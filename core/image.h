/*
 * image.h - an open image: driver, handle, capabilities
 *
 * The one caller of the driver vtable.  Here are the bounds checks, the turn of serial drivers, the
 * emulation of what a driver lacks (write_zeroes by writing), and the check that a driver kept its
 * contract: a positive or absurd result becomes -EIO and one line in the log.
 *
 * Threads: open, close on control threads or one of their own, nothing else in flight at close; data calls on workers
 * and control threads; map and unmap anywhere.  Errors are -errno.
 */
#ifndef RD_IMAGE_H
#define RD_IMAGE_H

#include "drivers.h"

#include <stdbool.h>

struct image;

/*
 * disk: the name in messages.  flags: RD_OPEN_*.  Options of params that are settings of ringdisk
 * itself (settings.h) have been taken out by the caller; what is left goes to the driver, and one
 * that the driver does not list is an error that names those it has.
 * Logs the reason of a failure, and writes it to err (may be NULL) for xenstore and the admin socket.
 */
int img_open(const char *disk, const struct params *params, uint32_t flags, struct image **image,
	     char *err, size_t errlen);
/* Flushes nothing by itself.  Accepts NULL. */
int img_close(struct image *image);

/*
 * Where backing files may lie besides in the directory of the image that names them: absolute paths with
 * ':' between them, or NULL. Once, before there are other threads. -EINVAL: one is not absolute.
 */
int img_set_backing_dirs(const char *list);

const struct rd_info *img_info(const struct image *image);
/* The same as it is just now, beside an img_refresh or img_resize on another thread. */
struct rd_info img_info_now(const struct image *image);
const struct rd_driver *img_driver(const struct image *image);
/* For log_set_driver(). NULL for NULL. */
const char *img_driver_name(const struct image *image);
bool img_writable(const struct image *image);
/* Its calls mostly end at once: the driver has map and takes many calls, and every file is on this machine. */
bool img_quick(const struct image *image);

int img_readv(struct image *image, const struct iovec *iov, int iovcnt, uint64_t offset);
int img_writev(struct image *image, const struct iovec *iov, int iovcnt, uint64_t offset);
/* 0 also where the driver has no RD_CAP_FLUSH: then there is nothing to make durable. */
int img_flush(struct image *image);
int img_discard(struct image *image, uint64_t offset, uint64_t length);
int img_write_zeroes(struct image *image, uint64_t offset, uint64_t length, uint32_t flags);
/* Something was discarded since the last flush: a format gives its space back only when that is durable. */
bool img_unsettled(const struct image *image);

/* As the driver's map: number of extents, or -EAGAIN (also when the driver has no map).  Extents are
 * checked: lengths, and data extents have a file.  For a read RD_EXTENT_VOID has become RD_EXTENT_ZERO;
 * for a write there are only RD_EXTENT_DATA and RD_EXTENT_VOID (nothing to do: the data vanishes). */
int img_map(struct image *image, uint64_t offset, uint64_t length, bool write,
	    struct rd_extent *extents, int max_extents, uint64_t *token);
void img_unmap(struct image *image, uint64_t token);

/* Look again at the size: 1 changed, 0 not, -errno.  Afterwards img_info tells the new one.  Caller
 * makes sure that no data call is in flight, or accepts either size for those. */
int img_refresh(struct image *image);
int img_resize(struct image *image, uint64_t size);

/*
 * Management, for drivers of API 2; image-manage.c. Control threads, nothing else in flight unless it says
 * otherwise. -EOPNOTSUPP: the driver cannot do it (img_driver() tells before).
 */

/* What img_create is to make; see struct rd_create_args. */
struct img_create {
	uint64_t size; /* bytes; 0 with a backing file: its size */
	const char *backing, *backing_format;
	/* The target may be there: a file that nobody uses loses its content; a block device is given
	 * to the driver as it is. */
	bool overwrite;
};
/*
 * Make a new image: the file, and in it what the driver of params puts there. The options of params are those of
 * creation. -EEXIST: there is something already. When it fails the file is removed, unless it was there before
 * and nothing has been changed. Logs the reason, and writes it to err, as img_open.
 */
int img_create(const char *disk, const struct params *params, const struct img_create *what, char *err,
	       size_t errlen);
/* Facts go to the caller as they come from the driver, but for keys that are not of [a-z0-9.-]: those are left
 * out. Describe: any time. Counters: any thread, any time. */
int img_describe(struct image *image, const struct rd_facts *facts);
int img_counters(struct image *image, const struct rd_facts *facts);
/* flags: RD_CHECK_*, 0 for an image that is not open for writing. Zeroes result first. */
int img_check(struct image *image, uint32_t flags, const struct rd_progress *progress, struct rd_check *result);
/* op: RD_SNAPSHOT_*. After RD_SNAPSHOT_APPLY img_info tells the snapshot's size. */
int img_snapshot(struct image *image, int op, const char *name, const struct rd_progress *progress);
int img_set_backing(struct image *image, const char *backing, const char *backing_format);
/* Change something that is no data. -EOPNOTSUPP: the driver has no such key. */
int img_set(struct image *image, const char *key, const char *value);
/* Any thread. offset and length: whole clusters (img_info's optimal_io), or to the end of the image. */
int img_write_compressed(struct image *image, const struct iovec *iov, int iovcnt, uint64_t offset);

#endif
