/*
 * Changing the size of the disk, and what stands before the blocks.
 *
 * Growing a dynamic disk inside of its BAT changes the footers only. When the BAT must grow, it grows in place, as
 * tapdisk's library expects everything that is not a block before all blocks: the blocks that are in the way move to
 * other places first (make_room). Then locators are copied to behind what there will be, and a header that names the
 * copies takes over; its footer knows of no batmap, as the BAT grows over that. Then BAT and batmap are written, the
 * next header takes over that says how long they are, and at last the footers say the size. A crash leaves the old
 * size or the new one.
 *
 * A block moves under a claim on it, so that its entry and its bits stay; writes in place are turned away from it,
 * those that had begun are waited for, its bytes are copied, and then its entry changes. The new entries are written
 * where nothing else is any more. Only what changes headers and footers is done under a claim on the whole disk, and
 * only what must become a new block, or a part of one, waits for it.
 *
 * What can go wrong: no room. Before the header is written nothing has changed that anybody can see.
 *
 * Threads: one control or worker thread; I/O goes on meanwhile, except when the disk gets smaller.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "vhd.h"

#define COPY         (256u << 10)
#define DRAIN_MS     60000
#define ENTRIES_STEP 128u /* entries in a sector */

/* ---- waiting for what is in flight --------------------------------------------------------------------- */

/* Everything that was deferred before is released then, and all I/O that had begun before is done. */
static int drain(struct vhd *v)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	int r = meta_begin(v->meta, 0);
	uint64_t mark;

	if (r)
		return r;
	mark = atomic_fetch_add(&v->marks, 1) + 1;
	meta_defer(v->meta, DRAIN_MARK, mark);
	meta_end(v->meta);
	for (int i = 0; i < DRAIN_MS; i++) {
		r = meta_checkpoint(v->meta);
		if (r || atomic_load(&v->drained) >= mark)
			return r;
		nanosleep(&pause, NULL);
	}
	return -EBUSY;
}

/* ---- moving blocks ------------------------------------------------------------------------------------- */

static int copy_data(struct vhd *v, uint64_t from, uint64_t to)
{
	uint8_t *buf = malloc(COPY);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t done = 0; !r && done < v->block; done += COPY) {
		size_t part = (size_t)MIN(v->block - done, COPY);

		r = file_read(v, buf, part, from + v->bitmap_bytes + done);
		r = r ? r : file_write(v, buf, part, to + v->bitmap_bytes + done);
	}
	free(buf);
	return r;
}

/* As it is in memory: the file's may be older. */
static int copy_bitmap(struct vhd *v, uint64_t from, uint64_t to)
{
	uint8_t bits[SECTOR];
	int r = 0;

	for (uint32_t done = 0; !r && done < v->bitmap_bytes; done += SECTOR) {
		struct meta_slice *slice;

		r = meta_pin(v->meta, from + done, &slice);
		if (r)
			break;
		meta_rdlock(v->meta);
		memcpy(bits, meta_at(slice, from + done), SECTOR);
		meta_rdunlock(v->meta);
		meta_unpin(v->meta, slice);
		r = file_write(v, bits, SECTOR, to + done);
	}
	return r;
}

static void set_moving(struct vhd *v, uint32_t block)
{
	meta_wrlock(v->meta);
	v->moving = block;
	meta_end(v->meta);
}

/* The entry changes, and the old place is free afterwards. */
static int switch_block(struct vhd *v, uint32_t block, uint64_t from, uint64_t to)
{
	struct meta_slice *slice;
	int r = bat_pin(v, block, &slice);

	if (r)
		return r;
	r = meta_begin(v->meta, 1);
	if (!r) {
		bat_set(v, slice, block, (uint32_t)(to / SECTOR));
		meta_defer(v->meta, from, block_bytes(v));
		meta_end(v->meta);
	}
	meta_unpin(v->meta, slice);
	return r;
}

/* With a claim on it. */
static int move_block(struct vhd *v, uint32_t block, uint64_t from)
{
	struct slot slot;
	int r = alloc_take(v, &slot);

	if (r)
		return r;
	set_moving(v, block);
	r = drain(v);
	r = r ? r : copy_data(v, from, slot.offset);
	r = r ? r : copy_bitmap(v, from, slot.offset);
	r = r ? r : switch_block(v, block, from, slot.offset);
	if (r)
		alloc_give(v, slot.offset, false);
	set_moving(v, BAT_UNUSED);
	return r;
}

