/* See fake-device.h. */
#include "fake-device.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEVICES 64

struct device {
	uint32_t domid, vdev;
	char name[DEV_NAME_LEN];
	char params[200];
	char error[200];
	struct settings settings;
	struct stats stats;
	struct trace trace;
	struct pool_client strand;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool held;
	enum dev_state state;
	uint64_t size;
	int err;
	atomic_int refs, pausing;
};

static struct device *devices[MAX_DEVICES];
static unsigned count;
static struct pool *strands;

void fake_devices_init(struct pool *pool)
{
	strands = pool;
	count = 0;
}

void fake_devices_end(void)
{
	for (unsigned i = 0; i < count; i++) {
		if (devices[i]->refs != 1) {
			fprintf(stderr, "%s: %d references\n", devices[i]->name, devices[i]->refs);
			abort();
		}
		trace_free(&devices[i]->trace);
		free(devices[i]);
	}
	count = 0;
}

struct device *fake_device_add(uint32_t domid, uint32_t vdev, const char *name, const char *params)
{
	struct device *dev = calloc(1, sizeof(*dev));

	if (!dev || count == MAX_DEVICES)
		abort();
	dev->domid = domid;
	dev->vdev = vdev;
	dev->state = DEV_CONNECTED;
	dev->size = 1u << 20;
	dev->refs = 1;
	snprintf(dev->name, sizeof(dev->name), "%s", name);
	snprintf(dev->params, sizeof(dev->params), "%s", params);
	settings_init(&dev->settings);
	pthread_mutex_init(&dev->lock, NULL);
	pthread_cond_init(&dev->cond, NULL);
	if (strands)
		pool_client_init(&dev->strand, strands, 1);
	devices[count++] = dev;
	return dev;
}

void fake_device_hold(struct device *dev)
{
	pthread_mutex_lock(&dev->lock);
	dev->held = true;
	pthread_mutex_unlock(&dev->lock);
}

void fake_device_release(struct device *dev)
{
	pthread_mutex_lock(&dev->lock);
	dev->held = false;
	pthread_cond_broadcast(&dev->cond);
	pthread_mutex_unlock(&dev->lock);
}

int fake_device_pausing(struct device *dev)
{
	return dev->pausing;
}

void fake_device_fail(struct device *dev, int err, const char *text)
{
	pthread_mutex_lock(&dev->lock);
	dev->err = err;
	snprintf(dev->error, sizeof(dev->error), "%s", text);
	pthread_mutex_unlock(&dev->lock);
}

/* ---- device.h ------------------------------------------------------------------------------------ */

struct device *dev_get(uint32_t domid, uint32_t vdev)
{
	for (unsigned i = 0; i < count; i++) {
		if (devices[i]->domid == domid && devices[i]->vdev == vdev) {
			devices[i]->refs++;
			return devices[i];
		}
	}
	return NULL;
}

struct device *dev_get_by_name(const char *name)
{
	for (unsigned i = 0; i < count; i++) {
		if (!strcmp(devices[i]->name, name)) {
			devices[i]->refs++;
			return devices[i];
		}
	}
	return NULL;
}

void dev_put(struct device *dev)
{
	if (dev)
		dev->refs--;
}

void dev_for_each(void (*fn)(struct device *dev, void *arg), void *arg)
{
	for (unsigned i = 0; i < count; i++)
		fn(devices[i], arg);
}

int vdev_parse(const char *name, uint32_t *vdev)
{
	char *end;

	if (!strncmp(name, "xvd", 3) && name[3] >= 'a' && name[3] <= 'p' && !name[4]) {
		*vdev = 51712u + 16u * (unsigned)(name[3] - 'a');
		return 0;
	}
	*vdev = (uint32_t)strtoul(name, &end, 10);
	return *name && !*end ? 0 : -EINVAL;
}

const char *vdev_text(uint32_t vdev, char *buf, size_t len)
{
	snprintf(buf, len, "xvd%c", 'a' + (int)((vdev - 51712u) / 16 % 26));
	return buf;
}

struct submitted {
	struct pool_job job;
	struct device *dev;
	void (*fn)(struct device *dev, void *arg);
	void *arg;
};

static void submitted_run(struct pool_job *job)
{
	struct submitted *submitted = container_of(job, struct submitted, job);

	submitted->fn(submitted->dev, submitted->arg);
	dev_put(submitted->dev);
	free(submitted);
}

bool dev_is_listed(struct device *dev)
{
	(void)dev;
	return true;
}

int dev_submit(struct device *dev, void (*fn)(struct device *dev, void *arg), void *arg)
{
	struct submitted *submitted;

	if (!strands) {
		fn(dev, arg);
		return 0;
	}
	submitted = calloc(1, sizeof(*submitted));
	if (!submitted)
		return -ENOMEM;
	*submitted = (struct submitted){.job.run = submitted_run, .dev = dev, .fn = fn, .arg = arg};
	dev->refs++;
	pool_submit(&dev->strand, &submitted->job);
	return 0;
}

int dev_pause(struct device *dev)
{
	int err;

	dev->pausing++;
	pthread_mutex_lock(&dev->lock);
	while (dev->held)
		pthread_cond_wait(&dev->cond, &dev->lock);
	err = dev->err;
	if (!err)
		dev->state = DEV_PAUSED;
	pthread_mutex_unlock(&dev->lock);
	dev->pausing--;
	return err;
}

int dev_unpause(struct device *dev, const char *params)
{
	int err;

	pthread_mutex_lock(&dev->lock);
	err = dev->err;
	if (!err) {
		dev->state = DEV_CONNECTED;
		if (params)
			snprintf(dev->params, sizeof(dev->params), "%s", params);
	}
	pthread_mutex_unlock(&dev->lock);
	return err;
}

