/*
 * qcow2/reftable.c - new refcount blocks, and a larger refcount table when they do not fit in it
 *
 * A new block is a cluster at the end of what is used. It is zeroed in the file; then, in the cache, its own
 * refcount becomes 1 (in itself, if it describes the place where it lies), and the table's entry names it. Checkpoints
 * write refcounts before the table, and what was zeroed before both.
 *
 * When the table is full, which happens a few times in the life of an image, everything is done at once and
 * waited for: the new table is written behind the end of what the old one can describe, together with the blocks
 * that describe it and themselves; a flush; the header; and the old table is deferred. A crash before the header is
 * switched leaves the old table, to which the new clusters do not even exist.
 *
 * What can go wrong: I/O errors, no memory, and the format's limit of the table's size.
 *
 * Threads: any, one at a time (refill).
 */
#include <errno.h>

#include "alloc.h"

/* ---- a new block --------------------------------------------------------------------------------------- */

/* Slices of a new block's own refcount and of its entry in the table. */
struct places {
	struct meta_slice *count_slice, *entry_slice;
	uint64_t count_slice_at, count_index; /* in the slice */
	uint64_t entry_at;
};

static int places_get(struct qcow2 *q, uint64_t block, uint64_t holder, struct places *p)
{
	struct alloc *a = q->alloc;
	uint64_t index = a->end & (a->per_block - 1);
	int r;

	*p = (struct places){
		.count_slice_at = holder + index / a->per_slice * q->slice,
		.count_index = index & (a->per_slice - 1),
		.entry_at = a->table + block * 8,
	};
	r = meta_pin(q->meta, p->count_slice_at, &p->count_slice);
	if (!r)
		r = meta_pin(q->meta, p->entry_at, &p->entry_slice);
	return r;
}

static void places_put(struct qcow2 *q, struct places *p)
{
	meta_unpin(q->meta, p->count_slice);
	meta_unpin(q->meta, p->entry_slice);
}

/* The changes in the cache. */
static int block_link(struct qcow2 *q, const struct places *p, uint64_t host)
{
	unsigned order = q->alloc->order;
	uint64_t byte = (p->count_index << order) / 8;
	size_t len = order > 3 ? 1u << (order - 3) : 1;
	uint8_t bytes[8], entry[8];
	int r = meta_begin(q->meta, 2);

	if (r)
		return r;
	/* a refcount below 8 bits shares its byte with others */
	memcpy(bytes, meta_at(p->count_slice, p->count_slice_at + byte), len);
	r = metadata_add(q, host, q->cluster);
	if (!r) {
		refcount_put(bytes, order, order < 3 ? p->count_index & ((8u >> order) - 1) : 0, 1);
		put_be64(entry, host);
		meta_set(q->meta, ORDER_REFCOUNT, p->count_slice, p->count_slice_at + byte, bytes, len);
		meta_set(q->meta, ORDER_REFTABLE, p->entry_slice, p->entry_at, entry, 8);
	}
	meta_end(q->meta);
	return r;
}

static bool holds_metadata(struct qcow2 *q, uint64_t host, uint64_t length)
{
	bool meets;

	meta_rdlock(q->meta);
	meets = metadata_meets(q, host, length);
	meta_rdunlock(q->meta);
	return meets;
}

/* The next clusters are used, and in the file. */
static void step_over(struct qcow2 *q, uint64_t clusters)
{
	struct alloc *a = q->alloc;

	a->end += clusters;
	if (a->end > a->file_end) {
		a->file_end = a->end;
		atomic_store(&q->file_end, a->end << q->cluster_bits);
	}
}

/* Make the block at a->end, and step over it. holder: the block that describes this place; 0: itself. */
static int block_make(struct qcow2 *q, uint64_t block, uint64_t holder)
{
	struct alloc *a = q->alloc;
	uint64_t host = a->end << q->cluster_bits;
	struct places p;
	uint64_t used = 0;
	int r;

	if (a->end >= a->limit)
		return -ENOSPC;
	r = holder ? refcount_get(q, host, &used) : 0;
	if (r || used) {
		a->end += !r;
		return r;
	}
	if (holds_metadata(q, host, q->cluster))
		return q_corrupt(q, "the cluster at %#llx holds metadata, but has no refcount",
				 (unsigned long long)host);
	meta_forget(q->meta, host, q->cluster);
	r = q->host->file_zero(q->file, host, q->cluster, 0);
	if (r)
		return r;
	r = places_get(q, block, holder ? holder : host, &p);
	if (!r)
		r = block_link(q, &p, host);
	places_put(q, &p);
	if (r)
		return r;
	step_over(q, 1);
	return 0;
}

