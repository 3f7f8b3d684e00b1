/* ringdisk-img snapshot: states of a disk that are kept inside of its image. */
#include "img.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "table.h"

/* ---- list ------------------------------------------------------------------------------------------------ */

/* The facts of formats differ: a column for each key of the first snapshot, up to some. */
#define COLUMNS_MAX 8

static void print_cell(struct table *table, const char *key, json_t *value)
{
	size_t length = strlen(key);
	char text[64];
	struct tm tm;
	time_t at;

	if (json_is_string(value)) {
		table_cell(table, "%s", json_string_value(value));
	} else if (json_is_boolean(value)) {
		table_cell(table, "%s", json_is_true(value) ? "yes" : "no");
	} else if (length >= 4 && !strcmp(key + length - 4, "size")) {
		table_cell(table, "%s", text_size((double)json_integer_value(value), text, sizeof(text)));
	} else if (!strcmp(key, "date") || !strcmp(key, "date-sec") || !strcmp(key, "time")) {
		at = (time_t)json_integer_value(value);
		if (!localtime_r(&at, &tm) || !strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm))
			text[0] = '\0';
		table_cell(table, "%s", text);
	} else if (json_is_integer(value)) {
		table_cell(table, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	} else {
		table_cell(table, "-");
	}
}

static void print_table(json_t *list)
{
	const char *columns[COLUMNS_MAX + 1] = {NULL}, *key;
	json_t *snapshot, *value;
	struct table *table;
	size_t i, count = 0;

	json_object_foreach(json_array_get(list, 0), key, value)
	{
		if (count < COLUMNS_MAX && !json_is_object(value) && !json_is_array(value))
			columns[count++] = key;
	}
	table = table_new(columns);
	json_array_foreach(list, i, snapshot)
	{
		for (size_t k = 0; k < count; k++)
			print_cell(table, columns[k], json_object_get(snapshot, columns[k]));
	}
	table_print(table, stdout);
	table_free(table);
}

static int list(const char *string)
{
	struct source source;
	int status = source_open_alone(&source, string, 0);
	json_t *facts, *snapshots;

	if (status)
		return source_close(&source), status;
	facts = facts_of(source.image);
	snapshots = json_object_get(facts, "snapshots");
	if (!img_driver(source.image)->snapshot)
		status = tool_fail("%s: this format has no snapshots inside of images", string);
	else if (tool_json)
		tool_print_json(json_is_array(snapshots) ? json_incref(snapshots) : json_array());
	else if (json_array_size(snapshots))
		print_table(snapshots);
	else if (!tool_quiet)
		puts("No snapshots.");
	json_decref(facts);
	return source_close(&source) ? EXIT_FAILED : status;
}

/* ---- the others ------------------------------------------------------------------------------------------- */

static const struct op {
	const char *name, *done;
	int op;
} ops[] = {
	{"create", "made", RD_SNAPSHOT_CREATE},
	{"apply", "applied", RD_SNAPSHOT_APPLY},
	{"delete", "deleted", RD_SNAPSHOT_DELETE},
};

static int explain(int r, const struct source *source, const struct op *op, const char *name)
{
	switch (r) {
	case -EOPNOTSUPP:
		return tool_fail("%s: this format has no snapshots inside of images", source->string);
	case -ENOENT:
		return tool_fail("%s: there is no snapshot \"%s\"; 'snapshot list' shows them", source->string, name);
	case -EEXIST:
		return tool_fail("%s: there is a snapshot \"%s\" already", source->string, name);
	default:
		return tool_failed(r, "%s: snapshot %s", source->string, op->name);
	}
}

static int change(const struct op *op, const char *string, const char *name)
{
	struct source source;
	int r, status = source_open(&source, string, RD_OPEN_WRITE);

	if (status)
		return source_close(&source), status;
	progress_start("snapshot", 1, false);
	r = img_snapshot(source.image, op->op, name, &progress_driver);
	if (!r)
		r = img_flush(source.image);
	progress_end();
	if (r)
		status = explain(r, &source, op, name);
	else if (tool_json)
		tool_print_json(json_pack("{s:s, s:s, s:s}", "image", string, "snapshot", name, "done", op->name));
	else if (!tool_quiet)
		printf("%s: snapshot %s %s\n", string, name, op->done);
	return source_close(&source) ? EXIT_FAILED : status;
}

static int run(int argc, char **argv)
{
	if (!strcmp(argv[0], "list"))
		return argc == 2 ? list(argv[1]) : verbs_misused("snapshot list needs IMAGE, and nothing more");
	if (argc == 3 && !*argv[2])
		return verbs_misused("a snapshot needs a name that is not empty");
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		if (!strcmp(argv[0], ops[i].name))
			return argc == 3 ? change(&ops[i], argv[1], argv[2])
			                 : verbs_misused("snapshot %s needs IMAGE and NAME", ops[i].name);
	return verbs_misused("snapshot is list, create, apply or delete, not \"%s\"", argv[0]);
}

const struct verb verb_snapshot = {
	.name = "snapshot",
	.arguments = "DO IMAGE [NAME]",
	.help = "list, create, apply or delete snapshots",
	.details = "  snapshot list IMAGE\n"
		   "  snapshot create IMAGE NAME   keep the disk's present state\n"
		   "  snapshot apply IMAGE NAME    make it the disk's state again; the present one is lost\n"
		   "  snapshot delete IMAGE NAME\n"
		   "A snapshot that becomes a file of its own is made by create --backing.\n",
	.min_arguments = 2,
	.max_arguments = 3,
	.run = run,
};
