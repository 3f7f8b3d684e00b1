/*
 * What the daemon is made of, in the order in which each part needs those before it. If one does not
 * start, those that did are stopped in reverse, as at the end.
 */
#include "main-parts.h"

#include "admin-http.h"
#include "admin.h"
#include "base/bytes.h"
#include "device.h"
#include "drivers.h"
#include "hyp.h"
#include "image.h"
#include "log.h"
#include "main-config.h"
#include "nbd.h"
#include "pool.h"
#include "redo.h"
#include "shm.h"
#include "xenbus.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/*
 * Bound of the pool of strands: so many disks can wait at a time for an image to be opened or closed, or for requests to
 * end, and there is still a thread for the next. They are started when they are needed and sleep; with one more
 * each for the call that hangs they stay well below what the service's TasksMax allows.
 */
#define CONTROL_THREADS 2048u
#define GUEST_MEMORY    (64u << 20)
#define GUEST_GRANTS    16384u

struct part {
	const char *name;
	int (*start)(struct parts *parts);
	void (*stop)(struct parts *parts); /* NULL: nothing to do */
};

static int start_drivers(struct parts *p)
{
	return drv_load(p->config->driver_dir);
}

static int start_images(struct parts *p)
{
	return img_set_backing_dirs(p->config->backing_dirs);
}

/* Beside the admin socket, unless the configuration says where. */
static int start_redo(struct parts *p)
{
	const char *socket = p->config->control_socket, *slash = strrchr(socket, '/');
	char dir[PATH_MAX];

	if (p->config->redo_dir)
		return redo_set_dir(p->config->redo_dir);
	snprintf(dir, sizeof(dir), "%.*s/redo", (int)(slash - socket), socket);
	return redo_set_dir(dir);
}

static int start_hyp(struct parts *p)
{
	const struct hyp_config hyp = {
		.kind = p->config->hyp,
		.loopback_socket = p->config->loopback_socket,
	};
	int err = hyp_open(&hyp, &p->hyp);

	if (!err)
		log_info(LOG_MAIN, "ringdiskd " PACKAGE_VERSION " on %s", p->hyp->ops->name);
	return err;
}

static void stop_hyp(struct parts *p)
{
	p->hyp->ops->close(p->hyp);
}

/* A disk takes about six descriptors, and the usual limit is 1024 of them: take what we may. */
static int raise_limits(struct parts *p)
{
	struct rlimit limit;

	(void)p;
	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == limit.rlim_max)
		return 0;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		log_warn(LOG_MAIN, "limit of open files: %s", strerror(errno));
	return 0;
}

static int start_pools(struct parts *p)
{
	int err = pool_create("w", p->config->workers, p->config->max_workers, &p->workers);

	if (err)
		return err;
	err = pool_create("c", 2, CONTROL_THREADS, &p->control);
	if (err)
		pool_destroy(p->workers);
	return err;
}

static void stop_pools(struct parts *p)
{
	pool_destroy(p->control);
	pool_destroy(p->workers);
}

/* Without them everything else works. */
static int start_shm(struct parts *p)
{
	const char *dir = p->config->shm_stats;
	int err;

	if (!dir)
		dir = strcmp(p->hyp->ops->name, "xen") ? "off" : "/dev/shm";
	err = strcmp(dir, "off") ? shm_set_dir(dir) : 0;
	if (err)
		log_warn(LOG_MAIN, "no statistics for xentop in %s: %s", dir, strerror(-err));
	return 0;
}

static void stop_shm(struct parts *p)
{
	(void)p;
	shm_end();
}

/* Beside the admin socket.  The rings need none of it: without it they are served all the same. */
static int start_nbd(struct parts *p)
{
	const char *socket = p->config->control_socket, *slash = strrchr(socket, '/');
	char dir[PATH_MAX];

	snprintf(dir, sizeof(dir), "%.*s/nbd", (int)(slash - socket), socket);
	if (nbd_start(dir, p->config->control_group))
		log_warn(LOG_NBD, "no NBD server: the disks of rings are served, but nothing can be exported");
	return 0;
}

static void stop_nbd(struct parts *p)
{
	(void)p;
	nbd_stop();
}

static int start_devices(struct parts *p)
{
	const struct dev_env env = {
		.hyp = p->hyp,
		.workers = p->workers,
		.control = p->control,
		.notify = xenbus_notify,
		.guest_memory = GUEST_MEMORY,
		.guest_grants = GUEST_GRANTS,
	};

	return devtab_init(&env);
}

