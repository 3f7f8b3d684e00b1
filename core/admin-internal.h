/*
 * What admin.c (socket, clients, framing, dispatch) and admin-cmds.c (the verbs) share, and what tests
 * and the fuzzer need to drive them.
 */
#ifndef RD_ADMIN_INTERNAL_H
#define RD_ADMIN_INTERNAL_H

#include "admin.h"
#include "base/list.h"
#include "base/unix-socket.h"
#include "pool.h"

#include <jansson.h>
#include <sys/types.h>

/* ---- verbs, as data ------------------------------------------------------------------------------ */

enum admin_type { ADMIN_STRING, ADMIN_INTEGER, ADMIN_BOOLEAN };

struct admin_param {
	const char *name; /* NULL ends the list */
	enum admin_type type;
	bool required;
	bool privileged; /* giving it needs the privilege even if the verb does not */
	const char *help;
};

struct admin_request;
struct device;

struct admin_verb {
	const char *name; /* NULL ends the table */
	bool privileged;  /* root, the daemon's user, or the socket's group */
	/* On the loop's thread, must not block. Answers the request, or hands it to a thread that will. */
	void (*run)(struct admin_request *req);
	const char *help;
	const struct admin_param *params; /* NULL: none */
};

extern const struct admin_verb admin_verbs[];
const struct admin_verb *admin_verb_find(const char *name);

/* Verbs with a file of their own. */
void admin_verb_events(struct admin_request *req); /* admin-events.c */
struct event;
json_t *admin_event_json(const struct event *event);
json_t *admin_lost_json(uint64_t count);
void admin_verb_stats(struct admin_request *req); /* admin-stats.c */
void admin_verb_export(struct admin_request *req); /* admin-nbd.c */
void admin_verb_unexport(struct admin_request *req);
void admin_verb_check(struct admin_request *req); /* admin-check.c */
void admin_verb_trace(struct admin_request *req); /* admin-trace.c */

/* What `stats` and `list` answer for all disks, from any thread while the loop is open; NULL without memory. */
json_t *admin_stats_result(void);
json_t *admin_list_result(void);

/* ---- errors -------------------------------------------------------------------------------------- */

enum admin_code {
	/* of JSON-RPC */
	ADMIN_E_PARSE = -32700,
	ADMIN_E_REQUEST = -32600,
	ADMIN_E_METHOD = -32601,
	ADMIN_E_PARAMS = -32602,
	ADMIN_E_INTERNAL = -32603,
	/* ours */
	ADMIN_E_FAILED = -32000,
	ADMIN_E_NO_DISK = -32001,
	ADMIN_E_DENIED = -32002,
	ADMIN_E_STATE = -32003,
	ADMIN_E_TIMEOUT = -32004,
	ADMIN_E_EXISTS = -32005,
	ADMIN_E_STORE = -32006,
	ADMIN_E_BUSY = -32007,
};

struct admin_error {
	enum admin_code code;
	const char *what; /* data.what; NULL ends the table */
	const char *meaning;
};
extern const struct admin_error admin_errors[];

/* ---- requests ------------------------------------------------------------------------------------ */

struct admin_client;

/* One request, from its line to its answer. Owned by the loop, then by whom run() hands it to, then by
 * the loop again. */
struct admin_request {
	/* loop's thread only */
	struct list_head node;       /* in client->requests */
	struct admin_client *client; /* NULL: it is gone */
	/* set before run() */
	const struct admin_verb *verb;
	json_t *id;     /* NULL: a notification, nobody wants the answer */
	json_t *params; /* an object, checked against verb->params */
	bool privileged;
	uid_t uid;
	pid_t pid;
	/* the owner's */
	struct pool_job job;
	void (*on_strand)(struct device *dev, void *arg);
	char before[512]; /* what was wrong with the disk before that */
	json_t *result, *error;
	bool subscribe;
	uint64_t events_at; /* the first it will get */
	/* the done queue's */
	struct list_head done;
};

/* Answer, exactly once, from any thread; the request is not the caller's any more. result is stolen;
 * NULL (no memory) becomes an internal error. */
void admin_reply(struct admin_request *req, json_t *result);
/* where: the disk, parameter or file it is about; hint: what to do. Either may be NULL. */
void admin_fail(struct admin_request *req, enum admin_code code, const char *where, const char *hint,
		const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* Run fn(req) on the control pool. */
void admin_run_control(struct admin_request *req, void (*fn)(struct pool_job *job));

/* Answer with result, and from then on the request's client gets events as they happen, of one disk or (NULL) of
 * all. On the loop's thread. */
void admin_subscribe(struct admin_request *req, const char *disk, json_t *result);

/* Params; what verb->params makes sure of. */
const char *admin_string(const struct admin_request *req, const char *name); /* NULL if not given */
bool admin_bool(const struct admin_request *req, const char *name);          /* false if not given */
bool admin_given(const struct admin_request *req, const char *name);

/*
 * Why the device call of a strand's job failed. A refusal (the operator asked for what cannot be; nothing was done) is
 * no error of the disk: what was wrong with that before is what `list` goes on to tell.
 */
const char *admin_why(struct admin_request *req, struct device *dev, int err, char *buf, size_t len);

/* The disk that the parameter "disk" names, with a reference; NULL: the request has been answered. */
struct device *admin_find_disk(struct admin_request *req);
/* Hand the request to the strand of its disk. There it is answered without fn if the disk has gone meanwhile. */
void admin_on_strand(struct admin_request *req, void (*fn)(struct device *dev, void *arg));
/* The same for a disk in hand; takes that reference. */
void admin_submit(struct admin_request *req, struct device *dev, void (*fn)(struct device *dev, void *arg));
/* Call fn for that disk, or for all if none is named. False: the request has been answered. */
bool admin_each_disk(struct admin_request *req, void (*fn)(struct device *dev, void *arg), void *arg);

/* A JSON string of any bytes: what is not UTF-8 becomes U+FFFD. NULL gives JSON's null. */
json_t *admin_text(const char *text);

/* The running configuration; valid while the loop is open. */
const struct admin_config *admin_config_get(void);

/* ---- the socket (admin-socket.c) ------------------------------------------------------------------ */

struct admin_socket {
	struct unix_socket at;
	int lock_fd; /* PATH.lock, held as long as the socket is ours */
};
/* 0; -EADDRINUSE: somebody answers there; -errno. The reason has been logged. */
int admin_socket_open(struct admin_socket *sock, const char *path, const char *group);
void admin_socket_close(struct admin_socket *sock);

struct admin_peer {
	pid_t pid;
	uid_t uid;
	bool privileged;
};
/* Who is at the other end. -errno. */
int admin_socket_peer(const struct admin_socket *sock, int fd, struct admin_peer *peer);

/* ---- for tests and the fuzzer -------------------------------------------------------------------- */

#define ADMIN_MAX_MESSAGE (64u * 1024)
#define ADMIN_MAX_CLIENTS 32u

struct admin_limits {
	unsigned line_ms;   /* from the first byte of a message to its end */
	unsigned output_ms; /* without any progress of a client that has answers to read */
	unsigned stop_ms;   /* for the last answers at admin_stop() */
};
/* Set before admin_start(). */
extern struct admin_limits admin_limits;

/* The loop without a socket and without a thread: open, add clients (owns fd, a nonblocking stream
 * socket), turn (-1: no limit), close. */
int admin_loop_open(const struct admin_config *config);
int admin_loop_add(int fd, bool privileged);
void admin_loop_turn(int timeout_ms);
void admin_loop_close(void);

#endif
