/*
 * xenbus-node.h - a backend node: whose it is, what the toolstack wrote into it, whether it is ours
 *
 * Who the guest is comes from the path that the toolstack made, never from what the node or the frontend
 * says; both must agree with it.
 */
#ifndef RD_XENBUS_NODE_H
#define RD_XENBUS_NODE_H

#include "xenbus-store.h"
#include "xenbus.h"

#define XB_KIND_MAX 17
/* In nodes that `ringdisk attach` wrote: no toolstack will remove them. */
#define XB_BY_HAND "ringdisk-attached"

struct xb_node {
	char kind[XB_KIND_MAX];
	uint32_t us, fe, dev;
	char disk[DEV_NAME_LEN];    /* "5/xvda" */
	char dir[XB_PATH_MAX];      /* /local/domain/US/backend/KIND/FE/DEV */
	char frontend[XB_PATH_MAX]; /* /local/domain/FE/device/vbd/DEV */
	char error[XB_PATH_MAX];    /* /local/domain/US/error/backend/KIND/FE/DEV */
};

/* 0, or -EINVAL if it would not fit. */
int xb_node_init(struct xb_node *node, uint32_t us, const char *kind, uint32_t fe, uint32_t dev);
/* "5" -> 5: the one way a number stands in a path, so that two paths are never one disk. */
bool xb_node_number(const char *text, uint32_t max, uint32_t *value);
#define XB_MAX_DOMID 0x7fefu     /* DOMID_FIRST_RESERVED - 1 */
#define XB_MAX_DEVID 0x1fffffffu /* extended: 1 << 28 | disk << 8 | partition */

/* What the toolstack wrote. */
struct xb_desc {
	char *params;
	bool writable, cdrom, removable;
	bool discard; /* discard-enable is not 0 */
	struct settings settings;
};

/*
 * Read and check it: paths agree, mode, device-type, settings by rules and by ringdisk/KEY. 0: *desc is
 * filled, free with xb_desc_free(). -ENOENT: the node is gone. -EINVAL: it is wrong, err says how.
 */
int xb_node_read(struct xb_conn *conn, const struct xb_node *node,
		 const struct settings_rules *rules, struct xb_desc *desc, char *err,
		 size_t errlen);
void xb_desc_free(struct xb_desc *desc);
bool xb_desc_equal(const struct xb_desc *a, const struct xb_desc *b);

/* Does the node's `frontend` and `frontend-id` say what its path says? 1, 0; -ENOENT: it is gone. */
int xb_node_frontend_ok(struct xb_conn *conn, const struct xb_node *node);
bool xb_node_by_hand(struct xb_conn *conn, const struct xb_node *node);

/* Does the toolstack run a script for it? Has that not yet said hotplug-status=connected? */
bool xb_node_has_script(struct xb_conn *conn, const struct xb_node *node);
bool xb_node_awaits_script(struct xb_conn *conn, const struct xb_node *node);

/* The backend directories that are served; NULL past the last one (xenbus.c). */
const char *xb_kind_at(unsigned i);
bool xb_kind_served(const char *kind);

/* CLAIM_AUTO becomes what it means on this machine. */
enum claim_policy xb_claim_resolve(enum claim_policy policy, const struct hyp *hyp);
/* Could QEMU open the target of these params? Looks at the file: may block. */
bool xb_qemu_could_open(const char *params);

/* The error node that toolstacks read, the log line's twin. err is -errno. */
void xb_error_write(struct xb_conn *conn, const struct xb_node *node, int err, const char *text);
void xb_error_clear(struct xb_conn *conn, const struct xb_node *node);

#endif
