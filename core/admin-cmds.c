/*
 * The verbs of the admin socket. Each has a line in admin_verbs, its parameters as data (checked before it
 * is called), and a function that answers. What only looks answers at once, on the loop's thread, under
 * short locks; what may block (pause, unpause) runs on the device's strand, attach and detach, which wait
 * for the strand, on the control pool.
 */
#include "admin-internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device.h"
#include "drivers.h"
#include "lock.h"
#include "log.h"

/* Of the protocol: raised when something that a client could rely on changes. */
#define PROTOCOL 1

const struct admin_error admin_errors[] = {
	{ADMIN_E_PARSE, "parse-error", "the line is not JSON"},
	{ADMIN_E_REQUEST, "invalid-request", "JSON, but not a request; or longer than 64 KiB"},
	{ADMIN_E_METHOD, "no-such-method", "rpc.discover lists the methods"},
	{ADMIN_E_PARAMS, "invalid-params", "a parameter is missing, unknown or wrong: data.where"},
	{ADMIN_E_INTERNAL, "internal", "out of memory"},
	{ADMIN_E_FAILED, "failed", "it was tried and did not work"},
	{ADMIN_E_NO_DISK, "no-such-disk", "no disk of that name is served"},
	{ADMIN_E_DENIED, "denied", "the method changes something, and this user may not"},
	{ADMIN_E_STATE, "wrong-state", "the disk's state does not allow it now"},
	{ADMIN_E_TIMEOUT, "timeout", "it took too long and was given up"},
	{ADMIN_E_EXISTS, "exists", "there is a disk of that name already"},
	{ADMIN_E_STORE, "no-store", "the store cannot be reached, or this daemon has none"},
	{ADMIN_E_BUSY, "busy", "too many clients"},
	{0, NULL, NULL},
};

static enum admin_code code_of(int err)
{
	switch (err) {
	case -ETIMEDOUT:
		return ADMIN_E_TIMEOUT;
	case -ENOENT:
	case -ENODEV:
		return ADMIN_E_NO_DISK;
	case -EEXIST:
		return ADMIN_E_EXISTS;
	case -ENOTCONN:
	case -EALREADY:
	case -EBUSY:
		return ADMIN_E_STATE;
	case -EPIPE:
		return ADMIN_E_STORE;
	default:
		return ADMIN_E_FAILED;
	}
}

static void log_request(const struct admin_request *req, const char *what)
{
	log_info(LOG_ADMIN, "%s %s by uid %u, pid %d", req->verb->name, what, (unsigned)req->uid,
	         (int)req->pid);
}

/* ---- disks --------------------------------------------------------------------------------------- */

/* "served here: 5/xvda, 5/xvdb", for hints. */
struct names {
	char text[240];
	size_t len;
	unsigned count;
};

static void add_name(struct device *dev, void *arg)
{
	struct names *names = arg;
	size_t room = sizeof(names->text) - names->len;
	int n;

	if (names->count++ && room < DEV_NAME_LEN + 8)
		return;
	n = snprintf(names->text + names->len, room, "%s%s",
	             names->count > 1 ? ", " : "disks served here: ", dev_name(dev));
	if (n > 0 && (size_t)n < room)
		names->len += (size_t)n;
}

static void fail_no_disk(struct admin_request *req, const char *name)
{
	struct names names = {.text = "no disk is served now"};

	dev_for_each(add_name, &names);
	admin_fail(req, ADMIN_E_NO_DISK, name, names.text, "there is no disk \"%.60s\"", name);
}

struct device *admin_find_disk(struct admin_request *req)
{
	const char *name = admin_string(req, "disk");
	struct device *dev = dev_get_by_name(name);

	if (!dev)
		fail_no_disk(req, name);
	return dev;
}

bool admin_each_disk(struct admin_request *req, void (*fn)(struct device *dev, void *arg), void *arg)
{
	struct device *dev;

	if (!admin_given(req, "disk")) {
		dev_for_each(fn, arg);
		return true;
	}
	dev = admin_find_disk(req);
	if (!dev)
		return false;
	fn(dev, arg);
	dev_put(dev);
	return true;
}

/* ---- list ---------------------------------------------------------------------------------------- */

static const char *abi_text(enum ring_abi abi)
{
	return abi == RING_ABI_X86_32 ? "x86_32-abi" : abi == RING_ABI_X86_64 ? "x86_64-abi" : "native";
}

