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

#endif
