/*
 * The redo log, read again: what a process that died left of changes to an image's metadata.
 *
 * The normal path: parse (every length and checksum, both halves in their order), a look whether the
 * records fit the file, then fdatasync (data that the records point to), and for each order: write it,
 * fdatasync. Of all the values that a place had, only the last is written, a sector at a time and only
 * where it differs: so a replay that is interrupted and done again never takes anything back to an
 * older value.
 *
 * What can go wrong: anything in the log's bytes; reading or writing the image. Control threads run this.
 */
#include "redo-log.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/overflow.h"
#include "io.h"

#define SECTOR 512u

/* The bytes of a record that lie in one sector. */
struct piece {
	uint64_t offset;
	uint32_t index; /* of the record: the order in time */
	uint8_t len, skip, order;
};

/* All pieces by sector, in a sector by time. */
struct pieces {
	struct piece *all;
	size_t count;
};

__attribute__((format(printf, 3, 4))) static int wrong(char *err, size_t errlen, const char *fmt,
						       ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, errlen, fmt, ap);
	va_end(ap);
	return -EUCLEAN;
}

static const struct redo_record *record_at(const struct redo_log *log, size_t i)
{
	return (const struct redo_record *)log->records[i];
}

static const uint8_t *before_of(const struct redo_record *r)
{
	return (const uint8_t *)(r + 1);
}

static const uint8_t *after_of(const struct redo_record *r)
{
	return (const uint8_t *)(r + 1) + r->len;
}

/* ---- parsing ------------------------------------------------------------------------------------- */

uint32_t redo_header_crc(const struct redo_header *header)
{
	struct redo_header copy = *header;

	copy.crc = 0;
	return (uint32_t)crc32(0, (const Bytef *)&copy, sizeof(copy));
}

uint32_t redo_record_crc(const struct redo_record *record, const void *before, const void *after)
{
	struct redo_record copy = *record;
	uLong crc;

	copy.crc = 0;
	crc = crc32(0, (const Bytef *)&copy, sizeof(copy));
	crc = crc32(crc, before, copy.len);
	return (uint32_t)crc32(crc, after, copy.len);
}

static int parse_header(const uint8_t *bytes, size_t len, struct redo_header *h, char *err,
			size_t errlen)
{
	if (len < REDO_DATA)
		return wrong(err, errlen, "it is too short for a header (%zu bytes)", len);
	memcpy(h, bytes, sizeof(*h));
	if (memcmp(h->magic, REDO_MAGIC, sizeof(h->magic)))
		return wrong(err, errlen, "it is no redo log");
	if (h->crc != redo_header_crc(h))
		return wrong(err, errlen, "its header is damaged");
	if (h->half < REDO_HALF_MIN || h->half > REDO_HALF_MAX || !is_aligned(h->half, 8))
		return wrong(err, errlen, "its halves cannot be of %llu bytes",
			     (unsigned long long)h->half);
	if (len < REDO_DATA + 2 * h->half)
		return wrong(err, errlen, "it has been cut off at %zu bytes", len);
	return 0;
}

/* The size of the record at p, which has room bytes left and must have this number; 0: damaged. */
static size_t check_record(const uint8_t *p, uint64_t room, uint64_t seq)
{
	const struct redo_record *r = (const struct redo_record *)p;

	if (room < sizeof(*r) || r->seq != seq || !r->len || r->len > REDO_LEN_MAX ||
	    r->order >= REDO_ORDERS || r->zero || redo_record_size(r->len) > room ||
	    r->offset > (uint64_t)INT64_MAX - r->len)
		return 0;
	return r->crc == redo_record_crc(r, before_of(r), after_of(r)) ? redo_record_size(r->len)
								       : 0;
}

/* The records of one half go to log->records. */
static int parse_half(struct redo_log *log, unsigned which, const struct redo_half *half, char *err,
		      size_t errlen)
{
	const uint8_t *start = log->bytes + REDO_DATA + which * log->header.half;
	uint64_t seq = half->first;

	if (half->used > log->header.half || !is_aligned(half->used, 8))
		return wrong(err, errlen, "it says that %llu bytes of %llu are used",
			     (unsigned long long)half->used, (unsigned long long)log->header.half);
	for (uint64_t at = 0; at < half->used; seq++) {
		size_t size = check_record(start + at, half->used - at, seq);

		if (!size)
			return wrong(err, errlen, "record %llu is damaged",
				     (unsigned long long)seq);
		log->records[log->count++] = start + at;
		at += size;
	}
	return 0;
}

