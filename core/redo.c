/*
 * The redo log of an image: where it is, whose it is, and writing it. redo-log.h says what stands in it,
 * redo-replay.c reads it again.
 *
 * The normal path: create makes the file under a passing name, allocated in full (no page of it can be
 * missing later), locks it, and gives it its name, device and inode of the image. append copies a record
 * behind the last one and then counts it, by one store. A process that dies at any instruction leaves a
 * log that is good, and the kernel drops its lock. recover finds the log, and no lock on it.
 *
 * What can go wrong: no space on the tmpfs; a log that does not belong to the image as it is (another
 * program has written to it, the inode is another file's now). Such a log is set aside under another name,
 * and as long as it is there the image is not opened for writing: the operator decides.
 *
 * A log of an earlier boot of the machine (a directory that is not on tmpfs) says nothing any more: the
 * data that it points to may be lost. Images are good without it, as after any power loss.
 *
 * append, switch and cut: any thread, under the log's own lock, a leaf. The rest: control threads.
 */
#include "redo.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "io-file.h"
#include "lock.h"
#include "log.h"
#include "redo-log.h"

#define TRIES   16 /* for a name that others make and remove meanwhile */
#define REFUSED ".refused"

struct rd_redo {
	/* set by redo_create */
	char path[PATH_MAX];
	int fd; /* holds the lock */
	uint8_t *map;
	size_t size, half;

	struct rd_lock lock;
	/* under lock */
	unsigned active;
	uint64_t used[2];
	uint64_t seq; /* of the next record */
};

/* Set before there are other threads. */
static struct {
	char dir[PATH_MAX - 128];
	bool creates;
} place = { .dir = REDO_DEFAULT_DIR };

/* ---- where --------------------------------------------------------------------------------------- */

static int set_place(const char *dir)
{
	if (strlen(dir) >= sizeof(place.dir)) {
		log_err(LOG_IO, "redo logs: the name of the directory is too long");
		return -ENAMETOOLONG;
	}
	strcpy(place.dir, dir);
	return 0;
}

static void make_parent(const char *dir)
{
	CLEANUP_FREE char *copy = strdup(dir);
	char *slash = copy ? strrchr(copy, '/') : NULL;

	if (!slash || slash == copy)
		return;
	*slash = '\0';
	mkdir(copy, 0755);
}

/* Others may ask whether there is a log, but not read or write one. */
static int make_dir(const char *dir)
{
	struct stat st;

	make_parent(dir);
	if (mkdir(dir, 0711) && errno != EEXIST)
		return -errno;
	if (lstat(dir, &st))
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	/* Who can put files here decides what is written to images. */
	if (st.st_uid != geteuid() || st.st_mode & (S_IWGRP | S_IWOTH))
		return -EPERM;
	return chmod(dir, 0711) ? -errno : 0;
}

int redo_set_dir(const char *dir)
{
	int r = set_place(dir ? dir : REDO_DEFAULT_DIR);

	place.creates = false;
	if (r || !dir)
		return r;
	r = make_dir(dir);
	if (r) {
		log_err(LOG_IO, "redo logs: %s: %s", dir,
			r == -EPERM ? "belongs to, or can be written by, another user"
				    : strerror(-r));
		return r;
	}
	place.creates = true;
	return 0;
}

int redo_look_in(const char *dir)
{
	place.creates = false;
	return set_place(dir);
}

/* Which image it is, and which boot of the machine. */
static int identify(struct rd_file *file, struct redo_header *h)
{
	CLEANUP_CLOSE int fd = -1;
	struct stat st;

	if (io_sys.fstat(file->fd, &st))
		return -errno;
	*h = (struct redo_header){ .magic = REDO_MAGIC };
	h->block = S_ISBLK(st.st_mode);
	h->dev = h->block ? st.st_rdev : st.st_dev;
	h->ino = h->block ? 0 : st.st_ino;
	h->size = h->block ? 0 : (uint64_t)st.st_size;
	snprintf(h->path, sizeof(h->path), "%s", file->path);
	fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, h->boot, sizeof(h->boot) - 1) < 36)
		memset(h->boot, 0, sizeof(h->boot));
	return 0;
}

/* PATH_MAX bytes; the directory's name leaves room for the rest. */
static void name_of(const struct redo_header *h, const char *end, char *path)
{
	snprintf(path, PATH_MAX, "%s/%s%u.%u-%llu%s", place.dir, h->block ? "device-" : "",
		 major(h->dev), minor(h->dev), (unsigned long long)h->ino, end);
}

