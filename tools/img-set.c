/*
 * ringdisk-img set: what stands in an image besides its disk, and can be changed: flags that the format has, and the
 * name of what it stands on. No data is touched.
 *
 * What can go wrong: with another parent the image cannot be opened: then the old one is put back.
 */
#include "img.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *parent_format;

static const struct verb_option options[] = {
	{"parent-format", 0, OPTION_TEXT, "FORMAT", "the format of parent=PATH (what is recorded now, or the image's)",
	 &parent_format},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static int set_parent(const char *string, const char *path)
{
	const char *format = parent_format;
	json_t *facts = NULL;
	struct source top;
	int status = source_open_alone(&top, string, RD_OPEN_PROBE);

	if (!status && !format) {
		facts = facts_of(top.image);
		format = get_text(facts, "backing-file")[0] ? get_text(facts, "backing-format") : "";
		format = *format ? format : top.params.driver->name;
	}
	if (!status)
		status = rebase_name(string, path, format);
	json_decref(facts);
	return source_close(&top) ? EXIT_FAILED : status;
}

static int set_one(const char *string, const char *key, const char *value)
{
	struct source source;
	int r, status = source_open_change(&source, string);

	if (status)
		return source_close(&source), status;
	r = img_set(source.image, key, value);
	if (r == -EOPNOTSUPP)
		status = tool_fail("%s: there is no %s to set in this image", string, key);
	else if (r == -EINVAL)
		status = tool_fail("%s: %s cannot be \"%s\"; what it can be is in ringdisk-img(1)", string, key, value);
	else if (r)
		status = tool_failed(r, "%s: %s is not set", string, key);
	return source_close(&source) ? EXIT_FAILED : status;
}

static int run(int argc, char **argv)
{
	int status = 0;

	for (int i = 1; i < argc; i++)
		if (!strchr(argv[i], '=') || argv[i][0] == '=')
			return verbs_misused("set: \"%s\" is not KEY=VALUE", argv[i]);
	for (int i = 1; i < argc && !status; i++) {
		char *value = strchr(argv[i], '=');

		*value++ = '\0';
		status = strcmp(argv[i], "parent") ? set_one(argv[0], argv[i], value) : set_parent(argv[0], value);
	}
	return status;
}

const struct verb verb_set = {
	.name = "set",
	.arguments = "IMAGE KEY=VALUE...",
	.help = "change a flag of an image, or the name of its parent",
	.details = "KEY is hidden (yes or no; VHD: others stand on it, and no guest is to write to it), or parent: the\n"
		   "path of what it stands on, as it is to be recorded. Nothing is compared, as with rebase --unsafe.\n",
	.options = options,
	.min_arguments = 2,
	.max_arguments = 16,
	.run = run,
};
