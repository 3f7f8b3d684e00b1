/*
 * Management of images: making, describing, checking, snapshots; what drivers have since API 2.
 *
 * As in image.c nothing of a driver is believed: results are 0 or -errno, keys of facts are words,
 * and what the caller asks is checked before the driver sees it.
 *
 * img_create() makes the file and gives it to the driver, empty. When the driver fails, what was
 * made is removed again. A file that is to be overwritten stays until the new one beside it is complete.
 *
 * Control threads run this; img_write_compressed and img_counters run on any.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image-host.h"
#include "image.h"
#include "io-opener.h"
#include "io.h"
#include "log.h"

#define SECTOR 512

#define CHECK_FLAGS (RD_CHECK_REPAIR_LEAKS | RD_CHECK_REPAIR_ERRORS)

/* ---- creating
 * ------------------------------------------------------------------------------------ */

static int check_create_options(struct image *blank, const struct params *params)
{
	const struct rd_option *known = params->driver->create_options;

	for (char *const *o = params->options; o && *o; o++) {
		size_t len = strcspn(*o, "="), used = 0;
		char list[512] = "none";
		const struct rd_option *k = known;

		while (k && k->key && (strlen(k->key) != len || strncmp(k->key, *o, len) != 0))
			k++;
		if (k && k->key)
			continue;
		for (k = known; k && k->key && used < sizeof(list); k++)
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used ? ", " : "",
						 k->key);
		img_say(blank, LOG_LVL_ERR, "there is no option \"%.*s\" for a new image; there are: %s",
			(int)MIN(len, (size_t)64), *o, list);
		return -EINVAL;
	}
	return 0;
}

static int check_create(struct image *blank, const struct params *params, const struct img_create *what)
{
	if (!params->driver->create) {
		img_say(blank, LOG_LVL_ERR, "images of this format cannot be made here");
		return -EOPNOTSUPP;
	}
	if (!what->size && !what->backing) {
		img_say(blank, LOG_LVL_ERR, "%s: an image without a size", params->target);
		return -EINVAL;
	}
	if (what->size > INT64_MAX || !is_aligned(what->size, SECTOR)) {
		img_say(blank, LOG_LVL_ERR, "%s: the size is no multiple of %d bytes", params->target, SECTOR);
		return -EINVAL;
	}
	if (what->backing && !what->backing_format) {
		img_say(blank, LOG_LVL_ERR, "%s: the backing file's format is not said", params->target);
		return -EINVAL;
	}
	return check_create_options(blank, params);
}

/* An overlay on itself would first of all empty what it is to stand on. */
static int check_backing(struct image *blank, const char *target, const char *backing)
{
	const char *slash = backing[0] == '/' ? NULL : strrchr(target, '/');
	CLEANUP_FREE char *path = NULL;
	struct stat a, b;

	if (asprintf(&path, "%.*s%s", slash ? (int)(slash - target) + 1 : 0, target, backing) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	/* One that is not there is for the driver to complain about. */
	if (io_stat_path(target, &a) || io_stat_path(path, &b))
		return 0;
	if (a.st_dev != b.st_dev || a.st_ino != b.st_ino)
		return 0;
	img_say(blank, LOG_LVL_ERR, "%s: cannot stand on itself", target);
	return -EINVAL;
}

/* Empty a file that is there, if nobody uses it. */
static int empty_file(struct image *blank, const char *path)
{
	struct rd_file *file;
	char err[1024];
	struct stat st;
	int r;

	r = io_open_why(img_disk(blank), path, RD_OPEN_WRITE, &file, err, sizeof(err));
	if (r) {
		img_say(blank, LOG_LVL_ERR, "%s", err);
		return r;
	}
	if (!io_stat(file, &st) && S_ISREG(st.st_mode))
		r = io_truncate(file, 0);
	if (r)
		img_say(blank, LOG_LVL_ERR, "%s: cannot be emptied: %s", path, strerror(-r));
	io_close(file);
	return r;
}

/* A descriptor, or -errno. */
static int create_empty(const char *path, char *why, size_t len)
{
	int fd;

	if (opener_is_used())
		return opener_create(path, why, len);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0666);
	return fd < 0 ? -errno : fd;
}

