/*
 * A backend node of the store, as the toolstack wrote it.
 *
 * What can go wrong: the toolstack made a mistake (told, with the key's name), the node vanishes between
 * two reads (-ENOENT, the caller looks again), the image's file system hangs (only in
 * xb_qemu_could_open(), which is not called from the xenbus threads).
 *
 * Modes: exactly "w" is writable, all else is read-only.
 */
#include "xenbus-node.h"

#include "base/cleanup.h"
#include "xenbus-frontend.h"

#include <errno.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool fits(char *buf, size_t room, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static bool fits(char *buf, size_t room, const char *format, ...)
{
	va_list ap;
	int len;

	va_start(ap, format);
	len = vsnprintf(buf, room, format, ap);
	va_end(ap);
	return len >= 0 && (size_t)len < room;
}

int xb_node_init(struct xb_node *n, uint32_t us, const char *kind, uint32_t fe, uint32_t dev)
{
	char vdev[16];

	*n = (struct xb_node){ .us = us, .fe = fe, .dev = dev };
	if (!fits(n->kind, sizeof(n->kind), "%s", kind) ||
	    !fits(n->disk, sizeof(n->disk), "%u/%s", fe, vdev_text(dev, vdev, sizeof(vdev))) ||
	    !fits(n->dir, sizeof(n->dir), "/local/domain/%u/backend/%s/%u/%u", us, kind, fe, dev) ||
	    !fits(n->frontend, sizeof(n->frontend), "/local/domain/%u/device/vbd/%u", fe, dev) ||
	    !fits(n->error, sizeof(n->error), "/local/domain/%u/error/backend/%s/%u/%u", us, kind,
		  fe, dev))
		return -EINVAL;
	return 0;
}

bool xb_node_number(const char *text, uint32_t max, uint32_t *value)
{
	return xb_decimal(text, strlen(text), max, value) && (text[0] != '0' || !text[1]);
}

/* --- whose it is ------------------------------------------------------------------------------ */

int xb_node_frontend_ok(struct xb_conn *conn, const struct xb_node *node)
{
	char path[XB_PATH_MAX], id[16];
	uint32_t domid;
	int err = xb_read(conn, HYP_TXN_NONE, path, sizeof(path), "%s/frontend", node->dir);

	if (err == -EINVAL)
		return 0;
	if (err)
		return err;
	err = xb_read(conn, HYP_TXN_NONE, id, sizeof(id), "%s/frontend-id", node->dir);
	if (err && err != -ENOENT && err != -EINVAL)
		return err;
	return !err && !strcmp(path, node->frontend) &&
	       xb_decimal(id, strlen(id), XB_MAX_DOMID, &domid) && domid == node->fe;
}

bool xb_node_by_hand(struct xb_conn *conn, const struct xb_node *node)
{
	char mark[8];

	return !xb_read(conn, HYP_TXN_NONE, mark, sizeof(mark), "%s/" XB_BY_HAND, node->dir);
}

bool xb_node_has_script(struct xb_conn *conn, const struct xb_node *node)
{
	char script[XB_PATH_MAX];
	int err = xb_read(conn, HYP_TXN_NONE, script, sizeof(script), "%s/script", node->dir);

	return !err || err == -EINVAL;
}

bool xb_node_awaits_script(struct xb_conn *conn, const struct xb_node *node)
{
	char status[16];
	int err;

	if (!xb_node_has_script(conn, node))
		return false;
	err = xb_read(conn, HYP_TXN_NONE, status, sizeof(status), "%s/hotplug-status", node->dir);
	return err == -ENOENT || (!err && strcmp(status, "connected") != 0);
}

/* --- what it says ----------------------------------------------------------------------------- */

/* A key that is 0 or 1; other, if it is missing or nonsense. */
static bool flag(struct xb_conn *conn, const struct xb_node *node, const char *key, bool other)
{
	char text[4];

	if (xb_read(conn, HYP_TXN_NONE, text, sizeof(text), "%s/%s", node->dir, key))
		return other;
	if (!strcmp(text, "0"))
		return false;
	return !strcmp(text, "1") ? true : other;
}

static bool word_is(struct xb_conn *conn, const struct xb_node *node, const char *key,
		    const char *word)
{
	char text[32];

	return !xb_read(conn, HYP_TXN_NONE, text, sizeof(text), "%s/%s", node->dir, key) &&
	       !strcmp(text, word);
}

/* One key of NODE/ringdisk/. */
static int stored_setting(struct xb_conn *conn, const struct xb_node *node, const char *key,
			  struct settings *settings, char *err, size_t errlen)
{
	char value[64];
	int ret =
		xb_read(conn, HYP_TXN_NONE, value, sizeof(value), "%s/ringdisk/%s", node->dir, key);

	if (ret == -EINVAL)
		snprintf(err, errlen, "ringdisk/%.64s: is not a value", key);
	if (ret)
		return ret;
	ret = settings_set(settings, key, value, ORIGIN_STORE, err, errlen);
	return ret ? -EINVAL : 0;
}

static int stored_settings(struct xb_conn *conn, const struct xb_node *node,
			   struct settings *settings, char *err, size_t errlen)
{
	CLEANUP_FREE char **names = NULL;
	char path[XB_PATH_MAX];
	unsigned count;
	int ret;

