/*
 * qcow2/tables.c - from an offset of the disk to its entry, and what of the file is metadata
 *
 * Two levels: L1, in memory whole, names L2 tables; an L2 table has an entry for each cluster that it maps.
 * Entries come from the cache of common/meta.h and are decoded one by one with all their rules (spec "Cluster
 * mapping", "Extended L2 entries") in entry_decode(); nobody else interprets an entry.
 *
 * metadata_* knows which clusters of the file hold metadata, so that data is never written there, whatever an
 * entry says: tables of more than a cluster as a short sorted list of ranges, single clusters (L2 tables, refcount
 * blocks) in a hash with a count for each. Like QEMU's overlap checks it leaves out the L2 tables of internal
 * snapshots, which a writer never finds by an entry that it may change in place.
 *
 * What can go wrong: tables that contradict themselves or each other. What is found at open makes an image
 * read-only (q->corrupt); what is met later is EIO for its range.
 *
 * Threads: any, under the metadata's lock where qcow2.h says so.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "qcow2.h"

/* ---- entries ------------------------------------------------------------------------------------------- */

static uint64_t l1_entry(const struct qcow2 *q, uint64_t guest)
{
	uint64_t index = guest >> (q->cluster_bits + q->l2_bits);

	return index < q->h.l1_size ? q->l1[index] : 0;
}

uint64_t l2_table_of(const struct qcow2 *q, uint64_t guest)
{
	uint64_t entry = l1_entry(q, guest);

	return entry & L1_BAD ? 0 : entry & ENTRY_OFFSET;
}

bool l1_bad(const struct qcow2 *q, uint64_t guest)
{
	return l1_entry(q, guest) & L1_BAD;
}

uint64_t l2_entry_at(const struct qcow2 *q, uint64_t l2, uint64_t guest)
{
	return l2 + (guest >> q->cluster_bits & (q->l2_entries - 1)) * q->entry_size;
}

static void decode_compressed(const struct qcow2 *q, uint64_t entry, struct cluster *c)
{
	unsigned offset_bits = 62 - (q->cluster_bits - 8);
	uint64_t sectors = (entry & (ENTRY_COMPRESSED - 1)) >> offset_bits;

	c->kind = CLUSTER_COMPRESSED;
	c->host = entry & ((1ull << offset_bits) - 1);
	c->csize = (uint32_t)((sectors + 1) * 512 - (c->host & 511));
	if (c->host > HOST_OFFSET_MAX)
		c->kind = CLUSTER_INVALID;
}

/* As QEMU does it: one subcluster that is allocated and zero makes the whole entry invalid. */
static void decode_extended(const struct qcow2 *q, unsigned index, struct cluster *c)
{
	uint32_t allocated = (uint32_t)c->bitmap, zero = (uint32_t)(c->bitmap >> 32),
		 bit = 1u << index;
	uint64_t start = c->host;

	c->host = start ? start + (uint64_t)index * q->subcluster : 0;
	if (allocated & zero || (allocated && !start))
		c->kind = CLUSTER_INVALID;
	else if (zero & bit)
		c->kind = CLUSTER_ZERO;
	else if (allocated & bit)
		c->kind = CLUSTER_DATA;
	else
		c->kind = CLUSTER_NONE;
}

void entry_decode(const struct qcow2 *q, uint64_t entry, uint64_t bitmap, unsigned index,
		  struct cluster *c)
{
	*c = (struct cluster){
		.entry = entry,
		.bitmap = bitmap,
		.copied = entry & ENTRY_COPIED,
		.host = entry & ENTRY_OFFSET,
	};
	if (entry & ENTRY_COMPRESSED)
		decode_compressed(q, entry, c);
	else if (!is_aligned(c->host, q->cluster))
		c->kind = CLUSTER_INVALID;
	else if (q->extended_l2)
		decode_extended(q, index, c);
	else if (entry & ENTRY_ZERO)
		c->kind = q->h.version < 3 ? CLUSTER_INVALID : CLUSTER_ZERO;
	else
		c->kind = c->host ? CLUSTER_DATA : CLUSTER_NONE;
}

