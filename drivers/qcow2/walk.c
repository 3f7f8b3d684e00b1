/*
 * qcow2/walk.c - a walk through all tables of an image
 *
 *      header, L1 tables, snapshot table, bitmaps        counted, and marked as metadata
 *      refcount table and blocks                         marked; counted last
 *      L2 tables, of all L1 tables                       counted, and marked
 *      each L2 table, once                               what its entries refer to is counted, as often as the table
 *                                                        is referred to
 *
 * So when an entry of an L2 table is looked at it is known whether it points into metadata. Every table is read
 * once, however many snapshots share it and however many entries name it: the time is bounded by the length of
 * the file. Numbers of errors are those of qemu-img check, which counts a finding once for each way that leads
 * to it.
 *
 * What can go wrong: everything in the image is untrue, I/O errors (counted as unchecked, and then nothing is
 * repaired), memory. Control threads, nothing else in flight.
 */
#include "walk.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define FINDINGS_MAX      1000 /* lines for the user; the rest is only counted */
#define L1_PIECE          8192 /* entries */
#define SETTLE_ROUNDS     16   /* what a checkpoint frees makes another necessary */
#define BITMAPS_MAX       65535u
#define BITMAP_FIXED      24
#define BITMAP_TABLE_MAX  (64u << 20)
#define BITMAP_RESERVED   0xff000000000001feull
#define L2_ALL_ALLOC      0xffffffffull
#define REFTABLE_RESERVED 0x1ffull

/* ---- small things -------------------------------------------------------------------------------------- */

void walk_note(struct walk *w, int severity, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	if (!w->progress || !w->progress->note || w->findings > FINDINGS_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (++w->findings > FINDINGS_MAX)
		snprintf(text, sizeof(text), "and more, which are not listed");
	w->progress->note(w->progress->ctx, severity, text);
}

int walk_step(struct walk *w)
{
	if (!w->progress || !w->progress->step)
		return 0;
	if (w->step < w->steps)
		w->step++;
	if (w->progress->step(w->progress->ctx, w->step, w->steps))
		w->canceled = true;
	return w->canceled ? -ECANCELED : 0;
}

int walk_read(struct walk *w, void *buf, size_t len, uint64_t offset)
{
	struct iovec iov = { .iov_base = buf, .iov_len = len };

	if (offset >= w->file_size || len > w->file_size - offset) {
		iov.iov_len = offset < w->file_size ? w->file_size - offset : 0;
		memset((uint8_t *)buf + iov.iov_len, 0, len - iov.iov_len);
	}
	return iov.iov_len ? w->q->host->file_readv(w->q->file, &iov, 1, offset) : 0;
}

int walk_write(struct walk *w, const void *buf, size_t len, uint64_t offset)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)buf, .iov_len = len };

	return w->q->host->file_writev(w->q->file, &iov, 1, offset);
}

static void unreadable(struct walk *w, const char *what, uint64_t offset, int r)
{
	w->result->unchecked++;
	walk_note(w, RD_LOG_ERR, "%s at %#llx: cannot be read: %s", what,
		  (unsigned long long)offset, strerror(-r));
}

/* What lies so may be referred to: the last cluster may end behind the file. */
static bool in_file(const struct walk *w, uint64_t offset, uint64_t length)
{
	return offset < HOST_OFFSET_MAX && length < HOST_OFFSET_MAX &&
	       (offset + length < w->file_size || offset + length - w->file_size < w->q->cluster);
}

/* A range of the file is referred to, so often. 0 also if that is an error. */
static int refer(struct walk *w, uint64_t offset, uint64_t length, uint64_t times, enum use use)
{
	unsigned bits = w->q->cluster_bits;
	int r = 0;

	if (!length || !times)
		return 0;
	if (!in_file(w, offset, length)) {
		w->result->errors += times;
		walk_note(w, RD_LOG_ERR, "something refers to %#llx, behind the end of the file",
			  (unsigned long long)offset);
		return 0;
	}
	for (uint64_t c = offset >> bits; !r && c <= (offset + length - 1) >> bits; c++) {
		r = counts_add(&w->counts, c, (int64_t)times, w->max);
		if (r == -ERANGE) {
			w->result->errors++;
			walk_note(w, RD_LOG_ERR,
				  "cluster %llu has more references than can be counted",
				  (unsigned long long)c);
			r = counts_set(&w->counts, c, w->max);
		}
		if (!r)
			r = counts_use(&w->counts, c, use);
		if (c >= w->file_clusters)
			w->file_clusters = c + 1;
	}
	return r;
}

/* Something in the way that is there only once. */
static int refer_meta(struct walk *w, const char *what, uint64_t offset, uint64_t length)
{
	unsigned bits = w->q->cluster_bits;

	for (uint64_t c = offset >> bits;
	     length && in_file(w, offset, length) && c <= (offset + length - 1) >> bits; c++)
		if (counts_used_as(&w->counts, c, USE_META)) {
			w->tangled = true;
			walk_note(w, RD_LOG_ERR, "%s at %#llx overlaps other metadata", what,
				  (unsigned long long)offset);
			break;
		}
	return refer(w, offset, length, 1, USE_META);
}

