/* See stub-device.h. */
#include "stub-device.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xenbus.h"

#define MAX_DEVICES 64

struct device {
	/* constant */
	struct dev_spec spec;
	char name[DEV_NAME_LEN], kind[32], params[256];
	struct pool_client strand;
	/* under lock */
	unsigned refs;
	bool destroyed;
	bool ending;
	unsigned jobs, hurries; /* submitted, and hurried for that were not the end of it */
	enum dev_state state;
	struct dev_rings rings;
	uint64_t sectors;
	char error[256];
	struct device *next; /* in stub.dead */
	atomic_int inside;
};

struct job {
	struct pool_job job;
	struct device *dev;
	void (*fn)(struct device *dev, void *arg);
	void *arg;
};

static struct {
	pthread_mutex_t lock;
	struct device *devs[MAX_DEVICES];
	struct device *dead; /* no references; freed at the end */
	struct pool *control;
	int probe, connect, disconnect;
	char why[128];
	int probes, connects;
	bool hang;
	int hanging;
	pthread_cond_t wake;
} stub = { .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER };

static void broken_promise(const struct device *dev, const char *what)
{
	fprintf(stderr, "%s: %s\n", dev->name, what);
	abort();
}

void stub_init(struct pool *control)
{
	stub.control = control;
	stub.probes = stub.connects = 0;
	stub_fail(0, 0, 0, "");
	stub_hang(false);
}

int stub_end(void)
{
	while (stub.dead) {
		struct device *dev = stub.dead;

		stub.dead = dev->next;
		free(dev);
	}
	return stub_count();
}

void stub_fail(int probe, int connect, int disconnect, const char *why)
{
	pthread_mutex_lock(&stub.lock);
	stub.probe = probe;
	stub.connect = connect;
	stub.disconnect = disconnect;
	snprintf(stub.why, sizeof(stub.why), "%s", why);
	pthread_mutex_unlock(&stub.lock);
}

static struct device *find_locked(uint32_t domid, uint32_t vdev)
{
	for (int i = 0; i < MAX_DEVICES; i++) {
		struct device *dev = stub.devs[i];

		if (dev && dev->spec.domid == domid && dev->spec.vdev == vdev)
			return dev;
	}
	return NULL;
}

bool stub_look(uint32_t domid, uint32_t vdev, struct stub_view *view)
{
	struct device *dev;

	pthread_mutex_lock(&stub.lock);
	dev = find_locked(domid, vdev);
	if (dev) {
		view->spec = dev->spec;
		memcpy(view->kind, dev->kind, sizeof(view->kind));
		memcpy(view->params, dev->params, sizeof(view->params));
		view->state = dev->state;
		view->rings = dev->rings;
	}
	pthread_mutex_unlock(&stub.lock);
	return dev != NULL;
}

static int count_if(bool connected)
{
	int n = 0;

	pthread_mutex_lock(&stub.lock);
	for (int i = 0; i < MAX_DEVICES; i++)
		n += stub.devs[i] && (!connected || stub.devs[i]->state != DEV_IDLE);
	pthread_mutex_unlock(&stub.lock);
	return n;
}

int stub_count(void)
{
	return count_if(false);
}

int stub_connected(void)
{
	return count_if(true);
}

static int get(const int *counter)
{
	int n;

	pthread_mutex_lock(&stub.lock);
	n = *counter;
	pthread_mutex_unlock(&stub.lock);
	return n;
}

int stub_probes(void)
{
	return get(&stub.probes);
}

int stub_connects(void)
{
	return get(&stub.connects);
}

static void tell(uint32_t domid, uint32_t vdev, int event)
{
	struct device *dev = dev_get(domid, vdev);

	if (dev)
		xenbus_notify(dev, event, NULL);
	dev_put(dev);
}

void stub_break(uint32_t domid, uint32_t vdev)
{
	struct device *dev = dev_get(domid, vdev);

	pthread_mutex_lock(&stub.lock);
	dev->state = DEV_BROKEN;
	snprintf(dev->error, sizeof(dev->error), "the ring is impossible");
	pthread_mutex_unlock(&stub.lock);
	dev_put(dev);
	tell(domid, vdev, DEV_EV_BROKEN);
}

