/*
 * The map of a chain of images as a picture that a person can read: what of the disk is data, zeroes, nothing; in
 * which layer; and in which order it lies in the file.
 *
 *   title, size, share of data
 *   disk     a strip of rows from left to right and top to bottom, a colour for each layer
 *   layers   a thin strip for each one, so that what is below what can be seen
 *   order    for each place of the disk (x) where in its file it lies (y): a line that rises is a file in order
 *   legend
 *
 * The picture's size does not depend on the image's: the disk is cut into at most a few thousand cells, and a cell
 * shows, as height of its colour, how much of it is data. Text comes from file names: escaped.
 */
#include "map.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "table.h"

#define WIDTH  1000
#define LEFT   70
#define COLS   100
#define ROWS   20
#define CELL_W (WIDTH / COLS)
#define CELL_H 14
#define LAYERS 12 /* that have a colour and a strip of their own; those below share the last */
#define POINTS 4000

static const char *const colours[LAYERS] = {
	"#2f6db3", "#d9822b", "#3f9a56", "#a855a8", "#c44545", "#4aa3a3",
	"#8a6d3b", "#6f6fd1", "#b0a030", "#d46a9f", "#5d7f3a", "#777777",
};

/* What of a cell is what, in bytes. */
struct cell {
	uint64_t data[LAYERS], zero, reserved, all;
};

struct drawing {
	const struct map *map;
	const struct chain *chain;
	FILE *to;
	uint64_t size;     /* of the disk */
	uint64_t per_cell; /* bytes */
	unsigned cells, rows, layers;
	struct cell *cell;
	unsigned y; /* below what is drawn */
};

static unsigned layer_of(unsigned depth)
{
	return MIN(depth, (unsigned)LAYERS - 1);
}

/* ---- counting ------------------------------------------------------------------------------------------- */

static void count_part(struct cell *cell, const struct map_run *run, uint64_t length)
{
	cell->all += length;
	if (run->run.data && !run->run.zero)
		cell->data[layer_of(run->depth)] += length;
	else if (run->run.data || run->run.hole)
		cell->reserved += run->run.data ? length : 0;
	else if (run->run.present)
		cell->zero += length;
}

static void count(struct drawing *d)
{
	for (size_t i = 0; i < d->map->count; i++) {
		const struct run *run = &d->map->run[i].run;

		for (uint64_t at = run->offset, end = at + run->length; at < end;) {
			uint64_t c = at / d->per_cell, next = MIN((c + 1) * d->per_cell, end);

			count_part(&d->cell[MIN(c, (uint64_t)d->cells - 1)], &d->map->run[i], next - at);
			at = next;
		}
	}
}

static void totals(const struct drawing *d, struct cell *sum)
{
	memset(sum, 0, sizeof(*sum));
	for (unsigned c = 0; c < d->cells; c++) {
		for (unsigned l = 0; l < LAYERS; l++)
			sum->data[l] += d->cell[c].data[l];
		sum->zero += d->cell[c].zero;
		sum->reserved += d->cell[c].reserved;
		sum->all += d->cell[c].all;
	}
}

static uint64_t data_of(const struct cell *cell)
{
	uint64_t sum = 0;

	for (unsigned l = 0; l < LAYERS; l++)
		sum += cell->data[l];
	return sum;
}

/* How many runs of data are not behind the one before them in their file, and how many there are. */
static void fragments(const struct map *map, uint64_t *broken, uint64_t *runs)
{
	uint64_t next[LAYERS] = {0};

	*broken = *runs = 0;
	for (size_t i = 0; i < map->count; i++) {
		const struct run *run = &map->run[i].run;
		unsigned l = layer_of(map->run[i].depth);

		if (!run->placed || !run->data)
			continue;
		*broken += *runs && run->file_offset < next[l];
		++*runs;
		next[l] = run->file_offset + run->length;
	}
}

/* ---- drawing -------------------------------------------------------------------------------------------- */

