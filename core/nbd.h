/*
 * nbd.h - disks on unix sockets, by the NBD protocol
 *
 * An export is a disk as clients on this host see it: QEMU for the firmware of an HVM guest, tools for
 * copying and looking.  It works on the one open image of the disk, which the disk's ring may be using at
 * the same time; the disk opens it when the first client comes, and may close it when the last one is gone.
 *
 *      nbd_export_create --> (want --> nbd_export_start or _fail ... want(false) --> nbd_export_stop)*
 *                        --> nbd_export_close --> nbd_export_free
 *
 * One thread, "rd-nbd", moves bytes between sockets and buffers and never blocks; whatever touches the
 * image runs on the pool of workers, by exec.h, as the requests of a ring do.
 *
 * Lock: one for all (RANK_LEAF), never held over a call.
 */
#ifndef RD_NBD_H
#define RD_NBD_H

#include "base/unix-socket.h"
#include "image.h"
#include "lock.h"
#include "pool.h"
#include "settings.h"
#include "stats.h"
#include "throttle.h"

#include <stdbool.h>

struct nbd_export;

#define NBD_PATH_MAX UNIX_SOCKET_PATH_MAX

/*
 * Make the directory and the common socket in it, and start the thread.  dir: absolute; group: who else
 * may connect, or NULL.  0, or -errno: the reason has been logged.
 */
int nbd_start(const char *dir, const char *group);
/* Every export is gone. */
void nbd_stop(void);
/* DIR/sock, where every export is found by its name; "" when nbd_start was not called or failed. */
const char *nbd_common_socket(void);

struct nbd_export_config {
	const char *name;   /* of the disk, "5/xvda"; copied, as all strings */
	const char *alias;  /* another name to ask for it, or NULL */
	const char *socket; /* one of its own: a path, or a name below DIR; NULL: only the common one */
	bool read_only;
	struct pool *workers;
	struct stats *stats;
	/* Shared with the ring's poller, under its lock. */
	struct throttle *throttle;
	struct rd_lock *throttle_lock;
	_Atomic bool *flush_failed;
	/* The first client has come, or the last is gone.  From rd-nbd, no lock held, must not block.  -errno: it
	 * cannot be done now. */
	int (*want)(void *arg, bool wanted);
	void *arg;
};
/* 0; -EEXIST: the socket is there; else -errno; err: text. */
int nbd_export_create(const struct nbd_export_config *config, struct nbd_export **ex, char *err,
		      size_t errlen);
/* A client waits for the image. */
bool nbd_export_wanted(struct nbd_export *ex);
/* The image is open: clients go on.  It stays the caller's, until nbd_export_stop or _close succeeds. */
void nbd_export_start(struct nbd_export *ex, struct image *image, const struct settings *settings);
/* It cannot be opened: clients that wait are told text. */
void nbd_export_fail(struct nbd_export *ex, const char *text);
/* True: there is no client, and the image is not used any more. */
bool nbd_export_stop(struct nbd_export *ex);
/* Start no request, and wait until none runs: 0, or -ETIMEDOUT at deadline_ms (-1: never): still paused. */
int nbd_export_pause(struct nbd_export *ex, long long deadline_ms);
/* Go on, on image if it is not NULL. */
void nbd_export_resume(struct nbd_export *ex, struct image *image);
/* Live settings: sync, limits.  Any thread. */
void nbd_export_apply(struct nbd_export *ex, const struct settings *settings);
/* Remove the socket, drop the clients, and wait until nothing of theirs runs: 0, or -ETIMEDOUT: ask again. */
int nbd_export_close(struct nbd_export *ex, long long deadline_ms);
/* Closed.  Accepts NULL. */
void nbd_export_free(struct nbd_export *ex);

struct nbd_view {
	unsigned clients, running, waiting;
	bool read_only;
	char socket[NBD_PATH_MAX]; /* its own, or the common one */
};
void nbd_export_look(struct nbd_export *ex, struct nbd_view *view);

/*
 * Params that name our own socket, "aio:nbd+unix:///NAME?socket=PATH": NAME, percent-decoded, is the params
 * string of the image.  0: *name and *socket (to be freed) are set; -ENOENT: it is nothing of the kind;
 * -EINVAL: it is, but PATH is not ours or NAME is empty; err: text.
 */
int nbd_uri_parse(const char *params, char **name, char **socket, char *err, size_t errlen);

#endif
