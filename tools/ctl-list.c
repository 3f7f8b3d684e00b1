/* ringdisk list: the disks, or one disk's settings. */
#include "ctl.h"

#include <stdio.h>

#include "table.h"

static bool settings;

static const struct verb_option options[] = {
	{"settings", 'S', OPTION_FLAG, NULL, "each setting, its value, and where that came from", &settings},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static void print_problems(json_t *disk)
{
	char line[800];

	if (*get_text(disk, "error")) {
		snprintf(line, sizeof(line), "%s: %s", get_text(disk, "disk"), get_text(disk, "error"));
		puts(text_clean(line));
	}
	if (get_number(disk, "parked"))
		printf("%s: %lld request(s) wait for you: mend what fails, or make room, then 'ringdisk unpause %s'\n",
		       get_text(disk, "disk"), get_number(disk, "parked"), get_text(disk, "disk"));
	if (get_bool(disk, "flush_failed"))
		printf("%s: a flush failed: what was written may be lost; only detach clears this\n",
		       get_text(disk, "disk"));
}

static void print_disks(json_t *disks)
{
	static const char *const columns[] = {"DISK",   "STATE",   "MODE",  ">SIZE",
	                                      ">RINGS", ">IN I/O", "IMAGE", NULL};
	struct table *table = table_new(columns);
	char size[32];
	json_t *disk;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		json_t *geometry = json_object_get(disk, "geometry"), *rings = json_object_get(disk, "rings");

		table_cell(table, "%s", get_text(disk, "disk"));
		table_cell(table, "%s", get_text(disk, "state"));
		table_cell(table, "%s%s", get_bool(disk, "writable") ? "rw" : "ro",
		           get_bool(disk, "cdrom") ? ",cd" : "");
		table_cell(table, "%s",
		           geometry ? text_size((double)get_number(geometry, "size"), size, sizeof(size))
		                    : "-");
		if (rings)
			table_cell(table, "%lldx%lld", get_number(rings, "count"),
			           get_number(rings, "pages"));
		else
			table_cell(table, "-");
		table_cell(table, "%lld", get_number(disk, "inflight"));
		table_cell(table, "%s", get_text(disk, "params"));
	}
	table_print(table, stdout);
	table_free(table);
	json_array_foreach(disks, i, disk)
		print_problems(disk);
}

static void print_settings(json_t *disks)
{
	static const char *const columns[] = {"DISK", "SETTING", "VALUE", "ORIGIN", "CHANGE WORKS", NULL};
	struct table *table = table_new(columns);
	json_t *disk, *setting;
	const char *key;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		json_object_foreach(json_object_get(disk, "settings"), key, setting)
		{
			table_cell(table, "%s", get_text(disk, "disk"));
			table_cell(table, "%s", key);
			table_cell(table, "%s", get_text(setting, "value"));
			table_cell(table, "%s", get_text(setting, "origin"));
			table_cell(table, "%s",
			           get_bool(setting, "live") ? "at once" : "at the next connect");
		}
	}
	table_print(table, stdout);
	table_free(table);
}

static int run(int argc, char **argv)
{
	json_t *result = NULL, *disks;
	enum ctl_exit status;

	status = ctl_ask("list", json_pack("{s:b, s:s*}", "settings", settings, "disk", argc ? argv[0] : NULL),
	                 &result);
	if (status != EXIT_DONE)
		return status;
	disks = json_object_get(result, "disks");
	if (ctl_json)
		ctl_print_json(result);
	else if (!json_array_size(disks))
		puts("no disks");
	else if (settings)
		print_settings(disks);
	else
		print_disks(disks);
	json_decref(result);
	return EXIT_DONE;
}

const struct verb ctl_list = {
	.name = "list",
	.arguments = "[DISK]",
	.help = "show the disks that are served",
	.options = options,
	.max_arguments = 1,
	.run = run,
};