struct trace *dev_trace(struct device *dev)
{
	return &dev->trace;
}

int dev_check(struct device *dev, const struct rd_progress *progress, struct rd_check *result)
{
	(void)progress;
	*result = (struct rd_check){.struct_size = sizeof(*result), .leaks = 1, .clusters = 10, .allocated = 5};
	return dev->err;
}

int dev_set_reopen(struct device *dev, const char *key, const char *value, char *err, size_t errlen)
{
	return dev_set(dev, key, value, ORIGIN_SET, err, errlen);
}

int dev_counters(struct device *dev, const struct rd_facts *facts)
{
	(void)dev;
	facts->number(facts->ctx, "metadata.hits", 90);
	facts->number(facts->ctx, "metadata.misses", 10);
	facts->number(facts->ctx, "allocated", 7);
	return 0;
}

int dev_swap(struct device *dev, const char *params)
{
	pthread_mutex_lock(&dev->lock);
	if (!dev->err)
		snprintf(dev->params, sizeof(dev->params), "%s", params);
	pthread_mutex_unlock(&dev->lock);
	return dev->err;
}

int dev_snapshot(struct device *dev, const char *params)
{
	return dev_swap(dev, params);
}

int dev_resize(struct device *dev, uint64_t size, bool shrink)
{
	pthread_mutex_lock(&dev->lock);
	if (!dev->err && size && size < dev->size && !shrink)
		snprintf(dev->error, sizeof(dev->error), "that is less than it has now");
	if (!dev->err && size && size < dev->size && !shrink) {
		pthread_mutex_unlock(&dev->lock);
		return -EPERM;
	}
	if (size && !dev->err)
		dev->size = size;
	pthread_mutex_unlock(&dev->lock);
	return dev->err;
}

int dev_size(struct device *dev, uint64_t *size)
{
	*size = dev->size;
	return 0;
}

int dev_probe(struct device *dev)
{
	return dev->err;
}

int dev_export(struct device *dev, const char *socket, bool read_only)
{
	(void)socket;
	(void)read_only;
	return dev->err;
}

int dev_unexport(struct device *dev)
{
	return dev->err;
}

int dev_create_export(const char *params, bool writable, const struct settings *settings, struct device **dev)
{
	(void)params;
	(void)writable;
	(void)settings;
	(void)dev;
	return -ENOMEM;
}

void dev_destroy(struct device *dev)
{
	(void)dev;
}

void dev_reload(struct device *dev, const struct settings_rules *rules)
{
	(void)dev;
	(void)rules;
}

int dev_flush(struct device *dev)
{
	return dev->err;
}

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
	(void)dev;
	return "vbd3";
}

enum dev_state dev_state(struct device *dev)
{
	enum dev_state state;

	pthread_mutex_lock(&dev->lock);
	state = dev->state;
	pthread_mutex_unlock(&dev->lock);
	return state;
}

const char *dev_state_text(enum dev_state state)
{
	static const char *const text[] = {"idle", "connected", "paused", "broken"};

	return text[state];
}

const char *dev_error(struct device *dev, char *buf, size_t len)
{
	pthread_mutex_lock(&dev->lock);
	snprintf(buf, len, "%s", dev->error);
	pthread_mutex_unlock(&dev->lock);
	return buf;
}

void dev_set_error(struct device *dev, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&dev->lock);
	va_start(ap, fmt);
	vsnprintf(dev->error, sizeof(dev->error), fmt, ap);
	va_end(ap);
	pthread_mutex_unlock(&dev->lock);
}

struct stats *dev_stats(struct device *dev)
{
	return &dev->stats;
}

void dev_hurry(struct device *dev, bool end)
{
	(void)dev, (void)end;
}

void dev_look(struct device *dev, struct dev_view *view)
{
	memset(view, 0, sizeof(*view));
	pthread_mutex_lock(&dev->lock);
	view->domid = dev->domid;
	view->vdev = dev->vdev;
	view->state = dev->state;
	view->writable = true;
	snprintf(view->params, sizeof(view->params), "%s", dev->params);
	snprintf(view->driver, sizeof(view->driver), "raw");
	snprintf(view->error, sizeof(view->error), "%s", dev->error);
	view->geometry = (struct dev_geometry){.sectors = dev->size / 512, .sector_size = 512,
	                                       .physical_sector_size = 4096, .flush = true};
	view->rings = 2;
	view->ring_order = 1;
	view->settings = dev->settings;
	pthread_mutex_unlock(&dev->lock);
}

int dev_set(struct device *dev, const char *key, const char *value, enum setting_origin origin,
            char *err, size_t errlen)
{
	int result;

	pthread_mutex_lock(&dev->lock);
	result = settings_set(&dev->settings, key, value, origin, err, errlen);
	pthread_mutex_unlock(&dev->lock);
	return result;
}

/* ---- drivers.h ----------------------------------------------------------------------------------- */

static const struct rd_option fake_options[] = {{"wait", "N ms to wait"}, {NULL, NULL}};
static const struct rd_driver fake_driver = {
	.struct_size = sizeof(struct rd_driver),
	.api = RD_DRIVER_API,
	.name = "raw",
	.version = "1",
	.description = "a fake",
	.options = fake_options,
};

const struct drv_entry *drv_at(unsigned i)
{
	static const struct drv_entry entries[] = {
		{.file = "raw.so", .driver = &fake_driver},
		{.file = "bad\xff.so", .error = "lacks the callback readv"},
	};

	return i < 2 ? &entries[i] : NULL;
}
