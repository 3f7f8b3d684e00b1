/*
 * xenbus-store.h - the connection to the store, shared by threads, and writing through it
 *
 * The store can be lost while somebody uses it, so a connection is counted: xb_conn_get(), use,
 * xb_conn_put(); the last user closes it. Any thread. No lock is held over a request.
 */
#ifndef RD_XENBUS_STORE_H
#define RD_XENBUS_STORE_H

#include "hyp.h"
#include "xenbus-state.h"

#include <stdbool.h>
#include <stdint.h>

#define XB_PATH_MAX 160

struct xb_conn; /* a connection, while it works */

/* Before any thread. hyp must outlive all of this. */
void xb_store_init(struct hyp *hyp);
struct hyp *xb_store_hyp(void);
/* Open a connection and make it the current one. -errno: the store is away. */
int xb_store_connect(void);
/* There is no current one any more; those who use it find it dead. */
void xb_store_drop(void);
/* The current connection, NULL: the store is away. */
struct xb_conn *xb_conn_get(void);
void xb_conn_put(struct xb_conn *conn); /* accepts NULL */
struct hyp_store *xb_conn_store(struct xb_conn *conn);
/* Another number for each connection: watches die with it. */
uint64_t xb_conn_generation(const struct xb_conn *conn);

/*
 * Read a value that must be text (no NUL) of less than room bytes. 0, -ENOENT, -EINVAL when it is
 * binary or too long, -errno.
 */
int xb_read(struct xb_conn *conn, hyp_txn txn, char *buf, size_t room, const char *path_format, ...)
	__attribute__((format(printf, 5, 6)));
/* As xb_read, for text of any length up to 4096: malloc'd, the caller's. */
int xb_read_alloc(struct xb_conn *conn, char **value, const char *path_format, ...)
	__attribute__((format(printf, 3, 4)));
/* A state key; XB_UNKNOWN when it is missing or nonsense. -errno when the store fails otherwise. */
int xb_read_state(struct xb_conn *conn, hyp_txn txn, const char *dir, enum xb_state *state);

/* Writes below dir; the first error stays in err and makes the rest do nothing. */
struct xb_writer {
	struct xb_conn *conn;
	hyp_txn txn;
	const char *dir;
	int err;
};
void xb_put(struct xb_writer *w, const char *key, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void xb_del(struct xb_writer *w, const char *key); /* not there is fine */

/*
 * In one transaction: if dir is there and its state is from, let fill (may be NULL) write, then write
 * state to. -ENOENT: dir is gone and nothing was written (a write would bring a removed node back to
 * life); -ESTALE: its state is another; -errno.
 */
int xb_change_state(struct xb_conn *conn, const char *dir, enum xb_state from, enum xb_state to,
		    void (*fill)(struct xb_writer *w, void *arg), void *arg);
/* Run body in a transaction until it is not in conflict with others; it returns 0 to commit. */
int xb_transact(struct xb_conn *conn, int (*body)(struct xb_conn *conn, hyp_txn txn, void *arg),
		void *arg);

#endif
