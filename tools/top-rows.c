/* See top-rows.h. */
#include "top-rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"
#include "table.h"
#include "times.h"

static const char *const ops[] = {"read", "write", "flush", "discard"};

static void fill_times(struct top_row *row, json_t *now, json_t *before)
{
	struct times *all = NULL;

	for (size_t op = 0; op < 4; op++) {
		struct times *times = times_since(json_object_get(json_object_get(now, ops[op]), "histogram"),
		                                  json_object_get(json_object_get(before, ops[op]), "histogram"));

		if (all) {
			times_add(all, times);
			times_free(times);
		} else {
			all = times;
		}
	}
	row->p50 = times_quantile(all, 0.5);
	row->p99 = times_quantile(all, 0.99);
	times_free(all);
}

static double hits_of(json_t *now, json_t *before)
{
	json_t *cache = json_object_get(json_object_get(now, "image"), "metadata");
	json_t *old = json_object_get(json_object_get(before, "image"), "metadata");
	long long hits = get_number(cache, "hits") - get_number(old, "hits");
	long long misses = get_number(cache, "misses") - get_number(old, "misses");

	if (hits < 0 || misses < 0) { /* another image: it counts from its beginning */
		hits = get_number(cache, "hits");
		misses = get_number(cache, "misses");
	}
	return hits + misses ? (double)hits / (double)(hits + misses) : -1;
}

static void fill_state(struct top_row *row, json_t *disk)
{
	bool waits = get_number(disk, "parked") > 0, failed = get_bool(disk, "flush_failed");

	row->trouble = waits || failed || !strcmp(get_text(disk, "state"), "broken");
	snprintf(row->state, sizeof(row->state), "%s", failed ? "FAILED" : waits ? "WAITS" : get_text(disk, "state"));
	text_clean(row->state);
}

static void fill(struct top_row *row, json_t *disk, json_t *now, json_t *before, double seconds)
{
	snprintf(row->disk, sizeof(row->disk), "%s", get_text(disk, "disk"));
	snprintf(row->image, sizeof(row->image), "%s", get_text(disk, "params"));
	text_clean(row->disk);
	text_clean(row->image);
	fill_state(row, disk);
	row->depth = (double)get_number(disk, "inflight");
	row->hits = -1;
	if (!now || !before)
		return;
	row->reads = times_rate(now, before, "read", "done", seconds);
	for (size_t op = 1; op < 4; op++)
		row->writes += times_rate(now, before, ops[op], "done", seconds);
	row->read = times_rate(now, before, "read", "bytes", seconds);
	row->written = times_rate(now, before, "write", "bytes", seconds);
	fill_times(row, now, before);
	row->hits = hits_of(now, before);
}

size_t top_rows(json_t *list, json_t *now, json_t *before, double seconds, const char *disk, struct top_row **rows)
{
	json_t *disks = json_object_get(list, "disks"), *each;
	size_t n = 0, i;

	*rows = calloc(json_array_size(disks) + 1, sizeof(**rows));
	json_array_foreach(disks, i, each)
	{
		const char *name = get_text(each, "disk");

		if (!*rows || (disk && strcmp(disk, name)))
			continue;
		fill(&(*rows)[n++], each, times_disk(now, name), times_disk(before, name), seconds);
	}
	return n;
}

/* ---- order --------------------------------------------------------------------------------------- */

static enum top_key sort_key;
static bool sort_reverse;

static double value_of(const struct top_row *row, enum top_key key)
{
	const double value[TOP_KEYS] = {
		[TOP_READS] = row->reads,     [TOP_WRITES] = row->writes, [TOP_READ] = row->read,
		[TOP_WRITTEN] = row->written, [TOP_DEPTH] = row->depth,   [TOP_P50] = row->p50,
		[TOP_P99] = row->p99,         [TOP_HITS] = row->hits,
	};

	return value[key];
}

/* 5/xvda before 10/xvda. */
static int by_name(const struct top_row *a, const struct top_row *b)
{
	long x = strtol(a->disk, NULL, 10), y = strtol(b->disk, NULL, 10);

	return x != y ? (x < y ? -1 : 1) : strcmp(a->disk, b->disk);
}

static int compare(const void *left, const void *right)
{
	const struct top_row *a = left, *b = right;
	double x = value_of(a, sort_key), y = value_of(b, sort_key);
	int order = x < y ? 1 : x > y ? -1 : by_name(a, b);

	return sort_reverse ? -order : order;
}

void top_sort(struct top_row *rows, size_t n, enum top_key key, bool reverse)
{
	sort_key = key;
	sort_reverse = reverse;
	qsort(rows, n, sizeof(*rows), compare);
}
