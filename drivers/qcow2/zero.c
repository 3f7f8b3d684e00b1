/*
 * qcow2/zero.c - discard(), write_zeroes(), detect-zeroes
 *
 * A range becomes zero by changing L2 entries, one slice of an L2 table at a time: with a claim on that part of the
 * disk look what would change (scan), get an own L2 table if the entries are in none or in one that a snapshot has,
 * too (l2_make), and change the entries (apply). Host clusters that lose their entry are deferred: their
 * refcounts fall when that is durable, and when nobody reads them any more. Only then they are punched.
 *
 * What each entry becomes is decided in one place, decide():
 *
 *                  nothing below (no backing file there)     something below
 *      NONE        stays                                     v3: zero       v2: stays / is written
 *      ZERO        loses its host cluster if it may          the same
 *      DATA        NONE; must it keep its cluster: zero      v3: zero       v2: stays / is written
 *                  (v2: is written)
 *      COMPRESSED  NONE                                      v3: zero       v2: stays / is written
 *
 * "stays / is written": a discard leaves it, write_zeroes() writes zeroes as data. So does it with what is less than
 * a cluster (subcluster) at the range's ends, unless that reads as zeroes already; a discard ignores these.
 *
 * An L2 table that has become empty by that leaves L1, and is deferred, too: its slices, and then L1, are written by
 * one checkpoint, in this order, and it counts as metadata until it is released.
 *
 * What can go wrong: I/O errors of tables, no space for L2 tables, an entry that contradicts the format (-EIO; one
 * that says that metadata is guest data is said and makes the image read-only). Slices before it are done then.
 *
 * Threads: workers, any number at once.
 */
#include <errno.h>
#include <stdatomic.h>

#include "zero.h"

#define ENTRIES_MAX 512 /* of a slice */
#define GROUP       64  /* bytes changed by one meta_set() */
#define ZERO_BYTES  (64 << 10)
#define ZERO_IOV    16

/* What a range is to become. */
struct intent {
	bool zeroes; /* it must read as zeroes; else it is a hint */
	bool unmap;  /* host clusters may be given back */
	bool vanish; /* it is not part of the disk (any more): no entry is left */
	uint64_t limit; /* where it really ends: its last part reaches past the disk's end with the disk's last cluster */
};

/* An L2 entry, and what becomes of it. */
struct change {
	uint64_t entry, bitmap;
	bool differs;
	bool write;            /* the entry cannot say it: write zeroes as data */
	uint64_t drop, length; /* what of the file it does not use any more */
};

/* A part of the disk whose entries are in one slice of an L2 table. */
struct part {
	uint64_t start, end;
	uint64_t write[ENTRIES_MAX / 64]; /* a bit for each cluster that has to be written */
	unsigned changes;                 /* groups of entries */
	bool own;                         /* the table may be changed */
	bool emptied;                     /* and nothing is left in this slice of it */
	bool trimmed;                     /* the disk does not end here any more: the rest is not done */
	bool corrupt;
	uint64_t bad; /* where */
};

static const uint8_t zeroes[ZERO_BYTES] __attribute__((aligned(4096)));

/* ---- one entry ------------------------------------------------------------------------------------------- */

/* Is all of the backing file from here on zeroes? */
static bool nothing_below(const struct qcow2 *q, uint64_t guest)
{
	return !q->backing || guest >= q->backing_size;
}

/* What is left of an entry that loses what it points to. */
static void vacate(const struct qcow2 *q, const struct intent *to, uint64_t guest, struct change *c)
{
	if (to->vanish || nothing_below(q, guest)) {
		c->entry = c->bitmap = 0;
	} else if (q->extended_l2) {
		c->entry = 0;
		c->bitmap = (uint64_t)UINT32_MAX << 32;
	} else {
		c->entry = ENTRY_ZERO;
	}
}

/* An entry of a standard L2 table, or that of a whole compressed cluster. */
static void decide_whole(const struct qcow2 *q, const struct intent *to, uint64_t guest,
			 const struct cluster *old, struct change *c)
{
	bool can_say = to->vanish || nothing_below(q, guest) || q->h.version >= 3;

	switch (old->kind) {
	case CLUSTER_NONE:
		if (can_say)
			vacate(q, to, guest, c);
		break;
	case CLUSTER_ZERO:
		if (to->vanish || (to->unmap && old->host))
			vacate(q, to, guest, c);
		break;
	case CLUSTER_DATA:
		if (can_say && to->unmap)
			vacate(q, to, guest, c);
		else if (q->h.version >= 3)
			c->entry |= ENTRY_ZERO;
		break;
	case CLUSTER_COMPRESSED:
		if (can_say)
			vacate(q, to, guest, c);
		break;
	case CLUSTER_INVALID:
		break;
	}
	c->write = !can_say && old->kind != CLUSTER_ZERO && to->zeroes;
	if (old->kind == CLUSTER_DATA && q->h.version < 3 && !to->unmap)
		c->write = to->zeroes;
}

