/*
 * Pieces of the caller's vectors: a request goes block by block, and each piece is some part of some vectors.
 * Threads: any; a cursor belongs to its caller.
 */
#include "vhd.h"

#define WINDOW 64 /* vectors in one call */

uint64_t iov_length(const struct iovec *iov, int count)
{
	uint64_t sum = 0;

	for (int i = 0; i < count; i++)
		sum += iov[i].iov_len;
	return sum;
}

void cursor_advance(struct cursor *c, uint64_t length)
{
	while (c->count && length >= c->iov->iov_len - c->skip) {
		length -= c->iov->iov_len - c->skip;
		c->skip = 0;
		c->iov++;
		c->count--;
	}
	c->skip += length;
}

/* Up to length bytes, as far as the room for vectors reaches: their number, and how many bytes. */
static int window(const struct cursor *c, struct iovec *out, int room, uint64_t length, uint64_t *bytes)
{
	size_t skip = c->skip;
	int n = 0;

	*bytes = 0;
	for (int i = 0; i < c->count && n < room && *bytes < length; i++, skip = 0) {
		out[n].iov_base = (char *)c->iov[i].iov_base + skip;
		out[n].iov_len = MIN(c->iov[i].iov_len - skip, length - *bytes);
		*bytes += out[n].iov_len;
		n += out[n].iov_len > 0;
	}
	return n;
}

enum to { FROM_FILE, FROM_CHILD, TO_FILE };

static int move(struct cursor *c, struct vhd *v, enum to to, uint64_t offset, uint64_t length)
{
	struct iovec iov[WINDOW];

	while (length) {
		uint64_t step;
		int n = window(c, iov, WINDOW, length, &step);
		int r = to == FROM_FILE	   ? v->host->file_readv(v->file, iov, n, offset)
			: to == FROM_CHILD ? v->host->child_readv(v->parent, iov, n, offset)
					   : v->host->file_writev(v->file, iov, n, offset);

		if (r)
			return r;
		cursor_advance(c, step);
		offset += step;
		length -= step;
	}
	return 0;
}

int cursor_read(struct cursor *c, struct vhd *v, uint64_t offset, uint64_t length)
{
	return move(c, v, FROM_FILE, offset, length);
}

int cursor_read_child(struct cursor *c, struct vhd *v, uint64_t offset, uint64_t length)
{
	return move(c, v, FROM_CHILD, offset, length);
}

int cursor_write(struct cursor *c, struct vhd *v, uint64_t offset, uint64_t length)
{
	return move(c, v, TO_FILE, offset, length);
}

void cursor_zero(struct cursor *c, uint64_t length)
{
	struct iovec iov[WINDOW];

	while (length) {
		uint64_t step;
		int n = window(c, iov, WINDOW, length, &step);

		for (int i = 0; i < n; i++)
			memset(iov[i].iov_base, 0, iov[i].iov_len);
		cursor_advance(c, step);
		length -= step;
	}
}

int cursor_write_after(struct cursor *c, struct vhd *v, const void *head, size_t head_length,
		       uint64_t offset, uint64_t length)
{
	struct iovec iov[WINDOW];
	uint64_t step;
	int n = window(c, iov + 1, WINDOW - 1, length, &step), r;

	iov[0].iov_base = (void *)(uintptr_t)head;
	iov[0].iov_len = head_length;
	r = v->host->file_writev(v->file, iov, n + 1, offset);
	if (r)
		return r;
	cursor_advance(c, step);
	return cursor_write(c, v, offset + head_length + step, length - step);
}
