/*
 * A driver that tries what none should, for test-sandbox.sh and test-opener.sh, which compile it: "escape:execve" and
 * so on. The result is in the message of the failed open: what the attempt ended with, "went through" if it did.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <ringdisk/driver.h>
#include <stdint.h>
#include <stdio.h>
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

/* The opener's socket (core/io-opener.c), which is the only one of its kind; and what goes over it. */
static int opener_socket(void)
{
	for (int fd = 3; fd < 1024; fd++) {
		int type = 0;
		socklen_t len = sizeof(type);

		if (!getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) && type == SOCK_SEQPACKET)
			return fd;
	}
	return -1;
}

static int ask_opener(const char *path, int mode, int answer)
{
	static struct {
		uint32_t op;
		int32_t mode;
		char path[PATH_MAX], rest[PATH_MAX];
	} rq;
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} room = { { 0 } };
	struct iovec iov = { &rq, sizeof(rq) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &room, .msg_controllen = sizeof(room) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	rq.op = 1;
	rq.mode = mode;
	snprintf(rq.path, sizeof(rq.path), "%s", path);
	*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
	memcpy(CMSG_DATA(c), &answer, sizeof(int));
	return sendmsg(opener_socket(), &msg, 0) < 0 ? -errno : 0;
}

/* Many requests whose answers nobody takes, from a socket that is full. */
static int try_flood(void)
{
	char fill[512] = { 0 };
	int pair[2], r = 0;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		return -errno;
	while (send(pair[1], fill, sizeof(fill), MSG_DONTWAIT) > 0)
		;
	for (int i = 0; i < 40 && !r; i++)
		r = ask_opener("/nowhere", O_RDONLY, pair[1]);
	close(pair[1]);
	return r; /* the other end stays open */
}

/* A descriptor with which one can write? */
static int try_opener(const char *path)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} room;
	int32_t reply[256] = { 0 };
	struct iovec iov = { reply, sizeof(reply) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &room, .msg_controllen = sizeof(room) };
	int pair[2], fd, r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		return -errno;
	r = ask_opener(path, O_RDWR, pair[1]);
	close(pair[1]);
	if (!r && recvmsg(pair[0], &msg, 0) <= 0)
		r = -EPROTO;
	close(pair[0]);
	if (r || reply[0])
		return r ? r : reply[0];
	if (!msg.msg_controllen)
		return -EPROTO;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	r = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY ? -EROFS : 0;
	close(fd);
	return r;
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
	if (!strcmp(what, "flood"))
		return try_flood();
	if (!strncmp(what, "opener=", 7))
		return try_opener(what + 7);
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
