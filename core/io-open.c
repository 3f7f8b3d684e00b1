/*
 * Opening of files: policy, locks, and finding out what the file wants.
 *
 * io_open() looks at the path first and opens only what is a regular file or a block device: other
 * device nodes may act when opened, and a fifo would hang. It opens without blocking, looks again
 * at what it got, takes the locks, and asks for block sizes and alignment. Nothing is assumed:
 * where the kernel does not tell the alignment of direct I/O, reads are tried.
 *
 * A daemon that runs as another user than root has it opened by a process that is root (io-opener.c), which
 * looks in the same way.
 *
 * What can go wrong: anything, and each has its message. Nothing is left open or locked then.
 *
 * Control threads run this.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "io-file.h"
#include "io-opener.h"
#include "log.h"

#define SECTOR 512
#define PAGE   4096
/* Larger blocks (huge pages of tmpfs, records of ZFS) are no reason to change a guest's layout. */
#define FILE_BLOCK_MAX PAGE

#define OPEN_FLAGS                                                                                 \
	(RD_OPEN_WRITE | RD_OPEN_DIRECT | RD_OPEN_PROBE | RD_OPEN_ZERO_EOF | RD_OPEN_UNSAFE)

/*
 * One buffer is the common case, and the kernel does it cheaper without a vector to import. Raw system
 * calls: libc's are cancellation points, which no thread of ours needs and every call pays for.
 */
static ssize_t call_preadv(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	if (iovcnt == 1)
		return syscall(SYS_pread64, fd, iov->iov_base, iov->iov_len, offset);
	return preadv(fd, iov, iovcnt, offset);
}

static ssize_t call_pwritev(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	if (iovcnt == 1)
		return syscall(SYS_pwrite64, fd, iov->iov_base, iov->iov_len, offset);
	return pwritev(fd, iov, iovcnt, offset);
}

struct io_syscalls io_sys = {
	.open = open,
	.close = close,
	.stat = stat,
	.fstat = fstat,
	.statx = statx,
	.fstatfs = fstatfs,
	.fcntl = fcntl,
	.ioctl = ioctl,
	.preadv = call_preadv,
	.pwritev = call_pwritev,
	.preadv2 = preadv2,
	.pwritev2 = pwritev2,
	.fdatasync = fdatasync,
	.fallocate = fallocate,
	.ftruncate = ftruncate,
	.lseek = lseek,
	.aio_setup = io_setup,
	.aio_destroy = io_destroy,
	.aio_submit = io_submit,
	.aio_getevents = io_getevents,
};

/* Where a failed open says why. */
struct reason {
	char *text;
	size_t len;
};

__attribute__((format(printf, 3, 4))) static int fail(const struct reason *why, int error,
						      const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why->text, why->len, fmt, ap);
	va_end(ap);
	return error;
}

/* ---- policy
 * -------------------------------------------------------------------------------------- */

static const char *type_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return "a directory";
	case S_IFCHR:
		return "a character device";
	case S_IFIFO:
		return "a fifo";
	case S_IFSOCK:
		return "a socket";
	default:
		return "something else";
	}
}

static int check_type(const struct stat *st, const struct reason *why)
{
	if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
		return 0;
	return fail(why, -EINVAL, "is %s; only files and block devices can be used",
		    type_name(st->st_mode));
}

static int explain_open(int error, bool block, uint32_t flags, const struct reason *why)
{
	const char *aim = flags & RD_OPEN_WRITE ? "for writing" : "for reading";

	if (error == EBUSY && block)
		return fail(why, -EBUSY,
			    "the device is in use (mounted, or part of another device)");
	if (error == EINVAL && flags & RD_OPEN_DIRECT)
		return fail(why, -EINVAL, "the file system has no direct I/O (cache=none)");
	return fail(why, -error, "cannot open %s: %s", aim, strerror(error));
}

/* O_NONBLOCK was only for the case that the path changed into something that blocks. */
static int clear_nonblock(int fd)
{
	int flags = io_sys.fcntl(fd, F_GETFL);

	return flags < 0 || io_sys.fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) ? -errno : 0;
}

/* What is to be opened. */
struct what {
	const char *path;
	int found; /* the file itself (O_PATH), or -1 */
};