static json_t *geometry_json(const struct dev_geometry *geometry)
{
	return json_pack("{s:I, s:I, s:i, s:i, s:b, s:b, s:b}", "size",
	                 (json_int_t)(geometry->sectors * 512), "sectors",
	                 (json_int_t)geometry->sectors, "sector_size", (int)geometry->sector_size,
	                 "physical_sector_size", (int)geometry->physical_sector_size, "flush",
	                 geometry->flush, "barrier", geometry->barrier, "discard", geometry->discard);
}

/* For the cache `set` opens the image anew. */
static bool works_at_once(enum setting_key key)
{
	return settings_live(key) || key == SET_CACHE;
}

static json_t *settings_json(const struct settings *settings)
{
	json_t *all = json_object();
	char value[64];

	for (unsigned key = 0; key < SET_NKEYS; key++)
		json_object_set_new(
			all, settings_name(key),
			json_pack("{s:o, s:s, s:b, s:s}", "value",
		                  admin_text(settings_text(settings, key, value, sizeof(value))),
		                  "origin", settings_origin_text(settings->origin[key]), "live",
		                  works_at_once(key), "help", settings_help(key)));
	return all;
}

struct list_arg {
	json_t *disks;
	bool settings;
};

static void list_one(struct device *dev, void *arg)
{
	struct list_arg *list = arg;
	struct dev_view view;
	char vdev[DEV_NAME_LEN];
	json_t *disk;

	dev_look(dev, &view);
	disk = json_pack("{s:s, s:i, s:I, s:o, s:s, s:s, s:o, s:o, s:b, s:b, s:o, s:i, s:i, s:I, s:I, s:b}",
	                 "disk", dev_name(dev), "domid", (int)view.domid, "vdev",
	                 (json_int_t)view.vdev, "name",
	                 admin_text(vdev_text(view.vdev, vdev, sizeof(vdev))), "kind", dev_kind(dev),
	                 "state", dev_state_text(view.state), "params", admin_text(view.params),
	                 "driver", admin_text(view.driver), "writable", view.writable, "cdrom",
	                 view.cdrom, "error", admin_text(view.error[0] ? view.error : NULL),
	                 "inflight", (int)view.inflight, "parked", (int)view.parked, "memory",
	                 (json_int_t)view.memory, "grants", (json_int_t)view.grants, "flush_failed",
	                 view.flush_failed);
	json_object_set_new(disk, "by_hand", json_boolean(view.by_hand));
	if (view.rings)
		json_object_set_new(disk, "rings",
		                    json_pack("{s:i, s:i, s:s, s:b}", "count", (int)view.rings,
		                              "pages", 1 << view.ring_order, "abi",
		                              abi_text(view.abi), "persistent", view.persistent));
	if (view.geometry.sector_size)
		json_object_set_new(disk, "geometry", geometry_json(&view.geometry));
	if (view.exported)
		json_object_set_new(disk, "nbd",
		                    json_pack("{s:o, s:i, s:i, s:i, s:b}", "socket", admin_text(view.nbd.socket),
		                              "clients", (int)view.nbd.clients, "running",
		                              (int)view.nbd.running, "waiting", (int)view.nbd.waiting, "read_only",
		                              view.nbd.read_only || !view.writable));
	if (list->settings)
		json_object_set_new(disk, "settings", settings_json(&view.settings));
	json_array_append_new(list->disks, disk);
}

json_t *admin_list_result(void)
{
	struct list_arg list = {json_array(), false};

	dev_for_each(list_one, &list);
	return json_pack("{s:o}", "disks", list.disks);
}

static void verb_list(struct admin_request *req)
{
	struct list_arg list = {json_array(), admin_bool(req, "settings")};

	if (admin_each_disk(req, list_one, &list))
		admin_reply(req, json_pack("{s:o}", "disks", list.disks));
	else
		json_decref(list.disks);
}

/* ---- pause, unpause ------------------------------------------------------------------------------ */

/* The end of a job that ran on the strand. */
static void finish_job(struct admin_request *req, struct device *dev, int err)
{
	char error[512];

	if (err >= 0) {
		admin_reply(req, json_pack("{s:s, s:s}", "disk", dev_name(dev), "state",
		                           dev_state_text(dev_state(dev))));
		return;
	}
	admin_why(req, dev, err, error, sizeof(error));
	if (err == -ENOTCONN || err == -EALREADY)
		admin_fail(req, ADMIN_E_STATE, dev_name(dev), NULL, "cannot %s %s: it is %s",
		           req->verb->name, dev_name(dev), dev_state_text(dev_state(dev)));
	else
		admin_fail(req, code_of(err) == ADMIN_E_NO_DISK ? ADMIN_E_FAILED : code_of(err),
		           dev_name(dev), NULL, "cannot %s %s: %s", req->verb->name, dev_name(dev), error);
}

