/*
 * base/unix-socket.h - a listening unix socket as a file, and who is at the other end
 *
 * A socket has its mode before anybody can connect.  One that nobody answers on is what a daemon that died has left,
 * and is replaced; everything else that stands in the way is left alone, and is an error.
 *
 * Threads: a socket belongs to who opens it; peer is for any thread.
 */
#ifndef RD_BASE_UNIX_SOCKET_H
#define RD_BASE_UNIX_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#define UNIX_SOCKET_PATH_MAX 108 /* with its NUL */

struct unix_socket {
	int fd;    /* listening, nonblocking; -1: none */
	gid_t gid; /* the file's group */
	dev_t dev; /* which file it is, so that we remove no other; ino 0: none */
	ino_t ino;
	bool replaced; /* a stale one was there */
	char path[UNIX_SOCKET_PATH_MAX];
};

struct unix_socket_options {
	int type;    /* SOCK_STREAM or SOCK_SEQPACKET */
	mode_t mode; /* of the file */
	gid_t gid;   /* its group; (gid_t)-1: the directory's or our own */
	int backlog;
};
/* Listen at the path.  0, or -errno (-EADDRINUSE: somebody listens there) and the reason in err; then nothing is open. */
int unix_socket_open(struct unix_socket *sock, const char *path, const struct unix_socket_options *options, char *err,
		     size_t errlen);
/* Also removes the file, if it is still that one. */
void unix_socket_close(struct unix_socket *sock);

/* Who is at the other end of a connection; and is that root, our own user or a member of the group?  -errno. */
int unix_socket_peer(int fd, gid_t gid, struct ucred *cred, bool *privileged);

#endif
