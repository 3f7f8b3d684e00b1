/*
 * device-swap.c - devices: another image while the guest runs
 *
 * The requests are held, the old image is flushed and closed, the new one opened, and all goes on: in this order, as
 * the new one may stand on the old, or be the same one opened in another way (dev_set_reopen).  A snapshot makes the
 * new image first, after a flush of the old one while there is a way back.  Without a guest the new image is
 * only looked at.
 *
 * What can go wrong: what was answered has no room in the old image: then it stays.  The new image cannot be opened, or
 * does not fit what the guest was told: then the old one is opened again.  If that fails, too, the disk is paused
 * without an image until it gets one.
 *
 * All of it runs on the strand.
 */
#include "device-int.h"

#include "events.h"
#include "overlay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The guest cannot be told of another sector size while it runs, and what it writes behind the end would be lost; media
 * that it only reads have any size. */
static int fits_guest(struct device *dev, const struct image *image)
{
	uint32_t block = img_info(image)->logical_block;
	uint64_t size = img_info(image)->size, told = dev->conn ? dev->geometry.sectors * SECTOR : 0;

	if (dev->writable && size < told)
		dev_set_error(dev, "the new image has %llu bytes, the guest was told %llu: resize one of them",
			      (unsigned long long)size, (unsigned long long)told);
	else if (dev->geometry.sector_size && block > dev->geometry.sector_size)
		dev_set_error(dev, "the new image has blocks of %u bytes, the guest was told %u", block,
			      dev->geometry.sector_size);
	else if (dev->nbd && block > dev->nbd->block)
		dev_set_error(dev, "the new image has blocks of %u bytes, NBD clients were told %u", block,
			      dev->nbd->block);
	else
		return 0;
	return -EINVAL;
}

/* The image is open with this cache, for all who use it. */
static void note_cache(struct device *dev, const struct settings *settings)
{
	if (dev->conn)
		dev->conn->settings.value[SET_CACHE] = settings->value[SET_CACHE];
	if (dev->nbd)
		dev->nbd->settings.value[SET_CACHE] = settings->value[SET_CACHE];
}

/* What the params string that is taken into use says of settings; what others have set meanwhile stays. */
struct new_settings {
	struct settings before, after;
};

static void take_new_locked(struct device *dev, const struct new_settings *new)
{
	lock_assert_held(&dev->lock);
	for (unsigned key = 0; key < SET_NKEYS; key++) {
		if (new->after.value[key] == new->before.value[key] && new->after.origin[key] == new->before.origin[key])
			continue;
		if (dev->settings.origin[key] > new->after.origin[key])
			continue;
		dev->settings.value[key] = new->after.value[key];
		dev->settings.origin[key] = new->after.origin[key];
	}
}

/* Take the new image into use; the old one is closed. */
static void adopt(struct device *dev, struct connection *c, struct image *image,
		  struct params *parsed, const struct new_settings *new, char *params)
{
	struct dev_geometry g;

	dev_geometry_of(dev, img_info(image), &new->after, &g);
	note_cache(dev, &new->after);
	lock_acquire(&dev->lock);
	c->shared->image = image;
	params_free(&dev->parsed);
	dev->parsed = *parsed;
	free(dev->params);
	dev->params = params;
	take_new_locked(dev, new);
	dev_apply_locked(dev);
	if (dev->conn) {
		dev->geometry.sectors = g.sectors;
		dev->geometry.discard = g.discard;
	}
	lock_release(&dev->lock);
	dev_name_driver(dev);
}

/* Nobody who looks at the device may see an image that is being closed. */
static void set_image(struct connection *c, struct image *image)
{
	LOCK_SCOPE(&c->dev->lock);
	c->shared->image = image;
}

/* The old image was closed to make way; without it the disk cannot go on. */
static int reopen_old(struct device *dev, struct connection *c)
{
	struct settings settings = dev_settings_now(dev);
	struct image *image = NULL;
	char why[512], again[512];
	int err;

	dev_error(dev, why, sizeof why);
	err = dev_image_open_again(dev, &dev->parsed, &settings, 0, &image);
	set_image(c, err ? NULL : image);
	note_cache(dev, &settings);
	if (err) {
		dev_error(dev, again, sizeof again);
		dev_set_error(dev, "%.200s; and the old image cannot be opened again: %.200s", why, again);
		log_err(LOG_DEVICE, "%.200s; and the old image cannot be opened again: %.200s", why,
			again);
	} else {
		dev_set_error(dev, "%s", why);
	}
	return err;
}

/* It stays open where what was answered would be lost with it: there is no room for it yet, or the flush hangs.  After
 * other failures it is lost already, and that has been told. */