static void pause_job(struct device *dev, void *arg)
{
	finish_job(arg, dev, dev_pause(dev));
}

static void unpause_job(struct device *dev, void *arg)
{
	struct admin_request *req = arg;

	finish_job(req, dev, dev_unpause(dev, admin_string(req, "params")));
}

static bool is_refusal(struct device *dev, int err)
{
	switch (err) {
	case -EPERM:
	case -EINVAL:
	case -EEXIST:
	case -EOPNOTSUPP:
	case -ENOTCONN:
	case -EALREADY:
		return true;
	case -ENOENT: /* an image, that was to be the next one */
	case -EACCES:
		return dev_state(dev) == DEV_CONNECTED;
	default:
		return false;
	}
}

const char *admin_why(struct admin_request *req, struct device *dev, int err, char *buf, size_t len)
{
	dev_error(dev, buf, len);
	if (is_refusal(dev, err))
		dev_set_error(dev, "%s", req->before);
	if (!*buf)
		snprintf(buf, len, "%s", strerror(-err));
	return buf;
}

static void strand_job(struct device *dev, void *arg)
{
	struct admin_request *req = arg;

	dev_error(dev, req->before, sizeof(req->before));
	/* What stood before us may have been a detach, of another administrator or of the toolstack. */
	if (dev_is_listed(dev))
		req->on_strand(dev, req);
	else
		fail_no_disk(req, dev_name(dev));
}

void admin_submit(struct admin_request *req, struct device *dev, void (*fn)(struct device *dev, void *arg))
{
	int err;

	log_request(req, dev_name(dev));
	req->on_strand = fn;
	err = dev_submit(dev, strand_job, req);
	if (err)
		admin_fail(req, code_of(err), dev_name(dev), NULL, "cannot %s %s: %s", req->verb->name,
		           dev_name(dev), strerror(-err));
	dev_put(dev);
}

void admin_on_strand(struct admin_request *req, void (*fn)(struct device *dev, void *arg))
{
	struct device *dev = admin_find_disk(req);

	if (dev)
		admin_submit(req, dev, fn);
}

static void verb_pause(struct admin_request *req)
{
	admin_on_strand(req, pause_job);
}

static void verb_unpause(struct admin_request *req)
{
	admin_on_strand(req, unpause_job);
}

/* ---- snapshot, swap ------------------------------------------------------------------------------ */

static void finish_swap(struct admin_request *req, struct device *dev, int err)
{
	char error[512];
	struct dev_view view;

	if (!err) {
		dev_look(dev, &view);
		admin_reply(req, json_pack("{s:s, s:o, s:s}", "disk", dev_name(dev), "params",
		                           admin_text(view.params), "state", dev_state_text(view.state)));
		return;
	}
	admin_why(req, dev, err, error, sizeof(error));
	admin_fail(req, code_of(err) == ADMIN_E_NO_DISK || code_of(err) == ADMIN_E_EXISTS ? ADMIN_E_FAILED : code_of(err), dev_name(dev),
	           dev_state(dev) == DEV_CONNECTED ? "the disk goes on on the image that it had" : NULL,
	           "cannot %s %s: %s", req->verb->name, dev_name(dev), error);
}

static void snapshot_job(struct device *dev, void *arg)
{
	struct admin_request *req = arg;

	finish_swap(req, dev, dev_snapshot(dev, admin_string(req, "overlay")));
}

static void swap_job(struct device *dev, void *arg)
{
	struct admin_request *req = arg;

	finish_swap(req, dev, dev_swap(dev, admin_string(req, "params")));
}

static void verb_snapshot(struct admin_request *req)
{
	admin_on_strand(req, snapshot_job);
}

static void verb_swap(struct admin_request *req)
{
	admin_on_strand(req, swap_job);
}

/* ---- resize, flush ------------------------------------------------------------------------------- */

static void fail_resize(struct admin_request *req, struct device *dev, int err)
{
	char error[512];

	admin_why(req, dev, err, error, sizeof(error));
	admin_fail(req, err == -EPERM ? ADMIN_E_PARAMS : code_of(err) == ADMIN_E_NO_DISK ? ADMIN_E_FAILED : code_of(err),
	           dev_name(dev), NULL, "cannot resize %s: %s", dev_name(dev), error);
}

