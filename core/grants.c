/*
 * grants.c - the pages of persistent grants that a ring keeps mapped
 *
 * grants_pin looks every segment up in a hash table by grant reference.  What it does not find becomes
 * one new group: its entries go into the table first (so that a reference that occurs twice in a request
 * is mapped once), then one call maps them all; if it fails the entries are taken out again and the
 * caller copies instead, which tells the truth about each segment.
 *
 * The table is chained by index through one array of entries, both allocated at the first use.
 * A guest that only ever grants new pages makes us evict and map all the time: it pays with its own speed.
 */
#include "grants.h"

#include "base/list.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define NONE UINT32_MAX

struct grant_map {
	struct list_head lru;
	uint8_t *addr;
	unsigned count;
	_Atomic unsigned pins; /* raised by the poller, lowered by anyone */
	uint32_t entry[];      /* indices into cache->entry */
};

struct entry {
	struct grant_map *map;
	uint32_t gref;
	uint32_t next; /* in the bucket, or in the free list */
	uint32_t page; /* in the group */
};

struct grant_cache {
	struct hyp *hyp;
	struct hyp_gnt *gnt;
	struct grant_budget *budget;
	struct stats *stats;
	uint32_t domid;
	unsigned cap;
	_Atomic unsigned used;  /* pages */
	struct list_head lru;   /* least recently used first */
	struct entry *entry;    /* cap of them */
	uint32_t *bucket;
	uint32_t mask;
	uint32_t free;          /* head of the free entries */
};

int grants_create(struct hyp *hyp, struct hyp_gnt *gnt, uint32_t domid, unsigned cap,
		  struct grant_budget *budget, struct stats *stats, struct grant_cache **cache)
{
	struct grant_cache *c = calloc(1, sizeof *c);

	if (!c)
		return -ENOMEM;
	c->hyp = hyp;
	c->gnt = gnt;
	c->domid = domid;
	c->cap = cap;
	c->budget = budget;
	c->stats = stats;
	list_init(&c->lru);
	*cache = c;
	return 0;
}

static int build_table(struct grant_cache *c)
{
	uint32_t buckets = 64;

	while (buckets < c->cap)
		buckets *= 2;
	c->entry = calloc(c->cap, sizeof *c->entry);
	c->bucket = malloc(buckets * sizeof *c->bucket);
	if (!c->entry || !c->bucket) {
		free(c->entry);
		free(c->bucket);
		c->entry = NULL;
		c->bucket = NULL;
		return -ENOMEM;
	}
	c->mask = buckets - 1;
	for (uint32_t i = 0; i < buckets; i++)
		c->bucket[i] = NONE;
	for (uint32_t i = 0; i < c->cap; i++)
		c->entry[i].next = i + 1 < c->cap ? i + 1 : NONE;
	c->free = 0;
	return 0;
}

static uint32_t *bucket_of(struct grant_cache *c, uint32_t gref)
{
	return &c->bucket[(gref * 2654435761u >> 8) & c->mask];
}

static struct entry *lookup(struct grant_cache *c, uint32_t gref)
{
	for (uint32_t i = *bucket_of(c, gref); i != NONE; i = c->entry[i].next)
		if (c->entry[i].gref == gref)
			return &c->entry[i];
	return NULL;
}

/* There is a free entry: room() was asked. */
static void insert(struct grant_cache *c, uint32_t gref, struct grant_map *map)
{
	uint32_t i = c->free, *head = bucket_of(c, gref);
	struct entry *e = &c->entry[i];

	assert(i != NONE);
	c->free = e->next;
	*e = (struct entry){.map = map, .gref = gref, .next = *head, .page = map->count};
	*head = i;
	map->entry[map->count++] = i;
}

static void take_out(struct grant_cache *c, uint32_t i)
{
	uint32_t *link = bucket_of(c, c->entry[i].gref);

	while (*link != i)
		link = &c->entry[*link].next;
	*link = c->entry[i].next;
	c->entry[i].next = c->free;
	c->free = i;
}

static void forget(struct grant_cache *c, struct grant_map *map)
{
	for (unsigned i = 0; i < map->count; i++)
		take_out(c, map->entry[i]);
	atomic_fetch_sub(&c->used, map->count);
	atomic_fetch_sub(&c->budget->used, map->count);
	list_del(&map->lru);
	free(map);
}

static void drop(struct grant_cache *c, struct grant_map *map)
{
	c->hyp->ops->gnt_unmap(c->gnt, map->addr, map->count);
	forget(c, map);
}

void grants_destroy(struct grant_cache *cache)
{
	struct grant_map *map, *next;

	if (!cache)
		return;
	list_for_each_safe(map, next, &cache->lru, lru)
		drop(cache, map);
	free(cache->entry);
	free(cache->bucket);
	free(cache);
}

