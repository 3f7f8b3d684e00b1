/*
 * device.c - devices: the table, life, errors, settings
 *
 * A device is made when the toolstack's node appears, connected when the frontend says so, and destroyed when
 * the node goes.  The table holds all of them, and a budget of memory and grants for each guest; a
 * device is freed after its last reference, on a job of the control pool.  What it does is in the other files,
 * see device-int.h; it runs on the device's strand of the control pool.
 *
 * What can go wrong: a bad params string does not keep a disk from being made, it is an error of the device that the
 * administrator sees; at the daemon's end some devices may hang in a driver call, and are left.
 *
 * The flush latch (promise 3) is the device's: it outlives reconnects and goes with the device.
 *
 * Any thread looks, sets and submits; making is the store's and the admin socket's threads', destroying the strand's.
 */
#include "device-int.h"

#include "base/clock.h"
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

void dev_name_driver(const struct device *dev)
{
	log_set_driver(dev->parsed.driver ? dev->parsed.driver->name : NULL);
}

void dev_name_thread(const struct connection *c)
{
	log_set_prefix(c->dev->name);
	log_set_driver(c->shared ? img_driver_name(c->shared->image) : NULL);
}

static void run_op(struct pool_job *job)
{
	struct op *op = container_of(job, struct op, job);
	struct device *dev = op->dev;

	log_set_prefix(dev->name);
	dev_name_driver(dev);
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

static void end_hurry(struct device *dev, void *end)
{
	LOCK_SCOPE(&dev->lock);
	dev->wanted--;
	dev->ending -= end != NULL;
}

void dev_hurry(struct device *dev, bool end)
{
	void *arg = end ? dev : NULL;

	lock_acquire(&dev->lock);
	dev->wanted++;
	dev->ending += end;
	pthread_cond_broadcast(&dev->called);
	lock_release(&dev->lock);
	if (dev_submit(dev, end_hurry, arg))
		end_hurry(dev, arg);
}

/* --- its state ----------------------------------------------------------------------------------------------- */

void dev_set_state(struct device *dev, enum dev_state state)
{
	LOCK_SCOPE(&dev->lock);
	if (!dev->conn && state == DEV_CONNECTED)
		state = DEV_IDLE; /* only NBD clients use it */
	if ((dev->conn || dev->nbd) && dev->state != DEV_BROKEN)
		dev->state = state;
}

/* Whoever used it is gone.  A pause lasts until its operator ends it: a guest cannot by leaving and coming back. */
void dev_end_state_locked(struct device *dev)
{
	if (dev->state != DEV_PAUSED)
		dev->state = DEV_IDLE;
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

/* A copy: `ringdisk set` may change them meanwhile. */
struct settings dev_settings_now(struct device *dev)
{
	LOCK_SCOPE(&dev->lock);
	return dev->settings;
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
