/*
 * The moves of xenbus-state.h, done.
 *
 * Each runs with the node in hand, on the device's strand, and may block. Writes happen in a
 * transaction that first checks that the directory is still there and that its state is still the one which
 * the move was chosen for; when it is not, nothing is written and the node is looked at again.
 *
 * What can go wrong: the image cannot be opened or the frontend wrote nonsense (told in the log, in
 * `ringdisk list`, in the error node; the state goes to Closed, so that nobody waits), the image is locked by
 * another (tried again: in a migration the other side lets go a moment later), a drain does not end (the
 * device revokes the guest's memory and comes back; Closed is written all the same), the store is lost (what is
 * mapped stays mapped; the rest is done when it is back).
 */
#include "shm.h"
#include "xenbus-dev.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RETRY_LOCKED_MS 500u /* doubled every eighth time, */
#define RETRY_LOCKED_UP 4u   /* so often at most */

#define VDISK_CDROM     1u /* xen/io/blkif.h */
#define VDISK_REMOVABLE 2u
#define VDISK_READONLY  4u

/* --- small steps ------------------------------------------------------------------------------ */

static int change(struct xb_conn *conn, struct xb_dev *xd, enum xb_state to,
		  void (*fill)(struct xb_writer *w, void *arg), void *arg)
{
	int err = xb_change_state(conn, xd->node.dir, xd->view.be, to, fill, arg);

	if (err)
		return err;
	log_debug(LOG_XENBUS, "%s -> %s", xb_state_text(xd->view.be), xb_state_text(to));
	xd->view.be = to;
	return 0;
}

/* Tell the toolstack and the operator; `ringdisk list` too if there is a device. */
static void report(struct xb_conn *conn, struct xb_dev *xd, int err, const char *text)
{
	log_limited(&xd->errors, LOG_LVL_ERR, LOG_XENBUS, "%s", text);
	if (xd->dev)
		dev_set_error(xd->dev, "%s", text);
	xb_error_write(conn, &xd->node, err, text);
}

/* As report, for what the device has said already. */
static void report_device_error(struct xb_conn *conn, struct xb_dev *xd, int err, char *text,
				size_t len)
{
	dev_error(xd->dev, text, len);
	if (!text[0])
		snprintf(text, len, "%s", strerror(-err));
	xb_error_write(conn, &xd->node, err, text);
}

static void disconnect(struct xb_conn *conn, struct xb_dev *xd)
{
	int err;

	if (!xd->up)
		return;
	err = dev_disconnect(xd->dev);
	xd->up = false;
	xd->fe_was_connected = false;
	if (err == -ETIMEDOUT && conn)
		report(conn, xd, err,
		       "requests did not end in time: the guest's memory was taken away");
}

static void drop_device(struct xb_dev *xd)
{
	struct device *dev = xd->dev;

	xd->up = false;
	xd->failed = false;
	xd->dev = NULL;
	if (!dev)
		return;
	dev_destroy(dev);
	dev_put(dev);
	xb_desc_free(&xd->desc);
}

/* --- offering a disk -------------------------------------------------------------------------- */

static void fill_hotplug_error(struct xb_writer *w, void *text)
{
	xb_put(w, "hotplug-error", "%s", (const char *)text);
	xb_put(w, "hotplug-status", "error");
}

/*
 * A toolstack that has a script for the disk waits for InitWait and then runs it; that hears from us how it went, and
 * says when the guest may go on (xb_node_awaits_script). It is run once, for a new node.
 */
static bool script_comes(struct xb_conn *conn, const struct xb_dev *xd)
{
	return xd->view.be == XB_INITIALISING && xb_node_has_script(conn, &xd->node);
}

/* The disk cannot be offered. Remember why, so that it is not tried again until something changes. */
static int publish_failed(struct xb_conn *conn, struct xb_dev *xd, char *text)
{
	char *params = NULL;

	xb_read_alloc(conn, &params, "%s/params", xd->node.dir);
	free(xd->failed_params);
	xd->failed_params = params;
	xd->failed = true;
	xd->failed_fe = xd->view.fe;
	/* Only a script could tell the toolstack. Else nobody shall wait for a disk that is not there. */
	return change(conn, xd, script_comes(conn, xd) ? XB_INITWAIT : XB_CLOSED, fill_hotplug_error,
		      text);
}

