/*
 * admin-nbd.c - the verbs export and unexport
 *
 * A disk is exported on its strand, and so is an image that has no disk: it gets one that no guest has, which
 * ends with unexport.
 */
#include "admin-internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "device.h"
#include "log.h"

static void fail(struct admin_request *req, struct device *dev, int err)
{
	enum admin_code code = err == -EEXIST || err == -EADDRINUSE || err == -EINVAL ? ADMIN_E_STATE
			       : err == -ETIMEDOUT		? ADMIN_E_TIMEOUT
								: ADMIN_E_FAILED;
	char text[512];

	dev_error(dev, text, sizeof(text));
	admin_fail(req, code, dev_name(dev), NULL, "cannot %s %s: %s", req->verb->name, dev_name(dev),
	           text[0] ? text : strerror(-err));
}

static void reply(struct admin_request *req, struct device *dev)
{
	struct dev_view view;

	dev_look(dev, &view);
	admin_reply(req, json_pack("{s:s, s:o, s:b}", "disk", dev_name(dev), "socket",
	                           admin_text(view.nbd.socket), "read_only",
	                           view.nbd.read_only || !view.writable));
}

static bool is_export(const struct device *dev)
{
	return dev_domid(dev) == DEV_NBD_DOMID;
}

static void export_job(struct device *dev, void *arg)
{
	struct admin_request *req = arg;
	bool is_new = admin_given(req, "params");
	/* An image of its own is to be told of now if it cannot be opened. */
	int err = is_new ? dev_probe(dev) : 0;

	if (!err)
		err = dev_export(dev, admin_string(req, "socket"), admin_bool(req, "read_only"));
	if (!err) {
		reply(req, dev);
		return;
	}
	/* Gone before it is said. */
	if (is_new)
		dev_destroy(dev);
	fail(req, dev, err);
}

static void unexport_job(struct device *dev, void *arg)
{
	struct admin_request *req = arg;
	int err = dev_unexport(dev);

	if (is_export(dev))
		dev_destroy(dev);
	if (err)
		fail(req, dev, err);
	else
		admin_reply(req, json_pack("{s:s}", "disk", dev_name(dev)));
}

/* As a disk of a guest has them: of the file, by its name and params. */
static void follow_rules(struct device *dev)
{
	const struct admin_config *config = admin_config_get();
	struct settings_rules *rules = config->rules ? config->rules() : NULL;

	if (rules)
		dev_reload(dev, rules);
	settings_rules_free(rules);
}

static void export_image(struct admin_request *req, const char *params)
{
	struct settings settings;
	struct device *dev;
	int err;

	settings_init(&settings);
	err = dev_create_export(params, !admin_bool(req, "read_only"), &settings, &dev);
	if (err)
		admin_fail(req, ADMIN_E_FAILED, "params", NULL, "cannot export %.200s: %s", params, strerror(-err));
	if (err)
		return;
	follow_rules(dev);
	admin_submit(req, dev, export_job);
}

void admin_verb_export(struct admin_request *req)
{
	const char *params = admin_string(req, "params");
	struct device *dev;

	if (!params == !admin_given(req, "disk")) {
		admin_fail(req, ADMIN_E_PARAMS, "disk", NULL, "one of disk and params must be given");
		return;
	}
	if (params) {
		export_image(req, params);
		return;
	}
	dev = admin_find_disk(req);
	if (dev)
		admin_submit(req, dev, export_job);
}

void admin_verb_unexport(struct admin_request *req)
{
	struct device *dev = admin_find_disk(req);

	if (!dev)
		return;
	/* Its image may still be being opened; that of a guest's disk is not ours to give up. */
	if (is_export(dev))
		dev_hurry(dev, true);
	admin_submit(req, dev, unexport_job);
}