/* Whoever has got a place before alloc_forbid() has used it, or given it back. */
static void wait_for_claims(struct vhd *v)
{
	struct claim all;

	claims_take(&v->claims, &all, 0, UINT64_MAX);
	claims_give(&v->claims, &all);
}

static bool in_the_way(struct vhd *v, uint32_t block, uint64_t end, uint64_t *at)
{
	*at = (uint64_t)v->bat[block] * SECTOR;
	return bat_used(v->bat[block]) && *at < end;
}

/* From this block on; v->blocks: none. */
static uint32_t next_in_the_way(struct vhd *v, uint32_t block, uint64_t end)
{
	uint64_t at;

	meta_rdlock(v->meta);
	while (block < v->blocks && !in_the_way(v, block, end, &at))
		block++;
	meta_rdunlock(v->meta);
	return block;
}

static int clear_block(struct vhd *v, uint32_t block, uint64_t end)
{
	uint64_t start = (uint64_t)block << v->block_bits, at;
	struct claim claim;
	bool moves;
	int r = 0;

	claims_take(&v->claims, &claim, start, start + v->block);
	meta_rdlock(v->meta);
	moves = in_the_way(v, block, end, &at);
	meta_rdunlock(v->meta);
	if (moves)
		r = move_block(v, block, at);
	claims_give(&v->claims, &claim);
	return r;
}

int make_room(struct vhd *v, uint64_t end)
{
	int r = alloc_forbid(v, end);

	wait_for_claims(v);
	for (uint32_t i = 0; !r && (i = next_in_the_way(v, i, end)) < v->blocks; i++)
		r = clear_block(v, i, end);
	/* Nothing of the old places may be punched later, when something else is there. */
	return r ? r : drain(v);
}

/* ---- the BAT ------------------------------------------------------------------------------------------- */

/* Entries that the disk did not need so far may hold anything. */
static int clear_entry(struct vhd *v, uint32_t entry)
{
	static const uint8_t unused[4] = { 0xff, 0xff, 0xff, 0xff };
	uint64_t at = v->h.table_offset + (uint64_t)entry * 4;
	struct meta_slice *slice;
	int r = meta_pin(v->meta, at, &slice);

	if (r)
		return r;
	r = meta_begin(v->meta, 1);
	if (!r) {
		meta_set(v->meta, ORDER_BAT, slice, at, unused, sizeof(unused));
		meta_end(v->meta);
	}
	meta_unpin(v->meta, slice);
	return r;
}

/* From the first that is not used by the disk up to what it needs now, or the end of the table's last sector. What a
 * shrink that failed has left in the cache is to be in the file when that is looked at. */
static int clear_spare(struct vhd *v, uint32_t blocks)
{
	uint64_t end = MIN(bat_bytes(v->h.entries) / 4, (uint64_t)blocks);
	uint8_t buf[4096];
	int r = meta_checkpoint(v->meta);

	for (uint64_t i = v->blocks; !r && i < end;) {
		uint32_t n = (uint32_t)MIN(end - i, sizeof(buf) / 4);

		r = file_read(v, buf, n * 4, v->h.table_offset + i * 4);
		for (uint32_t k = 0; !r && k < n; k++)
			if (get_be32(buf + (size_t)k * 4) != BAT_UNUSED)
				r = clear_entry(v, (uint32_t)(i + k));
		i += n;
	}
	return r;
}

static int write_fill(struct vhd *v, uint8_t byte, uint64_t offset, uint64_t end)
{
	uint8_t *buf = malloc(COPY);
	int r = buf ? 0 : -ENOMEM;

	if (buf)
		memset(buf, byte, COPY);
	while (!r && offset < end) {
		size_t part = (size_t)MIN(end - offset, COPY);

		r = file_write(v, buf, part, offset);
		offset += part;
	}
	free(buf);
	return r;
}

/* Where everything will be when the BAT is larger. */
struct layout {
	struct header h;
	struct batmap batmap;
	uint64_t end; /* behind it a header has room */
	uint64_t filled; /* from here on the new entries are in the file already */
	bool grows;   /* else all this is not needed */
	bool locators_move;
};

static bool locator_moves(const struct locator *loc)
{
	return loc->code && loc->space && loc->space <= LOCATOR_BYTES_MAX;
}

