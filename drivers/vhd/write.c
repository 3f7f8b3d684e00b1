/*
 * Writing.
 *
 * A piece of a request inside of one block is one of three:
 *      all of its sectors are stored here      written in place; no claim, no change of metadata
 *      the block is here, but bits are clear   data first, then the bits
 *      there is no block                       data and bitmap to a place where nothing points, then the entry
 * The last two under a claim on the block. The change of the metadata is logged, and then the write is done; that it
 * reaches the file after what it points to is meta's care.
 *
 * What can go wrong: no room (ENOSPC), before anything was changed: the place goes back to the allocator. An image
 * that is open for repair is not written to at all.
 *
 * Threads: workers, any number at once.
 */
#include <errno.h>
#include <stdlib.h>

#include "vhd.h"

/* ---- bits ---------------------------------------------------------------------------------------------- */

#define CHUNK 64u /* bytes that one meta_set may change */

/* Set the bits from first to last (exclusive) in a bitmap. */
static void bits_set(uint8_t *bits, uint32_t first, uint32_t last)
{
	for (; first < last && first % 8; first++)
		bits[first / 8] |= (uint8_t)(0x80 >> first % 8);
	memset(bits + first / 8, 0xff, (last - MIN(first, last)) / 8);
	first += (last - MIN(first, last)) / 8 * 8;
	for (; first < last; first++)
		bits[first / 8] |= (uint8_t)(0x80 >> first % 8);
}

/* Lock. The same in the cached slice of the bitmap that begins at `at`; only what changes is logged. */
static void slice_set_bits(struct vhd *v, struct meta_slice *slice, uint64_t at, uint32_t first, uint32_t last)
{
	for (uint32_t byte = first / 8; byte * 8 < last; byte = byte / CHUNK * CHUNK + CHUNK) {
		uint32_t end = MIN(byte / CHUNK * CHUNK + CHUNK, (last + 7) / 8);
		uint8_t bits[CHUNK];

		memcpy(bits, meta_at(slice, at + byte), end - byte);
		bits_set(bits, MAX(first, byte * 8) - byte * 8, MIN(last, end * 8) - byte * 8);
		if (memcmp(bits, meta_at(slice, at + byte), end - byte))
			meta_set(v->meta, ORDER_BITMAP, slice, at + byte, bits, end - byte);
	}
}

static bool all_ones(const uint8_t *bits, uint32_t count)
{
	uint32_t i;

	for (i = 0; i < count / 8; i++)
		if (bits[i] != 0xff)
			return false;
	return count % 8 == 0 || (uint8_t)(bits[i] | 0xff >> count % 8) == 0xff;
}

/* With a claim. The sectors of offset and length, inside of one block and one slice of its bitmap, are stored here. */
static int set_bits_in_slice(struct vhd *v, uint64_t offset, uint64_t length)
{
	uint32_t block = block_of(v, offset), sectors = v->block / SECTOR;
	uint32_t sector = (uint32_t)((offset & (v->block - 1)) / SECTOR);
	uint32_t base = sector / (SECTOR * 8) * (SECTOR * 8); /* the first of the slice */
	struct meta_slice *slice;
	uint64_t at;
	int r = bitmap_pin(v, offset, &slice);

	if (r || !slice)
		return r ? r : -EIO;
	r = meta_begin(v->meta, SECTOR / CHUNK);
	if (r)
		goto out;
	at = (uint64_t)v->bat[block] * SECTOR + base / 8;
	slice_set_bits(v, slice, at, sector - base, sector - base + (uint32_t)(length / SECTOR));
	v->changed = true;
	if (sectors <= SECTOR * 8 && all_ones(meta_at(slice, at), sectors))
		full_set(v, block, true);
	meta_end(v->meta);
	v->count.in_clear++;
out:
	meta_unpin(v->meta, slice);
	return r;
}

static int set_bits(struct vhd *v, uint64_t offset, uint64_t length)
{
	const uint64_t per_slice = SECTOR * 8 * SECTOR;
	int r = 0;

	while (length && !r) {
		uint64_t part = MIN(length, per_slice - (offset & (v->block - 1)) % per_slice);

		r = set_bits_in_slice(v, offset, part);
		offset += part;
		length -= part;
	}
	return r;
}

/* ---- a block that is there ----------------------------------------------------------------------------- */

static int put(struct vhd *v, struct cursor *c, uint64_t host, uint64_t length)
{
	if (c)
		return cursor_write(c, v, host, length);
	return v->host->file_zero(v->file, host, length, v->discard_unmap ? RD_ZERO_MAY_UNMAP : 0);
}

