/*
 * qcow2/write.c - writev(), and new L2 tables
 *
 * A write goes in place where the disk has clusters of its own, which is most of the time: then no table changes.
 * Everything else is done under a claim of whole clusters, run by run:
 *
 *      plan        what the entries say now, how many clusters in sequence are alike: "own" ones (their host cluster
 *                  is ours alone, but some of it reads as zeroes or from below), or ones that need a new host cluster
 *      allocate    as many as there are in one piece
 *      write       what the guest writes, with what it does not overwrite of the first and the last cluster in front
 *                  and behind (copy-on-write: "head" and "tail"), in one call
 *      link        the entries are changed in the cache, and the old clusters deferred
 *
 * With extended L2 entries this is done for subclusters: new ones cost as little as they hold. Without them, a cluster
 * is one subcluster here.
 *
 * What can go wrong: reading what is copied, writing, full disks. Then what was allocated is given back, and nothing
 * has changed. Entries that contradict the format, and host clusters that hold metadata, make the image read-only.
 *
 * Threads: workers. The buffers may change while we look: nothing is decided by them.
 */
#include <errno.h>
#include <stdlib.h>

#include "alloc.h"

#define RUN_MAX  120 /* clusters linked at once: what one meta_begin() may defer */
#define FEW_IOVS 64

/* One cluster as its entry tells it. Bits of masks are subclusters. */
struct state {
	uint64_t host;      /* 0: none */
	uint32_t data;      /* subclusters that are in host */
	uint32_t zero;      /* that read as zeroes */
	bool own;           /* host is ours alone */
	struct cluster raw; /* of the first subcluster */
};

/* Clusters in sequence that are written and linked together. */
struct run {
	struct meta_slice *slice; /* of their entries */
	uint64_t entries;         /* offset of the first in the file */
	uint64_t start;           /* guest offset of the first cluster */
	uint64_t from, to;        /* guest: what is overwritten */
	uint64_t low, high;       /* guest: what is written, with head and tail */
	unsigned clusters;
	bool own;                 /* no new clusters */
	bool zero;                /* the host clusters read as zeroes */
	uint64_t host;            /* of the first */
	uint64_t after;           /* where new ones would be contiguous, or 0 */
	struct state first, last;
};

static uint64_t disk_size(const struct qcow2 *q)
{
	return __atomic_load_n(&q->size, __ATOMIC_RELAXED);
}

/* All subclusters of a cluster. */
static uint32_t all_bits(const struct qcow2 *q)
{
	return q->extended_l2 ? UINT32_MAX : 1;
}

/* The subclusters of the cluster at start that from to end touches. */
static uint32_t bits_of(const struct qcow2 *q, uint64_t start, uint64_t from, uint64_t end)
{
	uint64_t first, count;

	from = MAX(from, start);
	end = MIN(end, start + q->cluster);
	if (from >= end)
		return 0;
	first = (from - start) / q->subcluster;
	count = (end - start + q->subcluster - 1) / q->subcluster - first;
	return (uint32_t)(((1ull << count) - 1) << first);
}

/* ---- entries ------------------------------------------------------------------------------------------- */

/* Lock. False: the entry is impossible. */
static bool state_get(const struct qcow2 *q, const uint8_t *entry, struct state *s)
{
	uint64_t bitmap = q->extended_l2 ? get_be64(entry + 8) : 0, value = get_be64(entry);

	*s = (struct state){ 0 };
	entry_decode(q, value, bitmap, 0, &s->raw);
	if (s->raw.kind == CLUSTER_INVALID)
		return false;
	if (s->raw.kind == CLUSTER_COMPRESSED) {
		s->data = all_bits(q);
		return true;
	}
	s->host = value & ENTRY_OFFSET;
	s->own = s->host && value & ENTRY_COPIED;
	if (q->extended_l2) {
		s->data = (uint32_t)bitmap;
		s->zero = (uint32_t)(bitmap >> 32);
		return !(s->data & s->zero) && (s->host || !s->data) && is_aligned(s->host, q->cluster);
	}
	s->data = s->raw.kind == CLUSTER_DATA;
	s->zero = s->raw.kind == CLUSTER_ZERO;
	return true;
}