/* Have an empty file. *made: what is there now is ours to remove. */
static int make_file(struct image *blank, const char *path, bool overwrite, bool *made)
{
	char why[512] = "";
	CLEANUP_CLOSE int fd = create_empty(path, why, sizeof(why));
	struct stat st;
	int r = fd < 0 ? fd : 0;

	*made = !r;
	if (r == -EEXIST && overwrite) {
		r = empty_file(blank, path);
		*made = !r && !lstat(path, &st) && S_ISREG(st.st_mode);
	} else if (r) {
		img_say(blank, LOG_LVL_ERR, "%s: %s", path,
			r == -EEXIST ? "is there already" : why[0] ? why : strerror(-r));
	}
	return r;
}

/* Have the driver make the image in an empty file. */
static int fill(struct image *blank, const struct params *params, const struct img_create *what,
		const char *target)
{
	const struct rd_create_args args = {
		.struct_size = sizeof(args),
		.target = target,
		.size = what->size,
		.backing = what->backing,
		.backing_format = what->backing_format,
		.options = (const char *const *)params->options,
	};

	return img_result(blank, "create", params->driver->create(img_host(blank), &args));
}

/* What the file beside it has become takes its place, with its owner and mode. */
static int take_place(struct image *blank, const char *beside, const char *path, const struct stat *old)
{
	/* Whoever may not give a file away keeps it. */
	if (chown(beside, old->st_uid, old->st_gid) && errno != EPERM)
		log_warn(LOG_IMAGE, "%s: owner: %s", beside, strerror(errno));
	if (!chmod(beside, old->st_mode & 07777) && !rename(beside, path))
		return 0;
	img_say(blank, LOG_LVL_ERR, "%s: cannot be replaced: %s", path, strerror(errno));
	return -errno;
}

/* Make the image beside the file, which it replaces only when all went well. old: what is there now, locked. */
static int create_beside(struct image *blank, const struct params *params, const struct img_create *what,
			 const char *path, struct rd_file *old)
{
	CLEANUP_FREE char *beside = NULL;
	struct stat st;
	bool made;
	int r = io_stat(old, &st);

	if (r)
		return r;
	if (asprintf(&beside, "%s.new-%d", path, (int)getpid()) < 0) {
		beside = NULL;
		return -ENOMEM;
	}
	r = make_file(blank, beside, false, &made);
	if (r)
		return r;
	r = fill(blank, params, what, beside);
	if (!r)
		r = take_place(blank, beside, path, &st);
	if (r)
		unlink(beside);
	return r;
}

/* Instead of a plain file that is there; a mistake in the options leaves that as it was. */
static int create_instead(struct image *blank, const struct params *params, const struct img_create *what)
{
	CLEANUP_FREE char *path = realpath(params->target, NULL);
	struct rd_file *old;
	char err[1024];
	int r;

	if (!path)
		return -errno;
	r = io_open_why(img_disk(blank), params->target, RD_OPEN_WRITE, &old, err, sizeof(err));
	if (r) {
		img_say(blank, LOG_LVL_ERR, "%s", err);
		return r;
	}
	r = create_beside(blank, params, what, path, old);
	io_close(old);
	return r;
}

static int create(struct image *blank, const struct params *params, const struct img_create *what)
{
	struct stat st;
	bool made;
	int r = check_create(blank, params, what);

	if (!r && what->backing)
		r = check_backing(blank, params->target, what->backing);
	if (r)
		return r;
	if (what->overwrite && !opener_is_used() && !stat(params->target, &st) && S_ISREG(st.st_mode))
		return create_instead(blank, params, what);
	r = make_file(blank, params->target, what->overwrite, &made);
	if (r)
		return r;
	r = fill(blank, params, what, params->target);
	if (r && made)
		io_unlink(params->target);
	return r;
}

int img_create(const char *disk, const struct params *params, const struct img_create *what, char *err,
	       size_t errlen)
{
	struct image *blank;
	char text[1024];
	int r;

	if (!err || !errlen) {
		err = text;
		errlen = sizeof(text);
	}
	err[0] = '\0';
	blank = img_new_blank(disk, params->driver, err, errlen);
	r = blank ? create(blank, params, what) : -ENOMEM;
	if (r && !err[0])
		snprintf(err, errlen, "%s: %.512s: %s", params->driver->name, params->target, strerror(-r));
	if (blank)
		img_free_blank(blank);
	return r;
}

/* ---- facts
 * --------------------------------------------------------------------------------------- */

static bool key_valid(const char *key)
{
	size_t len = key ? strlen(key) : 0;

	return len && len < 256 && strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789.-") == len;
}

static void pass_text(void *ctx, const char *key, const char *value)
{
	const struct rd_facts *to = ctx;

	if (key_valid(key) && value)
		to->text(to->ctx, key, value);
}

