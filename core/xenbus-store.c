/*
 * The connection to the store, and requests over it.
 *
 * Normal path: rd-watch connects; everyone else takes the connection for a few requests and gives it
 * back. When rd-watch finds it dead it drops it and makes another, which has another generation.
 *
 * What can go wrong: the store is away (no connection: callers wait for the next one), a transaction is
 * in conflict (tried again, a bounded number of times: the other party may be a guest that wants it so),
 * a value is not what it should be.
 *
 * Lock: conn_lock (leaf) for the pointer and the counts. Never held over a request.
 */
#include "xenbus-store.h"

#include "base/cleanup.h"
#include "lock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRANSACTION_TRIES 64
#define VALUE_MAX         4096u

struct xb_conn {
	struct hyp_store *store; /* constant */
	uint64_t generation;     /* constant */
	unsigned refs;           /* conn_lock */
};

static struct hyp *hyp; /* set before start */
static struct rd_lock conn_lock;
static struct xb_conn *current;  /* conn_lock; holds one reference */
static uint64_t last_generation; /* conn_lock */

void xb_store_init(struct hyp *the_hyp)
{
	hyp = the_hyp;
	lock_init(&conn_lock, RANK_LEAF, "xenbus connection");
}

struct hyp *xb_store_hyp(void)
{
	return hyp;
}

struct xb_conn *xb_conn_get(void)
{
	LOCK_SCOPE(&conn_lock);
	if (current)
		current->refs++;
	return current;
}

void xb_conn_put(struct xb_conn *conn)
{
	unsigned left;

	if (!conn)
		return;
	lock_acquire(&conn_lock);
	left = --conn->refs;
	lock_release(&conn_lock);
	if (left)
		return;
	hyp->ops->store_close(conn->store);
	free(conn);
}

struct hyp_store *xb_conn_store(struct xb_conn *conn)
{
	return conn->store;
}

uint64_t xb_conn_generation(const struct xb_conn *conn)
{
	return conn->generation;
}

/* Put conn (may be NULL) in the place of the current one. */
static void install(struct xb_conn *conn)
{
	struct xb_conn *old;

	lock_acquire(&conn_lock);
	old = current;
	current = conn;
	if (conn)
		conn->generation = ++last_generation;
	lock_release(&conn_lock);
	xb_conn_put(old);
}

int xb_store_connect(void)
{
	struct xb_conn *conn = calloc(1, sizeof(*conn));
	int err;

	if (!conn)
		return -ENOMEM;
	err = hyp->ops->store_open(hyp, &conn->store);
	if (err) {
		free(conn);
		return err;
	}
	conn->refs = 1;
	install(conn);
	return 0;
}

void xb_store_drop(void)
{
	install(NULL);
}

/* --- reading ---------------------------------------------------------------------------------- */

/* The path, or NULL if it would be too long. */
__attribute__((format(printf, 2, 0))) static const char *path_format(char *path, const char *format,
								     va_list ap)
{
	int len = vsnprintf(path, XB_PATH_MAX, format, ap);

	return len > 0 && len < XB_PATH_MAX ? path : NULL;
}

static int read_value(struct xb_conn *conn, hyp_txn txn, const char *path, char **value,
		      size_t *len)
{
	if (!path)
		return -ENAMETOOLONG;
	return hyp->ops->store_read(conn->store, txn, path, value, len);
}

static bool is_text(const char *value, size_t len, size_t room)
{
	return len < room && !memchr(value, 0, len);
}

int xb_read(struct xb_conn *conn, hyp_txn txn, char *buf, size_t room, const char *format, ...)
{
	CLEANUP_FREE char *value = NULL;
	char path[XB_PATH_MAX];
	const char *where;
	size_t len;
	va_list ap;
	int err;

	va_start(ap, format);
	where = path_format(path, format, ap);
	va_end(ap);
	buf[0] = 0;
	err = read_value(conn, txn, where, &value, &len);
	if (err)
		return err;
	if (!is_text(value, len, room))
		return -EINVAL;
	memcpy(buf, value, len);
	buf[len] = 0;
	return 0;
}