static void state_put(const struct qcow2 *q, uint8_t *entry, const struct state *s)
{
	uint64_t value = s->host | ENTRY_COPIED;

	if (q->extended_l2)
		put_be64(entry + 8, (uint64_t)s->zero << 32 | s->data);
	else if (s->zero)
		value |= ENTRY_ZERO;
	put_be64(entry, value);
}

static bool is_compressed(const struct state *s)
{
	return s->raw.kind == CLUSTER_COMPRESSED;
}

/* Lock. What this cluster has must not be metadata: it is going to be freed. */
static bool old_is_metadata(const struct qcow2 *q, const struct state *s)
{
	if (is_compressed(s))
		return metadata_meets(q, s->raw.host, s->raw.csize);
	return s->host && metadata_meets(q, s->host, q->cluster);
}

/* Does the guest read zeroes in this part of the cluster, and is that known without I/O? */
static bool reads_zero(const struct qcow2 *q, const struct state *s, uint64_t start, uint64_t from, uint64_t to)
{
	uint32_t bits = bits_of(q, start, from, to);

	if (bits & s->data)
		return false;
	return !(bits & ~s->zero) || !q->backing || from >= q->backing_size;
}

/* ---- in place ------------------------------------------------------------------------------------------ */

/* Lock. How far the disk has own data from guest offset `at` on, in sequence in the file; *host is where. */
static uint64_t in_place_length(struct qcow2 *q, uint64_t at, uint64_t length, uint64_t *host, int *error)
{
	uint64_t done = 0;

	*error = 0;
	while (done < length) {
		uint64_t inside = (at + done) & (q->subcluster - 1), here;
		struct cluster c;
		int r = cluster_get(q, at + done, &c);

		if (r) {
			*error = done ? 0 : r;
			break;
		}
		if (c.kind != CLUSTER_DATA || !c.copied)
			break;
		here = c.host + inside;
		if (!done)
			*host = here;
		else if (here != *host + done)
			break;
		done += MIN(length - done, q->subcluster - inside);
	}
	return done;
}

static int file_write(struct qcow2 *q, const struct cursor *data, uint64_t length, const struct iovec *head,
		      const struct iovec *tail, uint64_t host)
{
	struct iovec few[FEW_IOVS], *iov = few;
	uint64_t bytes;
	int n = 0, r;

	if (data->count + 2 > FEW_IOVS) {
		iov = malloc((size_t)(data->count + 2) * sizeof(*iov));
		if (!iov)
			return -ENOMEM;
	}
	if (head->iov_len)
		iov[n++] = *head;
	n += cursor_window(data, length, iov + n, data->count, &bytes);
	if (tail->iov_len)
		iov[n++] = *tail;
	r = q->host->file_writev(q->file, iov, n, host);
	if (iov != few)
		free(iov);
	return r;
}

/* Write what has its place already, from the start of the range on. *done: how much that was, perhaps nothing. */
static int write_in_place(struct qcow2 *q, const struct cursor *data, uint64_t offset, uint64_t length, uint64_t *done)
{
	static const struct iovec nothing;
	struct meta_slice *slice = NULL;
	uint64_t host = 0, token = 0;
	bool meets = false;
	int r;

	for (;;) {
		meta_rdlock(q->meta);
		*done = 0;
		r = q->corrupt ? -EIO : 0;
		if (!r)
			*done = in_place_length(q, offset, length, &host, &r);
		if (*done)
			meets = metadata_meets(q, host, *done);
		if (*done && !meets)
			token = meta_enter(q->meta);
		meta_rdunlock(q->meta);
		if (r != -EAGAIN)
			break;
		meta_unpin(q->meta, slice);
		r = q_load(q, offset, &slice);
		if (r)
			return r;
	}
	meta_unpin(q->meta, slice);
	if (meets)
		return q_corrupt(q, "the data of the disk at %llu is at %#llx, where metadata is",
				 (unsigned long long)offset, (unsigned long long)host);
	if (*done) {
		r = file_write(q, data, *done, &nothing, &nothing, host);
		meta_exit(q->meta, token);
	}
	return r;
}