void grants_revoke(struct grant_cache *cache)
{
	struct grant_map *map;

	list_for_each(map, &cache->lru, lru)
		cache->hyp->ops->gnt_revoke(cache->gnt, map->addr, map->count);
}

/* May count more pages be mapped?  Takes them off the guest's budget if so. */
static bool reserve(struct grant_cache *c, unsigned count)
{
	if (c->used + count > c->cap)
		return false;
	if (atomic_fetch_add(&c->budget->used, count) + count > c->budget->limit) {
		atomic_fetch_sub(&c->budget->used, count);
		return false;
	}
	atomic_fetch_add(&c->used, count);
	return true;
}

/* Make room for count pages, dropping what is not in use, oldest first. */
static bool room(struct grant_cache *c, unsigned count)
{
	struct grant_map *map, *next;

	if (count > c->cap)
		return false;
	if (reserve(c, count))
		return true;
	list_for_each_safe(map, next, &c->lru, lru) {
		if (atomic_load_explicit(&map->pins, memory_order_acquire))
			continue;
		drop(c, map);
		if (reserve(c, count))
			return true;
	}
	return false;
}

/* Map what seg[] is missing, missing pages of it at most, as one group. */
static int map_missing(struct grant_cache *c, const struct ring_seg *seg, unsigned count,
		       unsigned missing)
{
	struct grant_map *map;
	uint32_t grefs[256];
	void *addr;
	int err;

	if (missing > sizeof grefs / sizeof grefs[0] || !room(c, missing))
		return -ENOSPC;
	map = calloc(1, sizeof *map + missing * sizeof map->entry[0]);
	if (!map) {
		atomic_fetch_sub(&c->used, missing);
		atomic_fetch_sub(&c->budget->used, missing);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < count; i++)
		if (!lookup(c, seg[i].gref)) {
			grefs[map->count] = seg[i].gref;
			insert(c, seg[i].gref, map);
		}
	/* A reference that occurs twice was counted twice. */
	atomic_fetch_sub(&c->used, missing - map->count);
	atomic_fetch_sub(&c->budget->used, missing - map->count);
	list_add_tail(&map->lru, &c->lru);
	err = c->hyp->ops->gnt_map(c->gnt, c->domid, grefs, map->count, true, &addr);
	if (err) {
		forget(c, map);
		return err;
	}
	map->addr = addr;
	stats_add(c->stats->grants_mapped, map->count);
	return 0;
}

static void pin_group(struct grant_cache *c, struct grant_map *map, struct grant_map **pin,
		      unsigned *npins)
{
	if (*npins && pin[*npins - 1] == map)
		return;
	atomic_fetch_add_explicit(&map->pins, 1, memory_order_relaxed);
	pin[(*npins)++] = map;
	if (c->lru.prev != &map->lru)
		list_move_tail(&map->lru, &c->lru);
}

int grants_pin(struct grant_cache *cache, const struct ring_seg *seg, unsigned count, void **page,
	       struct grant_map **pin, unsigned *npins)
{
	unsigned missing = 0;
	struct entry *e;
	int err;

	*npins = 0;
	if (!cache->entry && (!cache->cap || build_table(cache)))
		return -ENOSPC;
	/* Pin what is there first, so that making room does not evict it. */
	for (unsigned i = 0; i < count; i++) {
		e = lookup(cache, seg[i].gref);
		if (!e) {
			missing++;
			continue;
		}
		page[i] = e->map->addr + (size_t)e->page * HYP_PAGE_SIZE;
		pin_group(cache, e->map, pin, npins);
	}
	if (!missing)
		return 0;
	err = map_missing(cache, seg, count, missing);
	if (err) {
		grants_unpin(pin, *npins);
		*npins = 0;
		return err;
	}
	/* The new group is the most recent. */
	struct grant_map *map = list_last_entry(&cache->lru, struct grant_map, lru);

	pin_group(cache, map, pin, npins);
	for (unsigned i = 0; i < count; i++) {
		e = lookup(cache, seg[i].gref);
		page[i] = e->map->addr + (size_t)e->page * HYP_PAGE_SIZE;
	}
	return 0;
}

void grants_unpin(struct grant_map **pin, unsigned npins)
{
	for (unsigned i = 0; i < npins; i++)
		atomic_fetch_sub_explicit(&pin[i]->pins, 1, memory_order_release);
}

unsigned grants_mapped(const struct grant_cache *cache)
{
	return cache ? atomic_load_explicit(&cache->used, memory_order_relaxed) : 0;
}