static bool meets(struct walk *w, uint64_t offset, uint64_t length, enum use use)
{
	unsigned bits = w->q->cluster_bits;

	for (uint64_t c = offset >> bits; c <= (offset + length - 1) >> bits; c++)
		if (counts_used_as(&w->counts, c, use))
			return true;
	return false;
}

uint64_t entry_clusters(const struct qcow2 *q, uint64_t entry, uint64_t *first)
{
	unsigned csize_bits = q->cluster_bits - 8;
	uint64_t offset = entry & ENTRY_OFFSET, sectors;

	if (!(entry & ENTRY_COMPRESSED)) {
		*first = offset >> q->cluster_bits;
		return offset ? 1 : 0;
	}
	offset = entry & ((1ull << (62 - csize_bits)) - 1);
	sectors = (entry >> (62 - csize_bits) & ((1ull << csize_bits) - 1)) + 1;
	*first = offset >> q->cluster_bits;
	return ((align_down(offset, 512) + sectors * 512 - 1) >> q->cluster_bits) - *first + 1;
}

/* ---- refcounts as they stand in the file --------------------------------------------------------------- */

uint64_t block_offset(const struct walk *w, uint64_t index)
{
	uint64_t entry = index < w->reftable_entries ? w->reftable[index] & ~REFTABLE_RESERVED : 0;

	return is_aligned(entry, w->q->cluster) && entry < HOST_OFFSET_MAX ? entry : 0;
}

int disk_refcount(struct walk *w, uint64_t cluster, uint64_t *refcount)
{
	unsigned order = w->q->h.refcount_order;
	uint64_t per_block = (uint64_t)w->q->cluster * 8 >> order, index = cluster / per_block;
	uint64_t at = block_offset(w, index);

	*refcount = 0;
	if (index >= w->reftable_entries || !(w->reftable[index] & ~REFTABLE_RESERVED))
		return 0;
	if (!at)
		return -EIO;
	if (w->block_at != at) {
		w->block_error = walk_read(w, w->block, w->q->cluster, at);
		w->block_at = at;
	}
	if (w->block_error)
		return -EIO;
	*refcount = refcount_at(w->block, order, cluster % per_block);
	return 0;
}

/* Is the flag right, for the refcount that the file has? Asked of active tables. */
static void check_copied(struct walk *w, uint64_t offset, uint64_t entry, uint64_t times,
			 const char *what)
{
	uint64_t refcount;

	if (disk_refcount(w, offset >> w->q->cluster_bits, &refcount))
		return;
	if ((refcount == 1) == !!(entry & ENTRY_COPIED))
		return;
	w->result->errors += times;
	w->copied_wrong += times;
	walk_note(w, RD_LOG_ERR, "%s %#llx: its COPIED flag is %s, but the refcount is %llu", what,
		  (unsigned long long)entry, entry & ENTRY_COPIED ? "set" : "clear",
		  (unsigned long long)refcount);
}

/* ---- repair of single entries -------------------------------------------------------------------------- */

static int put_entry(struct walk *w, uint64_t at, uint64_t entry)
{
	uint8_t bytes[8];

	put_be64(bytes, entry);
	return walk_write(w, bytes, sizeof(bytes), at);
}

/* An L1 entry becomes another: one sector, at once. */
static int mend_l1(struct walk *w, uint64_t table, uint32_t i, uint64_t entry, uint64_t *now)
{
	int r = put_entry(w, table + i * 8ull, entry);

	if (r)
		return r;
	*now = entry;
	w->result->errors_fixed++;
	return 0;
}

/* ---- L1 ------------------------------------------------------------------------------------------------ */

struct l1 {
	const char *name; /* "" for the active one */
	uint64_t offset;
	uint32_t size;
	bool active;
};

static uint64_t l2_span(const struct walk *w)
{
	return (uint64_t)w->q->cluster * (w->q->cluster / w->q->entry_size);
}

static void lost(struct walk *w, const struct l1 *l1, uint32_t i)
{
	walk_note(w, RD_LOG_WARN, "%s%s%slost: the disk from byte %llu, %llu bytes",
		  l1->active ? "" : "snapshot ", l1->name, l1->active ? "" : ": ",
		  (unsigned long long)i * l2_span(w), (unsigned long long)l2_span(w));
}

/* Could this be an L2 table? For one that is also something else. */
static bool looks_like_l2(struct walk *w, uint64_t offset)
{
	const struct qcow2 *q = w->q;
	bool any = false;

	if (walk_read(w, w->l2, q->cluster, offset))
		return true;
	for (uint32_t at = 0; at < q->cluster; at += q->entry_size) {
		uint64_t entry = get_be64(w->l2 + at);

		any = any || entry;
		if (!(entry & ENTRY_COMPRESSED) &&
		    (entry & L2_RESERVED || !is_aligned(entry & ENTRY_OFFSET, q->cluster)))
			return false;
	}
	return any;
}

