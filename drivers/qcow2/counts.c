/*
 * qcow2/counts.c - a sparse array of counters, one for each cluster of a file
 *
 * Groups of 64 clusters are found by a hash of their number; most asks are for the group that was asked for
 * last. A group counts to 255 in bytes, and gets wide counters when one of them needs more.
 * What can go wrong: no memory. Used by one thread at a time.
 */
#include "counts.h"

#include <errno.h>
#include <stdlib.h>

#define HASH_MIN 1024u

void counts_init(struct counts *c)
{
	memset(c, 0, sizeof(*c));
}

void counts_free(struct counts *c)
{
	for (size_t n = 0; n < c->nr_groups; n++)
		free(counts_nth(c, n)->wide);
	for (size_t n = 0; n * SLAB_GROUPS < c->nr_groups; n++)
		free(c->slabs[n]);
	free(c->slabs);
	free(c->hash);
	memset(c, 0, sizeof(*c));
}

struct group *counts_nth(const struct counts *c, size_t n)
{
	return &c->slabs[n / SLAB_GROUPS]->groups[n % SLAB_GROUPS];
}

/* Where it is, or where it would be. */
static size_t place(const struct counts *c, uint64_t key)
{
	uint64_t h = key * 0x9e3779b97f4a7c15ull;
	size_t at = (size_t)(h >> 20) & (c->hash_size - 1);

	while (c->hash[at] && c->hash[at]->key != key)
		at = (at + 1) & (c->hash_size - 1);
	return at;
}

struct group *counts_find(struct counts *c, uint64_t key)
{
	struct group *g;

	if (c->last && c->last->key == key)
		return c->last;
	if (!c->hash_size)
		return NULL;
	g = c->hash[place(c, key)];
	if (g)
		c->last = g;
	return g;
}

static int grow_hash(struct counts *c)
{
	size_t size = c->hash_size ? c->hash_size * 2 : HASH_MIN;
	struct group **hash = calloc(size, sizeof(struct group *));

	if (!hash)
		return -ENOMEM;
	free(c->hash);
	c->hash = hash;
	c->hash_size = size;
	for (size_t n = 0; n < c->nr_groups; n++) {
		struct group *g = counts_nth(c, n);

		hash[place(c, g->key)] = g;
	}
	return 0;
}

static int add_slab(struct counts *c)
{
	size_t n = c->nr_groups / SLAB_GROUPS;
	struct slab **slabs;

	if (is_pow2(n) || !n) { /* the array is as long as the power of two above n */
		slabs = realloc(c->slabs, (n ? n * 2 : 1) * sizeof(struct slab *));
		if (!slabs)
			return -ENOMEM;
		c->slabs = slabs;
	}
	c->slabs[n] = calloc(1, sizeof(struct slab));
	return c->slabs[n] ? 0 : -ENOMEM;
}

struct group *counts_group(struct counts *c, uint64_t key)
{
	struct group *g = counts_find(c, key);

	if (g)
		return g;
	if (c->nr_groups * 2 >= c->hash_size && grow_hash(c))
		return NULL;
	if (c->nr_groups % SLAB_GROUPS == 0 && add_slab(c))
		return NULL;
	g = counts_nth(c, c->nr_groups++);
	g->key = key;
	c->hash[place(c, key)] = g;
	c->last = g;
	return g;
}

static int by_key(const void *a, const void *b)
{
	uint64_t ka = (*(struct group *const *)a)->key, kb = (*(struct group *const *)b)->key;

	return ka < kb ? -1 : ka > kb;
}

struct group **counts_sorted(const struct counts *c)
{
	struct group **all = malloc((c->nr_groups + 1) * sizeof(struct group *));
	bool sorted = true;

	if (!all)
		return NULL;
	for (size_t n = 0; n < c->nr_groups; n++) {
		all[n] = counts_nth(c, n);
		sorted = sorted && (!n || all[n - 1]->key < all[n]->key);
	}
	if (!sorted)
		qsort(all, c->nr_groups, sizeof(struct group *), by_key);
	return all;
}

uint64_t counts_get(struct counts *c, uint64_t cluster)
{
	struct group *g = counts_find(c, cluster / GROUP_CLUSTERS);

	return g ? group_get(g, cluster % GROUP_CLUSTERS) : 0;
}

bool counts_used_as(struct counts *c, uint64_t cluster, enum use use)
{
	struct group *g = counts_find(c, cluster / GROUP_CLUSTERS);

	return g && g->use[use] >> cluster % GROUP_CLUSTERS & 1;
}

int counts_use(struct counts *c, uint64_t cluster, enum use use)
{
	struct group *g = counts_group(c, cluster / GROUP_CLUSTERS);

	if (!g)
		return -ENOMEM;
	g->use[use] |= 1ull << cluster % GROUP_CLUSTERS;
	return 0;
}

static int set_in(struct group *g, unsigned i, uint64_t count)
{
	if (!g->wide && count <= UINT8_MAX) {
		g->narrow[i] = (uint8_t)count;
		return 0;
	}
	if (!g->wide) {
		g->wide = malloc(GROUP_CLUSTERS * sizeof(uint64_t));
		if (!g->wide)
			return -ENOMEM;
		for (unsigned k = 0; k < GROUP_CLUSTERS; k++)
			g->wide[k] = g->narrow[k];
	}
	g->wide[i] = count;
	return 0;
}

int counts_set(struct counts *c, uint64_t cluster, uint64_t count)
{
	struct group *g = counts_group(c, cluster / GROUP_CLUSTERS);

	return g ? set_in(g, cluster % GROUP_CLUSTERS, count) : -ENOMEM;
}

int counts_add(struct counts *c, uint64_t cluster, int64_t by, uint64_t max)
{
	struct group *g = counts_group(c, cluster / GROUP_CLUSTERS);
	uint64_t now;

	if (!g)
		return -ENOMEM;
	now = group_get(g, cluster % GROUP_CLUSTERS);
	if (by < 0 ? now < (uint64_t)-by : now > max || (uint64_t)by > max - now)
		return -ERANGE;
	return set_in(g, cluster % GROUP_CLUSTERS, now + (uint64_t)by);
}

static bool is_free(struct counts *c, uint64_t cluster)
{
	struct group *g = counts_find(c, cluster / GROUP_CLUSTERS);
	unsigned i = cluster % GROUP_CLUSTERS;

	return !g || (!group_get(g, i) && !(g->use[USE_PINNED] >> i & 1));
}

int counts_take(struct counts *c, uint64_t clusters, uint64_t *first)
{
	uint64_t start = c->cursor, run = 0;
	int r = 0;

	while (run < clusters) {
		if (is_free(c, start + run)) {
			run++;
		} else {
			start += run + 1;
			run = 0;
		}
	}
	for (uint64_t i = 0; !r && i < clusters; i++)
		r = counts_set(c, start + i, 1);
	if (clusters == 1)
		c->cursor = start + 1; /* no hole was passed over */
	*first = start;
	return r;
}
