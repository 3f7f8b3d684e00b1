/*
 * device-pause.c - devices: holding requests, and going on
 *
 * To hold a disk is to let nothing new start, of its ring and of its NBD clients, and to wait until nothing runs;
 * a moment of it is part of a resize, a check, another image.  To pause it is the same until its operator
 * unpauses it, perhaps on another image (device-swap.c): whoever leaves meanwhile and comes back, or comes, is held.
 *
 * What can go wrong: a request does not finish in PAUSE_MS (then all goes on as before), and the new image cannot be
 * opened (then it is still paused).  Of a paused disk all that was answered is in its image: that is flushed, where
 * the driver keeps some of it in memory.  If that fails it is paused all the same, and the operator is told.
 *
 * All of it runs on the strand.
 */
#include "device-int.h"

#include "base/clock.h"
#include "events.h"
#include "nbd.h"

#include <errno.h>
#include <string.h>

#define PAUSE_MS 30000 /* who holds a disk waits so long for what runs */

/* Nothing new starts, and nothing runs, of the ring and of NBD clients; or all goes on as before. */
int dev_hold(struct device *dev, struct connection *c, const char *otherwise)
{
	long long deadline = monotonic_ms() + PAUSE_MS;
	int err = c->poller ? poller_pause(c->poller, deadline) : 0;

	if (!err && dev->export)
		err = nbd_export_pause(dev->export, deadline);
	if (!err)
		return 0;
	if (c->poller)
		poller_resume(c->poller, NULL, NULL, false, false);
	if (dev->export)
		nbd_export_resume(dev->export, NULL);
	if (otherwise)
		dev_set_error(dev, "requests have not finished in %d s: %s", PAUSE_MS / 1000, otherwise);
	return err;
}

/* With what the guest was told and the image was opened with: what is not live is for the next connection. */
void dev_go_on(struct device *dev, struct connection *c)
{
	struct parse_limits limits = dev_limits_of(dev, &dev->geometry, &c->settings);

	dev_nbd_go_on(dev);
	if (!c->poller)
		return;
	poller_resume(c->poller, c->shared->image, &limits, c->settings.value[SET_CACHE] == CACHE_NONE,
		      !(img_info(c->shared->image)->caps & RD_CAP_PARALLEL));
}

static int pause_guest(struct device *dev)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_PAUSED);
	int err;

	if (!c && dev_state(dev) == DEV_PAUSED)
		return 0;
	if (!c) {
		dev_set_error(dev, "not connected: nothing to pause");
		return -ENOTCONN;
	}
	err = dev_call_check(dev);
	if (err)
		return err;
	err = dev_hold(dev, c, "not paused");
	if (err)
		return err;
	dev_set_state(dev, DEV_PAUSED);
	log_info(LOG_DEVICE, "paused");
	event_emit(EVENT_PAUSE, dev->name, 0, "%s", "");
	return 0;
}

int dev_pause(struct device *dev)
{
	int err = pause_guest(dev);
	struct connection *c = dev_connection_in(dev, DEV_PAUSED, DEV_PAUSED);
	char why[400];

	/*
	 * Whoever copies the file of a paused disk must find in it what was answered. Formats that have something to
	 * check have metadata, of which they keep some in memory until a flush.
	 */
	if (err || !c || !c->shared->image || !img_driver(c->shared->image)->check)
		return err;
	err = dev_flush(dev);
	if (err) {
		dev_error(dev, why, sizeof why);
		dev_set_error(dev, "it is paused, but not all that was answered is in the image: %s",
			      *why ? why : strerror(-err));
	}
	return err;
}

/* A disk whose writes wait for space is not paused, but to unpause it is what its operator was told. */
static int pause_if_full(struct device *dev)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_CONNECTED);
	struct poller_view view = {0};

	if (!c || !c->poller || atomic_load(&dev->flush_failed))
		return 0;
	poller_look(c->poller, &view);
	return view.parked ? pause_guest(dev) : 0;
}

static void tell_unpaused(struct device *dev)
{
	log_info(LOG_DEVICE, "going on, on %s", dev->params);
	event_emit(EVENT_UNPAUSE, dev->name, 0, "%s", dev->params);
}

/* Whoever used it has gone meanwhile: those who come are not held any more. */
static int unpause_idle(struct device *dev, const char *params)
{
	int err = params ? dev_swap(dev, params) : 0;

	if (err)
		return err;
	lock_acquire(&dev->lock);
	dev->state = DEV_IDLE;
	lock_release(&dev->lock);
	if (!atomic_load(&dev->flush_failed))
		dev_set_error(dev, "%s", "");
	dev_nbd_go_on(dev);
	tell_unpaused(dev);
	return 0;
}

int dev_unpause(struct device *dev, const char *params)
{
	int err = dev_call_check(dev);
	uint64_t sectors = dev->geometry.sectors;
	struct connection *c;

	if (!err)
		err = pause_if_full(dev);
	if (err)
		return err;
	if (dev_state(dev) != DEV_PAUSED) {
		dev_set_error(dev, "not paused");
		return -EALREADY;
	}
	c = dev_connection_in(dev, DEV_PAUSED, DEV_PAUSED);
	if (!c)
		return unpause_idle(dev, params);
	err = params ? dev_shared_check(dev, c) : 0;
	if (!err && params)
		err = dev_swap_image(dev, c, params, NULL);
	if (!err && !c->shared->image)
		err = -ENOENT;
	if (err) {
		char why[512];

		dev_error(dev, why, sizeof why);
		log_err(LOG_DEVICE, "still paused: %s", why);
		event_emit(EVENT_ERROR, dev->name, 0, "still paused: %s", why);
		return err;
	}
	dev_set_state(dev, DEV_CONNECTED);
	if (c->poller)
		poller_try_again(c->poller);
	if (!atomic_load(&dev->flush_failed))
		dev_set_error(dev, "%s", ""); /* before it goes on, and perhaps fails again */
	dev_go_on(dev, c);
	tell_unpaused(dev);
	if (params)
		dev_swap_tell(dev, sectors);
	return 0;
}