struct offered {
	const struct settings *settings;
	bool script; /* it will say "connected" */
};

static void fill_offer(struct xb_writer *w, void *arg)
{
	const struct offered *o = arg;
	const struct settings *s = o->settings;
	unsigned order = (unsigned)s->value[SET_MAX_RING_PAGE_ORDER];

	xb_put(w, "max-ring-page-order", "%u", order);
	xb_put(w, "max-ring-pages", "%u", 1u << order);
	xb_put(w, "multi-queue-max-queues", "%u", (unsigned)s->value[SET_MAX_QUEUES]);
	if (s->value[SET_MAX_INDIRECT_SEGMENTS])
		xb_put(w, "feature-max-indirect-segments", "%u",
		       (unsigned)s->value[SET_MAX_INDIRECT_SEGMENTS]);
	else
		xb_del(w, "feature-max-indirect-segments");
	if (shm_enabled())
		xb_put(w, "kthread-pid", "%d", (int)getpid());
	xb_del(w, "hotplug-error");
	if (!o->script)
		xb_put(w, "hotplug-status", "connected");
}

/* As xb_node_read(), by the rules of now. */
static int read_node(struct xb_conn *conn, struct xb_dev *xd, struct xb_desc *desc, char *err, size_t errlen)
{
	struct settings_rules *rules = xb_rules_get();
	int ret = xb_node_read(conn, &xd->node, rules, desc, err, errlen);

	settings_rules_free(rules);
	return ret;
}

/* Has the toolstack changed what it wants since the device was made? */
static int desc_changed(struct xb_conn *conn, struct xb_dev *xd, bool *changed)
{
	struct xb_desc now;
	char err[256];
	int ret = read_node(conn, xd, &now, err, sizeof(err));

	*changed = ret || !xb_desc_equal(&now, &xd->desc);
	if (!ret)
		xb_desc_free(&now);
	return ret == -EINVAL ? 0 : ret;
}

static void note_limits(struct xb_dev *xd, const struct settings *s)
{
	xd->limits = (struct xb_limits){
		.max_order = (unsigned)MIN(s->value[SET_MAX_RING_PAGE_ORDER], RING_MAX_ORDER),
		.max_queues = (unsigned)MIN(s->value[SET_MAX_QUEUES], DEV_MAX_QUEUES),
		.max_indirect = (unsigned)s->value[SET_MAX_INDIRECT_SEGMENTS],
		.persistent = s->value[SET_GRANT] == GRANT_PERSISTENT,
	};
}

static int publish(struct xb_conn *conn, struct xb_dev *xd)
{
	struct offered offered;
	struct dev_view view;
	char text[512];
	bool changed;
	int err;

	disconnect(conn, xd);
	err = desc_changed(conn, xd, &changed);
	if (err)
		return err;
	if (changed) {
		drop_device(xd);
		return 0;
	}
	if (xb_hvm_clash(conn, xd, text, sizeof(text))) {
		report(conn, xd, -EBUSY, text);
		return publish_failed(conn, xd, text);
	}
	err = dev_probe(xd->dev);
	if (err) {
		report_device_error(conn, xd, err, text, sizeof(text));
		return publish_failed(conn, xd, text);
	}
	dev_look(xd->dev, &view);
	note_limits(xd, &view.settings);
	offered = (struct offered){ .settings = &view.settings, .script = script_comes(conn, xd) };
	err = change(conn, xd, XB_INITWAIT, fill_offer, &offered);
	if (err)
		return err;
	xb_error_clear(conn, &xd->node);
	return 0;
}

/* They may have changed since the node was read, before the disk was among those that are told. */
static void follow_rules(struct device *dev)
{
	struct settings_rules *rules = xb_rules_get();

	dev_reload(dev, rules);
	settings_rules_free(rules);
}

