/*
 * common/cursor.c - pieces of a caller's vectors
 */
#include "common/cursor.h"

#include <errno.h>

#include "common/bytes.h"

#define BOUNCE (256u << 10)

uint64_t vectors_length(const struct iovec *iov, int count)
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

int cursor_window(const struct cursor *c, uint64_t length, struct iovec *out, int room, uint64_t *bytes)
{
	size_t skip = c->skip;
	int n = 0;

	*bytes = 0;
	for (int i = 0; i < c->count && n < room && *bytes < length; i++, skip = 0) {
		size_t step = (size_t)MIN((uint64_t)(c->iov[i].iov_len - skip), length - *bytes);

		if (!step)
			continue;
		out[n++] = (struct iovec){ (char *)c->iov[i].iov_base + skip, step };
		*bytes += step;
	}
	return n;
}

void cursor_put(struct cursor *c, const void *data, uint64_t length)
{
	const uint8_t *from = data;
	struct iovec piece;
	uint64_t step;

	while (length && cursor_window(c, length, &piece, 1, &step)) {
		if (from)
			memcpy(piece.iov_base, from, step);
		else
			memset(piece.iov_base, 0, step);
		from = from ? from + step : NULL;
		cursor_advance(c, step);
		length -= step;
	}
}

int cursor_read_bounced(struct cursor *c, const struct rd_host *host, struct rd_child *child, uint32_t block,
			uint64_t offset, uint64_t length)
{
	uint64_t room = MIN(align_up(length, block) + block, BOUNCE);
	uint8_t *buf = host->alloc(host, room);
	int r = buf ? 0 : -ENOMEM;

	while (!r && length) {
		uint64_t start = align_down(offset, block), skip = offset - start;
		uint64_t step = MIN(length, room - skip);
		struct iovec iov = { buf, align_up(skip + step, block) };

		r = host->child_readv(child, &iov, 1, start);
		if (!r)
			cursor_put(c, buf + skip, step);
		offset += step;
		length -= step;
	}
	host->free(host, buf);
	return r;
}

void cursor_get(struct cursor *c, void *data, uint64_t length)
{
	uint8_t *to = data;
	struct iovec piece;
	uint64_t step;

	while (length && cursor_window(c, length, &piece, 1, &step)) {
		memcpy(to, piece.iov_base, step);
		to += step;
		cursor_advance(c, step);
		length -= step;
	}
}
