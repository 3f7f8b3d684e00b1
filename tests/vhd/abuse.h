/*
 * abuse: open an image that may be anything, do everything with it, and hold it to what it says about itself.
 *
 * Whatever the image is, a part of the disk that could be read stays as it is until it is written; what was written
 * is read back, also after the image was closed and opened again; and nothing but that changes. A shadow of two
 * windows of the disk (its beginning and its end) knows what must be there.
 */
#ifndef VHD_ABUSE_H
#define VHD_ABUSE_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "image.h"

#include "../must.h"

#define ABUSE_SECTOR  512u
#define ABUSE_WINDOW  (96u << 10)
#define ABUSE_SECTORS (ABUSE_WINDOW / ABUSE_SECTOR)

struct abuse_window {
	uint64_t start;
	unsigned sectors;
	bool known[ABUSE_SECTORS];
	unsigned char data[ABUSE_WINDOW];
};

struct abuse {
	struct image *image;
	struct abuse_window window[2];
	unsigned windows;
	unsigned unreadable; /* sectors */
	unsigned refused;    /* operations that failed */
	uint64_t random;
};

static inline unsigned abuse_random(struct abuse *a, unsigned below)
{
	a->random = a->random * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(a->random >> 33) % below;
}

static inline int abuse_open(struct abuse *a, const char *string, uint32_t flags)
{
	struct params params;
	char err[1024];
	int r = params_parse(string, &params, err, sizeof(err));

	if (r)
		return r;
	r = img_open("abuse", &params, flags, &a->image, err, sizeof(err));
	MUST(!r || err[0]);
	params_free(&params);
	return r;
}

static inline int abuse_read(struct abuse *a, uint64_t offset, void *buf, size_t length)
{
	const struct iovec iov = { .iov_base = buf, .iov_len = length };

	return img_readv(a->image, &iov, 1, offset);
}

/* Look at both windows for the first time. */
static inline void abuse_learn(struct abuse *a)
{
	uint64_t size = img_info(a->image)->size;

	a->windows = size > 2 * ABUSE_WINDOW ? 2 : 1;
	a->window[0].start = 0;
	a->window[1].start = a->windows == 2 ? size - ABUSE_WINDOW : 0;
	for (unsigned w = 0; w < a->windows; w++) {
		struct abuse_window *v = &a->window[w];

		v->sectors = (unsigned)(MIN(size - v->start, ABUSE_WINDOW) / ABUSE_SECTOR);
		for (unsigned s = 0; s < v->sectors; s++) {
			v->known[s] = !abuse_read(a, v->start + s * ABUSE_SECTOR, v->data + s * ABUSE_SECTOR,
						  ABUSE_SECTOR);
			a->unreadable += !v->known[s];
		}
	}
}

static inline void abuse_verify(struct abuse *a)
{
	unsigned char buf[ABUSE_SECTOR];

	for (unsigned w = 0; w < a->windows; w++) {
		struct abuse_window *v = &a->window[w];

		for (unsigned s = 0; s < v->sectors; s++) {
			int r = abuse_read(a, v->start + s * ABUSE_SECTOR, buf, ABUSE_SECTOR);

			if (!v->known[s])
				continue;
			MUST(!r);
			MUST(!memcmp(buf, v->data + s * ABUSE_SECTOR, ABUSE_SECTOR));
		}
	}
}

/* What map() says about a range must be inside of it, and pinned and let go of without harm. */
static inline void abuse_map(struct abuse *a, uint64_t offset, uint64_t length)
{
	struct rd_extent extents[8];
	uint64_t token;

	for (int write = 0; write < 2; write++)
		if (img_map(a->image, offset, length, write, extents, 8, &token) > 0)
			img_unmap(a->image, token);
}

/* One write, write_zeroes or discard. */
static inline void abuse_operation(struct abuse *a)
{
	struct abuse_window *v = &a->window[abuse_random(a, a->windows)];
	unsigned first = abuse_random(a, v->sectors), what = abuse_random(a, 8);
	unsigned n = 1 + abuse_random(a, MIN(v->sectors - first, abuse_random(a, 2) ? 4u : 200u));
	uint64_t offset = v->start + first * ABUSE_SECTOR, length = n * ABUSE_SECTOR;
	unsigned char *data = v->data + first * ABUSE_SECTOR, buf[ABUSE_WINDOW];
	const struct iovec iov = { .iov_base = buf, .iov_len = length };
	int r;

	abuse_map(a, offset, length);
	memset(buf, what < 5 ? (int)abuse_random(a, 256) : 0, length);
	if (what < 5)
		r = img_writev(a->image, &iov, 1, offset);
	else if (what < 7)
		r = img_write_zeroes(a->image, offset, length, what == 5 ? RD_ZERO_MAY_UNMAP : 0);
	else
		r = img_discard(a->image, offset, length);
	a->refused += r != 0;
	if (r == -EROFS || r == -EOPNOTSUPP)
		return;
	/* What failed may be done in part, and a discard is a hint: look again. */
	for (unsigned s = 0; (r || what == 7) && s < n; s++)
		v->known[first + s] = !abuse_read(a, offset + s * ABUSE_SECTOR, data + s * ABUSE_SECTOR,
						  ABUSE_SECTOR);
	if (r || what == 7)
		return;
	memcpy(data, buf, length);
	memset(v->known + first, 1, n);
}

static inline void abuse_write(struct abuse *a, unsigned operations)
{
	while (operations--) {
		abuse_operation(a);
		if (abuse_random(a, 6) == 0)
			img_flush(a->image);
	}
}

/* Everything, read-only. -errno of open, or how many sectors of the windows cannot be read. */
static inline int abuse_ro(const char *string)
{
	struct abuse *a = calloc(1, sizeof(*a));
	struct rd_check result;
	int r;

	MUST(a);
	r = abuse_open(a, string, 0);
	if (!r) {
		abuse_learn(a);
		abuse_verify(a);
		abuse_map(a, 0, img_info(a->image)->size);
		img_check(a->image, 0, NULL, &result);
		r = (int)a->unreadable;
		img_close(a->image);
	}
	free(a);
	return r;
}

/* The same for writing; then again read-only. */
static inline int abuse_rw(const char *string, uint64_t seed, unsigned operations)
{
	struct abuse *a = calloc(1, sizeof(*a));
	int r;

	MUST(a);
	a->random = seed;
	r = abuse_open(a, string, RD_OPEN_WRITE);
	if (!r) {
		abuse_learn(a);
		abuse_write(a, operations);
		abuse_verify(a);
		r = (int)(a->unreadable + a->refused);
		MUST(!img_close(a->image));
		MUST(!abuse_open(a, string, 0));
		abuse_verify(a);
		img_close(a->image);
	}
	free(a);
	return r;
}

#endif
