/*
 * qcow2/alloc.c - who gets which cluster of the file
 *
 * See alloc.h for the lives of a cluster. An allocation takes from what is owned, under a mutex for a moment; when
 * that is empty, one thread refills it for all, with as many clusters at once as a megabyte holds at first, and
 * sixteen later: so disks are contiguous, and refcounts change rarely. Refills come from spare clusters before the
 * file grows, so that the file stays as small as its content allows.
 *
 * Spare clusters are those that were freed since the image was opened, and those that a scan finds: it goes from the
 * start of the file to what was its end when it was opened, a few slices at each refill. What the set of spare clusters
 * has no room for is found by another scan.
 *
 * What can go wrong: I/O errors and full disks, which go to who wants clusters; nothing is lost by them but leaks. If
 * the refcounts say that metadata is free, the image is corrupt.
 *
 * Threads: any.
 */
#include <errno.h>
#include <stdlib.h>

#include "alloc.h"

#define STEP_FIRST   (1u << 20) /* bytes to own at once: at first, and at most */
#define STEP_MOST    (16u << 20)
#define STEP_LEAST   16         /* clusters */
#define STEP_SHARE   64         /* of the disk's size is enough */
#define SCAN_SLICES  8          /* looked at in one refill */
#define SPARE_MAX    4096
#define OWNED_MAX    1024

/* ---- life ---------------------------------------------------------------------------------------------- */

static int find_end(struct qcow2 *q)
{
	struct alloc *a = q->alloc;
	struct rd_info info = { .struct_size = sizeof(info) };
	int r = q->host->file_info(q->file, &info);

	if (r)
		return r;
	a->grows = info.caps & RD_CAP_RESIZE;
	r = refcounts_last(q, &a->end);
	if (a->grows) {
		a->limit = HOST_OFFSET_MAX >> q->cluster_bits;
		a->file_end = (info.size >> q->cluster_bits) + !is_aligned(info.size, q->cluster);
		/* What is used behind the end of the file comes into it when it is written to, and must not be cut off
		 * by lengthen(). What cannot be read says so when it is needed. */
		a->end = MAX(r ? 0 : a->end, a->file_end);
		r = 0;
	} else {
		a->limit = a->file_end = info.size >> q->cluster_bits;
	}
	a->scan_end = a->end;
	return r;
}

int alloc_init(struct qcow2 *q)
{
	struct alloc *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return -ENOMEM;
	q->alloc = a;
	a->order = q->h.refcount_order;
	a->per_block = (uint64_t)q->cluster * 8 >> a->order;
	a->per_slice = (uint64_t)q->slice * 8 >> a->order;
	a->table = q->h.reftable_offset;
	a->table_entries = ((uint64_t)q->h.reftable_clusters << q->cluster_bits) / 8;
	a->step = MAX(STEP_FIRST >> q->cluster_bits, STEP_LEAST);
	pthread_mutex_init(&a->bytes, NULL);
	pthread_mutex_init(&a->refill, NULL);
	pthread_mutex_init(&a->lock, NULL);
	extents_init(&a->owned, OWNED_MAX);
	extents_init(&a->spare, SPARE_MAX);
	r = find_end(q);
	if (r)
		alloc_free(q);
	return r;
}

void alloc_free(struct qcow2 *q)
{
	struct alloc *a = q->alloc;

	if (!a)
		return;
	extents_free(&a->owned);
	extents_free(&a->spare);
	pthread_mutex_destroy(&a->lock);
	pthread_mutex_destroy(&a->refill);
	pthread_mutex_destroy(&a->bytes);
	free(a);
	q->alloc = NULL;
}

/* What is free at the end of the file needs no place in it. */
static int cut_end(struct qcow2 *q)
{
	struct alloc *a = q->alloc;
	uint64_t end = a->end;

	if (!a->grows || a->file_end != a->end)
		return 0;
	while (a->spare.count && end) {
		const struct extent *last = &a->spare.v[a->spare.count - 1];

		if (last->first + last->count != end)
			break;
		end = last->first;
		a->spare.count--;
	}
	if (end == a->end)
		return 0;
	a->end = a->file_end = end;
	/* what the scan found behind the end, and had data written to, would be cut off when the file grows */
	a->scan_end = MIN(a->scan_end, end);
	a->scan_at = MIN(a->scan_at, end);
	return q->host->file_truncate(q->file, end << q->cluster_bits);
}

