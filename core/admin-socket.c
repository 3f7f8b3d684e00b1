/*
 * The admin socket as a file: making it, telling a stale one from a live one, who is at the other end.
 *
 * A lock on PATH.lock, held as long as the daemon lives, decides between two daemons; so whoever has it may
 * remove a socket that nobody answers on. Something else that answers there is left alone all the same.
 * The mode is set before the name exists: at no time may more people connect than in the end.
 *
 * Runs on the thread that starts the admin part; admin_socket_peer on the loop's.
 */
#include "admin-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "log.h"

#define SOCKET_MODE 0660
#define BACKLOG     64

static int fail(const struct admin_socket *sock, const char *what, int err)
{
	log_err(LOG_ADMIN, "%s: %s: %s", sock->path, what, strerror(err));
	return -err;
}

/* The directory, if only its last part is missing. What is wrong with it shows at the next step. */
static void make_directory(const char *path)
{
	char dir[sizeof(((struct admin_socket *)0)->path)];
	char *slash;

	snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return;
	*slash = 0;
	mkdir(dir, 0755);
}

static int take_lock(struct admin_socket *sock)
{
	char path[sizeof(sock->path) + 8];
	CLEANUP_CLOSE int fd = -1;

	snprintf(path, sizeof(path), "%s.lock", sock->path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fail(sock, "cannot make its lock file", errno);
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK)
			return fail(sock, "cannot lock its lock file", errno);
		log_err(LOG_ADMIN, "%s: another ringdiskd runs on it", sock->path);
		return -EADDRINUSE;
	}
	sock->lock_fd = take_fd(&fd);
	return 0;
}

static void fill_address(const struct admin_socket *sock, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(address->sun_path, sock->path, sizeof(address->sun_path));
}

/* Somebody listens at the path, as far as we can tell. */
static bool is_live(const struct admin_socket *sock)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address;

	fill_address(sock, &address);
	if (fd < 0)
		return true;
	if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return true;
	return errno != ECONNREFUSED && errno != ENOENT;
}

/* Remove what a daemon that died left behind; nothing else. */
static int clear_stale(const struct admin_socket *sock)
{
	struct stat st;

	if (lstat(sock->path, &st))
		return errno == ENOENT ? 0 : fail(sock, "cannot look at it", errno);
	if (!S_ISSOCK(st.st_mode)) {
		log_err(LOG_ADMIN, "%s: exists and is not a socket; remove it or choose another path",
		        sock->path);
		return -EEXIST;
	}
	if (is_live(sock)) {
		log_err(LOG_ADMIN, "%s: another program listens on it", sock->path);
		return -EADDRINUSE;
	}
	log_info(LOG_ADMIN, "%s: removing a stale socket", sock->path);
	if (unlink(sock->path) && errno != ENOENT)
		return fail(sock, "cannot remove the stale socket", errno);
	return 0;
}

static int set_group(const struct admin_socket *sock, const char *group)
{
	struct group *entry = getgrnam(group);

	if (!entry) {
		log_err(LOG_ADMIN, "%s: there is no group \"%s\"", sock->path, group);
		return -ENOENT;
	}
	if (lchown(sock->path, (uid_t)-1, entry->gr_gid))
		return fail(sock, "cannot give it its group", errno);
	return 0;
}

static int bind_and_listen(struct admin_socket *sock, const char *group)
{
	struct sockaddr_un address;
	struct stat st;
	int err;

	sock->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock->fd < 0)
		return fail(sock, "cannot make a socket", errno);
	fill_address(sock, &address);
	/* The name gets this mode (less the umask); nobody can connect before listen(). */
	if (fchmod(sock->fd, SOCKET_MODE) ||
	    bind(sock->fd, (struct sockaddr *)&address, sizeof(address)))
		return fail(sock, "cannot bind", errno);
	if (lstat(sock->path, &st))
		return fail(sock, "cannot look at it", errno);
	sock->dev = st.st_dev;
	sock->ino = st.st_ino;
	err = group ? set_group(sock, group) : 0;
	if (err)
		return err;
	if (chmod(sock->path, SOCKET_MODE) || lstat(sock->path, &st))
		return fail(sock, "cannot set its mode", errno);
	sock->gid = st.st_gid;
	if (listen(sock->fd, BACKLOG))
		return fail(sock, "cannot listen", errno);
	return 0;
}

int admin_socket_open(struct admin_socket *sock, const char *path, const char *group)
{
	int err;

	*sock = (struct admin_socket){.fd = -1, .lock_fd = -1};
	if (strlen(path) >= sizeof(sock->path)) {
		log_err(LOG_ADMIN, "%s: a socket's path has at most %zu bytes", path,
		        sizeof(sock->path) - 1);
		return -ENAMETOOLONG;
	}
	snprintf(sock->path, sizeof(sock->path), "%s", path);
	make_directory(path);
	err = take_lock(sock);
	if (!err)
		err = clear_stale(sock);
	if (!err)
		err = bind_and_listen(sock, group);
	if (err)
		admin_socket_close(sock);
	return err;
}

void admin_socket_close(struct admin_socket *sock)
{
	struct stat st;

	if (sock->ino && !lstat(sock->path, &st) && st.st_dev == sock->dev && st.st_ino == sock->ino)
		unlink(sock->path);
	if (sock->fd >= 0)
		close(sock->fd);
	/* The lock file stays: removing it could take it away under a daemon that just locked it. */
	if (sock->lock_fd >= 0)
		close(sock->lock_fd);
	*sock = (struct admin_socket){.fd = -1, .lock_fd = -1};
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

int admin_socket_peer(const struct admin_socket *sock, int fd, struct admin_peer *peer)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return -errno;
	peer->pid = cred.pid;
	peer->uid = cred.uid;
	peer->privileged = cred.uid == 0 || cred.uid == geteuid() || cred.gid == sock->gid ||
	                   has_group(fd, sock->gid);
	return 0;
}
