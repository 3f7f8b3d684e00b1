/* See unix-socket.h. */
#include "base/unix-socket.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Keeps the reason; always -err. */
static int fail(const char *path, const char *what, int err, char *text, size_t len)
{
	snprintf(text, len, "%s: %s: %s", path, what, strerror(err));
	return -err;
}

static int set_path(struct unix_socket *sock, const char *path, char *err, size_t errlen)
{
	*sock = (struct unix_socket){.fd = -1};
	if (strlen(path) < sizeof(sock->path)) {
		strcpy(sock->path, path);
		return 0;
	}
	snprintf(err, errlen, "%s: a socket's path has at most %zu bytes", path, sizeof(sock->path) - 1);
	return -ENAMETOOLONG;
}

static struct sockaddr_un address_of(const struct unix_socket *sock)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memcpy(address.sun_path, sock->path, sizeof(address.sun_path));
	return address;
}

static int new_socket(int type)
{
	return socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* Somebody listens at the path, as far as we can tell. */
static bool is_live(const struct unix_socket *sock, int type)
{
	struct sockaddr_un address = address_of(sock);
	CLEANUP_CLOSE int fd = new_socket(type);

	if (fd < 0 || !connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return true;
	return errno != ECONNREFUSED && errno != ENOENT;
}

/* Remove what a daemon that died left behind; nothing else. */
static int clear_stale(struct unix_socket *sock, int type, char *err, size_t errlen)
{
	struct stat st;

	if (lstat(sock->path, &st))
		return errno == ENOENT ? 0 : fail(sock->path, "cannot look at it", errno, err, errlen);
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(err, errlen, "%s: exists and is not a socket; remove it or choose another path", sock->path);
		return -EEXIST;
	}
	if (is_live(sock, type)) {
		snprintf(err, errlen, "%s: somebody listens there; end that program or choose another path",
		         sock->path);
		return -EADDRINUSE;
	}
	sock->replaced = true;
	if (unlink(sock->path) && errno != ENOENT)
		return fail(sock->path, "cannot remove the stale socket", errno, err, errlen);
	return 0;
}

static int bind_and_listen(struct unix_socket *sock, const struct unix_socket_options *options, char *err, size_t errlen)
{
	struct sockaddr_un address = address_of(sock);
	struct stat st;

	sock->fd = new_socket(options->type);
	if (sock->fd < 0)
		return fail(sock->path, "cannot make a socket", errno, err, errlen);
	/* The name gets this mode (less the umask); nobody can connect before listen(). */
	if (fchmod(sock->fd, options->mode) || bind(sock->fd, (struct sockaddr *)&address, sizeof(address)))
		return fail(sock->path, "cannot bind", errno, err, errlen);
	if (lstat(sock->path, &st))
		return fail(sock->path, "cannot look at it", errno, err, errlen);
	sock->dev = st.st_dev;
	sock->ino = st.st_ino;
	if (options->gid != (gid_t)-1 && lchown(sock->path, (uid_t)-1, options->gid))
		return fail(sock->path, "cannot give it its group", errno, err, errlen);
	/* What the umask took away. A link that somebody has put in its place, in a directory of his, is not followed. */
	if ((st.st_mode & 07777) != options->mode &&
	    fchmodat(AT_FDCWD, sock->path, options->mode, AT_SYMLINK_NOFOLLOW))
		return fail(sock->path, "cannot set its mode", errno, err, errlen);
	if (lstat(sock->path, &st))
		return fail(sock->path, "cannot look at it", errno, err, errlen);
	sock->gid = st.st_gid;
	if (listen(sock->fd, options->backlog))
		return fail(sock->path, "cannot listen", errno, err, errlen);
	return 0;
}

int unix_socket_open(struct unix_socket *sock, const char *path, const struct unix_socket_options *options, char *err,
		     size_t errlen)
{
	int r = set_path(sock, path, err, errlen);

	if (!r)
		r = clear_stale(sock, options->type, err, errlen);
	if (!r)
		r = bind_and_listen(sock, options, err, errlen);
	if (r)
		unix_socket_close(sock);
	return r;
}

void unix_socket_close(struct unix_socket *sock)
{
	struct stat st;

	if (sock->ino && !lstat(sock->path, &st) && st.st_dev == sock->dev && st.st_ino == sock->ino)
		unlink(sock->path);
	sock->ino = 0;
	if (sock->fd >= 0)
		close(sock->fd);
	sock->fd = -1;
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

int unix_socket_peer(int fd, gid_t gid, struct ucred *cred, bool *privileged)
{
	socklen_t len = sizeof(*cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, cred, &len))
		return -errno;
	*privileged = cred->uid == 0 || cred->uid == geteuid() || cred->gid == gid || has_group(fd, gid);
	return 0;
}
