/*
 * Reading: what a range of the disk is made of.
 *
 * run_get() is the one place that knows: BAT entry, bitmap, parent. map() asks it for as many runs as it may
 * answer; readv() for one after the other, and does the I/O itself. Whoever has found an offset in the file
 * keeps a token of meta until the I/O is done, so that the block does not get another use meanwhile.
 *
 * A sector whose bit is clear is the parent's, or zeroes without one, whatever the file holds there.
 *
 * What can go wrong: entries of the BAT that cannot be (EIO), and bitmaps that are not in memory: map() reads the one
 * that it begins with if the kernel has it, and gives up otherwise; readv() reads them.
 *
 * Threads: any. map() never blocks: its lock is only tried, and a bitmap is read only if that does not wait for the
 * storage.
 */
#include <errno.h>

#include "vhd.h"

/* ---- runs ---------------------------------------------------------------------------------------------- */

static bool bit_get(const uint8_t *bits, uint32_t i)
{
	return bits[i / 8] >> (7 - i % 8) & 1;
}

/* How many bits from i on, below end, are as bit i is. */
static uint32_t same_bits(const uint8_t *bits, uint32_t i, uint32_t end)
{
	bool first = bit_get(bits, i);
	uint8_t all = first ? 0xff : 0;
	uint32_t start = i;

	while (i < end) {
		if (i % 8 == 0 && bits[i / 8] == all && end - i >= 8)
			i += 8;
		else if (bit_get(bits, i) == first)
			i++;
		else
			break;
	}
	return i - start;
}

/* Sectors that are clear: the parent's as far as it goes, zeroes behind it. */
static void run_clear(const struct vhd *v, uint64_t offset, uint64_t length, struct run *run)
{
	run->kind = v->parent && offset < v->parent_size ? RUN_PARENT : RUN_ZERO;
	run->length = run->kind == RUN_PARENT ? MIN(length, v->parent_size - offset) : length;
}

static void run_unused(const struct vhd *v, uint64_t offset, uint64_t length, struct run *run)
{
	uint64_t step = in_block(v, offset, length);

	while (step < length && v->bat[block_of(v, offset + step)] == BAT_UNUSED)
		step += MIN(length - step, v->block);
	run_clear(v, offset, step, run);
}

/* Offset in the file of the byte of the bitmap that is for offset. */
static uint64_t bitmap_at(const struct vhd *v, uint32_t entry, uint64_t offset)
{
	return (uint64_t)entry * SECTOR + (offset & (v->block - 1)) / SECTOR / 8;
}

static int run_by_bits(struct vhd *v, uint32_t entry, uint64_t offset, uint64_t length, struct run *run)
{
	uint64_t at = bitmap_at(v, entry, offset);
	uint32_t first = (uint32_t)((offset & (v->block - 1)) / SECTOR % 8), room, n;
	const uint8_t *bits = meta_peek(v->meta, at);

	if (!bits)
		return -EAGAIN;
	room = (uint32_t)(SECTOR - at % SECTOR) * 8; /* the bits of this slice */
	n = same_bits(bits, first, (uint32_t)MIN(first + length / SECTOR, room));
	length = (uint64_t)n * SECTOR;
	if (bit_get(bits, first)) {
		run->kind = RUN_DATA;
		run->length = length;
		if (length == v->block)
			full_set(v, block_of(v, offset), true);
	} else {
		run_clear(v, offset, length, run);
	}
	return 0;
}

int run_get(struct vhd *v, uint64_t offset, uint64_t length, struct run *run)
{
	uint32_t block = block_of(v, offset), entry;

	if (block >= v->blocks)
		return -EIO;
	entry = v->bat[block];
	if (entry == BAT_UNUSED) {
		run_unused(v, offset, length, run);
		return 0;
	}
	run->length = length = in_block(v, offset, length);
	run->kind = entry == BAT_BAD ? RUN_BAD : RUN_DATA;
	run->host = host_of(v, entry, offset);
	if (entry == BAT_BAD || full_get(v, block))
		return 0;
	return run_by_bits(v, entry, offset, length, run);
}

