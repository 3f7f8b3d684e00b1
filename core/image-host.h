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
