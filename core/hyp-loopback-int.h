/*
 * hyp-loopback-int.h - what the files of the loopback hypervisor share
 *
 *   hyp-loopback.c         open, close, the table of operations
 *   hyp-loopback-server.c  the thread rd-loopback: socket, clients, protocol
 *   hyp-loopback-dom.c     domains: their memory and their ports
 *   hyp-loopback-grant.c   grants, on the daemon's threads
 *   hyp-loopback-event.c   event channels, on the daemon's threads
 *   hyp-loopback-store.c   the store
 *
 * Locks, all leaves, never two of them together: the domain table's (lb->lock), a grant handle's, the
 * store's.  Copying grants and notifying take none.
 */
#ifndef RD_HYP_LOOPBACK_INT_H
#define RD_HYP_LOOPBACK_INT_H

#include "base/list.h"
#include "base/unix-socket.h"
#include "hyp-loopback-proto.h"
#include "hyp.h"
#include "lock.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- domains ---------------------------------------------------------------------------------- */

struct lb_port {
	/* under lb->lock */
	bool used, bound;
	bool orphan; /* the guest closed it while it was bound: goes with the binding */
	uint32_t remote;
	int kick_fd;   /* the guest writes, we wait */
	int notify_fd; /* we write; the guest sees it through its vcpu's epoll */
};

struct lb_dom {
	struct list_head link; /* lb->doms, under lb->lock */
	atomic_uint refs;
	uint32_t domid;
	atomic_bool dead;
	/* under lb->lock until attached, then constant */
	bool attached;
	int memfd;
	uint8_t *mem;
	uint32_t frames;
	struct lb_grant *grants; /* inside mem */
	uint32_t nr_grants;
	/* under lb->lock */
	int shutdown; /* enum hyp_shutdown */
	bool fault_bind;
	struct lb_port port[LB_MAX_PORTS]; /* [0] is never used */
	int vcpu_fd[LB_MAX_VCPUS];
	/* atomic; the data path only reads fault_in while it is 0 */
	atomic_int fault_in; /* countdown to the segment that fails; 0: none */
	atomic_int fault_status;
	atomic_bool fault_all;
	_Atomic uint64_t mapped, maps, copies, refused;
};

/* ---- the store -------------------------------------------------------------------------------- */

struct lb_store;

/* Somebody who speaks to the store: a client of the socket, or the daemon itself. */
struct lb_conn {
	/* under the store's lock */
	struct list_head link, watches, txns, events;
	unsigned int nr_watches, nr_txns, nr_events;
	bool overflow; /* events were dropped: it does not read them */
	/* fixed */
	uint32_t domid;
	int wake_fd; /* eventfd, written when an event is queued */
};

struct lb_event {
	struct list_head link;
	char *path; /* path\0token\0, one block with the struct */
	char *token;
};

struct lb_store *lb_store_new(void);
void lb_store_free(struct lb_store *st); /* every connection is gone */
void lb_conn_open(struct lb_store *st, struct lb_conn *conn, uint32_t domid, int wake_fd);
void lb_conn_close(struct lb_store *st, struct lb_conn *conn);

int lb_store_read(struct lb_store *st, struct lb_conn *conn, hyp_txn txn, const char *path,
		  char **value, size_t *len);
int lb_store_write(struct lb_store *st, struct lb_conn *conn, hyp_txn txn, const char *path,
		   const void *value, size_t len);
int lb_store_rm(struct lb_store *st, struct lb_conn *conn, hyp_txn txn, const char *path);
/* *names: name\0name\0..., malloc'd, *len bytes. */
int lb_store_list(struct lb_store *st, struct lb_conn *conn, hyp_txn txn, const char *path,
		  char **names, size_t *len, unsigned int *count);
int lb_store_set_perms(struct lb_store *st, struct lb_conn *conn, hyp_txn txn, const char *path,
		       const struct hyp_perm *perms, unsigned int count);
int lb_store_get_perms(struct lb_store *st, struct lb_conn *conn, hyp_txn txn, const char *path,
		       struct hyp_perm **perms, unsigned int *count);
int lb_store_begin(struct lb_store *st, struct lb_conn *conn, hyp_txn *txn);
int lb_store_end(struct lb_store *st, struct lb_conn *conn, hyp_txn txn, bool commit);
int lb_store_watch(struct lb_store *st, struct lb_conn *conn, const char *path, const char *token);
int lb_store_unwatch(struct lb_store *st, struct lb_conn *conn, const char *path,
		     const char *token);
/* The first event, taken off the queue (free it), or NULL. */
struct lb_event *lb_store_event(struct lb_store *st, struct lb_conn *conn);
void lb_store_unevent(struct lb_store *st, struct lb_conn *conn,
		      struct lb_event *event); /* put back */
