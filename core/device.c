/*
 * device.c - devices: the table, life, pause, and swapping images
 *
 * A device is made when the toolstack's node appears, connected when the frontend says so, and destroyed
 * when the node goes.  What it does runs on the device's strand of the control pool.
 *
 * The flush latch (promise 3) is the device's: it outlives reconnects and goes with the device.
 */
#include "device-int.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "drivers.h"
#include "events.h"
#include "nbd.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define END_MS 5000 /* at the daemon's end, for references that others still hold */

const struct dev_env *devtab_env;

static struct {
	struct dev_env env;
	struct rd_lock lock;
	struct list_head devices, guests;
	unsigned alive;               /* devices not freed yet, listed or not */
	pthread_cond_t none_alive;
	struct pool_client graveyard; /* frees devices, outside their strands */
} tab;

const char *dev_state_text(enum dev_state state)
{
	static const char *const text[] = {
		[DEV_IDLE] = "idle",
		[DEV_CONNECTED] = "connected",
		[DEV_PAUSED] = "paused",
		[DEV_BROKEN] = "broken",
	};

	return text[state];
}

/* --- table ---------------------------------------------------------------------------------------- */

int devtab_init(const struct dev_env *env)
{
	clock_calibrate();
	tab.env = *env;
	devtab_env = &tab.env;
	lock_init(&tab.lock, RANK_DEVTAB, "device table");
	list_init(&tab.devices);
	list_init(&tab.guests);
	tab.alive = 0;
	cond_init_monotonic(&tab.none_alive);
	pool_client_init(&tab.graveyard, env->control, 1);
	return 0;
}

bool devtab_destroy(void)
{
	long long deadline = monotonic_ms() + END_MS;
	unsigned alive;

	lock_acquire(&tab.lock);
	while (tab.alive)
		if (lock_wait_until(&tab.none_alive, &tab.lock, deadline))
			break;
	alive = tab.alive;
	lock_release(&tab.lock);
	if (alive) {
		log_warn(LOG_DEVICE, "%u device(s) still have calls that do not return", alive);
		return false;
	}
	pool_client_drain(&tab.graveyard);
	pthread_cond_destroy(&tab.none_alive);
	lock_destroy(&tab.lock);
	return true;
}

static struct device *find_locked(uint32_t domid, uint32_t vdev)
{
	struct device *dev;

	list_for_each(dev, &tab.devices, node)
		if (dev->domid == domid && dev->vdev == vdev)
			return dev;
	return NULL;
}

struct device *dev_ref(struct device *dev)
{
	if (dev)
		atomic_fetch_add(&dev->refs, 1);
	return dev;
}

struct device *dev_get(uint32_t domid, uint32_t vdev)
{
	LOCK_SCOPE(&tab.lock);
	return dev_ref(find_locked(domid, vdev));
}

/* "nbd/N" */
static struct device *get_exported(const char *number)
{
	char *end;
	unsigned long n = number[0] >= '0' && number[0] <= '9' ? strtoul(number, &end, 10) : DEV_MAX_EXPORTS;

	return n < DEV_MAX_EXPORTS && !*end ? dev_get(DEV_NBD_DOMID, (uint32_t)n) : NULL;
}

struct device *dev_get_by_name(const char *name)
{
	const char *slash = strchr(name, '/');
	uint32_t domid, vdev;
	char dom[12];

	if (!slash || slash == name || (size_t)(slash - name) >= sizeof dom)
		return NULL;
	memcpy(dom, name, (size_t)(slash - name));
	dom[slash - name] = 0;
	if (!strcmp(dom, "nbd"))
		return get_exported(slash + 1);
	/* A domid reads like a device number. */
	if (dom[0] < '0' || dom[0] > '9' || vdev_parse(dom, &domid) || vdev_parse(slash + 1, &vdev))
		return NULL;
	return dev_get(domid, vdev);
}

/* A guest's budgets, made for its first device. */
static struct guest *guest_get_locked(uint32_t domid)
{
	struct guest *guest;

	list_for_each(guest, &tab.guests, node)
		if (guest->domid == domid)
			goto found;
	guest = calloc(1, sizeof *guest);
	if (!guest)
		return NULL;
	guest->domid = domid;
	guest->memory.limit = devtab_env->guest_memory;
	guest->grants.limit = devtab_env->guest_grants;
	list_add_tail(&guest->node, &tab.guests);
found:
	guest->devices++;
	return guest;
}

