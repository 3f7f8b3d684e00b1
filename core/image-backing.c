/*
 * Backing files: opening what an image names as the image below it.
 *
 * The name stands in the image, and so is a stranger's. It is taken for a path and nothing else, and the
 * path must lie below the directory of the image that names it, or below one that the operator has
 * configured; the kernel sees to it (openat2, RESOLVE_BENEATH), also for symbolic links on the way. What
 * has been found then is opened, and not a path a second time: nobody can swap it in between.
 *
 * What can go wrong: all of that, each with a message that names image and name; a chain that comes back
 * to itself, or is too deep; no openat2 (before Linux 5.6).
 *
 * Control threads run this, while an image is opened; the directories are set before there are threads.
 */
#include "image-host.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "io-opener.h"
#include "io.h"

#define DIRS_MAX  64
#define NAME_SHOW 256 /* bytes of a stranger's name in a message */

/* Each as it was written, and as it is. Set before there are other threads. */
static char *dirs[DIRS_MAX + 1];

static void dirs_clear(void)
{
	for (char **dir = dirs; *dir; dir++) {
		free(*dir);
		*dir = NULL;
	}
}

/* Without "//", "." and "..", in place: only text, links are the kernel's to judge. */
static void normalise(char *path)
{
	char *to = path, *from = path;

	while (*from) {
		size_t len;

		from += strspn(from, "/");
		len = strcspn(from, "/");
		if (len == 2 && from[0] == '.' && from[1] == '.') {
			while (to > path && *--to != '/')
				;
		} else if (len && !(len == 1 && from[0] == '.')) {
			*to++ = '/';
			memmove(to, from, len);
			to += len;
		}
		from += len;
	}
	*to = '\0';
}

int img_set_backing_dirs(const char *list)
{
	CLEANUP_FREE char *copy = strdup(list ? list : "");
	unsigned n = 0;
	char *save;

	dirs_clear();
	if (!copy)
		return -ENOMEM;
	for (char *dir = strtok_r(copy, ":", &save); dir; dir = strtok_r(NULL, ":", &save)) {
		if (dir[0] != '/' || n > DIRS_MAX - 2)
			return -EINVAL;
		dirs[n] = strdup(dir);
		if (!dirs[n])
			return -ENOMEM;
		normalise(dirs[n++]);
		/* By either name, if it is a link. */
		dirs[n] = realpath(dir, NULL);
		n += dirs[n] != NULL;
	}
	return 0;
}

/* ---- names --------------------------------------------------------------------------------------- */

/* The length of "nbd" in "nbd:...", as QEMU sees protocols; 0: it has none. */
static size_t protocol_of(const char *name)
{
	size_t len = strcspn(name, ":/");

	return name[len] == ':' ? len : 0;
}

/* The part of an absolute path that lies below dir ("a/b" of "/dir/a/b"), or NULL. */
static const char *below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	if (strncmp(path, dir, len) || path[len] != '/')
		return NULL;
	path += len;
	return path + strspn(path, "/");
}

/* ---- opening ------------------------------------------------------------------------------------- */

/* What this name is, if it is below dir ("": the root): an O_PATH descriptor, or -errno (-EXDEV: it leads out). */
static int open_below(const char *dir, const char *rest)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	CLEANUP_CLOSE int at = -1;
	long fd;

	if (opener_is_used())
		return opener_find(*dir ? dir : "/", rest);
	at = open(*dir ? dir : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (at < 0)
		return -errno;
	do
		fd = syscall(SYS_openat2, at, *rest ? rest : ".", &how, sizeof(how));
	while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	return fd < 0 ? -errno : (int)fd;
}

/* By an absolute path in any of the directories that are allowed. */
static int open_absolute(const char *path, const char *own, const char *own_real)
{
	const char *const *allowed = (const char *const *)dirs;
	const char *rest;
	int fd = -EXDEV;

	if ((rest = below(path, own)) || (rest = below(path, own_real)))
		fd = open_below(own, rest);
	for (; fd == -EXDEV && *allowed; allowed++)
		if ((rest = below(path, *allowed)))
			fd = open_below(*allowed, rest);
	return fd;
}

/* The directory in which a file lies: as it was named, and as it is. */
struct own_dir {
	char named[PATH_MAX], real[PATH_MAX];
};

static int own_dir(const char *path, struct own_dir *dir)
{
	size_t len = (size_t)(strrchr(path, '/') ? strrchr(path, '/') - path : 0);
	CLEANUP_FREE char *real = NULL;

	if (len >= sizeof(dir->named))
		return -ENAMETOOLONG;
	if (!strchr(path, '/'))
		strcpy(dir->named, ".");
	else
		snprintf(dir->named, sizeof(dir->named), "%.*s", len ? (int)len : 1, path);
	real = io_real_path(dir->named);
	if (!real)
		return -errno;
	snprintf(dir->real, sizeof(dir->real), "%s", real);
	return 0;
}

