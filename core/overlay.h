/*
 * overlay.h - a new image on top of the one that a disk has, for a snapshot while the guest runs
 *
 * Threads: control.  Errors are -errno, with the reason in err.
 */
#ifndef RD_OVERLAY_H
#define RD_OVERLAY_H

#include "drivers.h"

#include <stdint.h>

struct overlay {
	struct params params; /* to make it: the options are those of creation */
	char *open;           /* the params string without these: how it is opened from then on */
};

/* Take string apart.  -EINVAL, -ENOMEM. */
int overlay_parse(const char *string, struct overlay *overlay, char *err, size_t errlen);
void overlay_free(struct overlay *overlay);

/* Can an image be recorded as the backing file of another?  Not one whose content depends on options, nor one
 * that is no file.  -EINVAL. */
int overlay_may_stand_on(const struct params *below, char *err, size_t errlen);

/* Make it, size bytes, with below (which nobody may have open for writing) as its backing file.  On failure
 * no file is left. */
int overlay_create(const char *disk, const struct overlay *overlay, const struct params *below, uint64_t size,
		   char *err, size_t errlen);
/* Remove what overlay_create has made. */
void overlay_remove(const struct overlay *overlay);

#endif