void stub_resize(uint32_t domid, uint32_t vdev, uint64_t sectors)
{
	struct device *dev = dev_get(domid, vdev);

	pthread_mutex_lock(&stub.lock);
	dev->sectors = sectors;
	pthread_mutex_unlock(&stub.lock);
	dev_put(dev);
	tell(domid, vdev, DEV_EV_RESIZED);
}

void stub_swap(uint32_t domid, uint32_t vdev, const char *params)
{
	struct device *dev = dev_get(domid, vdev);

	pthread_mutex_lock(&stub.lock);
	snprintf(dev->params, sizeof(dev->params), "%s", params);
	pthread_mutex_unlock(&stub.lock);
	dev_put(dev);
	tell(domid, vdev, DEV_EV_IMAGE);
}

/* ---- device.h: the table ----------------------------------------------------------------------- */

struct device *dev_get(uint32_t domid, uint32_t vdev)
{
	struct device *dev;

	pthread_mutex_lock(&stub.lock);
	dev = find_locked(domid, vdev);
	if (dev)
		dev->refs++;
	pthread_mutex_unlock(&stub.lock);
	return dev;
}

void dev_put(struct device *dev)
{
	unsigned left;

	if (!dev)
		return;
	pthread_mutex_lock(&stub.lock);
	left = --dev->refs;
	pthread_mutex_unlock(&stub.lock);
	if (left)
		return;
	if (!dev->destroyed)
		broken_promise(dev, "the last reference went without dev_destroy");
	/* We may be in a job of its strand, which the pool looks at once more. */
	pthread_mutex_lock(&stub.lock);
	dev->next = stub.dead;
	stub.dead = dev;
	pthread_mutex_unlock(&stub.lock);
}

int dev_create(const struct dev_spec *spec, struct device **devp)
{
	struct device *dev = calloc(1, sizeof(*dev));
	char vdev[16];
	int err = -EEXIST;

	snprintf(dev->name, sizeof(dev->name), "%u/%s", spec->domid,
		 vdev_text(spec->vdev, vdev, sizeof(vdev)));
	snprintf(dev->kind, sizeof(dev->kind), "%s", spec->kind);
	snprintf(dev->params, sizeof(dev->params), "%s", spec->params);
	dev->spec = *spec;
	dev->refs = 2;
	dev->sectors = 2048;
	pool_client_init(&dev->strand, stub.control, 1);
	pthread_mutex_lock(&stub.lock);
	if (!find_locked(spec->domid, spec->vdev)) {
		for (int i = 0; i < MAX_DEVICES && err; i++) {
			if (stub.devs[i])
				continue;
			stub.devs[i] = dev;
			err = 0;
		}
	}
	pthread_mutex_unlock(&stub.lock);
	if (err)
		free(dev);
	else
		*devp = dev;
	return err;
}

/* ---- on the strand ----------------------------------------------------------------------------- */

static void enter(struct device *dev)
{
	if (dev->inside++)
		broken_promise(dev, "two calls at a time");
	if (dev->destroyed)
		broken_promise(dev, "used after dev_destroy");
}

static void leave(struct device *dev)
{
	dev->inside--;
}

static void run(struct pool_job *pool_job)
{
	struct job *job = container_of(pool_job, struct job, job);

	job->fn(job->dev, job->arg);
	dev_put(job->dev);
	free(job);
}

void dev_hurry(struct device *dev, bool end)
{
	pthread_mutex_lock(&stub.lock);
	dev->ending |= end;
	/* What is queued between the two could hang, and nobody would be in a hurry any more. */
	if (!end && ++dev->hurries > dev->jobs)
		broken_promise(dev, "hurried before the job is queued");
	pthread_cond_broadcast(&stub.wake);
	pthread_mutex_unlock(&stub.lock);
}

void stub_hang(bool hang)
{
	pthread_mutex_lock(&stub.lock);
	stub.hang = hang;
	pthread_cond_broadcast(&stub.wake);
	pthread_mutex_unlock(&stub.lock);
}

bool stub_hanging(void)
{
	return get(&stub.hanging);
}

/* As an image that is opened. */
static int open_locked(struct device *dev, int err)
{
	stub.hanging++;
	while (stub.hang && !dev->ending)
		pthread_cond_wait(&stub.wake, &stub.lock);
	stub.hanging--;
	if (stub.hang)
		err = -ETIMEDOUT;
	dev->ending = false;
	return err;
}

