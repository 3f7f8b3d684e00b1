/*
 * qcow2/resize.c - the size of the disk, and the length of the L1 table
 *
 * Growing, at any time:
 *      1. the L1 table gets longer, if it has to: a copy of it elsewhere in the file, complete and durable with its
 *         refcounts, then one write of the header's sector switches to it (R4, R5), then the old one is free
 *      2. what will be inside of the disk reads as zeroes: entries behind the old end (of a shrunk disk, or of another
 *         program) go, and where a backing file is longer than the disk was, zeroes cover it. This is durable
 *      3. one write of the header's sector changes the size
 * Shrinking, with no data call in flight:
 *      1. one write of the header's sector changes the size
 *      2. entries behind the new end go, their clusters are given back
 * So after power loss the disk has the old size or the new one, and behind the old end never shows old data: if
 * shrinking did not get to its second step, growing does it.
 *
 * What can go wrong: no space, I/O errors: the disk keeps its size. After a failed shrinking, or when the L1 table has
 * grown and then something fails, space is in use that need not be, which the next resize or check finds.
 *
 * Threads: a worker or a control thread. One at a time: a claim behind the end of all disks sees to that.
 */
#include <errno.h>
#include <stdlib.h>

#include "zero.h"

/* Claims: the whole disk, and behind it the right to resize. */
#define DISK_END   (UINT64_MAX - 1)
#define RESIZE_END UINT64_MAX

static uint64_t table_span(const struct qcow2 *q)
{
	return (uint64_t)q->cluster << q->l2_bits;
}

/* ---- L1 --------------------------------------------------------------------------------------------------- */

/* A longer L1 table, in the file and in memory. */
struct grown {
	uint64_t *l1;
	uint64_t entries;       /* used; the table is full clusters */
	uint64_t offset, bytes; /* of the file */
};

/* Write the table: what it points to is durable. */
static int write_table(struct qcow2 *q, const struct grown *new)
{
	uint8_t *bytes = q->host->alloc(q->host, new->bytes);
	struct iovec iov = { bytes, new->bytes };
	int r;

	if (!bytes)
		return -ENOMEM;
	for (uint64_t i = 0; i < q->h.l1_size; i++)
		put_be64(bytes + i * 8, q->l1[i]);
	r = q->host->file_writev(q->file, &iov, 1, new->offset);
	q->host->free(q->host, bytes);
	/* with the table, its refcounts become durable */
	return r < 0 ? r : meta_checkpoint(q->meta);
}

/* The header could not be written (r), but perhaps it was: write the one that is true. */
static int restore_header(struct qcow2 *q, int r)
{
	/* then it was not */
	return r == -E2BIG || r == -ENOMEM ? 0 : header_write(q, &q->h);
}

/* The header names the new table; then it is the one in memory, too. */
static int switch_table(struct qcow2 *q, struct grown *new)
{
	uint64_t offset = q->h.l1_offset, length = align_up((uint64_t)q->h.l1_size * 8, q->cluster);
	uint64_t *old = q->l1;
	struct header h;
	int r;

	header_copy(q, &h);
	h.l1_offset = new->offset;
	h.l1_size = (uint32_t)new->entries;
	r = header_write(q, &h);
	if (r < 0) {
		/* If it did get there, it must not stay: this table would not be kept up to date. */
		if (restore_header(q, r))
			q_corrupt(q, "the header may name an L1 table that is not in use");
		return r;
	}
	meta_wrlock(q->meta);
	memcpy(new->l1, old, (size_t)q->h.l1_size * 8);
	q->l1 = new->l1;
	q->h.l1_offset = h.l1_offset;
	q->h.l1_size = h.l1_size;
	meta_end(q->meta);
	new->l1 = NULL;
	free(old);
	if (!length)
		return 0;
	/* If this fails the old table is a leak. */
	r = meta_begin(q->meta, 0);
	if (r == 0) {
		metadata_remove(q, offset, length);
		meta_defer(q->meta, offset, length);
		meta_end(q->meta);
	}
	return 0;
}

/* Space for it in the file, which nothing else is written to from now on. */
static int place_table(struct qcow2 *q, struct grown *new)
{
	int r = alloc_contiguous(q, new->bytes / q->cluster, &new->offset);

	if (r < 0)
		return r;
	meta_wrlock(q->meta);
	r = metadata_add(q, new->offset, new->bytes);
	meta_end(q->meta);
	if (r < 0)
		alloc_release(q, new->offset, new->bytes);
	return r;
}

