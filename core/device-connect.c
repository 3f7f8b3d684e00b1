/*
 * device-connect.c - devices: connecting a guest, and disconnecting it
 *
 * Connecting opens the image (device-image.c), maps the rings, binds the event channels and starts the poller;
 * disconnecting is the reverse.  Both run on the device's strand.
 *
 * What can go wrong: anything while connecting (everything is undone, the reason is kept for `ringdisk list`
 * and the store), and a driver call that never returns while disconnecting: after DRAIN_MS the guest's memory is
 * revoked, the connection is handed to a thread of its own ("rd-stuck") that waits for the call and frees what
 * hung, and the device is idle again.  The image stays open, and locked, as long as the call does.
 *
 * What the poller and the workers tell of the connection while it lives (on_event) comes on their threads.
 */
#include "device-int.h"

#include "base/clock.h"
#include "events.h"
#include "thread.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DRAIN_MS 8000  /* libxl waits 10 s for state 6 */

/* --- what is told of a connection ---------------------------------------------------------------------------- */

static void tell_event(struct device *dev, int event)
{
	char text[512];

	event_emit(event == DEV_EV_PARKED  ? EVENT_WAIT
		   : event == DEV_EV_GAVE_UP ? EVENT_GAVE_UP
					     : EVENT_ERROR,
		   dev->name, 0, "%s", dev_error(dev, text, sizeof text));
}

/* From the poller or a worker. */
static void on_event(void *arg, int what)
{
	struct device *dev = arg;
	int event = 0;

	switch (what) {
	case POLLER_TICK:
		if (!atomic_exchange(&dev->looking, true) && dev_submit(dev, dev_call_look, NULL))
			atomic_store(&dev->looking, false);
		return;
	case POLLER_SETTLE:
		dev_submit(dev, dev_call_settle, NULL);
		return;
	case POLLER_BROKEN:
		dev_set_state(dev, DEV_BROKEN);
		dev_set_error(dev, "the frontend's ring is impossible: stopped");
		log_limited(&dev->life, LOG_LVL_ERR, LOG_DEVICE,
			    "a ring's producer index is impossible: the disk is stopped until the "
			    "frontend connects anew");
		event = DEV_EV_BROKEN;
		break;
	case POLLER_PARKED:
		dev_set_error(dev, atomic_load(&dev->flush_failed)
				   ? "a flush failed: flushes are held and I/O fails; detach the disk"
				   : "no space: writes wait; make room, then: ringdisk unpause %s",
			      dev->name);
		event = DEV_EV_PARKED;
		break;
	case POLLER_FAILED:
		dev_set_error(dev, "the storage fails: requests wait; repair it, then: ringdisk unpause %s",
			      dev->name);
		event = DEV_EV_PARKED;
		break;
	case POLLER_GAVE_UP:
		dev_set_error(dev, "nobody came in time: what waited was answered with errors, and so is what "
			      "fails from now on; when it works again: ringdisk set %s on-error=...",
			      dev->name);
		log_limited(&dev->life, LOG_LVL_WARN, LOG_DEVICE,
			    "error-timeout: the requests that waited are answered with errors");
		event = DEV_EV_GAVE_UP;
		break;
	}
	tell_event(dev, event);
	if (devtab_env->notify)
		devtab_env->notify(dev, event, devtab_env->notify_arg);
}

/* --- connecting ------------------------------------------------------------------------------------------- */

static void unmap_rings(struct connection *c)
{
	const struct hyp_ops *ops = devtab_env->hyp->ops;

	for (unsigned i = 0; i < c->nrings; i++) {
		if (c->ring[i].port >= 0)
			ops->evtchn_unbind(c->evtchn, c->ring[i].port);
		if (c->ring[i].pages)
			ops->gnt_unmap(c->gnt, c->ring[i].pages, c->pages);
	}
}

/* Takes a half-made one, too; the poller is paused or was never started. */
void dev_connection_free(struct connection *c)
{
	const struct hyp_ops *ops = devtab_env->hyp->ops;

	poller_destroy(c->poller);
	unmap_rings(c);
	if (c->evtchn)
		ops->evtchn_close(c->evtchn);
	if (c->gnt)
		ops->gnt_close(c->gnt);
	dev_shared_put(c->shared);
	dev_put(c->dev);
	free(c);
}

