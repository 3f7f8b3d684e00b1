/*
 * admin.h - the admin socket: JSON-RPC 2.0, one message a line
 *
 * One thread, "rd-admin", an epoll loop over the listening socket and its clients; it never blocks:
 * verbs that may (attach, detach, pause, unpause) run on a device's strand or the control pool and
 * answer through the loop.  The verbs are a table in admin-cmds.c: name, privilege, function, help.
 */
#ifndef RD_ADMIN_H
#define RD_ADMIN_H

#include <stdbool.h>

struct admin_config {
	const char *socket_path;     /* created 0660; a stale one is removed, a live one refused */
	const char *group;           /* NULL: leave it */
	void (*shutdown)(void);      /* the verb "shutdown": asks main to end */
};
int admin_start(const struct admin_config *config);
void admin_stop(void);

#endif