/* size and relative, as bytes: 0 if none is given. False: it would be none. */
static bool new_size(const struct admin_request *req, uint64_t now, uint64_t *size)
{
	uint64_t given = (uint64_t)json_integer_value(json_object_get(req->params, "size"));

	*size = admin_bool(req, "relative") ? now + given : given;
	return *size <= INT64_MAX;
}

static void resize_job(struct device *dev, void *arg)
{
	struct admin_request *req = arg;
	uint64_t size = 0;
	int err = 0;

	if (admin_bool(req, "relative"))
		err = dev_size(dev, &size);
	if (!err && !new_size(req, size, &size)) {
		admin_fail(req, ADMIN_E_PARAMS, "size", NULL, "cannot resize %s: that is too large",
		           dev_name(dev));
		return;
	}
	if (!err)
		err = dev_resize(dev, size, admin_bool(req, "shrink"));
	if (!err)
		err = dev_size(dev, &size);
	if (err)
		fail_resize(req, dev, err);
	else
		admin_reply(req, json_pack("{s:s, s:I}", "disk", dev_name(dev), "size", (json_int_t)size));
}

static void verb_resize(struct admin_request *req)
{
	if (admin_given(req, "size") && json_integer_value(json_object_get(req->params, "size")) <= 0)
		admin_fail(req, ADMIN_E_PARAMS, "size", "in bytes", "a size is more than 0");
	else if (admin_bool(req, "relative") && !admin_given(req, "size"))
		admin_fail(req, ADMIN_E_PARAMS, "size", "in bytes", "resize with \"relative\" needs \"size\"");
	else
		admin_on_strand(req, resize_job);
}

static void flush_job(struct device *dev, void *arg)
{
	finish_job(arg, dev, dev_flush(dev));
}

static void verb_flush(struct admin_request *req)
{
	admin_on_strand(req, flush_job);
}

/* ---- attach, detach ------------------------------------------------------------------------------ */

/* The parameters "domid" and "vdev". False: the request has been answered. */
static bool parse_place(struct admin_request *req, uint32_t *domid, uint32_t *vdev)
{
	json_int_t dom = json_integer_value(json_object_get(req->params, "domid"));
	const char *name = admin_string(req, "vdev");

	if (dom < 0 || dom > 0x7fef) { /* DOMID_FIRST_RESERVED is 0x7ff0 */
		admin_fail(req, ADMIN_E_PARAMS, "domid", "xl list shows the domains",
		           "%lld is no domain's number", (long long)dom);
		return false;
	}
	if (vdev_parse(name, vdev)) {
		admin_fail(req, ADMIN_E_PARAMS, "vdev", "as the guest sees it: xvda, xvdb1, hdc, sdd, 51712",
		           "\"%.40s\" is no virtual disk's name", name);
		return false;
	}
	*domid = (uint32_t)dom;
	return true;
}

/* How attach and detach fail: without the store, nothing is said about the disk. */
static enum admin_code store_code(int err)
{
	return err == -ENOTCONN ? ADMIN_E_STORE : err == -ENOENT ? ADMIN_E_FAILED : code_of(err);
}

/* The text without the disk's name in front, which the answer gives itself. */
static const char *reason_of(const char *text, const char *name, int err)
{
	size_t len = strlen(name);

	if (!*text)
		return strerror(-err);
	return !strncmp(text, name, len) && !strncmp(text + len, ": ", 2) ? text + len + 2 : text;
}

static bool kind_is_valid(const char *kind)
{
	return *kind && strlen(kind) < 16 &&
	       strspn(kind, "abcdefghijklmnopqrstuvwxyz0123456789_-") == strlen(kind);
}

static void attach_job(struct pool_job *job)
{
	struct admin_request *req = container_of(job, struct admin_request, job);
	const char *kind = admin_string(req, "kind"), *params = admin_string(req, "params");
	uint32_t domid = (uint32_t)json_integer_value(json_object_get(req->params, "domid")), vdev = 0;
	char err_text[512] = "", name[DEV_NAME_LEN], text[DEV_NAME_LEN];
	bool cdrom = admin_bool(req, "cdrom");
	int err;

	vdev_parse(admin_string(req, "vdev"), &vdev);
	snprintf(name, sizeof(name), "%u/%s", domid, vdev_text(vdev, text, 16));
	err = admin_config_get()->store.attach(domid, vdev, kind ? kind : "vbd3", params,
	                                       !admin_bool(req, "read_only") && !cdrom, cdrom, err_text,
	                                       sizeof(err_text));
	if (err)
		admin_fail(req, store_code(err), name, NULL, "cannot attach %s: %s", name,
		           reason_of(err_text, name, err));
	else
		admin_reply(req, json_pack("{s:s}", "disk", name));
}