int redo_parse(const uint8_t *bytes, size_t len, struct redo_log *log, char *err, size_t errlen)
{
	struct redo_half half[2];
	unsigned older;
	int r;

	*log = (struct redo_log){ .bytes = bytes };
	r = parse_header(bytes, len, &log->header, err, errlen);
	if (r)
		return r;
	for (unsigned i = 0; i < 2; i++)
		memcpy(&half[i], bytes + REDO_HALF_AT(i), sizeof(half[i]));
	older = half[0].used && half[1].used && half[1].first < half[0].first;
	log->records = calloc(2 * log->header.half / redo_record_size(1), sizeof(*log->records));
	if (!log->records) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	for (unsigned i = 0; i < 2 && !r; i++)
		r = parse_half(log, older ^ i, &half[older ^ i], err, errlen);
	for (size_t i = 1; i < log->count && !r; i++)
		if (record_at(log, i)->seq != record_at(log, i - 1)->seq + 1)
			r = wrong(err, errlen, "records are missing after %llu",
				  (unsigned long long)record_at(log, i - 1)->seq);
	if (r)
		redo_log_free(log);
	return r;
}

void redo_log_free(struct redo_log *log)
{
	free(log->records);
	log->records = NULL;
	log->count = 0;
}

/* ---- pieces -------------------------------------------------------------------------------------- */

static int compare_pieces(const void *a, const void *b)
{
	const struct piece *p = a, *q = b;
	uint64_t ps = p->offset / SECTOR, qs = q->offset / SECTOR;

	if (ps != qs)
		return ps < qs ? -1 : 1;
	return p->index < q->index ? -1 : p->index > q->index;
}

static int pieces_make(const struct redo_log *log, struct pieces *pieces)
{
	pieces->count = 0;
	pieces->all = calloc(2 * log->count + 1, sizeof(*pieces->all));
	if (!pieces->all)
		return -ENOMEM;
	for (size_t i = 0; i < log->count; i++) {
		const struct redo_record *r = record_at(log, i);

		for (unsigned done = 0; done < r->len;) {
			uint64_t at = r->offset + done;
			unsigned n = MIN(r->len - done, SECTOR - (unsigned)(at % SECTOR));

			pieces->all[pieces->count++] = (struct piece){
				.offset = at,
				.index = (uint32_t)i,
				.len = (uint8_t)n,
				.skip = (uint8_t)done,
				.order = r->order,
			};
			done += n;
		}
	}
	qsort(pieces->all, pieces->count, sizeof(*pieces->all), compare_pieces);
	return 0;
}

/* The first piece that is not in the sector of piece i. */
static size_t sector_end(const struct pieces *pieces, size_t i)
{
	uint64_t sector = pieces->all[i].offset / SECTOR;

	while (i < pieces->count && pieces->all[i].offset / SECTOR == sector)
		i++;
	return i;
}

/* A sector of the file; zeroes behind its end. */
static int read_sector(struct rd_file *file, uint64_t size, uint64_t at, uint8_t *bytes)
{
	struct iovec iov = { bytes, size > at ? MIN(size - at, (uint64_t)SECTOR) : 0 };

	memset(bytes, 0, SECTOR);
	return iov.iov_len ? io_readv(file, &iov, 1, at) : 0;
}

/* ---- does it fit? -------------------------------------------------------------------------------- */

static int fits_range(const struct redo_log *log, const struct rd_info *info, char *err,
		      size_t errlen)
{
	uint64_t reach = log->header.block ? 0 : MIN(REDO_REACH, INT64_MAX - info->size);

	for (size_t i = 0; i < log->count; i++) {
		const struct redo_record *r = record_at(log, i);

		if (!range_inside(r->offset, r->len, info->size + reach))
			return wrong(err, errlen, "record %llu lies outside of the image, at %llu",
				     (unsigned long long)r->seq, (unsigned long long)r->offset);
	}
	return 0;
}

static bool piece_matches(const struct redo_log *log, const struct piece *p, const uint8_t *sector)
{
	const struct redo_record *r = record_at(log, p->index);
	const uint8_t *bytes = sector + p->offset % SECTOR;

	return !memcmp(bytes, before_of(r) + p->skip, p->len) ||
	       !memcmp(bytes, after_of(r) + p->skip, p->len);
}

/* One byte of a sector by all pieces of that sector: known values may be those of records that overlap. */
static bool byte_matches(const struct redo_log *log, const struct piece *first,
			 const struct piece *end, uint64_t at, uint8_t value)
{
	for (const struct piece *p = first; p < end; p++) {
		const struct redo_record *r = record_at(log, p->index);

		if (at < p->offset || at >= p->offset + p->len)
			continue;
		if (before_of(r)[p->skip + (at - p->offset)] == value ||
		    after_of(r)[p->skip + (at - p->offset)] == value)
			return true;
	}
	return false;
}

/* Is what stands in the place of this piece known? As a whole, by any record of the same place; where
 * records of other places reach into it, byte by byte. */
static bool place_matches(const struct redo_log *log, const struct piece *first,
			  const struct piece *end, const struct piece *place, const uint8_t *sector)
{
	bool overlap = false;

	for (const struct piece *p = first; p < end; p++) {
		if (p->offset == place->offset && p->len == place->len) {
			if (piece_matches(log, p, sector))
				return true;
		} else if (p->offset < place->offset + place->len &&
			   place->offset < p->offset + p->len) {
			overlap = true;
		}
	}
	for (unsigned i = 0; overlap && i < place->len; i++)
		if (!byte_matches(log, first, end, place->offset + i,
				  sector[place->offset % SECTOR + i]))
			return false;
	return overlap;
}