int alloc_finish(struct qcow2 *q)
{
	struct alloc *a = q->alloc;
	int r = 0;

	while (a->owned.count && !r) {
		struct extent e = a->owned.v[a->owned.count - 1];

		a->owned.count--;
		r = refcount_change(q, e.first << q->cluster_bits, e.count << q->cluster_bits, -1);
	}
	return r ? r : cut_end(q);
}

/* ---- getting more -------------------------------------------------------------------------------------- */

static void add_owned(struct qcow2 *q, uint64_t first, uint64_t count, bool zero)
{
	struct alloc *a = q->alloc;
	bool fits;

	if (!count)
		return;
	pthread_mutex_lock(&a->lock);
	fits = extents_add(&a->owned, first, count, zero);
	if (!fits)
		extents_remove(&a->owned, first, count);
	pthread_mutex_unlock(&a->lock);
	if (!fits)
		refcount_change(q, first << q->cluster_bits, count << q->cluster_bits, -1);
}

/* Refcounts that say that metadata is free are lies. */
static int check_claimed(struct qcow2 *q, uint64_t first, uint64_t count)
{
	uint64_t host = first << q->cluster_bits;
	bool meets;

	meta_rdlock(q->meta);
	meets = metadata_meets(q, host, count << q->cluster_bits);
	meta_rdunlock(q->meta);
	return meets ? q_corrupt(q, "metadata between %#llx and %#llx has no refcount", (unsigned long long)host,
				 (unsigned long long)(host + (count << q->cluster_bits)))
		     : 0;
}

/* A few slices of the scan. True: there may be more to find. */
static bool scan_some(struct qcow2 *q)
{
	struct alloc *a = q->alloc;

	/* what cannot be read is left out */
	for (int i = 0; i < SCAN_SLICES && a->scan_at < a->scan_end; i++)
		if (refcounts_scan(q, &a->scan_at, a->scan_end))
			a->scan_at = MIN(a->scan_end, a->scan_at + a->per_slice);
	return a->scan_at < a->scan_end;
}

/* Begin again at the start, if that came to its end, and something was left out. */
static void scan_again(struct alloc *a)
{
	bool lost;

	if (a->scan_at < a->scan_end)
		return;
	pthread_mutex_lock(&a->lock);
	lost = a->lost;
	a->lost = false;
	pthread_mutex_unlock(&a->lock);
	if (lost) {
		a->scan_at = 0;
		a->scan_end = a->end;
	}
}

/* Take a run out of the spare ones. */
static bool take_spare(struct alloc *a, uint64_t want, uint64_t most, uint64_t after, struct extent *e)
{
	bool found;

	pthread_mutex_lock(&a->lock);
	found = extents_pick(&a->spare, want, after, e);
	/* more than is wanted, for those who come next */
	if (found && most > want) {
		struct extent more;

		if (extents_pick(&a->spare, most, e->first, &more))
			*e = more;
	}
	if (found)
		a->lost |= !extents_remove(&a->spare, e->first, e->count);
	pthread_mutex_unlock(&a->lock);
	return found;
}

static void put_spare(struct alloc *a, uint64_t first, uint64_t count, bool zero)
{
	pthread_mutex_lock(&a->lock);
	a->lost |= !extents_add(&a->spare, first, count, zero);
	pthread_mutex_unlock(&a->lock);
}

/* Give these their first reference; those that it cannot be done for are spare again. Returns how many have it, 0 if
 * the first of them was not spare after all, or -errno. */
static int64_t claim(struct qcow2 *q, const struct extent *e)
{
	struct alloc *a = q->alloc;
	int64_t n = refcounts_claim(q, e->first, e->count);
	uint64_t done = n > 0 ? (uint64_t)n : 0;
	int r = done ? check_claimed(q, e->first, done) : 0;

	if (n && done < e->count)
		put_spare(a, e->first + done, e->count - done, e->zero);
	return r ? r : n;
}

/* Own some of the spare ones. Returns how many, 0: there are none, or -errno. */
static int64_t refill_spare(struct qcow2 *q, uint64_t want, uint64_t after)
{
	struct alloc *a = q->alloc;
	struct extent e;
	int64_t n = 0;

	while (!n) {
		if (!take_spare(a, want, MAX(want, a->step), after, &e)) {
			scan_again(a);
			scan_some(q);
			if (!take_spare(a, want, MAX(want, a->step), after, &e))
				return 0;
		}
		n = claim(q, &e);
	}
	if (n > 0)
		add_owned(q, e.first, (uint64_t)n, e.zero);
	return n;
}

