/*
 * io.h - the files behind struct rd_host: the one way by which bytes reach an image
 *
 * Opening goes through one function (policy, locks, alignment), reading and writing through a few,
 * so that a privileged opener can serve the first, and tests can log, fault and replay the others.
 *
 * struct rd_file: opened and closed on control threads; everything else from any thread.
 *
 * Locks against a second writer are OFD locks on the bytes that QEMU uses (100 + permission, 200 +
 * permission; QEMU block/file-posix.c RAW_LOCK_*), so that neither side opens what the other writes.
 */
#ifndef RD_IO_H
#define RD_IO_H

#include <ringdisk/driver.h>

#include <stdbool.h>
#include <sys/stat.h>

/* disk: the name in messages ("5/xvda"), copied.  Logs the reason when it fails. */
int io_open(const char *disk, const char *path, uint32_t flags, struct rd_file **file);
/* The same, but puts the reason ("/path: what is wrong") into err instead of the log. */
int io_open_why(const char *disk, const char *path, uint32_t flags, struct rd_file **file, char *err,
		size_t errlen);
/* The same for what found (an O_PATH descriptor, the caller's) is; path is only for messages. */
int io_open_found(const char *disk, const char *path, int found, uint32_t flags,
		  struct rd_file **file, char *err, size_t errlen);
/* As stat(2), for what io_open would open. 0 or -errno. */
int io_stat_path(const char *path, struct stat *st);
/* As realpath(3), also for what only the opener can see: malloc'd, or NULL with errno. */
char *io_real_path(const char *path);
/* Make the names in a directory durable. 0 or -errno. */
int io_sync_dir(const char *dir);
/* Remove an image file. 0 or -errno. */
int io_unlink(const char *path);
/* Remove the name by which it was opened (for writing), if that is still it. 0 or -errno. */
int io_remove(struct rd_file *file);
/* Accepts NULL. */
void io_close(struct rd_file *file);

/* Blocking, the whole range or -errno.  Misaligned ranges of direct files go through an aligned
 * bounce buffer, writes by read-modify-write under a lock of the file. */
int io_readv(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset);
int io_writev(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset);
int io_flush(struct rd_file *file);
int io_punch(struct rd_file *file, uint64_t offset, uint64_t length);
int io_zero(struct rd_file *file, uint64_t offset, uint64_t length, uint32_t flags);
int io_truncate(struct rd_file *file, uint64_t size);
int io_info(struct rd_file *file, struct rd_info *info);
int io_stat(struct rd_file *file, struct stat *st);
const char *io_path(const struct rd_file *file);
/*
 * What the file system stores of a range inside the file: *hole says that its beginning is a hole, which reads as
 * zeroes; the result in *same is for how many bytes (1 to length) that holds. Where the system does not tell, and on
 * block devices, all is data. Any thread; may block.
 */
int io_stored(struct rd_file *file, uint64_t offset, uint64_t length, bool *hole, uint64_t *same);

/*
 * For pollers: the same, but -EAGAIN when it cannot be done at once here.  Uses RWF_NOWAIT where the
 * file system has it for this kind of call (found out by trying, remembered per file); where it has
 * not, a local file system may sleep for the device; a network one and direct files always answer
 * -EAGAIN.  After -EAGAIN the whole range must be done again by the blocking call.
 */
int io_readv_inline(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset);
int io_writev_inline(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset);
/* The same, but -EAGAIN also where the file system cannot tell whether it would wait: it never does. */
int io_readv_now(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset);

/* True if I/O on the file must be aligned (opened with RD_OPEN_DIRECT), to *mem and *len bytes. */
bool io_is_direct(const struct rd_file *file, uint32_t *mem, uint32_t *len);

/* On a network file system, or one served by a process. */
bool io_is_remote(const struct rd_file *file);

/*
 * libaio, one context per disk, one thread at a time (its poller).  Only direct files, only aligned
 * ranges.  Buffers and vectors stay valid until the completion.
 */
struct io_aio;
int io_aio_create(unsigned depth, struct io_aio **aio); /* -errno: use threads */
void io_aio_destroy(struct io_aio *aio);                /* nothing in flight; accepts NULL */
int io_aio_fd(struct io_aio *aio);                      /* eventfd, readable when some completed */
/*
 * Queue one; -EAGAIN when depth are in flight already, -EBUSY when a worker's read-modify-write of the
 * same file is under way (only files whose blocks are larger than a sector): do it by the blocking call
 * on a worker.  Nothing is submitted yet.
 */
int io_aio_queue(struct io_aio *aio, struct rd_file *file, bool write, const struct iovec *iov,
		 int iovcnt, uint64_t offset, uint64_t length, void *tag);
/* Submit all that is queued in one call.  What the kernel refuses comes back through reap as -errno. */
void io_aio_submit(struct io_aio *aio);
/* Take up to max completions (never blocks); result 0 or -errno, short transfers already made an error. */
struct io_aio_done {
	void *tag;
	int result;
};
unsigned io_aio_reap(struct io_aio *aio, struct io_aio_done *done, unsigned max);

#endif
