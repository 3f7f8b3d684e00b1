/* See table.h. A missing piece of memory shows as an empty cell. */
#include "table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define MAX_COLUMNS 16

struct table {
	const char *const *columns;
	size_t n_columns, n_cells;
	char **cells;
};

struct table *table_new(const char *const *columns)
{
	struct table *table = calloc(1, sizeof(*table));

	if (!table)
		return NULL;
	table->columns = columns;
	while (columns[table->n_columns] && table->n_columns < MAX_COLUMNS)
		table->n_columns++;
	return table;
}

char *text_clean(char *text)
{
	for (unsigned char *s = (unsigned char *)text; s && *s; s++)
		if (*s < 0x20 || *s == 0x7f || (*s == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0))
			*s = '?';
	return text;
}

void table_cell(struct table *table, const char *fmt, ...)
{
	char *text = NULL, **cells;
	va_list ap;
	int len;

	if (!table)
		return;
	va_start(ap, fmt);
	len = vasprintf(&text, fmt, ap);
	va_end(ap);
	cells = realloc(table->cells, (table->n_cells + 1) * sizeof(*cells));
	if (!cells) {
		if (len >= 0)
			free(text);
		return;
	}
	table->cells = cells;
	cells[table->n_cells++] = len < 0 ? NULL : text_clean(text);
}

/* Columns on the screen, near enough: UTF-8 bytes that begin a character. */
static size_t width_of(const char *text)
{
	size_t width = 0;

	for (; text && *text; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80;
	return width;
}

static const char *title(const struct table *table, size_t column)
{
	return table->columns[column] + (table->columns[column][0] == '>');
}

static void print_cell(const struct table *table, size_t column, const char *text, size_t width, FILE *to)
{
	int pad = (int)(width - width_of(text));

	if (!text)
		text = "";
	if (column)
		fputs("  ", to);
	if (table->columns[column][0] == '>')
		fprintf(to, "%*s%s", pad, "", text);
	else if (column + 1 == table->n_columns)
		fputs(text, to); /* no blanks at the end of a line */
	else
		fprintf(to, "%s%*s", text, pad, "");
}

void table_print(const struct table *table, FILE *to)
{
	size_t width[MAX_COLUMNS];

	if (!table)
		return;
	for (size_t c = 0; c < table->n_columns; c++)
		width[c] = width_of(title(table, c));
	for (size_t i = 0; i < table->n_cells; i++)
		if (width_of(table->cells[i]) > width[i % table->n_columns])
			width[i % table->n_columns] = width_of(table->cells[i]);
	for (size_t c = 0; c < table->n_columns; c++)
		print_cell(table, c, title(table, c), width[c], to);
	for (size_t i = 0; i < table->n_cells; i++) {
		if (i % table->n_columns == 0)
			putc('\n', to);
		print_cell(table, i % table->n_columns, table->cells[i], width[i % table->n_columns], to);
	}
	putc('\n', to);
}

void table_free(struct table *table)
{
	if (!table)
		return;
	for (size_t i = 0; i < table->n_cells; i++)
		free(table->cells[i]);
	free(table->cells);
	free(table);
}

const char *text_size(double bytes, char *buf, size_t len)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	size_t unit = 0;

	while (bytes >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		bytes /= 1024;
		unit++;
	}
	snprintf(buf, len, unit && bytes < 100 && bytes != (double)(long)bytes ? "%.1f %s" : "%.0f %s", bytes,
	         units[unit]);
	return buf;
}
