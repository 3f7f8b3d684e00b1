/*
 * qcow2/read.c - what the guest sees: from entries to runs, extents and bytes
 *
 * runs_get() turns a range of the disk into runs: neighbours of one kind whose data is contiguous in the file
 * are one run, across clusters, slices and L2 tables. It needs the metadata's lock for moments only and reads
 * nothing. map() gives the runs out as extents, so that the host does the I/O itself; a slice that is missing it
 * reads if that does not wait for the storage (q_load_now). readv() has the missing slices read in any case
 * (q_load) and does the I/O here. Between the lock and the end of the I/O a token (meta_enter)
 * keeps clusters from being freed.
 *
 * What this image does not hold comes from the backing file, as far as that reaches, and is zeroes behind it.
 *
 * What can go wrong: I/O errors; entries that contradict the format (EIO for their range, reported once for
 * an image); compressed data that is none (the same).
 *
 * Threads: map() on any, and it never blocks; the rest on workers.
 */
#include <errno.h>
#include <stdlib.h>

#include "qcow2.h"

#define RUNS   32
#define VECS   256          /* of one call: what an indirect request has */

struct run {
	enum cluster_kind kind;
	bool copied;
	uint32_t csize;
	uint64_t host; /* compressed: start of the data; else that of the run; 0 if there is none */
	uint64_t guest, length;
};

/* ---- runs ---------------------------------------------------------------------------------------------- */

static bool joins(const struct run *run, const struct run *next)
{
	if (run->kind != next->kind || run->copied != next->copied)
		return false;
	switch (run->kind) {
	case CLUSTER_DATA:
		return run->host + run->length == next->host;
	case CLUSTER_COMPRESSED:
		return false;
	default:
		return true;
	}
}

/* Where runs are collected. */
struct runs {
	struct run *run;
	int count, max;
	uint64_t guest, end; /* what is left to look at */
};

/* The next length bytes are like next. False: there is no room for another run. */
static bool add_run(struct runs *runs, struct run next, uint64_t length)
{
	struct run *last = runs->count ? &runs->run[runs->count - 1] : NULL;

	next.guest = runs->guest;
	next.length = MIN(length, runs->end - runs->guest);
	if (next.kind != CLUSTER_DATA)
		next.copied = false;
	if (last && joins(last, &next)) {
		last->length += next.length;
	} else {
		if (runs->count == runs->max)
			return false;
		runs->run[runs->count++] = next;
	}
	runs->guest += next.length;
	return true;
}

/* Subclusters from index on that have the same two bits. */
static unsigned same_bits(uint64_t bitmap, unsigned index)
{
	uint32_t allocated = (uint32_t)bitmap >> index, zero = (uint32_t)(bitmap >> 32) >> index;
	uint32_t changes = (allocated & 1 ? ~allocated : allocated) | (zero & 1 ? ~zero : zero);
	unsigned run = changes ? (unsigned)__builtin_ctz(changes) : SUBCLUSTERS;

	return MIN(run, SUBCLUSTERS - index);
}

/* One entry, from runs->guest to the end of its cluster. */
static bool add_entry(const struct qcow2 *q, struct runs *runs, uint64_t entry, uint64_t bitmap)
{
	uint64_t cluster_end = align_down(runs->guest, q->cluster) + q->cluster;

	while (runs->guest < MIN(cluster_end, runs->end)) {
		unsigned index = (unsigned)((runs->guest & (q->cluster - 1)) / q->subcluster);
		uint64_t inside = runs->guest & (q->subcluster - 1), length;
		struct cluster c;
		struct run run;

		entry_decode(q, entry, bitmap, index, &c);
		run = (struct run){
			.kind = c.kind, .copied = c.copied, .csize = c.csize, .host = c.host
		};
		if (c.kind == CLUSTER_DATA)
			run.host += inside;
		length = c.kind == CLUSTER_COMPRESSED || !q->extended_l2
				 ? cluster_end - runs->guest
				 : (uint64_t)same_bits(bitmap, index) * q->subcluster - inside;
		if (!add_run(runs, run, length))
			return false;
	}
	return true;
}

