/*
 * What has come between two answers to "stats" (ringdisk-protocol(7)): rates, the histograms of how long requests
 * took, their differences and quantiles, and times as text.
 */
#ifndef TIMES_H
#define TIMES_H

#include <jansson.h>
#include <stddef.h>

/* The disk's part of an answer; NULL: it has none. */
json_t *times_disk(json_t *answer, const char *name);
/* How much a second of what counts there, of two such parts. before NULL: from nothing. What counts anew, as the disk
 * was attached again, begins at nothing, too. 0 if no time has passed. */
double times_rate(json_t *now, json_t *before, const char *op, const char *key, double seconds);

struct times;

/* What is in now, an array of [end, count], and not in before (NULL: nothing). NULL without memory, which every
 * call accepts as "no requests". */
struct times *times_since(json_t *now, json_t *before);
void times_free(struct times *times);
/* Add the requests of more to those of times. */
void times_add(struct times *times, const struct times *more);
/* So much of them (0.99) took less than this, in ns; 0 if there are none. */
double times_quantile(const struct times *times, double part);

/* Where the bucket begins that ends here. */
long long times_begin(long long end);
/* 1536 -> "1.54 us", 0 -> "-" */
const char *times_text(double ns, char *buf, size_t len);

#endif
