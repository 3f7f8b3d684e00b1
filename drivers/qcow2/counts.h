/*
 * qcow2/counts.h - refcounts of a whole file in memory, and their entries in the file
 *
 * For check, repair and snapshots, which look at every cluster. Takes memory by what is used, in groups of 64
 * clusters (below two bytes a cluster), not by the length of the file or the disk: files may be sparse, and
 * they may lie. Not thread-safe.
 */
#ifndef QCOW2_COUNTS_H
#define QCOW2_COUNTS_H

#include "common/bytes.h"

#define GROUP_CLUSTERS 64u

/* What a cluster is used for; a group has a bit per cluster for each. */
enum use {
	USE_PINNED, /* stands for something in the file as it is: not for new things */
	USE_META,   /* header, L1, snapshot table, refcounts, bitmaps: used once, by that */
	USE_L2,
	USE_DATA,
	USES
};

/* 64 clusters in sequence. */
struct group {
	uint64_t key;       /* first cluster / 64 */
	uint64_t use[USES]; /* a bit per cluster */
	uint64_t *wide;     /* 64 of them, once a count does not fit below */
	uint8_t narrow[GROUP_CLUSTERS];
};

#define SLAB_GROUPS 512u

struct slab {
	struct group groups[SLAB_GROUPS];
};

struct counts {
	struct group **hash; /* open addressing; NULL: free. Size is a power of two */
	size_t hash_size;
	struct slab **slabs; /* groups in the order in which they were made */
	size_t nr_groups;
	struct group *last; /* asked for last */
	uint64_t cursor;    /* where counts_take() goes on looking */
};

void counts_init(struct counts *c);
void counts_free(struct counts *c);

/* NULL: nothing was ever said about these clusters. */
struct group *counts_find(struct counts *c, uint64_t key);
/* Makes it. NULL: no memory. */
struct group *counts_group(struct counts *c, uint64_t key);
/* The nth that was made, n < nr_groups. */
struct group *counts_nth(const struct counts *c, size_t n);
/* All, by ascending key; nr_groups of them; to be freed by the caller. NULL: no memory. */
struct group **counts_sorted(const struct counts *c);

static inline uint64_t group_get(const struct group *g, unsigned i)
{
	return g->wide ? g->wide[i] : g->narrow[i];
}

uint64_t counts_get(struct counts *c, uint64_t cluster);
bool counts_used_as(struct counts *c, uint64_t cluster, enum use use);
int counts_use(struct counts *c, uint64_t cluster, enum use use);
int counts_set(struct counts *c, uint64_t cluster, uint64_t count);
/* by is added, and may be negative; it stays between 0 and max. -ERANGE: it would not, nothing changed. */
int counts_add(struct counts *c, uint64_t cluster, int64_t by, uint64_t max);
/* So many clusters in sequence that have count 0 and are not pinned; they get count 1. */
int counts_take(struct counts *c, uint64_t clusters, uint64_t *first);

/* ---- entries of refcount blocks, in the format of the file (spec "Host cluster management") ------------- */

static inline uint64_t refcount_at(const void *block, unsigned order, uint64_t index)
{
	const uint8_t *b = block;

	switch (order) {
	case 3:
		return b[index];
	case 4:
		return get_be16(b + index * 2);
	case 5:
		return get_be32(b + index * 4);
	case 6:
		return get_be64(b + index * 8);
	default: /* below a byte, from its lowest bit */
		return b[index >> (3 - order)] >> ((index << order) & 7) & ((1u << (1u << order)) - 1);
	}
}

static inline void refcount_put(void *block, unsigned order, uint64_t index, uint64_t value)
{
	uint8_t *b = block;
	unsigned shift, mask;

	switch (order) {
	case 3:
		b[index] = (uint8_t)value;
		break;
	case 4:
		put_be16(b + index * 2, (uint16_t)value);
		break;
	case 5:
		put_be32(b + index * 4, (uint32_t)value);
		break;
	case 6:
		put_be64(b + index * 8, value);
		break;
	default:
		shift = (index << order) & 7;
		mask = ((1u << (1u << order)) - 1) << shift;
		b += index >> (3 - order);
		*b = (uint8_t)((*b & ~mask) | ((unsigned)value << shift & mask));
	}
}

static inline uint64_t refcount_max(unsigned order)
{
	return order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
}

#endif
