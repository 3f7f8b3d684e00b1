/*
 * ringdisk-img query: what vhd-util's query says about an image, for every format: type, sizes, what it stands on,
 * how deep, hidden or not, its unique id. One field alone is for scripts.
 *
 * The image may be in use: it is opened without locks, and nothing is changed; what a running daemon has not written
 * yet is not seen. An image whose parent is missing has everything but a depth.
 */
#include "img.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "table.h"

/* In the order in which they are shown. */
static const char *const fields[] = {
	"image", "format", "type", "virtual-size", "physical-size", "disk-size", "max-size",
	"parent", "parent-format", "depth", "hidden", "uuid", NULL,
};

/* How many images the disk is made of; 0: one of them cannot be opened, which has been said. */
static unsigned depth_of(const char *string)
{
	struct chain chain;
	unsigned depth = chain_open(&chain, string, RD_OPEN_PROBE) ? 0 : chain.count;

	chain_close(&chain);
	return depth;
}

static void put_member(json_t *all, const char *key, json_t *from, const char *name)
{
	json_object_set(all, key, json_object_get(from, name) ? json_object_get(from, name) : json_null());
}

/* What the format can say without its tables being moved. */
static json_t *max_size(json_t *facts)
{
	json_int_t blocks = json_integer_value(json_object_get(facts, "max-blocks"));
	json_int_t size = json_integer_value(json_object_get(facts, "block-size"));

	return blocks && size ? json_integer(blocks * size) : json_null();
}

static json_t *collect(struct source *source, bool want_depth)
{
	json_t *all = json_object(), *facts = facts_of(source->image);
	unsigned depth = want_depth ? depth_of(source->string) : 0;
	struct stat st;

	json_object_set_new(all, "image", json_string(source->string));
	json_object_set_new(all, "format", json_string(source->params.driver->name));
	put_member(all, "type", facts, "type");
	json_object_set_new(all, "virtual-size", json_integer((json_int_t)img_info(source->image)->size));
	put_member(all, "physical-size", facts, "physical-size");
	if (!stat(source->params.target, &st) && S_ISREG(st.st_mode)) {
		if (!json_object_get(facts, "physical-size"))
			json_object_set_new(all, "physical-size", json_integer(st.st_size));
		json_object_set_new(all, "disk-size", json_integer(st.st_blocks * 512));
	}
	json_object_set_new(all, "max-size", max_size(facts));
	put_member(all, "parent", facts, "backing-file");
	put_member(all, "parent-format", facts, *get_text(facts, "backing-file") ? "backing-format" : "");
	json_object_set_new(all, "depth", depth ? json_integer(depth) : json_null());
	json_object_set_new(all, "hidden", json_boolean(json_is_true(json_object_get(facts, "hidden"))));
	put_member(all, "uuid", facts, "uuid");
	json_decref(facts);
	return all;
}

static void print_value(const json_t *value)
{
	char *text;

	if (json_is_integer(value)) {
		printf("%" JSON_INTEGER_FORMAT "\n", json_integer_value(value));
	} else if (json_is_boolean(value)) {
		puts(json_is_true(value) ? "yes" : "no");
	} else if (json_is_string(value)) {
		text = strdup(json_string_value(value));
		puts(text ? text_clean(text) : "");
		free(text);
	} else {
		puts("none");
	}
}

static void print_all(const json_t *all)
{
	for (const char *const *f = fields; *f; f++) {
		const json_t *value = json_object_get(all, *f);

		if (!value || json_is_null(value))
			continue;
		printf("%s: ", *f);
		print_value(value);
	}
}

static int report(json_t *all, const char *field)
{
	if (tool_json && field)
		tool_print_json(json_pack("{s:O?}", field, json_object_get(all, field)));
	else if (tool_json)
		tool_print_json(json_incref(all));
	else if (field)
		print_value(json_object_get(all, field));
	else
		print_all(all);
	return 0;
}

static bool is_field(const char *word)
{
	for (const char *const *f = fields; *f; f++)
		if (!strcmp(*f, word))
			return true;
	return false;
}

static int run(int argc, char **argv)
{
	const char *field = argc > 1 ? argv[1] : NULL;
	bool want_depth = !field || !strcmp(field, "depth");
	struct source source;
	json_t *all = NULL;
	int status;

	if (field && !is_field(field))
		return verbs_misused("query: there is no field \"%s\"", field);
	status = source_open_alone(&source, argv[0], RD_OPEN_PROBE);
	if (!status) {
		all = collect(&source, want_depth);
		status = report(all, field);
		if (want_depth && json_is_null(json_object_get(all, "depth")))
			status = EXIT_FAILED;
	}
	json_decref(all);
	return source_close(&source) ? EXIT_FAILED : status;
}

const struct verb verb_query = {
	.name = "query",
	.arguments = "IMAGE [FIELD]",
	.help = "type, sizes, parent, depth, hidden, id; also while it is in use",
	.details = "FIELD is image, format, type, virtual-size, physical-size, disk-size, max-size, parent,\n"
		   "parent-format, depth, hidden or uuid: only its value is printed then. Sizes are bytes.\n",
	.min_arguments = 1,
	.max_arguments = 2,
	.run = run,
};