/* By the process that may, if there is one: it looks at the type before it opens. */
static int open_by_opener(const struct what *what, uint32_t flags, struct stat *st, const struct reason *why)
{
	int mode = flags & RD_OPEN_WRITE ? O_RDWR : O_RDONLY;
	CLEANUP_CLOSE int fd = -1;
	char text[512];
	int r;

	mode |= flags & RD_OPEN_DIRECT ? O_DIRECT : 0;
	mode |= flags & RD_OPEN_WRITE && !(flags & RD_OPEN_PROBE) ? O_EXCL : 0;
	fd = opener_open(what->path, what->found, mode, text, sizeof(text));
	if (fd < 0 && text[0])
		return fail(why, fd, "%s", text);
	if (fd == -ENOENT)
		return fail(why, fd, "%s", strerror(-fd));
	if (fd < 0)
		return explain_open(-fd, fd == -EBUSY, flags, why);
	if (io_sys.fstat(fd, st))
		return fail(why, -errno, "fstat: %s", strerror(errno));
	r = check_type(st, why);
	if (!r)
		r = clear_nonblock(fd);
	return r ? r : take_fd(&fd);
}

/* The descriptor, and in st what it is. */
static int open_checked(const struct what *what, uint32_t flags, struct stat *st, const struct reason *why)
{
	int mode = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	const char *path = what->path;
	CLEANUP_CLOSE int fd = -1;
	char name[64];
	bool block;
	int r;

	if (opener_is_used())
		return open_by_opener(what, flags, st, why);
	if (what->found >= 0) {
		snprintf(name, sizeof(name), "/proc/self/fd/%d", what->found);
		path = name;
	}
	if (io_sys.stat(path, st))
		return fail(why, -errno, "%s", strerror(errno));
	r = check_type(st, why);
	if (r)
		return r;
	block = S_ISBLK(st->st_mode);
	mode |= flags & RD_OPEN_WRITE ? O_RDWR : O_RDONLY;
	mode |= flags & RD_OPEN_DIRECT ? O_DIRECT : 0;
	/* For a block device O_EXCL means: nobody else has it exclusively, a mount for example. */
	mode |= block && flags & RD_OPEN_WRITE && !(flags & RD_OPEN_PROBE) ? O_EXCL : 0;
	do
		fd = io_sys.open(path, mode);
	while (fd < 0 && errno == EINTR);
	if (fd < 0)
		return explain_open(errno, block, flags, why);
	if (io_sys.fstat(fd, st))
		return fail(why, -errno, "fstat: %s", strerror(errno));
	r = check_type(st, why);
	if (r)
		return r;
	if (S_ISBLK(st->st_mode) != block)
		return fail(why, -EINVAL, "changed while it was opened");
	r = clear_nonblock(fd);
	return r ? fail(why, r, "fcntl: %s", strerror(-r)) : take_fd(&fd);
}

/* ---- what the file wants
 * ------------------------------------------------------------------------- */

/* File systems where any call may take as long as a network, or a process, likes. */
static bool is_remote(int fd)
{
	static const uint32_t types[] = {
		0x6969,     /* NFS */
		0x517b,     /* SMB */
		0xff534d42, /* CIFS */
		0xfe534d42, /* SMB2 */
		0x00c36400, /* Ceph */
		0x65735546, /* FUSE: Gluster, sshfs */
		0x7461636f, /* OCFS2 */
		0x01161970, /* GFS2 */
		0x01021997, /* 9P */
		0x5346414f, /* AFS */
		0x6b414653, /* kAFS */
		0x73757245, /* Coda */
		0x0bd00bd0, /* Lustre */
		0x19830326, /* BeeGFS */
		0x47504653, /* GPFS */
		0x786f4256, /* VirtualBox */
	};
	struct statfs fs;

	if (io_sys.fstatfs(fd, &fs))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if ((uint32_t)fs.f_type == types[i])
			return true;
	return false;
}

/* A number from the queue directory of a block device or of the disk it is a partition of. */
static uint64_t queue_limit(dev_t dev, const char *name)
{
	unsigned long long value;

	for (int i = 0; i < 2; i++) {
		char path[128];
		FILE *file;
		int n;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(dev),
			 minor(dev), i ? "../" : "", name);
		file = fopen(path, "re");
		if (!file)
			continue;
		n = fscanf(file, "%llu", &value);
		fclose(file);
		return n == 1 ? value : 0;
	}
	return 0;
}

static uint32_t block_or(uint64_t size, uint32_t least, uint32_t most, uint32_t otherwise)
{
	return is_pow2(size) && size >= least && size <= most ? (uint32_t)size : otherwise;
}

