/*
 * common/cursor.h - where we are in a caller's vectors, when a request is served piece by piece
 *
 * No vector is changed, and no memory is allocated but by cursor_read_bounced. Whoever takes bytes sees to it that so many are left.
 * Threads: any; a cursor belongs to its caller.
 */
#ifndef RD_COMMON_CURSOR_H
#define RD_COMMON_CURSOR_H

#include <ringdisk/driver.h>

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct cursor {
	const struct iovec *iov;
	int count;
	size_t skip; /* bytes of iov[0] that are done */
};

static inline struct cursor cursor_of(const struct iovec *iov, int count)
{
	return (struct cursor){ .iov = iov, .count = count };
}

/* The sum of the vectors. */
uint64_t vectors_length(const struct iovec *iov, int count);
void cursor_advance(struct cursor *c, uint64_t length);
/* Vectors of the next bytes, up to length of them and as far as the room reaches: their number, and in *bytes how
 * many bytes they hold. Does not step on. */
int cursor_window(const struct cursor *c, uint64_t length, struct iovec *out, int room, uint64_t *bytes);
/* Copy into the vectors, or zeroes if data is NULL; and step on. */
void cursor_put(struct cursor *c, const void *data, uint64_t length);
/* Read into them what does not fit the child's sectors of block bytes: by whole ones, through a buffer. May block. */
int cursor_read_bounced(struct cursor *c, const struct rd_host *host, struct rd_child *child, uint32_t block,
			uint64_t offset, uint64_t length);
/* Copy out of the vectors; and step on. */
void cursor_get(struct cursor *c, void *data, uint64_t length);

#endif
