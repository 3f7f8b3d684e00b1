/*
 * The admin socket as a file (base/unix-socket.h), and which of two daemons may have it.
 *
 * A lock on PATH.lock, held as long as the daemon lives, decides between two daemons; so whoever has it may
 * remove a socket that nobody answers on. Something else that answers there is left alone all the same.
 *
 * Runs on the thread that starts the admin part; admin_socket_peer on the loop's.
 */
#include "admin-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "log.h"

#define BACKLOG 64

static int fail(const char *path, const char *what, int err)
{
	log_err(LOG_ADMIN, "%s: %s: %s", path, what, strerror(err));
	return -err;
}

/* The directory, if only its last part is missing. What is wrong with it shows at the next step. */
static void make_directory(const char *path)
{
	char dir[UNIX_SOCKET_PATH_MAX];
	char *slash;

	snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return;
	*slash = 0;
	mkdir(dir, 0755);
}

static int take_lock(struct admin_socket *sock, const char *socket)
{
	char path[UNIX_SOCKET_PATH_MAX + 8];
	CLEANUP_CLOSE int fd = -1;

	snprintf(path, sizeof(path), "%s.lock", socket);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fail(socket, "cannot make its lock file", errno);
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK)
			return fail(socket, "cannot lock its lock file", errno);
		log_err(LOG_ADMIN, "%s: another ringdiskd runs on it", socket);
		return -EADDRINUSE;
	}
	sock->lock_fd = take_fd(&fd);
	return 0;
}

static int find_group(const char *path, const char *group, gid_t *gid)
{
	struct group *entry = getgrnam(group);

	if (!entry) {
		log_err(LOG_ADMIN, "%s: there is no group \"%s\"", path, group);
		return -ENOENT;
	}
	*gid = entry->gr_gid;
	return 0;
}

static int listen_at(struct admin_socket *sock, const char *path, gid_t gid)
{
	const struct unix_socket_options options = { SOCK_STREAM, 0660, gid, BACKLOG };
	char why[256];
	int err = unix_socket_open(&sock->at, path, &options, why, sizeof(why));

	if (err)
		log_err(LOG_ADMIN, "%s", why);
	else if (sock->at.replaced)
		log_info(LOG_ADMIN, "%s: replaced a stale socket", path);
	return err;
}

int admin_socket_open(struct admin_socket *sock, const char *path, const char *group)
{
	gid_t gid = (gid_t)-1;
	int err;

	*sock = (struct admin_socket){.at.fd = -1, .lock_fd = -1};
	if (strlen(path) >= sizeof(sock->at.path)) {
		log_err(LOG_ADMIN, "%s: a socket's path has at most %zu bytes", path, sizeof(sock->at.path) - 1);
		return -ENAMETOOLONG;
	}
	make_directory(path);
	err = take_lock(sock, path);
	if (!err && group)
		err = find_group(path, group, &gid);
	if (!err)
		err = listen_at(sock, path, gid);
	if (err)
		admin_socket_close(sock);
	return err;
}

void admin_socket_close(struct admin_socket *sock)
{
	unix_socket_close(&sock->at);
	/* The lock file stays: removing it could take it away under a daemon that just locked it. */
	if (sock->lock_fd >= 0)
		close(sock->lock_fd);
	*sock = (struct admin_socket){.at.fd = -1, .lock_fd = -1};
}

int admin_socket_peer(const struct admin_socket *sock, int fd, struct admin_peer *peer)
{
	struct ucred cred;
	int err = unix_socket_peer(fd, sock->at.gid, &cred, &peer->privileged);

	if (err)
		return err;
	peer->pid = cred.pid;
	peer->uid = cred.uid;
	return 0;
}
