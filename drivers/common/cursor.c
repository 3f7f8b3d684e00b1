/*
 * common/cursor.c - pieces of a caller's vectors
 */
#include "common/cursor.h"

#include "common/bytes.h"

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