/* All entries of one slice. */
static bool add_slice(const struct qcow2 *q, struct runs *runs, const uint8_t *p, uint64_t at)
{
	uint32_t left = (q->slice - (uint32_t)(at & (q->slice - 1))) / q->entry_size;

	for (; left && runs->guest < runs->end; left--, p += q->entry_size)
		if (!add_entry(q, runs, get_be64(p), q->extended_l2 ? get_be64(p + 8) : 0))
			return false;
	return true;
}

/* Under the lock. The runs of a range, up to max of them and as far as the tables are in memory: their number, or
 * -EAGAIN if the very first entry is not (q_load). */
static int runs_get(const struct qcow2 *q, uint64_t guest, uint64_t length, struct run *run,
		    int max)
{
	struct runs runs = { .run = run, .max = max, .guest = guest, .end = guest + length };
	uint64_t covered = (uint64_t)q->l2_entries << q->cluster_bits; /* by one L2 table */

	while (runs.guest < runs.end) {
		uint64_t l2 = l2_table_of(q, runs.guest), at;
		const uint8_t *p;

		if (!l2) {
			struct run none = { .kind = l1_bad(q, runs.guest) ? CLUSTER_INVALID
									  : CLUSTER_NONE };

			if (!add_run(&runs, none, covered - (runs.guest & (covered - 1))))
				break;
			continue;
		}
		at = l2_entry_at(q, l2, runs.guest);
		p = meta_peek(q->meta, at);
		if (!p || !add_slice(q, &runs, p, at))
			break;
	}
	return runs.count ? runs.count : -EAGAIN;
}

/* ---- map ----------------------------------------------------------------------------------------------- */

/* How many of the runs can be read, or written in place, by whom the extents are given to. */
static int usable_runs(struct qcow2 *q, const struct run *run, int n, bool write)
{
	uint64_t file_end = atomic_load_explicit(&q->file_end, memory_order_relaxed);
	int i;

	if (write && q->corrupt)
		return 0;
	for (i = 0; i < n; i++) {
		if (!write && (run[i].kind == CLUSTER_COMPRESSED || run[i].kind == CLUSTER_INVALID))
			break;
		if (write && (run[i].kind != CLUSTER_DATA || !run[i].copied ||
			      !range_inside(run[i].host, run[i].length, file_end) ||
			      metadata_meets(q, run[i].host, run[i].length)))
			break;
	}
	return i;
}

/* Extents being collected for map(). */
struct extents {
	struct rd_extent *extent;
	int count, max;
};

static bool add_extent(struct extents *e, struct rd_file *file, uint64_t offset, uint64_t length,
		       uint32_t kind)
{
	struct rd_extent *last = e->count ? &e->extent[e->count - 1] : NULL;

	if (last && last->kind == kind && last->file == file &&
	    (kind != RD_EXTENT_DATA || last->file_offset + last->length == offset)) {
		last->length += length;
		return true;
	}
	if (e->count == e->max)
		return false;
	e->extent[e->count++] = (struct rd_extent){
		.file = file,
		.file_offset = offset,
		.length = length,
		.kind = kind,
	};
	return true;
}

/*
 * What a range of the backing file is. Its token is given back at once: it is open read-only, so that no
 * cluster of it is ever freed or moved, and its file stays open as long as this image.
 */
static bool add_backing(struct qcow2 *q, struct extents *e, uint64_t guest, uint64_t length)
{
	uint64_t end = MIN(guest + length, q->backing_size), token;

	while (guest < end) {
		struct rd_extent below[8];
		int n = q->host->child_map(q->backing, guest, end - guest, 0, below,
					   (int)ARRAY_SIZE(below), &token);

		if (n < 0)
			return false;
		q->host->child_unmap(q->backing, token);
		for (int i = 0; i < n; guest += below[i++].length)
			if (!add_extent(e, below[i].file, below[i].file_offset, below[i].length,
					below[i].kind))
				return false;
	}
	return true;
}

