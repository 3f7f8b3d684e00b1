/* ringdisk check: the metadata of an image that is in use. */
#include "ctl.h"

#include <stdio.h>

#include "table.h"

static double seconds = 10;

static const struct verb_option options[] = {
	{"seconds", 'S', OPTION_SECONDS, "N", "let the guest wait so long at most (10)", &seconds},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static void print_result(json_t *result)
{
	long long clusters = get_number(result, "clusters"), allocated = get_number(result, "allocated");
	const char *disk = get_text(result, "disk");
	json_t *text;
	size_t i;

	json_array_foreach(json_object_get(result, "notes"), i, text)
		printf("%s: %s\n", disk, json_string_value(text));
	if (get_number(result, "errors"))
		printf("%s: %lld errors: data may be lost, or get lost\n", disk, get_number(result, "errors"));
	if (get_number(result, "unchecked"))
		printf("%s: %lld things could not be read\n", disk, get_number(result, "unchecked"));
	if (get_number(result, "leaks"))
		printf("%s: %lld leaks, which waste space and harm nothing\n", disk, get_number(result, "leaks"));
	if (!get_number(result, "errors") && !get_number(result, "unchecked"))
		printf("%s: no errors\n", disk);
	if (clusters)
		printf("%s: %lld of %lld clusters (%.1f%%) allocated\n", disk, allocated, clusters,
		       100.0 * (double)allocated / (double)clusters);
}

static int run(int argc, char **argv)
{
	enum ctl_exit status;
	json_t *result = NULL;

	(void)argc;
	if (seconds < 1 || seconds > 86400)
		return verbs_misused("--seconds: between 1 and 86400");
	status = ctl_ask_slow("check", json_pack("{s:s, s:I}", "disk", argv[0], "seconds", (json_int_t)seconds), argv[0],
	                      &result);
	if (status != EXIT_DONE)
		return status;
	if (ctl_json)
		ctl_print_json(result);
	else
		print_result(result);
	if (get_number(result, "errors") || get_number(result, "unchecked"))
		status = EXIT_FAILED;
	json_decref(result);
	return status;
}

const struct verb ctl_check = {
	.name = "check",
	.arguments = "DISK",
	.help = "check the metadata of an image that is in use",
	.details = "The guest's requests wait meanwhile; if that takes too long it is given up. Nothing is repaired:\n"
		   "that is for ringdisk-img, without the guest. The exit status is 1 if there are errors.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
