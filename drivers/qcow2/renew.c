/*
 * qcow2/renew.c - new metadata beside the old, switched to by the header
 *
 * The header (renew.h) tells the idea. In memory there is the count of each cluster as it will be; a cluster is
 * free for something new if that count is 0 and nothing in the file as it stands uses it. The refcount blocks
 * describe themselves: making one may need another, so they are planned until nothing is missing.
 *
 * What can go wrong: no space, I/O errors, memory. Until the header is written that leaves nothing but leaks,
 * or less: the old refcounts do not even know of the new clusters.
 *
 * Control threads, nothing else in flight.
 */
#include "renew.h"

#include <errno.h>
#include <stdlib.h>

#define REFTABLE_ROOM 2 /* how much larger than it must be a new refcount table is, at least 1 */

int renew_count(struct walk *w, uint64_t offset, uint64_t length, int by)
{
	unsigned bits = w->q->cluster_bits;
	int r = 0;

	for (uint64_t c = offset >> bits; !r && length && c <= (offset + length - 1) >> bits; c++)
		r = counts_add(&w->counts, c, by, w->max);
	return r;
}

int renew_pin(struct walk *w)
{
	for (size_t n = 0; n < w->counts.nr_groups; n++) {
		struct group *g = counts_nth(&w->counts, n);

		for (unsigned i = 0; i < GROUP_CLUSTERS; i++)
			if (group_get(g, i))
				g->use[USE_PINNED] |= 1ull << i;
	}
	return 0;
}

int renew_forget_refcounts(struct walk *w)
{
	const struct header *h = &w->q->h;
	int r = renew_count(w, h->reftable_offset,
			    (uint64_t)h->reftable_clusters << w->q->cluster_bits, -1);

	for (uint64_t i = 0; !r && i < w->reftable_entries; i++)
		if (w->reftable[i])
			r = renew_count(w, block_offset(w, i), w->q->cluster, -1);
	return r;
}

/* Clusters in sequence for something new; at least one. */
static int take(struct walk *w, uint64_t bytes, uint64_t *offset)
{
	uint64_t n = align_up(MAX(bytes, 1), w->q->cluster) >> w->q->cluster_bits, first;
	int r = counts_take(&w->counts, n, &first);

	*offset = first << w->q->cluster_bits;
	if (!r && (first + n) >= HOST_OFFSET_MAX >> w->q->cluster_bits)
		return -EFBIG;
	return r;
}

/* ---- the active tables --------------------------------------------------------------------------------- */

static uint64_t with_copied(struct walk *w, uint64_t entry, uint64_t offset)
{
	uint64_t count = counts_get(&w->counts, offset >> w->q->cluster_bits);

	return count == 1 ? entry | ENTRY_COPIED : entry & ~ENTRY_COPIED;
}

/* The table in w->l2 gets its flags. True: something has changed. */
static bool set_flags(struct walk *w)
{
	bool changed = false;

	for (uint32_t at = 0; at < w->q->cluster; at += w->q->entry_size) {
		uint64_t entry = get_be64(w->l2 + at), now;

		if (entry & ENTRY_COMPRESSED || !(entry & ENTRY_OFFSET))
			continue;
		now = with_copied(w, entry, entry & ENTRY_OFFSET);
		if (now == entry)
			continue;
		put_be64(w->l2 + at, now);
		changed = true;
	}
	return changed;
}

/* One L2 table of the new L1; copied if it must change. */
static int renew_l2(struct walk *w, uint64_t *entry)
{
	uint64_t old = *entry & ENTRY_OFFSET, copy;
	int r = walk_read(w, w->l2, w->q->cluster, old);

	if (!r && set_flags(w)) {
		r = take(w, w->q->cluster, &copy);
		if (!r)
			r = walk_write(w, w->l2, w->q->cluster, copy);
		if (!r)
			r = renew_count(w, old, w->q->cluster, -1);
		*entry = copy;
	}
	return r;
}

static int write_l1(struct walk *w, struct header *h, const uint64_t *l1, uint32_t size)
{
	uint64_t bytes = align_up(MAX(size, 1u) * 8ull, w->q->cluster);
	uint8_t *buf = calloc(1, bytes);
	int r = buf ? take(w, bytes, &h->l1_offset) : -ENOMEM;

	h->l1_size = size;
	for (uint32_t i = 0; !r && i < size; i++)
		put_be64(buf + i * 8ull, l1[i]);
	if (!r)
		r = walk_write(w, buf, bytes, h->l1_offset);
	free(buf);
	return r;
}