/* Behind the batmap, and not over what they are now: the old ones count until the header names the new. */
static void plan_locators(const struct vhd *v, struct layout *l)
{
	uint64_t start = align_up(l->end, 4096), total = 0;

	for (unsigned i = 0; i < LOCATORS; i++)
		total += locator_moves(&v->h.loc[i]) ? align_up(v->h.loc[i].space, SECTOR) : 0;
	for (unsigned round = 0; round < LOCATORS; round++)
		for (unsigned i = 0; i < LOCATORS; i++)
			if (locator_moves(&v->h.loc[i]) &&
			    ranges_meet(start, total, v->h.loc[i].offset, v->h.loc[i].space))
				start = align_up(v->h.loc[i].offset + v->h.loc[i].space, SECTOR);
	for (unsigned i = 0; i < LOCATORS; i++) {
		if (!locator_moves(&v->h.loc[i]))
			continue;
		l->h.loc[i].offset = start;
		start += align_up(v->h.loc[i].space, SECTOR);
		l->end = start;
		l->locators_move = true;
	}
}

static int plan_layout(const struct vhd *v, uint32_t blocks, struct layout *l)
{
	l->h = v->h;
	l->batmap = v->batmap;
	l->batmap.bits = NULL;
	l->h.entries = (uint32_t)align_up(blocks, ENTRIES_STEP);
	l->end = v->h.table_offset + bat_bytes(l->h.entries);
	if (v->footer.data_offset > v->h.table_offset)
		return -ENOTSUP;
	if (l->batmap.there) {
		l->batmap.header = l->end;
		l->batmap.offset = align_up(l->end + BMH_LENGTH, 4096);
		l->batmap.bytes = (uint32_t)align_up((l->h.entries + 7) / 8, SECTOR);
		l->end = l->batmap.offset + l->batmap.bytes;
	}
	plan_locators(v, l);
	l->end = align_up(l->end, SECTOR);
	return 0;
}

/* Copies of the locators' data where they will be. */
static int copy_locators(struct vhd *v, struct layout *l, struct header *h)
{
	uint8_t *buf = malloc(LOCATOR_BYTES_MAX);
	int r = buf ? 0 : -ENOMEM;

	for (unsigned i = 0; i < LOCATORS && !r; i++) {
		const struct locator *from = &v->h.loc[i], *to = &l->h.loc[i];

		if (from->offset == to->offset)
			continue;
		r = file_read(v, buf, from->space, from->offset);
		r = r ? r : file_write(v, buf, from->space, to->offset);
		h->loc[i] = *to;
	}
	free(buf);
	return r;
}

/* What the BAT will grow over is named by nobody any more. */
static int step_aside(struct vhd *v, struct layout *l)
{
	struct footer f = v->footer;
	struct header h = v->h;
	int r = copy_locators(v, l, &h);

	if (r || (!l->locators_move && !l->batmap.there))
		return r;
	/* Only tapdisk's images have a batmap. The size is said in the same way. */
	if (l->batmap.there) {
		memcpy(f.creator, "win ", 4);
		f.creator_version = 0x000a0000;
		f.creator_os = CREATOR_OS_WINDOWS;
	}
	return header_switch(v, &h, &f, header_spare(v, l->end), false);
}

static int write_new_batmap(struct vhd *v, struct layout *l)
{
	uint8_t raw[BMH_LENGTH] = { 0 };
	int r;

	l->batmap.bits = calloc(1, l->batmap.bytes);
	if (!l->batmap.bits)
		return -ENOMEM;
	batmap_encode(raw, l->batmap.offset, l->batmap.bits, l->batmap.bytes);
	r = file_write(v, l->batmap.bits, l->batmap.bytes, l->batmap.offset);
	r = r ? r : file_write(v, raw, sizeof(raw), l->batmap.header);
	if (r)
		return r;
	memcpy(l->batmap.bits, v->batmap.bits, MIN(v->batmap.bytes, l->batmap.bytes));
	l->batmap.armed = false;
	l->batmap.stale = l->batmap.valid = true;
	return 0;
}

/* What memory knows of the batmap changes under the lock. It cannot fail: the header says so already, and at the old
 * batmap's place is the BAT. */
static void adopt_batmap(struct vhd *v, struct layout *l)
{
	meta_wrlock(v->meta);
	free(v->batmap.bits);
	v->batmap = l->batmap;
	meta_end(v->meta);
}

