/*
 * What `ringdisk top` shows of each disk: rates and times between two answers of the daemon. No screen here.
 */
#ifndef TOP_ROWS_H
#define TOP_ROWS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct top_row {
	char disk[24], state[12];
	char image[200];          /* the params string */
	double reads, writes;     /* requests a second; writes with flushes and discards */
	double read, written;     /* bytes a second */
	double depth;             /* in flight, now */
	double p50, p99;          /* ns, of all these; 0: there were none */
	double hits;              /* of the image's cache, 0 to 1; -1: nothing to tell */
	bool trouble;             /* something waits for the operator, or has failed */
};

enum top_key { TOP_DISK, TOP_READS, TOP_WRITES, TOP_READ, TOP_WRITTEN, TOP_DEPTH, TOP_P50, TOP_P99, TOP_HITS, TOP_KEYS };

/* One row a disk of list (the answer to "list"), from the answers to "stats" now and before (NULL: none). Only
 * disk if that is not NULL. The caller frees *rows. Their number. */
size_t top_rows(json_t *list, json_t *now, json_t *before, double seconds, const char *disk, struct top_row **rows);
/* Largest first, but for names; the other way round if reverse. */
void top_sort(struct top_row *rows, size_t n, enum top_key key, bool reverse);

#endif
