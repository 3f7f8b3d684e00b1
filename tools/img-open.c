/*
 * Images as the command line names them: params strings, and what to say when there is none.
 *
 * Nothing is probed. When a bare path is given, a look at the file's first and last sector is only for the hint,
 * and a person decides whether to follow it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "config.h"
#include "img.h"
#include "redo.h"
#include "settings.h"

extern const char *tool_driver_dir, *tool_redo_dir;
extern struct verb_texts tool_backing_dirs;
const char *tool_driver_dir = PLUGINDIR, *tool_redo_dir;
struct verb_texts tool_backing_dirs;

/* ---- where backing images may be --------------------------------------------------------------------------- */

/* What the daemon may open we may, too: "" if its configuration says nothing, or cannot be read, or is wrong. The
 * caller's; NULL: no memory. */
static char *dirs_of_daemon(void)
{
	char name[] = "ringdisk-img", *argv[] = {name, NULL}, *dirs;
	FILE *errors = fopen("/dev/null", "w");
	struct config config;
	int r;

	if (!errors)
		return strdup("");
	r = config_load(&config, 1, argv, errors);
	dirs = strdup(r || !config.backing_dirs ? "" : config.backing_dirs);
	config_free(&config);
	fclose(errors);
	return dirs;
}

/* The path as it is, so that a relative one means what it means now. */
static int add_backing_dir(char **list, const char *dir)
{
	CLEANUP_FREE char *real = realpath(dir, NULL);
	char *longer;

	if (!real)
		return tool_failed(-errno, "--backing-dir: %s", dir);
	if (strchr(real, ':'))
		return tool_fail("--backing-dir: %s: a name with ':' cannot be used", real);
	if (asprintf(&longer, "%s%s%s", *list, **list ? ":" : "", real) < 0)
		return tool_fail("out of memory");
	free(*list);
	*list = longer;
	return 0;
}

static int allow_backing_dirs(void)
{
	char *list = dirs_of_daemon();
	int status = list ? 0 : tool_fail("out of memory");

	for (size_t i = 0; !status && i < tool_backing_dirs.count; i++)
		status = add_backing_dir(&list, tool_backing_dirs.text[i]);
	if (!status && img_set_backing_dirs(list))
		status = tool_fail("--backing-dir: too many of them");
	free(list);
	return status;
}

int tool_load_drivers(void)
{
	static bool loaded;

	if (loaded)
		return 0;
	if (drv_load(tool_driver_dir))
		return tool_fail("no drivers in %s; name their directory with --driver-dir", tool_driver_dir);
	if (tool_redo_dir && redo_look_in(tool_redo_dir))
		return tool_fail("%s: cannot be used as the directory of redo logs", tool_redo_dir);
	loaded = true;
	return allow_backing_dirs();
}

/* ---- the hint ------------------------------------------------------------------------------------------ */

/* What the file looks like; NULL: nothing that is known. */
static const char *looks_like(const char *path)
{
	static const struct {
		const char *magic, *format;
		size_t length;
	} known[] = {
		{"QFI\xfb\0\0\0\1", "qcow", 8}, {"QFI\xfb", "qcow2", 4},    {"conectix", "vhd", 8},
		{"vhdxfile", "vhdx", 8},        {"KDMV", "vmdk", 4},        {"# Disk DescriptorFile", "vmdk", 21},
		{"<<< ", "vdi", 4},             {"QED\0", "qed", 4},
	};
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	char head[512] = "", tail[512] = "";
	struct stat st;

	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || pread(fd, head, sizeof(head), 0) <= 0)
		return NULL;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!memcmp(head, known[i].magic, known[i].length))
			return known[i].format;
	if (st.st_size > 512 && pread(fd, tail, sizeof(tail), st.st_size - 512) == 512 &&
	    !memcmp(tail, "conectix", 8))
		return "vhd";
	return NULL;
}

