/*
 * Between the caller's vectors and files: a request goes block by block, and each piece is some part of some vectors.
 * Threads: any; a cursor belongs to its caller.
 */
#include "vhd.h"

#define WINDOW 64 /* vectors in one call */

enum to { FROM_FILE, FROM_CHILD, TO_FILE };

static int move(struct cursor *c, struct vhd *v, enum to to, uint64_t offset, uint64_t length)
{
	struct iovec iov[WINDOW];

	while (length) {
		uint64_t step;
		int n = cursor_window(c, length, iov, WINDOW, &step);
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
	if (!is_aligned(offset | length, v->parent_block))
		return cursor_read_bounced(c, v->host, v->parent, v->parent_block, offset, length);
	return move(c, v, FROM_CHILD, offset, length);
}

int cursor_write(struct cursor *c, struct vhd *v, uint64_t offset, uint64_t length)
{
	return move(c, v, TO_FILE, offset, length);
}

int cursor_write_after(struct cursor *c, struct vhd *v, const void *head, size_t head_length,
		       uint64_t offset, uint64_t length)
{
	struct iovec iov[WINDOW];
	uint64_t step;
	int n = cursor_window(c, length, iov + 1, WINDOW - 1, &step), r;

	iov[0].iov_base = (void *)(uintptr_t)head;
	iov[0].iov_len = head_length;
	r = v->host->file_writev(v->file, iov, n + 1, offset);
	if (r)
		return r;
	cursor_advance(c, step);
	return cursor_write(c, v, offset + head_length + step, length - step);
}
