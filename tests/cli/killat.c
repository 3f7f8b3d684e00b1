/*
 * Preloaded by test-img-coalesce.sh: the program is killed when it makes call number $KILL_AT of those that change
 * files, before that call. Without it they are only counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;

static void count(void)
{
	const char *at = getenv("KILL_AT");

	if (at && atomic_fetch_add(&calls, 1) + 1 == atol(at))
		kill(getpid(), SIGKILL);
}

/* A function of libc under its name, and what it does. */
#define WATCH(type, name, params, args)                                                                                \
	type name params;                                                                                              \
	type name params                                                                                               \
	{                                                                                                              \
		type(*real) params = (type(*) params)(uintptr_t)dlsym(RTLD_NEXT, #name);                               \
                                                                                                                       \
		count();                                                                                               \
		return real args;                                                                                      \
	}

WATCH(ssize_t, pwritev, (int fd, const struct iovec *iov, int n, off_t at), (fd, iov, n, at))
WATCH(ssize_t, pwritev64, (int fd, const struct iovec *iov, int n, off64_t at), (fd, iov, n, at))
WATCH(ssize_t, pwritev2, (int fd, const struct iovec *iov, int n, off_t at, int flags), (fd, iov, n, at, flags))
WATCH(ssize_t, pwritev64v2, (int fd, const struct iovec *iov, int n, off64_t at, int flags), (fd, iov, n, at, flags))
WATCH(int, fdatasync, (int fd), (fd))
WATCH(int, fallocate, (int fd, int mode, off_t at, off_t length), (fd, mode, at, length))
WATCH(int, fallocate64, (int fd, int mode, off64_t at, off64_t length), (fd, mode, at, length))
WATCH(int, ftruncate, (int fd, off_t length), (fd, length))
WATCH(int, ftruncate64, (int fd, off64_t length), (fd, length))