/* ---- planning ------------------------------------------------------------------------------------------ */

static int bad_entry(struct qcow2 *q, uint64_t guest)
{
	return q_corrupt(q, "the L2 entry of the disk's offset %llu is impossible", (unsigned long long)guest);
}

/* Lock. Offset of the entry of the run's nth cluster in memory. */
static const uint8_t *entry_of(const struct qcow2 *q, const struct run *run, unsigned n)
{
	return meta_at(run->slice, run->entries + (uint64_t)n * q->entry_size);
}

/* Lock. Where the cluster in front of the run is, if that can be known at once; new ones go behind it. */
static uint64_t host_before(const struct qcow2 *q, const struct run *run)
{
	struct state s;

	if (is_aligned(run->entries, q->slice))
		return 0;
	if (!state_get(q, entry_of(q, run, 0) - q->entry_size, &s) || !s.host)
		return 0;
	return s.host + q->cluster;
}

/* Lock. May the cluster with state s follow the last one of the run? */
static bool fits_behind(const struct qcow2 *q, const struct run *run, const struct state *s)
{
	if (s->own != run->own)
		return false;
	return !run->own || s->host == run->last.host + q->cluster;
}

/*
 * Lock. From the entries: which clusters from run->start on are one run, up to run->to. -EUCLEAN: an entry is
 * impossible; -ESTALE: a cluster that would be freed or written holds metadata.
 */
static int plan(const struct qcow2 *q, struct run *run)
{
	unsigned most = (unsigned)((run->to - run->start + q->cluster - 1) >> q->cluster_bits);
	struct state s;

	if (!state_get(q, entry_of(q, run, 0), &run->first))
		return -EUCLEAN;
	run->own = run->first.own;
	run->host = run->own ? run->first.host : 0;
	run->after = run->own ? 0 : host_before(q, run);
	s = run->first;
	for (run->clusters = 0; run->clusters < MIN(most, RUN_MAX);) {
		if (old_is_metadata(q, &s))
			return -ESTALE;
		run->last = s;
		run->clusters++;
		if (run->clusters == most)
			break;
		if (!state_get(q, entry_of(q, run, run->clusters), &s) || !fits_behind(q, run, &s))
			break;
	}
	return 0;
}

/* ---- allocating ---------------------------------------------------------------------------------------- */

/* The run gets shorter: so many clusters of it are done now. */
static void shorten(struct qcow2 *q, struct run *run, unsigned clusters)
{
	if (clusters < run->clusters) {
		run->clusters = clusters;
		meta_rdlock(q->meta);
		state_get(q, entry_of(q, run, clusters - 1), &run->last);
		meta_rdunlock(q->meta);
	}
	run->to = MIN(run->to, run->start + ((uint64_t)run->clusters << q->cluster_bits));
}

static int allocate(struct qcow2 *q, struct run *run)
{
	uint64_t got = run->clusters;
	int r = 0;

	if (!run->own)
		r = alloc_data(q, run->clusters, run->after, &run->host, &got, &run->zero);
	if (!r)
		shorten(q, run, (unsigned)got);
	return r;
}

static void give_back(struct qcow2 *q, const struct run *run)
{
	if (!run->own)
		alloc_release(q, run->host, (uint64_t)run->clusters << q->cluster_bits);
}

/* ---- copy-on-write ------------------------------------------------------------------------------------- */

static uint64_t start_of_last(const struct qcow2 *q, const struct run *run)
{
	return run->start + ((uint64_t)(run->clusters - 1) << q->cluster_bits);
}

/*
 * What has to be written around the guest's bytes. In a cluster of our own: the rest of a subcluster that had no
 * data. In a new one: that, and whatever data there was.
 */
