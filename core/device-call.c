/*
 * device-call.c - devices: driver calls that may hang, and the checks
 *
 * A flush, a resize and the look at the image's size while it is in use are errands ("rd-call"), one at a
 * time for a device.  The strand waits CALL_MS for it, or less when the disk is to connect or to go (dev_hurry); then it
 * leaves the call alone, and everything else of the disk goes on but what would have to wait for it.  It holds
 * the image open; what it has done is taken note of when it returns.
 *
 *     start_call -> rd-call: do_call -> done, in time ------------------------> its result, on the strand
 *                                    -> later: left -> reap_job on the strand -> take_result, close_left
 *
 * A check of the image's metadata runs on the strand itself: it asks all the time whether it is to go on.  Without a
 * connection the image is opened for the one thing.
 *
 * What can go wrong: the call fails (a flush: promise 3's latch), it returns late or never, and the connection may
 * have gone meanwhile: then the thread closes the image.
 */
#include "device-int.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CALL_MS  30000 /* the operator waits so long for a call */
#define BUSY_PART 15u  /* of that, for the call before the next */

static bool size_differs(struct device *dev, struct connection *c)
{
	return dev->conn && img_info(c->shared->image)->size / SECTOR != dev->geometry.sectors;
}

static void take_size(struct device *dev, struct connection *c)
{
	uint64_t sectors = img_info(c->shared->image)->size / SECTOR;

	if (!size_differs(dev, c))
		return;
	lock_acquire(&dev->lock);
	dev->geometry.sectors = sectors;
	lock_release(&dev->lock);
	log_info(LOG_DEVICE, "size is now %llu sectors", (unsigned long long)sectors);
	event_emit(EVENT_RESIZE, dev->name, sectors * SECTOR, "%s", "");
	if (devtab_env->notify)
		devtab_env->notify(dev, DEV_EV_RESIZED, devtab_env->notify_arg);
}

unsigned dev_call_ms(void)
{
	return devtab_env->call_ms ? devtab_env->call_ms : CALL_MS;
}

static bool is_flush(enum call_what what)
{
	return what == CALL_FLUSH || what == CALL_SETTLE;
}

/* Nobody waits for it: the strand leaves it at once. */
static bool is_quiet(enum call_what what)
{
	return what == CALL_LOOK || what == CALL_SETTLE;
}

static const char *call_text(enum call_what what)
{
	return is_flush(what) ? "flush" : what == CALL_RESIZE ? "resize" : "look at the image's size";
}

static int do_call(const struct call *call, struct image *image)
{
	switch (call->what) {
	case CALL_FLUSH:
	case CALL_SETTLE:
		return img_flush(image);
	case CALL_RESIZE:
		return img_resize(image, call->size);
	default:
		return img_refresh(image);
	}
}

static void latch_flush(struct device *dev, int err)
{
	if (err == -ENOSPC) {
		dev_set_error(dev, "a flush found no space: make room, then: ringdisk flush %s", dev->name);
		log_limited(&dev->life, LOG_LVL_WARN, LOG_DEVICE,
			    "a flush that the guest did not ask for found no space; nothing is lost: make "
			    "room, then: ringdisk flush %s", dev->name);
		return;
	}
	atomic_store(&dev->flush_failed, true);
	dev_set_error(dev, "a flush failed (%s); flushes are held and I/O fails; detach the disk", strerror(-err));
	log_err(LOG_DEVICE, "a flush that the guest did not ask for failed: %s: flushes are held and I/O fails until "
		"the disk is detached", strerror(-err));
	event_emit(EVENT_ERROR, dev->name, 0, "a flush failed (%s); detach the disk", strerror(-err));
}

/* The image has another size: the requests are held for the moment in which their limit changes. */
static void follow_size(struct device *dev, struct connection *c, bool held)
{
	bool paused = dev_state(dev) == DEV_PAUSED;

	if (!size_differs(dev, c))
		return;
	if (!held && !paused && dev_hold(dev, c, NULL))
		return; /* a request hangs; the next look finds it again */
	take_size(dev, c);
	if (!held && !paused)
		dev_go_on(dev, c);
}