int cluster_get(struct qcow2 *q, uint64_t guest, struct cluster *c)
{
	uint64_t l2 = l2_table_of(q, guest);
	unsigned index = (unsigned)((guest & (q->cluster - 1)) / q->subcluster);
	const uint8_t *p;

	if (l1_bad(q, guest))
		return -EIO;
	if (!l2) {
		*c = (struct cluster){ .kind = CLUSTER_NONE };
		return 0;
	}
	p = meta_peek(q->meta, l2_entry_at(q, l2, guest));
	if (!p)
		return -EAGAIN;
	entry_decode(q, get_be64(p), q->extended_l2 ? get_be64(p + 8) : 0, index, c);
	return 0;
}

/* Read lock, which it lets go of. */
static int load_locked(struct qcow2 *q, uint64_t guest, struct meta_slice **slice,
		       int (*pin)(struct meta *, uint64_t, struct meta_slice **))
{
	uint64_t l2 = l2_table_of(q, guest), token;
	bool bad = l1_bad(q, guest);
	int r = 0;

	*slice = NULL;
	/* a table that is replaced now must not become something else before its slice is read */
	token = meta_enter(q->meta);
	meta_rdunlock(q->meta);
	if (bad)
		r = -EIO;
	else if (l2)
		r = pin(q->meta, l2_entry_at(q, l2, guest), slice);
	meta_exit(q->meta, token);
	return r;
}

int q_load(struct qcow2 *q, uint64_t guest, struct meta_slice **slice)
{
	meta_rdlock(q->meta);
	return load_locked(q, guest, slice, meta_pin);
}

int q_load_now(struct qcow2 *q, uint64_t guest, struct meta_slice **slice)
{
	*slice = NULL;
	return meta_tryrdlock(q->meta) ? load_locked(q, guest, slice, meta_pin_now) : -EAGAIN;
}

/* ---- what is metadata ---------------------------------------------------------------------------------- */

struct range {
	uint64_t start, end; /* bytes, whole clusters */
};

/* A slot of the hash: number of the cluster plus one in the low 48 bits (0: free), how often above. */
#define KEY_BITS  48
#define KEY_MASK  ((1ull << KEY_BITS) - 1)
#define COUNT_ONE (1ull << KEY_BITS)
#define COUNT_MAX 0xffffull

struct meta_set {
	struct range *ranges; /* sorted, do not meet or touch */
	size_t nranges, ranges_room;
	uint64_t *slots;
	size_t nslots, used; /* nslots: power of two */
};

static size_t slot_of(const struct meta_set *set, uint64_t key)
{
	size_t i = (size_t)((key * 0x9e3779b97f4a7c15ull) >> 32) & (set->nslots - 1);

	while (set->slots[i] && (set->slots[i] & KEY_MASK) != key)
		i = (i + 1) & (set->nslots - 1);
	return i;
}

static int hash_grow(struct meta_set *set)
{
	struct meta_set larger = { .nslots = set->nslots ? 2 * set->nslots : 256 };

	larger.slots = calloc(larger.nslots, sizeof(*larger.slots));
	if (!larger.slots)
		return -ENOMEM;
	for (size_t i = 0; i < set->nslots; i++)
		if (set->slots[i])
			larger.slots[slot_of(&larger, set->slots[i] & KEY_MASK)] = set->slots[i];
	free(set->slots);
	set->slots = larger.slots;
	set->nslots = larger.nslots;
	return 0;
}

static int hash_add(struct meta_set *set, uint64_t cluster)
{
	uint64_t key = cluster + 1;
	size_t i;

	if (set->used >= set->nslots / 2) {
		int r = hash_grow(set);

		if (r)
			return r;
	}
	i = slot_of(set, key);
	if (!set->slots[i]) {
		set->slots[i] = key | COUNT_ONE;
		set->used++;
	} else if (set->slots[i] >> KEY_BITS < COUNT_MAX) {
		set->slots[i] += COUNT_ONE;
	}
	return 0;
}

/* Later ones of the same chain move up, so that none is behind a gap. */
static void hash_close_gap(struct meta_set *set, size_t gap)
{
	for (size_t i = (gap + 1) & (set->nslots - 1); set->slots[i];
	     i = (i + 1) & (set->nslots - 1)) {
		uint64_t slot = set->slots[i];
		size_t place;

		set->slots[i] = 0;
		place = slot_of(set, slot & KEY_MASK);
		set->slots[place] = slot;
	}
}

