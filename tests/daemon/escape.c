/*
 * A driver that tries what none should, for test-sandbox.sh, which compiles it: "escape:execve" and so on. The
 * result is in the message of the failed open: what the attempt ended with, "went through" if it did.
 */
#include <errno.h>
#include <fcntl.h>
#include <ringdisk/driver.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* In both worlds no program is started: there is none of that name. */
static int try_execve(void)
{
	char *none[] = { NULL };

	execve("/nonexistent", none, none);
	return errno == ENOENT ? 0 : -errno;
}

static int try_fork(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return pid < 0 ? -errno : 0;
}

static int try_ptrace(void)
{
	/* No such process, but it is asked for. */
	ptrace(PTRACE_ATTACH, 0x7ffffff0, NULL, NULL);
	return errno == ESRCH ? 0 : -errno;
}

static int try_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? -errno : 0;
}

/* The kernel takes the lower half of the number, a filter sees all of it. */
static int try_terminal(void)
{
	static const unsigned long calls[] = { TIOCSTI, TIOCSTI | 1ul << 32, TIOCLINUX, TIOCLINUX | 1ul << 63 };

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (!syscall(SYS_ioctl, -1, calls[i], "x") || errno == EBADF)
			return 0;
	return -errno;
}

static int try_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? -errno : 0;
}

static int try(const char *what)
{
	if (!strcmp(what, "execve"))
		return try_execve();
	if (!strcmp(what, "fork"))
		return try_fork();
	if (!strcmp(what, "ptrace"))
		return try_ptrace();
	if (!strcmp(what, "socket"))
		return try_socket();
	if (!strcmp(what, "terminal"))
		return try_terminal();
	if (!strncmp(what, "read=", 5))
		return try_open(what + 5, O_RDONLY);
	return !strncmp(what, "make=", 5) ? try_open(what + 5, O_WRONLY | O_CREAT) : -EINVAL;
}

static int escape_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		       struct rd_info *info)
{
	int r = try(args->target);

	(void)handle, (void)info;
	host->log(host, RD_LOG_ERR, "%s: %s", args->target, r ? strerror(-r) : "went through");
	return -ECANCELED;
}

static int escape_close(void *handle)
{
	(void)handle;
	return 0;
}

static int escape_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	(void)handle, (void)iov, (void)iovcnt, (void)offset;
	return -EIO;
}

static const struct rd_driver driver = {
	.struct_size = sizeof(driver),
	.api = RD_DRIVER_API,
	.name = "escape",
	.version = "1",
	.description = "tries what it should not",
	.open = escape_open,
	.close = escape_close,
	.readv = escape_readv,
};
RD_REGISTER_DRIVER(driver);
