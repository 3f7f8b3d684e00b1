/*
 * io-syscalls.h - every system call that io makes, as a table
 *
 * The table holds libc's functions and nothing ever writes it but tests, which put a function of
 * their own in front of one to log, delay or fail its nth call. They do so before other threads
 * run.
 */
#ifndef RD_IO_SYSCALLS_H
#define RD_IO_SYSCALLS_H

#include <libaio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/vfs.h>

struct io_syscalls {
	int (*open)(const char *path, int flags, ...);
	int (*close)(int fd);
	int (*stat)(const char *path, struct stat *st);
	int (*fstat)(int fd, struct stat *st);
	int (*statx)(int dir, const char *path, int flags, unsigned mask, struct statx *stx);
	int (*fstatfs)(int fd, struct statfs *fs);
	int (*fcntl)(int fd, int cmd, ...);
	int (*ioctl)(int fd, unsigned long request, ...);
	ssize_t (*preadv)(int fd, const struct iovec *iov, int iovcnt, off_t offset);
	ssize_t (*pwritev)(int fd, const struct iovec *iov, int iovcnt, off_t offset);
	ssize_t (*preadv2)(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags);
	ssize_t (*pwritev2)(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags);
	int (*fdatasync)(int fd);
	int (*fallocate)(int fd, int mode, off_t offset, off_t length);
	int (*ftruncate)(int fd, off_t length);
	off_t (*lseek)(int fd, off_t offset, int whence);
	/* As libaio: -errno. */
	int (*aio_setup)(int depth, io_context_t *ctx);
	int (*aio_destroy)(io_context_t ctx);
	int (*aio_submit)(io_context_t ctx, long count, struct iocb **iocbs);
	int (*aio_getevents)(io_context_t ctx, long min, long max, struct io_event *events,
			     struct timespec *timeout);
};

extern struct io_syscalls io_sys;

#endif
