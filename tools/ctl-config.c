/* ringdisk config: what is in force of the daemon's configuration, and where each value came from. */
#include "ctl.h"

#include <stdio.h>
#include <string.h>

#include "table.h"

static bool all;

static const struct verb_option options[] = {
	{"all", 'a', OPTION_FLAG, NULL, "with what is as it is by default", &all},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static void row(struct table *table, const char *section, json_t *entry)
{
	json_t *restart = json_object_get(entry, "restart");
	const char *value = json_string_value(json_object_get(entry, "value"));

	table_cell(table, "%s", section);
	table_cell(table, "%s", get_text(entry, "name"));
	table_cell(table, "%s", value ? value : "-");
	if (restart)
		table_cell(table, "%s; after a restart: %s", get_text(entry, "from"),
		           json_is_string(restart) ? json_string_value(restart) : "-");
	else
		table_cell(table, "%s", get_text(entry, "from"));
}

static void print(json_t *result)
{
	static const char *const columns[] = {"SECTION", "NAME", "VALUE", "FROM", NULL};
	struct table *table = table_new(columns);
	json_t *entry;
	size_t i;

	json_array_foreach(json_object_get(result, "options"), i, entry)
	{
		if (all || json_object_get(entry, "restart") || strcmp(get_text(entry, "from"), "default") != 0)
			row(table, "daemon", entry);
	}
	json_array_foreach(json_object_get(result, "settings"), i, entry)
		row(table, get_text(entry, "section"), entry);
	table_print(table, stdout);
	table_free(table);
}

static int run(int argc, char **argv)
{
	enum ctl_exit status;
	json_t *result = NULL;

	(void)argc;
	(void)argv;
	status = ctl_ask("config", NULL, &result);
	if (status != EXIT_DONE)
		return status;
	if (ctl_json)
		ctl_print_json(result);
	else
		print(result);
	json_decref(result);
	return EXIT_DONE;
}

const struct verb ctl_config = {
	.name = "config",
	.arguments = "",
	.help = "show what is in force of the configuration, and where it came from",
	.details = "What a disk has, and from where, is shown by 'ringdisk list --settings DISK'.\n",
	.options = options,
	.run = run,
};
