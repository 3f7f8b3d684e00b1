/*
 * nbd-socket.c - the sockets of the NBD server as files, and who is at the other end
 *
 * A socket is made with its mode before anybody can connect.  One that nobody answers on is what a daemon that
 * died has left, and is replaced; everything else that stands in the way is left alone, and is an error.
 *
 * Threads: opening and closing on control threads and at the start; peer on rd-nbd.
 */
#include "nbd-int.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_MODE 0660
#define DIR_MODE    0750
#define BACKLOG     16

/* Keeps the reason; always -err. */
static int fail(const char *path, const char *what, int err, char *text, size_t len)
{
	snprintf(text, len, "%s: %s: %s", path, what, strerror(err));
	return -err;
}

int nbd_socket_dir(const char *dir, const char *group, gid_t *gid, char *err, size_t errlen)
{
	struct group *entry = group ? getgrnam(group) : NULL;

	*gid = getegid();
	if (group && !entry)
		return fail(group, "there is no such group", ENOENT, err, errlen);
	if (entry)
		*gid = entry->gr_gid;
	if (mkdir(dir, DIR_MODE) && errno != EEXIST)
		return fail(dir, "cannot make the directory", errno, err, errlen);
	if (entry && lchown(dir, (uid_t)-1, *gid))
		return fail(dir, "cannot give it its group", errno, err, errlen);
	return 0;
}

static void fill_address(const char *path, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(address->sun_path, sizeof(address->sun_path), "%s", path);
}

/* Remove what a daemon that died left behind; nothing else. */
static int clear_stale(const char *path, char *err, size_t errlen)
{
	CLEANUP_CLOSE int fd = -1;
	struct sockaddr_un address;
	struct stat st;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : fail(path, "cannot look at it", errno, err, errlen);
	if (!S_ISSOCK(st.st_mode))
		return fail(path, "exists and is not a socket", EEXIST, err, errlen);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	fill_address(path, &address);
	if (fd < 0)
		return fail(path, "cannot make a socket", errno, err, errlen);
	if (!connect(fd, (struct sockaddr *)&address, sizeof(address)) || errno != ECONNREFUSED)
		return fail(path, "somebody listens there", EEXIST, err, errlen);
	if (unlink(path) && errno != ENOENT)
		return fail(path, "cannot remove what was left there", errno, err, errlen);
	return 0;
}

static int bind_and_listen(struct nbd_listener *l, gid_t gid, char *err, size_t errlen)
{
	struct sockaddr_un address;
	struct stat st;

	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return fail(l->path, "cannot make a socket", errno, err, errlen);
	fill_address(l->path, &address);
	/* Nobody can connect before listen(). */
	if (fchmod(l->fd, SOCKET_MODE) || bind(l->fd, (struct sockaddr *)&address, sizeof(address)))
		return fail(l->path, "cannot bind", errno, err, errlen);
	if (lstat(l->path, &st))
		return fail(l->path, "cannot look at it", errno, err, errlen);
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	if ((gid != getegid() && lchown(l->path, (uid_t)-1, gid)) || chmod(l->path, SOCKET_MODE))
		return fail(l->path, "cannot set its group and mode", errno, err, errlen);
	if (listen(l->fd, BACKLOG))
		return fail(l->path, "cannot listen", errno, err, errlen);
	return 0;
}

int nbd_socket_open(struct nbd_listener *l, gid_t gid, char *err, size_t errlen)
{
	int r = clear_stale(l->path, err, errlen);

	l->fd = -1;
	l->ino = 0;
	if (!r)
		r = bind_and_listen(l, gid, err, errlen);
	if (r)
		nbd_socket_close(l);
	return r;
}

void nbd_socket_close(struct nbd_listener *l)
{
	struct stat st;

	if (l->ino && !lstat(l->path, &st) && st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(l->path);
	l->ino = 0;
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
}

/* Is the group among the peer's supplementary ones. */
static bool has_group(int fd, gid_t gid)
{
	CLEANUP_FREE gid_t *groups = NULL;
	socklen_t len = 0;

	/* The first call tells how many there are. */
	if (!getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) || errno != ERANGE)
		return false;
	groups = malloc(len);
	if (!groups || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len))
		return false;
	for (size_t i = 0; i < len / sizeof(*groups); i++)
		if (groups[i] == gid)
			return true;
	return false;
}

int nbd_socket_peer(int fd, gid_t gid, uid_t *uid, pid_t *pid)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return -errno;
	*uid = cred.uid;
	*pid = cred.pid;
	if (cred.uid == 0 || cred.uid == geteuid() || cred.gid == gid || has_group(fd, gid))
		return 0;
	return -EPERM;
}

int nbd_socket_path(const char *text, char path[NBD_PATH_MAX])
{
	int n = text[0] == '/' ? snprintf(path, NBD_PATH_MAX, "%s", text)
			       : snprintf(path, NBD_PATH_MAX, "%s/%s", nbd_srv.dir, text);

	if (!text[0] || n < 0 || n >= (int)NBD_PATH_MAX)
		return -EINVAL;
	return text[0] != '/' && (strchr(text, '/') || text[0] == '.') ? -EINVAL : 0;
}