static void hash_remove(struct meta_set *set, uint64_t cluster)
{
	size_t i;

	if (!set->nslots)
		return;
	i = slot_of(set, cluster + 1);
	if (!set->slots[i] || set->slots[i] >> KEY_BITS == COUNT_MAX)
		return; /* too often to know how often */
	set->slots[i] -= COUNT_ONE;
	if (set->slots[i] >> KEY_BITS)
		return;
	set->slots[i] = 0;
	set->used--;
	hash_close_gap(set, i);
}

static bool hash_has(const struct meta_set *set, uint64_t cluster)
{
	return set->nslots && set->slots[slot_of(set, cluster + 1)];
}

/* The first range that ends behind an offset. */
static size_t range_after(const struct meta_set *set, uint64_t offset)
{
	size_t low = 0, high = set->nranges;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (set->ranges[middle].end > offset)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static bool ranges_meet_set(const struct meta_set *set, uint64_t start, uint64_t end)
{
	size_t i = range_after(set, start);

	return i < set->nranges && set->ranges[i].start < end;
}

/* Ranges first to last (exclusive) are replaced by n others. */
static int ranges_replace(struct meta_set *set, size_t first, size_t last, const struct range *with,
			  size_t n)
{
	size_t count = set->nranges - (last - first) + n;

	if (count > set->ranges_room) {
		size_t room = 2 * count;
		struct range *ranges = realloc(set->ranges, room * sizeof(*ranges));

		if (!ranges)
			return -ENOMEM;
		set->ranges = ranges;
		set->ranges_room = room;
	}
	if (set->nranges > last)
		memmove(set->ranges + first + n, set->ranges + last,
			(set->nranges - last) * sizeof(*set->ranges));
	if (n)
		memcpy(set->ranges + first, with, n * sizeof(*with));
	set->nranges = count;
	return 0;
}

static int ranges_add(struct meta_set *set, uint64_t start, uint64_t end)
{
	size_t first = range_after(set, start ? start - 1 : 0), last = first;
	struct range whole = { start, end };

	for (; last < set->nranges && set->ranges[last].start <= end; last++) {
		whole.start = MIN(whole.start, set->ranges[last].start);
		whole.end = MAX(whole.end, set->ranges[last].end);
	}
	return ranges_replace(set, first, last, &whole, 1);
}

/* When there is no memory for a second half the range stays: too much is protected, not too little. */
static void ranges_remove(struct meta_set *set, uint64_t start, uint64_t end)
{
	size_t first = range_after(set, start), last = first, n = 0;
	struct range left[2];

	for (; last < set->nranges && set->ranges[last].start < end; last++)
		;
	if (first == last)
		return;
	if (set->ranges[first].start < start)
		left[n++] = (struct range){ set->ranges[first].start, start };
	if (set->ranges[last - 1].end > end)
		left[n++] = (struct range){ end, set->ranges[last - 1].end };
	ranges_replace(set, first, last, left, n);
}

int metadata_add(struct qcow2 *q, uint64_t offset, uint64_t length)
{
	uint64_t start = align_down(offset, q->cluster),
		 end = align_up(offset + length, q->cluster);

	if (!length)
		return 0;
	if (end - start == q->cluster)
		return hash_add(q->metadata, start >> q->cluster_bits);
	return ranges_add(q->metadata, start, end);
}

void metadata_remove(struct qcow2 *q, uint64_t offset, uint64_t length)
{
	uint64_t start = align_down(offset, q->cluster),
		 end = align_up(offset + length, q->cluster);

	if (!length)
		return;
	if (end - start == q->cluster && hash_has(q->metadata, start >> q->cluster_bits))
		hash_remove(q->metadata, start >> q->cluster_bits);
	else
		ranges_remove(q->metadata, start, end);
}

bool metadata_meets(const struct qcow2 *q, uint64_t offset, uint64_t length)
{
	uint64_t first = offset >> q->cluster_bits, last = (offset + length - 1) >> q->cluster_bits;

	if (!length)
		return false;
	if (ranges_meet_set(q->metadata, offset, offset + length))
		return true;
	for (uint64_t cluster = first; cluster <= last; cluster++)
		if (hash_has(q->metadata, cluster))
			return true;
	return false;
}

/* ---- found at open ------------------------------------------------------------------------------------- */

/* The image contradicts itself: it is read-only from now on. At open, so that no lock is needed. */
__attribute__((format(printf, 2, 3))) static void contradiction(struct qcow2 *q, const char *fmt,
								...)
{
	char text[256];
	va_list ap;

	if (q->corrupt)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	q->corrupt = true;
	q->host->log(
		q->host, q->writable ? RD_LOG_ERR : RD_LOG_WARN, "%s: corrupt: %s%s", q->path, text,
		q->writable ? "; nothing is written to it: repair it with ringdisk-img check" : "");
}

static int read_whole(struct qcow2 *q, void *buf, size_t len, uint64_t offset)
{
	const struct iovec iov = { .iov_base = buf, .iov_len = len };

	return q->host->file_readv(q->file, &iov, 1, offset);
}

static int add_table(struct qcow2 *q, const char *name, uint64_t offset, uint64_t bytes)
{
	if (metadata_meets(q, offset, bytes))
		contradiction(q, "the %s at %#llx overlaps other metadata", name,
			      (unsigned long long)offset);
	return metadata_add(q, offset, bytes);
}

static bool cluster_possible(const struct qcow2 *q, uint64_t offset)
{
	return is_aligned(offset, q->cluster) && offset < atomic_load(&q->file_end);
}

/* What the refcount table names. */
static int add_refblocks(struct qcow2 *q)
{
	uint64_t bytes = (uint64_t)q->h.reftable_clusters << q->cluster_bits, step;
	size_t room = (size_t)MIN(bytes, 1u << 20);
	uint8_t *buf = malloc(room);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t at = 0; !r && at < bytes; at += step) {
		step = MIN(bytes - at, room);
		r = read_whole(q, buf, (size_t)step, q->h.reftable_offset + at);
		for (uint64_t i = 0; !r && i < step; i += 8) {
			uint64_t entry = get_be64(buf + i), offset = entry & ENTRY_OFFSET;

			if (!offset)
				continue;
			if (cluster_possible(q, offset))
				r = add_table(q, "refcount block", offset, q->cluster);
			else
				contradiction(q, "refcount table entry %llu is %#llx: impossible",
					      (unsigned long long)(at + i) / 8,
					      (unsigned long long)entry);
		}
	}
	free(buf);
	return r;
}