static void stop_devices(struct parts *p)
{
	devtab_end_exports();
	p->stuck = !devtab_destroy();
}

static int start_xenbus(struct parts *p)
{
	const struct xenbus_config xenbus = {
		.hyp = p->hyp,
		.kinds = (const char *const *)p->config->kinds,
		.claim = p->config->claim,
		.rules = p->config->rules,
	};

	return xenbus_start(&xenbus);
}

static void stop_xenbus(struct parts *p)
{
	(void)p;
	xenbus_stop();
}

/* The admin socket knows nothing of the store: this joins them. */
static int attach(uint32_t domid, uint32_t vdev, const char *kind, const char *params,
		  bool writable, bool cdrom, char *err, size_t errlen)
{
	const struct xenbus_attach a = {
		.domid = domid,
		.vdev = vdev,
		.params = params,
		.kind = kind,
		.writable = writable,
		.cdrom = cdrom,
	};

	return xenbus_attach(&a, err, errlen);
}

static int start_admin(struct parts *p)
{
	const struct admin_config admin = {
		.socket_path = p->config->control_socket,
		.group = p->config->control_group,
		.shutdown = p->shutdown,
		.hyp = p->hyp->ops->name,
		.control = p->control,
		.workers = p->workers,
		.rules = xenbus_get_rules,
		.config = main_config_json,
		.store = {
			.attach = attach,
			.detach = xenbus_detach,
			.connected = xenbus_connected,
		},
	};

	return admin_start(&admin);
}

static void stop_admin(struct parts *p)
{
	(void)p;
	admin_stop();
}

static int start_metrics(struct parts *p)
{
	const struct http_config http = {
		.listen = p->config->metrics_listen,
		.group = p->config->control_group,
		.remote = p->config->metrics_remote,
	};

	return http.listen ? admin_http_start(&http) : 0;
}

static void stop_metrics(struct parts *p)
{
	(void)p;
	admin_http_stop();
}

static int start_pid_file(struct parts *p)
{
	const char *path = p->config->pid_file;
	FILE *file;
	int err = 0;

	if (!path)
		return 0;
	file = fopen(path, "we");
	if (!file || fprintf(file, "%d\n", (int)getpid()) < 0)
		err = -errno;
	if (file && fclose(file))
		err = -errno;
	if (err)
		log_err(LOG_MAIN, "%s: %s", path, strerror(-err));
	return err;
}

static void stop_pid_file(struct parts *p)
{
	if (p->config->pid_file)
		unlink(p->config->pid_file);
}

static const struct part table[] = {
	{ "the limits", raise_limits, NULL },
	{ "the drivers", start_drivers, NULL },
	{ "the backing files", start_images, NULL },
	{ "the redo logs", start_redo, NULL },
	{ "the hypervisor", start_hyp, stop_hyp },
	{ "the threads", start_pools, stop_pools },
	{ "the statistics", start_shm, stop_shm },
	{ "the NBD server", start_nbd, stop_nbd },
	{ "the disks", start_devices, stop_devices },
	{ "the store", start_xenbus, stop_xenbus },
	{ "the admin socket", start_admin, stop_admin },
	{ "the metrics", start_metrics, stop_metrics },
	{ "the pid file", start_pid_file, stop_pid_file },
};

static void stop_from(struct parts *parts, size_t count)
{
	while (count--) {
		/* A driver call that hangs holds a worker and files: the end of the process frees them. */
		if (parts->stuck)
			break;
		if (table[count].stop)
			table[count].stop(parts);
	}
}

int parts_start(struct parts *parts)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		int err = table[i].start(parts);

		if (err) {
			log_err(LOG_MAIN, "cannot start %s: %s", table[i].name, strerror(-err));
			stop_from(parts, i);
			return err;
		}
	}
	return 0;
}

void parts_stop(struct parts *parts)
{
	stop_from(parts, ARRAY_SIZE(table));
}

/* Takes the lock of the device. */
static void look_at(struct device *dev, void *arg)
{
	(void)arg;
	(void)dev_state(dev);
}

bool parts_healthy(struct parts *parts)
{
	bool workers = pool_watched(parts->workers), control = pool_watched(parts->control);

	dev_for_each(look_at, NULL);
	return workers && control;
}

static void reload_device(struct device *dev, void *rules)
{
	dev_reload(dev, rules);
}

void parts_reload(struct parts *parts, struct settings_rules *rules)
{
	(void)parts;
	xenbus_set_rules(rules);
	dev_for_each(reload_device, rules);
}
