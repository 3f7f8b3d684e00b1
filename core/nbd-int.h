/*
 * nbd-int.h - what the files of the NBD server share
 *
 *   nbd.c         the thread: events, clients that come and go, bytes in and out
 *   nbd-option.c  negotiation: which export, its size, what both sides can do (thread only)
 *   nbd-io.c      requests: checks, limits, the way over the workers, answers
 *   nbd-export.c  the life of an export, for its disk (control threads)
 *   nbd-socket.c  the sockets as files, who is at the other end
 *   nbd-uri.c     params that name our socket
 *
 * Lock: srv.lock (RANK_LEAF).  What is not marked belongs to the thread alone.
 */
#ifndef RD_NBD_INT_H
#define RD_NBD_INT_H

#include "events.h"
#include "nbd.h"

#include "base/bytes.h"
#include "base/list.h"
#include "base/unix-socket.h"
#include "bufs.h"
#include "exec.h"
#include "log.h"
#include "nbd-proto.h"
#include "request.h"

#include <stdatomic.h>
#include <sys/types.h>

#define NBD_CLIENTS        128u /* of the daemon */
#define NBD_EXPORT_CLIENTS 16u
#define NBD_OPTIONS        64u  /* of one negotiation */
#define NBD_OPTION_MAX     8192u
#define NBD_NAME_MAX       4096u
#define NBD_REQUEST_MAX    MiB
#define NBD_SKIP_MAX       (64 * MiB) /* of data behind a request that is refused */
#define NBD_DEPTH          32u  /* requests of a client */
#define NBD_CLIENT_MEMORY  (4 * MiB)
#define NBD_PIECE          (32 * MiB) /* of a long discard or zeroing, at a time */
#define NBD_STATUS_MAX     128u /* extents in an answer */
#define NBD_HANDSHAKE_MS   10000
#define NBD_FIND_MS        3000  /* that a client waits for an export that is not there yet */
#define NBD_OPEN_MS        60000 /* ... for its image */
#define NBD_JOBS           16u
#define NBD_CONTEXT_ID     1u

enum nbd_source { SOURCE_KICK, SOURCE_LISTENER, SOURCE_CLIENT };

struct nbd_listener {
	enum nbd_source source; /* first */
	struct unix_socket sock;
	struct nbd_export *ex; /* NULL: the common one */
};

struct nbd_job {
	struct pool_job job;
	struct nbd_export *ex;
	struct list_head node; /* idle ones; lock */
};

enum nbd_image { IMAGE_NONE, IMAGE_OPENING, IMAGE_OPEN, IMAGE_FAILED };

struct nbd_export {
	/* set before start */
	struct nbd_export_config cfg;
	char *name, *alias;
	struct nbd_listener listener;
	struct pool_client pool;
	struct nbd_job job[NBD_JOBS];
	/* lock */
	struct list_head node;       /* in srv.exports */
	enum nbd_image image;
	char why[256];               /* it has not been opened */
	struct rd_info info;         /* of the open image, so that nobody looks at one that is being closed */
	bool writable;
	unsigned users;              /* clients, until nothing of theirs is left */
	struct list_head todo, idle_jobs;
	unsigned ntodo, njobs, nalone, running;
	bool paused, closing, closed, slow;
	/* changed only while nothing runs */
	struct exec exec;
	/* atomic */
	_Atomic uint64_t limit[THROTTLE_LIMITS], burst;
	_Atomic bool relimit;
	/* thread only */
	bool limited;
	struct list_head waiting[2]; /* reads, writes: over the limits */
	_Atomic unsigned nwaiting;   /* of both */
	uint64_t wake_at;            /* 0: nobody waits */
};

enum nbd_state {
	STATE_FLAGS,       /* what the client says to the greeting */
	STATE_OPTION,      /* header of an option */
	STATE_OPTION_DATA,
	STATE_OPTION_WAIT, /* the option is tried again later */
	STATE_REQUEST,     /* header of a request */
	STATE_DATA,        /* what is to be written */
	STATE_SKIP,        /* the same, of a request that is refused */
	STATE_FULL,        /* the request waits for one of this client to be answered */
	STATE_END,         /* nothing more is read; it goes when all is answered */
};