/* A path without a format: say what to type. */
static int bare_path(const char *string)
{
	const char *format = looks_like(string);

	if (!format)
		return tool_fail("\"%s\" does not say its format, and formats are never guessed.\n"
		                 "It has no header that is known here. If it is a raw image, type:\n"
		                 "  raw:%s",
		                 string, string);
	if (!drv_find(format))
		return tool_fail("\"%s\" does not say its format, and formats are never guessed.\n"
		                 "It looks like %s, for which there is no driver.",
		                 string, format);
	return tool_fail("\"%s\" does not say its format, and formats are never guessed.\n"
	                 "It looks like %s. If you trust whoever wrote it that far, type:\n"
	                 "  %s:%s",
	                 string, format, format, string);
}

static bool names_driver(const char *string)
{
	size_t length = strcspn(string, ",:");
	char name[64];

	if (!strchr(string, ':') || length >= sizeof(name))
		return false;
	memcpy(name, string, length);
	name[length] = '\0';
	return drv_find(name) || !strcmp(name, "aio");
}

/* ---- parsing -------------------------------------------------------------------------------------------- */

/* Options that are ringdisk's own, not the driver's: of these only the cache means something here. */
static int take_settings(struct source *source)
{
	char **from = source->params.options, **to = from, err[256];
	struct settings settings;

	settings_init(&settings);
	for (; from && *from; from++) {
		char *eq = strchr(*from, '=');
		char key[64];
		int r;

		snprintf(key, sizeof(key), "%.*s", (int)(eq ? eq - *from : 0), *from);
		r = settings_set(&settings, key, eq ? eq + 1 : "", ORIGIN_PARAMS, err, sizeof(err));
		if (r == -ENOENT)
			*to++ = *from;
		else if (r)
			return tool_fail("%s: %s", source->string, err);
	}
	if (to)
		*to = NULL;
	if (settings.value[SET_CACHE] == CACHE_NONE)
		source->flags |= RD_OPEN_DIRECT;
	if (settings.value[SET_CACHE] == CACHE_UNSAFE)
		source->flags |= RD_OPEN_UNSAFE;
	return 0;
}

int source_parse(struct source *source, const char *string)
{
	char err[1024];
	int status;

	*source = (struct source){.string = string};
	status = tool_load_drivers();
	if (status)
		return status;
	if (!names_driver(string) && !access(string, F_OK))
		return bare_path(string);
	if (params_parse(string, &source->params, err, sizeof(err)))
		return tool_fail("%s", err);
	status = take_settings(source);
	if (status)
		params_free(&source->params);
	return status;
}

/* ---- opening -------------------------------------------------------------------------------------------- */

int source_open_parsed(struct source *source, uint32_t flags)
{
	char err[1024];
	int r = img_open("", &source->params, flags | source->flags, &source->image, err, sizeof(err));

	if (!r)
		return 0;
	/* The reason of a failure has been logged. */
	if (r == -EBUSY && !(flags & RD_OPEN_WRITE))
		fputs("Of an image in use, 'ringdisk-img query' shows sizes and parents, and 'ringdisk check' checks it.\n",
		      stderr);
	source->image = NULL;
	params_free(&source->params);
	return EXIT_FAILED;
}

int source_open(struct source *source, const char *string, uint32_t flags)
{
	int status = source_parse(source, string);

	return status ? status : source_open_parsed(source, flags);
}

static bool has_option(const struct rd_option *options, const char *option)
{
	size_t length = strcspn(option, "=");

	for (; options && options->key; options++)
		if (strlen(options->key) == length && !memcmp(options->key, option, length))
			return true;
	return false;
}