/* What comes of a call that was left; c: who has the image still, or NULL. */
static void take_result(struct device *dev, struct connection *c, const struct call *call)
{
	if (!is_quiet(call->what))
		log_warn(LOG_DEVICE, "the %s that took so long has returned: %s", call_text(call->what),
			 call->result < 0 ? strerror(-call->result) : "done");
	if (is_flush(call->what) && call->result)
		latch_flush(dev, call->result);
	if (!is_flush(call->what) && call->result >= 0 && c)
		follow_size(dev, c, call->held);
	if (call->held && c)
		dev_go_on(dev, c);
}

/* [strand] Take note of a call that has returned.  c: a connection that is being closed, or NULL. */
static void reap_call(struct device *dev, struct connection *c)
{
	struct call *call = dev->call;
	bool owner;

	if (!call)
		return;
	if (!c)
		c = dev->conn ? dev->conn : dev->nbd;
	lock_acquire(&dev->lock);
	owner = c && c->shared == call->shared;
	if (call->errand.done)
		dev->call = NULL;
	lock_release(&dev->lock);
	if (dev->call)
		return;
	take_result(dev, owner ? c : NULL, call);
	if (owner)
		dev_shared_put(call->shared); /* not the last */
	lock_acquire(&dev->lock);
	if (owner)
		call->shared = NULL;
	else
		dev->closing++;
	call->reaped = true;
	if (call->what == CALL_LOOK)
		atomic_store(&dev->looking, false);
	pthread_cond_broadcast(&dev->called);
	lock_release(&dev->lock);
}

/* [strand] False: the call that was left has not returned at the deadline. */
bool dev_call_await(struct device *dev, struct connection *c, long long deadline)
{
	lock_acquire(&dev->lock);
	while (dev->call && !dev->call->errand.done)
		if (lock_wait_until(&dev->called, &dev->lock, deadline))
			break;
	lock_release(&dev->lock);
	reap_call(dev, c);
	return !dev->call;
}

/* [strand] For what cannot be done beside such a call.  A flush that nobody has asked for is nobody's fault. */
int dev_call_check(struct device *dev)
{
	unsigned part = dev->call && dev->call->what == CALL_SETTLE ? 1 : BUSY_PART;

	if (dev_call_await(dev, NULL, monotonic_ms() + dev_call_ms() / part))
		return 0;
	dev_set_error(dev, "busy: a %s has not returned yet%s", call_text(dev->call->what),
		      dev->call->held ? ", and requests wait for it" : "");
	return -EBUSY;
}

static void reap_job(struct device *dev, void *arg)
{
	(void)arg;
	reap_call(dev, NULL);
}

/* Nobody else has the image any more. */
static void close_left(struct call *call)
{
	struct device *dev = call->errand.dev;
	struct image *image = call->shared->image;
	int err = 0;

	if (call->last_flush && image && img_writable(image) && !atomic_load(&dev->flush_failed))
		err = img_flush(image);
	if (err)
		latch_flush(dev, err);
	dev_shared_put(call->shared);
	if (call->last_flush)
		log_warn(LOG_DEVICE, "the image is closed now");
	lock_acquire(&dev->lock);
	dev->closing--;
	pthread_cond_broadcast(&dev->called);
	lock_release(&dev->lock);
}

static void call_free(struct call *call)
{
	dev_put(call->errand.dev);
	free(call);
}

/* The strand has left it: tell it, and clean up. */
static void end_left(struct errand *errand)
{
	struct call *call = container_of(errand, struct call, errand);
	struct device *dev = errand->dev;

	if (dev_submit(dev, reap_job, NULL))
		return; /* no memory: it is found by who asks next, and leaks */
	lock_acquire(&dev->lock);
	while (!call->reaped)
		lock_wait(&dev->called, &dev->lock);
	lock_release(&dev->lock);
	if (call->shared)
		close_left(call);
	call_free(call);
}

/* "rd-call" */
static void run_errand(struct errand *errand)
{
	struct call *call = container_of(errand, struct call, errand);

	log_set_driver(img_driver_name(call->shared->image));
	call->result = do_call(call, call->shared->image);
}

static void leave_locked(struct errand *errand)
{
	errand->dev->call = container_of(errand, struct call, errand);
}

static struct call *call_new(struct device *dev, struct shared *shared, enum call_what what, uint64_t size, bool held)
{
	struct call *call = calloc(1, sizeof *call);