int renew_active(struct walk *w, struct header *h, uint64_t *l1, uint32_t size, bool move)
{
	bool changed = move;
	int r = 0;

	for (uint32_t i = 0; !r && i < size; i++) {
		uint64_t was = l1[i];

		if (!(l1[i] & ENTRY_OFFSET))
			continue;
		r = renew_l2(w, &l1[i]);
		l1[i] = with_copied(w, l1[i], l1[i] & ENTRY_OFFSET);
		changed = changed || l1[i] != was;
		if (!r)
			r = walk_step(w);
	}
	/* A table that two entries share has its last count now. */
	for (uint32_t i = 0; !r && i < size; i++)
		if (l1[i] & ENTRY_OFFSET)
			l1[i] = with_copied(w, l1[i], l1[i] & ENTRY_OFFSET);
	if (r || !changed)
		return r;
	if (!move)
		r = renew_count(w, h->l1_offset, h->l1_size * 8ull, -1);
	return r ? r : write_l1(w, h, l1, size);
}

int renew_snapshots(struct walk *w, struct header *h)
{
	uint8_t *buf = NULL;
	size_t len;
	int r = renew_count(w, h->snapshots_offset, w->snapshots.bytes, -1);

	h->nb_snapshots = w->snapshots.count;
	h->snapshots_offset = 0;
	if (!r && w->snapshots.count)
		r = snaptable_encode(&w->snapshots, &buf, &len);
	if (!r && buf)
		r = take(w, len, &h->snapshots_offset);
	if (!r && buf)
		r = walk_write(w, buf, len, h->snapshots_offset);
	free(buf);
	return r;
}

/* ---- refcounts ----------------------------------------------------------------------------------------- */

/* A new refcount structure while it is planned. */
struct plan {
	uint64_t *table; /* offset of each block, 0: none */
	uint64_t room;   /* entries that it may have */
	uint64_t used;   /* last entry that is not 0, and one */
	uint64_t offset; /* of the table; 0: no place yet */
	uint64_t clusters;
	uint64_t per_block;
};

static bool group_empty(const struct group *g)
{
	for (unsigned i = 0; i < GROUP_CLUSTERS; i++)
		if (group_get(g, i))
			return false;
	return true;
}

/* Blocks for all clusters that have a count. 1: some were made, and have counts themselves. */
static int cover(struct walk *w, struct plan *p)
{
	bool made = false;
	int r = 0;

	for (size_t n = 0; !r && n < w->counts.nr_groups; n++) {
		struct group *g = counts_nth(&w->counts, n);
		uint64_t block = g->key * GROUP_CLUSTERS / p->per_block;

		if ((block < p->room && p->table[block]) || group_empty(g))
			continue;
		if (block >= p->room)
			return -EFBIG;
		r = take(w, w->q->cluster, &p->table[block]);
		p->used = MAX(p->used, block + 1);
		made = true;
	}
	return r ? r : made;
}

static int place_table(struct walk *w, struct plan *p)
{
	uint64_t cluster = w->q->cluster,
		 need = align_up(p->used * 8, cluster) >> w->q->cluster_bits;
	int r;

	if (p->offset && p->clusters >= need)
		return 0;
	if (p->offset)
		renew_count(w, p->offset, p->clusters * cluster, -1);
	p->clusters = MIN(MAX(need + need / REFTABLE_ROOM, 1), REFTABLE_BYTES_MAX / cluster);
	r = take(w, p->clusters * cluster, &p->offset);
	return r ? r : 1;
}

static int plan_refcounts(struct walk *w, struct plan *p)
{
	int made, r;

	p->room = REFTABLE_BYTES_MAX / 8;
	p->per_block = (uint64_t)w->q->cluster * 8 >> w->q->h.refcount_order;
	p->table = calloc(p->room, sizeof(uint64_t));
	if (!p->table)
		return -ENOMEM;
	do {
		made = cover(w, p);
		r = made < 0 ? made : place_table(w, p);
	} while (r > 0 || (!r && made));
	return r;
}

static int write_block(struct walk *w, const struct plan *p, uint64_t i)
{
	memset(w->l2, 0, w->q->cluster);
	for (uint64_t g = 0; g < p->per_block / GROUP_CLUSTERS; g++) {
		struct group *group =
			counts_find(&w->counts, i * p->per_block / GROUP_CLUSTERS + g);

		for (unsigned k = 0; group && k < GROUP_CLUSTERS; k++)
			refcount_put(w->l2, w->q->h.refcount_order, g * GROUP_CLUSTERS + k,
				     group_get(group, k));
	}
	return walk_write(w, w->l2, w->q->cluster, p->table[i]);
}

