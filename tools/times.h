/*
 * How long requests took: the histograms that the daemon sends (ringdisk-protocol(7), stats), their differences
 * and quantiles, and times as text.
 */
#ifndef TIMES_H
#define TIMES_H

#include <jansson.h>
#include <stddef.h>

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
