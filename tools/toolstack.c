/*
 * What libxl writes and removes for a disk (device_disk_add and libxl__device_generic_add of 4.17), on the
 * loopback's store.
 */
#include "toolstack.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *kind_of(const struct ts_vbd *vbd)
{
	return vbd->kind ? vbd->kind : "qdisk";
}

void ts_backend_path(const struct ts_vbd *vbd, char path[TS_PATH_MAX])
{
	snprintf(path, TS_PATH_MAX, "/local/domain/0/backend/%s/%" PRIu32 "/%" PRIu32, kind_of(vbd),
		 vbd->domid, vbd->vdev);
}

void ts_frontend_path(const struct ts_vbd *vbd, char path[TS_PATH_MAX])
{
	snprintf(path, TS_PATH_MAX, "/local/domain/%" PRIu32 "/device/vbd/%" PRIu32, vbd->domid,
		 vbd->vdev);
}

static int put(struct guest *ts, hyp_txn txn, const char *dir, const char *key, const char *value)
{
	char path[2 * TS_PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, key);
	return guest_write(ts, txn, path, value);
}

static int put_u32(struct guest *ts, hyp_txn txn, const char *dir, const char *key, uint32_t value)
{
	char text[16];

	snprintf(text, sizeof(text), "%" PRIu32, value);
	return put(ts, txn, dir, key, text);
}

/* A directory that owner owns and reader may read. What is made in it inherits that. */
static int make_dir(struct guest *ts, hyp_txn txn, const char *dir, uint32_t owner, uint32_t reader)
{
	struct hyp_perm perms[2] = {
		{ .domid = owner, .perm = HYP_PERM_NONE },
		{ .domid = reader, .perm = HYP_PERM_READ },
	};
	int rc = guest_rm(ts, txn, dir);

	if (rc && rc != -ENOENT)
		return rc;
	rc = guest_write(ts, txn, dir, "");
	return rc ? rc : guest_set_perms(ts, txn, dir, perms, 2);
}

static const char *dev_name(const struct ts_vbd *vbd, char buf[16])
{
	if (vbd->vdev >> 8 == 202 && vbd->vdev % 16 == 0)
		snprintf(buf, 16, "xvd%c", (char)('a' + (vbd->vdev & 0xff) / 16));
	else
		snprintf(buf, 16, "%" PRIu32, vbd->vdev);
	return buf;
}

static int write_backend(struct guest *ts, hyp_txn txn, const struct ts_vbd *vbd, const char *be,
			 const char *fe)
{
	char dev[16];
	const char *nodes[][2] = {
		{ "frontend", fe },
		{ "params", vbd->params },
		{ "online", "1" },
		{ "removable", vbd->removable ? "1" : "0" },
		{ "bootable", "1" },
		{ "state", "1" },
		{ "dev", dev_name(vbd, dev) },
		{ "type", kind_of(vbd) },
		{ "mode", vbd->mode ? vbd->mode : "w" },
		{ "device-type", vbd->device_type ? vbd->device_type : "disk" },
		{ "discard-enable", vbd->no_discard ? "0" : "1" },
		{ "specification", "xen" },
	};
	int rc = make_dir(ts, txn, be, 0, vbd->domid);

	if (!rc)
		rc = put_u32(ts, txn, be, "frontend-id", vbd->domid);
	if (!rc && vbd->direct_io_safe)
		rc = put(ts, txn, be, "direct-io-safe", "1");
	for (size_t i = 0; !rc && i < sizeof(nodes) / sizeof(nodes[0]); i++)
		rc = put(ts, txn, be, nodes[i][0], nodes[i][1]);
	return rc;
}

