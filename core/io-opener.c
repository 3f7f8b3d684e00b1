/*
 * The privileged opener, both sides.
 *
 *      daemon, user ringdisk                       opener, root
 *      request, one end of a socketpair  ------->  fork
 *      wait on the other end                         look, judge, open
 *                                        <-------    descriptor, or errno and reason
 *
 * A request is one packet, so that threads need no lock; each is served by a process of its own, so that an
 * open that hangs (a network file system) holds up nobody else's. The opener keeps no state that a request
 * could change.
 *
 * Judging. The path must begin with one of the directories; the rest is resolved by openat2() beneath it, so
 * that neither ".." nor a link leads out. What is found (O_PATH) must be a regular file or a block device, and
 * is opened through /proc/self/fd: the very thing that was judged. Directories below /dev are different: links
 * there (/dev/vg/lv) lead to nodes elsewhere in /dev and are made by root, so that these are resolved beneath
 * /dev, must come without "..", and must be block devices.
 *
 * What can go wrong: the request is refused, and the reason names the option that would allow it; the opener is
 * gone, then nothing can be opened any more, and what is open stays so.
 *
 * Any thread of the daemon; the opener's processes have one thread each.
 */
#include "io-opener.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

#define DIRS_MAX   64u
#define REASON_LEN 512u
#define MODE_MASK  (O_ACCMODE | O_DIRECT | O_EXCL)

enum op { OP_OPEN = 1, OP_FIND, OP_CREATE, OP_REMOVE, OP_SYNC };

struct request {
	uint32_t op;
	int32_t mode;
	char path[PATH_MAX];
	char rest[PATH_MAX]; /* OP_FIND */
};

struct reply {
	int32_t error; /* 0 or -errno */
	char reason[REASON_LEN];
};

static struct {
	int sock; /* the daemon's end; -1: there is no opener */
	pid_t pid;
	const char *key;
	char *list; /* of dirs, as the configuration has it: for messages */
	char *dir[DIRS_MAX + 1];
} opener = { .sock = -1 };

/* --- packets with descriptors ------------------------------------------------------------------- */

#define FDS_MAX 2u

union fd_room {
	char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	struct cmsghdr align;
};

static int send_packet(int sock, const void *data, size_t len, const int *fd, unsigned nfds, int flags)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
	union fd_room room = { { 0 } };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (nfds) {
		struct cmsghdr *c;

		msg.msg_control = &room;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fd, nfds * sizeof(int));
	}
	do
		n = sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/* The length, 0 at the end, or -errno. fd has FDS_MAX places; those without a descriptor become -1. */
static ssize_t receive_packet(int sock, void *data, size_t len, int *fd)
{
	struct iovec iov = { .iov_base = data, .iov_len = len };
	union fd_room room;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &room,
		.msg_controllen = sizeof(room),
	};
	ssize_t n;

	for (unsigned i = 0; i < FDS_MAX; i++)
		fd[i] = -1;
	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			memcpy(fd, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	}
	return n;
}

/* --- the opener: judging ------------------------------------------------------------------------ */

__attribute__((format(printf, 3, 4))) static int refuse(struct reply *reply, int error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(reply->reason, sizeof(reply->reason), fmt, ap);
	va_end(ap);
	return error;
}

/* What follows dir in path, without the slashes between them; "": dir itself; NULL: it does not lie there. */
static const char *below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	while (len && dir[len - 1] == '/')
		len--;
	if (strncmp(path, dir, len) || (path[len] && path[len] != '/'))
		return NULL;
	path += len;
	return path + strspn(path, "/");
}

static bool has_dotdot(const char *path)
{
	for (; (path = strstr(path, "..")); path += 2) {
		if ((path[2] == '/' || !path[2]) && path[-1] == '/')
			return true;
	}
	return false;
}

/* Resolve rest beneath dir. A descriptor, or -errno. */
static int open_beneath(const char *dir, const char *rest, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
		.mode = flags & O_CREAT ? mode : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	CLEANUP_CLOSE int at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	long fd;

	if (at < 0)
		return -errno;
	do
		fd = syscall(SYS_openat2, at, *rest ? rest : ".", &how, sizeof(how));
	while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	return fd < 0 ? -errno : (int)fd;
}