static void put_escaped(FILE *to, const char *text, size_t most)
{
	size_t length = strlen(text);

	if (length > most) {
		fputs("…", to);
		text += length - most;
		/* Not in the middle of a character. */
		while ((*text & 0xc0) == 0x80)
			text++;
	}
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '&')
			fputs("&amp;", to);
		else if (c == '<')
			fputs("&lt;", to);
		else if (c == '>')
			fputs("&gt;", to);
		else if (c == '"')
			fputs("&quot;", to);
		else
			putc(c < 0x20 || c == 0x7f ? '?' : c, to);
	}
}

/* Bytes that are no UTF-8 would make it no XML. */
static bool is_utf8(const char *text)
{
	json_t *string = json_string(text);

	json_decref(string);
	return string;
}

static void put_name(FILE *to, const char *text, size_t most)
{
	put_escaped(to, is_utf8(text) ? text : "(a name that is not UTF-8)", most);
}

static void rect(FILE *to, double x, double y, double w, double h, const char *fill)
{
	fprintf(to, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\"/>\n", x, y, w, h, fill);
}

static void heading(struct drawing *d, const char *text)
{
	d->y += 34;
	fprintf(d->to, "<text x=\"%d\" y=\"%u\" class=\"h\">%s</text>\n", LEFT, d->y, text);
	d->y += 10;
}

static void draw_title(struct drawing *d, const struct cell *sum)
{
	char size[32], data[32];

	fprintf(d->to, "<text x=\"%d\" y=\"34\" class=\"t\">", LEFT);
	put_name(d->to, d->chain->layer[0].params.target, 80);
	fprintf(d->to, "</text>\n<text x=\"%d\" y=\"56\">%s, %s: %s of data (%.1f%%)</text>\n", LEFT,
	        d->chain->layer[0].params.driver->name, text_size((double)d->size, size, sizeof(size)),
	        text_size((double)data_of(sum), data, sizeof(data)),
	        d->size ? 100.0 * (double)data_of(sum) / (double)d->size : 0);
	d->y = 56;
}

/* From the bottom up: data of each layer, then reserved, then zeroes; what is left is nothing. */
static void draw_cell(struct drawing *d, unsigned c, double x, double y)
{
	const struct cell *cell = &d->cell[c];
	double all = (double)cell->all, bottom = y + CELL_H - 2, high = CELL_H - 2;

	if (!cell->all)
		return;
	for (unsigned l = 0; l < LAYERS + 2; l++) {
		uint64_t bytes = l < LAYERS ? cell->data[l] : l == LAYERS ? cell->reserved : cell->zero;
		/* The least bit of data is to be seen. */
		double h = bytes ? MAX(high * (double)bytes / all, l < LAYERS ? 1.0 : 0.5) : 0;

		h = MIN(h, bottom - y);
		if (h > 0)
			rect(d->to, x, bottom - h, CELL_W - 1, h,
			     l < LAYERS    ? colours[l]
			     : l == LAYERS ? "url(#reserved)"
			                   : "#b9c2cc");
		bottom -= h;
	}
}

static void draw_disk(struct drawing *d)
{
	char text[64], at[32];

	snprintf(text, sizeof(text), "The disk; a cell is %s", text_size((double)d->per_cell, at, sizeof(at)));
	heading(d, text);
	for (unsigned r = 0; r < d->rows; r++) {
		unsigned first = r * COLS, count = MIN(d->cells - first, (unsigned)COLS);

		fprintf(d->to, "<text x=\"%d\" y=\"%u\" class=\"a\">%s</text>\n", LEFT - 6, d->y + CELL_H - 4,
		        text_size((double)first * (double)d->per_cell, at, sizeof(at)));
		rect(d->to, LEFT, d->y, (double)count * CELL_W - 1, CELL_H - 2, "#eef1f4");
		for (unsigned c = 0; c < count; c++)
			draw_cell(d, first + c, LEFT + (double)c * CELL_W, d->y);
		d->y += CELL_H;
	}
}