	if (!call)
		return NULL;
	atomic_fetch_add(&shared->refs, 1);
	*call = (struct call){
		.errand = {.dev = dev_ref(dev), .run = run_errand, .left_locked = leave_locked, .late = end_left},
		.what = what,
		.size = size,
		.held = held,
		.shared = shared,
	};
	return call;
}

/* Wait so long for it; a flush that fails is latched.  -ETIMEDOUT and dev->call is set: it was left. */
static int start_call(struct device *dev, struct shared *shared, enum call_what what, uint64_t size, unsigned ms,
		      bool held)
{
	struct call *call = call_new(dev, shared, what, size, held);
	int result = call ? dev_errand(&call->errand, "rd-call", monotonic_ms() + ms, UNTIL_WANTED) : -ENOMEM;

	if (result == -ETIMEDOUT)
		return result;
	if (!result) {
		result = call->result;
		if (is_flush(what) && result)
			latch_flush(dev, result);
	}
	if (call) {
		dev_shared_put(call->shared);
		call_free(call);
	}
	return result;
}

/* [strand] The result of the call, or -ETIMEDOUT and dev->call is set; then requests that are held go on when it has
 * returned.  Nothing else can be done meanwhile: dev_call_check() comes first. */
static int run_call(struct device *dev, struct shared *shared, enum call_what what, uint64_t size, bool held)
{
	int result = start_call(dev, shared, what, size, dev_call_ms(), held);

	if (!dev->call)
		return result;
	dev_set_error(dev, "the %s has not returned yet: it goes on%s", call_text(what),
		      held ? ", and requests wait until it has" : "");
	log_err(LOG_DEVICE, "the %s has not returned yet: it goes on%s", call_text(what),
		held ? ", and requests wait until it has" : "");
	return -ETIMEDOUT;
}

int dev_flush(struct device *dev)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_PAUSED);
	int err;

	if (!c || !c->shared->image || !img_writable(c->shared->image))
		return 0;
	err = dev_call_check(dev);
	if (err)
		return err;
	return atomic_load(&dev->flush_failed) ? -EIO : run_call(dev, c->shared, CALL_FLUSH, 0, false);
}

/* Nobody waits for it, here neither: what it finds is taken note of when it returns. */
void dev_call_look(struct device *dev, void *arg)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_PAUSED);

	(void)arg;
	reap_call(dev, NULL);
	if (c && c->shared->image && !dev->call) {
		int r = start_call(dev, c->shared, CALL_LOOK, 0, 0, false);

		if (dev->call)
			return;
		if (r > 0)
			follow_size(dev, c, false);
	}
	atomic_store(&dev->looking, false);
}

void dev_call_settle(struct device *dev, void *arg)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_CONNECTED);

	(void)arg;
	reap_call(dev, NULL);
	if (!c || dev->call || !c->shared->image || !img_unsettled(c->shared->image) ||
	    atomic_load(&dev->flush_failed))
		return;
	start_call(dev, c->shared, CALL_SETTLE, 0, 0, false);
}

/* No guest has it: opened for one thing alone, and the caller's to close. */
static int open_idle(struct device *dev, uint32_t more, struct image **image)
{
	struct settings settings = dev_settings_now(dev);

	dev_image_wait_closed(dev);
	return dev_image_open(dev, &dev->parsed, &settings, more, image);
}

/* The image in use, with nothing at work on it: requests are held, unless the operator has paused them already. */
static int hold_image(struct device *dev, struct connection *c, bool paused, bool alone,
		      const char *otherwise)
{
	int err;

	if (!c->shared->image) {
		dev_set_error(dev, "it has no image now");
		return -ENOENT;
	}
	err = alone ? dev_shared_check(dev, c) : 0;
	return err || paused ? err : dev_hold(dev, c, otherwise);
}

/* --- size ------------------------------------------------------------------------------------------------------ */

