/* ringdisk-img map: which part of an image is stored where. */
#include "img.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "map.h"
#include "table.h"

static const char *svg;

static const struct verb_option options[] = {
	{"svg", 0, OPTION_TEXT, "FILE", "draw a picture into FILE (- is stdout)", &svg},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

/* ---- gathering ---------------------------------------------------------------------------------------------- */

static bool joins(const struct map_run *a, const struct map_run *b)
{
	return a->depth == b->depth && a->run.present == b->run.present && a->run.zero == b->run.zero &&
	       a->run.data == b->run.data && a->run.placed == b->run.placed &&
	       (!a->run.placed || a->run.file_offset + a->run.length == b->run.file_offset);
}

static int append(struct map *map, const struct map_run *next)
{
	struct map_run *last = map->count ? &map->run[map->count - 1] : NULL;

	if (last && joins(last, next)) {
		last->run.length += next->run.length;
		return 0;
	}
	if (map->count == map->room) {
		size_t room = map->room ? map->room * 2 : 256;
		struct map_run *grown = reallocarray(map->run, room, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		map->run = grown;
		map->room = room;
	}
	map->run[map->count++] = *next;
	return 0;
}

/* What the chain says at an offset of the top: the first layer that says something. */
static int look(struct walk *walks, unsigned count, uint64_t at, uint64_t size, struct map_run *found)
{
	uint64_t length = size - at;

	for (unsigned i = 0; i < count; i++) {
		struct run run;
		int r;

		if (at >= walks[i].end) {
			/* A short backing file reads as zeroes behind its end. */
			*found = (struct map_run){.run = {.offset = at, .length = length, .zero = true}, .depth = i};
			return 0;
		}
		walk_step(&walks[i], at - walks[i].at);
		r = walk_look(&walks[i], &run);
		if (r < 0)
			return r;
		length = MIN(length, run.length);
		run.length = length;
		*found = (struct map_run){.run = run, .depth = i};
		if (run.present)
			return 0;
	}
	return 0;
}

static int gather(struct chain *chain, struct walk *walks, struct map *map)
{
	uint64_t size = img_info(chain->layer[0].image)->size, at = 0;
	struct map_run found;
	int r = 0;

	for (unsigned i = 0; i < chain->count && !r; i++)
		r = walk_init(&walks[i], chain->layer[i].image, true);
	while (!r && at < size) {
		r = look(walks, chain->count, at, size, &found);
		/* raw stores nothing where its file has a hole. */
		if (!r && found.run.hole && !strcmp(img_driver(walks[found.depth].image)->name, "raw"))
			found.run.data = false;
		if (!r)
			r = append(map, &found);
		at += found.run.length;
		if (tool_stopped())
			r = -ECANCELED;
	}
	return r;
}

static int make_map(struct chain *chain, struct map *map)
{
	struct walk *walks = calloc(CHAIN_MAX, sizeof(*walks));
	int r = walks ? gather(chain, walks, map) : -ENOMEM;

	for (unsigned i = 0; walks && i < chain->count; i++)
		walk_done(&walks[i]);
	free(walks);
	return r ? tool_failed(r, "%s: map", chain->layer[0].string) : 0;
}

/* ---- printing ------------------------------------------------------------------------------------------------ */

static void print_json(const struct map *map)
{
	/* As qemu-img prints it, a line each: there may be millions. */
	putchar('[');
	for (size_t i = 0; i < map->count; i++) {
		const struct run *run = &map->run[i].run;

		printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, \"present\": %s, "
		       "\"zero\": %s, \"data\": %s",
		       i ? ",\n" : "", run->offset, run->length, map->run[i].depth, run->present ? "true" : "false",
		       run->zero ? "true" : "false", run->data ? "true" : "false");
		if (run->placed)
			printf(", \"offset\": %" PRIu64, run->file_offset);
		fputs("}", stdout);
	}
	puts("]");
}

static void print_table(const struct map *map, const struct chain *chain)
{
	static const char *const columns[] = {">START", ">LENGTH", "WHAT", ">OFFSET", ">DEPTH", "IMAGE", NULL};
	struct table *table = table_new(columns);
	char length[32];

	for (size_t i = 0; i < map->count; i++) {
		const struct run *run = &map->run[i].run;

		table_cell(table, "%" PRIu64, run->offset);
		table_cell(table, "%s", text_size((double)run->length, length, sizeof(length)));
		table_cell(table, "%s", map_word(run));
		if (run->placed && run->data)
			table_cell(table, "%" PRIu64, run->file_offset);
		else
			table_cell(table, "%s", run->data ? "packed" : "-");
		table_cell(table, "%u", map->run[i].depth);
		table_cell(table, "%s", run->present ? chain->layer[map->run[i].depth].params.target : "-");
	}
	table_print(table, stdout);
	table_free(table);
}

const char *map_word(const struct run *run)
{
	if (run->data)
		return run->zero ? "reserved" : "data";
	return run->present && !run->hole ? "zero" : "hole";
}

static int print(const struct map *map, const struct chain *chain)
{
	FILE *to;

	if (tool_json)
		print_json(map);
	else if (!svg)
		print_table(map, chain);
	if (!svg)
		return 0;
	to = strcmp(svg, "-") ? fopen(svg, "we") : stdout;
	if (!to)
		return tool_failed(-errno, "%s", svg);
	map_draw(map, chain, to);
	if (fflush(to) || ferror(to)) {
		int r = -errno;

		if (to != stdout)
			fclose(to);
		return tool_failed(r, "%s", svg);
	}
	if (to != stdout)
		fclose(to);
	return 0;
}

static int run(int argc, char **argv)
{
	struct map map = {.count = 0};
	struct chain chain;
	int status = chain_open(&chain, argv[0], 0);

	(void)argc;
	if (!status)
		status = make_map(&chain, &map);
	if (!status)
		status = print(&map, &chain);
	chain_close(&chain);
	free(map.run);
	return status;
}

const struct verb verb_map = {
	.name = "map",
	.arguments = "IMAGE",
	.help = "show which parts of an image are stored where",
	.details = "DEPTH 0 is the image itself, 1 what it stands on, and so on. WHAT is data; reserved (has a place,\n"
		   "but nothing has been written there); zero (said to be zeroes); or hole (nothing is said).\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