/* Why an L1 entry cannot be, or NULL. */
static const char *l1_impossible(struct walk *w, uint64_t offset)
{
	if (!is_aligned(offset, w->q->cluster))
		return "is not the start of a cluster";
	if (!in_file(w, offset, w->q->cluster))
		return "is behind the end of the file";
	if (meets(w, offset, w->q->cluster, USE_META))
		return "is other metadata";
	if (meets(w, offset, w->q->cluster, USE_PINNED) && !looks_like_l2(w, offset))
		return "is a part of the refcounts";
	return NULL;
}

static int l1_entry(struct walk *w, const struct l1 *l1, uint32_t i, uint64_t *entry)
{
	uint64_t offset = *entry & ENTRY_OFFSET;
	bool fix = w->fix && !w->tangled;
	const char *why;
	int r = 0;

	if (*entry & L1_RESERVED) {
		w->result->errors++;
		walk_note(w, RD_LOG_ERR, "L1 entry %u has reserved bits set: %#llx", i,
			  (unsigned long long)*entry);
		if (fix)
			r = mend_l1(w, l1->offset, i, *entry & ~L1_RESERVED, entry);
	}
	if (r || !offset)
		return r;
	why = l1_impossible(w, offset);
	if (!why) {
		r = counts_add(&w->l2s, offset >> w->q->cluster_bits, 1, UINT64_MAX);
		if (!r && l1->active)
			r = counts_add(&w->active_l2s, offset >> w->q->cluster_bits, 1, UINT64_MAX);
		if (!r)
			r = counts_use(&w->counts, offset >> w->q->cluster_bits, USE_L2);
		return r;
	}
	walk_note(w, RD_LOG_ERR, "L1 entry %u is %#llx: %s", i, (unsigned long long)*entry, why);
	if (fix) {
		w->result->errors++;
		lost(w, l1, i);
		return mend_l1(w, l1->offset, i, 0, entry);
	}
	if (!is_aligned(offset, w->q->cluster))
		w->result->errors++;
	return refer(w, offset, w->q->cluster, 1, USE_L2);
}

/* Entries of an L1 table, in pieces: it may be large, and there may be many of them. */
static int l1_entries(struct walk *w, const struct l1 *l1)
{
	uint64_t *piece = malloc(L1_PIECE * sizeof(uint64_t));
	int r = piece ? 0 : -ENOMEM;

	for (uint32_t done = 0; !r && done < l1->size; done += L1_PIECE) {
		uint32_t n = MIN(l1->size - done, (uint32_t)L1_PIECE);

		r = walk_read(w, piece, n * 8ull, l1->offset + done * 8ull);
		if (r) {
			unreadable(w, "L1 table", l1->offset, r);
			r = 0;
			break;
		}
		for (uint32_t i = 0; !r && i < n; i++) {
			uint64_t entry = be64toh(piece[i]);

			if (entry)
				r = l1_entry(w, l1, done + i, &entry);
			if (l1->active)
				w->l1[done + i] = entry;
		}
		if (!r && w->progress && w->progress->step &&
		    w->progress->step(w->progress->ctx, w->step, MAX(w->steps, 1)))
			r = -ECANCELED;
	}
	free(piece);
	return r;
}

/* Snapshots whose L1 table cannot be where they say are left alone, and so is everything else. */
static bool snapshot_possible(struct walk *w, const struct snapshot *s)
{
	const char *why = !is_aligned(s->l1_offset, w->q->cluster) ? "is not the start of a cluster"
			  : s->l1_size > L1_BYTES_MAX / 8          ? "is too large"
			  : !in_file(w, s->l1_offset, s->l1_size * 8ull)
				  ? "is behind the end of the file"
				  : NULL;

	if (!why)
		return true;
	w->tangled = true;
	walk_note(w, RD_LOG_ERR, "snapshot %s: its L1 table (%#llx, %u entries) %s", s->id,
		  (unsigned long long)s->l1_offset, s->l1_size, why);
	return false;
}

static int all_l1(struct walk *w, int (*what)(struct walk *w, const struct l1 *l1))
{
	const struct header *h = &w->q->h;
	struct l1 l1 = { .name = "", .offset = h->l1_offset, .size = h->l1_size, .active = true };
	int r = what(w, &l1);

	for (uint32_t i = 0; !r && i < w->snapshots.count; i++) {
		const struct snapshot *s = &w->snapshots.v[i];

		l1 = (struct l1){ .name = s->id, .offset = s->l1_offset, .size = s->l1_size };
		if (is_aligned(l1.offset, w->q->cluster) && l1.size <= L1_BYTES_MAX / 8 &&
		    in_file(w, l1.offset, l1.size * 8ull))
			r = what(w, &l1);
	}
	return r;
}