static int device_info(struct rd_file *file, const struct stat *st, const struct reason *why)
{
	struct rd_info *info = &file->info;
	unsigned physical = 0, optimal = 0;
	int logical = 0, read_only = 0;

	/* Opening it for writing works, and each write fails. */
	if (file->flags & RD_OPEN_WRITE && !io_sys.ioctl(file->fd, BLKROGET, &read_only) &&
	    read_only)
		return fail(why, -EROFS, "the device is read-only");
	if (io_sys.ioctl(file->fd, BLKSSZGET, &logical))
		return fail(why, -errno, "block size: %s", strerror(errno));
	if (logical != SECTOR && logical != PAGE)
		return fail(why, -EINVAL, "has blocks of %d bytes; only 512 and 4096 can be used",
			    logical);
	info->logical_block = (uint32_t)logical;
	if (io_sys.ioctl(file->fd, BLKPBSZGET, &physical))
		physical = 0;
	info->physical_block = block_or(physical, info->logical_block, MiB, info->logical_block);
	if (io_sys.ioctl(file->fd, BLKIOOPT, &optimal))
		optimal = 0;
	info->optimal_io = is_aligned(optimal, info->logical_block) ? optimal : 0;
	info->discard_granularity = block_or(queue_limit(st->st_rdev, "discard_granularity"),
					     info->logical_block, GiB, info->logical_block);
	if (!queue_limit(st->st_rdev, "discard_max_bytes"))
		file->learned.no_discard = true;
	return 0;
}

static void file_info(struct rd_file *file, const struct stat *st)
{
	uint64_t block = st->st_blksize > 0 ? (uint64_t)st->st_blksize : 0;

	file->info.logical_block = SECTOR;
	file->info.physical_block = block_or(block, SECTOR, FILE_BLOCK_MAX, FILE_BLOCK_MAX);
	file->info.discard_granularity = file->info.physical_block;
	file->info.optimal_io =
		block > FILE_BLOCK_MAX && block <= MiB && is_pow2(block) ? (uint32_t)block : 0;
}

/* What the kernel says; false if it says nothing. */
static bool ask_alignment(struct rd_file *file)
{
#ifdef STATX_DIOALIGN
	struct statx stx = { 0 };

	if (io_sys.statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) ||
	    !(stx.stx_mask & STATX_DIOALIGN))
		return false;
	file->mem_align = stx.stx_dio_mem_align;
	file->len_align = stx.stx_dio_offset_align;
	return true;
#else
	(void)file;
	return false;
#endif
}

/* The smallest size that a read takes at the given offset into the buffer and as its length. */
static void try_alignment(struct rd_file *file)
{
	CLEANUP_FREE char *mem = NULL;

	file->mem_align = file->len_align = PAGE;
	if (posix_memalign((void **)&mem, PAGE, 2 * PAGE)) {
		mem = NULL;
		return;
	}
	for (uint32_t size = SECTOR; size < PAGE; size *= 2) {
		struct iovec iov = { .iov_base = mem, .iov_len = size };

		if (io_sys.preadv(file->fd, &iov, 1, size) < 0)
			continue;
		file->len_align = size;
		break;
	}
	for (uint32_t size = SECTOR; size < PAGE; size *= 2) {
		struct iovec iov = { .iov_base = mem + size, .iov_len = PAGE };

		if (io_sys.preadv(file->fd, &iov, 1, 0) < 0)
			continue;
		file->mem_align = size;
		break;
	}
}

static int direct_info(struct rd_file *file, const struct reason *why)
{
	if (!ask_alignment(file))
		try_alignment(file);
	if (!file->len_align)
		return fail(why, -EINVAL, "the file system has no direct I/O for it (cache=none)");
	if (!is_pow2(file->len_align) || !is_pow2(file->mem_align) || file->len_align > MiB ||
	    file->mem_align > MiB)
		return fail(why, -EINVAL, "direct I/O wants an alignment of %u and %u bytes",
			    file->mem_align, file->len_align);
	/* A request is never smaller than a sector, and vectors never end inside one. */
	file->len_align = MAX(file->len_align, (uint32_t)SECTOR);
	file->info.physical_block = MAX(file->info.physical_block, file->len_align);
	file->gated = file->flags & RD_OPEN_WRITE && file->len_align > file->info.logical_block;
	return 0;
}

/* ---- the whole
 * ----------------------------------------------------------------------------------- */

static int lock_file(struct rd_file *file, const struct reason *why)
{
	const char *what;
	int r;

	if (file->flags & RD_OPEN_PROBE)
		return 0;
	r = io_lock(file->fd, file->flags, &what);
	if (r == -EAGAIN)
		return fail(why, -EBUSY, "is locked: %s", what);
	return r ? fail(why, r, "cannot be locked: %s", strerror(-r)) : 0;
}