/* An entry with subclusters, those of mask (bit 0 is the first). */
static void decide_subclusters(const struct qcow2 *q, const struct intent *to, uint64_t guest, uint32_t mask,
			       struct change *c)
{
	uint32_t data = (uint32_t)c->bitmap & ~mask, zero = (uint32_t)(c->bitmap >> 32);
	unsigned first = (unsigned)__builtin_ctz(mask);

	if (to->vanish || nothing_below(q, guest + (uint64_t)first * q->subcluster))
		zero &= ~mask;
	else
		zero |= mask;
	c->bitmap = (uint64_t)zero << 32 | data;
	if (!data && to->unmap)
		c->entry = 0;
}

/* What becomes of this entry? -EIO: it contradicts the format. */
static int decide(const struct qcow2 *q, const struct intent *to, uint64_t guest, uint32_t mask,
		  struct change *c)
{
	uint64_t entry = c->entry, bitmap = c->bitmap;
	struct cluster old;

	entry_decode(q, entry, bitmap, (unsigned)__builtin_ctz(mask), &old);
	if (old.kind == CLUSTER_INVALID)
		return -EIO;
	c->write = false;
	c->drop = c->length = 0;
	if (!q->extended_l2 || (old.kind == CLUSTER_COMPRESSED && mask == UINT32_MAX))
		decide_whole(q, to, guest, &old, c);
	else if (old.kind == CLUSTER_COMPRESSED)
		c->write = to->zeroes;
	else
		decide_subclusters(q, to, guest, mask, c);
	c->differs = c->entry != entry || c->bitmap != bitmap;
	if (old.kind == CLUSTER_COMPRESSED && c->entry != entry) {
		c->drop = old.host;
		c->length = old.csize;
	} else if ((entry & ENTRY_OFFSET) && !(c->entry & ENTRY_OFFSET)) {
		c->drop = entry & ENTRY_OFFSET;
		c->length = q->cluster;
	}
	return 0;
}

/* ---- a part of an L2 table ------------------------------------------------------------------------------- */

static uint64_t cluster_of(const struct qcow2 *q, uint64_t guest)
{
	return guest & ~(uint64_t)(q->cluster - 1);
}

/* The subclusters of the cluster at guest that lie in the part. All without extended L2. */
static uint32_t mask_of(const struct qcow2 *q, const struct part *p, uint64_t guest)
{
	uint64_t from = MAX(p->start, guest), to = MIN(p->end, guest + q->cluster);
	unsigned first, end;

	if (!q->extended_l2)
		return UINT32_MAX;
	first = (unsigned)((from - guest) / q->subcluster);
	end = (unsigned)((to - guest) / q->subcluster);
	return (uint32_t)((UINT64_C(1) << end) - (UINT64_C(1) << first));
}

static void entry_read(const struct qcow2 *q, const uint8_t *at, struct change *c)
{
	c->entry = at ? get_be64(at) : 0;
	c->bitmap = at && q->extended_l2 ? get_be64(at + 8) : 0;
}

static void entry_write(const struct qcow2 *q, uint8_t *at, const struct change *c)
{
	put_be64(at, c->entry);
	if (q->extended_l2)
		put_be64(at + 8, c->bitmap);
}

/* Lock. The L2 table of guest, if it is nobody else's. */
static bool table_is_own(const struct qcow2 *q, uint64_t guest)
{
	return l2_table_of(q, guest) && (q->l1[guest >> (q->cluster_bits + q->l2_bits)] & ENTRY_COPIED);
}

