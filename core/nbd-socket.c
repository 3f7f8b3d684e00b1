/*
 * nbd-socket.c - where the sockets of the NBD server are, and whose group may use them
 *
 * Threads: control threads, and the one that starts the server.
 */
#include "nbd-int.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIR_MODE 0750
#define BACKLOG  16

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

int nbd_socket_open(struct unix_socket *sock, const char *path, char *err, size_t errlen)
{
	const struct unix_socket_options options = {
		.type = SOCK_STREAM,
		.mode = 0660,
		.gid = nbd_srv.gid == getegid() ? (gid_t)-1 : nbd_srv.gid,
		.backlog = BACKLOG,
	};

	return unix_socket_open(sock, path, &options, err, errlen);
}

int nbd_socket_path(const char *text, char path[NBD_PATH_MAX])
{
	int n = text[0] == '/' ? snprintf(path, NBD_PATH_MAX, "%s", text)
			       : snprintf(path, NBD_PATH_MAX, "%s/%s", nbd_srv.dir, text);

	if (!text[0] || n < 0 || n >= (int)NBD_PATH_MAX)
		return -EINVAL;
	return text[0] != '/' && (strchr(text, '/') || text[0] == '.') ? -EINVAL : 0;
}