struct nbd_client {
	enum nbd_source source; /* first */
	struct list_head node;  /* in srv.clients */
	struct nbd_listener *from; /* NULL: the common one */
	struct nbd_export *ex;  /* counted among its users */
	int fd;                 /* -1: dead, but something of it still runs */
	uint32_t interest;
	enum nbd_state state;
	uint64_t id;            /* for the log */
	uid_t uid;
	pid_t pid;
	long long deadline;     /* of the negotiation, ms; 0: none */
	/* input: the next step comes when in_got is in_want */
	uint8_t *in;
	size_t in_want, in_got;
	uint64_t skip;
	uint8_t header[NBD_HEADER_REQUEST];
	/* negotiation */
	uint32_t option, option_len;
	uint8_t *option_data;
	unsigned options;
	long long option_deadline;
	bool no_zeroes, structured, context, asked;
	/* transmission */
	bool told; /* of its coming, as an event */
	struct rd_info info;
	bool read_only;
	struct nbd_request *receiving;
	unsigned outstanding;
	struct buf_budget budget;
	struct bufs bufs;
	/* output */
	struct list_head out; /* of nbd_out.node */
	size_t out_bytes;     /* of answers to options */
};

/* Something to send: a head, and data behind it. */
struct nbd_out {
	struct list_head node;
	struct nbd_request *req; /* whose answer it is; NULL: it stands alone, with its data behind it */
	size_t head_len, data_len, sent;
	const void *data;
	uint8_t head[40];
};

struct nbd_request {
	struct request req; /* node: wherever it waits; offset, length: of the piece */
	struct nbd_client *client;
	uint64_t cookie;
	uint64_t start, end; /* of all */
	uint16_t type, flags;
	uint32_t *status;    /* BLOCK_STATUS: length, flags */
	unsigned nstatus;
	size_t buf_len;
	struct nbd_out answer;
};

struct nbd_server {
	/* set by nbd_start */
	bool running;
	int epoll_fd;
	struct {
		enum nbd_source source;
		int fd;
	} kick;
	pthread_t thread;
	char dir[NBD_PATH_MAX];
	gid_t gid;
	struct nbd_listener common;
	struct log_limit limit;
	_Atomic bool stop;
	/* lock */
	struct rd_lock lock;
	struct list_head exports, done; /* done: of nbd_request.req.node */
	pthread_cond_t changed; /* of an export: running, users, closed */
	/* thread only */
	struct list_head clients;
	unsigned nclients;
	uint64_t next_id;
};
extern struct nbd_server nbd_srv;

/* --- nbd.c */
/* To those who follow events.  Of a client with an export. */
void nbd_tell_client(const struct nbd_client *client, enum event_type type);
/* [any] Let the thread look around. */
void nbd_kick(void);
/* Wait for len bytes more before the next step. */
void nbd_expect(struct nbd_client *client, enum nbd_state state, void *to, size_t len);
void nbd_drop(struct nbd_client *client, const char *why); /* why: NULL, or for the log */
/* Put it at the end of what is to be sent. */
void nbd_send(struct nbd_client *client, struct nbd_out *out);

/* --- nbd-option.c */
void nbd_greet(struct nbd_client *client);
/* What was expected is there. */
void nbd_option_step(struct nbd_client *client);
/* In STATE_OPTION_WAIT: something has changed, or time is up. */
void nbd_option_retry(struct nbd_client *client);

/* --- nbd-io.c */
/* Transmission begins, on client->ex. */
void nbd_begin(struct nbd_client *client);
void nbd_request_step(struct nbd_client *client);
/* In STATE_FULL: one has been answered. */
void nbd_request_again(struct nbd_client *client);
/* A worker has done its piece. */
void nbd_request_done(struct nbd_request *r);
/* Its answer has been sent, or nobody wants it. */
void nbd_request_free(struct nbd_request *r);
/* Start what waits for limits, as far as they allow. */
void nbd_limits_look(struct nbd_export *ex, uint64_t now);
/* [lock] Forget what has not begun: all of the export's, or of one client. */
void nbd_forget_locked(struct nbd_export *ex, const struct nbd_client *client, struct list_head *forgotten);
/* [any] Submit the jobs that should run. */
void nbd_work(struct nbd_export *ex);
void nbd_work_init(struct nbd_export *ex);

/* --- nbd-export.c */
/* The client may use it: counted.  False: it is full, or going. */
bool nbd_export_join(struct nbd_export *ex, struct nbd_client *client);
void nbd_export_leave(struct nbd_client *client);
/* By its name, from this listener; NULL: there is none. */
struct nbd_export *nbd_export_find(const struct nbd_listener *from, const char *name, size_t len);
/* The thread has dropped the clients: say so to nbd_export_close. */
void nbd_export_closed(struct nbd_export *ex);

/* --- nbd-socket.c */
int nbd_socket_dir(const char *dir, const char *group, gid_t *gid, char *err, size_t errlen);
int nbd_socket_open(struct unix_socket *sock, const char *path, char *err, size_t errlen);
/* A socket's path from what a user said: absolute, or a name below DIR.  -EINVAL. */
int nbd_socket_path(const char *text, char path[NBD_PATH_MAX]);

#endif
