/*
 * image-host.h - struct rd_host for an image: what its driver calls
 */
#ifndef RD_IMAGE_HOST_H
#define RD_IMAGE_HOST_H

#include <stdarg.h>

#include "image.h"
#include "log.h"

/* Fill host for the driver of image. */
void img_host_init(struct rd_host *host, struct image *image);

/* image.c: one line about the image; while it is being opened, an error is also its reason. */
void img_vsay(struct image *image, enum log_level level, const char *fmt, va_list ap)
	__attribute__((format(printf, 3, 0)));
void img_say(struct image *image, enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
const char *img_disk(const struct image *image);
uint32_t img_flags(const struct image *image); /* RD_OPEN_* */
/* image.c: open what an image stands on. The reason of a failure becomes the parent's. */
int img_open_below(struct image *parent, const char *params, uint32_t flags, struct image **child);
/* image-backing.c: a backing file by the name in an image that is open as from; read-only. The reason of a
 * failure has been told. */
int img_backing_open(struct image *image, struct rd_file *from, const char *format, const char *name,
		     struct image **child);
/* image.c: open what found is (an O_PATH descriptor, the caller's) and path was; the file from names it. */
int img_open_found(struct image *parent, struct rd_file *from, const struct rd_driver *driver,
		   const char *path, int found, struct image **child);
/* image.c: the image that this one stands below, NULL at the top; *from: the parent's file that names it,
 * NULL if it was not named by a file. */
const struct image *img_parent(const struct image *image, struct rd_file **from);
/* image.c: the descriptor that stands for this path, or -1. Of the image itself, while it is opened. */
int img_found(const struct image *image, const char *path);
/* image.c: one of its files is on a network file system: no call of it, or of those above, is quick. */
void img_set_remote(struct image *image);

/* image.c, for image-manage.c. */
void *img_handle(const struct image *image);
/* What a callback returned, if it may: 0 or -errno. */
int img_result(struct image *image, const char *callback, int r);
/* A serial driver's calls one at a time. */
void img_turn_begin(struct image *image);
void img_turn_end(struct image *image);
/* Bounds of a write; the sum of the vectors goes to *length. */
int img_check_write(const struct image *image, const struct iovec *iov, int iovcnt, uint64_t offset,
		    uint64_t *length);
/* An image without a handle, which lends its host to a driver that creates: the reason of a failure goes to
 * err. NULL: no memory. */
struct image *img_new_blank(const char *disk, const struct rd_driver *driver, char *err, size_t errlen);
const struct rd_host *img_host(const struct image *image);
void img_free_blank(struct image *image);

#endif