static int open_device(const char *path, struct reply *reply)
{
	const char *rest = below(path, "/dev");
	CLEANUP_CLOSE int fd = -1;
	struct stat st;

	if (!rest || has_dotdot(path))
		return refuse(reply, -EACCES, "a path below /dev may not have \"..\"");
	fd = open_beneath("/dev", rest, O_PATH, 0);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st))
		return -errno;
	if (S_ISDIR(st.st_mode) || S_ISBLK(st.st_mode))
		return take_fd(&fd);
	return refuse(reply, -EACCES, "is no block device, and nothing else is opened below /dev");
}

/* What the path is, if it is below one of the directories. flags: O_PATH, or for making it. */
static int reach(const char *path, int flags, struct reply *reply)
{
	int fd = -EXDEV;

	for (unsigned i = 0; opener.dir[i] && fd == -EXDEV; i++) {
		const char *dir = opener.dir[i], *rest = below(path, dir);

		if (!rest)
			continue;
		if (below(dir, "/dev"))
			fd = flags == O_PATH ? open_device(path, reply) : -EACCES;
		else
			fd = open_beneath(dir, rest, flags, 0666);
	}
	if (fd == -EXDEV)
		return refuse(reply, -EACCES, "is not below one of %s (%.300s)", opener.key, opener.list);
	return fd;
}

static bool is_same(int a, int b)
{
	struct stat sa, sb;

	return !fstat(a, &sa) && !fstat(b, &sb) && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static int do_open(const struct request *rq, int found, struct reply *reply)
{
	CLEANUP_CLOSE int path_fd = reach(rq->path, O_PATH, reply);
	int mode = (rq->mode & MODE_MASK) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, fd;
	char name[64];
	struct stat st;

	if (path_fd < 0)
		return path_fd;
	if (found >= 0 && !is_same(path_fd, found))
		return refuse(reply, -EAGAIN, "changed while it was opened");
	if (fstat(path_fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return refuse(reply, -EINVAL, "is %s; only files and block devices can be used",
			      S_ISDIR(st.st_mode) ? "a directory" : "something else");
	/* Who does not want a device for himself only looks at it: others may have it mounted. */
	if (!S_ISBLK(st.st_mode))
		mode &= ~O_EXCL;
	else if (!(mode & O_EXCL))
		mode = (mode & ~O_ACCMODE) | O_RDONLY;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", path_fd);
	do
		fd = open(name, mode);
	while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : fd;
}

static int do_find(const struct request *rq, struct reply *reply)
{
	CLEANUP_CLOSE int dir = reach(rq->path, O_PATH, reply);
	char name[64];

	if (dir < 0 || !rq->rest[0])
		return take_fd(&dir);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", dir);
	return open_beneath(name, rq->rest, O_PATH, 0);
}

static int do_create(const struct request *rq, struct reply *reply)
{
	return reach(rq->path, O_WRONLY | O_CREAT | O_EXCL | O_NOCTTY | O_NONBLOCK, reply);
}

/* Who can write a file can destroy it: removing its name gives no more rights. */
static int do_remove(const struct request *rq, int found, struct reply *reply)
{
	const char *slash = strrchr(rq->path, '/');
	char dir[PATH_MAX];
	CLEANUP_CLOSE int file = -1, at = -1;
	int mode = found < 0 ? -1 : fcntl(found, F_GETFL);

	if (mode < 0 || mode & O_PATH || (mode & O_ACCMODE) == O_RDONLY || !slash || !slash[1])
		return -EINVAL;
	file = reach(rq->path, O_PATH | O_NOFOLLOW, reply);
	if (file < 0)
		return file;
	snprintf(dir, sizeof(dir), "%.*s", (int)(slash - rq->path) + 1, rq->path);
	at = reach(dir, O_PATH, reply);
	if (at < 0)
		return at;
	if (!is_same(file, found))
		return -EAGAIN;
	return unlinkat(at, slash + 1, 0) ? -errno : 0;
}

static int do_sync(const struct request *rq, struct reply *reply)
{
	CLEANUP_CLOSE int dir = reach(rq->path, O_PATH, reply), fd = -1;
	char name[64];

	if (dir < 0)
		return dir;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", dir);
	fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) ? -errno : 0;
}

static int do_request(const struct request *rq, int found, struct reply *reply)
{
	if (rq->path[0] != '/')
		return refuse(reply, -EINVAL, "is no absolute path");
	switch (rq->op) {
	case OP_OPEN:
		return do_open(rq, found, reply);
	case OP_FIND:
		return do_find(rq, reply);
	case OP_CREATE:
		return do_create(rq, reply);
	case OP_REMOVE:
		return do_remove(rq, found, reply);
	case OP_SYNC:
		return do_sync(rq, reply);
	}
	return -ENOSYS;
}

/* --- the opener: its processes ------------------------------------------------------------------- */

/* Of root's capabilities it keeps the one that passes by the permissions of files. */
static void keep_few_rights(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 } };
	uint32_t keep = 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (syscall(SYS_capget, &header, data))
		return;
	data[0].permitted &= keep;
	data[0].effective = data[0].permitted;
	data[0].inheritable = 0;
	data[1] = (struct __user_cap_data_struct){ 0 };
	syscall(SYS_capset, &header, data);
}