/* ---- locks --------------------------------------------------------------------------------------- */

/* 0, -EBUSY: its owner lives. take: have it; else only ask. */
static int log_lock(int fd, bool take)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	while (fcntl(fd, take ? F_OFD_SETLK : F_OFD_GETLK, &lock))
		if (errno != EINTR)
			return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
	return take || lock.l_type == F_UNLCK ? 0 : -EBUSY;
}

static bool still_named(int fd, const char *path)
{
	struct stat here, there;

	return !fstat(fd, &here) && !lstat(path, &there) && here.st_ino == there.st_ino &&
	       here.st_dev == there.st_dev;
}

/* Open what has this name now, and lock it. The descriptor, or -errno. */
static int open_locked(const char *path, int flags, bool take)
{
	for (int i = 0; i < TRIES; i++) {
		int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
		int r;

		if (fd < 0)
			return -errno;
		r = log_lock(fd, take);
		if (!r && still_named(fd, path))
			return fd;
		close(fd);
		if (r)
			return r;
	}
	return -EBUSY;
}

/* ---- recovery ------------------------------------------------------------------------------------ */

/* The whole log in memory. */
static int read_log(int fd, uint8_t **bytes, size_t *len)
{
	struct stat st;
	size_t done = 0;

	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > REDO_DATA + 2ull * REDO_HALF_MAX)
		return -EFBIG;
	*len = (size_t)st.st_size;
	*bytes = malloc(*len + 1);
	while (*bytes && done < *len) {
		ssize_t n = pread(fd, *bytes + done, *len - done, (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		done += (size_t)n;
	}
	*len = done;
	return *bytes ? 0 : -ENOMEM;
}

static int check_identity(const struct redo_log *log, const struct redo_header *image, char *err,
			  size_t errlen)
{
	const struct redo_header *h = &log->header;

	if (h->dev != image->dev || h->ino != image->ino || h->block != image->block)
		snprintf(err, errlen, "it is the log of another file");
	else if (h->generation != image->generation)
		snprintf(err, errlen,
			 "the image has been changed by another program since (generation %llx, "
			 "the log's "
			 "is %llx)",
			 (unsigned long long)image->generation, (unsigned long long)h->generation);
	else
		return 0;
	return -EUCLEAN;
}

/* Where one of the two is not known (no /proc, no descriptor left) it must be taken for this boot's: a log that is
 * needed is not thrown away because of that. */
static bool is_older_boot(const struct redo_header *h, const struct redo_header *image)
{
	return h->boot[0] && image->boot[0] && memcmp(h->boot, image->boot, sizeof(h->boot));
}

/* What the log's content means for this image: records to replay, or -errno and why. */
static int judge(const uint8_t *bytes, size_t len, struct rd_file *file,
		 const struct redo_header *image, struct redo_log *log, char *why, size_t whylen)
{
	int r = redo_parse(bytes, len, log, why, whylen);

	if (r)
		return r;
	/* Empty, or of before a power loss: not needed any more. */
	if (!log->count || is_older_boot(&log->header, image))
		return 0;
	r = check_identity(log, image, why, whylen);
	if (!r)
		r = redo_fits(log, file, !image->generation, why, whylen);
	if (r)
		redo_log_free(log);
	return r ? r : (int)MIN(log->count, (size_t)INT_MAX);
}

static int set_aside(const char *path, const struct redo_header *image, const char *file,
		     const char *why, char *err, size_t errlen)
{
	char aside[PATH_MAX];

	name_of(image, REFUSED, aside);
	if (rename(path, aside))
		snprintf(aside, sizeof(aside), "%s", path);
	snprintf(err, errlen,
		 "%s: the redo log of changes that a program which died had not written yet does "
		 "not "
		 "fit: %s. It has been set aside as %s. Check the image; remove that file to go on "
		 "without those changes, or restore the image and rename the file to %s",
		 file, why, aside, path);
	return -EUCLEAN;
}

/* The log is ours: replay it, and remove it. */
static int recover_locked(int fd, const char *path, struct rd_file *file,
			  const struct redo_header *image, char *err, size_t errlen)
{
	CLEANUP_FREE uint8_t *bytes = NULL;
	struct redo_log log = { 0 };
	char why[256] = "";
	size_t len;
	int r = read_log(fd, &bytes, &len), count = 0;

	if (r != 0)
		snprintf(why, sizeof(why), "%s", strerror(-r));
	else
		count = r = judge(bytes, len, file, image, &log, why, sizeof(why));
	if (r == -EUCLEAN || r == -EFBIG)
		return set_aside(path, image, file->path, why, err, errlen);
	if (r > 0) {
		r = redo_replay(&log, file);
		if (r)
			snprintf(why, sizeof(why), "replay: %s", strerror(-r));
	}
	if (!r && unlink(path)) {
		r = -errno;
		snprintf(why, sizeof(why), "cannot remove it: %s", strerror(errno));
	}
	redo_log_free(&log);
	if (r)
		snprintf(err, errlen, "%s: redo log %s: %s", file->path, path, why);
	return r ? r : count;
}

/* For a file that may not be written: is there anything to replay? */
static int need_none(int fd, const char *path, struct rd_file *file,
		     const struct redo_header *image, char *err, size_t errlen)
{
	CLEANUP_FREE uint8_t *bytes = NULL;
	struct redo_log log = { 0 };
	char why[256];
	size_t len;
	int r = read_log(fd, &bytes, &len);

	if (!r)
		r = judge(bytes, len, file, image, &log, why, sizeof(why));
	redo_log_free(&log);
	if (!r)
		return 0;
	snprintf(err, errlen,
		 "%s: a program that wrote to it has died, and its last changes are only in the "
		 "redo log "
		 "%s: open the image for writing once",
		 file->path, path);
	return -EUCLEAN;
}

/* One that was set aside stays in the way until the operator has decided. */
static int none_refused(struct rd_file *file, const struct redo_header *image, char *err,
			size_t errlen)
{
	char aside[PATH_MAX], path[PATH_MAX];

	name_of(image, REFUSED, aside);
	name_of(image, "", path);
	if (access(aside, F_OK))
		return 0;
	snprintf(err, errlen,
		 "%s: a redo log that did not fit was set aside as %s. Check the image; remove "
		 "that file "
		 "to go on without the changes in it, or restore the image and rename the file to "
		 "%s",
		 file->path, aside, path);
	return -EUCLEAN;
}

int redo_recover(struct rd_file *file, uint64_t generation, char *err, size_t errlen)
{
	bool writable = file->flags & RD_OPEN_WRITE;
	CLEANUP_CLOSE int fd = -1;
	struct redo_header image;
	char path[PATH_MAX];
	int r;

	if (file->flags & RD_OPEN_PROBE)
		return 0;
	r = identify(file, &image);
	if (r) {
		snprintf(err, errlen, "%s: %s", file->path, strerror(-r));
		return r;
	}
	image.generation = generation;
	r = none_refused(file, &image, err, errlen);
	if (r)
		return r;
	name_of(&image, "", path);
	fd = open_locked(path, writable ? O_RDWR : O_RDONLY, writable);
	if (fd >= 0)
		return writable ? recover_locked(fd, path, file, &image, err, errlen)
				: need_none(fd, path, file, &image, err, errlen);
	r = fd;
	/* No log; or one whose owner lives, and the image's own lock says who may read it meanwhile. */
	if (r == -ENOENT || r == -ENOTDIR || (r == -EBUSY && !writable))
		return 0;
	/* A directory into which we may not look is another user's; so is what it knows about. */
	if (r == -EACCES && access(path, F_OK))
		return 0;
	snprintf(err, errlen, "%s: redo log %s: %s", file->path, path,
		 r == -EBUSY ? "the program that writes it still runs" : strerror(-r));
	return r == -EACCES ? -EUCLEAN : r;
}

/* ---- a new log ----------------------------------------------------------------------------------- */

static struct redo_half *half_of(const struct rd_redo *redo, unsigned i)
{
	return (struct redo_half *)(redo->map + REDO_HALF_AT(i));
}

/* The first sequence number of a half, then how much of it counts. */
static void publish(struct rd_redo *redo, unsigned i)
{
	__atomic_store_n(&half_of(redo, i)->used, redo->used[i], __ATOMIC_RELEASE);
}

static int allocate(struct rd_redo *redo)
{
	int r;

	if (ftruncate(redo->fd, 0))
		return -errno;
	do
		r = posix_fallocate(redo->fd, 0, (off_t)redo->size);
	while (r == EINTR);
	if (r)
		return -r;
	redo->map = mmap(NULL, redo->size, PROT_READ | PROT_WRITE, MAP_SHARED, redo->fd, 0);
	if (redo->map != MAP_FAILED)
		return 0;
	redo->map = NULL;
	return -errno;
}

/* Everything but the name. */
static int build(struct rd_redo *redo, struct redo_header *h, const char *passing)
{
	int r;

	redo->fd = open_locked(passing, O_RDWR | O_CREAT, true);
	if (redo->fd < 0)
		return redo->fd;
	r = allocate(redo);
	if (r)
		return r;
	h->half = redo->half;
	h->crc = redo_header_crc(h);
	memcpy(redo->map, h, sizeof(*h));
	half_of(redo, 0)->first = redo->seq;
	/* Never over a log that is there already: nobody has replayed it. */
	return renameat2(AT_FDCWD, passing, AT_FDCWD, redo->path, RENAME_NOREPLACE) ? -errno : 0;
}

static void redo_free(struct rd_redo *redo)
{
	if (redo->map)
		munmap(redo->map, redo->size);
	if (redo->fd >= 0)
		close(redo->fd);
	lock_destroy(&redo->lock);
	free(redo);
}

static struct rd_redo *redo_alloc(size_t room)
{
	struct rd_redo *redo = calloc(1, sizeof(*redo));

	if (!redo)
		return NULL;
	redo->fd = -1;
	redo->half = MIN(MAX(round_up(room / 2, 4096), REDO_HALF_MIN), REDO_HALF_MAX);
	redo->size = REDO_DATA + 2 * redo->half;
	redo->seq = 1;
	lock_init(&redo->lock, RANK_LEAF, "redo log");
	return redo;
}

int redo_create(struct rd_file *file, uint64_t generation, size_t room, struct rd_redo **result,
		char *err, size_t errlen)
{
	struct rd_redo *redo;
	struct redo_header h;
	char passing[PATH_MAX];
	int r;

	if (!place.creates)
		return -EOPNOTSUPP;
	redo = room > 2ull * REDO_HALF_MAX ? NULL : redo_alloc(room);
	r = redo ? identify(file, &h) : -ENOMEM;
	if (!r) {
		h.generation = generation;
		name_of(&h, "", redo->path);
		name_of(&h, ".new", passing);
		r = build(redo, &h, passing);
		if (r && redo->fd >= 0)
			unlink(passing);
	}
	if (r) {
		snprintf(err, errlen, "%s: no redo log in %s: %s", file->path, place.dir,
			 r == -EEXIST ? "there is one that has not been replayed" : strerror(-r));
		if (redo)
			redo_free(redo);
		return r;
	}
	*result = redo;
	return 0;
}

int redo_append(struct rd_redo *redo, unsigned order, uint64_t offset, const void *before,
		const void *after, size_t len)
{
	struct redo_record record = {
		.offset = offset,
		.order = (uint8_t)order,
		.len = (uint8_t)len,
	};
	size_t size = redo_record_size(len);
	uint8_t *to;

	if (!len || len > REDO_LEN_MAX || order >= REDO_ORDERS ||
	    offset > (uint64_t)INT64_MAX - len)
		return -EINVAL;
	LOCK_SCOPE(&redo->lock);
	if (size > redo->half - redo->used[redo->active])
		return -ENOSPC;
	to = redo->map + REDO_DATA + redo->active * redo->half + redo->used[redo->active];
	record.seq = redo->seq++;
	record.crc = redo_record_crc(&record, before, after);
	memcpy(to, &record, sizeof(record));
	memcpy(to + sizeof(record), before, len);
	memcpy(to + sizeof(record) + len, after, len);
	redo->used[redo->active] += size;
	publish(redo, redo->active);
	return 0;
}

int redo_switch(struct rd_redo *redo)
{
	LOCK_SCOPE(&redo->lock);
	if (redo->used[!redo->active])
		return -EBUSY;
	redo->active = !redo->active;
	/* It is empty: nobody looks at this before the first record counts. */
	__atomic_store_n(&half_of(redo, redo->active)->first, redo->seq, __ATOMIC_RELAXED);
	return 0;
}

void redo_cut(struct rd_redo *redo)
{
	LOCK_SCOPE(&redo->lock);
	redo->used[!redo->active] = 0;
	publish(redo, !redo->active);
}

void redo_close(struct rd_redo *redo, int clean)
{
	if (!redo)
		return;
	if (clean && unlink(redo->path))
		log_err(LOG_IO, "redo log %s: cannot be removed: %s", redo->path, strerror(errno));
	redo_free(redo);
}