static void unplace_table(struct qcow2 *q, const struct grown *new)
{
	meta_wrlock(q->meta);
	metadata_remove(q, new->offset, new->bytes);
	meta_end(q->meta);
	alloc_release(q, new->offset, new->bytes);
}

/* With a claim on the whole disk. */
static int replace_table(struct qcow2 *q, struct grown *new)
{
	int r;

	/* All that the L1 table in memory points to becomes durable, and that table as well. */
	r = meta_checkpoint(q->meta);
	if (r < 0)
		return r;
	r = place_table(q, new);
	if (r < 0)
		return r;
	meta_forget(q->meta, new->offset, new->bytes);
	r = write_table(q, new);
	if (r < 0)
		unplace_table(q, new);
	else
		/* if that fails the header may or may not name it: both tables stay, one of them is a leak */
		r = switch_table(q, new);
	return r;
}

/* An L1 table of at least so many entries. */
static int grow_l1(struct qcow2 *q, uint64_t entries)
{
	struct grown new = { 0 };
	struct claim claim;
	int r;

	if (entries <= q->h.l1_size)
		return 0;
	if (entries > L1_BYTES_MAX / 8)
		return -EFBIG;
	new.bytes = align_up(entries * 8, q->cluster);
	new.entries = MIN(new.bytes, L1_BYTES_MAX) / 8;
	new.l1 = calloc(new.entries, sizeof(*new.l1));
	if (!new.l1)
		return -ENOMEM;
	claims_take(&q->claims, &claim, 0, DISK_END);
	r = replace_table(q, &new);
	claims_give(&q->claims, &claim);
	free(new.l1);
	return r;
}

/* ---- size ------------------------------------------------------------------------------------------------- */

/* The claim keeps away who else may write the header: an allocation for which the refcount table grows. */
static int set_size(struct qcow2 *q, uint64_t size)
{
	struct claim claim;
	struct header h;
	int r;

	claims_take(&q->claims, &claim, 0, DISK_END);
	header_copy(q, &h);
	h.size = size;
	r = header_write(q, &h);
	if (r == 0) {
		meta_wrlock(q->meta);
		q->h.size = size;
		__atomic_store_n(&q->size, size, __ATOMIC_RELEASE);
		meta_end(q->meta);
	} else if (restore_header(q, r) && size < q->size) {
		/* What is written behind the size that the file may have would be lost at the next open. */
		q_corrupt(q, "the header may have a smaller size than the disk");
	}
	claims_give(&q->claims, &claim);
	return r;
}

/* What lies between old and size reads as zeroes when the disk is longer. */
static int clear_behind(struct qcow2 *q, uint64_t old, uint64_t size)
{
	uint64_t edge = align_up(old, q->subcluster), first = align_up(old, q->cluster), end = align_up(size, q->cluster);
	uint64_t covered = q->backing ? align_up(q->backing_size, q->cluster) : 0;
	int r;

	covered = MAX(MIN(covered, end), first);
	r = q_zero_edge(q, old, MIN(edge, size));
	if (r == 0)
		r = q_zero_entries(q, edge, covered);
	if (r == 0)
		r = q_vanish(q, covered, end);
	return r < 0 ? r : meta_checkpoint(q->meta);
}

static int grow(struct qcow2 *q, uint64_t size)
{
	uint64_t span = table_span(q);
	int r = grow_l1(q, size / span + (size % span != 0));

	if (r == 0)
		r = clear_behind(q, q->size, size);
	return r < 0 ? r : set_size(q, size);
}

static int shrink(struct qcow2 *q, uint64_t size)
{
	uint64_t first = align_up(size, q->cluster), end = align_up(q->size, q->cluster);
	int r = set_size(q, size);

	if (r == 0)
		r = q_vanish(q, first, end);
	return r < 0 ? r : meta_checkpoint(q->meta);
}

int q_resize(void *handle, uint64_t size)
{
	struct qcow2 *q = handle;
	struct claim claim;
	int r = 0;

	if (size == 0 || size % 512)
		return -EINVAL;
	/* a snapshot of version 2 does not say how long the disk was */
	if (q->h.version < 3 && q->h.nb_snapshots)
		return -EOPNOTSUPP;
	claims_take(&q->claims, &claim, DISK_END, RESIZE_END);
	if (q->corrupt)
		r = -EIO;
	else if (size > q->size)
		r = grow(q, size);
	else if (size < q->size)
		r = shrink(q, size);
	claims_give(&q->claims, &claim);
	return r;
}
