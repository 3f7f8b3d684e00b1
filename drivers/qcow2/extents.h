/*
 * qcow2/extents.h - a sorted set of runs of clusters, bounded in memory
 *
 * Not thread-safe. When it is full what does not fit is left out: it is for what may be forgotten.
 */
#ifndef QCOW2_EXTENTS_H
#define QCOW2_EXTENTS_H

#include <stdbool.h>
#include <stdint.h>

struct extent {
	uint64_t first, count; /* clusters */
	bool zero;             /* they read as zeroes */
};

struct extents {
	struct extent *v; /* sorted, never touching each other unless they differ in zero */
	unsigned count, room, max;
};

void extents_init(struct extents *set, unsigned max);
void extents_free(struct extents *set);
/* Add what of the run is not in it yet. False: full, something was left out. */
bool extents_add(struct extents *set, uint64_t first, uint64_t count, bool zero);
/* Is there room for one more? Then extents_remove() can take a run out of the middle of another. */
bool extents_reserve(struct extents *set);
/* Take out what of the run is in it. False: full, so that something behind the run is gone, too. */
bool extents_remove(struct extents *set, uint64_t first, uint64_t count);
/*
 * The best place for `want` clusters, which stay in the set: behind `after` (a cluster, 0: anywhere) if that is in it,
 * the first run that holds them all, or else the longest. Returned: at most want. False: the set is empty.
 */
bool extents_pick(const struct extents *set, uint64_t want, uint64_t after, struct extent *found);

#endif
