/*
 * device-open.c - devices: opening an image, which may take long or never end
 *
 * A journal is replayed, a damaged image repaired: that may take minutes, and the disk's strand waits for it without a
 * deadline.  But a server that is gone looks the same.  So the opening has a thread ("rd-open") with a
 * copy of all that it needs, and when the disk, or its guest's use of it, is to end (dev_hurry) it is left.
 *
 *     strand: dev_image_open -> rd-open: img_open -> the image, or the reason why not
 *                                                 -> left; later: closed again by rd-open
 *
 * What was left may get its lock on the image late, and keeps it until the image is closed again.  Until then
 * nothing else is opened for this disk, since a guest could make us leave one after the other; but for the image that
 * a swap has closed to make way, which must come back.
 *
 * All but run_open and close_late runs on the strand.
 */
#include "device-int.h"

#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct opening {
	struct errand errand; /* with a reference to the device */
	/* set before start */
	struct params params; /* a copy */
	uint32_t flags;
	bool mute;
	/* the thread's until it is done */
	struct image *image;
	int err;
	char reason[400];
};

static uint32_t open_flags(const struct device *dev, const struct settings *settings)
{
	uint32_t flags = dev->writable ? RD_OPEN_WRITE : 0;

	if (settings->value[SET_CACHE] == CACHE_NONE)
		flags |= RD_OPEN_DIRECT;
	if (settings->value[SET_CACHE] == CACHE_UNSAFE)
		flags |= RD_OPEN_UNSAFE;
	return flags;
}

static void opening_free(struct opening *o)
{
	params_free(&o->params);
	dev_put(o->errand.dev);
	free(o);
}

/* "rd-open" */
static void run_open(struct errand *errand)
{
	struct opening *o = container_of(errand, struct opening, errand);

	log_set_driver(o->params.driver->name);
	/* What drivers and files say of a failure is limited with it. */
	log_mute(o->mute);
	o->err = img_open(errand->dev->name, &o->params, o->flags, &o->image, o->reason, sizeof o->reason);
	log_mute(false);
}

/* [strand] How to end it. */
static void tell_slow(struct errand *errand)
{
	struct device *dev = errand->dev;
	const char *verb = dev->domid == DEV_NBD_DOMID ? "unexport" : "detach --force";

	dev_set_error(dev, "the image is still being opened; ringdisk %s %s gives up", verb, dev->name);
	log_limited(&dev->life, LOG_LVL_WARN, LOG_DEVICE, "the image is still being opened after 5 s; ringdisk %s %s gives up",
		    verb, dev->name);
}

static void count_locked(struct errand *errand)
{
	errand->dev->openings++;
}

/* "rd-open", of an opening that was left: nobody waits for the image any more. */
static void close_late(struct errand *errand)
{
	struct opening *o = container_of(errand, struct opening, errand);
	struct device *dev = errand->dev;

	if (!o->err)
		img_close(o->image);
	lock_acquire(&dev->lock);
	dev->openings--;
	pthread_cond_broadcast(&dev->called);
	lock_release(&dev->lock);
	if (o->err)
		log_limited(&dev->life, LOG_LVL_WARN, LOG_DEVICE, "the opening that was given up has failed: %s", o->reason);
	else
		log_limited(&dev->life, LOG_LVL_WARN, LOG_DEVICE, "the image that was still being opened is closed again");
	opening_free(o);
}

static struct opening *opening_new(struct device *dev, const struct params *params, uint32_t flags)
{
	struct opening *o = calloc(1, sizeof *o);
	uint64_t dropped;

	if (!o || params_copy(params, &o->params)) {
		free(o);
		return NULL;
	}
	o->errand = (struct errand){
		.dev = dev_ref(dev),
		.run = run_open,
		.slow = tell_slow,
		.left_locked = count_locked,
		.late = close_late,
	};
	o->flags = flags;
	o->mute = !log_limit_pass(&dev->opens, &dropped);
	return o;
}

int dev_image_open_again(struct device *dev, const struct params *params, const struct settings *settings,
			 uint32_t more, struct image **image)
{
	struct opening *o;
	int err;

	if (!params->driver)
		return -EINVAL; /* dev->error has had the reason since the string was parsed */
	o = opening_new(dev, params, open_flags(dev, settings) | more);
	err = o ? dev_errand(&o->errand, "rd-open", LLONG_MAX, UNTIL_END) : -ENOMEM;
	if (err == -ETIMEDOUT) {
		dev_set_error(dev, "the image is still being opened: given up; try again when its storage answers");
		log_limited(&dev->life, LOG_LVL_ERR, LOG_DEVICE,
			    "the image is still being opened: given up, and closed again when that returns");
		return err;
	}
	if (err) {
		dev_set_error(dev, "the image cannot be opened: no thread: %s", strerror(-err));
	} else {
		err = o->err;
		dev_set_error(dev, "%s", err ? o->reason : "");
	}
	if (!err)
		*image = o->image;
	if (o)
		opening_free(o);
	return err;
}

int dev_image_open_check(struct device *dev, long long ms)
{
	if (dev_wait_none(dev, &dev->openings, ms))
		return 0;
	dev_set_error(dev, "an image of this disk is still being opened, for somebody who has given up: try again when its "
		      "storage answers");
	return -EBUSY;
}

int dev_image_open(struct device *dev, const struct params *params, const struct settings *settings, uint32_t more,
		   struct image **image)
{
	int err = dev_image_open_check(dev, dev_call_ms());

	return err ? err : dev_image_open_again(dev, params, settings, more, image);
}