static bool need_store(struct admin_request *req, bool there)
{
	const struct admin_config *config = admin_config_get();

	if (there && config->control && (!config->store.connected || config->store.connected()))
		return true;
	admin_fail(req, ADMIN_E_STORE, NULL, "is xenstored running? systemctl status xenstored",
	           "no connection to the store");
	return false;
}

static void verb_attach(struct admin_request *req)
{
	const char *kind = admin_string(req, "kind");
	uint32_t domid, vdev;
	struct device *dev;
	char where[64];

	if (!parse_place(req, &domid, &vdev))
		return;
	if (kind && !kind_is_valid(kind)) {
		admin_fail(req, ADMIN_E_PARAMS, "kind", "vbd3 or qdisk", "\"%.40s\" is no kind of backend",
		           kind);
		return;
	}
	dev = dev_get(domid, vdev);
	if (dev) {
		admin_fail(req, ADMIN_E_EXISTS, dev_name(dev), "detach it first, or choose another name",
		           "%s is there already", dev_name(dev));
		dev_put(dev);
		return;
	}
	if (!need_store(req, admin_config_get()->store.attach != NULL))
		return;
	snprintf(where, sizeof(where), "%u/%u", domid, vdev);
	log_request(req, where);
	admin_run_control(req, attach_job);
}

static void detach_job(struct pool_job *job)
{
	struct admin_request *req = container_of(job, struct admin_request, job);
	struct device *dev = admin_find_disk(req);
	char err_text[512] = "";
	int err;

	if (!dev)
		return;
	err = admin_config_get()->store.detach(dev_domid(dev), dev_vdev(dev), admin_bool(req, "force"),
	                                       err_text, sizeof(err_text));
	if (err)
		admin_fail(req, store_code(err), dev_name(dev),
		           dev_domid(dev) == DEV_NBD_DOMID ? "no guest has it: use unexport"
		           : admin_bool(req, "force")      ? NULL
		                                           : "the guest must let go of it; or use force",
		           "cannot detach %s: %s", dev_name(dev), reason_of(err_text, dev_name(dev), err));
	else
		admin_reply(req, json_pack("{s:s}", "disk", dev_name(dev)));
	dev_put(dev);
}

static void verb_detach(struct admin_request *req)
{
	struct device *dev = admin_find_disk(req);

	if (!dev)
		return;
	if (need_store(req, admin_config_get()->store.detach != NULL)) {
		log_request(req, dev_name(dev));
		admin_run_control(req, detach_job);
	}
	dev_put(dev);
}

/* ---- set ----------------------------------------------------------------------------------------- */

/* The guest learns of discard when it connects; one that knows of it can be told no, and yes again. */
static bool set_works_at_once(struct device *dev, int key)
{
	struct dev_view view;

	if (key != SET_DISCARD)
		return key >= 0 && works_at_once((enum setting_key)key);
	dev_look(dev, &view);
	return view.geometry.discard;
}

static void finish_set(struct admin_request *req, struct device *dev, int err, const char *err_text)
{
	const char *key = admin_string(req, "key"), *value = admin_string(req, "value");
	int index = settings_key(key, strlen(key));

	if (err)
		admin_fail(req, ADMIN_E_PARAMS, index < 0 ? "key" : "value",
		           "ringdisk list --settings shows the settings", "cannot set %.60s: %s", key,
		           err_text[0] ? err_text : strerror(-err));
	else
		admin_reply(req, json_pack("{s:s, s:s, s:s, s:b}", "disk", dev_name(dev), "key", key,
		                           "value", value, "live", set_works_at_once(dev, index)));
}

static void set_reopen_job(struct device *dev, void *arg)
{
	struct admin_request *req = arg;
	char err_text[512] = "";
	int err = dev_set_reopen(dev, admin_string(req, "key"), admin_string(req, "value"), err_text,
	                         sizeof(err_text));

	finish_set(req, dev, err, err_text);
}

static void verb_set(struct admin_request *req)
{
	const char *key = admin_string(req, "key"), *value = admin_string(req, "value");
	char err_text[300] = "", what[200];
	struct device *dev;
	int err;

	if (settings_key(key, strlen(key)) == SET_CACHE) {
		admin_on_strand(req, set_reopen_job);
		return;
	}
	dev = admin_find_disk(req);
	if (!dev)
		return;
	snprintf(what, sizeof(what), "%s %.60s=%.60s", dev_name(dev), key, value);
	log_request(req, what);
	err = dev_set(dev, key, value, ORIGIN_SET, err_text, sizeof(err_text));
	finish_set(req, dev, err, err_text);
	dev_put(dev);
}