/*
 * Read lock, which it lets go of. With a token: a place that was given to another block meanwhile has another bitmap,
 * written past the cache.
 */
static int bitmap_pin_locked(struct vhd *v, uint64_t offset, struct meta_slice **slice,
			     int (*pin)(struct meta *, uint64_t, struct meta_slice **))
{
	uint32_t entry = v->bat[block_of(v, offset)];
	uint64_t token = meta_enter(v->meta);
	int r = 0;

	*slice = NULL;
	meta_rdunlock(v->meta);
	if (bat_used(entry))
		r = pin(v->meta, bitmap_at(v, entry, offset), slice);
	meta_exit(v->meta, token);
	return r;
}

int bitmap_pin(struct vhd *v, uint64_t offset, struct meta_slice **slice)
{
	meta_rdlock(v->meta);
	return bitmap_pin_locked(v, offset, slice, meta_pin);
}

/* For map(): the same if it does not wait for the storage, else -EAGAIN. */
static int bitmap_pin_now(struct vhd *v, uint64_t offset, struct meta_slice **slice)
{
	*slice = NULL;
	return meta_tryrdlock(v->meta) ? bitmap_pin_locked(v, offset, slice, meta_pin_now) : -EAGAIN;
}

int run_get_locked(struct vhd *v, uint64_t offset, uint64_t length, struct run *run)
{
	struct meta_slice *slice = NULL;
	int r;

	for (;;) {
		meta_rdlock(v->meta);
		r = run_get(v, offset, length, run);
		if (!r)
			meta_unpin(v->meta, slice);
		if (r != -EAGAIN)
			break;
		meta_rdunlock(v->meta);
		meta_unpin(v->meta, slice);
		r = bitmap_pin(v, offset, &slice);
		if (r)
			return r;
	}
	if (r)
		meta_rdunlock(v->meta);
	return r;
}

int run_enter(struct vhd *v, uint64_t offset, uint64_t length, struct run *run, uint64_t *token)
{
	int r = run_get_locked(v, offset, length, run);

	if (r)
		return r;
	*token = meta_enter(v->meta);
	meta_rdunlock(v->meta);
	return 0;
}

/* ---- map ----------------------------------------------------------------------------------------------- */

/*
 * The parent's extents of a run. They need no token that lives longer: the parent is open for reading only, so that
 * nothing of it is ever freed or moved. Returns their number, 0 if it cannot answer now.
 */
static int map_parent(struct vhd *v, uint64_t offset, uint64_t length, struct rd_extent *extents, int max,
		      uint64_t *mapped)
{
	uint64_t token;
	int n = v->host->child_map(v->parent, offset, length, 0, extents, max, &token);

	*mapped = 0;
	if (n < 0)
		return 0;
	for (int i = 0; i < n; i++)
		*mapped += extents[i].length;
	v->host->child_unmap(v->parent, token);
	return n;
}

static int map_run(struct vhd *v, uint64_t offset, struct run *run, struct rd_extent *extents, int max)
{
	if (run->kind == RUN_PARENT)
		return map_parent(v, offset, run->length, extents, max, &run->length);
	if (run->kind == RUN_BAD)
		return 0;
	extents[0] = (struct rd_extent){
		.file = run->kind == RUN_DATA ? v->file : NULL,
		.file_offset = run->kind == RUN_DATA ? run->host : 0,
		.length = run->length,
		.kind = run->kind == RUN_DATA ? RD_EXTENT_DATA : RD_EXTENT_HOLE,
	};
	return 1;
}

/* Same kind, and one where the other ends: one extent. */
static bool joins(const struct rd_extent *a, const struct rd_extent *b)
{
	return a->kind == b->kind && a->file == b->file &&
	       (a->kind != RD_EXTENT_DATA || a->file_offset + a->length == b->file_offset);
}

/* *missing: there is no extent, because the first bitmap is not in memory. */
static int map_locked(struct vhd *v, uint64_t offset, uint64_t length, bool write,
		      struct rd_extent *extents, int max, bool *missing)
{
	int n = 0;