static int close_old(struct device *dev, struct connection *c)
{
	struct image *image = c->shared->image;
	int err = image ? dev_flush(dev) : 0;

	if (err == -ENOSPC || dev->call)
		return err;
	set_image(c, NULL);
	img_close(image);
	return 0;
}

/* The new image, made before if it is an overlay.  On failure there is none, also no file. */
static int open_new(struct device *dev, const struct params *parsed, const struct settings *settings,
		    const struct overlay *overlay, uint64_t size, uint32_t more, struct image **image)
{
	char why[400] = "";
	int err = 0;

	if (overlay)
		err = overlay_create(dev->name, overlay, &dev->parsed, size, why, sizeof why);
	if (err) {
		dev_set_error(dev, "%s", why);
		return err;
	}
	err = dev_image_open(dev, parsed, settings, more, image);
	if (!err && overlay && img_info(*image)->size != size) {
		dev_set_error(dev, "an image of this kind cannot have %llu bytes", (unsigned long long)size);
		err = -EINVAL;
	}
	if (!err)
		err = fits_guest(dev, *image);
	if (!err)
		return 0;
	img_close(*image);
	*image = NULL;
	if (overlay)
		overlay_remove(overlay);
	return err;
}

/* Parse what is to be swapped to.  params is the caller's to free. */
static int take_new_params(struct device *dev, const char *string, struct params *parsed,
			   struct new_settings *new, char **copy)
{
	int err;

	if (strlen(string) >= sizeof((struct dev_view *)0)->params) {
		dev_set_error(dev, "the params string is too long");
		return -EINVAL;
	}
	*copy = strdup(string);
	if (!*copy)
		return -ENOMEM;
	new->before = new->after = dev_settings_now(dev);
	err = dev_take_params(dev, string, parsed, &new->after);
	if (err)
		free(*copy);
	return err;
}

/* Close the old image and open the new one: in this order, as the new may stand on the old. */
int dev_swap_image(struct device *dev, struct connection *c, const char *string,
		   const struct overlay *overlay)
{
	uint64_t size = c->shared->image ? img_info(c->shared->image)->size : 0;
	struct image *image = NULL;
	struct new_settings new;
	struct params parsed;
	char *copy;
	int err = dev_image_open_check(dev, 0);

	if (!err)
		err = take_new_params(dev, string, &parsed, &new, &copy);
	if (err)
		return err;
	err = close_old(dev, c);
	if (!err)
		err = open_new(dev, &parsed, &new.after, overlay, size, 0, &image);
	if (!err) {
		adopt(dev, c, image, &parsed, &new, copy);
		return 0;
	}
	params_free(&parsed);
	free(copy);
	if (!c->shared->image)
		reopen_old(dev, c);
	return err;
}

/* The store has the image's name, too. */
void dev_swap_tell(struct device *dev, uint64_t sectors)
{
	if (!devtab_env->notify)
		return;
	devtab_env->notify(dev, DEV_EV_IMAGE, devtab_env->notify_arg);
	if (dev->geometry.sectors != sectors)
		devtab_env->notify(dev, DEV_EV_RESIZED, devtab_env->notify_arg);
}

/* No guest has it: the new image is looked at, and is what the next connection opens. */
static int swap_idle(struct device *dev, const char *string, const struct overlay *overlay)
{
	struct image *image = NULL;
	struct new_settings new;
	struct params parsed;
	uint64_t size = 0;
	char *copy;
	int err = take_new_params(dev, string, &parsed, &new, &copy);

	if (err)
		return err;
	dev_image_wait_closed(dev);
	if (overlay)
		err = dev_size(dev, &size);
	if (!err)
		err = open_new(dev, &parsed, &new.after, overlay, size, RD_OPEN_PROBE, &image);
	if (err) {
		params_free(&parsed);
		free(copy);
		return err;
	}
	img_close(image);
	lock_acquire(&dev->lock);
	params_free(&dev->parsed);
	dev->parsed = parsed;
	free(dev->params);
	dev->params = copy;
	take_new_locked(dev, &new);
	lock_release(&dev->lock);
	dev_name_driver(dev);
	return 0;
}

static int swap_running(struct device *dev, struct connection *c, const char *string,
			const struct overlay *overlay)
{
	bool paused = dev_state(dev) == DEV_PAUSED;
	int err = dev_shared_check(dev, c);

	if (err)
		return err;
	err = paused ? 0 : dev_hold(dev, c, "nothing was changed");
	if (err)
		return err;
	/* While there is a way back: nothing may stand on an image that has lost something. */
	if (overlay)
		err = dev_flush(dev);
	if (!err)
		err = dev_swap_image(dev, c, string, overlay);
	if (paused)
		return err;
	if (!err)
		poller_try_again(c->poller);
	if (c->shared->image)
		dev_go_on(dev, c);
	else
		dev_set_state(dev, DEV_PAUSED);
	return err;
}