/* The present options and one more, in a new piece of memory that the params own. */
static int add_option(struct params *params, const char *option)
{
	size_t count = 0, length = strlen(option) + 1, room;
	char **options, *mem;

	while (params->options && params->options[count])
		count++;
	room = (count + 2) * sizeof(char *) + length;
	for (size_t i = 0; i < count; i++)
		room += strlen(params->options[i]) + 1;
	room += strlen(params->target) + 1;
	mem = malloc(room);
	if (!mem)
		return tool_fail("out of memory");
	options = (char **)(void *)mem;
	room = (count + 2) * sizeof(char *);
	for (size_t i = 0; i < count; i++) {
		options[i] = strcpy(mem + room, params->options[i]);
		room += strlen(params->options[i]) + 1;
	}
	options[count] = strcpy(mem + room, option);
	options[count + 1] = NULL;
	params->target = strcpy(mem + room + length, params->target);
	free(params->mem);
	params->mem = mem;
	params->options = options;
	return 0;
}

static bool is_given(char *const *options, const char *option)
{
	for (; options && *options; options++)
		if (!strncmp(*options, option, strcspn(option, "=") + 1))
			return true;
	return false;
}

int source_open_with(struct source *source, const char *string, const char *const *options, uint32_t flags)
{
	int status = source_parse(source, string);

	for (; !status && *options; options++)
		if (has_option(source->params.driver->options, *options) &&
		    !is_given(source->params.options, *options))
			status = add_option(&source->params, *options);
	return status ? status : source_open_parsed(source, flags);
}

/* As the formats call it. */
static const char *const alone[] = {"backing=none", "parent=none", NULL};

int source_open_alone(struct source *source, const char *string, uint32_t flags)
{
	return source_open_with(source, string, alone, flags);
}

int source_open_change(struct source *source, const char *string)
{
	static const char *const options[] = {"backing=none", "parent=none", "hidden=open", NULL};

	return source_open_with(source, string, options, RD_OPEN_WRITE);
}

bool source_layered(const struct source *source)
{
	for (const char *const *o = alone; *o; o++)
		if (has_option(source->params.driver->options, *o))
			return true;
	return false;
}

int source_try(const char *string)
{
	struct source source;
	int status = source_open(&source, string, 0);

	return source_close(&source) ? EXIT_FAILED : status;
}

int source_close(struct source *source)
{
	int r = source->image ? img_close(source->image) : 0;

	source->image = NULL;
	if (r)
		tool_failed(r, "%s: not everything could be saved", source->params.target);
	params_free(&source->params);
	return r ? EXIT_FAILED : 0;
}

/* ---- creating ------------------------------------------------------------------------------------------- */

/* What is for create() moves from the options of open to those of it. */
static int split_options(struct source *source, const struct verb_texts *more, char **for_create)
{
	const struct rd_driver *driver = source->params.driver;
	char **from = source->params.options, **keep = from;
	size_t count = 0;

	for (; from && *from; from++) {
		bool create = has_option(driver->create_options, *from);

		if (create)
			for_create[count++] = *from;
		/* What neither knows is complained about by create. */
		if (!create && !has_option(driver->options, *from))
			for_create[count++] = *from;
		else if (has_option(driver->options, *from))
			*keep++ = *from;
	}
	if (keep)
		*keep = NULL;
	for (size_t i = 0; more && i < more->count; i++) {
		if (!strchr(more->text[i], '='))
			return tool_fail("\"%s\" is not an option of the form key=value", more->text[i]);
		for_create[count++] = (char *)(uintptr_t)more->text[i];
	}
	for_create[count] = NULL;
	return 0;
}

int source_create(struct source *source, const struct verb_texts *more, const struct img_create *what)
{
	char *options[64 + VERB_TEXTS_MAX + 1], err[1024];
	struct params params = source->params;
	int r = split_options(source, more, options);

	if (r)
		return r;
	params.options = options;
	r = img_create("", &params, what, err, sizeof(err));
	if (r == -EEXIST)
		fputs("Overwrite it with --force; convert --no-create copies into it.\n", stderr);
	return r ? EXIT_FAILED : 0;
}
