/*
 * check and repair: every rule of tapdisk's vhd-util check, and what our own writer counts on.
 *
 *      footers     valid, the same, reserved parts zero, the type, the geometry not larger than the disk
 *      header      as open() wants it; reserved parts; of a dynamic disk no parent, of a differencing one a name
 *      locators    known platforms, inside of the file, before the blocks
 *      BAT         entries behind the header, inside of the file, no block over another
 *      batmap      size; no bit for a block that is not there or not full; checksum (a leak: see below)
 *      bitmaps     of blocks: no data where the bit is clear (a remark: it is lost already, or never was)
 *
 * Repair (errors) writes footers and the batmap anew, makes the file as long as its last block, and gives up the
 * entries that are impossible: of blocks that overlap, all but the first in the file's order of entries. Repair
 * (leaks) gives back the room of places that no entry points to and that hold something, between blocks and behind
 * the last.
 *
 * What can go wrong: reading; what could not be read is counted as unchecked.
 *
 * Threads: one control thread, nothing in flight.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "vhd.h"

#define SLACK (24u * 3600) /* seconds that a clock may be ahead */

struct job {
	struct vhd *v;
	const struct rd_progress *progress;
	struct rd_check *result;
	bool repair_errors, repair_leaks;
	bool footers_wrong;
	bool batmap_torn;
	uint32_t cut_off, batmap_errors;
	uint64_t file; /* bytes, without the footer */
	struct { /* of the file: the one that was looked up last; nothing is written while it counts */
		uint64_t start, end;
		bool hole;
	} stretch;
	uint32_t *bat; /* as in the file */
};

/* ---- telling ------------------------------------------------------------------------------------------- */

static void note(struct job *j, int severity, const char *fmt, va_list ap)
{
	char text[256];

	vsnprintf(text, sizeof(text), fmt, ap);
	if (j->progress && j->progress->note)
		j->progress->note(j->progress->ctx, severity, text);
}

__attribute__((format(printf, 2, 3))) static void error(struct job *j, const char *fmt, ...)
{
	va_list ap;

	j->result->errors++;
	va_start(ap, fmt);
	note(j, RD_LOG_ERR, fmt, ap);
	va_end(ap);
}

__attribute__((format(printf, 2, 3))) static void remark(struct job *j, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	note(j, RD_LOG_WARN, fmt, ap);
	va_end(ap);
}

static void fixed_one(struct job *j, uint64_t count, const char *what)
{
	j->result->errors_fixed += count;
	if (j->progress && j->progress->note)
		j->progress->note(j->progress->ctx, RD_LOG_INFO, what);
}

static int step(struct job *j, uint64_t done, uint64_t total)
{
	if (!j->progress || !j->progress->step)
		return 0;
	return j->progress->step(j->progress->ctx, done, total) ? -ECANCELED : 0;
}