/* ---- the daemon ---------------------------------------------------------------------------------- */

static json_t *options_json(const struct rd_option *options)
{
	json_t *all = json_array();

	for (; options && options->key; options++)
		json_array_append_new(all, json_pack("{s:o, s:o}", "key", admin_text(options->key),
		                                     "help", admin_text(options->help)));
	return all;
}

static json_t *driver_json(const struct drv_entry *entry)
{
	const struct rd_driver *driver = entry->driver;

	if (!driver)
		return json_pack("{s:o, s:o}", "file", admin_text(entry->file), "error",
		                 admin_text(entry->error ? entry->error : "unusable"));
	return json_pack("{s:o, s:o, s:o, s:o, s:i, s:o}", "file", admin_text(entry->file), "name",
	                 admin_text(driver->name), "version", admin_text(driver->version),
	                 "description", admin_text(driver->description), "api", (int)driver->api,
	                 "options", options_json(driver->options));
}

static void verb_drivers(struct admin_request *req)
{
	json_t *all = json_array();
	const struct drv_entry *entry;

	for (unsigned i = 0; (entry = drv_at(i)); i++)
		json_array_append_new(all, driver_json(entry));
	admin_reply(req, json_pack("{s:o}", "drivers", all));
}

static json_t *levels_json(void)
{
	json_t *levels = json_object();

	for (unsigned subsys = 0; subsys < LOG_SUBSYS_COUNT; subsys++)
		json_object_set_new(levels, log_subsys_name(subsys),
		                    json_string(log_level_name(log_get_level(subsys))));
	return levels;
}

/* "main, config, ...": for hints. */
static const char *name_list(const char *(*name)(int), int count, char *buf, size_t size)
{
	size_t n = 0;

	buf[0] = 0;
	for (int i = 0; i < count && n < size; i++)
		n += (size_t)snprintf(buf + n, size - n, "%s%s", i ? ", " : "one of ", name(i));
	return buf;
}

static const char *subsys_name(int i)
{
	return log_subsys_name((enum log_subsys)i);
}

static const char *level_name(int i)
{
	return log_level_name((enum log_level)i);
}

static void verb_log_level(struct admin_request *req)
{
	const char *subsys_text = admin_string(req, "subsystem"), *level_text = admin_string(req, "level");
	bool all = !subsys_text || !strcmp(subsys_text, "all");
	int subsys = all ? 0 : log_subsys_by_name(subsys_text);
	int level = level_text ? log_level_by_name(level_text) : 0;
	char names[300];

	if (subsys < 0) {
		admin_fail(req, ADMIN_E_PARAMS, "subsystem",
		           name_list(subsys_name, LOG_SUBSYS_COUNT, names, sizeof(names)),
		           "there is no subsystem \"%.40s\"", subsys_text);
		return;
	}
	if (level < 0) {
		admin_fail(req, ADMIN_E_PARAMS, "level",
		           name_list(level_name, LOG_LVL_DEBUG + 1, names, sizeof(names)),
		           "there is no level \"%.40s\"", level_text);
		return;
	}
	if (level_text) {
		snprintf(names, sizeof(names), "%s %s", all ? "all" : subsys_text, level_text);
		log_request(req, names);
		if (all)
			log_set_level_all((enum log_level)level);
		else
			log_set_level((enum log_subsys)subsys, (enum log_level)level);
	}
	admin_reply(req, json_pack("{s:o}", "levels", levels_json()));
}

static void verb_config(struct admin_request *req)
{
	const struct admin_config *config = admin_config_get();

	admin_reply(req, config->config ? config->config()
					: json_pack("{s:[], s:[]}", "options", "settings"));
}

static void verb_version(struct admin_request *req)
{
	const struct admin_config *config = admin_config_get();

	admin_reply(req,
	            json_pack("{s:s, s:i, s:i, s:i, s:o, s:o}", "version", PACKAGE_VERSION, "protocol",
	                      PROTOCOL, "driver_api", RD_DRIVER_API, "pid", (int)getpid(), "hypervisor",
	                      admin_text(config->hyp), "store",
	                      config->store.connected ? json_boolean(config->store.connected())
	                                              : json_null()));
}

static void verb_shutdown(struct admin_request *req)
{
	const struct admin_config *config = admin_config_get();

	log_request(req, "asked for");
	admin_reply(req, json_object());
	if (config->shutdown)
		config->shutdown();
}