static int map_ring(struct connection *c, unsigned i, const struct dev_rings *rings)
{
	const struct hyp_ops *ops = devtab_env->hyp->ops;
	struct poller_ring_config *ring = &c->ring[i];
	int port, err;

	ring->order = rings->order;
	ring->abi = rings->abi;
	err = ops->gnt_map(c->gnt, c->dev->domid, rings->ring[i].gref, c->pages, true, &ring->pages);
	if (err) {
		dev_set_error(c->dev, "ring %u: cannot map the frontend's %u page(s): %s", i,
			      c->pages, strerror(-err));
		ring->pages = NULL;
		return err;
	}
	port = ops->evtchn_bind(c->evtchn, c->dev->domid, rings->ring[i].evtchn);
	ring->port = port;
	if (port >= 0)
		return 0;
	dev_set_error(c->dev, "ring %u: cannot bind event channel %u: %s", i,
		      rings->ring[i].evtchn, strerror(-port));
	return port;
}

static int map_rings(struct connection *c, const struct dev_rings *rings)
{
	const struct hyp_ops *ops = devtab_env->hyp->ops;
	int err = ops->gnt_open(devtab_env->hyp, &c->gnt);

	if (!err)
		err = ops->evtchn_open(devtab_env->hyp, &c->evtchn);
	if (err) {
		dev_set_error(c->dev, "cannot open grant table or event channels: %s",
			      strerror(-err));
		return err;
	}
	c->pages = 1u << rings->order;
	for (unsigned i = 0; i < rings->count; i++)
		c->ring[i].port = -1;
	c->nrings = rings->count;
	for (unsigned i = 0; !err && i < rings->count; i++)
		err = map_ring(c, i, rings);
	return err;
}

static int make_poller(struct connection *c, const struct dev_rings *rings,
		       const struct settings *settings, const struct dev_geometry *g)
{
	struct device *dev = c->dev;
	const struct poller_config config = {
		.name = dev->name,
		.hyp = devtab_env->hyp,
		.gnt = c->gnt,
		.evtchn = c->evtchn,
		.domid = dev->domid,
		.vdev = dev->vdev,
		.workers = devtab_env->workers,
		.image = c->shared->image,
		.limits = dev_limits_of(dev, g, settings),
		.settings = settings,
		.persistent = rings->persistent && g->persistent,
		.serial = !(img_info(c->shared->image)->caps & RD_CAP_PARALLEL),
		.direct = settings->value[SET_CACHE] == CACHE_NONE,
		.paused = dev_state(dev) == DEV_PAUSED,
		.memory = &dev->guest->memory,
		.grants = &dev->guest->grants,
		.stats = &dev->stats,
		.trace = &dev->trace,
		.throttle = &dev->throttle,
		.throttle_lock = &dev->throttle_lock,
		.flush_failed = &dev->flush_failed,
		.event = on_event,
		.arg = dev,
		.nrings = c->nrings,
		.ring = c->ring,
	};
	int err = poller_create(&config, &c->poller);

	stats_connected(&dev->stats);

	if (err)
		dev_set_error(dev, err == -EPROTO ? "the ring's indices are impossible"
						  : "no memory for the rings");
	return err;
}

static int build_connection(struct device *dev, const struct dev_rings *rings,
			    struct dev_geometry *geometry, struct connection **out)
{
	struct settings settings = dev_settings_now(dev);
	struct connection *c = calloc(1, sizeof *c);
	int err;

	if (!c)
		return -ENOMEM;
	c->dev = dev_ref(dev);
	settings.value[SET_MAX_INDIRECT_SEGMENTS] = rings->max_indirect;
	/* As it was opened, if NBD clients were first. */
	if (dev->nbd)
		settings.value[SET_CACHE] = dev->nbd->settings.value[SET_CACHE];
	c->settings = settings;
	err = dev_shared_get(dev, &settings, &c->shared);
	if (err)
		goto err_free;
	dev_geometry_of(dev, img_info(c->shared->image), &settings, geometry);
	err = map_rings(c, rings);
	if (!err)
		err = make_poller(c, rings, &settings, geometry);
	if (!err)
		err = poller_start(c->poller);
	if (err)
		goto err_free;
	*out = c;
	return 0;

err_free:
	dev_connection_free(c);
	return err;
}

