/*
 * shm.c - the files that xentop and XAPI read
 *
 * Each is a page of its own, made when its disk comes and removed when it goes; pollers and workers count in it
 * (stats.c). A disk that came again before the old one was quite gone has a new file of the same name: the old
 * one's mapping lives on, and its end removes nothing.
 *
 * What can go wrong: no directory, no memory. Then there are no such statistics, and a line in the log. A daemon
 * that was killed leaves its directory: the next one removes those whose process is gone, if they have our mark.
 *
 * shm_set_dir() and shm_end() on the main thread, the rest from any.
 */
#include "shm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "log.h"

#define MARK "ringdisk" /* a file beside those of the disks */
#define SIZE 4096

struct shm_disk {
	struct shm_layout *layout;
	dev_t dev;
	ino_t ino;
	char name[32];
};

/* Set before there are disks: the directory of this process, -1: none. */
static int dir_fd = -1;
static char dir_path[PATH_MAX];

bool shm_enabled(void)
{
	return dir_fd >= 0;
}

/* ---- directories ------------------------------------------------------------------------------------ */

static void remove_files(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	DIR *stream = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;

	if (!stream) {
		if (copy >= 0)
			close(copy);
		return;
	}
	rewinddir(stream);
	while ((entry = readdir(stream)))
		if (!strncmp(entry->d_name, "vbd-", 4) || !strcmp(entry->d_name, MARK))
			unlinkat(fd, entry->d_name, 0);
	closedir(stream);
}

/* The directory of a process that is gone, and it was one of us. */
static void remove_dead(int parent, const char *name)
{
	CLEANUP_CLOSE int fd = -1;
	char *end;
	long pid;

	if (strncmp(name, "td3-", 4))
		return;
	pid = strtol(name + 4, &end, 10);
	if (pid <= 0 || *end || !kill((pid_t)pid, 0) || errno != ESRCH)
		return;
	fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || faccessat(fd, MARK, F_OK, AT_SYMLINK_NOFOLLOW))
		return;
	remove_files(fd);
	unlinkat(parent, name, AT_REMOVEDIR);
}

static void remove_all_dead(const char *dir)
{
	DIR *stream = opendir(dir);
	struct dirent *entry;

	if (!stream)
		return;
	while ((entry = readdir(stream)))
		remove_dead(dirfd(stream), entry->d_name);
	closedir(stream);
}

/* The directory may be anybody's to write in: ours must be new, or have been ours. */
static int open_own(const char *path)
{
	CLEANUP_CLOSE int fd = -1;
	CLEANUP_CLOSE int mark = -1;
	struct stat st;

	if (mkdir(path, 0755) && errno != EEXIST)
		return -errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return -errno;
	if (st.st_uid != geteuid())
		return -EPERM;
	/* Whatever the umask is: others read it. */
	if (fchmod(fd, 0755))
		return -errno;
	remove_files(fd);
	mark = openat(fd, MARK, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	return mark < 0 ? -errno : take_fd(&fd);
}

int shm_set_dir(const char *dir)
{
	if (!dir)
		return 0;
	if (snprintf(dir_path, sizeof(dir_path), "%s/td3-%d", dir, (int)getpid()) >= (int)sizeof(dir_path))
		return -ENAMETOOLONG;
	remove_all_dead(dir);
	dir_fd = open_own(dir_path);
	return dir_fd < 0 ? dir_fd : 0;
}

void shm_end(void)
{
	if (dir_fd < 0)
		return;
	remove_files(dir_fd);
	close(dir_fd);
	dir_fd = -1;
	rmdir(dir_path);
}

/* ---- disks -------------------------------------------------------------------------------------------- */

static int make_file(struct shm_disk *disk)
{
	CLEANUP_CLOSE int fd = -1;
	struct stat st;

	unlinkat(dir_fd, disk->name, 0);
	fd = openat(dir_fd, disk->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	/* Allocated now: a full tmpfs must be an error here, and not a signal later. */
	if (fd < 0 || fchmod(fd, 0644) || fstat(fd, &st))
		return -errno;
	disk->dev = st.st_dev;
	disk->ino = st.st_ino;
	if (posix_fallocate(fd, 0, SIZE))
		return -ENOSPC;
	disk->layout = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (disk->layout == MAP_FAILED)
		return -errno;
	disk->layout->version = SHM_VERSION;
	return 0;
}

struct shm_disk *shm_create(uint32_t domid, uint32_t vdev)
{
	struct shm_disk *disk;
	int err;

	if (dir_fd < 0)
		return NULL;
	disk = calloc(1, sizeof(*disk));
	if (!disk)
		return NULL;
	snprintf(disk->name, sizeof(disk->name), "vbd-%u-%u", domid, vdev);
	err = make_file(disk);
	if (!err)
		return disk;
	log_warn(LOG_DEVICE, "%s/%s: %s: no statistics for xentop", dir_path, disk->name, strerror(-err));
	if (disk->ino)
		unlinkat(dir_fd, disk->name, 0);
	free(disk);
	return NULL;
}

struct shm_layout *shm_counters(struct shm_disk *disk)
{
	return disk->layout;
}

void shm_remove(struct shm_disk *disk)
{
	struct stat st;

	if (disk && dir_fd >= 0 && !fstatat(dir_fd, disk->name, &st, AT_SYMLINK_NOFOLLOW) &&
	    st.st_dev == disk->dev && st.st_ino == disk->ino)
		unlinkat(dir_fd, disk->name, 0);
}

void shm_free(struct shm_disk *disk)
{
	if (!disk)
		return;
	munmap(disk->layout, SIZE);
	free(disk);
}