static void guest_put_locked(struct guest *guest)
{
	if (!guest || --guest->devices)
		return;
	list_del(&guest->node);
	free(guest);
}

static void free_device(struct device *dev)
{
	pool_client_drain(&dev->strand);
	params_free(&dev->parsed);
	pthread_cond_destroy(&dev->closed);
	pthread_cond_destroy(&dev->called);
	lock_destroy(&dev->throttle_lock);
	lock_destroy(&dev->lock);
	lock_acquire(&tab.lock);
	guest_put_locked(dev->guest);
	if (!--tab.alive)
		pthread_cond_broadcast(&tab.none_alive);
	lock_release(&tab.lock);
	shm_free(dev->shm);
	trace_free(&dev->trace);
	free(dev->params);
	free(dev->kind);
	free(dev);
}

struct burial {
	struct pool_job job;
	struct device *dev;
};

static void bury(struct pool_job *job)
{
	struct burial *b = container_of(job, struct burial, job);

	free_device(b->dev);
	free(b);
}

void dev_put(struct device *dev)
{
	struct burial *b;

	if (!dev || atomic_fetch_sub(&dev->refs, 1) != 1)
		return;
	/* The last reference may go on the device's own strand, which cannot wait for its own end. */
	b = calloc(1, sizeof *b);
	if (!b)
		return; /* a device leaks: better than the daemon's end */
	b->dev = dev;
	b->job.run = bury;
	pool_submit(&tab.graveyard, &b->job);
}

void dev_for_each(void (*fn)(struct device *dev, void *arg), void *arg)
{
	struct device *dev, **all;
	unsigned n = 0, i = 0;

	lock_acquire(&tab.lock);
	list_for_each(dev, &tab.devices, node)
		n++;
	all = calloc(n ? n : 1, sizeof *all);
	if (all)
		list_for_each(dev, &tab.devices, node)
			all[i++] = dev_ref(dev);
	lock_release(&tab.lock);
	for (n = i, i = 0; i < n; i++) {
		fn(all[i], arg);
		dev_put(all[i]);
	}
	free(all);
}

bool dev_is_listed(struct device *dev)
{
	LOCK_SCOPE(&tab.lock);
	return !list_empty(&dev->node);
}

/* --- errors ----------------------------------------------------------------------------------------- */

void dev_set_error(struct device *dev, const char *fmt, ...)
{
	va_list ap;

	LOCK_SCOPE(&dev->lock);
	va_start(ap, fmt);
	vsnprintf(dev->error, sizeof dev->error, fmt, ap);
	va_end(ap);
}

const char *dev_error(struct device *dev, char *buf, size_t len)
{
	LOCK_SCOPE(&dev->lock);
	snprintf(buf, len, "%s", dev->error);
	return buf;
}

/* --- creation ---------------------------------------------------------------------------------------- */

/* Options of the params string that are our own settings leave it; the rest is the driver's. */
static int take_settings(struct params *params, struct settings *settings, char *err, size_t errlen)
{
	char **out = params->options;

	for (char **in = params->options; in && *in; in++) {
		char *eq = strchr(*in, '=');
		size_t len = eq ? (size_t)(eq - *in) : strlen(*in);
		char key[64];
		int rc;

		if (settings_key(*in, len) < 0) {
			*out++ = *in;
			continue;
		}
		snprintf(key, sizeof key, "%.*s", (int)len, *in);
		rc = settings_set(settings, key, eq ? eq + 1 : "on", ORIGIN_PARAMS, err, errlen);
		if (rc)
			return rc;
	}
	if (out)
		*out = NULL;
	return 0;
}

/* Parse a params string, or a line that names our NBD socket and the params string with it. */
static int parse_params(const char *string, struct params *parsed, char *err, size_t errlen)
{
	char *name, *socket;
	int rc = nbd_uri_parse(string, &name, &socket, err, errlen);

	if (rc == -ENOENT)
		return params_parse(string, parsed, err, errlen);
	if (rc)
		return rc;
	rc = params_parse(name, parsed, err, errlen);
	free(name);
	free(socket);
	return rc;
}

/* Parse a params string into parsed and settings.  On failure the reason is in dev->error. */
int dev_take_params(struct device *dev, const char *string, struct params *parsed,
		    struct settings *settings)
{
	char err[400] = "";
	int rc = parse_params(string, parsed, err, sizeof err);

