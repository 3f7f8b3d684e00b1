/*
 * For tests of drivers, images and files: a private directory below the build tree or on tmpfs, the
 * drivers of this build, and messages caught instead of printed. Include after test.h.
 */
#ifndef RD_TEST_DISK_H
#define RD_TEST_DISK_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/bytes.h"
#include "image.h"
#include "io.h"
#include "log.h"

/* All lines since the last disk_log_clear(), each with a newline. */
static char disk_log[16384];
static pthread_mutex_t disk_log_lock = PTHREAD_MUTEX_INITIALIZER;

static inline void disk_log_clear(void)
{
	pthread_mutex_lock(&disk_log_lock);
	disk_log[0] = '\0';
	pthread_mutex_unlock(&disk_log_lock);
}

static inline void disk_log_catch(void *opaque, enum log_level level, enum log_subsys subsys,
				  const char *line)
{
	size_t used;

	(void)opaque, (void)level, (void)subsys;
	pthread_mutex_lock(&disk_log_lock);
	used = strlen(disk_log);
	snprintf(disk_log + used, sizeof(disk_log) - used, "%s\n", line);
	pthread_mutex_unlock(&disk_log_lock);
}

static inline bool disk_logged(const char *text)
{
	bool found;

	pthread_mutex_lock(&disk_log_lock);
	found = strstr(disk_log, text);
	pthread_mutex_unlock(&disk_log_lock);
	return found;
}

static inline void disk_assert_logged(const char *text)
{
	if (!disk_logged(text))
		fail_msg("the log does not say \"%s\" but:\n%s", text, disk_log);
}

static inline const char *disk_driver_dir(void)
{
	static char dir[4096];
	const char *top = getenv("top_builddir");

	snprintf(dir, sizeof(dir), "%s/drivers/.libs", top ? top : "..");
	return dir;
}

/* A new private directory: on tmpfs if it says so (NULL where there is none), else in the build
 * tree. */
static inline char *disk_dir(bool tmpfs)
{
	char path[64] = "/dev/shm/ringdisk-test.XXXXXX";
	struct statfs fs;

	if (tmpfs && (statfs("/dev/shm", &fs) || (unsigned)fs.f_type != 0x01021994u))
		return NULL;
	if (!tmpfs) {
		mkdir("tmp", 0777);
		strcpy(path, "tmp/unit.XXXXXX");
	}
	assert_non_null(mkdtemp(path));
	return strdup(path);
}

static inline int disk_remove_one(const char *path, const struct stat *st, int type,
				  struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

/* Accepts NULL. */
static inline void disk_remove(char *dir)
{
	if (dir)
		nftw(dir, disk_remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(dir);
}

/* DIR/NAME of the given size (sparse), in a static buffer of which there are four. */
static inline const char *disk_file(const char *dir, const char *name, uint64_t size)
{
	static char paths[4][4096];
	static unsigned next;
	char *path = paths[next++ % 4];
	int fd;

	snprintf(path, 4096, "%s/%s", dir, name);
	fd = open(path, O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
	return path;
}

/* img_open of a params string, with the message in err (NULL: it must work). */
static inline int disk_open_err(const char *string, uint32_t flags, struct image **image, char *err,
				size_t errlen)
{
	struct params params;
	int r = params_parse(string, &params, err, errlen);

	if (!r) {
		r = img_open("9/xvdt", &params, flags, image, err, errlen);
		params_free(&params);
	}
	return r;
}

static inline struct image *disk_open(const char *string, uint32_t flags)
{
	struct image *image = NULL;
	char err[1024];

	if (disk_open_err(string, flags, &image, err, sizeof(err)))
		fail_msg("%s: %s", string, err);
	return image;
}

/* Numbers that repeat: xorshift. */
static inline uint64_t disk_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

#endif
