/*
 * device-nbd.c - devices: the export to NBD clients
 *
 * NBD clients (nbd.h) work on the image that the guest's connection has, or on one that is opened when the first of
 * them comes: there is one open image of a disk, counted by who uses it (struct shared).  What stops the ring for
 * a while stops them, too.
 *
 * A disk is exported from its making, if it is to be (dev_nbd_begin), to its end; the image is theirs (dev->nbd)
 * from the first client's coming to the last one's going.  A disk without a guest ("nbd/0") is made for them alone.
 *
 * What can go wrong: the socket or the image cannot be opened (the clients are told), and a call of theirs that
 * never returns: then a thread ("rd-stuck") waits for it with the image, and the device is free of them.
 *
 * All of it runs on the strand; rd-nbd only queues open_for_nbd and leave_nbd there.
 */
#include "device-int.h"

#include "base/clock.h"
#include "nbd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct connection *nbd_connection(struct device *dev)
{
	struct settings settings = dev_settings_now(dev);
	struct connection *c = calloc(1, sizeof *c);
	int err = c ? 0 : -ENOMEM;

	if (!c) {
		dev_set_error(dev, "out of memory");
		return NULL;
	}
	if (dev->conn)
		settings.value[SET_CACHE] = dev->conn->settings.value[SET_CACHE];
	c->dev = dev_ref(dev);
	c->settings = settings;
	err = dev_shared_get(dev, &settings, &c->shared);
	if (!err)
		return c;
	dev_connection_free(c);
	return NULL;
}

/* [strand] The first client has come. */
static void open_for_nbd(struct device *dev, void *arg)
{
	struct connection *c;
	char why[512];

	(void)arg;
	if (!dev->export || !nbd_export_wanted(dev->export))
		return;
	if (!dev->conn)
		dev_image_wait_closed(dev);
	c = dev->nbd ? dev->nbd : nbd_connection(dev);
	if (!c) {
		dev_error(dev, why, sizeof why);
		nbd_export_fail(dev->export, why[0] ? why : "the image cannot be opened");
		log_limited(&dev->life, LOG_LVL_ERR, LOG_DEVICE, "cannot open the image for NBD clients: %s", why);
		return;
	}
	c->block = img_info(c->shared->image)->logical_block;
	/* The export may be younger than what the requests wait for. */
	if (dev_state(dev) == DEV_PAUSED || (dev->call && dev->call->held))
		nbd_export_pause(dev->export, monotonic_ms());
	lock_acquire(&dev->lock);
	dev->nbd = c;
	lock_release(&dev->lock);
	nbd_export_start(dev->export, c->shared->image, &c->settings);
}

/* The image goes, if nobody else has it.  Takes dev->nbd. */
static int close_for_nbd(struct device *dev, long long deadline)
{
	struct connection *c = dev->nbd;

	lock_acquire(&dev->lock);
	dev->nbd = NULL;
	if (!dev->conn)
		dev_end_state_locked(dev);
	lock_release(&dev->lock);
	return dev_image_close(c, deadline);
}

/* [strand] The last client is gone. */
static void leave_nbd(struct device *dev, void *arg)
{
	(void)arg;
	if (!dev->nbd || !dev->export || !nbd_export_stop(dev->export))
		return;
	close_for_nbd(dev, monotonic_ms() + dev_drain_ms());
	if (!dev->conn)
		dev_nbd_go_on(dev); /* those to come */
}

/* From rd-nbd. */
static int want_image(void *arg, bool wanted)
{
	return dev_submit(arg, wanted ? open_for_nbd : leave_nbd, NULL);
}

/* NBD clients, after whatever stopped them, if there is an image to go on; not if the operator has. */
void dev_nbd_go_on(struct device *dev)
{
	struct image *image = dev->nbd ? dev->nbd->shared->image : NULL;

	if ((dev->call && dev->call->held) || dev_state(dev) == DEV_PAUSED)
		return;
	if (dev->export && (image || !dev->nbd))
		nbd_export_resume(dev->export, image);
}

/* On failure the reason is in err. */
static int make_export(struct device *dev, const char *alias, const char *socket, bool read_only, char *err,
		       size_t errlen)
{
	const struct nbd_export_config config = {
		.name = dev->name,
		.alias = alias,
		.socket = socket,
		.read_only = read_only,
		.workers = devtab_env->workers,
		.stats = &dev->stats,
		.throttle = &dev->throttle,
		.throttle_lock = &dev->throttle_lock,
		.flush_failed = &dev->flush_failed,
		.want = want_image,
		.arg = dev,
	};
	struct nbd_export *export;
	int rc = nbd_export_create(&config, &export, err, errlen);

	if (rc)
		return rc;
	/* As if it had been there when the disk was stopped; nothing of it runs yet. */
	if (dev_state(dev) == DEV_PAUSED)
		nbd_export_pause(export, -1);
	lock_acquire(&dev->lock);
	dev->export = export;
	lock_release(&dev->lock);
	return 0;
}