int xb_read_alloc(struct xb_conn *conn, char **value, const char *format, ...)
{
	CLEANUP_FREE char *got = NULL;
	char path[XB_PATH_MAX];
	const char *where;
	size_t len;
	va_list ap;
	int err;

	va_start(ap, format);
	where = path_format(path, format, ap);
	va_end(ap);
	err = read_value(conn, HYP_TXN_NONE, where, &got, &len);
	if (err)
		return err;
	if (!is_text(got, len, VALUE_MAX + 1))
		return -EINVAL;
	*value = take_ptr(&got);
	return 0;
}

int xb_read_state(struct xb_conn *conn, hyp_txn txn, const char *dir, enum xb_state *state)
{
	char text[8];
	int err = xb_read(conn, txn, text, sizeof(text), "%s/state", dir);

	*state = XB_UNKNOWN;
	if (err == -ENOENT || err == -EINVAL || err == -EACCES)
		return 0;
	if (!err && text[0] >= '0' && text[0] <= '0' + XB_RECONFIGURED && !text[1])
		*state = (enum xb_state)(text[0] - '0');
	return err;
}

/* --- writing ---------------------------------------------------------------------------------- */

void xb_put(struct xb_writer *w, const char *key, const char *format, ...)
{
	CLEANUP_FREE char *value = NULL;
	char path[XB_PATH_MAX];
	va_list ap;
	int len;

	if (w->err)
		return;
	va_start(ap, format);
	len = vasprintf(&value, format, ap);
	va_end(ap);
	if (len < 0) {
		value = NULL;
		w->err = -ENOMEM;
	} else if (snprintf(path, sizeof(path), "%s/%s", w->dir, key) >= (int)sizeof(path)) {
		w->err = -ENAMETOOLONG;
	} else {
		w->err = hyp->ops->store_write(w->conn->store, w->txn, path, value, (size_t)len);
	}
}

void xb_del(struct xb_writer *w, const char *key)
{
	char path[XB_PATH_MAX];

	if (w->err)
		return;
	if (snprintf(path, sizeof(path), "%s/%s", w->dir, key) >= (int)sizeof(path))
		w->err = -ENAMETOOLONG;
	else
		w->err = hyp->ops->store_rm(w->conn->store, w->txn, path);
	if (w->err == -ENOENT)
		w->err = 0;
}

int xb_transact(struct xb_conn *conn, int (*body)(struct xb_conn *conn, hyp_txn txn, void *arg),
		void *arg)
{
	for (int i = 0; i < TRANSACTION_TRIES; i++) {
		hyp_txn txn;
		int err = hyp->ops->store_begin(conn->store, &txn), end;

		if (err)
			return err;
		err = body(conn, txn, arg);
		end = hyp->ops->store_end(conn->store, txn, !err);
		if (err)
			return err;
		if (end != -EAGAIN)
			return end;
	}
	return -EAGAIN;
}

struct change {
	const char *dir;
	enum xb_state from, to;
	void (*fill)(struct xb_writer *w, void *arg);
	void *arg;
};

static int change_body(struct xb_conn *conn, hyp_txn txn, void *arg)
{
	const struct change *change = arg;
	struct xb_writer w = { .conn = conn, .txn = txn, .dir = change->dir };
	char frontend[XB_PATH_MAX];
	enum xb_state state;
	int err = xb_read(conn, txn, frontend, sizeof(frontend), "%s/frontend", change->dir);

	if (err)
		return err;
	err = xb_read_state(conn, txn, change->dir, &state);
	if (err)
		return err;
	if (state != change->from)
		return -ESTALE;
	if (change->fill)
		change->fill(&w, change->arg);
	xb_put(&w, "state", "%d", (int)change->to);
	return w.err;
}

int xb_change_state(struct xb_conn *conn, const char *dir, enum xb_state from, enum xb_state to,
		    void (*fill)(struct xb_writer *w, void *arg), void *arg)
{
	struct change change = { .dir = dir, .from = from, .to = to, .fill = fill, .arg = arg };

	return xb_transact(conn, change_body, &change);
}