static bool zeroes(const uint8_t *p, size_t n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

/*
 * Is the file a hole at offset, and for how many bytes, up to length, is it as it is there? An image may have holes of
 * a TiB, and a million blocks in one of them: they are looked up once, and never read.
 */
static bool hole_at(struct job *j, uint64_t offset, uint64_t length, uint64_t *same)
{
	const struct rd_host *host = j->v->host;
	int hole = 0;

	if (offset < j->stretch.start || offset >= j->stretch.end) {
		uint64_t more = offset < j->file ? MAX(length, j->file - offset) : length;

		if (host->file_stored(j->v->file, offset, more, &hole, same))
			hole = 0, *same = length;
		j->stretch.start = offset;
		j->stretch.end = offset + *same;
		j->stretch.hole = hole;
	}
	*same = MIN(length, j->stretch.end - offset);
	return j->stretch.hole;
}

/* ---- footers ------------------------------------------------------------------------------------------- */

static void check_fields(struct job *j)
{
	const struct footer *f = &j->v->footer;

	if (!(f->features & FEATURE_RESERVED) || f->features & ~(FEATURE_TEMPORARY | FEATURE_RESERVED))
		remark(j, "footer: features are %#x, which nobody knows", f->features);
	if (f->version != VERSION_1_0)
		remark(j, "footer: its version is %#x", f->version);
	if (j->v->fixed && f->data_offset != OFFSET_NONE)
		remark(j, "footer: a fixed disk has no header, but it names one");
	if (f->timestamp > vhd_time() && f->timestamp - vhd_time() > SLACK)
		remark(j, "footer: it was made in the future");
	if (f->geometry > geometry_of(footer_disk_size(f)) && footer_disk_size(f) == f->current_size)
		remark(j, "footer: the geometry is larger than the disk");
	if (f->saved > 1 || f->hidden > 1)
		remark(j, "footer: the flags for saved state and hidden are neither 0 nor 1");
	if (f->saved == 1)
		remark(j, "the image belongs to a machine in saved state");
	if (!zeroes(f->raw + FTR_RESERVED, FTR_LENGTH - FTR_RESERVED))
		remark(j, "footer: reserved bytes are not zero");
	if (uuid_is_null(f->uuid))
		error(j, "footer: there is no unique id");
}

static void check_footers(struct job *j)
{
	struct vhd *v = j->v;

	check_fields(j);
	if (!v->end_valid)
		error(j, "the footer at the end is missing, damaged, or differs from its copy");
	if (!v->copy_valid)
		error(j, "the copy of the footer at the beginning is damaged, or differs from it");
	j->footers_wrong = !v->end_valid || !v->copy_valid;
}

/* ---- header -------------------------------------------------------------------------------------------- */

static bool platform_known(uint32_t code)
{
	return code == PLATFORM_WI2R || code == PLATFORM_WI2K || code == PLATFORM_W2RU ||
	       code == PLATFORM_W2KU || code == PLATFORM_MAC || code == PLATFORM_MACX;
}

static void check_locator(struct job *j, unsigned i)
{
	const struct locator *loc = &j->v->h.loc[i];
	const uint8_t *raw = j->v->h.raw + HDR_LOCATORS + i * LOC_SIZE;

	if (loc->code == PLATFORM_NONE) {
		if (!zeroes(raw, LOC_SIZE))
			remark(j, "locator %u: unused, but not zero", i);
		return;
	}
	if (!platform_known(loc->code))
		error(j, "locator %u: platform %#x is unknown", i, loc->code);
	if (!loc->offset || !loc->space || !loc->length || loc->length > loc->space ||
	    loc->space > LOCATOR_BYTES_MAX || !range_inside(loc->offset, loc->space, j->file))
		error(j, "locator %u: is not inside of the file", i);
	if (get_be32(raw + LOC_RESERVED))
		remark(j, "locator %u: reserved bytes are not zero", i);
}

static void check_parent(struct job *j)
{
	char *paths[LOCATORS + 1];
	int n;

	for (unsigned i = 0; i < LOCATORS; i++)
		check_locator(j, i);
	n = parent_paths(j->v, paths, LOCATORS + 1);
	if (!n)
		error(j, "a differencing disk that names no parent");
	while (n)
		free(paths[--n]);
	/* When it was opened with its parent, that was found and is the one. */
	if (!j->v->parent)
		remark(j, "its parent was not looked at");
}

static void check_header(struct job *j)
{
	const struct header *h = &j->v->h;

	if (get_be32(h->raw + HDR_RESERVED1) || !zeroes(h->raw + HDR_RESERVED2, HDR_LENGTH - HDR_RESERVED2))
		remark(j, "header: reserved bytes are not zero");
	if (j->v->footer.type == TYPE_DIFFERENCING)
		check_parent(j);
	else if (!uuid_is_null(h->parent_uuid) || h->parent_timestamp ||
		 !zeroes(h->raw + HDR_PARENT_NAME, HDR_PARENT_NAME_LENGTH) ||
		 !zeroes(h->raw + HDR_LOCATORS, LOCATORS * LOC_SIZE))
		remark(j, "header: a dynamic disk that names a parent");
}

/* ---- BAT ----------------------------------------------------------------------------------------------- */

static int load_bat(struct job *j)
{
	struct vhd *v = j->v;
	int r;

	j->bat = malloc((size_t)v->blocks * sizeof(*j->bat));
	if (!j->bat)
		return -ENOMEM;
	r = file_read(v, j->bat, (size_t)v->blocks * 4, v->h.table_offset);
	for (uint32_t i = 0; !r && i < v->blocks; i++)
		j->bat[i] = be32toh(j->bat[i]);
	return r;
}

/* The impossible ones are marked in bat[]; why, is found out here. */
static void explain(struct job *j, uint32_t block)
{
	struct vhd *v = j->v;
	uint64_t at = (uint64_t)j->bat[block] * SECTOR;

	if (header_meets(v, at, block_bytes(v)))
		error(j, "block %u (sector %#x) lies over the header", block, j->bat[block]);
	else if (!range_inside(at, v->bitmap_bytes, j->file))
		error(j, "block %u (sector %#x) lies behind the end of the file", block, j->bat[block]);
	else
		error(j, "block %u (sector %#x) lies over another block", block, j->bat[block]);
}

static void is_cut_off(struct job *j, uint32_t block, uint32_t sector)
{
	error(j, "block %u (sector %#x) is cut off by the end of the file", block, sector);
	j->cut_off++;
}

static void check_entry(struct job *j, uint32_t block)
{
	struct vhd *v = j->v;
	uint64_t end = (uint64_t)v->bat[block] * SECTOR + block_bytes(v);

	if (v->bat[block] == BAT_BAD) {
		explain(j, block);
		return;
	}
	if (end > j->file)
		is_cut_off(j, block, v->bat[block]);
	if ((uint64_t)v->bat[block] * SECTOR < header_end(v))
		remark(j, "block %u (sector %#x) lies before the end of the header's parts", block, v->bat[block]);
	j->result->allocated++;
	j->result->image_end = MAX(j->result->image_end, end);
}

static int check_bat(struct job *j)
{
	struct vhd *v = j->v;
	uint32_t last = BAT_UNUSED, sectors = (uint32_t)(block_bytes(v) / SECTOR);

	j->result->image_end = header_end(v);
	for (uint32_t i = 0; i < v->blocks; i++) {
		if (v->bat[i] == BAT_UNUSED)
			continue;
		check_entry(j, i);
		if (bat_used(v->bat[i])) {
			/* Up to a page more is alignment. */
			j->result->fragmented += bat_used(last) && (v->bat[i] < last + sectors ||
								     v->bat[i] > last + sectors + 8);
			last = v->bat[i];
		}
	}
	return 0;
}

/* Where the file once ended there may be a footer still: that is nobody's data. */
static bool nothing_in(const uint8_t *p, size_t n)
{
	if (zeroes(p, n))
		return true;
	for (size_t at = 0; at < n; at += SECTOR)
		if (!zeroes(p + at, SECTOR) && memcmp(p + at, FTR_COOKIE_VALUE, 8))
			return false;
	return true;
}

/* 1: the range of the file holds something, 0: zeroes, or holes. */
static int holds_data(struct job *j, uint64_t offset, uint64_t length, uint8_t *buf, size_t room)
{
	while (length) {
		uint64_t part;

		if (!hole_at(j, offset, length, &part)) {
			part = MIN(part, room);
			if (file_read(j->v, buf, (size_t)part, offset)) {
				j->result->unchecked++;
				return 0;
			}
			if (!nothing_in(buf, (size_t)part))
				return 1;
		}
		offset += part;
		length -= part;
	}
	return 0;
}

/* Between two blocks: room that is taken by nothing. Places that are holes are free, and will be used again. */
static uint64_t check_gap(struct job *j, uint64_t start, uint64_t end, uint8_t *buf, size_t room)
{
	uint64_t need = block_bytes(j->v), leaks = 0, same, at = start;

	while (end - at >= need) {
		if (hole_at(j, at, end - at, &same) && same >= need) {
			at += same / need * need;
			continue;
		}
		leaks += (uint64_t)holds_data(j, at, need, buf, room);
		at += need;
	}
	return leaks;
}

static bool give_back(struct job *j, uint64_t leaks, uint64_t start, uint64_t end)
{
	j->result->leaks += leaks;
	if (!leaks || !j->repair_leaks || j->v->host->file_punch(j->v->file, start, end - start))
		return false;
	j->result->leaks_fixed += leaks;
	return true;
}

/*
 * Behind the last block, up to the footer. What was made ready for more blocks is a hole; what a block had that nothing
 * points to is lost. A device has no end that could be moved, and may hold anything there.
 */
static void check_tail(struct job *j, uint64_t start, uint8_t *buf, size_t room)
{
	struct vhd *v = j->v;
	uint64_t end = j->file, leaks, same, rest;
	int hole;

	if (!v->end_valid || start >= end ||
	    v->host->file_stored(v->file, start, end - start, &hole, &same) == -EOPNOTSUPP)
		return;
	leaks = check_gap(j, start, end, buf, room);
	rest = (end - start) % block_bytes(v);
	leaks += (uint64_t)holds_data(j, end - rest, rest, buf, room);
	/* The file becomes shorter when it is closed. */
	if (give_back(j, leaks, start, end))
		v->changed = true;
}

/* While entries are in doubt, what lies between blocks may be somebody's. */
static int count_leaks(struct job *j)
{
	const size_t room = 256u << 10;
	struct vhd *v = j->v;
	uint64_t end = header_end(v);
	uint32_t *sorted, count;
	uint8_t *buf;
	int r = bat_sorted(v, &sorted, &count);

	if (r)
		return r;
	buf = malloc(room);
	for (uint32_t i = 0; buf && i < count; i++) {
		uint64_t at = (uint64_t)sorted[i] * SECTOR;

		if (at > end)
			give_back(j, check_gap(j, end, at, buf, room), end, at);
		end = MAX(end, at + block_bytes(v));
	}
	if (buf)
		check_tail(j, end, buf, room);
	r = buf ? 0 : -ENOMEM;
	free(buf);
	free(sorted);
	return r;
}

/* ---- batmap and bitmaps -------------------------------------------------------------------------------- */

static void leak(struct job *j, const char *what)
{
	j->result->leaks++;
	if (j->progress && j->progress->note)
		j->progress->note(j->progress->ctx, RD_LOG_WARN, what);
}

/*
 * Map and checksum lie in different sectors, and the image has room for one map only: when power fails while they are
 * written they do not fit. Nobody believes the map then, and no data is in danger; but tapdisk does not write to such an
 * image. So this is no error, and what repairs leaks mends it, as every writer of ours does when he closes the image.
 */
static void check_batmap(struct job *j)
{
	struct vhd *v = j->v;
	bool should = !memcmp(v->footer.creator, CREATOR_TAP, 4) && v->footer.creator_version >= TAP_VERSION_1_2;

	if (!v->batmap.there && should)
		error(j, "the batmap's header is damaged");
	j->batmap_torn = v->batmap.there && !v->batmap.valid;
	if (j->batmap_torn)
		leak(j, "the batmap's checksum is wrong: it is not used (the power failed while it was written?)");
}

static bool says_full(const struct vhd *v, uint32_t block)
{
	return v->batmap.valid && v->batmap.bits[block / 8] & 0x80 >> block % 8;
}

static bool bitmap_full(const struct vhd *v, const uint8_t *bits)
{
	uint32_t n = v->block / SECTOR, i = 0;

	while (i < n && bits[i / 8] >> (7 - i % 8) & 1)
		i++;
	return i == n;
}

static void check_full(struct job *j, uint32_t block, const uint8_t *bits)
{
	if (!says_full(j->v, block) || (bits && bitmap_full(j->v, bits)))
		return;
	error(j, bits ? "the batmap says that block %u is full, and it is not"
		      : "the batmap says that block %u is full, and it is not there",
	      block);
	j->batmap_errors++;
	j->v->batmap.bits[block / 8] &= (uint8_t)~(0x80 >> block % 8);
}

/* A part of the file; holes are not read. 1: it is nothing but one, and all zeroes. */
static int load(struct job *j, uint64_t at, uint8_t *buf, uint64_t length)
{
	uint64_t part;

	if (hole_at(j, at, length, &part) && part == length)
		return 1;
	for (uint64_t done = 0; done < length; done += part) {
		if (hole_at(j, at + done, length - done, &part))
			memset(buf + done, 0, (size_t)part);
		else if (file_read(j->v, buf + done, (size_t)part, at + done))
			return -EIO;
	}
	return 0;
}

/* Data that nobody sees: some writer has put it there and not said so. */
static void check_clear(struct job *j, uint32_t block, const uint8_t *bits, uint8_t *data)
{
	struct vhd *v = j->v;
	uint32_t n = 0;
	int r;

	if (bitmap_full(v, bits))
		return;
	r = load(j, host_of(v, v->bat[block], 0), data, v->block);
	j->result->unchecked += r < 0;
	if (r)
		return;
	for (uint32_t i = 0; i < v->block / SECTOR; i++)
		n += !(bits[i / 8] >> (7 - i % 8) & 1) && !zeroes(data + (size_t)i * SECTOR, SECTOR);
	if (n)
		remark(j, "block %u has data in %u sectors whose bits are clear", block, n);
}

static void check_block(struct job *j, uint32_t block, uint8_t *bits, uint8_t *data)
{
	struct vhd *v = j->v;
	int r = load(j, (uint64_t)v->bat[block] * SECTOR, bits, v->bitmap_bytes);

	if (r < 0) {
		j->result->unchecked++;
		return;
	}
	if (r)
		memset(bits, 0, v->bitmap_bytes);
	check_full(j, block, bits);
	check_clear(j, block, bits, data);
}

static int check_blocks(struct job *j)
{
	struct vhd *v = j->v;
	uint8_t *bits = malloc(v->bitmap_bytes), *data = malloc(v->block);
	int r = bits && data ? 0 : -ENOMEM;

	for (uint32_t i = 0; !r && i < v->blocks; i++) {
		r = i % 64 ? 0 : step(j, i, v->blocks);
		if (v->bat[i] == BAT_UNUSED)
			check_full(j, i, NULL);
		if (!r && bat_used(v->bat[i]))
			check_block(j, i, bits, data);
	}
	free(bits);
	free(data);
	return r ? r : step(j, v->blocks, v->blocks);
}

/* ---- repair -------------------------------------------------------------------------------------------- */

/*
 * Entries that do not overlap: of those that begin in the same stretch of a block's length there is one at most, so
 * that whoever overlaps a new one is found in three stretches. A hash table by the stretch's number.
 */
struct taken {
	uint32_t *slot; /* 0: empty; no block begins there */
	uint32_t mask, sectors;
};

static uint32_t taken_slot(const struct taken *t, uint32_t stretch)
{
	uint32_t i = stretch * 2654435761u & t->mask;

	while (t->slot[i] && t->slot[i] / t->sectors != stretch)
		i = (i + 1) & t->mask;
	return i;
}

static bool is_taken(const struct taken *t, uint32_t entry)
{
	uint32_t stretch = entry / t->sectors;

	for (uint32_t s = stretch - (stretch > 0); s <= stretch + 1; s++) {
		uint32_t other = t->slot[taken_slot(t, s)];

		if (other && (other < entry ? entry - other : other - entry) < t->sectors)
			return true;
	}
	return false;
}

static void take(struct taken *t, uint32_t entry)
{
	t->slot[taken_slot(t, entry / t->sectors)] = entry;
}

static int taken_init(struct taken *t, const struct vhd *v)
{
	uint64_t room = 64;

	while (room < 2ull * v->blocks)
		room *= 2;
	*t = (struct taken){
		.slot = calloc(room, sizeof(*t->slot)),
		.mask = (uint32_t)(room - 1),
		.sectors = (uint32_t)(block_bytes(v) / SECTOR),
	};
	if (!t->slot)
		return -ENOMEM;
	for (uint32_t i = 0; i < v->blocks; i++)
		if (bat_used(v->bat[i]))
			take(t, v->bat[i]);
	return 0;
}

static int repair_entry(struct job *j, uint32_t block, uint32_t entry)
{
	struct vhd *v = j->v;
	struct meta_slice *slice;
	int r = bat_pin(v, block, &slice);

	if (r)
		return r;
	r = meta_begin(v->meta, 1);
	if (!r) {
		bat_set(v, slice, block, entry);
		full_set(v, block, false);
		v->batmap.stale = v->batmap.there;
		meta_end(v->meta);
	}
	meta_unpin(v->meta, slice);
	return r;
}

/* Impossible entries become unused. Of overlapping blocks the first entry keeps its block. */
static int repair_bat(struct job *j)
{
	struct vhd *v = j->v;
	struct taken taken;
	uint32_t given = 0;
	int r = taken_init(&taken, v);

	for (uint32_t i = 0; i < v->blocks && !r; i++) {
		uint64_t at = (uint64_t)j->bat[i] * SECTOR;
		bool keep;

		if (v->bat[i] != BAT_BAD)
			continue;
		keep = range_inside(at, v->bitmap_bytes, j->file) && !header_meets(v, at, block_bytes(v)) &&
		       !is_taken(&taken, j->bat[i]);
		r = repair_entry(j, i, keep ? j->bat[i] : BAT_UNUSED);
		if (keep) {
			take(&taken, j->bat[i]);
			if (at + block_bytes(v) > j->file)
				is_cut_off(j, i, j->bat[i]);
			j->result->image_end = MAX(j->result->image_end, at + block_bytes(v));
		}
		given++;
	}
	free(taken.slot);
	if (given)
		fixed_one(j, given, "table of blocks: impossible entries were given up");
	return r ? r : meta_checkpoint(v->meta);
}

static int repair_footers(struct job *j)
{
	struct vhd *v = j->v;
	struct footer f = v->footer;
	uint64_t size, wrong = !v->end_valid + !v->copy_valid, end = j->result->image_end;
	int r = file_size(v, &size);

	if (r)
		return r;
	if (v->block_device)
		end = align_down(size, SECTOR) - FTR_LENGTH;
	r = footers_update(v, &f, end);
	r = r ? r : footer_mend_copy(v);
	if (!r && !v->block_device)
		r = v->host->file_truncate(v->file, end + FTR_LENGTH);
	if (!r)
		fixed_one(j, wrong + j->cut_off, "footers written anew");
	return r;
}

static int repair(struct job *j)
{
	int r = repair_bat(j);

	if (!r && (j->footers_wrong || j->cut_off))
		r = repair_footers(j);
	return r;
}

/* With all that is known now. */
static int repair_batmap(struct job *j)
{
	struct vhd *v = j->v;
	int r;

	if (!v->batmap.there || !(j->batmap_errors || v->batmap.stale))
		return 0;
	v->batmap.stale = true;
	r = batmap_write(v);
	if (r)
		return r;
	if (j->batmap_errors)
		fixed_one(j, j->batmap_errors, "batmap written anew");
	j->result->leaks_fixed += j->batmap_torn;
	return 0;
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

static int check_dynamic(struct job *j)
{
	int r = meta_checkpoint(j->v->meta);

	if (!r)
		r = load_bat(j);
	if (r)
		return r;
	j->result->clusters = j->v->blocks;
	check_header(j);
	check_batmap(j);
	r = check_bat(j);
	r = r ? r : check_blocks(j);
	if (!r && !j->v->damaged)
		r = count_leaks(j);
	if (!r && j->repair_errors)
		r = repair(j);
	if (!r && (j->repair_errors || (j->repair_leaks && !j->v->damaged)))
		r = repair_batmap(j);
	return r;
}

int vhd_check(void *handle, uint32_t flags, const struct rd_progress *progress, struct rd_check *result)
{
	struct vhd *v = handle;
	struct job j = {
		.v = v,
		.progress = progress,
		.result = result,
		.repair_errors = flags & RD_CHECK_REPAIR_ERRORS,
		.repair_leaks = flags & RD_CHECK_REPAIR_LEAKS,
	};
	int r = file_size(v, &j.file);

	if (r)
		return r;
	if (v->end_valid)
		j.file = align_up(j.file, SECTOR) - FTR_LENGTH;
	check_footers(&j);
	if (!v->fixed)
		r = check_dynamic(&j);
	else
		result->clusters = result->allocated = 1, result->image_end = j.file + FTR_LENGTH;
	free(j.bat);
	return r;
}
