/*
 * device-image.c - devices: the open image
 *
 * A disk has one open image, counted by who uses it (struct shared): its guest's connection, its NBD clients', and a
 * call that runs on a thread.  The first one opens it (dev_shared_get; device-open.c), the last one closes it.  Before
 * that is made durable what was written (dev_image_close).
 *
 * What can go wrong: it cannot be opened (the reason is kept for `ringdisk list` and the store), and the flush or
 * the closing at the end does not return.  These are driver calls, and an errand ("rd-close"), for which the
 * strand waits until its deadline; then that thread goes on alone, the image stays open and locked as long as the
 * call does, and the next connect waits CLOSE_MS for it.
 *
 * All of it runs on the strand, but flush_and_close, closed_late, and the last dev_shared_put of whoever it is.
 */
#include "device-int.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <xen/xen.h>

#include <xen/io/blkif.h>

#define CLOSE_MS 60000 /* a connect waits so long for the flush of the connection before it */

void dev_shared_put(struct shared *shared)
{
	if (!shared || atomic_fetch_sub(&shared->refs, 1) != 1)
		return;
	img_close(shared->image);
	free(shared);
}

/* The open image with a reference: the one that is there, or opened now. */
int dev_shared_get(struct device *dev, const struct settings *settings, struct shared **out)
{
	struct shared *shared = dev->conn  ? dev->conn->shared
				: dev->nbd ? dev->nbd->shared
					   : NULL;
	struct image *image = NULL;
	int err = 0;

	if (!shared)
		shared = calloc(1, sizeof *shared);
	if (!shared)
		return -ENOMEM;
	atomic_fetch_add(&shared->refs, 1);
	if (!shared->image) {
		err = dev_image_open(dev, &dev->parsed, settings, 0, &image);
		lock_acquire(&dev->lock);
		shared->image = err ? NULL : image;
		lock_release(&dev->lock);
	}
	if (err)
		dev_shared_put(shared);
	else
		*out = shared;
	return err;
}

/* Somebody else still has the image when a call of an earlier connection hangs: then it cannot be closed. */
int dev_shared_check(struct device *dev, struct connection *c)
{
	unsigned ours = (dev->conn != NULL) + (dev->nbd != NULL);

	if (atomic_load(&c->shared->refs) <= ours)
		return 0;
	dev_set_error(dev, "a driver call does not return; the image is still in use");
	return -EBUSY;
}

int dev_probe(struct device *dev)
{
	struct settings settings = dev_settings_now(dev);
	struct image *image;
	int err = dev_image_open(dev, &dev->parsed, &settings, RD_OPEN_PROBE, &image);

	if (!err)
		img_close(image);
	return err;
}

/* What the guest is told. */
void dev_geometry_of(const struct device *dev, const struct rd_info *info,
		     const struct settings *settings, struct dev_geometry *g)
{
	bool discard = dev->writable && info->caps & RD_CAP_DISCARD &&
		       settings->value[SET_DISCARD] == DISCARD_UNMAP;

	*g = (struct dev_geometry){
		.sectors = info->size / SECTOR,
		.sector_size = info->logical_block,
		.physical_sector_size = info->physical_block,
		.info = (dev->cdrom ? VDISK_CDROM : 0u) | (dev->removable ? VDISK_REMOVABLE : 0u) |
			(dev->writable ? 0u : VDISK_READONLY),
		.flush = true,
		.barrier = settings->value[SET_BARRIER] != 0,
		.discard = discard,
		.discard_granularity = info->discard_granularity ? info->discard_granularity
								 : info->logical_block,
		.persistent = settings->value[SET_GRANT] == GRANT_PERSISTENT,
	};
}

struct parse_limits dev_limits_of(const struct device *dev, const struct dev_geometry *g,
				  const struct settings *settings)
{
	return (struct parse_limits){
		.size = g->sectors * SECTOR,
		.sector_size = g->sector_size,
		.max_indirect = (unsigned)settings->value[SET_MAX_INDIRECT_SEGMENTS],
		.writable = dev->writable,
		.flush = g->flush,
		.barrier = g->barrier,
		.discard = g->discard,
	};
}

/* Make what is written durable before the image is closed: nobody else will. */
void dev_image_flush(struct connection *c)
{
	int err;

	if (!c->shared || !c->shared->image || !img_writable(c->shared->image) ||
	    atomic_load(&c->dev->flush_failed))
		return;
	err = img_flush(c->shared->image);
	if (!err)
		return;
	atomic_store(&c->dev->flush_failed, true); /* ENOSPC, too: nobody can try again */
	dev_set_error(c->dev, "flush at the end failed: %s", strerror(-err));
	log_err(LOG_DEVICE, "flush at the end failed: %s", strerror(-err));
}

/* "rd-close": the end of a connection whose memory the guest has back already. */
static void flush_and_close(struct errand *errand)
{
	struct connection *c = container_of(errand, struct connection, closing);

	dev_name_thread(c);
	dev_image_flush(c);
	dev_shared_put(c->shared);
	c->shared = NULL;
}

static void count_locked(struct errand *errand)
{
	errand->dev->closing++;
}

/* "rd-close", when the strand has not waited for it. */
static void closed_late(struct errand *errand)
{
	struct device *dev = errand->dev;

	lock_acquire(&dev->lock);
	dev->closing--;
	pthread_cond_broadcast(&dev->called);
	lock_release(&dev->lock);
	log_warn(LOG_DEVICE, "the image is closed now");
	dev_connection_free(container_of(errand, struct connection, closing));
}

/* Flush and close without waiting for ever: these are driver calls, too.  Takes c. */
int dev_image_close(struct connection *c, long long deadline)
{
	struct device *dev = c->dev;
	int err;

	if (!dev_call_await(dev, c, deadline) && dev->call->shared == c->shared) {
		lock_acquire(&dev->lock);
		dev->call->last_flush = true;
		lock_release(&dev->lock);
		dev_connection_free(c);
		log_err(LOG_DEVICE, "a driver call has not returned: the image stays open and locked until it does");
		dev_set_error(dev, "a driver call does not return; the image is still in use");
		return -ETIMEDOUT;
	}
	c->closing = (struct errand){
		.dev = dev,
		.run = flush_and_close,
		.left_locked = count_locked,
		.late = closed_late,
	};
	err = dev_errand(&c->closing, "rd-close", deadline, UNTIL_DEADLINE);
	if (err != -ETIMEDOUT) {
		if (err)
			dev_image_flush(c);
		dev_connection_free(c);
		return 0;
	}
	log_err(LOG_DEVICE, "the image is not flushed and closed yet; it stays locked until it is");
	dev_set_error(dev, "the image is not flushed and closed yet");
	return -ETIMEDOUT;
}

/* A guest that comes back at once (kexec, a boot loader) finds the image free again, if it ever is. */
void dev_image_wait_closed(struct device *dev)
{
	dev_wait_none(dev, &dev->closing, CLOSE_MS);
}
