/*
 * admin.h - the admin socket: JSON-RPC 2.0, one message a line
 *
 * One thread, "rd-admin", an epoll loop over the listening socket and its clients; it never blocks:
 * verbs that may (attach, detach, pause, unpause) run on a device's strand or the control pool and
 * answer through the loop.  The verbs are a table in admin-cmds.c: name, privilege, function, help.
 * The protocol is described in ringdisk-protocol(7).
 */
#ifndef RD_ADMIN_H
#define RD_ADMIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pool;
struct json_t;
struct settings_rules;

/*
 * What the verbs need of parts that this one does not know; main joins them (xenbus_attach,
 * xenbus_detach, xenbus_connected).  Called from the control pool, may block; err: text, always
 * terminated.  NULL: the verb says that it cannot be done here.
 */
struct admin_store_ops {
	int (*attach)(uint32_t domid, uint32_t vdev, const char *kind, const char *params,
		      bool writable, bool cdrom, char *err, size_t errlen);
	int (*detach)(uint32_t domid, uint32_t vdev, bool force, char *err, size_t errlen);
	bool (*connected)(void); /* any thread, at once */
};

struct admin_config {
	const char *socket_path;     /* created 0660; a stale one is removed, a live one refused */
	const char *group;           /* NULL: leave it */
	void (*shutdown)(void);      /* the verb "shutdown": asks main to end; any thread */
	const char *hyp;             /* "xen", "loopback": for the verb "version" */
	struct pool *control;        /* attach and detach run here */
	struct pool *workers;        /* for the verb "stats"; may be NULL */
	/* The rules for new disks, a reference; any thread.  NULL: there are none. */
	struct settings_rules *(*rules)(void);
	/* The verb "config": its answer, the caller's; any thread, at once.  NULL: there is none. */
	struct json_t *(*config)(void);
	struct admin_store_ops store;
};

/* The strings are copied; the pools must outlive admin_stop and every job of theirs.  0; -EADDRINUSE:
 * another daemon answers on the socket; else -errno.  The reason has been logged. */
int admin_start(const struct admin_config *config);
/* Takes no more requests, delivers what is answered already (in bounded time), removes the socket.
 * Waits for an attach or detach that runs; requests that still run on a strand end by themselves and
 * their answers are dropped. */
void admin_stop(void);

#endif
