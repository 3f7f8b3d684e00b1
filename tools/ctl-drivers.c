/* ringdisk drivers: what the daemon can read and write. */
#include "ctl.h"

#include <stdio.h>

#include "table.h"

static void print_options(json_t *drivers)
{
	static const char *const columns[] = {"DRIVER", "OPTION", "MEANING", NULL};
	struct table *table = table_new(columns);
	json_t *driver, *option;
	size_t i, k;

	json_array_foreach(drivers, i, driver)
	{
		json_array_foreach(json_object_get(driver, "options"), k, option)
		{
			table_cell(table, "%s", get_text(driver, "name"));
			table_cell(table, "%s=", get_text(option, "key"));
			table_cell(table, "%s", get_text(option, "help"));
		}
	}
	putchar('\n');
	table_print(table, stdout);
	table_free(table);
}

static void print_drivers(json_t *drivers)
{
	static const char *const columns[] = {"DRIVER", "VERSION", "FILE", "DESCRIPTION", NULL};
	struct table *table = table_new(columns);
	json_t *driver;
	size_t i;

	json_array_foreach(drivers, i, driver)
	{
		const char *error = get_text(driver, "error");

		table_cell(table, "%s", *error ? "-" : get_text(driver, "name"));
		table_cell(table, "%s", *error ? "-" : get_text(driver, "version"));
		table_cell(table, "%s", get_text(driver, "file"));
		table_cell(table, "%s%s", *error ? "unusable: " : "",
		           *error ? error : get_text(driver, "description"));
	}
	table_print(table, stdout);
	table_free(table);
	print_options(drivers);
}

static int run(int argc, char **argv)
{
	json_t *result = NULL;
	enum ctl_exit status = ctl_ask("drivers", NULL, &result);

	(void)argc;
	(void)argv;
	if (status != EXIT_DONE)
		return status;
	if (ctl_json)
		ctl_print_json(result);
	else
		print_drivers(json_object_get(result, "drivers"));
	json_decref(result);
	return EXIT_DONE;
}

const struct verb ctl_drivers = {
	.name = "drivers",
	.arguments = "",
	.help = "show the image drivers and their options",
	.run = run,
};