	if (!fits(path, sizeof(path), "%s/ringdisk", node->dir))
		return -EINVAL;
	ret = xb_store_hyp()->ops->store_list(xb_conn_store(conn), HYP_TXN_NONE, path, &names,
					      &count);
	if (ret)
		return ret == -ENOENT ? 0 : ret;
	for (unsigned i = 0; i < count; i++) {
		ret = stored_setting(conn, node, names[i], settings, err, errlen);
		if (ret)
			return ret;
	}
	return 0;
}

/* direct-io-safe=1 is the toolstack's word that O_DIRECT is wanted and does no harm. */
static void toolstack_settings(struct xb_conn *conn, const struct xb_node *node,
			       struct xb_desc *desc)
{
	char err[128];

	if (flag(conn, node, "direct-io-safe", false)) {
		settings_set(&desc->settings, "cache", "none", ORIGIN_TOOLSTACK, err, sizeof(err));
		settings_set(&desc->settings, "aio", "native", ORIGIN_TOOLSTACK, err, sizeof(err));
	}
	if (!desc->discard)
		settings_set(&desc->settings, "discard", "ignore", ORIGIN_TOOLSTACK, err,
			     sizeof(err));
}

static int read_params(struct xb_conn *conn, const struct xb_node *node, char **params, char *err,
		       size_t errlen)
{
	int ret = xb_read_alloc(conn, params, "%s/params", node->dir);

	if (ret == -EINVAL)
		snprintf(err, errlen, "params: is binary or longer than 4096 bytes");
	else if (ret == -ENOENT)
		snprintf(err, errlen, "params: is missing");
	return ret;
}

int xb_node_read(struct xb_conn *conn, const struct xb_node *node,
		 const struct settings_rules *rules, struct xb_desc *desc, char *err, size_t errlen)
{
	int ret = xb_node_frontend_ok(conn, node);

	*desc = (struct xb_desc){ 0 };
	if (ret < 0)
		return ret;
	if (!ret) {
		snprintf(err, errlen, "frontend, frontend-id: are not those of this node's path");
		return -EINVAL;
	}
	ret = read_params(conn, node, &desc->params, err, errlen);
	if (ret)
		return ret == -ENOENT ? -EINVAL : ret;
	desc->writable = word_is(conn, node, "mode", "w");
	desc->cdrom = word_is(conn, node, "device-type", "cdrom");
	desc->removable = flag(conn, node, "removable", false);
	desc->discard = flag(conn, node, "discard-enable", true);
	if (desc->cdrom)
		desc->writable = false;
	settings_init(&desc->settings);
	settings_rules_apply(rules, node->disk, desc->params, &desc->settings);
	toolstack_settings(conn, node, desc);
	ret = stored_settings(conn, node, &desc->settings, err, errlen);
	if (ret)
		xb_desc_free(desc);
	return ret;
}

void xb_desc_free(struct xb_desc *desc)
{
	free(desc->params);
	*desc = (struct xb_desc){ 0 };
}

bool xb_desc_equal(const struct xb_desc *a, const struct xb_desc *b)
{
	return !strcmp(a->params, b->params) && a->writable == b->writable &&
	       a->cdrom == b->cdrom && a->removable == b->removable && a->discard == b->discard &&
	       settings_equal(&a->settings, &b->settings);
}

/* --- whether it is ours ----------------------------------------------------------------------- */

/* Debian's, and those of a Xen built from source. */
static bool xen_qemu_installed(void)
{
	static const char *const places[] = {
		"/usr/libexec/xen-qemu-system-*",       "/usr/lib/xen*/bin/qemu-system-*",
		"/usr/local/lib/xen/bin/qemu-system-*", "/usr/libexec/xen/bin/qemu-system-*",
		"/usr/lib64/xen/bin/qemu-system-*",     "/usr/bin/qemu-system-i386",
		"/usr/bin/qemu-system-x86_64",          "/usr/local/bin/qemu-system-i386",
	};

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		glob_t found;
		int err = glob(places[i], GLOB_NOSORT, NULL, &found);

		globfree(&found);
		if (!err)
			return true;
	}
	return false;
}

enum claim_policy xb_claim_resolve(enum claim_policy policy, const struct hyp *hyp)
{
	if (policy != CLAIM_AUTO)
		return policy;
	return !strcmp(hyp->ops->name, "xen") && xen_qemu_installed() ? CLAIM_OPAQUE : CLAIM_ALL;
}

/* QEMU takes what follows the first colon for a file name, and gives up if it cannot stat it. */
bool xb_qemu_could_open(const char *params)
{
	const char *target = strchr(params, ':');
	struct stat st;

	return target && target[1] && !stat(target + 1, &st);
}

/* --- telling of failure ----------------------------------------------------------------------- */

void xb_error_write(struct xb_conn *conn, const struct xb_node *node, int err, const char *text)
{
	struct xb_writer w = { .conn = conn, .txn = HYP_TXN_NONE, .dir = node->error };

	xb_put(&w, "error", "%d %s", err, text);
}

void xb_error_clear(struct xb_conn *conn, const struct xb_node *node)
{
	xb_store_hyp()->ops->store_rm(xb_conn_store(conn), HYP_TXN_NONE, node->error);
}