/* The O_PATH descriptor, and the path for messages and for what that image names in turn. */
static int resolve(const char *from, const char *name, char **path)
{
	struct own_dir *dir = malloc(sizeof(*dir));
	CLEANUP_FREE char *text = NULL;
	int fd = dir ? own_dir(from, dir) : -ENOMEM;

	if (fd)
		goto out;
	if (asprintf(&text, "%s%s%s", name[0] == '/' ? "" : dir->real, name[0] == '/' ? "" : "/",
		     name) < 0) {
		text = NULL;
		fd = -ENOMEM;
		goto out;
	}
	fd = name[0] == '/' ? -EXDEV : open_below(dir->real, name);
	if (fd == -EXDEV) {
		normalise(text);
		fd = open_absolute(text, dir->named, dir->real);
	}
	if (fd >= 0)
		*path = take_ptr(&text);
out:
	free(dir);
	return fd;
}

/* ---- cycles -------------------------------------------------------------------------------------- */

/* "a -> b -> a", from the top; the images above are opened through these files. */
static void show_chain(const struct image *image, struct rd_file *from, const char *last,
		       char *text, size_t len)
{
	const struct image *above;
	struct rd_file *file;
	size_t used = 0;

	above = img_parent(image, &file);
	if (above && file) {
		show_chain(above, file, NULL, text, len);
		used = strlen(text);
		used += (size_t)snprintf(text + used, len - used, " -> ");
	}
	if (used < len)
		snprintf(text + used, len - used, "%s%s%s", io_path(from), last ? " -> " : "",
			 last ? last : "");
}

static bool is_same(struct rd_file *file, const struct stat *st)
{
	struct stat other;

	return !io_stat(file, &other) && other.st_dev == st->st_dev && other.st_ino == st->st_ino;
}

static int check_cycle(struct image *image, struct rd_file *from, const struct stat *st,
		       const char *path)
{
	const struct image *above = image;
	struct rd_file *file = from;
	char text[768];

	for (; above; above = img_parent(above, &file)) {
		if (!file || !is_same(file, st))
			continue;
		show_chain(image, from, path, text, sizeof(text));
		img_say(image, LOG_LVL_ERR, "%s: the backing files go round in a circle: %s",
			io_path(from), text);
		return -ELOOP;
	}
	return 0;
}

/* ---- the whole ----------------------------------------------------------------------------------- */

static int refuse(struct image *image, struct rd_file *from, const char *name, int error,
		  const char *why)
{
	img_say(image, LOG_LVL_ERR, "%s: backing file \"%.*s\": %s", io_path(from), NAME_SHOW, name,
		why);
	return error;
}

static int check_names(struct image *image, struct rd_file *from, const char *format,
		       const char *name)
{
	size_t protocol;
	char why[128];

	if (!name || !*name)
		return refuse(image, from, "", -EINVAL, "the name is empty");
	protocol = protocol_of(name);
	if (protocol) {
		snprintf(why, sizeof(why),
			 "protocol names (\"%.*s:\") are not followed, only paths of files",
			 (int)MIN(protocol, (size_t)32), name);
		return refuse(image, from, name, -EACCES, why);
	}
	if (!format || !*format)
		return refuse(
			image, from, name, -EINVAL,
			"the image does not say its format, which is not guessed: name it with "
			"backing-format=");
	if (!drv_find(format)) {
		snprintf(why, sizeof(why), "there is no driver for its format \"%.32s\"", format);
		return refuse(image, from, name, -EINVAL, why);
	}
	return 0;
}

static int explain(struct image *image, struct rd_file *from, const char *name, int error)
{
	switch (error) {
	case -EXDEV:
		return refuse(image, from, name, -EACCES,
			      "lies outside of the image's directory and of those that are allowed (backing-dirs "
			      "of ringdiskd, --backing-dir of ringdisk-img)");
	case -ENOSYS:
		return refuse(image, from, name, error, "cannot be opened safely by this kernel");
	default:
		return refuse(image, from, name, error, strerror(-error));
	}
}

int img_backing_open(struct image *image, struct rd_file *from, const char *format,
		     const char *name, struct image **child)
{
	CLEANUP_FREE char *path = NULL;
	CLEANUP_CLOSE int fd = -1;
	struct stat st;
	int r = check_names(image, from, format, name);

	if (r)
		return r;
	r = resolve(io_path(from), name, &path);
	if (r < 0)
		return explain(image, from, name, r);
	fd = r;
	if (fstat(fd, &st))
		return explain(image, from, name, -errno);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return refuse(image, from, name, -EINVAL, "is neither a file nor a block device");
	r = check_cycle(image, from, &st, path);
	if (r)
		return r;
	return img_open_found(image, from, drv_find(format), path, fd, child);
}
