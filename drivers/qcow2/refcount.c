/*
 * qcow2/refcount.c - refcounts: read, changed, and what happens when one falls to nothing
 *
 * Refcounts are changed in the cache only, slice by slice: the slice is pinned, copied to the stack, changed
 * there, and set under the lock. A decrease comes from alloc_released() nearly always: then the removal of the
 * pointer is durable already. What falls to 0 is punched before (while nobody else can get it), and joins the
 * spare clusters in the same moment in which the refcount changes: so the scan never sees it in between.
 *
 * What can go wrong: I/O errors and no memory, which leave refcounts too high (leaks). Impossible tables are
 * reported and make the image read-only. Refcounts that are too low are left as they are: whoever freed such a
 * cluster has believed an entry that was not true.
 *
 * Threads: any; alloc_released() on those that run a checkpoint.
 */
#include <errno.h>

#include "alloc.h"

#define SLICE_MAX 4096

/* Refcounts of one slice, pinned. */
struct part {
	struct meta_slice *slice;
	uint64_t at;    /* of the slice in the file */
	uint64_t index; /* of the first of them in the slice */
	uint64_t count;
};

/* ---- finding ------------------------------------------------------------------------------------------- */

/* Entry of the refcount table. */
static int table_get(struct qcow2 *q, uint64_t block, uint64_t *entry)
{
	struct alloc *a = q->alloc;
	struct meta_slice *slice = NULL;
	const uint8_t *p = NULL;
	uint64_t at, token;
	int r = 0;

	*entry = 0;
	while (!r) {
		meta_rdlock(q->meta);
		pthread_mutex_lock(&a->lock);
		at = block < a->table_entries ? a->table + block * 8 : 0;
		pthread_mutex_unlock(&a->lock);
		p = at ? meta_peek(q->meta, at) : NULL;
		if (p || !at) {
			if (p)
				*entry = get_be64(p);
			meta_rdunlock(q->meta);
			break;
		}
		token = meta_enter(q->meta); /* why: q_load() */
		meta_rdunlock(q->meta);
		meta_unpin(q->meta, slice);
		r = meta_pin(q->meta, at, &slice);
		meta_exit(q->meta, token);
	}
	meta_unpin(q->meta, slice);
	return r;
}

int block_find(struct qcow2 *q, uint64_t block, uint64_t *offset)
{
	int r = table_get(q, block, offset);

	if (!r && (*offset >= HOST_OFFSET_MAX || !is_aligned(*offset, q->cluster)))
		return q_corrupt(q, "entry %llu of the refcount table is %#llx: not the start of a cluster",
				 (unsigned long long)block, (unsigned long long)*offset);
	return r;
}

static int part_at(struct qcow2 *q, uint64_t block_offset, uint64_t first, uint64_t count, struct part *p)
{
	struct alloc *a = q->alloc;
	uint64_t index = first & (a->per_block - 1);

	p->at = block_offset + index / a->per_slice * q->slice;
	p->index = index & (a->per_slice - 1);
	p->count = MIN(count, a->per_slice - p->index);
	return meta_pin(q->meta, p->at, &p->slice);
}

/* Refcounts of clusters from first on, as many as are in one slice, at most count. -ENOENT: they have no block. */
static int part_get(struct qcow2 *q, uint64_t first, uint64_t count, struct part *p)
{
	uint64_t offset;
	int r = block_find(q, first / q->alloc->per_block, &offset);

	p->slice = NULL;
	if (r)
		return r;
	return offset ? part_at(q, offset, first, count, p) : -ENOENT;
}

/* Lock. */
static uint64_t part_value(struct qcow2 *q, const struct part *p, uint64_t i)
{
	return refcount_at(meta_at(p->slice, p->at), q->alloc->order, p->index + i);
}

/* ---- changing ------------------------------------------------------------------------------------------ */

static uint64_t first_byte(const struct qcow2 *q, const struct part *p)
{
	return (p->index << q->alloc->order) / 8;
}

static uint64_t end_byte(const struct qcow2 *q, const struct part *p, uint64_t count)
{
	return (((p->index + count) << q->alloc->order) + 7) / 8;
}

/* Take the lock for writing, and a copy of the slice. */
static int part_begin(struct qcow2 *q, const struct part *p, uint8_t *copy)
{
	uint64_t bytes = end_byte(q, p, p->count) - first_byte(q, p);
	int r = meta_begin(q->meta, (unsigned)(bytes / 64 + 1));

	if (!r)
		memcpy(copy, meta_at(p->slice, p->at), q->slice);
	return r;
}