int xb_dev_make(struct xb_conn *conn, struct xb_dev *xd)
{
	char text[512] = "out of memory";
	struct dev_spec spec;
	int err = read_node(conn, xd, &xd->desc, text, sizeof(text));

	if (!err) {
		spec = (struct dev_spec){
			.domid = xd->node.fe,
			.vdev = xd->node.dev,
			.kind = xd->node.kind,
			.params = xd->desc.params,
			.writable = xd->desc.writable,
			.cdrom = xd->desc.cdrom,
			.removable = xd->desc.removable,
			.by_hand = xd->by_hand,
			.settings = xd->desc.settings,
		};
		err = dev_create(&spec, &xd->dev);
		if (!err) {
			follow_rules(xd->dev);
			return 0;
		}
		xb_desc_free(&xd->desc);
		xd->dev = NULL;
		if (err == -EEXIST)
			snprintf(text, sizeof(text), "there is a disk %s already", xd->node.disk);
	}
	if (err == -EINVAL || err == -EEXIST) {
		report(conn, xd, err, text);
		publish_failed(conn, xd, text);
	}
	return err;
}

/* --- connecting ------------------------------------------------------------------------------- */

struct frontend_arg {
	struct xb_conn *conn;
	const char *dir;
};

static int read_frontend_key(void *arg, const char *key, char *buf, size_t room)
{
	const struct frontend_arg *fe = arg;
	struct hyp *hyp = xb_store_hyp();
	char path[XB_PATH_MAX], *value;
	size_t len;
	int err;

	snprintf(path, sizeof(path), "%s/%s", fe->dir, key);
	err = hyp->ops->store_read(xb_conn_store(fe->conn), HYP_TXN_NONE, path, &value, &len);
	if (err)
		return err;
	len = MIN(len, (size_t)4096);
	memcpy(buf, value, MIN(len, room));
	free(value);
	return (int)len;
}

int xb_dev_rings(struct xb_conn *conn, struct xb_dev *xd, struct dev_rings *rings, char *err,
		 size_t errlen)
{
	struct frontend_arg arg = { .conn = conn, .dir = xd->node.frontend };

	return xb_frontend_read(&xd->limits, read_frontend_key, &arg, rings, err, errlen);
}

struct offer {
	const struct xb_dev *xd;
	const struct dev_geometry *geometry;
};

static uint32_t info_bits(const struct offer *o)
{
	uint32_t info = o->geometry->info;

	if (o->xd->desc.cdrom)
		info |= VDISK_CDROM;
	if (o->xd->desc.removable)
		info |= VDISK_REMOVABLE;
	if (!o->xd->desc.writable)
		info |= VDISK_READONLY;
	return info;
}

static void fill_discard(struct xb_writer *w, const struct offer *o)
{
	const struct dev_geometry *g = o->geometry;
	bool discard = g->discard && o->xd->desc.discard;

	xb_put(w, "feature-discard", "%d", discard);
	if (discard) {
		xb_put(w, "discard-granularity", "%u", g->discard_granularity);
		xb_put(w, "discard-alignment", "%u", g->discard_alignment);
		xb_put(w, "discard-secure", "%d", g->discard_secure);
	} else {
		xb_del(w, "discard-granularity");
		xb_del(w, "discard-alignment");
		xb_del(w, "discard-secure");
	}
}

static void fill_geometry(struct xb_writer *w, void *arg)
{
	const struct offer *o = arg;
	const struct dev_geometry *g = o->geometry;

	xb_put(w, "feature-flush-cache", "%d", g->flush);
	xb_put(w, "feature-barrier", "%d", g->barrier);
	xb_put(w, "feature-persistent", "%d", g->persistent);
	fill_discard(w, o);
	xb_put(w, "sector-size", "%u", g->sector_size);
	xb_put(w, "physical-sector-size", "%u", g->physical_sector_size);
	xb_put(w, "info", "%u", info_bits(o));
	xb_put(w, "sectors", "%llu", (unsigned long long)g->sectors);
}