/* ---- rpc.discover -------------------------------------------------------------------------------- */

static json_t *param_json(const struct admin_param *param)
{
	static const char *const types[] = {
		[ADMIN_STRING] = "string",
		[ADMIN_INTEGER] = "integer",
		[ADMIN_BOOLEAN] = "boolean",
	};

	return json_pack("{s:s, s:s, s:b, s:b, s:{s:s}}", "name", param->name, "description", param->help,
	                 "required", param->required, "privileged", param->privileged, "schema", "type",
	                 types[param->type]);
}

static json_t *verb_json(const struct admin_verb *verb)
{
	json_t *params = json_array();

	for (const struct admin_param *param = verb->params; param && param->name; param++)
		json_array_append_new(params, param_json(param));
	return json_pack("{s:s, s:s, s:b, s:s, s:o}", "name", verb->name, "description", verb->help,
	                 "privileged", verb->privileged, "paramStructure", "by-name", "params", params);
}

static void verb_discover(struct admin_request *req)
{
	json_t *methods = json_array(), *errors = json_array();

	for (const struct admin_verb *verb = admin_verbs; verb->name; verb++)
		json_array_append_new(methods, verb_json(verb));
	for (const struct admin_error *error = admin_errors; error->what; error++)
		json_array_append_new(errors, json_pack("{s:i, s:s, s:s}", "code", (int)error->code,
		                                        "what", error->what, "message", error->meaning));
	admin_reply(req, json_pack("{s:{s:s, s:s, s:i}, s:o, s:o}", "info", "title", "ringdiskd", "version",
	                           PACKAGE_VERSION, "protocol", PROTOCOL, "methods", methods, "errors",
	                           errors));
}

/* ---- the table ----------------------------------------------------------------------------------- */

#define END {NULL, ADMIN_STRING, false, false, NULL}

static const struct admin_param stats_params[] = {
	{"disk", ADMIN_STRING, false, false, "only this disk, as DOMID/VDEV: 5/xvda"},
	{"histogram", ADMIN_BOOLEAN, false, false, "with the times in all detail"},
	END,
};

static const struct admin_param disk_required[] = {
	{"disk", ADMIN_STRING, true, false, "the disk, as DOMID/VDEV: 5/xvda"},
	END,
};

static const struct admin_param list_params[] = {
	{"disk", ADMIN_STRING, false, false, "only this disk, as DOMID/VDEV: 5/xvda"},
	{"settings", ADMIN_BOOLEAN, false, false, "with each setting, its value and its origin"},
	END,
};

static const struct admin_param attach_params[] = {
	{"domid", ADMIN_INTEGER, true, false, "the domain"},
	{"vdev", ADMIN_STRING, true, false, "the virtual disk: xvda, hdc, 51712"},
	{"params", ADMIN_STRING, true, false, "driver[,key=value...]:target"},
	{"kind", ADMIN_STRING, false, false, "backend directory: vbd3 (default) or qdisk"},
	{"read_only", ADMIN_BOOLEAN, false, false, "the guest may not write"},
	{"cdrom", ADMIN_BOOLEAN, false, false, "shown to the guest as a CD-ROM; read-only"},
	END,
};

static const struct admin_param detach_params[] = {
	{"disk", ADMIN_STRING, true, false, "the disk, as DOMID/VDEV: 5/xvda"},
	{"force", ADMIN_BOOLEAN, false, false, "do not wait for the guest"},
	END,
};

static const struct admin_param unpause_params[] = {
	{"disk", ADMIN_STRING, true, false, "the disk, as DOMID/VDEV: 5/xvda"},
	{"params", ADMIN_STRING, false, false, "go on, on this image: driver[,key=value...]:target"},
	END,
};

static const struct admin_param snapshot_params[] = {
	{"disk", ADMIN_STRING, true, false, "the disk, as DOMID/VDEV: 5/xvda"},
	{"overlay", ADMIN_STRING, true, false, "the new image: driver[,key=value...]:/path, of a file that is not there"},
	END,
};

static const struct admin_param swap_params[] = {
	{"disk", ADMIN_STRING, true, false, "the disk, as DOMID/VDEV: 5/xvda"},
	{"params", ADMIN_STRING, true, false, "the image: driver[,key=value...]:target"},
	END,
};

