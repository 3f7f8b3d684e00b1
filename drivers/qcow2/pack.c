/*
 * qcow2/pack.c - compressed clusters: written (compress.c reads them)
 *
 * Each cluster is compressed on the thread that brings it, into a buffer of its own, so that several threads
 * make a compressed image as fast as there are processors. What does not get smaller is stored as it is.
 * Then, under a claim of the cluster: room is taken behind what was compressed last, the data written, and the
 * entry changed. What the cluster had before is deferred, as with any write.
 *
 * What can go wrong: as with any write. What was allocated is given back, and nothing has changed.
 *
 * Threads: workers, several at the same time.
 */
#include <errno.h>
#include <libdeflate.h>
#include <stdlib.h>
#include <zstd.h>

#include "qcow2.h"

#define DEFLATE_LEVEL 6

size_t q_compress(struct qcow2 *q, const void *in, void *out, size_t room)
{
	struct libdeflate_compressor *c;
	size_t len;

	room = MIN(room, q->cluster - 1);
	if (q->h.compression == COMPRESSION_ZSTD) {
		len = ZSTD_compress(out, room, in, q->cluster, ZSTD_CLEVEL_DEFAULT);
		return ZSTD_isError(len) ? 0 : len;
	}
	c = libdeflate_alloc_compressor(DEFLATE_LEVEL);
	if (!c)
		return 0;
	len = libdeflate_deflate_compress(c, in, q->cluster, out, room);
	libdeflate_free_compressor(c);
	return len;
}

/* A cluster on its way into the image. */
struct packed {
	uint64_t guest;
	uint64_t host;
	uint32_t length; /* of data */
	uint8_t *data;
	struct meta_slice *slice; /* of the entry */
	uint64_t entry;           /* its offset in the file */
};

/* Pin the entry. -ENOENT: there is no L2 table of our own. */
static int find_entry(struct qcow2 *q, struct packed *p)
{
	uint64_t l2, index = p->guest >> (q->cluster_bits + q->l2_bits);
	int r = q_load(q, p->guest, &p->slice);

	if (r)
		return r;
	meta_rdlock(q->meta);
	l2 = l2_table_of(q, p->guest);
	if (q->corrupt)
		r = -EIO;
	else if (!p->slice || !l2 || !(q->l1[index] & ENTRY_COPIED))
		r = -ENOENT;
	else
		p->entry = l2_entry_at(q, l2, p->guest);
	meta_rdunlock(q->meta);
	return r;
}

static int write_data(struct qcow2 *q, const struct packed *p)
{
	const struct iovec iov = { .iov_base = p->data, .iov_len = p->length };
	bool meets;

	meta_rdlock(q->meta);
	meets = metadata_meets(q, p->host, p->length);
	meta_rdunlock(q->meta);
	if (meets)
		return q_corrupt(q, "new data would go to %#llx, where metadata is",
				 (unsigned long long)p->host);
	return q->host->file_writev(q->file, &iov, 1, p->host);
}

/* Write lock. What the entry names now is free once this change is durable. False: it cannot be right. */
static bool defer_old(struct qcow2 *q, const struct packed *p)
{
	struct cluster old;
	uint64_t host, length = q->cluster;

	entry_decode(q, get_be64(meta_at(p->slice, p->entry)), 0, 0, &old);
	host = old.entry & ENTRY_OFFSET;
	if (old.kind == CLUSTER_COMPRESSED) {
		host = old.host;
		length = old.csize;
	} else if (!host) {
		return old.kind != CLUSTER_INVALID;
	}
	if (old.kind == CLUSTER_INVALID || metadata_meets(q, host, length))
		return false;
	meta_defer(q->meta, host, length);
	return true;
}

static int link_data(struct qcow2 *q, const struct packed *p)
{
	unsigned offset_bits = 62 - (q->cluster_bits - 8);
	uint64_t sectors = ((p->host + p->length - 1) >> 9) - (p->host >> 9);
	uint8_t entry[16] = { 0 };
	bool right;
	int r = meta_begin(q->meta, 1);

	if (r)
		return r;
	put_be64(entry, ENTRY_COMPRESSED | sectors << offset_bits | p->host);
	right = !q->corrupt && defer_old(q, p);
	if (right)
		meta_set(q->meta, ORDER_L2, p->slice, p->entry, entry, q->entry_size);
	meta_end(q->meta);
	if (right)
		return 0;
	return q_corrupt(q, "the L2 entry of the disk's offset %llu is impossible",
			 (unsigned long long)p->guest);
}

/* Under a claim of the cluster. */
static int store(struct qcow2 *q, struct packed *p)
{
	int r = find_entry(q, p);

	if (!r)
		r = alloc_bytes(q, p->length, &p->host);
	if (r)
		return r;
	r = write_data(q, p);
	if (!r)
		r = link_data(q, p);
	if (r)
		alloc_release(q, p->host, p->length);
	return r;
}

/* Have an L2 table of our own. */
static int make_table(struct qcow2 *q, uint64_t guest)
{
	uint64_t covered = 1ull << (q->cluster_bits + q->l2_bits),
		 start = align_down(guest, covered);
	struct claim claim;
	int r;

	claims_take(&q->claims, &claim, start, start + covered);
	r = l2_make(q, guest);
	claims_give(&q->claims, &claim);
	return r;
}

static int store_claimed(struct qcow2 *q, struct packed *p)
{
	struct claim claim;
	int r;

	for (;;) {
		claims_take(&q->claims, &claim, p->guest, p->guest + q->cluster);
		r = store(q, p);
		meta_unpin(q->meta, p->slice);
		claims_give(&q->claims, &claim);
		if (r != -ENOENT)
			return r;
		/* Not under the claim: this one is of all that the table maps. */
		r = make_table(q, p->guest);
		if (r)
			return r;
	}
}

/* in: a whole cluster, of which length bytes are on the disk. */
static int pack(struct qcow2 *q, uint8_t *in, uint8_t *out, uint64_t guest, uint64_t length)
{
	struct packed p = { .guest = guest, .data = out };
	struct iovec iov = { .iov_base = in, .iov_len = length };

	memset(in + length, 0, q->cluster - length);
	p.length = (uint32_t)q_compress(q, in, out, q->cluster);
	return p.length ? store_claimed(q, &p) : q_writev(q, &iov, 1, guest);
}

int q_write_compressed(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct qcow2 *q = handle;
	uint64_t length = vectors_length(iov, iovcnt), step;
	struct cursor from = cursor_of(iov, iovcnt);
	uint8_t *buf;
	int r = 0;

	if (!is_aligned(offset, q->cluster))
		return -EINVAL;
	buf = malloc(2 * (size_t)q->cluster);
	if (!buf)
		return -ENOMEM;
	for (uint64_t done = 0; !r && done < length; done += step) {
		step = MIN(length - done, q->cluster);
		/* A copy: the caller's memory may change while we compress. */
		cursor_get(&from, buf, step);
		r = pack(q, buf, buf + q->cluster, offset + done, step);
	}
	free(buf);
	return r;
}