/* Everything at once and Connected. */
static int publish_geometry(struct xb_conn *conn, struct xb_dev *xd, const struct dev_geometry *g)
{
	struct offer offer = { .xd = xd, .geometry = g };

	return change(conn, xd, XB_CONNECTED, fill_geometry, &offer);
}

/* By way of Closing to Closed; what is up is disconnected in between. */
static int close_now(struct xb_conn *conn, struct xb_dev *xd)
{
	int err = 0;

	if (xd->view.be == XB_CONNECTED)
		err = change(conn, xd, XB_CLOSING, NULL, NULL);
	if (err && err != -ENOENT)
		return err;
	disconnect(conn, xd);
	return err ? err : change(conn, xd, XB_CLOSED, NULL, NULL);
}

/* The frontend that waits for us sees Closing and Closed, and may begin again. */
static int refuse(struct xb_conn *conn, struct xb_dev *xd)
{
	int err = 0;

	if (xd->view.be != XB_CLOSING)
		err = change(conn, xd, XB_CLOSING, NULL, NULL);
	return err ? err : change(conn, xd, XB_CLOSED, NULL, NULL);
}

/* Another has the image: it may let go soon, as the other side of a migration does. */
static bool worth_waiting(int err)
{
	return err == -EAGAIN || err == -EBUSY;
}

static int connect_failed(struct xb_conn *conn, struct xb_dev *xd, int err)
{
	char text[512];

	report_device_error(conn, xd, err, text, sizeof(text));
	if (worth_waiting(err) && xd->view.be == XB_INITWAIT) {
		xb_retry_in(xd, RETRY_LOCKED_MS << MIN(xd->locked_tries++ / 8, RETRY_LOCKED_UP));
		return -EINPROGRESS;
	}
	return refuse(conn, xd);
}

/* Connected in fact, but not in the store. */
static int geometry_failed(struct xb_conn *conn, struct xb_dev *xd, int err)
{
	/* A lost store changes nothing for the guest: it is written when the store is back. */
	if (err != -EPIPE)
		disconnect(conn, xd);
	return err;
}

static int connect_frontend(struct xb_conn *conn, struct xb_dev *xd)
{
	struct dev_geometry geometry;
	char text[256];
	int err = xb_dev_rings(conn, xd, &xd->rings, text, sizeof(text));

	if (err == -EINVAL) {
		report(conn, xd, err, text);
		return refuse(conn, xd);
	}
	if (err)
		return err;
	err = dev_connect(xd->dev, &xd->rings, &geometry);
	if (err)
		return connect_failed(conn, xd, err);
	xd->up = true;
	xd->fe_was_connected = false;
	xd->locked_tries = 0;
	err = publish_geometry(conn, xd, &geometry);
	if (err)
		return geometry_failed(conn, xd, err);
	xb_error_clear(conn, &xd->node);
	return 0;
}

static int reconnect(struct xb_conn *conn, struct xb_dev *xd)
{
	disconnect(conn, xd);
	return connect_frontend(conn, xd);
}

/* Connected, with the geometry as it is now: after a resize, or when the store missed it. */
static int republish(struct xb_conn *conn, struct xb_dev *xd)
{
	struct dev_view view;

	dev_look(xd->dev, &view);
	return publish_geometry(conn, xd, &view.geometry);
}

struct params_arg {
	const struct xb_dev *xd;
	const char *prefix, *params;
};

static int params_body(struct xb_conn *conn, hyp_txn txn, void *opaque)
{
	const struct params_arg *arg = opaque;
	struct xb_writer w = { .conn = conn, .txn = txn, .dir = arg->xd->node.dir };
	enum xb_state state;
	int err = xb_read_state(conn, txn, arg->xd->node.dir, &state);

	if (err)
		return err;
	if (state == XB_UNKNOWN)
		return -ENOENT; /* a write would bring a removed node back to life */
	xb_put(&w, "params", "%s%s", arg->prefix, arg->params);
	return w.err;
}