/* All or nothing: 1 if the whole range is stored here and was written, 0 if not, -errno. */
static int write_in_place(struct vhd *v, struct cursor *c, uint64_t offset, uint64_t length)
{
	struct run run;
	uint64_t token;
	int r = run_get_locked(v, offset, length, &run);

	if (r)
		return r;
	if (run.kind != RUN_DATA || run.length < length || block_of(v, offset) == v->moving) {
		meta_rdunlock(v->meta);
		return run.kind == RUN_BAD ? -EIO : 0;
	}
	token = meta_enter(v->meta);
	meta_rdunlock(v->meta);
	r = put(v, c, run.host, length);
	meta_exit(v->meta, token);
	return r ? r : 1;
}

/* With a claim: the entry does not change. Bits may be clear. */
static int write_block(struct vhd *v, struct cursor *c, uint32_t entry, uint64_t offset, uint64_t length)
{
	int r = put(v, c, host_of(v, entry, offset), length);

	return r ? r : set_bits(v, offset, length);
}

/* ---- a new block --------------------------------------------------------------------------------------- */

/* Its bitmap: without a parent the rest of the block is zeroes, and stored here, too. From calloc. */
static uint8_t *new_bitmap(const struct vhd *v, uint64_t offset, uint64_t length, bool *full)
{
	uint32_t sectors = v->block / SECTOR, first = (uint32_t)((offset & (v->block - 1)) / SECTOR);
	uint8_t *bits = calloc(1, v->bitmap_bytes);

	*full = !v->differencing || length == v->block;
	if (bits && *full)
		bits_set(bits, 0, sectors);
	else if (bits)
		bits_set(bits, first, first + (uint32_t)(length / SECTOR));
	return bits;
}

/* Bitmap and data to where nothing points yet. */
static int fill_slot(struct vhd *v, struct cursor *c, const struct slot *slot, const uint8_t *bits,
		     uint64_t offset, uint64_t length)
{
	uint64_t inside = offset & (v->block - 1), host = slot->offset + v->bitmap_bytes + inside;
	int r = 0;

	if (!slot->clean)
		r = v->host->file_zero(v->file, slot->offset, block_bytes(v), RD_ZERO_MAY_UNMAP);
	if (r)
		return r;
	if (!inside && c)
		return cursor_write_after(c, v, bits, v->bitmap_bytes, slot->offset, length);
	r = file_write(v, bits, v->bitmap_bytes, slot->offset);
	return r || !c ? r : cursor_write(c, v, host, length);
}

static int publish(struct vhd *v, uint32_t block, const struct slot *slot, bool full)
{
	struct meta_slice *slice;
	int r = bat_pin(v, block, &slice);

	if (r)
		return r;
	r = meta_begin(v->meta, 1);
	if (!r) {
		full_set(v, block, full);
		bat_set(v, slice, block, (uint32_t)(slot->offset / SECTOR));
		meta_end(v->meta);
	}
	meta_unpin(v->meta, slice);
	return r;
}

static int write_new(struct vhd *v, struct cursor *c, uint64_t offset, uint64_t length)
{
	struct slot slot;
	uint8_t *bits;
	bool full;
	int r = alloc_take(v, &slot);

	if (r)
		return r;
	bits = new_bitmap(v, offset, length, &full);
	r = bits ? fill_slot(v, c, &slot, bits, offset, length) : -ENOMEM;
	if (!r)
		r = publish(v, block_of(v, offset), &slot, full);
	if (r)
		alloc_give(v, slot.offset, false);
	else
		v->count.allocated++;
	free(bits);
	return r;
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

int write_claimed(struct vhd *v, struct cursor *c, uint64_t offset, uint64_t length)
{
	uint32_t entry;

	meta_rdlock(v->meta);
	entry = v->bat[block_of(v, offset)];
	meta_rdunlock(v->meta);
	if (entry == BAT_BAD)
		return -EIO;
	return entry == BAT_UNUSED ? write_new(v, c, offset, length)
				   : write_block(v, c, entry, offset, length);
}

static int write_piece(struct vhd *v, struct cursor *c, uint64_t offset, uint64_t length)
{
	uint64_t start = offset & ~(uint64_t)(v->block - 1);
	struct claim claim;
	int r = write_in_place(v, c, offset, length);

	if (r)
		return r < 0 ? r : 0;
	claims_take(&v->claims, &claim, start, start + v->block);
	r = write_claimed(v, c, offset, length);
	claims_give(&v->claims, &claim);
	return r;
}

int vhd_writev(void *handle, const struct iovec *iov, int count, uint64_t offset)
{
	uint64_t length = vectors_length(iov, count);
	struct cursor c = cursor_of(iov, count);
	struct vhd *v = handle;

	if (v->fixed)
		return v->host->file_writev(v->file, iov, count, offset);
	if (v->damaged)
		return -EROFS;
	while (length) {
		uint64_t part = in_block(v, offset, length);
		int r = write_piece(v, &c, offset, part);

		if (r)
			return r;
		offset += part;
		length -= part;
	}
	return 0;
}