/* Lock. What would change? slice NULL: there is no table. */
static int scan(struct qcow2 *q, const struct intent *to, struct part *p, const struct meta_slice *slice)
{
	uint64_t first = cluster_of(q, p->start), l2 = l2_table_of(q, p->start);
	uint64_t group = UINT64_MAX;
	struct change c;
	int r;

	memset(p->write, 0, sizeof(p->write));
	p->changes = 0;
	p->own = table_is_own(q, p->start);
	for (uint64_t guest = first; guest < p->end; guest += q->cluster) {
		uint64_t at = l2_entry_at(q, l2, guest), n = (guest - first) / q->cluster;

		entry_read(q, slice ? meta_at(slice, at) : NULL, &c);
		r = decide(q, to, guest, mask_of(q, p, guest), &c);
		if (r < 0)
			return r;
		if (c.length && metadata_meets(q, c.drop, c.length)) {
			p->corrupt = true;
			p->bad = guest;
			return -EIO;
		}
		if (c.write)
			p->write[n / 64] |= UINT64_C(1) << n % 64;
		if (c.differs && at / GROUP != group) {
			group = at / GROUP;
			p->changes++;
		}
	}
	return 0;
}

/* A run of host clusters, to be deferred in one piece. */
struct run {
	uint64_t start, length;
};

static void run_flush(struct qcow2 *q, struct run *run)
{
	if (run->length)
		meta_defer(q->meta, run->start, run->length);
	run->length = 0;
}

/* Between meta_begin() and meta_end(). */
static void drop(struct qcow2 *q, struct run *run, const struct change *c)
{
	bool whole = c->length == q->cluster && c->drop % q->cluster == 0;

	if (!c->length)
		return;
	if (run->length && whole && c->drop == run->start + run->length) {
		run->length += c->length;
		return;
	}
	run_flush(q, run);
	/* Each piece of compressed data counts for itself: two in one cluster are two references. */
	if (whole)
		*run = (struct run){ c->drop, c->length };
	else
		meta_defer(q->meta, c->drop, c->length);
}

/* Between meta_begin() and meta_end(). Entries from guest to end, which are in one group. */
static void apply_group(struct qcow2 *q, const struct intent *to, const struct part *p,
			struct meta_slice *slice, uint64_t at, uint64_t guest, uint64_t end, struct run *run)
{
	size_t len = (end - guest) / q->cluster * q->entry_size;
	uint64_t freed = 0;
	uint8_t bytes[GROUP];
	struct change c;

	memcpy(bytes, meta_at(slice, at), len);
	for (size_t i = 0; i < len; i += q->entry_size, guest += q->cluster) {
		entry_read(q, bytes + i, &c);
		if (decide(q, to, guest, mask_of(q, p, guest), &c) < 0 || !c.differs)
			continue;
		entry_write(q, bytes + i, &c);
		drop(q, run, &c);
		freed += c.length != 0;
	}
	meta_set(q->meta, ORDER_L2, slice, at, bytes, len);
	atomic_fetch_add_explicit(&q->count.freed, freed, memory_order_relaxed);
}

/* Is the whole slice empty? */
static bool is_empty(struct qcow2 *q, const struct meta_slice *slice, uint64_t at)
{
	bool empty;

	meta_rdlock(q->meta);
	empty = memcmp(meta_at(slice, align_down(at, q->slice)), zeroes, q->slice) == 0;
	meta_rdunlock(q->meta);
	return empty;
}

/* The table is our own and its slice is pinned. Nothing is different from what scan() saw: there is a claim. */
static int apply(struct qcow2 *q, const struct intent *to, struct part *p, struct meta_slice *slice)
{
	uint64_t guest = cluster_of(q, p->start), at, next, l2;
	struct run run = { 0 };
	int r = meta_begin(q->meta, ENTRIES_MAX * q->entry_size / GROUP + 1);

	if (r < 0)
		return r;
	l2 = l2_table_of(q, guest);
	for (; guest < p->end; guest = next) {
		at = l2_entry_at(q, l2, guest);
		next = guest + (GROUP - at % GROUP) / q->entry_size * q->cluster;
		next = MIN(next, align_up(p->end, q->cluster));
		apply_group(q, to, p, slice, at, guest, next, &run);
	}
	run_flush(q, &run);
	meta_end(q->meta);
	p->emptied = is_empty(q, slice, l2_entry_at(q, l2, p->start));
	return 0;
}

/* With a claim. Look what would change; *slice is pinned then, or NULL without a table. */
static int look(struct qcow2 *q, const struct intent *to, struct part *p, struct meta_slice **slice)
{
	int r = q_load(q, p->start, slice);

	if (r < 0)
		return r;
	meta_rdlock(q->meta);
	r = scan(q, to, p, *slice);
	meta_rdunlock(q->meta);
	if (r < 0) {
		meta_unpin(q->meta, *slice);
		*slice = NULL;
	}
	return r;
}