static int write_refcounts(struct walk *w, const struct plan *p)
{
	uint64_t bytes = p->clusters << w->q->cluster_bits;
	uint8_t *buf = calloc(1, bytes);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0; !r && i < p->used; i++) {
		put_be64(buf + i * 8, p->table[i]);
		if (p->table[i])
			r = write_block(w, p, i);
	}
	if (!r)
		r = walk_write(w, buf, bytes, p->offset);
	free(buf);
	return r;
}

/* What is not used any more. It is only space: errors do not matter. */
static void give_back(struct walk *w)
{
	struct group **all = counts_sorted(&w->counts);
	uint64_t from = 0, run = 0;
	unsigned bits = w->q->cluster_bits;

	for (size_t n = 0; all && n < w->counts.nr_groups; n++)
		for (unsigned i = 0; i < GROUP_CLUSTERS; i++) {
			uint64_t cluster = all[n]->key * GROUP_CLUSTERS + i;

			if (!(all[n]->use[USE_PINNED] >> i & 1) || group_get(all[n], i))
				continue;
			if (run && from + run != cluster) {
				w->q->host->file_punch(w->q->file, from << bits, run << bits);
				run = 0;
			}
			from = run ? from : cluster;
			run++;
		}
	if (run)
		w->q->host->file_punch(w->q->file, from << bits, run << bits);
	free(all);
}

/* The file reaches to the end of its last cluster. */
static int reach_end(struct walk *w)
{
	struct rd_info info = { .struct_size = sizeof(info) };
	uint64_t last = 0;
	int r;

	for (size_t n = 0; n < w->counts.nr_groups; n++) {
		const struct group *g = counts_nth(&w->counts, n);

		for (unsigned i = 0; i < GROUP_CLUSTERS; i++)
			if (group_get(g, i))
				last = MAX(last, g->key * GROUP_CLUSTERS + i + 1);
	}
	r = w->q->host->file_info(w->q->file, &info);
	if (r || info.size >= last << w->q->cluster_bits)
		return r;
	return w->q->host->file_truncate(w->q->file, last << w->q->cluster_bits);
}

int renew_finish(struct walk *w, struct header *h)
{
	struct plan p = { 0 };
	int r = plan_refcounts(w, &p);

	if (!r)
		r = reach_end(w);
	if (!r)
		r = write_refcounts(w, &p);
	h->reftable_offset = p.offset;
	h->reftable_clusters = (uint32_t)p.clusters;
	free(p.table);
	if (!r)
		r = w->q->host->file_flush(w->q->file);
	if (!r)
		r = header_update(w->q, h);
	if (!r)
		give_back(w);
	return r;
}

/* The file is right, but memory does not know it: what is not in memory cannot be read, and nothing is written. */
static int give_up(struct qcow2 *q, int r)
{
	meta_wrlock(q->meta);
	q->corrupt = true;
	meta_end(q->meta);
	q->host->log(q->host, RD_LOG_ERR,
		     "%s: cannot be read again: %s; nothing is written to it until it is opened again", q->path,
		     strerror(-r));
	return r;
}

/* A table that cannot be read must not look empty: where it is the old one, memory has it; else all of it is bad. */
static int reload_l1(struct qcow2 *q, const struct header *before)
{
	uint64_t *old = q->l1;
	int r = load_l1(q);

	if (r && before->l1_offset == q->h.l1_offset && before->l1_size == q->h.l1_size) {
		free(q->l1);
		q->l1 = old;
		return r;
	}
	if (r && !q->l1) {
		q->l1 = old;
		q->h.l1_size = before->l1_size;
	}
	for (uint32_t i = 0; r && i < q->h.l1_size; i++)
		q->l1[i] = L1_BAD;
	if (q->l1 != old)
		free(old);
	return r;
}

static int reload_ranges(struct qcow2 *q)
{
	struct meta_set *old = q->metadata;
	int r = metadata_init(q);

	if (r)
		metadata_free(q);
	if (r)
		q->metadata = old;
	else
		metadata_discard(old);
	return r;
}

static int reload_alloc(struct qcow2 *q)
{
	struct alloc *old = q->alloc, *new;
	int r = old ? alloc_init(q) : 0;

	if (!old)
		return 0;
	new = q->alloc;
	q->alloc = old;
	if (r)
		return r;
	alloc_free(q);
	q->alloc = new;
	return 0;
}

int renew_reload(struct qcow2 *q, const struct header *before)
{
	int r = find_file_end(q);

	derive(q);
	if (!q->meta) /* only just being opened */
		return r;
	meta_forget(q->meta, 0, HOST_OFFSET_MAX);
	decompressed_forget(q, 0, HOST_OFFSET_MAX);
	if (reload_l1(q, before))
		r = r ? r : -EIO;
	r = r ? r : reload_ranges(q);
	r = r ? r : reload_alloc(q);
	return r ? give_up(q, r) : 0;
}
