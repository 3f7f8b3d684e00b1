/*
 * common/cursor.h - where we are in a caller's vectors, when a request is served piece by piece
 *
 * No memory is allocated and no vector is changed. Whoever takes bytes sees to it that so many are left.
 * Threads: any; a cursor belongs to its caller.
 */
#ifndef RD_COMMON_CURSOR_H
#define RD_COMMON_CURSOR_H

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
/* Copy out of the vectors; and step on. */
void cursor_get(struct cursor *c, void *data, uint64_t length);

#endif