/* The file cannot grow: what can still be found? As refill_spare(). */
static int64_t refill_last(struct qcow2 *q, uint64_t want)
{
	struct alloc *a = q->alloc;
	int64_t n = 0;

	meta_reclaim(q->meta); /* what cannot be made durable is not free either */
	do
		n = refill_spare(q, want, 0);
	while (!n && a->scan_at < a->scan_end);
	return n;
}

/* The file is this long, at least, so that no cluster lies behind its end. */
static int lengthen(struct qcow2 *q, uint64_t end)
{
	struct alloc *a = q->alloc;
	int r;

	if (end > a->limit)
		return -ENOSPC;
	if (end <= a->file_end)
		return 0;
	r = q->host->file_truncate(q->file, end << q->cluster_bits);
	if (!r) {
		a->file_end = end;
		atomic_store(&q->file_end, end << q->cluster_bits);
	}
	return r;
}

/*
 * Own clusters at the end of the file: at most count, at least one; all within what one refcount block describes, unless
 * whole is set, which is for who needs them in one piece: then it is count or an error.
 */
static int64_t refill_end(struct qcow2 *q, uint64_t count, bool whole, uint64_t *first)
{
	struct alloc *a = q->alloc;
	uint64_t want;
	int64_t n;
	int r;

	for (;;) {
		r = blocks_ensure(q, whole ? count : 1);
		if (r)
			return r;
		want = whole ? count : MIN(count, a->per_block - (a->end & (a->per_block - 1)));
		if (!whole && a->end < a->limit)
			want = MIN(want, a->limit - a->end);
		r = lengthen(q, a->end + want);
		if (r)
			return r;
		n = refcounts_claim(q, a->end, want);
		if (n < 0)
			return n;
		if (n > 0)
			r = check_claimed(q, a->end, (uint64_t)n);
		if (r)
			return r;
		*first = a->end;
		a->end += (uint64_t)n;
		if (n > 0 && (!whole || (uint64_t)n == count))
			return n;
		/* Something behind the end has a refcount: step over it. */
		add_owned(q, *first, (uint64_t)n, a->grows);
		a->end++;
	}
}

/* Under refill. There is something owned afterwards. */
static int refill(struct qcow2 *q, uint64_t want, uint64_t after)
{
	uint64_t enough = MIN(STEP_MOST, __atomic_load_n(&q->size, __ATOMIC_RELAXED) / STEP_SHARE);
	struct alloc *a = q->alloc;
	uint64_t first;
	int64_t n = refill_spare(q, want, after);

	if (n)
		return n < 0 ? (int)n : 0;
	n = refill_end(q, MAX(a->step, MIN(want, STEP_MOST >> q->cluster_bits)), false, &first);
	if (n == -ENOSPC) {
		n = refill_last(q, want);
		return n > 0 ? 0 : n < 0 ? (int)n : -ENOSPC;
	}
	if (n < 0)
		return (int)n;
	add_owned(q, first, (uint64_t)n, a->grows);
	if (a->step < enough >> q->cluster_bits)
		a->step *= 2;
	return 0;
}

static bool take_owned(struct alloc *a, uint64_t want, uint64_t after, bool whole, struct extent *e)
{
	bool found;

	pthread_mutex_lock(&a->lock);
	/* A run can be taken out of the middle of another only if there is room for what is behind it. */
	found = extents_pick(&a->owned, want, extents_reserve(&a->owned) ? after : 0, e);
	if (found && whole && e->count < want)
		found = false;
	if (found)
		extents_remove(&a->owned, e->first, e->count);
	pthread_mutex_unlock(&a->lock);
	return found;
}

/* So many spare ones in one piece. False: they are not known. */
static bool claim_whole(struct qcow2 *q, uint64_t clusters, uint64_t *first)
{
	struct alloc *a = q->alloc;
	struct extent e;
	int64_t n;

	if (!take_spare(a, clusters, clusters, 0, &e))
		return false;
	if (e.count < clusters) {
		put_spare(a, e.first, e.count, e.zero);
		return false;
	}
	n = claim(q, &e);
	*first = e.first;
	if (n >= 0 && (uint64_t)n == clusters)
		return true;
	if (n > 0)
		add_owned(q, e.first, (uint64_t)n, e.zero);
	return false;
}

/* ---- public -------------------------------------------------------------------------------------------- */