/* Between meta_begin() and meta_end(). The first count refcounts are now as in copy. */
static void part_store(struct qcow2 *q, const struct part *p, const uint8_t *copy, uint64_t count)
{
	uint64_t end = end_byte(q, p, count);

	if (!count)
		return;
	for (uint64_t b = first_byte(q, p); b < end; b += 64)
		meta_set(q->meta, ORDER_REFCOUNT, p->slice, p->at + b, copy + b, MIN(64, end - b));
}

static int64_t claim_part(struct qcow2 *q, uint64_t first, uint64_t count)
{
	unsigned order = q->alloc->order;
	uint8_t copy[SLICE_MAX];
	struct part p;
	uint64_t n = 0;
	int r = part_get(q, first, count, &p);

	if (r)
		return r == -ENOENT ? 0 : r;
	r = part_begin(q, &p, copy);
	if (!r) {
		for (; n < p.count && !refcount_at(copy, order, p.index + n); n++)
			refcount_put(copy, order, p.index + n, 1);
		part_store(q, &p, copy, n);
		meta_end(q->meta);
	}
	meta_unpin(q->meta, p.slice);
	return r ? r : (int64_t)n;
}

int64_t refcounts_claim(struct qcow2 *q, uint64_t first, uint64_t count)
{
	uint64_t done = 0;

	while (done < count) {
		int64_t n = claim_part(q, first + done, count - done);

		if (n < 0 && !done)
			return n;
		if (n <= 0)
			break;
		done += (uint64_t)n;
	}
	return (int64_t)done;
}

int refcount_share(struct qcow2 *q, uint64_t cluster)
{
	struct alloc *a = q->alloc;
	uint8_t copy[SLICE_MAX];
	struct part p;
	uint64_t value;
	int r = part_get(q, cluster, 1, &p);

	if (r)
		return r;
	r = part_begin(q, &p, copy);
	if (!r) {
		value = refcount_at(copy, a->order, p.index);
		pthread_mutex_lock(&a->lock);
		if (a->bytes_at >> q->cluster_bits != cluster)
			r = -ESTALE;
		pthread_mutex_unlock(&a->lock);
		if (r || !value || value >= refcount_max(a->order)) {
			r = -ESTALE;
		} else {
			refcount_put(copy, a->order, p.index, value + 1);
			part_store(q, &p, copy, 1);
		}
		meta_end(q->meta);
	}
	meta_unpin(q->meta, p.slice);
	return r;
}

/* Returns how many clusters were done, or -errno: none of them. */
static int64_t raise_part(struct qcow2 *q, uint64_t first, uint64_t count, uint64_t by)
{
	unsigned order = q->alloc->order;
	uint64_t n = 0;
	uint8_t copy[SLICE_MAX];
	struct part p;
	int r = part_get(q, first, count, &p);

	if (r == -ENOENT)
		return q_corrupt(q, "cluster at %#llx is in use, but there is no refcount of it",
				 (unsigned long long)(first << q->cluster_bits));
	if (!r)
		r = part_begin(q, &p, copy);
	if (!r) {
		for (; !r && n < p.count; n++) {
			uint64_t value = refcount_at(copy, order, p.index + n);

			if (value > refcount_max(order) - by)
				r = -E2BIG;
			else
				refcount_put(copy, order, p.index + n, value + by);
		}
		if (!r)
			part_store(q, &p, copy, n);
		meta_end(q->meta);
	}
	meta_unpin(q->meta, p.slice);
	return r ? r : (int64_t)n;
}

/* ---- falling ------------------------------------------------------------------------------------------- */

enum fall { FALL_LOW, FALL_FREE, FALL_SHARED };

static enum fall fall_of(uint64_t value, uint64_t by)
{
	return value < by ? FALL_LOW : value == by ? FALL_FREE : FALL_SHARED;
}

/* What is metadata now, whatever an entry said: a table stops being that when nothing in memory names it any more,
 * before it is deferred. Lock. */
static bool is_untouchable(const struct qcow2 *q, uint64_t host, uint64_t length)
{
	struct alloc *a = q->alloc;
	bool table;

	pthread_mutex_lock(&a->lock);
	table = ranges_meet(host, length, a->table, a->table_entries * 8);
	pthread_mutex_unlock(&a->lock);
	return table || ranges_meet(host, length, 0, q->cluster) ||
	       ranges_meet(host, length, q->h.l1_offset, q->h.l1_size * 8ull) ||
	       metadata_meets(q, host, length);
}

/* Lock. Compressed data that comes from now on goes elsewhere: nobody gets a reference of these clusters any more. */
static void stop_sharing(struct alloc *a, uint64_t host, uint64_t length)
{
	pthread_mutex_lock(&a->lock);
	if (ranges_meet(host, length, a->bytes_at - 1, 1))
		a->bytes_at = 0;
	pthread_mutex_unlock(&a->lock);
}