/* Add those L2 tables that are, or are not, said to be the disk's alone. */
static int add_l2_tables_of(struct qcow2 *q, uint64_t copied)
{
	int r = 0;

	for (uint32_t i = 0; !r && i < q->h.l1_size; i++)
		if (q->l1[i] & ENTRY_OFFSET && !(q->l1[i] & L1_BAD) && (q->l1[i] & ENTRY_COPIED) == copied) {
			if (copied && metadata_meets(q, q->l1[i] & ENTRY_OFFSET, q->cluster))
				contradiction(q, "L1 entry %u is %#llx: another one names that table, too", i,
					      (unsigned long long)q->l1[i]);
			r = metadata_add(q, q->l1[i] & ENTRY_OFFSET, q->cluster);
		}
	return r;
}

/* Impossible entries of L1 get their mark. Tables named twice are the business of refcounts, unless one of the entries
 * says that it is alone. */
static int add_l2_tables(struct qcow2 *q)
{
	int r;

	/* Two steps, so that L2 tables are compared with everything but each other. */
	for (uint32_t i = 0; i < q->h.l1_size; i++) {
		uint64_t l2 = q->l1[i] & ENTRY_OFFSET;

		if (!l2 || (cluster_possible(q, l2) && !metadata_meets(q, l2, q->cluster)))
			continue;
		contradiction(q, "L1 entry %u is %#llx: %s", i, (unsigned long long)q->l1[i],
			      cluster_possible(q, l2) ? "that is no L2 table" : "impossible");
		q->l1[i] |= L1_BAD;
	}
	r = add_l2_tables_of(q, 0);
	return r ? r : add_l2_tables_of(q, ENTRY_COPIED);
}

