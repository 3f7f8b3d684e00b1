/* ringdisk-img info: what is known about an image. */
#include "img.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

static bool chain;

static const struct verb_option options[] = {
	{"chain", 'c', OPTION_FLAG, NULL, "and about those that it stands on", &chain},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static bool is_bytes(const char *key)
{
	size_t length = strlen(key);

	return (length >= 4 && !strcmp(key + length - 4, "size")) || !strcmp(key, "optimal-io") ||
	       !strcmp(key, "discard-granularity") || !strcmp(key, "end-offset");
}

static void print_number(const char *key, json_int_t value)
{
	char text[32];

	if (is_bytes(key) && value >= 1024)
		printf("%s (%" JSON_INTEGER_FORMAT " bytes)\n", text_size((double)value, text, sizeof(text)), value);
	else if (is_bytes(key))
		printf("%" JSON_INTEGER_FORMAT " bytes\n", value);
	else
		printf("%" JSON_INTEGER_FORMAT "\n", value);
}

static void print_value(const char *key, json_t *value, int depth);

static void print_members(json_t *object, int depth)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		printf("%*s%s:", depth * 2, "", key);
		print_value(key, value, depth);
	}
}

static bool all_texts(json_t *list)
{
	json_t *value;
	size_t i;

	json_array_foreach(list, i, value)
	{
		if (!json_is_string(value))
			return false;
	}
	return true;
}

static void print_list(json_t *list, int depth)
{
	json_t *value;
	size_t i;

	if (all_texts(list)) {
		json_array_foreach(list, i, value)
		{
			printf("%s %s", i ? "," : "", json_string_value(value));
		}
		putchar('\n');
		return;
	}
	putchar('\n');
	json_array_foreach(list, i, value)
	{
		printf("%*s%zu:", (depth + 1) * 2, "", i);
		print_value("", value, depth + 1);
	}
}

static void print_text(const char *text)
{
	char *clean = strdup(text);

	puts(clean ? text_clean(clean) : "");
	free(clean);
}

static void print_value(const char *key, json_t *value, int depth)
{
	if (json_is_object(value)) {
		putchar('\n');
		print_members(value, depth + 1);
	} else if (json_is_array(value)) {
		print_list(value, depth);
	} else {
		putchar(' ');
		if (json_is_integer(value))
			print_number(key, json_integer_value(value));
		else if (json_is_boolean(value))
			puts(json_is_true(value) ? "yes" : "no");
		else
			print_text(json_is_string(value) ? json_string_value(value) : "");
	}
}

static int show_one(const char *string)
{
	struct source source;
	int status = source_open(&source, string, 0);
	json_t *all;

	if (status)
		return status;
	all = facts_all(&source);
	if (tool_json) {
		tool_print_json(all);
	} else {
		print_members(all, 0);
		json_decref(all);
	}
	return source_close(&source);
}

static int show_chain(const char *string)
{
	json_t *all = json_array();
	struct chain layers;
	int status = chain_open(&layers, string, 0);

	for (unsigned i = 0; !status && i < layers.count; i++)
		json_array_append_new(all, facts_all(&layers.layer[i]));
	chain_close(&layers);
	if (!status && tool_json)
		tool_print_json(json_incref(all));
	for (size_t i = 0; !status && !tool_json && i < json_array_size(all); i++) {
		if (i)
			putchar('\n');
		print_members(json_array_get(all, i), 0);
	}
	json_decref(all);
	return status;
}

static int run(int argc, char **argv)
{
	(void)argc;
	return chain ? show_chain(argv[0]) : show_one(argv[0]);
}

const struct verb verb_info = {
	.name = "info",
	.arguments = "IMAGE",
	.help = "show what is known about an image",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
