/*
 * An HVM guest's disk that QEMU opens, too.
 *
 * For the firmware and the boot loader of an HVM guest libxl gives its first disks to QEMU as well, by the same
 * target.  If that is the image's path two programs write to one image, each with its own cache of the metadata; if
 * it is a target of ours QEMU does not start.  So such a disk is refused, and the reason has the line that works:
 * with it QEMU is a client of this daemon (nbd.h).
 *
 * What is told to QEMU stands nowhere in the store, but the toolstack writes the disks before it starts QEMU, and
 * what comes later is for the guest's own drivers alone.  So: refused is what is there before QEMU says "running",
 * and afterwards only what we have refused, or have never offered.
 *
 * Any thread that may ask the store.
 */
#include "xenbus-dev.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Written by libxl for each domain, and by others only for HVM guests, who need a firmware. */
static bool is_hvm(struct xb_conn *conn, uint32_t domid)
{
	char type[16];
	int err = xb_read(conn, HYP_TXN_NONE, type, sizeof(type), "/libxl/%u/type", domid);

	if (!err)
		return !strcmp(type, "hvm");
	err = xb_read(conn, HYP_TXN_NONE, type, sizeof(type), "/local/domain/%u/hvmloader", domid);
	return !err || err == -EINVAL;
}

static bool qemu_runs(struct xb_conn *conn, const struct xb_node *node)
{
	char state[16];

	return !xb_read(conn, HYP_TXN_NONE, state, sizeof(state),
			"/local/domain/%u/device-model/%u/state", node->us, node->fe) &&
	       !strcmp(state, "running");
}

/* By us: nobody else writes this key. */
static bool was_offered(struct xb_conn *conn, const struct xb_node *node)
{
	char queues[16];

	return !xb_read(conn, HYP_TXN_NONE, queues, sizeof(queues), "%s/multi-queue-max-queues",
			node->dir);
}

static bool came_later(struct xb_conn *conn, const struct xb_dev *xd)
{
	return was_offered(conn, &xd->node) ||
	       (xd->view.be == XB_INITIALISING && qemu_runs(conn, &xd->node));
}

/* As it stands in a URI, and behind target=, where a comma would end a word of QEMU's. */
static void encode(char *to, size_t room, const char *from)
{
	size_t n = 0;

	for (; *from && n + 4 < room; from++)
		n += (size_t)snprintf(to + n, room - n, strchr("?%,#&", *from) ? "%%%02X" : "%c",
				      (unsigned char)*from);
	to[n] = 0;
}

/* libxl's "aio:/file" is raw, "aio:ringdisk:PARAMS" is PARAMS. */
static void say_line(const struct xb_dev *xd, char *err, size_t errlen)
{
	static const char aio[] = "aio:", opaque[] = "ringdisk:";
	const char *params = xd->desc.params, *driver = "";
	const char *socket = nbd_common_socket();
	char name[400], vdev[16];

	if (!strncmp(params, aio, strlen(aio))) {
		params += strlen(aio);
		driver = "raw:";
		if (!strncmp(params, opaque, strlen(opaque))) {
			params += strlen(opaque);
			driver = "";
		}
	}
	encode(name, sizeof(name), params);
	snprintf(err, errlen,
		 "QEMU opens this disk of an HVM guest, too: the line for both is 'vdev=%s,format=raw,"
		 "backendtype=qdisk,target=nbd+unix:///%s%s?socket=%s'",
		 vdev_text(xd->node.dev, vdev, sizeof(vdev)), driver, name,
		 socket[0] ? socket : "/run/ringdisk/nbd/sock");
}

bool xb_hvm_clash(struct xb_conn *conn, const struct xb_dev *xd, char *err, size_t errlen)
{
	static const char uri[] = "nbd+unix://";
	const char *colon = strchr(xd->desc.params, ':');

	/* Two readers do no harm, and QEMU cannot open what is in another domain. */
	if (strcmp(xd->node.kind, "qdisk") || xd->node.us || xd->by_hand || !xd->desc.writable ||
	    !vdev_emulated(xd->node.dev))
		return false;
	if (!strncmp(xd->desc.params, uri, strlen(uri)) ||
	    (colon && !strncmp(colon + 1, uri, strlen(uri))))
		return false;
	if (!is_hvm(conn, xd->node.fe) || came_later(conn, xd))
		return false;
	say_line(xd, err, errlen);
	return true;
}