/* One request, in a process of its own. */
static void serve_one(struct request *rq, int answer, int found)
{
	struct reply reply = { 0 };
	int fd = -1, r;

	rq->path[sizeof(rq->path) - 1] = rq->rest[sizeof(rq->rest) - 1] = 0;
	r = do_request(rq, found, &reply);
	reply.error = r < 0 ? r : 0;
	if (r >= 0 && rq->op != OP_REMOVE && rq->op != OP_SYNC)
		fd = r;
	/* There is room, unless somebody wants to keep us here. */
	send_packet(answer, &reply, sizeof(reply), &fd, fd >= 0, MSG_DONTWAIT);
}

static void serve(int sock)
{
	static struct request rq;
	ssize_t n;
	int fd[FDS_MAX];

	while ((n = receive_packet(sock, &rq, sizeof(rq), fd)) != 0) {
		pid_t pid = n == sizeof(rq) && fd[0] >= 0 ? fork() : -1;

		if (!pid) {
			close(sock);
			serve_one(&rq, fd[0], fd[1]);
			_exit(0);
		}
		/* Who gets no answer sees the end of its socket. */
		for (unsigned i = 0; i < FDS_MAX; i++) {
			if (fd[i] >= 0)
				close(fd[i]);
		}
		if (n < 0 && n != -ENOMEM && n != -ENOBUFS)
			break;
	}
}

/* It ends with the daemon, not by a signal that a terminal or a service manager sends to all. */
static void opener_main(int sock)
{
	static const int ignored[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGCHLD };
	sigset_t none;

	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_NAME, "rd-opener", 0, 0, 0);
	umask(027);
	keep_few_rights();
	serve(sock);
	_exit(0);
}

/* Close what the daemon had open, which must not depend on this process: all but the log and sock. */
static void close_others(int sock)
{
	if (sock > STDERR_FILENO + 1)
		syscall(SYS_close_range, STDERR_FILENO + 1, sock - 1, 0);
	syscall(SYS_close_range, sock + 1, ~0U, 0);
}

/* --- the daemon's side -------------------------------------------------------------------------- */

static int add_dirs(unsigned *n, const char *list)
{
	CLEANUP_FREE char *copy = strdup(list ? list : "");
	char *save = NULL;

	if (!copy)
		return -ENOMEM;
	for (char *dir = strtok_r(copy, ":", &save); dir; dir = strtok_r(NULL, ":", &save)) {
		if (*n == DIRS_MAX || dir[0] != '/')
			return -EINVAL;
		opener.dir[*n] = strdup(dir);
		if (!opener.dir[(*n)++])
			return -ENOMEM;
	}
	return 0;
}