static const struct admin_param trace_params[] = {
	{"disk", ADMIN_STRING, true, false, "the disk, as DOMID/VDEV: 5/xvda"},
	{"from", ADMIN_STRING, false, false, "the \"next\" of the answer before; without it, from now on"},
	{"op", ADMIN_STRING, false, false, "only these of read, write, flush, discard, with ',' between them"},
	{"slower_than", ADMIN_INTEGER, false, false, "only what took so many ns or longer"},
	{"errors", ADMIN_BOOLEAN, false, false, "only what failed"},
	END,
};

static const struct admin_param events_params[] = {
	{"disk", ADMIN_STRING, false, false, "only of this disk, which need not be there yet"},
	END,
};

static const struct admin_param resize_params[] = {
	{"disk", ADMIN_STRING, true, false, "the disk, as DOMID/VDEV: 5/xvda"},
	{"size", ADMIN_INTEGER, false, false, "bytes; without it only look whether the size has changed"},
	{"relative", ADMIN_BOOLEAN, false, false, "size is added to what there is"},
	{"shrink", ADMIN_BOOLEAN, false, false, "it may become smaller: what is behind is lost"},
	END,
};

static const struct admin_param export_params[] = {
	{"disk", ADMIN_STRING, false, false, "the disk, as DOMID/VDEV: 5/xvda"},
	{"params", ADMIN_STRING, false, false, "or an image that no disk has: driver[,key=value...]:target"},
	{"socket", ADMIN_STRING, false, false, "a path, or a name in the directory of NBD sockets"},
	{"read_only", ADMIN_BOOLEAN, false, false, "clients may not write"},
	END,
};

static const struct admin_param check_params[] = {
	{"disk", ADMIN_STRING, true, false, "the disk, as DOMID/VDEV: 5/xvda"},
	{"seconds", ADMIN_INTEGER, false, false, "give up after so many; 10 without it"},
	END,
};

static const struct admin_param set_params[] = {
	{"disk", ADMIN_STRING, true, false, "the disk, as DOMID/VDEV: 5/xvda"},
	{"key", ADMIN_STRING, true, false, "the setting"},
	{"value", ADMIN_STRING, true, false, "its value, as text"},
	END,
};

static const struct admin_param log_level_params[] = {
	{"subsystem", ADMIN_STRING, false, false, "only this one; \"all\" is the default"},
	{"level", ADMIN_STRING, false, true, "set it: err, warn, info or debug"},
	END,
};

const struct admin_verb admin_verbs[] = {
	{"list", false, verb_list, "the disks: state, image, geometry, settings", list_params},
	{"stats", false, admin_verb_stats, "counters and times of the disks, and the thread pools", stats_params},
	{"attach", true, verb_attach, "give a domain a disk; answers when it can be connected",
         attach_params},
	{"detach", true, verb_detach, "take a disk away; answers when it is gone", detach_params},
	{"pause", true, verb_pause, "stop serving, once what is in flight is answered", disk_required},
	{"unpause", true, verb_unpause, "go on, on another image if told", unpause_params},
	{"snapshot", true, verb_snapshot, "make a new image on top of the present one, and go on on that", snapshot_params},
	{"swap", true, verb_swap, "go on on another image", swap_params},
	{"events", false, admin_verb_events, "from now on tell what happens, as it happens", events_params},
	{"trace", true, admin_verb_trace, "the requests of a disk that have been answered since", trace_params},
	{"resize", true, verb_resize, "change the size of a disk's image, and tell the guest", resize_params},
	{"flush", true, verb_flush, "make durable what a disk has answered", disk_required},
	{"check", true, admin_verb_check, "check the metadata of a disk's image, while its requests wait", check_params},
	{"set", true, verb_set, "change a setting of a disk", set_params},
	{"export", true, admin_verb_export, "let NBD clients on this host use a disk, or an image", export_params},
	{"unexport", true, admin_verb_unexport, "drop a disk's NBD clients, and let no more come", disk_required},
	{"drivers", false, verb_drivers, "the image drivers, and what is wrong with unusable ones", NULL},
	{"config", false, verb_config, "what is in force of the configuration, and where it came from", NULL},
	{"log-level", false, verb_log_level, "show or set how much is logged", log_level_params},
	{"version", false, verb_version, "the daemon's version, and what it runs on", NULL},
	{"shutdown", true, verb_shutdown, "close all disks and end the daemon", NULL},
	{"rpc.discover", false, verb_discover, "this list, with parameters and errors", NULL},
	{NULL, false, NULL, NULL, NULL},
};

const struct admin_verb *admin_verb_find(const char *name)
{
	for (const struct admin_verb *verb = admin_verbs; verb->name; verb++)
		if (!strcmp(verb->name, name))
			return verb;
	return NULL;
}