static void pass_number(void *ctx, const char *key, uint64_t value)
{
	const struct rd_facts *to = ctx;

	if (key_valid(key))
		to->number(to->ctx, key, value);
}

static void pass_boolean(void *ctx, const char *key, int value)
{
	const struct rd_facts *to = ctx;

	if (key_valid(key))
		to->boolean(to->ctx, key, !!value);
}

static struct rd_facts passing(const struct rd_facts *facts)
{
	return (struct rd_facts){
		.text = pass_text,
		.number = pass_number,
		.boolean = pass_boolean,
		.ctx = (void *)(uintptr_t)facts,
	};
}

int img_describe(struct image *image, const struct rd_facts *facts)
{
	const struct rd_driver *driver = img_driver(image);
	struct rd_facts checked = passing(facts);

	if (!driver->describe)
		return -EOPNOTSUPP;
	img_turn_begin(image);
	driver->describe(img_handle(image), &checked);
	img_turn_end(image);
	return 0;
}

int img_counters(struct image *image, const struct rd_facts *facts)
{
	const struct rd_driver *driver = img_driver(image);
	struct rd_facts checked = passing(facts);

	if (!driver->counters)
		return -EOPNOTSUPP;
	driver->counters(img_handle(image), &checked);
	return 0;
}

/* ---- the rest
 * ------------------------------------------------------------------------------------ */

int img_check(struct image *image, uint32_t flags, const struct rd_progress *progress, struct rd_check *result)
{
	const struct rd_driver *driver = img_driver(image);
	int r;

	*result = (struct rd_check){ .struct_size = sizeof(*result) };
	if (!driver->check)
		return -EOPNOTSUPP;
	if (flags & ~CHECK_FLAGS)
		return -EINVAL;
	if (flags && !img_writable(image))
		return -EROFS;
	img_turn_begin(image);
	r = driver->check(img_handle(image), flags, progress, result);
	img_turn_end(image);
	return img_result(image, "check", r);
}

int img_snapshot(struct image *image, int op, const char *name, const struct rd_progress *progress)
{
	const struct rd_driver *driver = img_driver(image);
	int r;

	if (!driver->snapshot)
		return -EOPNOTSUPP;
	if (!img_writable(image))
		return -EROFS;
	if (op < RD_SNAPSHOT_CREATE || op > RD_SNAPSHOT_DELETE || !name || !*name)
		return -EINVAL;
	img_turn_begin(image);
	r = driver->snapshot(img_handle(image), op, name, progress);
	img_turn_end(image);
	r = img_result(image, "snapshot", r);
	if (!r && op == RD_SNAPSHOT_APPLY)
		r = MIN(img_refresh(image), 0);
	return r;
}

int img_set_backing(struct image *image, const char *backing, const char *backing_format)
{
	const struct rd_driver *driver = img_driver(image);
	int r;

	if (!driver->set_backing)
		return -EOPNOTSUPP;
	if (!img_writable(image))
		return -EROFS;
	if (backing && (!*backing || !backing_format || !*backing_format))
		return -EINVAL;
	img_turn_begin(image);
	r = driver->set_backing(img_handle(image), backing, backing ? backing_format : NULL);
	img_turn_end(image);
	return img_result(image, "set_backing", r);
}

int img_set(struct image *image, const char *key, const char *value)
{
	const struct rd_driver *driver = img_driver(image);
	const struct rd_option *known = driver->properties;
	int r;

	while (known && known->key && strcmp(known->key, key) != 0)
		known++;
	if (!driver->set || !known || !known->key)
		return -EOPNOTSUPP;
	if (!img_writable(image))
		return -EROFS;
	img_turn_begin(image);
	r = driver->set(img_handle(image), key, value);
	img_turn_end(image);
	return img_result(image, "set", r);
}

int img_write_compressed(struct image *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	const struct rd_driver *driver = img_driver(image);
	const struct rd_info *info = img_info(image);
	uint32_t cluster = MAX(info->optimal_io, info->logical_block);
	uint64_t length;
	int r;

	if (!driver->write_compressed)
		return -EOPNOTSUPP;
	r = img_check_write(image, iov, iovcnt, offset, &length);
	if (r || !length)
		return r;
	if (offset % cluster || (length % cluster && offset + length != info->size))
		return -EINVAL;
	img_turn_begin(image);
	r = driver->write_compressed(img_handle(image), iov, iovcnt, offset);
	img_turn_end(image);
	return img_result(image, "write_compressed", r);
}