static void forget_dirs(void)
{
	for (unsigned i = 0; i < DIRS_MAX; i++) {
		free(opener.dir[i]);
		opener.dir[i] = NULL;
	}
	free(opener.list);
	opener.list = NULL;
}

int opener_start(const char *key, const char *dirs, const char *more)
{
	unsigned n = 0;
	int sock[2], err;

	opener.key = key;
	opener.list = strdup(dirs);
	err = opener.list ? add_dirs(&n, dirs) : -ENOMEM;
	if (!err)
		err = add_dirs(&n, more);
	if (!err && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock))
		err = -errno;
	if (err) {
		forget_dirs();
		return err;
	}
	fflush(NULL);
	opener.pid = fork();
	if (!opener.pid) {
		close_others(sock[1]);
		opener_main(sock[1]);
	}
	err = opener.pid < 0 ? -errno : 0;
	close(sock[1]);
	forget_dirs();
	if (err) {
		opener.pid = 0;
		close(sock[0]);
		return err;
	}
	opener.sock = sock[0];
	return 0;
}

bool opener_is_used(void)
{
	return opener.sock >= 0;
}

pid_t opener_pid(void)
{
	return opener.pid;
}

void opener_stop(void)
{
	if (opener.sock >= 0)
		close(opener.sock);
	opener.sock = -1;
	opener.pid = 0;
}

static int lost(char *why, size_t len)
{
	snprintf(why, len, "the process that opens files is gone: nothing can be opened until ringdiskd is restarted");
	return -EHOSTDOWN;
}

/* Ask, and wait for the answer: a descriptor or 0, or -errno. */
static int ask(const struct request *rq, int found, char *why, size_t len)
{
	struct reply reply;
	int pair[2], fd[FDS_MAX], r;
	ssize_t n;

	why[0] = 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	fd[0] = pair[1];
	fd[1] = found;
	r = send_packet(opener.sock, rq, sizeof(*rq), fd, found >= 0 ? 2 : 1, 0);
	close(pair[1]);
	if (r) {
		close(pair[0]);
		return r == -EPIPE || r == -ECONNRESET ? lost(why, len) : r;
	}
	n = receive_packet(pair[0], &reply, sizeof(reply), fd);
	close(pair[0]);
	if (n != sizeof(reply))
		return n < 0 && n != -ECONNRESET ? (int)n : lost(why, len);
	if (!reply.error)
		return fd[0] >= 0 ? fd[0] : 0;
	snprintf(why, len, "%.*s", (int)sizeof(reply.reason), reply.reason);
	return reply.error;
}

static int make_request(struct request **rq, enum op op, const char *path, const char *rest, int mode)
{
	if (strlen(path) >= PATH_MAX || strlen(rest) >= PATH_MAX)
		return -ENAMETOOLONG;
	*rq = calloc(1, sizeof(**rq));
	if (!*rq)
		return -ENOMEM;
	(*rq)->op = op;
	(*rq)->mode = mode;
	strcpy((*rq)->path, path);
	strcpy((*rq)->rest, rest);
	return 0;
}

/* One request with all that it takes. */
static int request(enum op op, const char *path, const char *rest, int mode, int found, char *why, size_t len)
{
	CLEANUP_FREE struct request *rq = NULL;
	int r = make_request(&rq, op, path, rest, mode);

	why[0] = 0;
	return r ? r : ask(rq, found, why, len);
}

int opener_open(const char *path, int found, int mode, char *why, size_t len)
{
	return request(OP_OPEN, path, "", mode, found, why, len);
}

int opener_find(const char *dir, const char *rest)
{
	char why[REASON_LEN];

	return request(OP_FIND, dir, rest, 0, -1, why, sizeof(why));
}

int opener_create(const char *path, char *why, size_t len)
{
	return request(OP_CREATE, path, "", 0, -1, why, len);
}

int opener_remove(const char *path, int fd)
{
	char why[REASON_LEN];

	return request(OP_REMOVE, path, "", 0, fd, why, sizeof(why));
}

int opener_sync(const char *dir)
{
	char why[REASON_LEN];

	return request(OP_SYNC, dir, "", 0, -1, why, sizeof(why));
}