	while (length && n < max) {
		struct run run;
		int more, r = run_get(v, offset, length, &run);

		if (r) {
			*missing = !n && r == -EAGAIN;
			break;
		}
		if (write && (run.kind != RUN_DATA || block_of(v, offset) == v->moving))
			break;
		more = map_run(v, offset, &run, extents + n, max - n);
		if (!more || !run.length)
			break;
		offset += run.length;
		length -= run.length;
		if (n && joins(&extents[n - 1], &extents[n])) {
			extents[n - 1].length += extents[n].length;
			memmove(extents + n, extents + n + 1, (size_t)(more - 1) * sizeof(*extents));
			more--;
		}
		n += more;
	}
	return n;
}

/* The extents that are known now, and a token for them; -EAGAIN: none. */
static int map_now(struct vhd *v, uint64_t offset, uint64_t length, bool write, struct rd_extent *extents, int max,
		   uint64_t *token, bool *missing)
{
	int n;

	*missing = false;
	if (!meta_tryrdlock(v->meta))
		return -EAGAIN;
	n = map_locked(v, offset, length, write, extents, max, missing);
	if (n)
		*token = meta_enter(v->meta);
	meta_rdunlock(v->meta);
	return n ? n : -EAGAIN;
}

int vhd_map(void *handle, uint64_t offset, uint64_t length, int write, struct rd_extent *extents,
	    int max, uint64_t *token)
{
	struct meta_slice *slice;
	struct vhd *v = handle;
	bool missing;
	int n;

	if (v->fixed) {
		extents[0] = (struct rd_extent){
			.file = v->file,
			.file_offset = offset,
			.length = length,
			.kind = RD_EXTENT_DATA,
		};
		*token = 0;
		return 1;
	}
	if (write && v->damaged)
		return -EAGAIN;
	n = map_now(v, offset, length, write, extents, max, token, &missing);
	if (missing && bitmap_pin_now(v, offset, &slice) == 0) {
		n = map_now(v, offset, length, write, extents, max, token, &missing);
		meta_unpin(v->meta, slice);
	}
	return n;
}

void vhd_unmap(void *handle, uint64_t token)
{
	struct vhd *v = handle;

	if (!v->fixed)
		meta_exit(v->meta, token);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static int read_run(struct vhd *v, struct cursor *c, uint64_t offset, const struct run *run)
{
	switch (run->kind) {
	case RUN_DATA:
		return cursor_read(c, v, run->host, run->length);
	case RUN_PARENT:
		return cursor_read_child(c, v, offset, run->length);
	case RUN_ZERO:
		cursor_put(c, NULL, run->length);
		return 0;
	case RUN_BAD:
		break;
	}
	return -EIO;
}

int vhd_readv(void *handle, const struct iovec *iov, int count, uint64_t offset)
{
	uint64_t length = vectors_length(iov, count);
	struct cursor c = cursor_of(iov, count);
	struct vhd *v = handle;

	if (v->fixed)
		return v->host->file_readv(v->file, iov, count, offset);
	while (length) {
		uint64_t token;
		struct run run;
		int r = run_enter(v, offset, length, &run, &token);

		if (r)
			return r;
		r = read_run(v, &c, offset, &run);
		meta_exit(v->meta, token);
		if (r)
			return r;
		offset += run.length;
		length -= run.length;
	}
	return 0;
}

bool parent_has(struct vhd *v, uint64_t offset, uint64_t length)
{
	struct rd_extent extents[16];

	if (!v->parent)
		return false;
	while (length && offset < v->parent_size) {
		uint64_t part = MIN(length, v->parent_size - offset), mapped = 0, token;
		int n = v->host->child_map(v->parent, offset, part, 0, extents, 16, &token);

		if (n < 0)
			return true;
		v->host->child_unmap(v->parent, token);
		for (int i = 0; i < n; i++) {
			if (extents[i].kind == RD_EXTENT_DATA)
				return true;
			mapped += extents[i].length;
		}
		offset += mapped;
		length -= mapped;
	}
	return false;
}