/* One entry of the snapshot table: its length and L1 table. */
struct snapshot_entry {
	uint64_t l1_offset, length;
	uint32_t l1_size;
};

static bool snapshot_parse(const uint8_t *b, struct snapshot_entry *s)
{
	uint32_t extra = get_be32(b + 36);

	s->l1_offset = get_be64(b);
	s->l1_size = get_be32(b + 8);
	s->length = align_up(40ull + extra + get_be16(b + 12) + get_be16(b + 14), 8);
	return extra <= SNAPSHOT_EXTRA_MAX && s->l1_size <= L1_BYTES_MAX / 8;
}

/* The snapshot table and the L1 tables that it names. */
static int add_snapshots(struct qcow2 *q)
{
	uint64_t at = q->h.snapshots_offset;
	struct snapshot_entry s;
	uint8_t head[40];
	int r = 0;

	for (uint32_t i = 0; !r && i < q->h.nb_snapshots; i++, at += s.length) {
		r = read_whole(q, head, sizeof(head), at);
		if (r)
			return r;
		if (!snapshot_parse(head, &s) ||
		    at + s.length - q->h.snapshots_offset > SNAPSHOT_TABLE_MAX ||
		    !range_inside(at, s.length, atomic_load(&q->file_end))) {
			contradiction(q, "snapshot %u: its entry is impossible", i);
			break;
		}
		if (!s.l1_size)
			continue;
		if (!cluster_possible(q, s.l1_offset) ||
		    !range_inside(s.l1_offset, s.l1_size * 8ull, atomic_load(&q->file_end)))
			contradiction(q, "snapshot %u: its L1 table at %#llx is impossible", i,
				      (unsigned long long)s.l1_offset);
		else
			r = add_table(q, "L1 table of a snapshot", s.l1_offset, s.l1_size * 8ull);
	}
	if (r || !q->h.nb_snapshots)
		return r;
	return add_table(q, "snapshot table", q->h.snapshots_offset,
			 MAX(at - q->h.snapshots_offset, 1u));
}

int metadata_init(struct qcow2 *q)
{
	int r;

	q->metadata = calloc(1, sizeof(*q->metadata));
	if (!q->metadata)
		return -ENOMEM;
	r = metadata_add(q, 0, q->cluster);
	if (!r)
		r = add_table(q, "L1 table", q->h.l1_offset, q->h.l1_size * 8ull);
	if (!r)
		r = add_table(q, "refcount table", q->h.reftable_offset,
			      (uint64_t)q->h.reftable_clusters << q->cluster_bits);
	if (!r)
		r = add_refblocks(q);
	if (!r)
		r = add_snapshots(q);
	return r ? r : add_l2_tables(q);
}

void metadata_discard(struct meta_set *m)
{
	if (!m)
		return;
	free(m->ranges);
	free(m->slots);
	free(m);
}

void metadata_free(struct qcow2 *q)
{
	metadata_discard(q->metadata);
	q->metadata = NULL;
}

int q_corrupt(struct qcow2 *q, const char *fmt, ...)
{
	uint8_t bits[8];
	const struct iovec iov = { .iov_base = bits, .iov_len = sizeof(bits) };
	char text[256];
	bool known;
	va_list ap;
	int r;

	meta_rdlock(q->meta);
	known = q->corrupt;
	meta_rdunlock(q->meta);
	if (known)
		return -EIO;
	meta_wrlock(q->meta);
	known = q->corrupt;
	q->corrupt = true;
	meta_end(q->meta);
	if (known)
		return -EIO;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	q->host->log(q->host, RD_LOG_ERR, "%s: corrupt: %s; from now on nothing is written to it",
		     q->path, text);
	if (!q->writable || q->h.version < 3)
		return -EIO;
	/* One sector, and no other bit of it: what else is in the header stays. */
	pthread_mutex_lock(&q->header_lock);
	q->h.incompatible |= INCOMPAT_CORRUPT;
	put_be64(bits, q->h.incompatible);
	r = q->host->file_writev(q->file, &iov, 1, HDR_INCOMPATIBLE);
	pthread_mutex_unlock(&q->header_lock);
	if (r)
		q->host->log(q->host, RD_LOG_ERR, "%s: could not set the corrupt bit", q->path);
	return -EIO;
}