static uint64_t disk_size(const struct qcow2 *q)
{
	return __atomic_load_n(&q->size, __ATOMIC_RELAXED);
}

/* With a claim, so that the size stays as it is. It may have grown since we took the last cluster for all ours. False:
 * nothing of the part is left. */
static bool trim(const struct qcow2 *q, const struct intent *to, struct part *p)
{
	if (p->end > to->limit && disk_size(q) > to->limit) {
		p->end = MAX(p->start, align_down(to->limit, q->subcluster));
		p->trimmed = true;
	}
	return p->start < p->end;
}

/* With a claim on all that the table maps. */
static int change_with_new_table(struct qcow2 *q, const struct intent *to, struct part *p)
{
	struct meta_slice *slice;
	int r;

	if (!trim(q, to, p))
		return 0;
	r = l2_make(q, p->start);
	if (r < 0)
		return r;
	r = look(q, to, p, &slice);
	if (r < 0)
		return r;
	r = p->changes ? apply(q, to, p, slice) : 0;
	meta_unpin(q->meta, slice);
	return r;
}

static uint64_t table_span(const struct qcow2 *q)
{
	return (uint64_t)q->cluster << q->l2_bits;
}

/* Change the entries of a part, and find out what is to be written as data. */
static int change_part(struct qcow2 *q, const struct intent *to, struct part *p)
{
	uint64_t table = p->start / table_span(q) * table_span(q);
	struct meta_slice *slice = NULL;
	struct claim claim;
	int r;

	claims_take(&q->claims, &claim, cluster_of(q, p->start), align_up(p->end, q->cluster));
	r = trim(q, to, p) ? look(q, to, p, &slice) : 0;
	if (r == 0 && p->changes && p->own)
		r = apply(q, to, p, slice);
	meta_unpin(q->meta, slice);
	claims_give(&q->claims, &claim);
	if (r == 0 && p->changes && !p->own) {
		claims_take(&q->claims, &claim, table, table + table_span(q));
		r = change_with_new_table(q, to, p);
		claims_give(&q->claims, &claim);
	}
	if (p->corrupt)
		return q_corrupt(q, "the entry of guest offset %llu says that metadata is its data",
				 (unsigned long long)p->bad);
	return r;
}

/* ---- tables that are empty --------------------------------------------------------------------------------- */

/* With a claim on all that it maps. What cannot be read is not empty. */
static bool table_is_empty(struct qcow2 *q, uint64_t l2)
{
	bool empty = true;

	for (uint64_t at = l2; empty && at < l2 + q->cluster; at += q->slice) {
		struct meta_slice *slice;

		empty = meta_pin(q->meta, at, &slice) == 0 && is_empty(q, slice, at);
		meta_unpin(q->meta, slice);
	}
	return empty;
}

/* With that claim. */
static void table_unlink(struct qcow2 *q, uint64_t index, uint64_t l2)
{
	static const uint8_t none[8];
	struct meta_slice *slice;
	uint64_t at = q->h.l1_offset + index * 8;

	if (meta_pin(q->meta, at, &slice))
		return;
	if (meta_begin(q->meta, 1) == 0) {
		q->l1[index] = 0;
		meta_set(q->meta, ORDER_L1, slice, at, none, sizeof(none));
		meta_defer(q->meta, l2, q->cluster);
		meta_end(q->meta);
	}
	meta_unpin(q->meta, slice);
}

/* If nothing is left in the table of this offset the file needs none. If that fails it stays: no harm is done. */
static void free_if_empty(struct qcow2 *q, uint64_t guest)
{
	uint64_t start = align_down(guest, table_span(q)), l2;
	struct claim claim;

	claims_take(&q->claims, &claim, start, start + table_span(q));
	meta_rdlock(q->meta);
	l2 = table_is_own(q, start) && !q->corrupt ? l2_table_of(q, start) : 0;
	meta_rdunlock(q->meta);
	if (l2 && table_is_empty(q, l2))
		table_unlink(q, start / table_span(q), l2);
	claims_give(&q->claims, &claim);
}

/* ---- zeroes as data -------------------------------------------------------------------------------------- */