/* One thin strip: where a layer has something that can be seen from above. */
static void draw_layer(struct drawing *d, unsigned layer)
{
	rect(d->to, LEFT, d->y, WIDTH, 8, "#eef1f4");
	for (unsigned c = 0; c < d->cells; c++) {
		double part = d->cell[c].all ? (double)d->cell[c].data[layer] / (double)d->cell[c].all : 0;

		if (part > 0)
			fprintf(d->to,
			        "<rect x=\"%.2f\" y=\"%u\" width=\"%.2f\" height=\"8\" fill=\"%s\" "
			        "fill-opacity=\"%.2f\"/>\n",
			        LEFT + (double)c * WIDTH / d->cells, d->y, MAX((double)WIDTH / d->cells, 0.5),
			        colours[layer], 0.25 + 0.75 * part);
	}
	fprintf(d->to, "<text x=\"%d\" y=\"%u\" class=\"a\">%s%u</text>\n", LEFT - 6, d->y + 8,
	        layer ? "below " : "top ", layer);
	d->y += 12;
}

static void draw_axis(struct drawing *d)
{
	char at[32];

	for (unsigned i = 0; i <= 8; i++) {
		double x = LEFT + (double)WIDTH * i / 8;

		fprintf(d->to, "<line x1=\"%.1f\" y1=\"%u\" x2=\"%.1f\" y2=\"%u\" stroke=\"#8894a0\"/>\n", x, d->y, x,
		        d->y + 5);
		fprintf(d->to, "<text x=\"%.1f\" y=\"%u\" class=\"x\">%s</text>\n", x, d->y + 18,
		        text_size((double)(uint64_t)((double)d->size * i / 8), at, sizeof(at)));
	}
	d->y += 20;
}

static void draw_layers(struct drawing *d)
{
	heading(d, "Which layer it comes from");
	for (unsigned l = 0; l < d->layers; l++)
		draw_layer(d, l);
	draw_axis(d);
}

static uint64_t file_end(const struct map *map)
{
	uint64_t end = 1;

	for (size_t i = 0; i < map->count; i++)
		if (map->run[i].run.placed && map->run[i].run.data)
			end = MAX(end, map->run[i].run.file_offset + map->run[i].run.length);
	return end;
}

/* Where each run lies in its file. Of very many only each nth is drawn. */
static void draw_order(struct drawing *d)
{
	const double high = 150, end = (double)file_end(d->map);
	size_t every = d->map->count / POINTS + 1;
	uint64_t broken, runs;
	char text[128], at[32];

	fragments(d->map, &broken, &runs);
	snprintf(text, sizeof(text), "Order in the file: %" PRIu64 " runs of data, %" PRIu64 " of them go back", runs,
	         broken);
	heading(d, text);
	rect(d->to, LEFT, d->y, WIDTH, high, "#f6f8fa");
	fprintf(d->to, "<text x=\"%d\" y=\"%.0f\" class=\"a\">0</text>\n<text x=\"%d\" y=\"%u\" class=\"a\">%s</text>\n",
	        LEFT - 6, d->y + high, LEFT - 6, d->y + 10, text_size(end, at, sizeof(at)));
	for (size_t i = 0; i < d->map->count; i += every) {
		const struct map_run *m = &d->map->run[i];
		double x = LEFT + WIDTH * ((double)m->run.offset / (double)d->size);
		double w = WIDTH * ((double)m->run.length / (double)d->size);
		double y = d->y + high * (1 - (double)m->run.file_offset / end);
		double h = high * ((double)m->run.length / end);

		if (m->run.placed && m->run.data && !m->run.zero)
			fprintf(d->to,
			        "<path d=\"M%.2f %.2fl%.2f %.2f\" stroke=\"%s\" stroke-width=\"2.5\" "
			        "stroke-linecap=\"round\"/>\n",
			        x, y, MAX(w, 0.01), -h, colours[layer_of(m->depth)]);
	}
	d->y += (unsigned)high;
	draw_axis(d);
}