int dev_connect(struct device *dev, const struct dev_rings *rings, struct dev_geometry *geometry)
{
	struct poller_view view;
	struct connection *c;
	char reason[512];
	int err;

	assert(rings->count && rings->count <= DEV_MAX_QUEUES && rings->order <= RING_MAX_ORDER);
	dev_disconnect(dev);
	dev_image_wait_closed(dev);
	err = dev_call_check(dev);
	if (!err)
		err = build_connection(dev, rings, geometry, &c);
	if (err) {
		dev_error(dev, reason, sizeof reason); /* not among the log's arguments: it may be limited */
		log_limited(&dev->life, LOG_LVL_ERR, LOG_DEVICE, "cannot connect: %s", reason);
		event_emit(EVENT_ERROR, dev->name, 0, "cannot connect: %s", reason);
		return err;
	}
	lock_acquire(&dev->lock);
	dev->conn = c;
	/* They may have been set since the connection took a copy. */
	poller_apply(c->poller, &dev->settings);
	/* It may have happened before on_event could see the connection. */
	poller_look(c->poller, &view);
	if (view.broken)
		dev->state = DEV_BROKEN;
	else if (dev->state != DEV_PAUSED)
		dev->state = DEV_CONNECTED;
	dev->geometry = *geometry;
	dev->ring_order = rings->order;
	dev->abi = rings->abi;
	dev->persistent = rings->persistent && geometry->persistent;
	lock_release(&dev->lock);
	dev_nbd_go_on(dev);
	dev_nbd_begin(dev);
	log_limited(&dev->life, LOG_LVL_INFO, LOG_DEVICE, "connected: %s, %s, %llu sectors, %u ring(s) of %u page(s)%s%s",
		 dev->params, dev->writable ? "read-write" : "read-only",
		 (unsigned long long)geometry->sectors, rings->count, 1u << rings->order,
		 dev->persistent ? ", persistent grants" : "",
		 dev_state(dev) == DEV_PAUSED ? ", and still paused" : "");
	event_emit(EVENT_CONNECT, dev->name, 0, "%s", dev->params);
	return 0;
}

/* --- disconnecting ----------------------------------------------------------------------------------------- */

unsigned dev_drain_ms(void)
{
	return devtab_env->drain_ms ? devtab_env->drain_ms : DRAIN_MS;
}

int dev_connection_leave(struct connection *c, void *(*wait)(void *arg))
{
	pthread_t thread;

	if (thread_start(&thread, "rd-stuck", wait, c))
		log_err(LOG_DEVICE, "no thread to wait for it: what hangs is never freed");
	else
		pthread_detach(thread);
	return -ETIMEDOUT;
}

/* "rd-stuck": until the call that hangs comes back, if it ever does. */
static void *wait_for_stuck(void *arg)
{
	struct connection *c = arg;

	dev_name_thread(c);
	poller_pause(c->poller, -1);
	log_warn(LOG_DEVICE, "the call that hung has returned; its image is closed now");
	dev_connection_free(c);
	return NULL;
}

/* A call does not return.  The guest gets its memory back, and the call a thread to wait for it. */
static int give_up(struct connection *c)
{
	const struct hyp_ops *ops = devtab_env->hyp->ops;

	log_err(LOG_DEVICE, "a driver call has not returned in %u ms: the guest's memory is revoked, "
		"and the image stays open and locked until the call returns", dev_drain_ms());
	dev_set_error(c->dev, "a driver call does not return; the image is still in use");
	poller_revoke(c->poller);
	/* The event channels stay bound: they are the poller's, which runs. */
	for (unsigned i = 0; i < c->nrings; i++)
		ops->gnt_revoke(c->gnt, c->ring[i].pages, c->pages);
	return dev_connection_leave(c, wait_for_stuck);
}

int dev_disconnect(struct device *dev)
{
	long long deadline = monotonic_ms() + dev_drain_ms();
	struct connection *c;
	int err;

	lock_acquire(&dev->lock);
	c = dev->conn;
	lock_release(&dev->lock);
	if (!c)
		return 0;
	err = poller_pause(c->poller, deadline);
	lock_acquire(&dev->lock);
	dev->conn = NULL;
	dev_end_state_locked(dev);
	dev->geometry = (struct dev_geometry){0};
	lock_release(&dev->lock);
	event_emit(EVENT_DISCONNECT, dev->name, 0, "%s", err ? "a driver call does not return" : "");
	dev_nbd_go_on(dev);
	if (err)
		return give_up(c);
	poller_fail_parked(c->poller);
	poller_destroy(c->poller);
	c->poller = NULL;
	unmap_rings(c);
	c->nrings = 0;
	err = dev_image_close(c, deadline);
	if (!err)
		log_limited(&dev->life, LOG_LVL_INFO, LOG_DEVICE, "disconnected");
	return err;
}