	if (!rc) {
		rc = take_settings(parsed, settings, err, sizeof err);
		if (rc)
			params_free(parsed);
	}
	if (rc) {
		*parsed = (struct params){0};
		dev_set_error(dev, "%s", err);
	}
	return rc;
}

static struct device *new_device(const struct dev_spec *spec)
{
	struct device *dev = calloc(1, sizeof *dev);
	char vdev[16];

	if (!dev)
		return NULL;
	dev->kind = strdup(spec->kind);
	dev->params = strdup(spec->params);
	if (!dev->kind || !dev->params) {
		free(dev->kind);
		free(dev->params);
		free(dev);
		return NULL;
	}
	dev->domid = spec->domid;
	dev->vdev = spec->vdev;
	dev->writable = spec->writable;
	dev->cdrom = spec->cdrom;
	dev->removable = spec->removable;
	dev->by_hand = spec->by_hand;
	dev->settings = spec->settings;
	list_init(&dev->node);
	dev->refs = 2; /* the table's, and the caller's */
	if (spec->domid == DEV_NBD_DOMID)
		snprintf(dev->name, sizeof dev->name, "nbd/%u", spec->vdev);
	else
		snprintf(dev->name, sizeof dev->name, "%u/%s", spec->domid,
			 vdev_text(spec->vdev, vdev, sizeof vdev));
	lock_init(&dev->lock, RANK_DEVICE, "device");
	lock_init(&dev->throttle_lock, RANK_LEAF, "throttle");
	log_limit_init(&dev->life, 20, 60000);
	log_limit_init(&dev->opens, 20, 60000);
	cond_init_monotonic(&dev->closed);
	cond_init_monotonic(&dev->called);
	pool_client_init(&dev->strand, devtab_env->control, 1);
	return dev;
}

int dev_create(const struct dev_spec *spec, struct device **out)
{
	struct device *dev = new_device(spec);
	int err = 0;

	if (!dev)
		return -ENOMEM;
	/* Before anybody can find it.  A bad string is an error of the device that the administrator should see, not of
	 * its making. */
	dev_take_params(dev, spec->params, &dev->parsed, &dev->settings);
	lock_acquire(&tab.lock);
	tab.alive++;
	if (find_locked(spec->domid, spec->vdev))
		err = -EEXIST;
	else if (!(dev->guest = guest_get_locked(spec->domid)))
		err = -ENOMEM;
	else
		list_add_tail(&dev->node, &tab.devices);
	lock_release(&tab.lock);
	if (err) {
		free_device(dev);
		return err;
	}
	dev->shm = shm_create(dev->domid, dev->vdev);
	if (dev->shm)
		dev->stats.shm = shm_counters(dev->shm);
	event_emit(EVENT_ATTACH, dev->name, 0, "%s", spec->params);
	dev_nbd_begin(dev);
	*out = dev;
	return 0;
}

void dev_destroy(struct device *dev)
{
	bool listed;

	dev_disconnect(dev);
	dev_nbd_end(dev);
	lock_acquire(&tab.lock);
	listed = !list_empty(&dev->node);
	list_del(&dev->node);
	lock_release(&tab.lock);
	if (!listed)
		return;
	shm_remove(dev->shm);
	event_emit(EVENT_DETACH, dev->name, 0, "%s", "");
	dev_put(dev);
}

/* --- the strand --------------------------------------------------------------------------------------- */

struct op {
	struct pool_job job;
	struct device *dev;
	void (*fn)(struct device *dev, void *arg);
	void *arg;
};

static void run_op(struct pool_job *job)
{
	struct op *op = container_of(job, struct op, job);
	struct device *dev = op->dev;

	log_set_prefix(dev->name);
	op->fn(dev, op->arg);
	log_set_prefix(NULL);
	free(op);
	dev_put(dev);
}

int dev_submit(struct device *dev, void (*fn)(struct device *dev, void *arg), void *arg)
{
	struct op *op = calloc(1, sizeof *op);

	if (!op)
		return -ENOMEM;
	*op = (struct op){.job.run = run_op, .dev = dev_ref(dev), .fn = fn, .arg = arg};
	pool_submit(&dev->strand, &op->job);
	return 0;
}

void dev_hurry(struct device *dev, bool hurry)
{
	LOCK_SCOPE(&dev->lock);
	dev->wanted += hurry ? 1u : -1u;
	pthread_cond_broadcast(&dev->called);
}

/* A copy: `ringdisk set` may change them meanwhile. */
struct settings dev_settings_now(struct device *dev)
{
	LOCK_SCOPE(&dev->lock);
	return dev->settings;
}

