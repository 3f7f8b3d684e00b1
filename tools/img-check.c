/*
 * ringdisk-img check: is the metadata of an image as it should be? Exit statuses are those of qemu-img's.
 *
 * After a repair it is checked once more: what that finds is the answer.
 */
#include "img.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "table.h"

enum { CHECK_GOOD, CHECK_NOT_DONE, CHECK_ERRORS, CHECK_LEAKS, CHECK_NONE = 63 };

static const char *repair;

static const struct verb_option options[] = {
	{"repair", 'r', OPTION_TEXT, "WHAT", "leaks: give back what is not used; all: mend errors, too", &repair},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static const struct field {
	const char *name, *words;
	size_t at;
} fields[] = {
	{"errors", "errors", offsetof(struct rd_check, errors)},
	{"leaks", "leaks", offsetof(struct rd_check, leaks)},
	{"errors-fixed", "errors mended", offsetof(struct rd_check, errors_fixed)},
	{"leaks-fixed", "leaks mended", offsetof(struct rd_check, leaks_fixed)},
	{"unchecked", "things that could not be read", offsetof(struct rd_check, unchecked)},
	{"clusters", NULL, offsetof(struct rd_check, clusters)},
	{"allocated-clusters", NULL, offsetof(struct rd_check, allocated)},
	{"compressed-clusters", NULL, offsetof(struct rd_check, compressed)},
	{"fragmented-clusters", NULL, offsetof(struct rd_check, fragmented)},
	{"image-end-offset", NULL, offsetof(struct rd_check, image_end)},
};
#define N_FIELDS (sizeof(fields) / sizeof(fields[0]))

static uint64_t value_of(const struct rd_check *check, const struct field *field)
{
	uint64_t value;

	memcpy(&value, (const char *)check + field->at, sizeof(value));
	return value;
}

static void print_json(const struct source *source, const struct rd_check *check)
{
	json_t *result = json_pack("{s:s, s:s}", "image", source->string, "format", source->params.driver->name);

	for (size_t i = 0; i < N_FIELDS; i++)
		json_object_set_new(result, fields[i].name, json_integer((json_int_t)value_of(check, &fields[i])));
	tool_print_json(result);
}

static void print_text(const struct rd_check *check)
{
	char end[32];

	for (size_t i = 0; i < N_FIELDS && fields[i].words; i++)
		if (value_of(check, &fields[i]))
			printf("%" PRIu64 " %s.\n", value_of(check, &fields[i]), fields[i].words);
	if (!check->errors && !check->leaks && !check->unchecked)
		puts("No errors were found.");
	if (check->errors)
		puts("Data may be lost, or get lost. Copy the image before '--repair all', which cannot be undone.");
	else if (check->leaks)
		puts("Leaks waste space and harm nothing; '--repair leaks' gives it back.");
	if (check->clusters)
		printf("%" PRIu64 " of %" PRIu64 " clusters (%.1f%%) allocated, %.1f%% of them fragmented, %.1f%% "
		       "compressed; %s used.\n",
		       check->allocated, check->clusters, 100.0 * (double)check->allocated / (double)check->clusters,
		       check->allocated ? 100.0 * (double)check->fragmented / (double)check->allocated : 0,
		       check->allocated ? 100.0 * (double)check->compressed / (double)check->allocated : 0,
		       text_size((double)check->image_end, end, sizeof(end)));
}

static int status_of(const struct rd_check *check)
{
	return check->errors ? CHECK_ERRORS : check->unchecked ? CHECK_NOT_DONE : check->leaks ? CHECK_LEAKS : CHECK_GOOD;
}

static int run_check(struct source *source, uint32_t flags, struct rd_check *check)
{
	int r;

	progress_start(flags ? "repair" : "check", 1, false);
	r = img_check(source->image, flags, &progress_driver, check);
	progress_end();
	if (r)
		tool_failed(r, "%s: not checked", source->string);
	return r ? CHECK_NOT_DONE : CHECK_GOOD;
}

static int check_and_repair(struct source *source, uint32_t flags)
{
	struct rd_check check, before = {.struct_size = sizeof(before)};
	int status = CHECK_GOOD;

	if (flags)
		status = run_check(source, flags, &before);
	if (status == CHECK_GOOD)
		status = run_check(source, 0, &check);
	if (status != CHECK_GOOD)
		return status;
	check.errors_fixed = before.errors_fixed;
	check.leaks_fixed = before.leaks_fixed;
	if (tool_json)
		print_json(source, &check);
	else if (!tool_quiet)
		print_text(&check);
	return status_of(&check);
}

static int run(int argc, char **argv)
{
	static const char *const more[] = {"backing=none", "damaged=open", "hidden=open", NULL};
	struct source source;
	uint32_t flags = 0;
	int status;

	(void)argc;
	if (repair && strcmp(repair, "leaks") != 0 && strcmp(repair, "all") != 0)
		return verbs_misused("--repair is leaks or all, not \"%s\"", repair);
	if (repair)
		flags = RD_CHECK_REPAIR_LEAKS | (!strcmp(repair, "all") ? RD_CHECK_REPAIR_ERRORS : 0);
	status = source_open_with(&source, argv[0], more, flags ? RD_OPEN_WRITE : 0);
	if (status) {
		status = CHECK_NOT_DONE;
	} else if (!img_driver(source.image)->check) {
		tool_fail("%s: there is nothing to check in this format", source.string);
		status = CHECK_NONE;
	} else {
		status = check_and_repair(&source, flags);
	}
	return source_close(&source) && status == CHECK_GOOD ? CHECK_NOT_DONE : status;
}

const struct verb verb_check = {
	.name = "check",
	.arguments = "IMAGE",
	.help = "check an image's metadata, and repair it",
	.details = "Exit status: 0 good, 1 not checked, 2 errors, 3 leaks only, 63 the format has no check.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.misused = CHECK_NOT_DONE,
	.run = run,
};