/* Fails with the reason in dev->error. */
static int check_new_size(struct device *dev, const struct image *image, uint64_t size, bool shrink)
{
	const struct rd_info *info = img_info(image);

	if (!dev->writable)
		dev_set_error(dev, "the disk is read-only");
	else if (!(info->caps & RD_CAP_RESIZE))
		dev_set_error(dev, "images of this kind (%s) cannot be resized", img_driver(image)->name);
	else if (size % info->logical_block)
		dev_set_error(dev, "%llu is not a multiple of the block size, %u",
			      (unsigned long long)size, info->logical_block);
	else if (size < info->size && !shrink)
		dev_set_error(dev, "%llu bytes is less than it has now, %llu: --shrink if what is behind may be lost",
			      (unsigned long long)size, (unsigned long long)info->size);
	else
		return 0;
	return -EPERM;
}

static void say_not_resized(struct device *dev, uint64_t size, int err)
{
	dev_set_error(dev, "cannot make it %llu bytes: %s", (unsigned long long)size, strerror(-err));
}

static int resize_image(struct device *dev, struct image *image, uint64_t size, bool shrink)
{
	int err = check_new_size(dev, image, size, shrink);

	if (err)
		return err;
	err = img_resize(image, size);
	if (err)
		say_not_resized(dev, size, err);
	return err;
}

static int resize_idle(struct device *dev, uint64_t size, bool shrink)
{
	struct image *image;
	int err = open_idle(dev, 0, &image);

	if (err)
		return err;
	err = size ? resize_image(dev, image, size, shrink) : 0;
	if (!err && size)
		err = img_flush(image);
	img_close(image);
	return err;
}

static int resize_running(struct device *dev, struct connection *c, uint64_t size, bool shrink, bool held)
{
	int err = size ? check_new_size(dev, c->shared->image, size, shrink) : 0;

	if (err)
		return err;
	err = run_call(dev, c->shared, size ? CALL_RESIZE : CALL_REFRESH, size, held);
	if (err && size && !dev->call)
		say_not_resized(dev, size, err);
	return err;
}

int dev_resize(struct device *dev, uint64_t size, bool shrink)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_PAUSED);
	bool paused = dev_connection_in(dev, DEV_PAUSED, DEV_PAUSED) != NULL;
	int err = dev_call_check(dev);

	if (err)
		return err;
	if (!c)
		return resize_idle(dev, size, shrink);
	/* To grow a driver must be ready at any time. */
	err = hold_image(dev, c, paused, shrink, "not resized");
	if (err)
		return err;
	err = resize_running(dev, c, size, shrink, !paused);
	if (dev->call)
		return err;
	if (err >= 0)
		take_size(dev, c);
	if (!paused)
		dev_go_on(dev, c);
	return MIN(err, 0);
}

int dev_size(struct device *dev, uint64_t *size)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_PAUSED);
	struct image *image;
	int err;

	if (c && c->shared->image) {
		*size = img_info_now(c->shared->image).size;
		return 0;
	}
	err = open_idle(dev, RD_OPEN_PROBE, &image);
	if (err)
		return err;
	*size = img_info(image)->size;
	img_close(image);
	return 0;
}

/* --- check ----------------------------------------------------------------------------------------------------- */

static int check_image(struct device *dev, struct image *image, const struct rd_progress *progress,
		       struct rd_check *result)
{
	int err = img_check(image, 0, progress, result);

	if (err == -EOPNOTSUPP)
		dev_set_error(dev, "images of this kind (%s) have nothing to check", img_driver(image)->name);
	else if (err == -ECANCELED)
		dev_set_error(dev, "not checked in the time that was given");
	else if (err)
		dev_set_error(dev, "cannot check the image: %s", strerror(-err));
	return err;
}

static int check_idle(struct device *dev, const struct rd_progress *progress, struct rd_check *result)
{
	struct image *image;
	int err = open_idle(dev, RD_OPEN_PROBE, &image);

	if (err)
		return err;
	err = check_image(dev, image, progress, result);
	img_close(image);
	return err;
}

int dev_check(struct device *dev, const struct rd_progress *progress, struct rd_check *result)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_PAUSED);
	bool paused = dev_connection_in(dev, DEV_PAUSED, DEV_PAUSED) != NULL;
	int err = dev_call_check(dev);

	if (err)
		return err;
	if (!c)
		return check_idle(dev, progress, result);
	err = hold_image(dev, c, paused, true, "not checked");
	if (err)
		return err;
	err = dev_flush(dev);
	if (!err)
		err = check_image(dev, c->shared->image, progress, result);
	if (!paused)
		dev_go_on(dev, c);
	return err;
}
