/* ringdisk set: change settings of a disk. */
#include "ctl.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

static enum ctl_exit set_one(const char *disk, char *assignment)
{
	char *equals = strchr(assignment, '=');
	json_t *result = NULL;
	enum ctl_exit status;

	*equals = 0;
	status = ctl_ask("set",
	                 json_pack("{s:s, s:s, s:s}", "disk", disk, "key", assignment, "value", equals + 1),
	                 &result);
	if (status != EXIT_DONE)
		return status;
	if (ctl_json)
		ctl_print_json(result);
	else
		printf("%s %s=%s, %s\n", get_text(result, "disk"), get_text(result, "key"),
		       get_text(result, "value"),
		       get_bool(result, "live") ? "at once" : "at the next connect");
	json_decref(result);
	return EXIT_DONE;
}

static int run(int argc, char **argv)
{
	enum ctl_exit status = EXIT_DONE;

	for (int i = 1; i < argc; i++)
		if (!strchr(argv[i], '='))
			return verbs_misused("\"%s\" is not KEY=VALUE", argv[i]);
	for (int i = 1; i < argc && status == EXIT_DONE; i++)
		status = set_one(argv[0], argv[i]);
	return status;
}

const struct verb ctl_set = {
	.name = "set",
	.arguments = "DISK KEY=VALUE...",
	.help = "change settings of a disk",
	.details = "'ringdisk list --settings DISK' shows the keys. Not kept when the disk is detached.\n",
	.min_arguments = 2,
	.max_arguments = INT_MAX,
	.run = run,
};