/* The name of a disk's own socket, unless somebody chooses another. */
static void default_socket(const struct device *dev, char *name, size_t len)
{
	const char *slash = strchr(dev->name, '/');

	snprintf(name, len, "%.*s-%s", (int)(slash - dev->name), dev->name, slash + 1);
}

/* The setting nbd=on, or params that name our socket. */
void dev_nbd_begin(struct device *dev)
{
	char *alias = NULL, *socket = NULL, name[DEV_NAME_LEN], err[256];
	int rc;

	if (dev->export || dev->domid == DEV_NBD_DOMID)
		return;
	default_socket(dev, name, sizeof name);
	if (nbd_uri_parse(dev->params, &alias, &socket, err, sizeof err) &&
	    !dev_settings_now(dev).value[SET_NBD])
		return;
	rc = make_export(dev, alias, socket ? socket : name, false, err, sizeof err);
	if (rc) {
		dev_set_error(dev, "not exported: %s", err);
		log_err(LOG_DEVICE, "%s: not exported: %s", dev->name, err);
	}
	free(alias);
	free(socket);
}

/* "rd-stuck": until the call of an NBD client comes back, if it ever does. */
static void *wait_for_stuck_client(void *arg)
{
	struct connection *c = arg;

	dev_name_thread(c);
	nbd_export_close(c->export, -1);
	nbd_export_free(c->export);
	dev_image_flush(c);
	dev_connection_free(c);
	return NULL;
}

static int give_up_clients(struct device *dev, struct nbd_export *export)
{
	struct connection *c = dev->nbd;

	log_err(LOG_DEVICE, "%s: a driver call for an NBD client has not returned in %u ms: the image stays open and "
		"locked until it does", dev->name, dev_drain_ms());
	lock_acquire(&dev->lock);
	dev->nbd = NULL;
	lock_release(&dev->lock);
	if (!c)
		return -ETIMEDOUT;
	c->export = export;
	return dev_connection_leave(c, wait_for_stuck_client);
}

/* Drop the clients, and the socket; the image, too, if no guest has it. */
int dev_nbd_end(struct device *dev)
{
	long long deadline = monotonic_ms() + dev_drain_ms();
	struct nbd_export *export = dev->export;
	int err;

	if (!export)
		return 0;
	lock_acquire(&dev->lock);
	dev->export = NULL;
	lock_release(&dev->lock);
	err = nbd_export_close(export, deadline);
	if (err)
		return give_up_clients(dev, export);
	nbd_export_free(export);
	return dev->nbd ? close_for_nbd(dev, deadline) : 0;
}

int dev_export(struct device *dev, const char *socket, bool read_only)
{
	char name[DEV_NAME_LEN], err[300];
	struct nbd_view view;
	int rc;

	if (dev->export) {
		nbd_export_look(dev->export, &view);
		dev_set_error(dev, "it is exported already, on %s", view.socket);
		return -EEXIST;
	}
	default_socket(dev, name, sizeof name);
	rc = make_export(dev, NULL, socket ? socket : name, read_only, err, sizeof err);
	dev_set_error(dev, "%s", rc ? err : "");
	if (rc)
		return rc;
	nbd_export_look(dev->export, &view);
	log_info(LOG_DEVICE, "exported on %s%s", view.socket, read_only ? ", read-only" : "");
	return 0;
}

int dev_unexport(struct device *dev)
{
	int err;

	if (!dev->export) {
		dev_set_error(dev, "it is not exported");
		return -EINVAL;
	}
	err = dev_nbd_end(dev);
	log_info(LOG_DEVICE, "not exported any more");
	return err;
}

int dev_create_export(const char *params, bool writable, const struct settings *settings, struct device **dev)
{
	struct dev_spec spec = {
		.domid = DEV_NBD_DOMID,
		.kind = "nbd",
		.params = params,
		.writable = writable,
		.settings = *settings,
	};
	int err;

	do
		err = dev_create(&spec, dev);
	while (err == -EEXIST && ++spec.vdev < DEV_MAX_EXPORTS);
	return err;
}

static void end_exported(struct device *dev, void *arg)
{
	(void)arg;
	dev_destroy(dev);
}

static void submit_end(struct device *dev, void *arg)
{
	(void)arg;
	if (dev->domid != DEV_NBD_DOMID)
		return;
	if (!dev_submit(dev, end_exported, NULL))
		dev_hurry(dev, true);
}

void devtab_end_exports(void)
{
	dev_for_each(submit_end, NULL);
}
