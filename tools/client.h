/*
 * A client of the admin socket: connect, ask, wait. For the command `ringdisk` and for tests.
 * One thread at a time per client. The protocol is in ringdisk-protocol(7).
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <jansson.h>

#define CLIENT_SOCKET "/run/ringdisk/control.sock"

struct client;

/* -errno of connect(2): -ENOENT and -ECONNREFUSED mean that no daemon is there. */
int client_open(const char *path, struct client **client);
void client_close(struct client *client); /* accepts NULL */

/* Send a request; params, an object or NULL, is stolen in any case. Its id (> 0), or -errno. Several may
 * be outstanding. */
int client_send(struct client *client, const char *method, json_t *params);
/*
 * Wait for the answer to the request with that id; others that come meanwhile are kept for their own call.
 * 0: *answer, the caller's, has "result" or "error". -ETIMEDOUT: not within timeout_ms (negative: no
 * limit), it may still come. -EPIPE: the daemon hung up. -EPROTO: it said something else.
 */
int client_receive(struct client *client, int id, int timeout_ms, json_t **answer);
/* Both. */
int client_call(struct client *client, const char *method, json_t *params, int timeout_ms,
		json_t **answer);

/* The next event of those that the request "events" asked for: 0, -ETIMEDOUT, -EPIPE, -EPROTO. *event is the
 * caller's. */
int client_event(struct client *client, int timeout_ms, json_t **event);

/* CLOCK_MONOTONIC in milliseconds. */
long long client_clock_ms(void);

#endif