bool lb_store_overflowed(struct lb_store *st, const struct lb_conn *conn); /* events were lost */
/* "@introduceDomain", "@releaseDomain" */
void lb_store_special(struct lb_store *st, const char *name);
uint64_t lb_store_nodes_of(struct lb_store *st, uint32_t domid);

/* ---- the hypervisor --------------------------------------------------------------------------- */

struct hyp_loopback {
	struct hyp hyp;
	struct lb_store *store;
	struct rd_lock lock;
	/* under lock */
	struct list_head doms;
	uint32_t next_domid;
	/* atomic */
	atomic_bool store_down;       /* LB_FAULT_STORE */
	_Atomic uint32_t store_epoch; /* a connection of an older epoch is lost */
	/* set before start */
	int fd_limit; /* guests get no descriptor as high as this: the rest is for the daemon */
	struct unix_socket listener;
	int epoll_fd;
	int wake_fd; /* kicks rd-loopback: a client has events, or stop */
	struct lb_conn self;
	/* rd-loopback only */
	struct list_head clients;
	unsigned int nr_clients;
	/* under stores_lock */
	struct rd_lock stores_lock;
	struct list_head stores; /* the daemon's connections */
	atomic_bool stop;
	pthread_t thread;
};

static inline struct hyp_loopback *to_loopback(struct hyp *hyp)
{
	return container_of(hyp, struct hyp_loopback, hyp);
}

/* LB_FAULT_STORE: the daemon's connections are lost, and new ones are refused while down. */
void lb_stores_fault(struct hyp_loopback *lb, bool down);

int lb_server_start(struct hyp_loopback *lb, const char *path);
void lb_server_stop(struct hyp_loopback *lb);

/* A reference to the domain, or NULL when there is none of that number. */
struct lb_dom *lb_dom_get(struct hyp_loopback *lb, uint32_t domid);
void lb_dom_put(struct lb_dom *dom); /* accepts NULL */
/* A new domain, and its place in the store; *domid in: wanted, or LB_DOMID_ANY.  -EEXIST. */
int lb_dom_create(struct hyp_loopback *lb, uint32_t domid, struct lb_dom **dom);
/* Give it its memory; memfd becomes the domain's when this returns 0. */
int lb_dom_attach(struct hyp_loopback *lb, struct lb_dom *dom, int memfd, uint32_t nr_grants);
void lb_dom_destroy(struct hyp_loopback *lb, struct lb_dom *dom);
void lb_dom_shutdown(struct hyp_loopback *lb, struct lb_dom *dom, int reason);

/* A free port for peer remote; fds[0] kick, fds[1] the vcpu's epoll or -1; both stay the domain's. */
int lb_port_alloc(struct hyp_loopback *lb, struct lb_dom *dom, uint32_t remote, uint32_t vcpu,
		  int fds[2]);
int lb_port_close(struct hyp_loopback *lb, struct lb_dom *dom, uint32_t port);
/* The daemon's end.  The descriptors stay open until lb_port_unbind. */
int lb_port_bind(struct hyp_loopback *lb, struct lb_dom *dom, uint32_t port, int *kick_fd,
		 int *notify_fd);
void lb_port_unbind(struct hyp_loopback *lb, struct lb_dom *dom, uint32_t port);

extern const struct hyp_ops lb_ops;
int lb_gnt_open(struct hyp *hyp, struct hyp_gnt **gnt);
void lb_gnt_close(struct hyp_gnt *gnt);
int lb_gnt_map(struct hyp_gnt *gnt, uint32_t domid, const uint32_t *grefs, unsigned int count,
	       bool writable, void **addr);
int lb_gnt_unmap(struct hyp_gnt *gnt, void *addr, unsigned int count);
int lb_gnt_revoke(struct hyp_gnt *gnt, void *addr, unsigned int count);
int lb_gnt_copy(struct hyp_gnt *gnt, uint32_t domid, struct hyp_copy *segs, unsigned int count);
int lb_evtchn_open(struct hyp *hyp, struct hyp_evtchn **evtchn);
void lb_evtchn_close(struct hyp_evtchn *evtchn);
int lb_evtchn_fd(struct hyp_evtchn *evtchn);
int lb_evtchn_bind(struct hyp_evtchn *evtchn, uint32_t domid, uint32_t remote_port);
int lb_evtchn_unbind(struct hyp_evtchn *evtchn, int port);
int lb_evtchn_pending(struct hyp_evtchn *evtchn);
int lb_evtchn_wait(struct hyp_evtchn *evtchn, int timeout_ms);
void lb_evtchn_kick(struct hyp_evtchn *evtchn);
int lb_evtchn_unmask(struct hyp_evtchn *evtchn, int port);
int lb_evtchn_notify(struct hyp_evtchn *evtchn, int port);

#endif