static void find_edges(const struct qcow2 *q, struct run *run)
{
	uint64_t last = start_of_last(q, run);
	uint32_t first_bits = bits_of(q, run->start, run->from, run->to);
	uint32_t last_bits = bits_of(q, last, run->from, run->to);
	unsigned low, high;

	if (!run->own) {
		first_bits |= run->first.data;
		last_bits |= run->last.data;
	}
	low = (unsigned)__builtin_ctz(first_bits);
	high = 32 - (unsigned)__builtin_clz(last_bits);
	run->low = run->start + (uint64_t)low * q->subcluster;
	run->high = last + (uint64_t)high * q->subcluster;
	/* What is there already stays there. */
	if (run->own && run->first.data & 1u << low)
		run->low = run->from;
	if (run->own && run->last.data & 1u << (high - 1))
		run->high = run->to;
	/* What need not be written, because it is so. */
	if (run->zero && reads_zero(q, &run->first, run->start, run->low, run->from))
		run->low = run->from;
	if (run->zero && reads_zero(q, &run->last, last, run->to, run->high))
		run->high = run->to;
}

/* A buffer with what the guest reads from `from` to `to`, which may be behind the end of the disk. */
static int read_edge(struct qcow2 *q, const struct state *s, uint64_t start, uint64_t from, uint64_t to,
		     struct iovec *edge)
{
	uint64_t size = disk_size(q);

	*edge = (struct iovec){ 0 };
	if (from >= to)
		return 0;
	edge->iov_base = q->host->alloc(q->host, to - from);
	if (!edge->iov_base)
		return -ENOMEM;
	edge->iov_len = to - from;
	atomic_fetch_add_explicit(&q->count.copied_on_write, edge->iov_len, memory_order_relaxed);
	if (from >= size || reads_zero(q, s, start, from, to))
		return 0;
	return q_read(q, edge->iov_base, from, MIN(to, size) - from);
}

static int write_run(struct qcow2 *q, const struct cursor *data, const struct run *run)
{
	struct iovec head = { 0 }, tail = { 0 };
	uint64_t host = run->host + (run->low - run->start);
	bool meets;
	int r = read_edge(q, &run->first, run->start, run->low, run->from, &head);

	if (!r)
		r = read_edge(q, &run->last, start_of_last(q, run), run->to, run->high, &tail);
	if (!r) {
		meta_rdlock(q->meta);
		meets = metadata_meets(q, host, run->high - run->low);
		meta_rdunlock(q->meta);
		r = meets ? q_corrupt(q, "new data would go to %#llx, where metadata is",
				      (unsigned long long)host)
			  : file_write(q, data, run->to - run->from, &head, &tail, host);
	}
	q->host->free(q->host, head.iov_base);
	q->host->free(q->host, tail.iov_base);
	return r;
}

/* ---- linking ------------------------------------------------------------------------------------------- */

/* Old clusters, in sequence as long as they are. */
struct old {
	uint64_t host, length;
};

static void defer(struct qcow2 *q, struct old *old, uint64_t host, uint64_t length)
{
	if (old->length && old->host + old->length == host) {
		old->length += length;
		return;
	}
	if (old->length)
		meta_defer(q->meta, old->host, old->length);
	*old = (struct old){ host, length };
}

/* Write lock. The new entry of the nth cluster. */
static void relink(struct qcow2 *q, const struct run *run, unsigned n, struct old *old, uint8_t *entry)
{
	uint64_t start = run->start + ((uint64_t)n << q->cluster_bits);
	struct state s;

	state_get(q, entry_of(q, run, n), &s);
	if (is_compressed(&s))
		/* Not joined with its neighbours: they may share a cluster, and each has a reference. */
		meta_defer(q->meta, s.raw.host, s.raw.csize);
	else if (!run->own && s.host)
		defer(q, old, s.host, q->cluster);
	s.host = run->host + ((uint64_t)n << q->cluster_bits);
	s.data |= bits_of(q, start, run->from, run->to);
	s.zero &= ~s.data;
	state_put(q, entry, &s);
}