/* After a failure on the way: what there may be in the file has no bit set, or is not looked at. */
static void drop_batmap(struct vhd *v)
{
	meta_wrlock(v->meta);
	free(v->batmap.bits);
	v->batmap = (struct batmap){ .there = false };
	meta_end(v->meta);
}

static bool has_stepped(const struct vhd *v, const struct layout *l)
{
	return memcmp(v->footer.creator, CREATOR_TAP, 4) != 0 || v->h.entries == l->h.entries;
}

/* With claims on the whole disk. What stands where it will be is out of the way; the entries that take the place of what
 * the header has now are the last ones to be written. */
static int grow_bat(struct vhd *v, struct layout *l)
{
	uint64_t old_end = v->h.table_offset + bat_bytes(v->h.entries);
	uint64_t end = v->h.table_offset + bat_bytes(l->h.entries);
	struct footer f = v->footer;
	int r = step_aside(v, l);

	r = r ? r : write_fill(v, 0xff, old_end, MIN(l->filled, end));
	if (!r && l->batmap.there)
		r = write_new_batmap(v, l);
	if (!r)
		r = header_switch(v, &l->h, &f, header_spare(v, l->end), true);
	if (r) {
		free(l->batmap.bits);
		if (l->batmap.there && has_stepped(v, l))
			drop_batmap(v);
		return r;
	}
	if (l->batmap.there)
		adopt_batmap(v, l);
	return 0;
}

/* Without claims: where the BAT, and all behind it, will be, is nothing else. */
static int prepare_bat(struct vhd *v, uint32_t blocks, struct layout *l)
{
	struct claim all;
	int r;

	l->grows = blocks > v->h.entries || (v->batmap.there && v->batmap.bytes * 8ull < blocks);
	if (!l->grows)
		return 0;
	/* The allocator writes footers, too. */
	claims_take(&v->claims, &all, 0, UINT64_MAX);
	r = header_settle(v);
	claims_give(&v->claims, &all);
	r = r ? r : plan_layout(v, blocks, l);
	r = r ? r : make_room(v, l->end + HDR_LENGTH);
	/* Some MiB, in a place that is nobody's now; nothing waits for that. */
	l->filled = header_end(v);
	return r ? r : write_fill(v, 0xff, l->filled, v->h.table_offset + bat_bytes(l->h.entries));
}

/* ---- sizes --------------------------------------------------------------------------------------------- */

/* bat[] and full[] for so many blocks. */
static int resize_tables(struct vhd *v, uint32_t blocks)
{
	uint32_t *bat = malloc((size_t)blocks * sizeof(*bat)), keep = MIN(blocks, v->blocks);
	uint8_t *full = calloc(1, blocks / 8 + 1);

	if (!bat || !full) {
		free(bat);
		free(full);
		return -ENOMEM;
	}
	memset(bat, 0xff, (size_t)blocks * sizeof(*bat));
	meta_wrlock(v->meta);
	memcpy(bat, v->bat, (size_t)keep * sizeof(*bat));
	memcpy(full, v->full, keep / 8 + 1);
	free(v->bat);
	free(v->full);
	v->bat = bat;
	v->full = full;
	v->blocks = blocks;
	v->changed = true;
	meta_end(v->meta);
	return 0;
}

static int set_size(struct vhd *v, uint64_t size, uint64_t end)
{
	struct footer f = v->footer;
	int r;

	f.current_size = size;
	f.geometry = geometry_of(size);
	/* The creators whose geometry is the size cannot say this one. */
	if (footer_disk_size(&f) != size) {
		memcpy(f.creator, "win ", 4);
		f.creator_version = 0x000a0000;
		f.creator_os = CREATOR_OS_WINDOWS;
	}
	r = footers_update(v, &f, end);
	if (!r)
		__atomic_store_n(&v->size, size, __ATOMIC_RELAXED);
	return r;
}

/*
 * The last block may have something behind the disk's end, and a parent may be larger than its child was: all that the
 * disk gets reads as zeroes. bat[] is for the new size already.
 */
static int zero_new(struct vhd *v, uint64_t from, uint64_t to)
{
	uint64_t end = MAX(align_up(from, v->block), v->parent ? v->parent_size : 0);
	int r = 0;

	to = align_up(to, v->block);
	for (end = MIN(end, to); !r && from < end;) {
		uint64_t part = in_block(v, from, end - from);

		if (!reads_zero(v, from, part))
			r = write_claimed(v, NULL, from, part);
		from += part;
	}
	return r;
}