static int mark_l1(struct walk *w, const struct l1 *l1)
{
	return refer_meta(w, "L1 table", l1->offset, l1->size * 8ull);
}

/* ---- metadata that is there once ----------------------------------------------------------------------- */

static int bitmap_table(struct walk *w, uint64_t offset, uint64_t entries)
{
	uint64_t *table;
	int r = refer_meta(w, "bitmap table", offset, entries * 8);

	if (r)
		return r;
	table = malloc(entries * 8 + 1);
	if (!table)
		return -ENOMEM;
	r = walk_read(w, table, entries * 8, offset);
	if (r) {
		unreadable(w, "bitmap table", offset, r);
		entries = 0;
		r = 0;
	}
	for (uint64_t i = 0; !r && i < entries; i++) {
		uint64_t entry = be64toh(table[i]), at = entry & ENTRY_OFFSET;

		if (entry & BITMAP_RESERVED || !is_aligned(at, w->q->cluster) ||
		    (at && entry & 1)) {
			w->result->errors++;
			walk_note(w, RD_LOG_ERR, "bitmap table entry %#llx cannot be",
				  (unsigned long long)entry);
		} else if (at) {
			r = refer_meta(w, "bitmap", at, w->q->cluster);
		}
	}
	free(table);
	return r;
}

/* The directory is in memory. -EINVAL: it contradicts itself. */
static int bitmap_entries(struct walk *w, const uint8_t *dir, uint64_t len)
{
	uint64_t at = 0;
	int r = 0;

	while (!r && at < len) {
		uint64_t offset, entries, more;

		if (len - at < BITMAP_FIXED)
			return -EINVAL;
		offset = get_be64(dir + at);
		entries = get_be32(dir + at + 8);
		more = (uint64_t)get_be16(dir + at + 18) + get_be32(dir + at + 20);
		if (more > len - at - BITMAP_FIXED || entries * 8 > BITMAP_TABLE_MAX || !offset ||
		    !is_aligned(offset, w->q->cluster) || !in_file(w, offset, entries * 8))
			return -EINVAL;
		r = bitmap_table(w, offset, entries);
		at = align_up(at + BITMAP_FIXED + more, 8);
	}
	return r;
}

static int bitmaps(struct walk *w)
{
	const struct header *h = &w->q->h;
	uint8_t *dir;
	int r;

	if (!(h->autoclear & AUTOCLEAR_BITMAPS) || !h->bitmaps_size)
		return 0;
	r = refer_meta(w, "bitmap directory", h->bitmaps_offset, h->bitmaps_size);
	if (r || !in_file(w, h->bitmaps_offset, h->bitmaps_size))
		return r;
	dir = malloc(h->bitmaps_size);
	if (!dir)
		return -ENOMEM;
	r = walk_read(w, dir, h->bitmaps_size, h->bitmaps_offset);
	if (r) {
		unreadable(w, "bitmap directory", h->bitmaps_offset, r);
		r = 0;
	} else {
		r = bitmap_entries(w, dir, h->bitmaps_size);
	}
	free(dir);
	if (r != -EINVAL)
		return r;
	w->result->errors++;
	w->tangled = true;
	walk_note(w, RD_LOG_ERR,
		  "the bitmap directory contradicts itself: qemu-img bitmap --remove may help");
	return 0;
}

static int snapshots(struct walk *w)
{
	const struct header *h = &w->q->h;
	int r = snaptable_read(w->q, h, &w->snapshots, false);

	if (r && r != -EINVAL && r != -EIO)
		return r;
	if (r) {
		w->result->errors += r == -EINVAL;
		w->result->unchecked += r == -EIO;
		w->tangled = true;
		walk_note(w, RD_LOG_ERR, "the snapshot table cannot be read");
		return 0;
	}
	for (uint32_t i = 0; i < w->snapshots.count; i++) {
		if (!snapshot_possible(w, &w->snapshots.v[i]))
			w->result->errors++;
		if (h->version >= 3 && !w->snapshots.v[i].complete) {
			w->result->errors++;
			walk_note(w, RD_LOG_ERR, "snapshot %s does not say the size of its disk",
				  w->snapshots.v[i].id);
		}
	}
	return refer_meta(w, "snapshot table", h->snapshots_offset, w->snapshots.bytes);
}

/* Clusters of the refcount structure are marked now: what refers to them is suspicious. */
static int mark_refcounts(struct walk *w)
{
	const struct header *h = &w->q->h;
	uint64_t first = h->reftable_offset >> w->q->cluster_bits;
	int r = 0;

	for (uint64_t c = 0; !r && c < h->reftable_clusters && first + c < w->file_clusters; c++)
		r = counts_use(&w->counts, first + c, USE_PINNED);
	for (uint64_t i = 0; !r && i < w->reftable_entries; i++) {
		uint64_t at = block_offset(w, i);

		if (at && at < w->file_size)
			r = counts_use(&w->counts, at >> w->q->cluster_bits, USE_PINNED);
	}
	return r;
}

