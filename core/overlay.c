/*
 * overlay.c - a new image on top of the one that a disk has
 *
 * The overlay names the image below it by its file name where both lie in one directory, so that the two can be
 * moved together, and by an absolute path elsewhere; links in the last component are kept, since they may be the
 * only stable name (those of LVM are).  Its format is that of the driver which serves it now: nothing is guessed.
 *
 * What can go wrong: the driver cannot make images or has no backing files; the image below cannot be found by
 * name and format alone (what a filter stands on, options that change what is read); the file is there already.
 *
 * Control threads run this, while the disk is drained.
 */
#include "overlay.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image.h"
#include "io.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

__attribute__((format(printf, 3, 4))) static int bad(char *err, size_t len, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, len, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static bool option_is(const char *option, const char *key)
{
	size_t len = strlen(key);

	return !strncmp(option, key, len) && option[len] == '=';
}

static bool is_known(const struct rd_option *known, const char *option)
{
	for (; known && known->key; known++)
		if (option_is(option, known->key))
			return true;
	return false;
}

/* Options of creation stay in params, the others go into the string. */
static int split_options(struct overlay *overlay)
{
	const struct rd_driver *driver = overlay->params.driver;
	char **keep = overlay->params.options;
	size_t size;
	FILE *to = open_memstream(&overlay->open, &size);

	if (!to)
		return -ENOMEM;
	fputs(driver->name, to);
	for (char **option = overlay->params.options; *option; option++) {
		if (is_known(driver->create_options, *option) && !is_known(driver->options, *option))
			*keep++ = *option;
		else
			fprintf(to, ",%s", *option);
	}
	*keep = NULL;
	fprintf(to, ":%s", overlay->params.target);
	return fclose(to) ? -ENOMEM : 0;
}

int overlay_parse(const char *string, struct overlay *overlay, char *err, size_t errlen)
{
	int r;

	*overlay = (struct overlay){0};
	r = params_parse(string, &overlay->params, err, errlen);
	if (r)
		return r;
	if (!overlay->params.driver->create)
		r = bad(err, errlen, "the driver %s cannot make images", overlay->params.driver->name);
	else if (overlay->params.target[0] != '/')
		r = bad(err, errlen, "%.400s: the path of a new image begins with /", overlay->params.target);
	else
		r = split_options(overlay);
	if (r)
		overlay_free(overlay);
	return r;
}

void overlay_free(struct overlay *overlay)
{
	params_free(&overlay->params);
	free(overlay->open);
	overlay->open = NULL;
}

int overlay_may_stand_on(const struct params *below, char *err, size_t errlen)
{
	/* They change nothing of what is read. */
	static const char *const harmless[] = {"cache-size", "discard", "detect-zeroes"};
	struct stat st;

	if (io_stat_path(below->target, &st) || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
		return bad(err, errlen, "%s:%.400s is no file or block device that an overlay could name",
			   below->driver->name, below->target);
	for (char *const *option = below->options; option && *option; option++) {
		bool ok = false;

		for (size_t i = 0; i < ARRAY_SIZE(harmless); i++)
			ok = ok || option_is(*option, harmless[i]);
		if (!ok)
			return bad(err, errlen, "the image is open with %.64s, which an overlay cannot record",
				   *option);
	}
	return 0;
}

/* The directory of path, without links: the caller's.  NULL, with errno. */
static char *real_dir(const char *path)
{
	const char *slash = strrchr(path, '/');
	CLEANUP_FREE char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");

	return dir ? io_real_path(dir) : NULL;
}

static int name_of(const char *below, const char *overlay, char **name)
{
	CLEANUP_FREE char *dir = real_dir(below), *own = real_dir(overlay);
	const char *slash = strrchr(below, '/'), *base = slash ? slash + 1 : below;
	int n;

	if (!dir || !own)
		return -errno;
	if (strcmp(dir, own))
		n = asprintf(name, "%s/%s", strcmp(dir, "/") ? dir : "", base);
	else /* what stands before a colon would be a protocol's name */
		n = asprintf(name, "%s%s", strchr(base, ':') ? "./" : "", base);
	if (n >= 0)
		return 0;
	*name = NULL;
	return -ENOMEM;
}

/* A guest's flush makes the file durable, but not its name. */
static int sync_dir(const char *path)
{
	CLEANUP_FREE char *dir = real_dir(path);

	return dir ? io_sync_dir(dir) : -errno;
}

int overlay_create(const char *disk, const struct overlay *overlay, const struct params *below, uint64_t size,
		   char *err, size_t errlen)
{
	CLEANUP_FREE char *name = NULL;
	int r = name_of(below->target, overlay->params.target, &name);
	struct img_create what = {
		.size = size,
		.backing = name,
		.backing_format = below->driver->name,
	};

	if (r) {
		snprintf(err, errlen, "%.400s: %s", overlay->params.target, strerror(-r));
		return r;
	}
	r = img_create(disk, &overlay->params, &what, err, errlen);
	if (r)
		return r;
	r = sync_dir(overlay->params.target);
	if (r) {
		snprintf(err, errlen, "the directory of %.400s: %s", overlay->params.target, strerror(-r));
		overlay_remove(overlay);
	}
	return r;
}

void overlay_remove(const struct overlay *overlay)
{
	int r = io_unlink(overlay->params.target);

	if (r)
		log_warn(LOG_DEVICE, "%s: cannot be removed: %s", overlay->params.target, strerror(-r));
}
