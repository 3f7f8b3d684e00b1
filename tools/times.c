/* See times.h. The daemon's buckets are eight linear ones below 1 us, and then eight for each doubling. */
#include "times.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

#define UNIT_NS     125
#define STEPS       8
#define MAX_BUCKETS 512u /* the daemon has less than half of that */

struct times {
	size_t n;
	struct bucket {
		long long end, count;
	} bucket[MAX_BUCKETS]; /* by end */
};

json_t *times_disk(json_t *answer, const char *name)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(answer, "disks"), i, disk)
		if (!strcmp(get_text(disk, "disk"), name))
			return disk;
	return NULL;
}

double times_rate(json_t *now, json_t *before, const char *op, const char *key, double seconds)
{
	long long delta = get_number(json_object_get(now, op), key) - get_number(json_object_get(before, op), key);

	return delta > 0 && seconds > 0 ? (double)delta / seconds : 0;
}

/* The bucket that ends there, made if need be; NULL: too many. */
static struct bucket *bucket_at(struct times *times, long long end)
{
	size_t i = 0;

	while (i < times->n && times->bucket[i].end < end)
		i++;
	if (i < times->n && times->bucket[i].end == end)
		return &times->bucket[i];
	if (times->n == MAX_BUCKETS)
		return NULL;
	memmove(&times->bucket[i + 1], &times->bucket[i], (times->n - i) * sizeof(times->bucket[0]));
	times->n++;
	times->bucket[i] = (struct bucket){.end = end};
	return &times->bucket[i];
}

static void add(struct times *times, long long end, long long count)
{
	struct bucket *bucket = bucket_at(times, end);

	if (bucket)
		bucket->count += count;
}

static void add_array(struct times *times, json_t *array, long long sign)
{
	json_t *pair;
	size_t i;

	json_array_foreach(array, i, pair)
		add(times, json_integer_value(json_array_get(pair, 0)),
		    sign * json_integer_value(json_array_get(pair, 1)));
}

struct times *times_since(json_t *now, json_t *before)
{
	struct times *times = calloc(1, sizeof(*times));

	if (!times)
		return NULL;
	add_array(times, now, 1);
	add_array(times, before, -1);
	/* A disk that was attached anew begins again at nothing. */
	for (size_t i = 0; i < times->n; i++)
		if (times->bucket[i].count < 0)
			times->bucket[i].count = 0;
	return times;
}

void times_free(struct times *times)
{
	free(times);
}

void times_add(struct times *times, const struct times *more)
{
	for (size_t i = 0; times && more && i < more->n; i++)
		add(times, more->bucket[i].end, more->bucket[i].count);
}

double times_quantile(const struct times *times, double part)
{
	double total = 0, seen = 0;

	for (size_t i = 0; times && i < times->n; i++)
		total += (double)times->bucket[i].count;
	if (total <= 0)
		return 0;
	for (size_t i = 0; i < times->n; i++) {
		seen += (double)times->bucket[i].count;
		if (times->bucket[i].count && seen >= total * part)
			return (double)times->bucket[i].end;
	}
	return (double)times->bucket[times->n - 1].end;
}

long long times_begin(long long end)
{
	long long width = UNIT_NS;

	/* A bucket of width w ends after 9 to 16 times w, but for the first eight. */
	while (end > width * 2 * STEPS)
		width *= 2;
	return end > width ? end - width : 0;
}

const char *times_text(double ns, char *buf, size_t len)
{
	static const struct {
		const char *name;
		double ns;
	} unit[] = {{"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"ns", 1}};
	size_t i = 0;

	if (!(ns > 0)) {
		snprintf(buf, len, "-");
		return buf;
	}
	while (i < 3 && ns < unit[i].ns)
		i++;
	snprintf(buf, len, "%.3g %s", ns / unit[i].ns, unit[i].name);
	return buf;
}