/* With claims on all of the disk, and one from its last block on while what is new becomes zeroes: that may be much,
 * and what goes on before it need not wait. */
static int grow_claimed(struct vhd *v, uint64_t size, struct layout *l)
{
	uint64_t last = align_down(v->size, v->block);
	struct claim before, from;
	int r = 0;

	claims_take(&v->claims, &from, last, UINT64_MAX);
	claims_take(&v->claims, &before, 0, last);
	if (l->grows)
		r = grow_bat(v, l);
	r = r ? r : resize_tables(v, (uint32_t)blocks_of(size, v->block));
	claims_give(&v->claims, &before);
	r = r ? r : zero_new(v, v->size, size);
	r = r ? r : meta_checkpoint(v->meta);
	/* The allocator writes footers, too. */
	claims_take(&v->claims, &before, 0, last);
	r = r ? r : set_size(v, size, alloc_end(v));
	claims_give(&v->claims, &before);
	claims_give(&v->claims, &from);
	return r;
}

static int grow_dynamic(struct vhd *v, uint64_t size)
{
	uint32_t blocks = (uint32_t)blocks_of(size, v->block);
	struct layout l = { 0 };
	int r = prepare_bat(v, blocks, &l);

	/* Entries that the disk does not have: nobody else changes them. */
	r = r ? r : clear_spare(v, blocks);
	return r ? r : grow_claimed(v, size, &l);
}

/* The size comes first: blocks that are freed may have hidden what an ancestor has there. If freeing them fails their
 * room is lost until the disk grows again (clear_spare). */
static int shrink_dynamic(struct vhd *v, uint64_t size)
{
	uint32_t blocks = (uint32_t)blocks_of(size, v->block);
	int r = batmap_disarm(v), freed = 0;

	r = r ? r : set_size(v, size, alloc_end(v));
	if (r)
		return r;
	for (uint32_t i = blocks; i < v->blocks && !freed; i++)
		if (bat_used(v->bat[i]))
			freed = free_block(v, i);
	freed = freed ? freed : meta_checkpoint(v->meta);
	r = resize_tables(v, blocks);
	return freed ? freed : r;
}

static int resize_dynamic(struct vhd *v, uint64_t size)
{
	struct claim all;
	int r;

	if (v->damaged)
		return -EROFS;
	if (blocks_of(size, v->block) * 4 > BAT_BYTES_MAX)
		return -EFBIG;
	if (alone(v)) {
		v->host->log(v->host, RD_LOG_ERR, "%s: cannot be resized without its parent", v->path);
		return -EOPNOTSUPP;
	}
	if (size > v->size)
		return grow_dynamic(v, size);
	claims_take(&v->claims, &all, 0, UINT64_MAX);
	r = shrink_dynamic(v, size);
	claims_give(&v->claims, &all);
	return r;
}

/* All that the file had behind the disk's end, the old footer being the last of it. */
static int zero_behind(struct vhd *v, uint64_t before, uint64_t size, uint64_t file)
{
	int r = file > size + FTR_LENGTH ? v->host->file_truncate(v->file, size + FTR_LENGTH) : 0;

	r = r ? r : v->host->file_zero(v->file, before, MIN(size, file) - before, 0);
	return r ? r : v->host->file_flush(v->file);
}

/* The new footer is there before the old one becomes data. If that cannot be zeroed, the disk is what it was. */
static int grow_fixed(struct vhd *v, uint64_t size)
{
	uint64_t before = v->size, file;
	int r = file_size(v, &file);

	r = r ? r : set_size(v, size, size);
	if (r)
		return r;
	r = zero_behind(v, before, size, file);
	if (!r)
		return 0;
	if (!set_size(v, before, before))
		v->host->file_truncate(v->file, before + FTR_LENGTH);
	__atomic_store_n(&v->size, before, __ATOMIC_RELAXED);
	return r;
}

static int shrink_fixed(struct vhd *v, uint64_t size)
{
	int r = set_size(v, size, size);

	return r ? r : v->host->file_truncate(v->file, size + FTR_LENGTH);
}

int vhd_resize(void *handle, uint64_t size)
{
	struct vhd *v = handle;

	if (size > SECTORS_MAX * SECTOR)
		return -EFBIG;
	if (size == v->size)
		return 0;
	if (!v->fixed)
		return resize_dynamic(v, size);
	return size > v->size ? grow_fixed(v, size) : shrink_fixed(v, size);
}