static int read_reftable(struct walk *w)
{
	const struct header *h = &w->q->h;
	uint64_t bytes = (uint64_t)h->reftable_clusters << w->q->cluster_bits;
	int r;

	w->reftable = malloc(bytes + 1);
	if (!w->reftable)
		return -ENOMEM;
	r = walk_read(w, w->reftable, bytes, h->reftable_offset);
	if (r) {
		unreadable(w, "refcount table", h->reftable_offset, r);
		return 0;
	}
	w->reftable_entries = bytes / 8;
	for (uint64_t i = 0; i < w->reftable_entries; i++)
		w->reftable[i] = be64toh(w->reftable[i]);
	return 0;
}

/* ---- L2 ------------------------------------------------------------------------------------------------ */

/* An L2 table as it is walked. */
struct l2 {
	uint64_t at;     /* in the file */
	uint64_t times;  /* references to it */
	uint64_t active; /* of these, from the active L1 */
	uint64_t guest;  /* where in the disk it begins; active only */
	uint64_t next;   /* where the next cluster would have to be, to follow the one before */
};

static void note_entry(struct walk *w, const struct l2 *l2, uint32_t i, uint64_t entry,
		       const char *what)
{
	if (l2->active)
		walk_note(w, RD_LOG_ERR, "the disk at byte %llu: entry %#llx %s",
			  (unsigned long long)(l2->guest + (uint64_t)i * w->q->cluster),
			  (unsigned long long)entry, what);
	else
		walk_note(w, RD_LOG_ERR, "a snapshot's L2 table at %#llx: entry %u, %#llx, %s",
			  (unsigned long long)l2->at, i, (unsigned long long)entry, what);
}

/* What the format forbids but leaves the data where it is: bits, as they should be. Counts them. */
static void tidy_bits(struct walk *w, const struct l2 *l2, uint32_t i, uint64_t *entry,
		      uint64_t *bitmap)
{
	uint64_t e = *entry, both = *bitmap >> 32 & *bitmap & L2_ALL_ALLOC;
	struct rd_check *res = w->result;

	if (e & ENTRY_COMPRESSED && e & ENTRY_COPIED) {
		res->errors += l2->times;
		note_entry(w, l2, i, e, "is compressed and has the COPIED flag");
		*entry &= ~ENTRY_COPIED;
	}
	if (e & ENTRY_COMPRESSED && *bitmap) {
		res->errors += l2->times;
		note_entry(w, l2, i, e, "is compressed and has subclusters");
		*bitmap = 0;
	}
	if (e & ENTRY_COMPRESSED)
		return;
	if (e & L2_RESERVED) {
		res->errors += l2->times;
		note_entry(w, l2, i, e, "has reserved bits set");
		*entry &= ~L2_RESERVED;
	}
	if (e & ENTRY_ZERO && (w->q->h.version < 3 || w->q->extended_l2)) {
		res->errors += l2->times;
		note_entry(w, l2, i, e, "has a zero flag, which this image cannot have");
		*entry &= ~ENTRY_ZERO;
	}
	if (!(e & ENTRY_OFFSET) && *bitmap & L2_ALL_ALLOC) {
		res->errors += l2->times;
		note_entry(w, l2, i, e, "has subclusters without a cluster");
		*bitmap &= ~L2_ALL_ALLOC;
	} else if (both) {
		res->errors += l2->times;
		note_entry(w, l2, i, e,
			   "has subclusters that are both data and zero; zero is taken");
		*bitmap &= ~both;
	}
}

/* Why there can be no data where the entry says, or NULL. */
static const char *data_impossible(struct walk *w, uint64_t entry, bool *counted)
{
	unsigned bits = w->q->cluster_bits;
	uint64_t first, n = entry_clusters(w->q, entry, &first);
	uint64_t offset = entry & ENTRY_COMPRESSED ? first << bits : entry & ENTRY_OFFSET;

	*counted = true;
	if (!is_aligned(offset, w->q->cluster))
		return "is not the start of a cluster";
	if (!in_file(w, first << bits, n << bits) &&
	    !(entry & ENTRY_COMPRESSED && first < w->file_clusters))
		return "is behind the end of the file";
	*counted = false; /* the refcounts tell */
	if (meets(w, first << bits, n << bits, USE_META) ||
	    meets(w, first << bits, n << bits, USE_L2))
		return "is metadata";
	return NULL;
}

static void count_data(struct walk *w, struct l2 *l2, uint64_t entry)
{
	struct rd_check *res = w->result;
	uint64_t offset = entry & ENTRY_OFFSET;

	if (!l2->active)
		return;
	res->allocated += l2->active;
	if (entry & ENTRY_COMPRESSED) {
		res->compressed += l2->active;
		res->fragmented += l2->active;
		return;
	}
	if (l2->next && offset != l2->next)
		res->fragmented += l2->active;
	l2->next = offset + w->q->cluster;
}