/* The operator has given the disk another image: a daemon that is started again must find that one. */
static int put_params(struct xb_conn *conn, struct xb_dev *xd)
{
	static const char opaque[] = "aio:ringdisk:"; /* keeps QEMU off */
	struct params_arg arg = { .xd = xd, .prefix = "" };
	struct dev_view view;
	struct xb_desc desc;
	char err_text[256];
	int err;

	dev_look(xd->dev, &view);
	if (!strncmp(xd->desc.params, opaque, strlen(opaque)) && strncmp(view.params, opaque, strlen(opaque)))
		arg.prefix = opaque;
	arg.params = view.params;
	err = xb_transact(conn, params_body, &arg);
	if (err) {
		if (err != -ENOENT)
			xb_params_again(xd);
		return err;
	}
	if (!read_node(conn, xd, &desc, err_text, sizeof(err_text))) {
		xb_desc_free(&xd->desc);
		xd->desc = desc;
	}
	return 0;
}

/* --- closing and dropping --------------------------------------------------------------------- */

static int closing(struct xb_conn *conn, struct xb_dev *xd)
{
	char text[512];

	if (xd->view.link == XB_BROKEN)
		report_device_error(conn, xd, -EPROTO, text, sizeof(text));
	return change(conn, xd, XB_CLOSING, NULL, NULL);
}

static int drop(struct xb_conn *conn, struct xb_dev *xd)
{
	disconnect(conn, xd);
	return 0;
}

static int renew(struct xb_conn *conn, struct xb_dev *xd)
{
	disconnect(conn, xd);
	drop_device(xd);
	return 0;
}

static int rm_body(struct xb_conn *conn, hyp_txn txn, void *arg)
{
	const struct xb_node *node = arg;
	enum xb_state state;
	int err = xb_read_state(conn, txn, node->dir, &state);

	if (err)
		return err;
	if (state != XB_CLOSED)
		return -ESTALE;
	return xb_store_hyp()->ops->store_rm(xb_conn_store(conn), txn, node->dir);
}

/* libxl removes the directory if we live in its domain; else, and by hand, nobody would. */
static int finish(struct xb_conn *conn, struct xb_dev *xd)
{
	disconnect(conn, xd);
	drop_device(xd);
	xb_error_clear(conn, &xd->node);
	xd->finished = true;
	if (xd->node.us || xd->by_hand)
		return xb_transact(conn, rm_body, &xd->node);
	return 0;
}

static int forget(struct xb_conn *conn, struct xb_dev *xd)
{
	disconnect(conn, xd);
	drop_device(xd);
	xb_error_clear(conn, &xd->node);
	return 0;
}

static int nothing(struct xb_conn *conn, struct xb_dev *xd)
{
	(void)conn;
	(void)xd;
	return 0;
}

int xb_move_run(struct xb_conn *conn, struct xb_dev *xd)
{
	static int (*const moves[DO_NMOVES])(struct xb_conn * conn, struct xb_dev * xd) = {
		[DO_NONE] = nothing,
		[DO_PUBLISH] = publish,
		[DO_CONNECT] = connect_frontend,
		[DO_REPUBLISH] = republish,
		[DO_RECONNECT] = reconnect,
		[DO_CLOSING] = closing,
		[DO_CLOSE] = close_now,
		[DO_DROP] = drop,
		[DO_RENEW] = renew,
		[DO_FINISH] = finish,
		[DO_FORGET] = forget,
		[DO_ORPHAN] = nothing,
		[DO_RESIZE] = republish,
		[DO_PARAMS] = put_params,
	};

	return moves[xd->move](conn, xd);
}

void xb_dev_stop(struct xb_conn *conn, struct xb_dev *xd)
{
	enum xb_state be;

	if (conn && !xb_read_state(conn, HYP_TXN_NONE, xd->node.dir, &be)) {
		xd->view.be = be;
		if (be == XB_INITWAIT || be == XB_CONNECTED || be == XB_CLOSING)
			close_now(conn, xd);
	}
	disconnect(conn, xd);
	drop_device(xd);
}