static int link_run(struct qcow2 *q, const struct run *run)
{
	unsigned at_once = 64 / q->entry_size;
	uint8_t entries[64];
	struct old old = { 0 };
	int r = meta_begin(q->meta, (run->clusters + at_once - 1) / at_once);

	if (r)
		return r;
	for (unsigned n = 0; n < run->clusters; n += at_once) {
		unsigned count = MIN(at_once, run->clusters - n);

		for (unsigned i = 0; i < count; i++)
			relink(q, run, n + i, &old, entries + i * q->entry_size);
		meta_set(q->meta, ORDER_L2, run->slice, run->entries + (uint64_t)n * q->entry_size, entries,
			 count * q->entry_size);
	}
	defer(q, &old, 0, 0);
	meta_end(q->meta);
	return 0;
}

/* ---- under a claim ------------------------------------------------------------------------------------- */

/* Pin the entries, and plan. -ENOENT: there is no L2 table of our own. */
static int prepare(struct qcow2 *q, struct run *run)
{
	uint64_t l2, index = run->start >> (q->cluster_bits + q->l2_bits);
	int r = q_load(q, run->start, &run->slice);

	if (r)
		return r;
	meta_rdlock(q->meta);
	l2 = l2_table_of(q, run->start);
	if (q->corrupt) {
		r = -EIO;
	} else if (!run->slice || !l2 || !(q->l1[index] & ENTRY_COPIED)) {
		r = -ENOENT;
	} else {
		run->entries = l2_entry_at(q, l2, run->start);
		r = plan(q, run);
	}
	meta_rdunlock(q->meta);
	if (r == -EUCLEAN)
		return bad_entry(q, run->start);
	if (r == -ESTALE)
		return q_corrupt(q, "the L2 entry of the disk's offset %llu, or one behind it, names a cluster of metadata",
				 (unsigned long long)run->start);
	return r;
}

static int write_claimed(struct qcow2 *q, const struct cursor *data, struct run *run)
{
	int r = prepare(q, run);

	if (!r)
		r = allocate(q, run);
	if (r)
		return r;
	find_edges(q, run);
	r = write_run(q, data, run);
	if (!r)
		r = link_run(q, run);
	if (r)
		give_back(q, run);
	return r;
}

/* Have an L2 table of our own. */
static int claim_table(struct qcow2 *q, uint64_t guest)
{
	unsigned bits = q->cluster_bits + q->l2_bits;
	uint64_t start = guest >> bits << bits;
	struct claim claim;
	int r;

	claims_take(&q->claims, &claim, start, start + (1ull << bits));
	r = l2_make(q, guest);
	claims_give(&q->claims, &claim);
	return r;
}

/* Guest offsets whose entries are in the same slice end here. */
static uint64_t end_of_slice(const struct qcow2 *q, uint64_t guest)
{
	uint64_t covers = (uint64_t)(q->slice / q->entry_size) << q->cluster_bits;

	return align_down(guest, covers) + covers;
}

/* Write where something has to be allocated or changed, from the start of the range on. *done: how much that was. */
static int write_allocating(struct qcow2 *q, const struct cursor *data, uint64_t offset, uint64_t length,
			    uint64_t *done)
{
	struct run run = {
		.start = align_down(offset, q->cluster),
		.from = offset,
		.to = MIN(offset + length, end_of_slice(q, offset)),
	};
	struct claim claim;
	int r;

	run.to = MIN(run.to, run.start + ((uint64_t)RUN_MAX << q->cluster_bits));
	claims_take(&q->claims, &claim, run.start, align_up(run.to, q->cluster));
	r = write_claimed(q, data, &run);
	claims_give(&q->claims, &claim);
	meta_unpin(q->meta, run.slice);
	*done = r ? 0 : run.to - run.from;
	return r == -ENOENT ? claim_table(q, offset) : r;
}

/* ---- public -------------------------------------------------------------------------------------------- */