int dev_submit(struct device *dev, void (*fn)(struct device *dev, void *arg), void *arg)
{
	struct job *job = malloc(sizeof(*job));

	*job = (struct job){ .job = { .run = run }, .dev = dev, .fn = fn, .arg = arg };
	pthread_mutex_lock(&stub.lock);
	dev->refs++;
	dev->jobs++;
	pthread_mutex_unlock(&stub.lock);
	pool_submit(&dev->strand, &job->job);
	return 0;
}

void dev_destroy(struct device *dev)
{
	dev_disconnect(dev);
	enter(dev);
	pthread_mutex_lock(&stub.lock);
	for (int i = 0; i < MAX_DEVICES; i++) {
		if (stub.devs[i] == dev)
			stub.devs[i] = NULL;
	}
	pthread_mutex_unlock(&stub.lock);
	dev->destroyed = true;
	leave(dev);
	dev_put(dev);
}

int dev_probe(struct device *dev)
{
	int err;

	enter(dev);
	pthread_mutex_lock(&stub.lock);
	stub.probes++;
	err = open_locked(dev, stub.probe);
	snprintf(dev->error, sizeof(dev->error), "%s", err ? stub.why : "");
	pthread_mutex_unlock(&stub.lock);
	leave(dev);
	return err;
}

static void geometry_of(const struct device *dev, struct dev_geometry *g)
{
	*g = (struct dev_geometry){
		.sectors = dev->sectors,
		.sector_size = 512,
		.physical_sector_size = 4096,
		.flush = true,
		.discard = true,
		.persistent = dev->rings.persistent,
		.discard_granularity = 4096,
	};
}

int dev_connect(struct device *dev, const struct dev_rings *rings, struct dev_geometry *geometry)
{
	int err;

	enter(dev);
	pthread_mutex_lock(&stub.lock);
	if (dev->state != DEV_IDLE)
		broken_promise(dev, "connected twice");
	if (!rings->count || rings->count > DEV_MAX_QUEUES || rings->order > RING_MAX_ORDER)
		broken_promise(dev, "rings out of bounds");
	stub.connects++;
	err = open_locked(dev, stub.connect);
	snprintf(dev->error, sizeof(dev->error), "%s", err ? stub.why : "");
	if (!err) {
		dev->state = DEV_CONNECTED;
		dev->rings = *rings;
		geometry_of(dev, geometry);
	}
	pthread_mutex_unlock(&stub.lock);
	leave(dev);
	return err;
}

int dev_disconnect(struct device *dev)
{
	int err;

	enter(dev);
	pthread_mutex_lock(&stub.lock);
	err = dev->state != DEV_IDLE ? stub.disconnect : 0;
	dev->state = DEV_IDLE;
	pthread_mutex_unlock(&stub.lock);
	leave(dev);
	return err;
}

/* ---- looking ----------------------------------------------------------------------------------- */

uint32_t dev_domid(const struct device *dev)
{
	return dev->spec.domid;
}

uint32_t dev_vdev(const struct device *dev)
{
	return dev->spec.vdev;
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
	enum dev_state state;

	pthread_mutex_lock(&stub.lock);
	state = dev->state;
	pthread_mutex_unlock(&stub.lock);
	return state;
}

const char *dev_error(struct device *dev, char *buf, size_t len)
{
	pthread_mutex_lock(&stub.lock);
	snprintf(buf, len, "%s", dev->error);
	pthread_mutex_unlock(&stub.lock);
	return buf;
}

void dev_set_error(struct device *dev, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&stub.lock);
	va_start(ap, fmt);
	vsnprintf(dev->error, sizeof(dev->error), fmt, ap);
	va_end(ap);
	pthread_mutex_unlock(&stub.lock);
}

void dev_look(struct device *dev, struct dev_view *view)
{
	pthread_mutex_lock(&stub.lock);
	*view = (struct dev_view){ .state = dev->state, .settings = dev->spec.settings };
	snprintf(view->params, sizeof(view->params), "%s", dev->params);
	geometry_of(dev, &view->geometry);
	pthread_mutex_unlock(&stub.lock);
}

void dev_reload(struct device *dev, const struct settings_rules *rules)
{
	(void)dev;
	(void)rules;
}
