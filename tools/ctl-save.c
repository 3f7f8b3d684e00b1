/*
 * ringdisk save, load: what was attached by hand, into a file and back. The file is JSON, and made here: the daemon
 * knows nothing of it.
 */
#include "ctl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FORMAT 1

/* ---- save ---------------------------------------------------------------------------------------- */

/* Those that `ringdisk set` has changed. */
static json_t *settings_of(json_t *disk)
{
	json_t *all = json_object(), *setting;
	const char *key;

	json_object_foreach(json_object_get(disk, "settings"), key, setting)
		if (!strcmp(get_text(setting, "origin"), "set"))
			json_object_set(all, key, json_object_get(setting, "value"));
	return all;
}

static json_t *attachment_of(json_t *disk)
{
	return json_pack("{s:O, s:O, s:O, s:O, s:b, s:b, s:o}", "domid", json_object_get(disk, "domid"), "vdev",
	                 json_object_get(disk, "name"), "kind", json_object_get(disk, "kind"), "params",
	                 json_object_get(disk, "params"), "read_only", !get_bool(disk, "writable"), "cdrom",
	                 get_bool(disk, "cdrom"), "settings", settings_of(disk));
}

/* All of it, or none: under another name first. */
static int write_file(const char *path, json_t *all)
{
	char other[4096];
	int err;

	if (!strcmp(path, "-"))
		return json_dumpf(all, stdout, JSON_INDENT(2)) || putchar('\n') == EOF || fflush(stdout) ? -EIO : 0;
	if (snprintf(other, sizeof(other), "%s.new", path) >= (int)sizeof(other))
		return -ENAMETOOLONG;
	errno = EIO;
	err = json_dump_file(all, other, JSON_INDENT(2)) || rename(other, path) ? -errno : 0;
	if (err)
		unlink(other);
	return err;
}

static int save(int argc, char **argv)
{
	const char *path = argc ? argv[0] : "-";
	json_t *result = NULL, *disks = json_array(), *disk, *all;
	enum ctl_exit status = ctl_ask("list", json_pack("{s:b}", "settings", true), &result);
	size_t i;
	int err;

	json_array_foreach(json_object_get(result, "disks"), i, disk)
		if (get_bool(disk, "by_hand"))
			json_array_append_new(disks, attachment_of(disk));
	all = json_pack("{s:i, s:O}", "ringdisk-attachments", FORMAT, "disks", disks);
	err = status == EXIT_DONE ? write_file(path, all) : 0;
	if (err) {
		fprintf(stderr, "ringdisk: %s: %s\n", path, strerror(-err));
		status = EXIT_FAILED;
	} else if (status == EXIT_DONE && strcmp(path, "-") != 0 && !ctl_json) {
		printf("%zu disks in %s\n", json_array_size(disks), path);
	}
	json_decref(all);
	json_decref(disks);
	json_decref(result);
	return status;
}

const struct verb ctl_save = {
	.name = "save",
	.arguments = "[FILE]",
	.help = "write down which disks were attached by hand",
	.details = "As JSON, for load: the disks of 'ringdisk attach' with the settings that 'ringdisk set' has\n"
		   "changed, to FILE or standard output. What a toolstack has attached is the toolstack's.\n",
	.max_arguments = 1,
	.run = save,
};

/* ---- load ---------------------------------------------------------------------------------------- */

static bool is_there(json_t *list, json_t *wanted)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(list, "disks"), i, disk)
		if (json_equal(json_object_get(disk, "domid"), json_object_get(wanted, "domid")) &&
		    json_equal(json_object_get(disk, "name"), json_object_get(wanted, "vdev")))
			return true;
	return false;
}

static enum ctl_exit set_all(const char *name, json_t *settings)
{
	enum ctl_exit status, worst = EXIT_DONE;
	json_t *value, *result;
	const char *key;

	json_object_foreach(settings, key, value)
	{
		result = NULL;
		status = ctl_ask("set", json_pack("{s:s, s:s, s:O}", "disk", name, "key", key, "value", value), &result);
		json_decref(result);
		worst = status == EXIT_DONE ? worst : status;
	}
	return worst;
}

static enum ctl_exit load_one(json_t *list, json_t *disk)
{
	json_t *params = json_copy(disk), *result = NULL;
	enum ctl_exit status;
	char name[64];

	snprintf(name, sizeof(name), "%lld/%.40s", get_number(disk, "domid"), get_text(disk, "vdev"));
	json_object_del(params, "settings");
	if (is_there(list, disk)) {
		printf("%s skipped: it is there already\n", name);
		json_decref(params);
		return EXIT_DONE;
	}
	status = ctl_ask_slow("attach", params, name, &result);
	json_decref(result);
	if (status == EXIT_DONE)
		status = set_all(name, json_object_get(disk, "settings"));
	if (status == EXIT_DONE)
		printf("%s attached\n", name);
	else
		printf("%s skipped, or not all of it done: see above\n", name);
	return status;
}

static json_t *read_file(const char *path)
{
	json_error_t error;
	json_t *all = strcmp(path, "-") != 0 ? json_load_file(path, JSON_REJECT_DUPLICATES, &error)
					     : json_loadf(stdin, JSON_REJECT_DUPLICATES, &error);

	if (!all && error.line > 0)
		fprintf(stderr, "ringdisk: %s:%d: %s\n", path, error.line, error.text);
	else if (!all)
		fprintf(stderr, "ringdisk: %s\n", error.text);
	else if (get_number(all, "ringdisk-attachments") != FORMAT || !json_is_array(json_object_get(all, "disks")))
		fprintf(stderr, "ringdisk: %s: this is not what 'ringdisk save' writes\n", path);
	else
		return all;
	json_decref(all);
	return NULL;
}

static int load(int argc, char **argv)
{
	json_t *all, *list = NULL, *disk;
	enum ctl_exit status, worst;
	size_t i;

	(void)argc;
	all = read_file(argv[0]);
	if (!all)
		return EXIT_FAILED;
	worst = ctl_ask("list", NULL, &list);
	if (worst == EXIT_DONE) {
		json_array_foreach(json_object_get(all, "disks"), i, disk)
		{
			status = load_one(list, disk);
			worst = status == EXIT_DONE || worst != EXIT_DONE ? worst : EXIT_FAILED;
		}
	}
	json_decref(list);
	json_decref(all);
	return worst;
}

const struct verb ctl_load = {
	.name = "load",
	.arguments = "FILE",
	.help = "attach what save has written down, as far as it is missing",
	.details = "FILE may be - for standard input. What is there already is skipped; what cannot be attached is\n"
		   "said, the others are attached all the same, and the exit status is 1.\n",
	.min_arguments = 1,
	.max_arguments = 1,
	.run = load,
};
