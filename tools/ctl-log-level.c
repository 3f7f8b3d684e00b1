/* ringdisk log-level: how much the daemon logs. */
#include "ctl.h"

#include <stdio.h>
#include <string.h>

#include "table.h"

static void print_levels(json_t *levels, const char *only)
{
	static const char *const columns[] = {"SUBSYSTEM", "LEVEL", NULL};
	struct table *table = table_new(columns);
	const char *subsystem;
	json_t *level;

	json_object_foreach(levels, subsystem, level)
	{
		if (only && strcmp(only, subsystem))
			continue;
		table_cell(table, "%s", subsystem);
		table_cell(table, "%s", json_string_value(level) ? json_string_value(level) : "");
	}
	table_print(table, stdout);
	table_free(table);
}

static int run(int argc, char **argv)
{
	const char *subsystem = argc ? argv[0] : NULL;
	json_t *result = NULL;
	enum ctl_exit status;

	status = ctl_ask("log-level",
	                 json_pack("{s:s*, s:s*}", "subsystem", subsystem, "level", argc > 1 ? argv[1] : NULL),
	                 &result);
	if (status != EXIT_DONE)
		return status;
	if (ctl_json)
		ctl_print_json(result);
	else
		print_levels(json_object_get(result, "levels"),
		             subsystem && strcmp(subsystem, "all") ? subsystem : NULL);
	json_decref(result);
	return EXIT_DONE;
}

const struct verb ctl_log_level = {
	.name = "log-level",
	.arguments = "[SUBSYSTEM [LEVEL]]",
	.help = "show or set how much is logged",
	.details = "SUBSYSTEM may be all. LEVEL is err, warn, info or debug.\n",
	.max_arguments = 2,
	.run = run,
};