static int fits_sector(const struct redo_log *log, const struct piece *first,
		       const struct piece *end, const uint8_t *sector, char *err, size_t errlen)
{
	for (const struct piece *p = first; p < end; p++) {
		const struct piece *q = first;

		/* Only the first piece of each place asks. */
		while (q < p && (q->offset != p->offset || q->len != p->len))
			q++;
		if (q == p && !place_matches(log, first, end, p, sector))
			return wrong(err, errlen,
				     "the image has been changed since: other bytes "
				     "stand at %llu than the log knows",
				     (unsigned long long)p->offset);
	}
	return 0;
}

static int fits_bytes(const struct redo_log *log, struct rd_file *file, uint64_t size, char *err,
		      size_t errlen)
{
	struct pieces pieces;
	uint8_t sector[SECTOR];
	int r = pieces_make(log, &pieces);

	for (size_t i = 0, end; i < pieces.count && !r; i = end) {
		end = sector_end(&pieces, i);
		r = read_sector(file, size, round_down(pieces.all[i].offset, SECTOR), sector);
		if (r)
			snprintf(err, errlen, "cannot read the image: %s", strerror(-r));
		else
			r = fits_sector(log, &pieces.all[i], pieces.all + end, sector, err, errlen);
	}
	free(pieces.all);
	return r;
}

int redo_fits(const struct redo_log *log, struct rd_file *file, int compare, char *err,
	      size_t errlen)
{
	struct rd_info info = { .struct_size = sizeof(info) };
	int r = io_info(file, &info);

	if (r) {
		snprintf(err, errlen, "the image's size: %s", strerror(-r));
		return r;
	}
	r = fits_range(log, &info, err, errlen);
	if (!r && compare)
		r = fits_bytes(log, file, info.size, err, errlen);
	return r;
}

/* ---- replay -------------------------------------------------------------------------------------- */

/* Write where now differs from was, in one piece; up to least in any case. */
static int write_sector(struct rd_file *file, uint64_t at, uint8_t *now, const uint8_t *was,
			size_t least)
{
	size_t from = 0, to = SECTOR;
	struct iovec iov;

	while (from < to && now[from] == was[from])
		from++;
	while (to > from && now[to - 1] == was[to - 1])
		to--;
	if (to < least) {
		to = least;
		from = MIN(from, to - 1);
	}
	if (from == to)
		return 0;
	iov = (struct iovec){ now + from, to - from };
	return io_writev(file, &iov, 1, at + from);
}

/* The pieces of one sector, up to this order. */
static int replay_sector(const struct redo_log *log, struct rd_file *file,
			 const struct piece *first, const struct piece *end, unsigned order)
{
	uint64_t at = round_down(first->offset, SECTOR);
	struct rd_info info = { .struct_size = sizeof(info) };
	uint8_t was[SECTOR], now[SECTOR];
	bool wanted = false;
	size_t least = 0;
	int r;

	for (const struct piece *p = first; p < end; p++)
		wanted |= p->order == order;
	if (!wanted)
		return 0;
	r = io_info(file, &info);
	if (!r)
		r = read_sector(file, info.size, at, was);
	if (r)
		return r;
	memcpy(now, was, sizeof(now));
	for (const struct piece *p = first; p < end; p++) {
		if (p->order > order)
			continue;
		memcpy(now + p->offset % SECTOR, after_of(record_at(log, p->index)) + p->skip,
		       p->len);
		/* Zeroes behind the end of the file are bytes of it afterwards. */
		if (p->offset + p->len > info.size)
			least = MAX(least, p->offset % SECTOR + p->len);
	}
	return write_sector(file, at, now, was, least);
}

static int replay_order(const struct redo_log *log, struct rd_file *file,
			const struct pieces *pieces, unsigned order)
{
	for (size_t i = 0, end; i < pieces->count; i = end) {
		int r;

		end = sector_end(pieces, i);
		r = replay_sector(log, file, &pieces->all[i], pieces->all + end, order);
		if (r)
			return r;
	}
	return 0;
}

int redo_replay(const struct redo_log *log, struct rd_file *file)
{
	struct pieces pieces;
	unsigned orders = 0;
	int r = pieces_make(log, &pieces);

	for (size_t i = 0; i < log->count; i++)
		orders |= 1u << record_at(log, i)->order;
	if (!r)
		r = io_flush(file);
	for (unsigned order = 0; order < REDO_ORDERS && !r; order++) {
		if (!(orders & 1u << order))
			continue;
		r = replay_order(log, file, &pieces, order);
		if (!r)
			r = io_flush(file);
	}
	free(pieces.all);
	return r;
}
