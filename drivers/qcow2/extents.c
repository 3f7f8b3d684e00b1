/*
 * qcow2/extents.c - a sorted set of runs of clusters: an array
 *
 * There are a few thousand runs at most, and changes are for whole runs, so that moving the tail of the array is
 * cheaper than anything with pointers. Who calls holds the lock of the set.
 */
#include "extents.h"

#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

void extents_init(struct extents *set, unsigned max)
{
	*set = (struct extents){ .max = max };
}

void extents_free(struct extents *set)
{
	free(set->v);
	*set = (struct extents){ 0 };
}

static uint64_t end_of(const struct extent *e)
{
	return e->first + e->count;
}

/* Index of the first run that ends behind this cluster. */
static unsigned find(const struct extents *set, uint64_t cluster)
{
	unsigned low = 0, high = set->count;

	while (low < high) {
		unsigned middle = low + (high - low) / 2;

		if (end_of(&set->v[middle]) > cluster)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

bool extents_reserve(struct extents *set)
{
	unsigned room = MIN(MAX(set->room * 2, 64u), set->max);
	struct extent *v;

	if (set->count < set->room)
		return true;
	if (set->count >= set->max)
		return false;
	v = realloc(set->v, room * sizeof(*v));
	if (!v)
		return false;
	set->v = v;
	set->room = room;
	return true;
}

static bool insert(struct extents *set, unsigned i, struct extent e)
{
	if (!extents_reserve(set))
		return false;
	memmove(&set->v[i + 1], &set->v[i], (set->count - i) * sizeof(e));
	set->v[i] = e;
	set->count++;
	return true;
}

static void delete(struct extents *set, unsigned i)
{
	set->count--;
	memmove(&set->v[i], &set->v[i + 1], (set->count - i) * sizeof(set->v[0]));
}

/* Goes in front of run i, and overlaps none. */
static bool add_new(struct extents *set, unsigned i, struct extent e)
{
	struct extent *left = i ? &set->v[i - 1] : NULL;
	struct extent *right = i < set->count ? &set->v[i] : NULL;

	if (left && (end_of(left) != e.first || left->zero != e.zero))
		left = NULL;
	if (right && (end_of(&e) != right->first || right->zero != e.zero))
		right = NULL;
	if (left) {
		left->count += e.count;
		if (right) {
			left->count += right->count;
			delete(set, i);
		}
		return true;
	}
	if (right) {
		right->first = e.first;
		right->count += e.count;
		return true;
	}
	return insert(set, i, e);
}

bool extents_add(struct extents *set, uint64_t first, uint64_t count, bool zero)
{
	uint64_t end = first + count;
	bool all = true;

	while (first < end) {
		unsigned i = find(set, first);
		const struct extent *next = i < set->count ? &set->v[i] : NULL;
		uint64_t stop = end;

		if (next && next->first <= first) {
			first = end_of(next);
			continue;
		}
		if (next)
			stop = MIN(stop, next->first);
		all &= add_new(set, i, (struct extent){ first, stop - first, zero });
		first = stop;
	}
	return all;
}

bool extents_remove(struct extents *set, uint64_t first, uint64_t count)
{
	uint64_t end = first + count;
	unsigned i = find(set, first);

	while (i < set->count && set->v[i].first < end) {
		struct extent *e = &set->v[i];
		struct extent tail = { end, end_of(e) - end, e->zero };

		if (e->first >= first && end_of(e) <= end) {
			delete(set, i);
		} else if (e->first >= first) {
			*e = tail;
			break;
		} else {
			bool inside = end_of(e) > end;

			e->count = first - e->first;
			if (inside)
				return insert(set, i + 1, tail);
			i++;
		}
	}
	return true;
}

bool extents_pick(const struct extents *set, uint64_t want, uint64_t after, struct extent *found)
{
	const struct extent *best = NULL;
	unsigned i = after ? find(set, after) : set->count;

	if (i < set->count && set->v[i].first <= after) {
		*found = (struct extent){ after, MIN(want, end_of(&set->v[i]) - after), set->v[i].zero };
		return true;
	}
	for (i = 0; i < set->count; i++) {
		if (!best || set->v[i].count > best->count)
			best = &set->v[i];
		if (best->count >= want)
			break;
	}
	if (!best)
		return false;
	*found = *best;
	found->count = MIN(want, found->count);
	return true;
}