/* found: the file itself, of which file->path is the name; -1: it is not known. */
static int open_inner(struct rd_file *file, int found, const struct reason *why)
{
	const struct what what = { .path = file->path, .found = found };
	struct stat st;
	int r;

	if (file->flags & ~OPEN_FLAGS)
		return fail(why, -EINVAL, "unknown open flags %#x", file->flags & ~OPEN_FLAGS);
	r = open_checked(&what, file->flags, &st, why);
	if (r < 0)
		return r;
	file->fd = r;
	file->block = S_ISBLK(st.st_mode);
	file->direct = file->flags & RD_OPEN_DIRECT;
	file->remote = is_remote(file->fd);
	r = lock_file(file, why);
	if (r)
		return r;
	if (file->block)
		r = device_info(file, &st, why);
	else
		file_info(file, &st);
	if (!r && file->direct)
		r = direct_info(file, why);
	return r;
}

static int open_as(const char *disk, const char *path, int found, uint32_t flags,
		   struct rd_file **result, char *err, size_t errlen)
{
	struct rd_file *file = calloc(1, sizeof(*file));
	char text[256] = "out of memory";
	const struct reason why = { text, sizeof(text) };
	int r = -ENOMEM;

	if (file) {
		file->fd = -1;
		file->flags = flags;
		file->mem_align = file->len_align = 1;
		io_gate_init(&file->gate);
		file->disk = strdup(disk ? disk : "");
		file->path = strdup(path);
		if (file->disk && file->path)
			r = open_inner(file, found, &why);
	}
	if (r) {
		snprintf(err, errlen, "%s: %s", path, text);
		io_close(file);
		return r;
	}
	*result = file;
	return 0;
}

int io_open_why(const char *disk, const char *path, uint32_t flags, struct rd_file **file, char *err,
		size_t errlen)
{
	return open_as(disk, path, -1, flags, file, err, errlen);
}

int io_open_found(const char *disk, const char *path, int found, uint32_t flags,
		  struct rd_file **file, char *err, size_t errlen)
{
	return open_as(disk, path, found, flags, file, err, errlen);
}

int io_open(const char *disk, const char *path, uint32_t flags, struct rd_file **file)
{
	char err[1024];
	int r = io_open_why(disk, path, flags, file, err, sizeof(err));
	struct log_was was;

	if (!r)
		return 0;
	was = log_enter(disk, log_driver());
	log_err(LOG_IO, "%s", err);
	log_leave(was);
	return r;
}

int io_stat_path(const char *path, struct stat *st)
{
	CLEANUP_CLOSE int fd = -1;

	if (!opener_is_used())
		return io_sys.stat(path, st) ? -errno : 0;
	fd = opener_find(path, "");
	if (fd < 0)
		return fd;
	return fstat(fd, st) ? -errno : 0;
}

char *io_real_path(const char *path)
{
	char *real = realpath(path, NULL), name[64], text[PATH_MAX];
	CLEANUP_CLOSE int fd = -1;
	ssize_t n;

	if (real || errno != EACCES || !opener_is_used())
		return real;
	fd = opener_find(path, "");
	if (fd < 0) {
		errno = -fd;
		return NULL;
	}
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	n = readlink(name, text, sizeof(text));
	if (n < 0 || (size_t)n == sizeof(text)) {
		errno = n < 0 ? errno : ENAMETOOLONG;
		return NULL;
	}
	return strndup(text, (size_t)n);
}

int io_sync_dir(const char *dir)
{
	CLEANUP_CLOSE int fd = -1;

	if (opener_is_used())
		return opener_sync(dir);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) ? -errno : 0;
}

int io_unlink(const char *path)
{
	struct rd_file *file;
	char err[1024];
	int r;

	if (!opener_is_used())
		return unlink(path) ? -errno : 0;
	/* Without a lock: whoever still has it open is about to close it, and a name is not content. */
	r = io_open_why("", path, RD_OPEN_WRITE | RD_OPEN_PROBE, &file, err, sizeof(err));
	if (r)
		return r;
	r = io_remove(file);
	io_close(file);
	return r;
}

int io_remove(struct rd_file *file)
{
	return opener_is_used() ? opener_remove(file->path, file->fd) : unlink(file->path) ? -errno : 0;
}

void io_close(struct rd_file *file)
{
	if (!file)
		return;
	if (file->fd >= 0)
		io_sys.close(file->fd);
	io_gate_destroy(&file->gate);
	free(file->disk);
	free(file->path);
	free(file);
}