/* --- pause, unpause, size ------------------------------------------------------------------------------------ */

void dev_set_state(struct device *dev, enum dev_state state)
{
	LOCK_SCOPE(&dev->lock);
	if (!dev->conn && state == DEV_CONNECTED)
		state = DEV_IDLE; /* only NBD clients use it */
	if ((dev->conn || dev->nbd) && dev->state != DEV_BROKEN)
		dev->state = state;
}

/* The connection, if its state is one of the two; without a guest that of NBD clients, which is as good as
 * connected when it is not paused. */
struct connection *dev_connection_in(struct device *dev, enum dev_state a, enum dev_state b)
{
	enum dev_state state;

	LOCK_SCOPE(&dev->lock);
	state = dev->state == DEV_IDLE ? DEV_CONNECTED : dev->state;
	if (state != a && state != b)
		return NULL;
	return dev->conn ? dev->conn : dev->nbd;
}

/* Nothing new starts, and nothing runs, of the ring and of NBD clients; or all goes on as before. */
int dev_hold(struct device *dev, struct connection *c)
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
	return err;
}

int dev_pause(struct device *dev)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_PAUSED);
	int err;

	if (!c) {
		dev_set_error(dev, "not connected: nothing to pause");
		return -ENOTCONN;
	}
	err = dev_call_check(dev);
	if (err)
		return err;
	err = dev_hold(dev, c);
	if (err) {
		dev_set_error(dev, "requests have not finished in %d s: not paused", PAUSE_MS / 1000);
		return err;
	}
	dev_set_state(dev, DEV_PAUSED);
	log_info(LOG_DEVICE, "paused");
	event_emit(EVENT_PAUSE, dev->name, 0, "%s", "");
	return 0;
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

/* The guest cannot be told of another sector size while it runs. */
static int fits_guest(struct device *dev, const struct image *image)
{
	uint32_t block = img_info(image)->logical_block;

	if (dev->geometry.sector_size && block > dev->geometry.sector_size)
		dev_set_error(dev, "the new image has blocks of %u bytes, the guest was told %u", block,
			      dev->geometry.sector_size);
	else if (dev->nbd && block > dev->nbd->block)
		dev_set_error(dev, "the new image has blocks of %u bytes, NBD clients were told %u", block,
			      dev->nbd->block);
	else
		return 0;
	return -EINVAL;
}

/* Somebody else still has the image when a call of an earlier connection hangs: then it cannot be closed. */
int dev_swap_check(struct device *dev, struct connection *c)
{
	unsigned ours = (dev->conn != NULL) + (dev->nbd != NULL);

	if (atomic_load(&c->shared->refs) <= ours)
		return 0;
	dev_set_error(dev, "a driver call does not return; the image is still in use");
	return -EBUSY;
}