/* For the log, and those who follow events. */
static int swapped(struct device *dev, const char *what, int err, uint64_t sectors)
{
	char why[512];

	if (!err) {
		log_info(LOG_DEVICE, "%s: now on %s", what, dev->params);
		event_emit(EVENT_IMAGE, dev->name, 0, "%s", dev->params);
		dev_swap_tell(dev, sectors);
		return 0;
	}
	dev_error(dev, why, sizeof why);
	log_err(LOG_DEVICE, "%s failed: %s", what, why);
	event_emit(EVENT_ERROR, dev->name, 0, "%s failed: %.200s", what, why);
	return err;
}

static int exchange(struct device *dev, const char *string, const struct overlay *overlay)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_PAUSED);
	int err = dev_call_check(dev);

	if (err)
		return err;
	if (c)
		return swap_running(dev, c, string, overlay);
	if (dev_state(dev) != DEV_BROKEN)
		return swap_idle(dev, string, overlay);
	dev_set_error(dev, "the disk is broken");
	return -EALREADY;
}

int dev_swap(struct device *dev, const char *params)
{
	uint64_t sectors = dev->geometry.sectors;

	return swapped(dev, "swap", exchange(dev, params, NULL), sectors);
}

/* Why there cannot be a snapshot now; overlay->open is set when there can. */
static int plan_snapshot(struct device *dev, const char *params, struct overlay *overlay)
{
	char why[512] = "";
	int err = -EINVAL;

	if (!dev->parsed.driver)
		snprintf(why, sizeof why, "the disk has no image");
	else if (!dev->writable)
		snprintf(why, sizeof why, "the disk is read-only: nothing would be written to an overlay");
	else if (atomic_load(&dev->flush_failed))
		snprintf(why, sizeof why, "a flush has failed: the image may have lost something");
	else
		err = overlay_may_stand_on(&dev->parsed, why, sizeof why);
	if (!err)
		err = overlay_parse(params, overlay, why, sizeof why);
	if (err)
		dev_set_error(dev, "%s", why);
	return err;
}

int dev_snapshot(struct device *dev, const char *params)
{
	uint64_t sectors = dev->geometry.sectors;
	struct overlay overlay = {0};
	int err = plan_snapshot(dev, params, &overlay);

	if (!err)
		err = exchange(dev, overlay.open, &overlay);
	overlay_free(&overlay);
	return swapped(dev, "snapshot", err, sectors);
}

/* --- settings of how the image is opened ----------------------------------------------------------------------- */

/* Only what was set: others may have set something else meanwhile. */
static void put_cache(struct device *dev, const struct settings *settings)
{
	LOCK_SCOPE(&dev->lock);
	dev->settings.value[SET_CACHE] = settings->value[SET_CACHE];
	dev->settings.origin[SET_CACHE] = settings->origin[SET_CACHE];
}

static int reopen(struct device *dev, struct connection *c, const struct settings *before)
{
	struct settings settings = dev_settings_now(dev);
	struct image *image = NULL;
	int err = dev_image_open_check(dev, 0);

	if (err) {
		put_cache(dev, before);
		return err;
	}
	err = close_old(dev, c);
	if (!err)
		err = dev_image_open(dev, &dev->parsed, &settings, 0, &image);
	if (err) {
		put_cache(dev, before);
		if (!c->shared->image)
			reopen_old(dev, c);
		return err;
	}
	set_image(c, image);
	note_cache(dev, &settings);
	return 0;
}

int dev_set_reopen(struct device *dev, const char *key, const char *value, char *err, size_t errlen)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_PAUSED);
	bool paused = dev_connection_in(dev, DEV_PAUSED, DEV_PAUSED) != NULL;
	struct settings before = dev_settings_now(dev);
	int rc = dev_set(dev, key, value, ORIGIN_SET, err, errlen);

	if (rc || !c || !c->shared->image || dev_settings_now(dev).value[SET_CACHE] == c->settings.value[SET_CACHE])
		return rc;
	rc = dev_call_check(dev);
	if (!rc)
		rc = dev_shared_check(dev, c);
	if (!rc && !paused)
		rc = dev_hold(dev, c, NULL);
	if (rc) {
		put_cache(dev, &before);
		if (rc == -EBUSY)
			dev_error(dev, err, errlen);
		else
			snprintf(err, errlen, "requests have not finished: nothing was changed");
		return rc;
	}
	rc = reopen(dev, c, &before);
	if (rc)
		dev_error(dev, err, errlen);
	if (!c->shared->image)
		dev_set_state(dev, DEV_PAUSED);
	else if (!paused)
		dev_go_on(dev, c);
	return rc;
}