static void legend_line(struct drawing *d, const char *fill, const char *what, const char *name, uint64_t bytes)
{
	char size[32];

	d->y += 20;
	rect(d->to, LEFT, d->y - 11, 14, 12, fill);
	fprintf(d->to, "<text x=\"%d\" y=\"%u\">%s", LEFT + 22, d->y, what);
	put_name(d->to, name, 90);
	fprintf(d->to, " (%s)</text>\n", text_size((double)bytes, size, sizeof(size)));
}

static void draw_legend(struct drawing *d, const struct cell *sum)
{
	uint64_t nothing = sum->all - data_of(sum) - sum->zero - sum->reserved;

	heading(d, "Legend");
	for (unsigned l = 0; l < d->layers; l++)
		legend_line(d, colours[l], "data in ",
		            l == LAYERS - 1 && d->chain->count > LAYERS ? "this and all layers below"
		                                                        : d->chain->layer[l].params.target,
		            sum->data[l]);
	legend_line(d, "url(#reserved)", "reserved in the file, nothing written", "", sum->reserved);
	legend_line(d, "#b9c2cc", "said to be zeroes", "", sum->zero);
	legend_line(d, "#eef1f4", "nothing is said: reads as zeroes", "", nothing);
	d->y += 30;
}

static unsigned height_of(const struct drawing *d)
{
	return 56 + 44 + d->rows * CELL_H + 44 + d->layers * 12 + 20 + 44 + 150 + 20 + 44 + (d->layers + 3) * 20 + 30;
}

static void draw_all(struct drawing *d)
{
	unsigned height = height_of(d), width = LEFT + WIDTH + 40;
	struct cell sum;

	totals(d, &sum);
	fprintf(d->to,
	        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
	        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" viewBox=\"0 0 %u %u\" "
	        "font-family=\"sans-serif\" font-size=\"13\" fill=\"#24292f\">\n"
	        "<style>.t{font-size:20px;font-weight:bold}.h{font-size:14px;font-weight:bold}"
	        ".a{font-size:10px;text-anchor:end;fill:#57606a}.x{font-size:10px;text-anchor:middle;"
	        "fill:#57606a}</style>\n"
	        "<defs><pattern id=\"reserved\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\">"
	        "<rect width=\"4\" height=\"4\" fill=\"#dfe5ea\"/><path d=\"M0 4L4 0\" stroke=\"#7f8b97\"/>"
	        "</pattern></defs>\n",
	        width, height, width, height);
	rect(d->to, 0, 0, width, height, "#ffffff");
	draw_title(d, &sum);
	draw_disk(d);
	draw_layers(d);
	draw_order(d);
	draw_legend(d, &sum);
	fputs("</svg>\n", d->to);
}

void map_draw(const struct map *map, const struct chain *chain, FILE *to)
{
	struct drawing d = {.map = map, .chain = chain, .to = to, .layers = MIN(chain->count, (unsigned)LAYERS)};

	d.size = img_info(chain->layer[0].image)->size;
	/* Not less than a sector, so that a small image has large cells. */
	d.per_cell = MAX(round_up(div_round_up(d.size, COLS * ROWS), 512), (uint64_t)512);
	if (d.per_cell > 4096)
		d.per_cell = round_up(d.per_cell, 4096);
	d.cells = (unsigned)div_round_up(d.size, d.per_cell);
	d.rows = (unsigned)div_round_up(d.cells, COLS);
	d.cell = calloc(d.cells ? d.cells : 1, sizeof(*d.cell));
	if (!d.cell || !d.cells) {
		tool_fail("out of memory");
	} else {
		count(&d);
		draw_all(&d);
	}
	free(d.cell);
}