/* Tell those who run what has been set. */
void dev_apply_locked(struct device *dev)
{
	lock_assert_held(&dev->lock);
	if (dev->conn)
		poller_apply(dev->conn->poller, &dev->settings);
	if (dev->export)
		nbd_export_apply(dev->export, &dev->settings);
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
	err = dev_image_open(dev, &dev->parsed, &settings, 0, &image);
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

static void close_old(struct connection *c)
{
	struct image *image = c->shared->image;

	if (!image)
		return;
	dev_image_flush(c);
	set_image(c, NULL);
	img_close(image);
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
	int err = take_new_params(dev, string, &parsed, &new, &copy);

	if (err)
		return err;
	close_old(c);
	err = open_new(dev, &parsed, &new.after, overlay, size, 0, &image);
	if (!err) {
		adopt(dev, c, image, &parsed, &new, copy);
		return 0;
	}
	params_free(&parsed);
	free(copy);
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

/* A disk whose writes wait for space is not paused, but to unpause it is what its operator was told. */
static int pause_if_full(struct device *dev)
{
	struct connection *c = dev_connection_in(dev, DEV_CONNECTED, DEV_CONNECTED);
	struct poller_view view = {0};

	if (!c || !c->poller || atomic_load(&dev->flush_failed))
		return 0;
	poller_look(c->poller, &view);
	return view.parked ? dev_pause(dev) : 0;
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
	c = dev_connection_in(dev, DEV_PAUSED, DEV_PAUSED);
	if (!c) {
		dev_set_error(dev, "not paused");
		return -EINVAL;
	}
	err = params ? dev_swap_check(dev, c) : 0;
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
	log_info(LOG_DEVICE, "going on, on %s", dev->params);
	event_emit(EVENT_UNPAUSE, dev->name, 0, "%s", dev->params);
	if (params)
		dev_swap_tell(dev, sectors);
	return 0;
}

/* --- another image while the guest runs ------------------------------------------------------------------- */

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
	return 0;
}

static int swap_running(struct device *dev, struct connection *c, const char *string,
			const struct overlay *overlay)
{
	bool paused = dev_state(dev) == DEV_PAUSED;
	int err = dev_swap_check(dev, c);

	if (err)
		return err;
	err = paused ? 0 : dev_hold(dev, c);
	if (err) {
		dev_set_error(dev, "requests have not finished in %d s: nothing was changed", PAUSE_MS / 1000);
		return err;
	}
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
	if (dev_state(dev) == DEV_IDLE)
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
	int err;

	close_old(c);
	err = dev_image_open(dev, &dev->parsed, &settings, 0, &image);
	if (err) {
		put_cache(dev, before);
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
		rc = dev_swap_check(dev, c);
	if (!rc && !paused)
		rc = dev_hold(dev, c);
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

/* --- looking ------------------------------------------------------------------------------------------------ */

uint32_t dev_domid(const struct device *dev)
{
	return dev->domid;
}

uint32_t dev_vdev(const struct device *dev)
{
	return dev->vdev;
}

const char *dev_name(const struct device *dev)
{
	return dev->name;
}

const char *dev_kind(const struct device *dev)
{
	return dev->kind;
}

enum dev_state dev_state(struct device *dev)
{
	LOCK_SCOPE(&dev->lock);
	return dev->state;
}

struct trace *dev_trace(struct device *dev)
{
	return &dev->trace;
}

struct stats *dev_stats(struct device *dev)
{
	return &dev->stats;
}

void dev_look(struct device *dev, struct dev_view *view)
{
	struct poller_view pv = {0};

	*view = (struct dev_view){
		.domid = dev->domid,
		.vdev = dev->vdev,
		.writable = dev->writable,
		.cdrom = dev->cdrom,
		.by_hand = dev->by_hand,
		.flush_failed = atomic_load(&dev->flush_failed),
	};
	LOCK_SCOPE(&dev->lock);
	view->state = dev->state;
	view->geometry = dev->geometry;
	view->settings = dev->settings;
	view->ring_order = dev->ring_order;
	view->abi = dev->abi;
	view->persistent = dev->persistent;
	snprintf(view->params, sizeof view->params, "%s", dev->params);
	snprintf(view->driver, sizeof view->driver, "%s",
		 dev->parsed.driver ? dev->parsed.driver->name : "");
	snprintf(view->error, sizeof view->error, "%s", dev->error);
	if (dev->export)
		nbd_export_look(dev->export, &view->nbd);
	view->exported = dev->export != NULL;
	if (!dev->conn)
		return;
	/* Rank order: the poller's locks come after the device's. */
	poller_look(dev->conn->poller, &pv);
	view->rings = dev->conn->nrings;
	view->inflight = pv.inflight;
	view->parked = pv.parked;
	view->memory = pv.memory;
	view->grants = pv.grants;
}

int dev_counters(struct device *dev, const struct rd_facts *facts)
{
	struct connection *c;

	LOCK_SCOPE(&dev->lock);
	c = dev->conn ? dev->conn : dev->nbd;
	return c && c->shared->image ? img_counters(c->shared->image, facts) : -ENOTCONN;
}

/* Who sets one of these, to whatever value, has seen that requests failed, and says what shall be from now on. */
static bool says_what_waits(const char *key)
{
	int index = settings_key(key, strlen(key));

	return index == SET_ON_ERROR || index == SET_ERROR_TIMEOUT || index == SET_ENOSPC;
}

int dev_set(struct device *dev, const char *key, const char *value, enum setting_origin origin,
	    char *err, size_t errlen)
{
	int rc;

	LOCK_SCOPE(&dev->lock);
	rc = settings_set(&dev->settings, key, value, origin, err, errlen);
	if (rc)
		return rc;
	if (dev->conn && says_what_waits(key))
		poller_try_again(dev->conn->poller);
	dev_apply_locked(dev);
	return 0;
}

void dev_reload(struct device *dev, const struct settings_rules *rules)
{
	LOCK_SCOPE(&dev->lock);
	if (settings_reload(&dev->settings, rules, dev->name, dev->params))
		dev_apply_locked(dev);
}
