/* A table of text, printed with aligned columns. What comes from elsewhere may hold anything: control
 * characters become '?', so that nobody's disk writes on our terminal. */
#ifndef TABLE_H
#define TABLE_H

#include <stdio.h>

struct table;

/* columns: "DISK", ">SIZE" (aligned right), ..., NULL. NULL without memory: every call accepts that. */
struct table *table_new(const char *const *columns);
/* The next cell, row by row. */
void table_cell(struct table *table, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_print(const struct table *table, FILE *to);
void table_free(struct table *table);

/* text without control characters, in place. */
char *text_clean(char *text);
/* 1536 -> "1.5 KiB" */
const char *text_size(double bytes, char *buf, size_t len);

#endif