static bool add_none(struct qcow2 *q, struct extents *e, uint64_t guest, uint64_t length)
{
	uint64_t below = 0;

	if (q->backing && guest < q->backing_size) {
		below = MIN(length, q->backing_size - guest);
		if (!add_backing(q, e, guest, below))
			return false;
	}
	/* A hole that is behind the end of the backing file hides nothing: it is zeroes like any other. */
	return below == length || add_extent(e, NULL, 0, length - below, RD_EXTENT_HOLE);
}

static int to_extents(struct qcow2 *q, const struct run *run, int n, struct rd_extent *extent,
		      int max)
{
	struct extents e = { .extent = extent, .max = max };
	bool room = true;

	for (int i = 0; i < n && room; i++)
		switch (run[i].kind) {
		case CLUSTER_DATA:
			room = add_extent(&e, q->file, run[i].host, run[i].length, RD_EXTENT_DATA);
			break;
		case CLUSTER_NONE:
			room = add_none(q, &e, run[i].guest, run[i].length);
			break;
		default:
			room = add_extent(&e, NULL, 0, run[i].length, RD_EXTENT_ZERO);
		}
	return e.count ? e.count : -EAGAIN;
}

/* The runs that map() may give out, and a token for them; -EAGAIN: none. *missing: the first slice is not in memory. */
static int runs_now(struct qcow2 *q, uint64_t offset, uint64_t length, bool write, struct run *run,
		    int max, uint64_t *token, bool *missing)
{
	int n;

	*missing = false;
	if (!meta_tryrdlock(q->meta))
		return -EAGAIN;
	n = runs_get(q, offset, length, run, max);
	*missing = n == -EAGAIN;
	if (n > 0)
		n = usable_runs(q, run, n, write);
	if (n > 0)
		*token = meta_enter(q->meta);
	meta_rdunlock(q->meta);
	return n > 0 ? n : -EAGAIN;
}

int q_map(void *handle, uint64_t offset, uint64_t length, int write, struct rd_extent *extents,
	  int max, uint64_t *token)
{
	struct qcow2 *q = handle;
	struct meta_slice *slice;
	struct run run[RUNS];
	bool missing;
	int n;

	/* What is written is looked at first if it may be zeroes. */
	if (write && q->detect_zeroes != DETECT_OFF)
		return -EAGAIN;
	max = MIN(max, RUNS);
	n = runs_now(q, offset, length, write, run, max, token, &missing);
	if (missing && q_load_now(q, offset, &slice) == 0) {
		n = runs_now(q, offset, length, write, run, max, token, &missing);
		meta_unpin(q->meta, slice);
	}
	if (n <= 0)
		return -EAGAIN;
	/* Nobody holds the lock here: the backing file has its own. */
	n = to_extents(q, run, n, extents, max);
	if (n < 0)
		meta_exit(q->meta, *token);
	return n;
}

void q_unmap(void *handle, uint64_t token)
{
	struct qcow2 *q = handle;

	meta_exit(q->meta, token);
}

/* ---- read ---------------------------------------------------------------------------------------------- */

/* length bytes of this file, or of the backing file if child is set, to the place. */
static int read_into(struct qcow2 *q, struct rd_child *child, uint64_t offset, uint64_t length,
		     struct cursor *to)
{
	struct iovec iov[VECS];
	uint64_t got;
	int r = 0;

	for (; !r && length; offset += got, length -= got) {
		int n = cursor_window(to, length, iov, VECS, &got);

		r = child ? q->host->child_readv(child, iov, n, offset)
			  : q->host->file_readv(q->file, iov, n, offset);
		cursor_advance(to, got);
	}
	return r;
}

