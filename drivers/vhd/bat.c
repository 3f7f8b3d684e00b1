/*
 * The block allocation table: which block of the disk is where in the file.
 *
 * It is read whole when the image is opened, and every entry is checked then: not over the header, not past the
 * end of the file, not over another block. What is impossible becomes BAT_BAD in memory: reads of it are errors,
 * and the image cannot be written to at all, because nobody knows what a write would destroy.
 *
 * A table of a 2040 GiB disk has a million entries, and opening it must be quick. What lies between the header's end
 * and the file's is possible: one comparison for each. Blocks that do not overlap begin in different stretches of the
 * file, if those are no longer than a block: an array of all stretches shows overlaps and gaps without sorting. What
 * this does not settle (an entry that is odd, blocks much smaller than the file's holes) is looked at in detail.
 *
 * Threads: bat_load and bat_sorted on control threads, the rest anywhere.
 */
#include <errno.h>
#include <stdlib.h>

#include "vhd.h"

uint64_t blocks_of(uint64_t size, uint32_t block)
{
	return size / block + (size % block != 0);
}

/* ---- sorting ------------------------------------------------------------------------------------------- */

/* One pass of a radix sort, by 16 bits. */
static void sort_pass(const uint32_t *from, uint32_t *to, uint32_t count, unsigned shift, uint32_t *at)
{
	memset(at, 0, 65537 * sizeof(*at));
	for (uint32_t i = 0; i < count; i++)
		at[(from[i] >> shift & 0xffff) + 1]++;
	for (uint32_t i = 0; i < 65536; i++)
		at[i + 1] += at[i];
	for (uint32_t i = 0; i < count; i++)
		to[at[from[i] >> shift & 0xffff]++] = from[i];
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static int sort(uint32_t *entries, uint32_t count)
{
	uint32_t *room, *at;

	if (count < 4096) {
		qsort(entries, count, sizeof(*entries), compare);
		return 0;
	}
	room = malloc(count * sizeof(*room));
	at = malloc(65537 * sizeof(*at));
	if (room && at) {
		sort_pass(entries, room, count, 0, at);
		sort_pass(room, entries, count, 16, at);
	}
	count = room && at;
	free(room);
	free(at);
	return count ? 0 : -ENOMEM;
}

int bat_sorted(const struct vhd *v, uint32_t **sorted, uint32_t *count)
{
	uint32_t n = 0, *list;
	int r;

	for (uint32_t i = 0; i < v->blocks; i++)
		n += bat_used(v->bat[i]);
	list = malloc(MAX(n, 1u) * sizeof(*list));
	if (!list)
		return -ENOMEM;
	*count = n;
	n = 0;
	for (uint32_t i = 0; i < v->blocks; i++)
		if (bat_used(v->bat[i]))
			list[n++] = v->bat[i];
	r = sort(list, n);
	if (r) {
		free(list);
		return r;
	}
	*sorted = list;
	return 0;
}

/* ---- loading ------------------------------------------------------------------------------------------- */

static bool entry_possible(const struct vhd *v, uint32_t entry, uint64_t file)
{
	uint64_t at = (uint64_t)entry * SECTOR;

	return range_inside(at, v->bitmap_bytes, file) && !header_meets(v, at, block_bytes(v));
}

/* The first in the sorted list that is not smaller. */
static uint32_t lower_bound(const uint32_t *sorted, uint32_t count, uint32_t entry)
{
	uint32_t from = 0;

	while (from < count) {
		uint32_t middle = from + (count - from) / 2;

		if (sorted[middle] < entry)
			from = middle + 1;
		else
			count = middle;
	}
	return from;
}

/* Entries that are nearer to another one than a block is long. */
static uint32_t mark_overlaps(struct vhd *v, const uint32_t *sorted, uint32_t count)
{
	uint32_t sectors = (uint32_t)(block_bytes(v) / SECTOR), marked = 0;

	for (uint32_t i = 0; i < v->blocks; i++) {
		uint32_t entry = v->bat[i], p;

		if (!bat_used(entry))
			continue;
		p = lower_bound(sorted, count, entry);
		if ((p && entry - sorted[p - 1] < sectors) ||
		    (p + 1 < count && sorted[p + 1] - entry < sectors)) {
			v->bat[i] = BAT_BAD;
			marked++;
		}
	}
	return marked;
}

/* Fills the order. False: some overlap, or it cannot be said in this way. */
static bool find_order(struct vhd *v, uint64_t file)
{
	uint32_t sectors = (uint32_t)(block_bytes(v) / SECTOR), last = 0;
	unsigned shift = 31 - (unsigned)__builtin_clz(sectors);
	uint64_t stretches = (file / SECTOR >> shift) + 1;
	uint32_t *start;
	bool good = true;

	if (stretches > 4ull * v->blocks + 1024)
		return false;
	start = calloc(stretches, sizeof(*start));
	if (!start)
		return false;
	for (uint32_t i = 0; i < v->blocks; i++) {
		uint32_t entry = v->bat[i];

		if (!bat_used(entry))
			continue;
		good = good && !start[entry >> shift];
		start[entry >> shift] = entry;
	}
	/* The header is before the first one. */
	for (uint64_t i = 0; i < stretches && good; i++)
		if (start[i]) {
			good = !last || start[i] - last >= sectors;
			last = start[i];
		}
	v->order = (struct order){ .start = start, .stretches = (uint32_t)stretches, .shift = shift };
	if (!good)
		bat_loaded(v);
	return good;
}

void bat_loaded(struct vhd *v)
{
	free(v->order.start);
	v->order.start = NULL;
}

static int find_overlaps(struct vhd *v, uint32_t *bad)
{
	uint32_t *sorted, count, sectors = (uint32_t)(block_bytes(v) / SECTOR);
	bool some = false;
	int r = bat_sorted(v, &sorted, &count);

	if (r)
		return r;
	for (uint32_t i = 1; i < count && !some; i++)
		some = sorted[i] - sorted[i - 1] < sectors;
	if (some)
		*bad += mark_overlaps(v, sorted, count);
	free(sorted);
	return 0;
}

/* Between the header's end and the file's, all of them? */
static bool all_usual(const struct vhd *v, uint64_t end)
{
	uint64_t first = header_end(v) / SECTOR, behind = end / SECTOR, need = block_bytes(v) / SECTOR;
	uint32_t low, span, odd = 0;

	if (behind < first + need || first >= BAT_BAD)
		return false;
	low = (uint32_t)first;
	span = (uint32_t)(MIN(behind - need, (uint64_t)BAT_BAD - 1) - first);
	for (uint32_t i = 0; i < v->blocks; i++)
		odd += (v->bat[i] != BAT_UNUSED) & (v->bat[i] - low > span);
	return !odd;
}

/* A last block that is not whole can be read as far as it goes, but counts as bad. */
static uint32_t mark_impossible(struct vhd *v, uint64_t file)
{
	bool footer = v->end_valid || v->block_device; /* a device's is written there when it is closed */
	uint64_t end = footer ? align_down(file, SECTOR) : file;
	uint32_t bad = 0;

	if (footer && is_aligned(file, SECTOR))
		end -= FTR_LENGTH;
	if (all_usual(v, end))
		return 0;
	for (uint32_t i = 0; i < v->blocks; i++) {
		uint32_t entry = v->bat[i];

		if (entry == BAT_UNUSED)
			continue;
		if (!entry_possible(v, entry, end)) {
			v->bat[i] = BAT_BAD;
			bad++;
		} else if (!range_inside((uint64_t)entry * SECTOR, block_bytes(v), end)) {
			bad++;
		}
	}
	return bad;
}

int bat_load(struct vhd *v, uint32_t *bad)
{
	uint64_t file;
	int r = file_size(v, &file);

	if (r)
		return r;
	v->bat = malloc((size_t)v->blocks * sizeof(*v->bat));
	v->full = calloc(1, v->blocks / 8 + 1);
	if (!v->bat || !v->full)
		return -ENOMEM;
	r = file_read(v, v->bat, (size_t)v->blocks * 4, v->h.table_offset);
	if (r)
		return r;
	for (uint32_t i = 0; i < v->blocks; i++)
		v->bat[i] = be32toh(v->bat[i]);
	*bad = mark_impossible(v, file);
	return find_order(v, file) ? 0 : find_overlaps(v, bad);
}

/* ---- changing ------------------------------------------------------------------------------------------ */

static uint64_t entry_at(const struct vhd *v, uint32_t block)
{
	return v->h.table_offset + (uint64_t)block * 4;
}

int bat_pin(struct vhd *v, uint32_t block, struct meta_slice **slice)
{
	return meta_pin(v->meta, entry_at(v, block), slice);
}

void bat_set(struct vhd *v, struct meta_slice *slice, uint32_t block, uint32_t entry)
{
	uint8_t bytes[4];

	put_be32(bytes, entry);
	meta_set(v->meta, ORDER_BAT, slice, entry_at(v, block), bytes, sizeof(bytes));
	v->bat[block] = entry;
	v->changed = true;
}

void full_set(struct vhd *v, uint32_t block, bool full)
{
	uint8_t bit = (uint8_t)(1 << block % 8);

	if (full) {
		__atomic_fetch_or(&v->full[block / 8], bit, __ATOMIC_RELAXED);
		return;
	}
	__atomic_fetch_and(&v->full[block / 8], (uint8_t)~bit, __ATOMIC_RELAXED);
	if (v->batmap.bits && block / 8 < v->batmap.bytes)
		v->batmap.bits[block / 8] &= (uint8_t)~(0x80 >> block % 8);
}