static int write_as_data(struct qcow2 *q, uint64_t start, uint64_t end)
{
	while (start < end) {
		struct iovec iov[ZERO_IOV];
		uint64_t at = start;
		int n = 0, r;

		for (; n < ZERO_IOV && at < end; n++) {
			/* writev() only reads what it is given */
			iov[n].iov_base = (void *)(uintptr_t)zeroes;
			iov[n].iov_len = MIN(end - at, sizeof(zeroes));
			at += iov[n].iov_len;
		}
		r = q_writev(q, iov, n, start);
		if (r < 0)
			return r;
		start = at;
	}
	return 0;
}

/* What of a part its entries could not say. */
static int write_rest(struct qcow2 *q, const struct intent *to, const struct part *p)
{
	uint64_t first = cluster_of(q, p->start), n = 0, start, end;
	uint64_t count = (align_up(p->end, q->cluster) - first) / q->cluster;
	int r = 0;

	while (n < count && r == 0) {
		if (!(p->write[n / 64] >> n % 64 & 1)) {
			n++;
			continue;
		}
		start = n;
		while (n < count && (p->write[n / 64] >> n % 64 & 1))
			n++;
		end = MIN(first + n * q->cluster, p->end);
		r = write_as_data(q, MAX(first + start * q->cluster, p->start), MIN(end, to->limit));
	}
	return r;
}

/* Does the (sub)cluster of guest read as zeroes as it is? Or -errno. */
static int is_zero(struct qcow2 *q, uint64_t guest)
{
	struct meta_slice *slice;
	struct cluster c;
	int r;

	r = q_load(q, guest, &slice);
	if (r < 0)
		return r;
	meta_rdlock(q->meta);
	r = cluster_get(q, guest, &c);
	meta_rdunlock(q->meta);
	meta_unpin(q->meta, slice);
	if (r < 0)
		return r == -EAGAIN ? 0 : r; /* the table has just been replaced: write, that is right in any case */
	return c.kind == CLUSTER_ZERO ||
	       (c.kind == CLUSTER_NONE && nothing_below(q, guest & ~(uint64_t)(q->subcluster - 1)));
}

/* Less than a (sub)cluster. */
int q_zero_edge(struct qcow2 *q, uint64_t start, uint64_t end)
{
	int r = start < end ? is_zero(q, start) : 1;

	if (r < 0)
		return r;
	return r ? 0 : write_as_data(q, start, end);
}

/* ---- ranges ---------------------------------------------------------------------------------------------- */

/* Up to where no table is, from start on, so that nothing changes there. */
static uint64_t skip_empty(struct qcow2 *q, const struct intent *to, uint64_t start, uint64_t end)
{
	uint64_t span = table_span(q);

	meta_rdlock(q->meta);
	while (start < end && !l2_table_of(q, start) && (to->vanish || nothing_below(q, start)))
		start = (start / span + 1) * span;
	meta_rdunlock(q->meta);
	return MIN(start, end);
}

/* start and end at the edges of (sub)clusters. */
static int change_range(struct qcow2 *q, const struct intent *to, uint64_t start, uint64_t end)
{
	uint64_t in_slice = (uint64_t)(q->slice / q->entry_size) * q->cluster;
	bool emptied = false; /* some of the table that the part before is of */
	int r = 0;

	while (r == 0 && (start = skip_empty(q, to, start, end)) < end) {
		struct part p = { .start = start, .end = MIN(end, (start / in_slice + 1) * in_slice) };

		r = change_part(q, to, &p);
		if (r == 0 && to->zeroes)
			r = write_rest(q, to, &p);
		if (r == 0 && to->zeroes && p.trimmed)
			r = q_zero_edge(q, p.end, to->limit);
		emptied |= p.emptied;
		start = p.trimmed ? end : p.end;
		if (emptied && (r || start >= end || start % table_span(q) == 0)) {
			free_if_empty(q, p.start);
			emptied = false;
		}
	}
	return r;
}

int q_vanish(struct qcow2 *q, uint64_t start, uint64_t end)
{
	const struct intent gone = { .unmap = true, .vanish = true, .limit = end };

	return change_range(q, &gone, start, end);
}

int q_zero_entries(struct qcow2 *q, uint64_t start, uint64_t end)
{
	const struct intent zero = { .unmap = true, .zeroes = true, .limit = end };

	return change_range(q, &zero, start, end);
}

static bool is_corrupt(struct qcow2 *q)
{
	bool corrupt;

	meta_rdlock(q->meta);
	corrupt = q->corrupt;
	meta_rdunlock(q->meta);
	return corrupt;
}