static int refer_data(struct walk *w, const struct l2 *l2, uint64_t entry)
{
	unsigned csize_bits = w->q->cluster_bits - 8;
	uint64_t offset = entry & ENTRY_OFFSET, length = w->q->cluster;

	if (entry & ENTRY_COMPRESSED) {
		offset = entry & ((1ull << (62 - csize_bits)) - 1);
		length = (entry >> (62 - csize_bits) & ((1ull << csize_bits) - 1)) * 512 + 512 -
			 (offset & 511);
	}
	return refer(w, offset, length, l2->times, USE_DATA);
}

/* What an impossible entry becomes: zeroes, which show nothing of the backing file, where the version has them. */
static void clear_entry(const struct walk *w, uint64_t *entry, uint64_t *bitmap)
{
	*entry = w->q->extended_l2 || w->q->h.version < 3 ? 0 : ENTRY_ZERO;
	*bitmap = w->q->extended_l2 ? ~L2_ALL_ALLOC : 0;
}

static int mend_l2(struct walk *w, const struct l2 *l2, uint32_t i, uint64_t entry, uint64_t bitmap)
{
	uint8_t bytes[16];

	put_be64(bytes, entry);
	put_be64(bytes + 8, bitmap);
	return walk_write(w, bytes, w->q->entry_size, l2->at + (uint64_t)i * w->q->entry_size);
}

/* Compressed data that begins in the file and claims to go on behind its end: it says too much, and may be there. */
static void clip_compressed(struct walk *w, const struct l2 *l2, uint32_t i, uint64_t *entry)
{
	unsigned csize_bits = w->q->cluster_bits - 8, shift = 62 - csize_bits;
	uint64_t first, n = entry_clusters(w->q, *entry, &first), at, sectors;

	if (!(*entry & ENTRY_COMPRESSED) || first >= w->file_clusters ||
	    in_file(w, first << w->q->cluster_bits, n << w->q->cluster_bits))
		return;
	at = align_down(*entry & ((1ull << shift) - 1), 512);
	sectors = ((w->file_clusters << w->q->cluster_bits) - at) / 512;
	w->result->errors += l2->times;
	note_entry(w, l2, i, *entry, "is longer than the file");
	*entry = (*entry & ~(((1ull << csize_bits) - 1) << shift)) | (sectors - 1) << shift;
}

/* One entry; w->l2 has it. */
static int l2_entry(struct walk *w, struct l2 *l2, uint32_t i)
{
	const struct qcow2 *q = w->q;
	const uint8_t *at = w->l2 + (size_t)i * q->entry_size;
	uint64_t entry = get_be64(at), bitmap = q->extended_l2 ? get_be64(at + 8) : 0;
	uint64_t was = entry, was_bitmap = bitmap, errors = w->result->errors;
	bool fix = w->fix && !w->tangled, counted;
	const char *why = NULL;
	int r = 0;

	tidy_bits(w, l2, i, &entry, &bitmap);
	if (fix)
		clip_compressed(w, l2, i, &entry);
	if (entry & ENTRY_COMPRESSED || entry & ENTRY_OFFSET)
		why = data_impossible(w, entry, &counted);
	if (why)
		note_entry(w, l2, i, was, why);
	if (why && (fix || (counted && !is_aligned(entry & ENTRY_OFFSET, q->cluster) &&
			    !(entry & ENTRY_COMPRESSED))))
		w->result->errors += l2->times;
	if (why && fix) {
		clear_entry(w, &entry, &bitmap);
		if (l2->active)
			walk_note(w, RD_LOG_WARN, "lost: the disk from byte %llu, %u bytes",
				  (unsigned long long)(l2->guest + (uint64_t)i * q->cluster),
				  q->cluster);
	}
	if (fix && (entry != was || bitmap != was_bitmap)) {
		r = mend_l2(w, l2, i, entry, bitmap);
		if (!r)
			w->result->errors_fixed += w->result->errors - errors;
	}
	if (r || !(entry & ENTRY_COMPRESSED || entry & ENTRY_OFFSET))
		return r;
	count_data(w, l2, entry);
	r = refer_data(w, l2, entry);
	if (!r && l2->active && !(entry & ENTRY_COMPRESSED))
		check_copied(w, entry & ENTRY_OFFSET, entry, l2->active, "L2 entry");
	return r;
}

static int l2_table(struct walk *w, struct l2 *l2)
{
	const struct qcow2 *q = w->q;
	int r = walk_read(w, w->l2, q->cluster, l2->at);

	if (r) {
		unreadable(w, "L2 table", l2->at, r);
		r = 0;
		memset(w->l2, 0, q->cluster);
	}
	for (uint32_t i = 0; !r && i < q->cluster / q->entry_size; i++)
		if (get_be64(w->l2 + (size_t)i * q->entry_size) ||
		    (q->extended_l2 && get_be64(w->l2 + (size_t)i * q->entry_size + 8)))
			r = l2_entry(w, l2, i);
	return r ? r : walk_step(w);
}