/* ---- a larger table ------------------------------------------------------------------------------------ */

/* The new table, with the blocks that describe it in front of it. */
struct growth {
	uint64_t first_block, blocks; /* that are new; they begin at a->end */
	uint64_t clusters;            /* of the table */
	uint8_t *buf;                 /* blocks and table */
};

static uint64_t growth_bytes(const struct qcow2 *q, const struct growth *g)
{
	return (g->blocks + g->clusters) << q->cluster_bits;
}

/* How large it gets: half as large again, and so that it describes itself. */
static int growth_plan(struct qcow2 *q, struct growth *g)
{
	struct alloc *a = q->alloc;
	uint64_t per_cluster = q->cluster / 8, need, had;

	*g = (struct growth){ .first_block = a->end / a->per_block, .blocks = 1 };
	do {
		had = g->blocks;
		need = MAX(a->table_entries + a->table_entries / 2, g->first_block + g->blocks + 1);
		g->clusters = need / per_cluster + 1;
		g->blocks = (a->end + g->blocks + g->clusters - 1) / a->per_block - g->first_block + 1;
	} while (g->blocks != had);
	if (g->clusters << q->cluster_bits > REFTABLE_BYTES_MAX) {
		g->clusters = REFTABLE_BYTES_MAX >> q->cluster_bits;
		if (g->first_block + g->blocks > g->clusters * per_cluster)
			return -EFBIG;
	}
	return a->end + g->blocks + g->clusters > a->limit ? -ENOSPC : 0;
}

/* Entries of the old table, which nobody changes now. */
static int copy_table(struct qcow2 *q, uint8_t *to)
{
	struct alloc *a = q->alloc;

	for (uint64_t i = 0; i < a->table_entries * 8; i += q->slice) {
		struct meta_slice *slice;
		int r = meta_pin(q->meta, a->table + i, &slice);

		if (r)
			return r;
		meta_rdlock(q->meta);
		memcpy(to + i, meta_at(slice, a->table + i), MIN(q->slice, a->table_entries * 8 - i));
		meta_rdunlock(q->meta);
		meta_unpin(q->meta, slice);
	}
	return 0;
}

static int growth_fill(struct qcow2 *q, const struct growth *g)
{
	struct alloc *a = q->alloc;
	uint8_t *table = g->buf + (g->blocks << q->cluster_bits);
	uint64_t base = g->first_block * a->per_block;

	/* The blocks lie one behind the other, and so do their entries. */
	for (uint64_t c = a->end; c < a->end + g->blocks + g->clusters; c++)
		refcount_put(g->buf, a->order, c - base, 1);
	for (uint64_t i = 0; i < g->blocks; i++)
		put_be64(table + (g->first_block + i) * 8, (a->end + i) << q->cluster_bits);
	return copy_table(q, table);
}

/* From now on it is the table, for us, too. */
static void growth_adopt(struct qcow2 *q, const struct growth *g)
{
	struct alloc *a = q->alloc;
	uint64_t old = a->table, old_bytes = align_up(a->table_entries * 8, q->cluster);

	pthread_mutex_lock(&a->lock);
	a->table = (a->end + g->blocks) << q->cluster_bits;
	a->table_entries = (g->clusters << q->cluster_bits) / 8;
	pthread_mutex_unlock(&a->lock);
	/* nobody else reads these two while the image is open */
	q->h.reftable_offset = a->table;
	q->h.reftable_clusters = (uint32_t)g->clusters;
	step_over(q, g->blocks + g->clusters);
	/* If that cannot be done the old one is a leak. */
	if (!meta_begin(q->meta, 0)) {
		metadata_remove(q, old, old_bytes);
		meta_defer(q->meta, old, old_bytes);
		meta_end(q->meta);
	}
}