static int read_none(struct qcow2 *q, uint64_t guest, uint64_t length, struct cursor *to)
{
	uint64_t below = 0;
	int r = 0;

	if (q->backing && guest < q->backing_size) {
		below = MIN(length, q->backing_size - guest);
		if (is_aligned(guest | below, q->backing_block))
			r = read_into(q, q->backing, guest, below, to);
		else
			r = cursor_read_bounced(to, q->host, q->backing, q->backing_block, guest, below);
	}
	if (!r)
		cursor_put(to, NULL, length - below);
	return r;
}

static int read_compressed(struct qcow2 *q, const struct run *run, struct cursor *to)
{
	const struct cluster c = { .kind = CLUSTER_COMPRESSED,
				   .host = run->host,
				   .csize = run->csize };
	struct decompressed *hold;
	int r;
	const uint8_t *data = decompressed_get(q, &c, &hold, &r);

	if (!data)
		return r;
	cursor_put(to, data + (run->guest & (q->cluster - 1)), run->length);
	decompressed_put(q, hold);
	return 0;
}

static int read_invalid(struct qcow2 *q, uint64_t guest)
{
	if (!atomic_exchange(&q->said_invalid, true))
		q->host->log(q->host, RD_LOG_ERR,
			     "%s: corrupt: the entry for offset %llu of the disk is impossible; "
			     "reading there fails "
			     "(this is said once)",
			     q->path, (unsigned long long)guest);
	return -EIO;
}

static int read_run(struct qcow2 *q, const struct run *run, struct cursor *to)
{
	switch (run->kind) {
	case CLUSTER_DATA:
		return read_into(q, NULL, run->host, run->length, to);
	case CLUSTER_NONE:
		return read_none(q, run->guest, run->length, to);
	case CLUSTER_COMPRESSED:
		return read_compressed(q, run, to);
	case CLUSTER_ZERO:
		cursor_put(to, NULL, run->length);
		return 0;
	case CLUSTER_INVALID:
	default:
		return read_invalid(q, run->guest);
	}
}

/* Runs of a range, with what is needed read first, and a token. */
static int runs_load(struct qcow2 *q, uint64_t guest, uint64_t length, struct run *run,
		     uint64_t *token)
{
	struct meta_slice *slice = NULL;
	int n;

	for (;;) {
		int r;

		meta_rdlock(q->meta);
		n = runs_get(q, guest, length, run, RUNS);
		if (n > 0)
			*token = meta_enter(q->meta);
		meta_rdunlock(q->meta);
		meta_unpin(q->meta, slice);
		if (n != -EAGAIN)
			return n;
		/* Pinned until it was looked at; the L2 table may be another one by then: again. */
		r = q_load(q, guest, &slice);
		if (r)
			return r;
	}
}

static int read_range(struct qcow2 *q, struct cursor *to, uint64_t guest, uint64_t length)
{
	struct run run[RUNS];

	while (length) {
		uint64_t token = 0;
		int n = runs_load(q, guest, length, run, &token), r = 0;

		if (n < 0)
			return n;
		for (int i = 0; !r && i < n; i++) {
			r = read_run(q, &run[i], to);
			guest += run[i].length;
			length -= run[i].length;
		}
		meta_exit(q->meta, token);
		if (r)
			return r;
	}
	return 0;
}

int q_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct cursor to = cursor_of(iov, iovcnt);

	return read_range(handle, &to, offset, vectors_length(iov, iovcnt));
}

int q_read(struct qcow2 *q, void *buf, uint64_t offset, uint64_t length)
{
	const struct iovec iov = { .iov_base = buf, .iov_len = length };
	struct cursor to = cursor_of(&iov, 1);

	return read_range(q, &to, offset, length);
}

int q_read_backing(struct qcow2 *q, void *buf, uint64_t offset, uint64_t length)
{
	const struct iovec iov = { .iov_base = buf, .iov_len = length };
	struct cursor to = cursor_of(&iov, 1);

	return read_none(q, offset, length, &to);
}