/* The table in this cluster, if it was not walked already. */
static int l2_once(struct walk *w, uint64_t cluster, uint64_t guest)
{
	struct l2 l2 = { .at = cluster << w->q->cluster_bits, .guest = guest };
	int r;

	if (counts_used_as(&w->l2s, cluster, USE_PINNED))
		return 0;
	l2.times = counts_get(&w->l2s, cluster);
	l2.active = counts_get(&w->active_l2s, cluster);
	r = counts_use(&w->l2s, cluster, USE_PINNED);
	if (!r)
		r = refer(w, l2.at, w->q->cluster, l2.times, USE_L2);
	return r ? r : l2_table(w, &l2);
}

static int active_l2(struct walk *w)
{
	const struct header *h = &w->q->h;
	int r = 0;

	for (uint32_t i = 0; !r && i < h->l1_size; i++) {
		uint64_t offset = w->l1[i] & ENTRY_OFFSET, cluster = offset >> w->q->cluster_bits;

		if (!offset)
			continue;
		check_copied(w, offset, w->l1[i], 1, "L1 entry");
		if (is_aligned(offset, w->q->cluster) && counts_get(&w->l2s, cluster))
			r = l2_once(w, cluster, i * l2_span(w));
	}
	return r;
}

static int other_l2(struct walk *w)
{
	struct group **all = counts_sorted(&w->l2s);
	size_t n = w->l2s.nr_groups;
	int r = all ? 0 : -ENOMEM;

	for (size_t g = 0; !r && g < n; g++)
		for (unsigned i = 0; !r && i < GROUP_CLUSTERS; i++)
			if (group_get(all[g], i))
				r = l2_once(w, all[g]->key * GROUP_CLUSTERS + i, 0);
	free(all);
	return r;
}

static uint64_t count_l2(const struct walk *w)
{
	uint64_t sum = 0;

	for (size_t n = 0; n < w->l2s.nr_groups; n++)
		for (unsigned i = 0; i < GROUP_CLUSTERS; i++)
			sum += group_get(counts_nth(&w->l2s, n), i) != 0;
	return sum;
}

/* ---- public -------------------------------------------------------------------------------------------- */

/* All that is in memory is in the file, nothing is reserved ahead, and what was freed has been. */
static int settle(struct qcow2 *q)
{
	int r = q->alloc ? alloc_finish(q) : 0;

	for (int i = 0; !r && i < SETTLE_ROUNDS; i++) {
		r = meta_checkpoint(q->meta);
		if (meta_clean(q->meta))
			break;
	}
	return r;
}

int walk_begin(struct walk *w, struct qcow2 *q, const struct rd_progress *progress,
	       struct rd_check *result)
{
	struct rd_info info = { .struct_size = sizeof(info) };
	int r;

	*w = (struct walk){ .q = q, .progress = progress, .result = result };
	counts_init(&w->counts);
	counts_init(&w->l2s);
	counts_init(&w->active_l2s);
	r = q->writable && q->meta ? settle(q) : 0;
	if (!r)
		r = q->host->file_info(q->file, &info);
	if (r)
		return r;
	w->file_size = info.size;
	w->file_clusters = (info.size >> q->cluster_bits) + !is_aligned(info.size, q->cluster);
	w->max = refcount_max(q->h.refcount_order);
	result->clusters = (q->h.size >> q->cluster_bits) + !is_aligned(q->h.size, q->cluster);
	w->l2 = malloc(q->cluster);
	w->block = malloc(q->cluster);
	w->l1 = calloc(q->h.l1_size + 1ull, sizeof(uint64_t));
	return w->l2 && w->block && w->l1 ? 0 : -ENOMEM;
}

void walk_end(struct walk *w)
{
	counts_free(&w->counts);
	counts_free(&w->l2s);
	counts_free(&w->active_l2s);
	snaptable_free(&w->snapshots);
	free(w->l1);
	free(w->l2);
	free(w->block);
	free(w->reftable);
}

int walk_tables(struct walk *w)
{
	int r = refer_meta(w, "header", 0, w->q->cluster);

	if (!r)
		r = read_reftable(w);
	if (!r)
		r = snapshots(w);
	if (!r)
		r = all_l1(w, mark_l1);
	if (!r)
		r = bitmaps(w);
	if (!r)
		r = mark_refcounts(w);
	if (!r)
		r = all_l1(w, l1_entries);
	w->steps = count_l2(w) + w->reftable_entries / 1024 + 1;
	if (!r)
		r = active_l2(w);
	return r ? r : other_l2(w);
}

