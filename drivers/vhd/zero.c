/*
 * Discarding and zeroing.
 *
 * A whole block that no ancestor has data under is freed: its BAT entry goes first; when that is durable and nothing
 * is in flight there any more (meta_defer), the place is punched and used again. Of everything else that is stored
 * here, a discard punches the data: it then reads as zeroes, the bits stay, and an ancestor's old data never comes
 * back into sight; unless the image was opened without its ancestors: then whole blocks are freed, for commit. Zeroes
 * over an ancestor's data are stored: as a block of holes with its bits set.
 *
 * What can go wrong: a file system without holes (EOPNOTSUPP: remembered by the host).
 *
 * Threads: workers.
 */
#include <errno.h>

#include "vhd.h"

/* ---- freeing ------------------------------------------------------------------------------------------- */

int free_block(struct vhd *v, uint32_t block)
{
	struct meta_slice *slice;
	uint32_t entry;
	int r = batmap_disarm(v);

	if (!r)
		r = bat_pin(v, block, &slice);
	if (r)
		return r;
	r = meta_begin(v->meta, 1);
	if (!r) {
		entry = v->bat[block];
		if (bat_used(entry)) {
			bat_set(v, slice, block, BAT_UNUSED);
			full_set(v, block, false);
			meta_defer(v->meta, (uint64_t)entry * SECTOR, block_bytes(v));
			v->count.freed++;
		}
		meta_end(v->meta);
	}
	meta_unpin(v->meta, slice);
	return r;
}

/* The whole block, or all of it that the disk has. */
static bool is_whole(const struct vhd *v, uint64_t offset, uint64_t length)
{
	uint64_t size = __atomic_load_n(&v->size, __ATOMIC_RELAXED);

	return is_aligned(offset, v->block) && (length == v->block || offset + length == size);
}

/* Nothing below this image can come into sight there. */
static bool nothing_below(struct vhd *v, uint64_t offset, uint64_t length)
{
	if (!v->differencing)
		return true;
	return v->parent && !parent_has(v, offset, length);
}

/* ---- discard ------------------------------------------------------------------------------------------- */

/* What is stored of the range reads as zeroes, and takes up no room. In a block; no claim. */
static int punch_stored(struct vhd *v, uint64_t offset, uint64_t length)
{
	while (length) {
		uint64_t token;
		struct run run;
		int r = run_enter(v, offset, length, &run, &token);

		if (r)
			return r;
		if (run.kind == RUN_DATA) {
			r = v->host->file_punch(v->file, run.host, run.length);
			v->count.punched += r ? 0 : run.length;
		}
		meta_exit(v->meta, token);
		if (r)
			return r;
		offset += run.length;
		length -= run.length;
	}
	return 0;
}

static bool stored_here(struct vhd *v, uint64_t offset)
{
	bool used;

	meta_rdlock(v->meta);
	used = bat_used(v->bat[block_of(v, offset)]);
	meta_rdunlock(v->meta);
	return used;
}

/* With a claim on the block, so that the disk does not get longer meanwhile: a part that reached its end would be a whole
 * block no more. An image that is open alone forgets whole blocks: what is below them is seen again. */
static bool may_go(struct vhd *v, uint64_t offset, uint64_t length)
{
	return is_whole(v, offset, length) && (alone(v) || nothing_below(v, offset, length));
}

static int discard_in_block(struct vhd *v, uint64_t offset, uint64_t length)
{
	bool freed = false;
	struct claim claim;
	int r = 0;

	if (!stored_here(v, offset))
		return 0;
	if (is_aligned(offset, v->block)) {
		claims_take(&v->claims, &claim, offset, offset + v->block);
		freed = may_go(v, offset, length);
		if (freed)
			r = free_block(v, block_of(v, offset));
		claims_give(&v->claims, &claim);
	}
	if (!freed)
		r = v->block_device ? 0 : punch_stored(v, offset, length);
	/* There are no holes here: nothing is given back. It is a hint. */
	return !freed && r == -EOPNOTSUPP ? 0 : r;
}

int vhd_discard(void *handle, uint64_t offset, uint64_t length)
{
	struct vhd *v = handle;

	if (v->fixed)
		return v->host->file_punch(v->file, offset, length);
	if (v->damaged)
		return -EROFS;
	while (length) {
		uint64_t part = in_block(v, offset, length);
		int r = discard_in_block(v, offset, part);

		if (r)
			return r;
		offset += part;
		length -= part;
	}
	return 0;
}

/* ---- zeroes -------------------------------------------------------------------------------------------- */

bool reads_zero(struct vhd *v, uint64_t offset, uint64_t length)
{
	struct run run;

	if (run_get_locked(v, offset, length, &run))
		return false;
	meta_rdunlock(v->meta);
	if (run.length < length || (run.kind != RUN_ZERO && run.kind != RUN_PARENT))
		return false;
	return nothing_below(v, offset, length);
}

static int zero_in_block(struct vhd *v, uint64_t offset, uint64_t length, uint32_t flags)
{
	uint64_t start = offset & ~(uint64_t)(v->block - 1);
	bool may_free = flags & RD_ZERO_MAY_UNMAP && v->discard_unmap;
	struct claim claim;
	int r;

	claims_take(&v->claims, &claim, start, start + v->block);
	if (reads_zero(v, offset, length))
		r = 0;
	else if (may_free && is_whole(v, offset, length) && stored_here(v, offset) &&
		 nothing_below(v, offset, length))
		r = free_block(v, block_of(v, offset));
	else
		r = write_claimed(v, NULL, offset, length);
	claims_give(&v->claims, &claim);
	return r;
}

int vhd_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
	struct vhd *v = handle;

	if (v->fixed)
		return v->host->file_zero(v->file, offset, length, flags);
	if (v->damaged)
		return -EROFS;
	while (length) {
		uint64_t part = in_block(v, offset, length);
		int r = zero_in_block(v, offset, part, flags);

		if (r)
			return r;
		offset += part;
		length -= part;
	}
	return 0;
}