int q_writev(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct qcow2 *q = handle;
	struct cursor data = cursor_of(iov, iovcnt);
	uint64_t length = vectors_length(iov, iovcnt), done;
	int r = 0;

	while (length && !r) {
		r = write_in_place(q, &data, offset, length, &done);
		if (!r && !done)
			r = write_allocating(q, &data, offset, length, &done);
		cursor_advance(&data, done);
		offset += done;
		length -= done;
	}
	return r;
}

int q_flush(void *handle)
{
	struct qcow2 *q = handle;

	return meta_checkpoint(q->meta);
}

/* ---- L2 tables ----------------------------------------------------------------------------------------- */

/* What the table holds, as the cache has it. */
static int table_read(struct qcow2 *q, uint64_t table, uint8_t *buf)
{
	for (uint64_t i = 0; i < q->cluster; i += q->slice) {
		struct meta_slice *slice;
		int r = meta_pin(q->meta, table + i, &slice);

		if (r)
			return r;
		meta_rdlock(q->meta);
		memcpy(buf + i, meta_at(slice, table + i), q->slice);
		meta_rdunlock(q->meta);
		meta_unpin(q->meta, slice);
	}
	return 0;
}

/* The new table, in the file: empty, or what the old one says. */
static int table_write(struct qcow2 *q, uint64_t table, uint64_t old)
{
	struct iovec iov = { .iov_len = q->cluster };
	int r;

	meta_forget(q->meta, table, q->cluster);
	if (!old)
		return q->host->file_zero(q->file, table, q->cluster, 0);
	iov.iov_base = q->host->alloc(q->host, q->cluster);
	if (!iov.iov_base)
		return -ENOMEM;
	r = table_read(q, old, iov.iov_base);
	if (!r)
		r = q->host->file_writev(q->file, &iov, 1, table);
	q->host->free(q->host, iov.iov_base);
	return r;
}

static int table_link(struct qcow2 *q, uint64_t index, uint64_t table, uint64_t old)
{
	uint64_t at = q->h.l1_offset + index * 8;
	struct meta_slice *slice;
	uint8_t entry[8];
	int r = meta_pin(q->meta, at, &slice);

	if (r)
		return r;
	r = meta_begin(q->meta, 1);
	if (!r) {
		r = metadata_add(q, table, q->cluster);
		if (!r) {
			put_be64(entry, table | ENTRY_COPIED);
			q->l1[index] = table | ENTRY_COPIED;
			meta_set(q->meta, ORDER_L1, slice, at, entry, 8);
			if (old) {
				metadata_remove(q, old, q->cluster);
				meta_defer(q->meta, old, q->cluster);
			}
		}
		meta_end(q->meta);
	}
	meta_unpin(q->meta, slice);
	return r;
}

/* Lock not held. The table that there is now; 0: none. -EEXIST: and it is our own. */
static int table_now(struct qcow2 *q, uint64_t guest, uint64_t index, uint64_t *table)
{
	int r = 0;

	meta_rdlock(q->meta);
	*table = 0;
	if (q->corrupt || index >= q->h.l1_size)
		r = -EIO;
	else
		*table = l2_table_of(q, guest);
	if (!r && *table && q->l1[index] & ENTRY_COPIED)
		r = -EEXIST;
	meta_rdunlock(q->meta);
	return r;
}

int l2_make(struct qcow2 *q, uint64_t guest)
{
	uint64_t index = guest >> (q->cluster_bits + q->l2_bits), old, table, got;
	bool zero, meets;
	int r = table_now(q, guest, index, &old);

	if (r)
		return r == -EEXIST ? 0 : r;
	r = alloc_data(q, 1, 0, &table, &got, &zero);
	if (r)
		return r;
	meta_rdlock(q->meta);
	meets = metadata_meets(q, table, q->cluster);
	meta_rdunlock(q->meta);
	r = meets ? q_corrupt(q, "a new L2 table would go to %#llx, where metadata is", (unsigned long long)table)
		  : table_write(q, table, old);
	if (!r)
		r = table_link(q, index, table, old);
	if (r)
		alloc_release(q, table, q->cluster);
	return r;
}
