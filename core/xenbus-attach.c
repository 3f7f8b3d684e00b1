/*
 * Attaching and detaching by hand: what the toolstack would write, and then the wait for what it would wait
 * for. The threads of xenbus.c see the nodes as they see any others; nothing is told to them here.
 *
 * What can go wrong: the store is away, the domain is not there, the nodes exist, the disk cannot be opened
 * (its reason is read from the node and the nodes are taken away again), the guest does not let go of it.
 *
 * Runs on the control pool and blocks, for at most WAIT_MS and the store's time.
 */
#include "xenbus-node.h"

#include "lock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WAIT_MS 10000 /* libxl's patience */
#define POLL_MS 10

struct by_hand {
	struct xb_node node;
	char libxl[XB_PATH_MAX]; /* what xl block-list reads; "" where there is no libxl */
	const struct xenbus_attach *attach;
};

static int say(char *err, size_t errlen, int ret, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
static int say(char *err, size_t errlen, int ret, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(err, errlen, format, ap);
	va_end(ap);
	return ret;
}

static bool exists(struct xb_conn *conn, hyp_txn txn, const char *dir, const char *key)
{
	char text[XB_PATH_MAX];
	int err = xb_read(conn, txn, text, sizeof(text), "%s%s%s", dir, key ? "/" : "",
			  key ? key : "");

	return !err || err == -EINVAL;
}

static int fill_node(struct xb_conn *conn, struct by_hand *b, uint32_t domid, uint32_t vdev,
		     const char *kind)
{
	struct hyp *hyp = xb_store_hyp();
	char libxl[64];
	int err = xb_node_init(&b->node, hyp->ops->domid(hyp), kind, domid, vdev);

	snprintf(libxl, sizeof(libxl), "/libxl/%u", domid);
	if (exists(conn, HYP_TXN_NONE, libxl, NULL))
		snprintf(b->libxl, sizeof(b->libxl), "%s/device/vbd/%u", libxl, vdev);
	return err;
}

/* --- writing the nodes ------------------------------------------------------------------------ */

/* A directory that owner has and reader may read. What is written below inherits that. */
static void make_dir(struct xb_writer *w, uint32_t owner, uint32_t reader)
{
	const struct hyp_perm perms[2] = {
		{ .domid = owner, .perm = HYP_PERM_NONE },
		{ .domid = reader, .perm = HYP_PERM_READ },
	};
	const struct hyp_ops *ops = xb_store_hyp()->ops;

	if (!w->err)
		w->err = ops->store_write(xb_conn_store(w->conn), w->txn, w->dir, "", 0);
	if (!w->err)
		w->err = ops->store_set_perms(xb_conn_store(w->conn), w->txn, w->dir, perms,
					      owner == reader ? 1 : 2);
}

/* What the backend reads, in its directory and in libxl's copy. */
static void put_backend_keys(struct xb_writer *w, const struct by_hand *b)
{
	const struct xenbus_attach *a = b->attach;
	char vdev[16];

	xb_put(w, "frontend", "%s", b->node.frontend);
	xb_put(w, "frontend-id", "%u", b->node.fe);
	xb_put(w, "online", "1");
	xb_put(w, "removable", "%d", a->cdrom);
	xb_put(w, "bootable", "1");
	xb_put(w, "dev", "%s", vdev_text(b->node.dev, vdev, sizeof(vdev)));
	xb_put(w, "type", "%s", b->node.kind);
	xb_put(w, "mode", "%s", a->writable ? "w" : "r");
	xb_put(w, "device-type", "%s", a->cdrom ? "cdrom" : "disk");
	xb_put(w, "discard-enable", "%d", a->writable);
	xb_put(w, "params", "%s", a->params);
	xb_put(w, "state", "1");
}

static int write_nodes(struct xb_conn *conn, hyp_txn txn, void *arg)
{
	const struct by_hand *b = arg;
	struct xb_writer back = { .conn = conn, .txn = txn, .dir = b->node.dir };
	struct xb_writer front = { .conn = conn, .txn = txn, .dir = b->node.frontend };
	struct xb_writer copy = { .conn = conn, .txn = txn, .dir = b->libxl };

	if (exists(conn, txn, b->node.dir, NULL) || exists(conn, txn, b->node.frontend, NULL))
		return -EEXIST;
	make_dir(&front, b->node.fe, b->node.us);
	xb_put(&front, "backend", "%s", b->node.dir);
	xb_put(&front, "backend-id", "%u", b->node.us);
	xb_put(&front, "virtual-device", "%u", b->node.dev);
	xb_put(&front, "device-type", "%s", b->attach->cdrom ? "cdrom" : "disk");
	xb_put(&front, "trusted", "1");
	xb_put(&front, "state", "1");
	make_dir(&back, b->node.us, b->node.fe);
	xb_put(&back, XB_BY_HAND, "1");
	put_backend_keys(&back, b);
	if (b->libxl[0]) {
		make_dir(&copy, b->node.us, b->node.us);
		xb_put(&copy, "frontend", "%s", b->node.frontend);
		xb_put(&copy, "backend", "%s", b->node.dir);
		put_backend_keys(&copy, b);
	}
	if (front.err || back.err)
		return front.err ? front.err : back.err;
	return copy.err;
}

static int rm_path(struct xb_conn *conn, hyp_txn txn, const char *path)
{
	int err = xb_store_hyp()->ops->store_rm(xb_conn_store(conn), txn, path);

	return err == -ENOENT ? 0 : err;
}

static int rm_nodes(struct xb_conn *conn, hyp_txn txn, void *arg)
{
	const struct by_hand *b = arg;
	int err = rm_path(conn, txn, b->node.frontend);

	if (!err)
		err = rm_path(conn, txn, b->node.dir);
	if (!err && b->libxl[0])
		err = rm_path(conn, txn, b->libxl);
	return err;
}

/* --- waiting ---------------------------------------------------------------------------------- */

static void nap(void)
{
	const struct timespec ts = { .tv_nsec = POLL_MS * 1000000L };

	nanosleep(&ts, NULL);
}

/* Until the backend's state is one of the set (bits), or the node is gone (-ENOENT). */
static int wait_state(struct xb_conn *conn, const struct xb_node *node, unsigned set,
		      enum xb_state *state)
{
	long long deadline = monotonic_ms() + WAIT_MS;

	for (;;) {
		int err = xb_read_state(conn, HYP_TXN_NONE, node->dir, state);

		if (err)
			return err;
		if (set & (1u << *state))
			return 0;
		if (*state == XB_UNKNOWN && !exists(conn, HYP_TXN_NONE, node->dir, "frontend"))
			return -ENOENT;
		if (monotonic_ms() >= deadline)
			return -ETIMEDOUT;
		nap();
	}
}

/* --- attach ----------------------------------------------------------------------------------- */

/* The backend has an answer: offered, or Closed for a reason that is in the node. */
static int await_offer(struct xb_conn *conn, struct by_hand *b, char *err, size_t errlen)
{
	const unsigned settled =
		1u << XB_INITWAIT | 1u << XB_CONNECTED | 1u << XB_CLOSING | 1u << XB_CLOSED;
	char text[512];
	enum xb_state state;
	int ret = wait_state(conn, &b->node, settled, &state);

	if (ret == -ETIMEDOUT)
		return say(err, errlen, ret, "%s: the image is still being opened after %d s",
			   b->node.disk, WAIT_MS / 1000);
	if (ret)
		return say(err, errlen, ret, "%s: its nodes were taken away", b->node.disk);
	if (state != XB_CLOSED)
		return 0;
	if (xb_read(conn, HYP_TXN_NONE, text, sizeof(text), "%s/hotplug-error", b->node.dir))
		snprintf(text, sizeof(text), "it was closed at once");
	xb_transact(conn, rm_nodes, b);
	return say(err, errlen, -EIO, "%s: %s", b->node.disk, text);
}

static int attach_by(struct xb_conn *conn, const struct xenbus_attach *a, char *err, size_t errlen)
{
	struct by_hand b = { .attach = a };
	int ret = fill_node(conn, &b, a->domid, a->vdev, a->kind);

	if (ret || a->domid > XB_MAX_DOMID || a->vdev > XB_MAX_DEVID)
		return say(err, errlen, -EINVAL, "%u/%u: no such disk can be", a->domid, a->vdev);
	if (xb_store_hyp()->ops->domain_alive(xb_conn_store(conn), a->domid) != 1)
		return say(err, errlen, -ESRCH, "there is no domain %u", a->domid);
	ret = xb_transact(conn, write_nodes, &b);
	if (ret == -EEXIST)
		return say(err, errlen, ret, "%s: the domain has that device already", b.node.disk);
	if (ret)
		return say(err, errlen, ret, "%s: cannot write the nodes: %s", b.node.disk,
			   strerror(-ret));
	return await_offer(conn, &b, err, errlen);
}

int xenbus_attach(const struct xenbus_attach *attach, char *err, size_t errlen)
{
	struct xb_conn *conn = xb_conn_get();
	int ret;

	if (!conn)
		return say(err, errlen, -ENOTCONN, "the store is away");
	if (!xb_kind_served(attach->kind))
		ret = say(err, errlen, -EINVAL,
			  "backend directory %s is not served (--backend-kinds)", attach->kind);
	else
		ret = attach_by(conn, attach, err, errlen);
	xb_conn_put(conn);
	return ret;
}

/* --- detach ----------------------------------------------------------------------------------- */

/* online=0, and Closing unless it is closed. */
static int ask_to_close(struct xb_conn *conn, hyp_txn txn, void *arg)
{
	const struct by_hand *b = arg;
	struct xb_writer w = { .conn = conn, .txn = txn, .dir = b->node.dir };
	enum xb_state state;
	int err;

	if (!exists(conn, txn, b->node.dir, "frontend"))
		return -ENOENT;
	err = xb_read_state(conn, txn, b->node.dir, &state);
	if (err)
		return err;
	xb_put(&w, "online", "0");
	if (state != XB_CLOSED)
		xb_put(&w, "state", "%d", XB_CLOSING);
	return w.err;
}

static int detach_node(struct xb_conn *conn, struct by_hand *b, bool force, char *err,
		       size_t errlen)
{
	enum xb_state state;
	int ret;

	if (force)
		rm_path(conn, HYP_TXN_NONE, b->node.frontend);
	ret = xb_transact(conn, ask_to_close, b);
	if (!ret)
		ret = wait_state(conn, &b->node, 1u << XB_CLOSED, &state);
	if (ret == -ETIMEDOUT)
		return say(err, errlen, ret,
			   "%s: the guest still uses it; ask again, or with --force", b->node.disk);
	if (ret && ret != -ENOENT)
		return say(err, errlen, ret, "%s: %s", b->node.disk, strerror(-ret));
	ret = xb_transact(conn, rm_nodes, b);
	if (ret)
		return say(err, errlen, ret, "%s: cannot remove the nodes: %s", b->node.disk,
			   strerror(-ret));
	return 0;
}

static int detach_by(struct xb_conn *conn, uint32_t domid, uint32_t vdev, bool force, char *err,
		     size_t errlen)
{
	const char *kind;

	for (unsigned i = 0; (kind = xb_kind_at(i)); i++) {
		struct by_hand b = { 0 };

		if (fill_node(conn, &b, domid, vdev, kind))
			break;
		if (exists(conn, HYP_TXN_NONE, b.node.dir, "frontend"))
			return detach_node(conn, &b, force, err, errlen);
	}
	return say(err, errlen, -ENOENT, "domain %u has no device %u here", domid, vdev);
}

int xenbus_detach(uint32_t domid, uint32_t vdev, bool force, char *err, size_t errlen)
{
	struct xb_conn *conn = xb_conn_get();
	int ret;

	if (!conn)
		return say(err, errlen, -ENOTCONN, "the store is away");
	ret = detach_by(conn, domid, vdev, force, err, errlen);
	xb_conn_put(conn);
	return ret;
}