static int add_metadata(struct qcow2 *q, const struct growth *g)
{
	uint64_t host = q->alloc->end << q->cluster_bits;
	int r;

	if (holds_metadata(q, host, growth_bytes(q, g)))
		return q_corrupt(q, "there is metadata at %#llx, behind the end of what is used",
				 (unsigned long long)host);
	meta_forget(q->meta, host, growth_bytes(q, g));
	r = meta_begin(q->meta, 0);
	if (!r) {
		r = metadata_add(q, host, growth_bytes(q, g));
		meta_end(q->meta);
	}
	return r;
}

/*
 * The header could not be written, but perhaps it was: then it names the new table, which is as true as the old one as
 * long as no block is made. So none is made until the header is known to name the old one.
 */
static void growth_in_doubt(struct qcow2 *q, const struct growth *g)
{
	struct alloc *a = q->alloc;

	a->doubt = a->end;
	a->doubtful = g->blocks + g->clusters;
	step_over(q, a->doubtful);
}

static int settle_doubt(struct qcow2 *q)
{
	struct alloc *a = q->alloc;
	int r;

	if (!a->doubtful)
		return 0;
	r = header_write(q, &q->h);
	if (r)
		return r;
	meta_wrlock(q->meta);
	metadata_remove(q, a->doubt << q->cluster_bits, a->doubtful << q->cluster_bits);
	meta_end(q->meta);
	a->doubtful = 0;
	return 0;
}

static void remove_metadata(struct qcow2 *q, const struct growth *g)
{
	meta_wrlock(q->meta);
	metadata_remove(q, q->alloc->end << q->cluster_bits, growth_bytes(q, g));
	meta_end(q->meta);
}

static int growth_write(struct qcow2 *q, const struct growth *g)
{
	const struct iovec iov = { .iov_base = g->buf, .iov_len = growth_bytes(q, g) };
	struct header h;
	int r = q->host->file_writev(q->file, &iov, 1, q->alloc->end << q->cluster_bits);

	if (!r)
		r = q->host->file_flush(q->file);
	if (r) {
		remove_metadata(q, g);
		return r;
	}
	header_copy(q, &h);
	h.reftable_offset = (q->alloc->end + g->blocks) << q->cluster_bits;
	h.reftable_clusters = (uint32_t)g->clusters;
	r = header_write(q, &h);
	if (r) {
		growth_in_doubt(q, g);
		settle_doubt(q); /* or the next time */
	}
	return r;
}

/* The table cannot describe a->end: make a larger one, at a->end, and step over it. */
static int table_grow(struct qcow2 *q)
{
	struct growth g;
	int r = growth_plan(q, &g);

	if (r)
		return r;
	g.buf = q->host->alloc(q->host, growth_bytes(q, &g));
	if (!g.buf)
		return -ENOMEM;
	/* All that the old table points to is as durable as the new one is going to be. */
	r = meta_checkpoint(q->meta);
	if (!r)
		r = growth_fill(q, &g);
	if (!r)
		r = add_metadata(q, &g);
	if (!r) {
		r = growth_write(q, &g);
		if (!r)
			growth_adopt(q, &g);
	}
	q->host->free(q->host, g.buf);
	return r;
}

/* ---- both ---------------------------------------------------------------------------------------------- */

/* The end cannot be described by the old table: what lies in between is spare. */
static void skip_to_table_end(struct qcow2 *q)
{
	struct alloc *a = q->alloc;
	uint64_t limit = a->table_entries * a->per_block;

	if (a->end >= limit)
		return;
	pthread_mutex_lock(&a->lock);
	a->lost |= !extents_add(&a->spare, a->end, limit - a->end, false);
	pthread_mutex_unlock(&a->lock);
	a->end = limit;
}

int blocks_ensure(struct qcow2 *q, uint64_t clusters)
{
	struct alloc *a = q->alloc;
	uint64_t block = a->end / a->per_block, holder = 0, offset;
	int r = settle_doubt(q);

	while (!r && block <= (a->end + clusters - 1) / a->per_block) {
		if (block >= a->table_entries) {
			skip_to_table_end(q);
			r = table_grow(q);
			block = a->end / a->per_block;
			continue;
		}
		r = block_find(q, block, &offset);
		if (!r && !offset) {
			if (block > a->end / a->per_block)
				r = block_find(q, a->end / a->per_block, &holder);
			else
				holder = 0;
			if (!r)
				r = block_make(q, block, holder);
			/* It may lie in front of a place that has no block. */
			block = a->end / a->per_block;
			continue;
		}
		block++;
	}
	return r;
}