/* Shorten the part to its first refcounts that have the same fate. What is to be free is out of everybody's reach. */
static enum fall part_fate(struct qcow2 *q, struct part *p, uint64_t first, uint64_t by)
{
	enum fall fate;
	uint64_t n = 1;

	meta_rdlock(q->meta);
	fate = fall_of(part_value(q, p, 0), by);
	while (n < p->count && fall_of(part_value(q, p, n), by) == fate)
		n++;
	if (is_untouchable(q, first << q->cluster_bits, n << q->cluster_bits))
		fate = FALL_LOW;
	if (fate == FALL_FREE)
		stop_sharing(q->alloc, first << q->cluster_bits, n << q->cluster_bits);
	meta_rdunlock(q->meta);
	p->count = n;
	return fate;
}

static void warn_low(struct qcow2 *q, uint64_t first)
{
	struct alloc *a = q->alloc;
	bool warned;

	if (meta_begin(q->meta, 0))
		return;
	warned = a->warned;
	a->warned = true;
	meta_end(q->meta);
	if (!warned)
		q->host->log(q->host, RD_LOG_WARN,
			     "%s: the cluster at %#llx was freed, but its refcount says it cannot be: check the image",
			     q->path, (unsigned long long)(first << q->cluster_bits));
}

/* Nothing points to these clusters any more, and nobody can get them yet. True: they read as zeroes now. */
static bool clean_up(struct qcow2 *q, uint64_t first, uint64_t count)
{
	uint64_t host = first << q->cluster_bits, length = count << q->cluster_bits;

	meta_forget(q->meta, host, length);
	decompressed_forget(q, host, length);
	return q->discard_unmap && !q->host->file_punch(q->file, host, length) && q->alloc->grows;
}

/* Write lock. The refcounts of these clusters are 0 from now on. */
static void now_spare(struct qcow2 *q, uint64_t first, uint64_t count, bool zero)
{
	struct alloc *a = q->alloc;

	pthread_mutex_lock(&a->lock);
	a->lost |= !extents_add(&a->spare, first, count, zero);
	pthread_mutex_unlock(&a->lock);
	atomic_fetch_add_explicit(&q->count.freed, count, memory_order_relaxed);
}

/* Write lock. As many of them as still have this fate: another thread may have given up a reference of its own. */
static uint64_t lower(struct qcow2 *q, const struct part *p, uint8_t *copy, uint64_t first,
		      uint64_t by, enum fall fate, bool zero)
{
	unsigned order = q->alloc->order;
	uint64_t n = 0;

	for (; n < p->count; n++) {
		uint64_t value = refcount_at(copy, order, p->index + n);

		if (fall_of(value, by) != fate)
			break;
		refcount_put(copy, order, p->index + n, value - by);
	}
	if (n && fate == FALL_FREE)
		now_spare(q, first, n, zero);
	part_store(q, p, copy, n);
	return n;
}

/* Returns how many clusters are dealt with; 0: look again. */
static int64_t try_lower(struct qcow2 *q, struct part *p, uint64_t first, uint64_t by)
{
	enum fall fate = part_fate(q, p, first, by);
	uint8_t copy[SLICE_MAX];
	bool zero = false;
	uint64_t n;
	int r;

	if (fate == FALL_LOW) {
		warn_low(q, first);
		return (int64_t)p->count;
	}
	if (fate == FALL_FREE)
		zero = clean_up(q, first, p->count);
	r = part_begin(q, p, copy);
	if (r)
		return r;
	n = lower(q, p, copy, first, by, fate, zero);
	meta_end(q->meta);
	return (int64_t)n;
}

/* Returns how many clusters are dealt with. */
static int64_t lower_part(struct qcow2 *q, uint64_t first, uint64_t count, uint64_t by)
{
	struct part p;
	int64_t n = 0;
	int r = part_get(q, first, count, &p);

	if (r == -ENOENT) {
		warn_low(q, first);
		return 1;
	}
	if (r)
		return r;
	while (!n)
		n = try_lower(q, &p, first, by);
	meta_unpin(q->meta, p.slice);
	return n;
}

/* ---- public -------------------------------------------------------------------------------------------- */

int refcount_get(struct qcow2 *q, uint64_t host, uint64_t *refcount)
{
	struct part p;
	int r = part_get(q, host >> q->cluster_bits, 1, &p);

	*refcount = 0;
	if (r)
		return r == -ENOENT ? 0 : r;
	meta_rdlock(q->meta);
	*refcount = part_value(q, &p, 0);
	meta_rdunlock(q->meta);
	meta_unpin(q->meta, p.slice);
	return 0;
}