/* The end of what can be changed by entries: the disk's last cluster may be changed whole. */
static uint64_t whole_end(const struct qcow2 *q, uint64_t end)
{
	return end == disk_size(q) ? align_up(end, q->cluster) : align_down(end, q->subcluster);
}

int q_discard(void *handle, uint64_t offset, uint64_t length)
{
	const struct intent hint = { .unmap = true, .limit = offset + length };
	struct qcow2 *q = handle;
	uint64_t start = align_up(offset, q->subcluster), end = whole_end(q, offset + length);

	if (is_corrupt(q))
		return -EIO;
	if (!q->discard_unmap || start >= end)
		return 0;
	return change_range(q, &hint, start, end);
}

int q_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
	struct qcow2 *q = handle;
	uint64_t end = offset + length;
	const struct intent zero = { .zeroes = true,
				     .unmap = (flags & RD_ZERO_MAY_UNMAP) && q->discard_unmap,
				     .limit = end };
	uint64_t from = align_up(offset, q->subcluster), to = whole_end(q, end);
	int r;

	if (is_corrupt(q))
		return -EIO;
	if (from >= to)
		return q_zero_edge(q, offset, MIN(end, from)) ?: q_zero_edge(q, from, end);
	r = q_zero_edge(q, offset, from);
	if (r == 0)
		r = change_range(q, &zero, from, to);
	return r == 0 ? q_zero_edge(q, to, end) : r;
}

/* ---- detect-zeroes --------------------------------------------------------------------------------------- */

/* Each byte is looked at once: when the guest changes it afterwards, that is as if it had been written before. */
static bool all_zero(const uint8_t *bytes, size_t len)
{
	const volatile uint8_t *p = bytes;
	size_t head = MIN(len, 16);

	for (size_t i = 0; i < head; i++)
		if (p[i])
			return false;
	while (len > head) {
		size_t n = MIN(len - head, sizeof(zeroes));

		if (memcmp(bytes + head, zeroes, n) != 0)
			return false;
		head += n;
	}
	return true;
}

/* The next length bytes: zeroes? out: the same bytes as a list, *n long; the cursor goes on. */
static bool take(struct cursor *from, uint64_t length, struct iovec *out, int *n)
{
	bool zero = true;
	uint64_t step;

	while (length && cursor_window(from, length, out + *n, 1, &step)) {
		zero = zero && all_zero(out[*n].iov_base, step);
		(*n)++;
		cursor_advance(from, step);
		length -= step;
	}
	return zero;
}

static int write_piece(struct qcow2 *q, bool zero, const struct iovec *iov, int n, uint64_t offset,
		       uint64_t length)
{
	if (!zero)
		return q_writev(q, iov, n, offset);
	atomic_fetch_add_explicit(&q->count.zero_detected, 1, memory_order_relaxed);
	return q_write_zeroes(q, offset, length, q->detect_zeroes == DETECT_UNMAP ? RD_ZERO_MAY_UNMAP : 0);
}

/* Cut at the edges of clusters, and join again what is zeroes and what is not. */
static int write_detecting(struct qcow2 *q, struct cursor from, uint64_t offset, uint64_t end, struct iovec *list)
{
	uint64_t start = offset, at, next;
	bool zero = false;
	int r = 0, n = 0;

	for (at = offset; at < end && r == 0; at = next) {
		int before = n;
		bool is;

		next = MIN(end, align_down(at, q->subcluster) + q->subcluster);
		is = take(&from, next - at, list, &n);
		if (at > start && is != zero) {
			r = write_piece(q, zero, list, before, start, at - start);
			memmove(list, list + before, (size_t)(n - before) * sizeof(*list));
			n -= before;
			start = at;
		}
		zero = is;
	}
	return r < 0 ? r : write_piece(q, zero, list, n, start, end - start);
}

int q_writev_detect(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct qcow2 *q = handle;
	uint64_t length = vectors_length(iov, iovcnt);
	struct iovec *list;
	size_t pieces;
	int r;

	if (q->detect_zeroes == DETECT_OFF)
		return q_writev(q, iov, iovcnt, offset);
	pieces = (size_t)iovcnt + length / q->subcluster + 2;
	list = q->host->alloc(q->host, pieces * sizeof(*list));
	if (!list)
		return -ENOMEM;
	r = write_detecting(q, cursor_of(iov, iovcnt), offset, offset + length, list);
	q->host->free(q->host, list);
	return r;
}