int alloc_data(struct qcow2 *q, uint64_t clusters, uint64_t after, uint64_t *host, uint64_t *got, bool *zero)
{
	struct alloc *a = q->alloc;
	struct extent e;
	int r = 0;

	after >>= q->cluster_bits;
	while (!take_owned(a, clusters, after, false, &e)) {
		pthread_mutex_lock(&a->refill);
		/* somebody else may have done it while we waited */
		pthread_mutex_lock(&a->lock);
		r = a->owned.count;
		pthread_mutex_unlock(&a->lock);
		r = r ? 0 : refill(q, clusters, after);
		pthread_mutex_unlock(&a->refill);
		if (r)
			return r;
	}
	*host = e.first << q->cluster_bits;
	*got = e.count;
	*zero = e.zero;
	atomic_fetch_add_explicit(&q->count.allocated, e.count, memory_order_relaxed);
	return 0;
}

int alloc_clusters(struct qcow2 *q, uint64_t clusters, uint64_t after, uint64_t *host, uint64_t *got)
{
	bool zero;

	return alloc_data(q, clusters, after, host, got, &zero);
}

int alloc_contiguous(struct qcow2 *q, uint64_t clusters, uint64_t *host)
{
	struct alloc *a = q->alloc;
	uint64_t got, first;
	struct extent e;
	int64_t n = 0;

	if (clusters == 1)
		return alloc_clusters(q, 1, 0, host, &got);
	if (take_owned(a, clusters, 0, true, &e)) {
		first = e.first;
	} else {
		pthread_mutex_lock(&a->refill);
		if (!claim_whole(q, clusters, &first))
			n = refill_end(q, clusters, true, &first);
		pthread_mutex_unlock(&a->refill);
		if (n < 0)
			return (int)n;
	}
	*host = first << q->cluster_bits;
	atomic_fetch_add_explicit(&q->count.allocated, clusters, memory_order_relaxed);
	return 0;
}

/* One cluster for compressed data, behind another one if that can be. */
static int next_for_bytes(struct qcow2 *q, uint64_t after, uint64_t *host)
{
	uint64_t got;

	return alloc_clusters(q, 1, after, host, &got);
}

/* The rest of the cluster at `at`, of which we have a reference now, and, if that is not enough, the next one. */
static int bytes_behind(struct qcow2 *q, uint64_t at, uint32_t csize, uint64_t *host)
{
	uint64_t next = align_up(at, q->cluster), second;
	int r;

	*host = at;
	if (at + csize <= next)
		return 0;
	r = next_for_bytes(q, next, &second);
	if (!r && second == next)
		return 0;
	refcount_change(q, at, 1, -1);
	*host = second;
	return r;
}

/* As alloc_bytes(), one at a time. */
static int take_bytes(struct qcow2 *q, uint32_t csize, uint64_t *host)
{
	struct alloc *a = q->alloc;
	uint64_t at;
	int r;

	pthread_mutex_lock(&a->lock);
	at = a->bytes_at;
	pthread_mutex_unlock(&a->lock);
	r = is_aligned(at, q->cluster) ? -ESTALE : refcount_share(q, at >> q->cluster_bits);
	if (!r)
		r = bytes_behind(q, at, csize, host);
	else if (r == -ESTALE)
		r = next_for_bytes(q, at, host);
	if (r)
		return r;
	pthread_mutex_lock(&a->lock);
	a->bytes_at = *host + csize;
	pthread_mutex_unlock(&a->lock);
	return 0;
}

int alloc_bytes(struct qcow2 *q, uint32_t csize, uint64_t *host)
{
	struct alloc *a = q->alloc;
	int r;

	pthread_mutex_lock(&a->bytes);
	r = take_bytes(q, csize, host);
	pthread_mutex_unlock(&a->bytes);
	/* Bits of an L2 entry for the offset of compressed data. */
	if (!r && *host + csize > 1ull << (62 - (q->cluster_bits - 8))) {
		alloc_release(q, *host, csize);
		r = -EFBIG;
	}
	return r;
}

int alloc_release(struct qcow2 *q, uint64_t host, uint64_t length)
{
	struct alloc *a = q->alloc;
	uint64_t refcount = 1;
	int r = 0;

	if (!is_aligned(host | length, q->cluster))
		return refcount_change(q, host, length, -1);
	/* Compressed data that fills a cluster, of which others may have a part by now? */
	if (length == q->cluster)
		r = refcount_get(q, host, &refcount);
	if (r || refcount != 1)
		return r ? r : refcount_change(q, host, length, -1);
	pthread_mutex_lock(&a->lock);
	if (ranges_meet(host, length, a->bytes_at - 1, 1))
		a->bytes_at = 0;
	pthread_mutex_unlock(&a->lock);
	add_owned(q, host >> q->cluster_bits, length >> q->cluster_bits, false);
	return 0;
}