int refcount_change(struct qcow2 *q, uint64_t host, uint64_t length, int by)
{
	uint64_t first = host >> q->cluster_bits, at = first;
	uint64_t end = (host + length - 1) >> q->cluster_bits;
	int64_t n = 1;

	if (!length || !by)
		return 0;
	for (end++; at < end && n > 0; at += n > 0 ? (uint64_t)n : 0)
		n = by > 0 ? raise_part(q, at, end - at, (uint64_t)by)
			   : lower_part(q, at, end - at, (uint64_t)-(int64_t)by);
	if (n > 0)
		return 0;
	if (by > 0 && at > first)
		refcount_change(q, first << q->cluster_bits, (at - first) << q->cluster_bits, -by);
	return (int)n;
}

/* A table that nothing names any more was metadata up to now, as the checkpoint had to write it once more. */
static void no_metadata(struct qcow2 *q, uint64_t host, uint64_t length)
{
	bool is;

	meta_rdlock(q->meta);
	is = length == q->cluster && metadata_meets(q, host, length);
	meta_rdunlock(q->meta);
	if (!is)
		return;
	meta_wrlock(q->meta);
	metadata_remove(q, host, length);
	meta_end(q->meta);
}

void alloc_released(void *ctx, uint64_t host, uint64_t length)
{
	no_metadata(ctx, host, length);
	/* What cannot be changed is a leak. */
	refcount_change(ctx, host, length, -1);
}

/* Lock. Is all of this range metadata that is written at this order? */
static bool is_of_order(struct qcow2 *q, unsigned order, uint64_t offset, uint64_t length)
{
	struct alloc *a = q->alloc;
	bool table, l1 = ranges_meet(offset, length, q->h.l1_offset, q->h.l1_size * 8ull);

	pthread_mutex_lock(&a->lock);
	table = ranges_meet(offset, length, a->table, a->table_entries * 8);
	pthread_mutex_unlock(&a->lock);
	if (l1 != (order == ORDER_L1) || table != (order == ORDER_REFTABLE) || offset < q->cluster)
		return false;
	for (uint64_t at = align_down(offset, q->cluster); at < offset + length; at += q->cluster)
		if (!metadata_meets(q, at, q->cluster))
			return false;
	return true;
}

int q_may_write(void *ctx, unsigned order, uint64_t offset, uint32_t length)
{
	struct qcow2 *q = ctx;
	bool may;

	meta_rdlock(q->meta);
	may = is_of_order(q, order, offset, length);
	meta_rdunlock(q->meta);
	return may ? 0 : q_corrupt(q, "metadata of kind %u would go to %#llx, where none of it is", order,
				   (unsigned long long)offset);
}

int refcounts_scan(struct qcow2 *q, uint64_t *at, uint64_t end)
{
	struct alloc *a = q->alloc;
	struct part p;
	uint64_t from = *at;
	int r = part_get(q, from, end - from, &p);

	if (r == -ENOENT)
		*at = MIN(end, (from / a->per_block + 1) * a->per_block);
	if (r)
		return r == -ENOENT ? 0 : r;
	meta_rdlock(q->meta);
	for (uint64_t i = 0; i < p.count; i++) {
		uint64_t n = 0;

		while (i + n < p.count && !part_value(q, &p, i + n))
			n++;
		if (!n)
			continue;
		pthread_mutex_lock(&a->lock);
		a->lost |= !extents_add(&a->spare, from + i, n, false);
		pthread_mutex_unlock(&a->lock);
		i += n;
	}
	meta_rdunlock(q->meta);
	meta_unpin(q->meta, p.slice);
	*at = from + p.count;
	return 0;
}

/* The last refcount that is not 0 in one block: one behind it, 0 if there is none. */
static int last_in_block(struct qcow2 *q, uint64_t offset, uint64_t *end)
{
	struct alloc *a = q->alloc;

	for (uint64_t first = a->per_block; first; first -= a->per_slice) {
		struct part p;
		int r = part_at(q, offset, first - a->per_slice, a->per_slice, &p);

		if (r)
			return r;
		*end = a->per_slice;
		meta_rdlock(q->meta);
		while (*end && !part_value(q, &p, *end - 1))
			--*end;
		meta_rdunlock(q->meta);
		meta_unpin(q->meta, p.slice);
		if (*end) {
			*end += first - a->per_slice;
			return 0;
		}
	}
	return 0;
}

int refcounts_last(struct qcow2 *q, uint64_t *end)
{
	struct alloc *a = q->alloc;

	for (uint64_t block = a->table_entries; block--;) {
		uint64_t offset, last = 0;
		int r = block_find(q, block, &offset);

		if (!r && offset)
			r = last_in_block(q, offset, &last);
		if (r)
			return r;
		if (last) {
			*end = block * a->per_block + last;
			return 0;
		}
	}
	*end = 0;
	return 0;
}