static int write_frontend(struct guest *ts, hyp_txn txn, const struct ts_vbd *vbd, const char *be,
			  const char *fe)
{
	int rc = make_dir(ts, txn, fe, vbd->domid, 0);

	if (!rc)
		rc = put(ts, txn, fe, "backend", be);
	if (!rc)
		rc = put(ts, txn, fe, "backend-id", "0");
	if (!rc)
		rc = put(ts, txn, fe, "state", "1");
	if (!rc)
		rc = put_u32(ts, txn, fe, "virtual-device", vbd->vdev);
	if (!rc)
		rc = put(ts, txn, fe, "device-type", vbd->device_type ? vbd->device_type : "disk");
	if (!rc)
		rc = put(ts, txn, fe, "trusted", "1");
	if (!rc && vbd->protocol)
		rc = put(ts, txn, fe, "protocol", vbd->protocol);
	return rc;
}

int ts_attach(struct guest *ts, const struct ts_vbd *vbd)
{
	char be[TS_PATH_MAX], fe[TS_PATH_MAX];
	hyp_txn txn;
	int rc, ended;

	ts_backend_path(vbd, be);
	ts_frontend_path(vbd, fe);
	do {
		rc = guest_begin(ts, &txn);
		if (rc)
			return rc;
		rc = write_frontend(ts, txn, vbd, be, fe);
		if (!rc)
			rc = write_backend(ts, txn, vbd, be, fe);
		ended = guest_end(ts, txn, !rc);
	} while (!rc && ended == -EAGAIN);
	return rc ? rc : ended;
}

int ts_remove(struct guest *ts, const struct ts_vbd *vbd)
{
	char be[TS_PATH_MAX], fe[TS_PATH_MAX];
	int rc, rc2;

	ts_backend_path(vbd, be);
	ts_frontend_path(vbd, fe);
	rc = guest_rm(ts, HYP_TXN_NONE, fe);
	rc2 = guest_rm(ts, HYP_TXN_NONE, be);
	if (rc == -ENOENT)
		rc = 0;
	return rc ? rc : rc2 == -ENOENT ? 0 : rc2;
}

int ts_detach_start(struct guest *ts, const struct ts_vbd *vbd)
{
	char be[TS_PATH_MAX];
	hyp_txn txn;
	int rc, ended;

	ts_backend_path(vbd, be);
	do {
		rc = guest_begin(ts, &txn);
		if (rc)
			return rc;
		rc = put(ts, txn, be, "online", "0");
		if (!rc)
			rc = put(ts, txn, be, "state", "5");
		ended = guest_end(ts, txn, !rc);
	} while (!rc && ended == -EAGAIN);
	return rc ? rc : ended;
}

static int wait_state(struct guest *ts, const struct ts_vbd *vbd, const char *const *states,
		      int timeout_ms)
{
	char path[TS_PATH_MAX + 8], be[TS_PATH_MAX];

	ts_backend_path(vbd, be);
	snprintf(path, sizeof(path), "%s/state", be);
	return guest_wait_for(ts, path, states, timeout_ms);
}

int ts_wait_backend(struct guest *ts, const struct ts_vbd *vbd, const char *state, int timeout_ms)
{
	const char *states[] = { state, NULL };
	int rc = wait_state(ts, vbd, states, timeout_ms);

	return rc < 0 ? rc : 0;
}

int ts_detach(struct guest *ts, const struct ts_vbd *vbd, int timeout_ms)
{
	static const char *const closed_or_gone[] = { "6", "", NULL };
	int rc = ts_detach_start(ts, vbd);

	if (rc)
		return rc;
	rc = wait_state(ts, vbd, closed_or_gone, timeout_ms);
	return rc < 0 ? rc : ts_remove(ts, vbd);
}

char *ts_error(struct guest *ts, const struct ts_vbd *vbd)
{
	char path[TS_PATH_MAX], *error = NULL;

	snprintf(path, sizeof(path),
		 "/local/domain/0/error/backend/%s/%" PRIu32 "/%" PRIu32 "/error", kind_of(vbd),
		 vbd->domid, vbd->vdev);
	if (guest_read(ts, HYP_TXN_NONE, path, &error))
		return NULL;
	return error;
}