static int refer_block(struct walk *w, uint64_t i)
{
	uint64_t entry = w->reftable[i], at = entry & ~REFTABLE_RESERVED;
	const char *why = NULL;
	int r;

	if (entry & REFTABLE_RESERVED)
		why = "has reserved bits set";
	else if (!is_aligned(at, w->q->cluster))
		why = "is not the start of a cluster";
	else if (at >> w->q->cluster_bits >= w->file_clusters)
		why = "is behind the end of the file";
	if (!why) {
		r = refer(w, at, w->q->cluster, 1, USE_PINNED);
		if (r || counts_get(&w->counts, at >> w->q->cluster_bits) == 1)
			return r;
		why = "is something else, too";
	}
	w->result->errors++;
	w->rebuild = true;
	walk_note(w, RD_LOG_ERR, "refcount block %llu: %#llx %s", (unsigned long long)i,
		  (unsigned long long)entry, why);
	return 0;
}

int walk_refcounts(struct walk *w)
{
	const struct header *h = &w->q->h;
	int r = refer(w, h->reftable_offset, (uint64_t)h->reftable_clusters << w->q->cluster_bits,
		      1, USE_PINNED);

	for (uint64_t i = 0; !r && i < w->reftable_entries; i++)
		if (w->reftable[i])
			r = refer_block(w, i);
	return r;
}

/* ---- comparing ----------------------------------------------------------------------------------------- */

static void compare_cluster(struct walk *w, uint64_t cluster, uint64_t refs, const struct group *g)
{
	unsigned i = cluster % GROUP_CLUSTERS;
	uint64_t disk;
	bool overlap;

	if (disk_refcount(w, cluster, &disk)) {
		w->result->unchecked++;
		w->rebuild = true;
		if (refs)
			w->result->image_end = (cluster + 1) << w->q->cluster_bits;
		return;
	}
	if (disk || refs)
		w->result->image_end = (cluster + 1) << w->q->cluster_bits;
	overlap = g && ((g->use[USE_META] & (g->use[USE_L2] | g->use[USE_DATA])) |
			(g->use[USE_L2] & g->use[USE_DATA])) >>
				       i &
			       1;
	if (disk == refs && !overlap)
		return;
	if (disk > refs)
		w->result->leaks++;
	else
		w->result->errors++;
	if (!disk && refs)
		w->rebuild = true;
	if (disk == refs)
		walk_note(w, RD_LOG_ERR, "cluster %llu is used for metadata and for data",
			  (unsigned long long)cluster);
	else
		walk_note(w, disk > refs ? RD_LOG_WARN : RD_LOG_ERR,
			  "%s cluster %llu: refcount %llu, references %llu",
			  disk > refs ? "leaked" : "wrong", (unsigned long long)cluster,
			  (unsigned long long)disk, (unsigned long long)refs);
}

static int compare_group(struct walk *w, uint64_t key, const struct group *g)
{
	for (unsigned i = 0; i < GROUP_CLUSTERS; i++) {
		uint64_t cluster = key * GROUP_CLUSTERS + i;

		if (cluster < w->file_clusters)
			compare_cluster(w, cluster, g ? group_get(g, i) : 0, g);
	}
	return 0;
}

/* Clusters of which nothing was said by any table, if the block of refcounts says something: leaks. */
static void compare_silent(struct walk *w, uint64_t from_key, uint64_t to_key)
{
	uint64_t per_block = (uint64_t)w->q->cluster * 8 >> w->q->h.refcount_order;
	uint64_t groups = per_block / GROUP_CLUSTERS; /* of a block: at least one */
	uint64_t bytes = GROUP_CLUSTERS / 8 << w->q->h.refcount_order;

	to_key = MIN(to_key, (w->file_clusters + GROUP_CLUSTERS - 1) / GROUP_CLUSTERS);
	for (uint64_t key = from_key; key < to_key; key++) {
		uint64_t block = key / groups, refcount;
		const uint8_t *at;

		if (block >= w->reftable_entries)
			return;
		if (!w->reftable[block]) {
			key = (block + 1) * groups - 1;
			continue;
		}
		if (disk_refcount(w, key * GROUP_CLUSTERS, &refcount)) {
			compare_group(w, key, NULL);
			continue;
		}
		at = w->block + key % groups * bytes;
		if (at[0] || memcmp(at, at + 1, bytes - 1) != 0)
			compare_group(w, key, NULL);
	}
}

int walk_compare(struct walk *w)
{
	struct group **all = counts_sorted(&w->counts);
	uint64_t key = 0;
	int r = all ? 0 : -ENOMEM;

	for (size_t g = 0; !r && g < w->counts.nr_groups; g++) {
		compare_silent(w, key, all[g]->key);
		r = compare_group(w, all[g]->key, all[g]);
		key = all[g]->key + 1;
		if (!r && g % 1024 == 0)
			r = walk_step(w);
	}
	if (!r)
		compare_silent(w, key, UINT64_MAX);
	free(all);
	return r;
}
