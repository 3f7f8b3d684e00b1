/*
 * xenbus.h on the loopback hypervisor: this test is the toolstack and the guest; the disks are stubs that
 * check the order of the calls.
 */
#include "test.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "guest.h"
#include "log.h"
#include "pool.h"
#include "shm.h"
#include "stub-device.h"
#include "xenbus-store.h"
#include "xenbus.h"

#define DOM  5u
#define VDEV 51712u
#define MS   10000 /* no wait is meant to take a tenth of this */

struct fixture {
	char dir[64], socket[96];
	struct hyp *hyp;
	struct hyp_ops ops; /* a copy, to be another domain */
	struct pool *control;
	struct guest *tool, *guest;
	struct settings_rules *rules;
	uint32_t us;
	const char *kind;
	bool running;
};

/* A driver domain, if us is not 0. */
static uint32_t the_domid;
static uint32_t domid_of(struct hyp *hyp)
{
	(void)hyp;
	return the_domid;
}

static void start(struct fixture *f, enum claim_policy claim)
{
	static const char *const kinds[] = { "qdisk", "vbd3", NULL };
	const struct xenbus_config config = {
		.hyp = f->hyp,
		.kinds = kinds,
		.claim = claim,
		.rules = f->rules,
	};

	assert_int_equal(xenbus_start(&config), 0);
	f->running = true;
}

static void stop(struct fixture *f)
{
	if (f->running)
		xenbus_stop();
	f->running = false;
}

static int setup_as(void **state, uint32_t us)
{
	struct fixture *f = calloc(1, sizeof(*f));

	the_domid = f->us = us;
	f->kind = "qdisk";
	strcpy(f->dir, "/tmp/rd-xenbus-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->socket, sizeof(f->socket), "%s/sock", f->dir);
	assert_int_equal(hyp_loopback_open(f->socket, &f->hyp), 0);
	f->ops = *f->hyp->ops;
	f->ops.domid = domid_of;
	f->hyp->ops = &f->ops;
	assert_int_equal(pool_create("c", 2, 16, &f->control), 0);
	stub_init(f->control);
	assert_int_equal(guest_toolstack(f->socket, &f->tool), 0);
	assert_int_equal(guest_open(f->socket, DOM, 4, 16, &f->guest), 0);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	int ret = setup_as(state, 0);

	start(*state, CLAIM_ALL);
	return ret;
}

static int setup_stopped(void **state)
{
	return setup_as(state, 0);
}

static int setup_driver_domain(void **state)
{
	int ret = setup_as(state, 3);

	start(*state, CLAIM_ALL);
	return ret;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	stop(f);
	pool_destroy(f->control);
	assert_int_equal(stub_end(), 0);
	guest_close(f->guest);
	guest_close(f->tool);
	f->ops.close(f->hyp);
	settings_rules_free(f->rules);
	rmdir(f->dir);
	free(f);
	return 0;
}

/* ---- the toolstack's and the guest's hands ------------------------------------------------------- */

static const char *be(struct fixture *f, const char *key)
{
	static char path[4][256];
	static int next;
	char *p = path[next++ % 4];

	snprintf(p, 256, "/local/domain/%u/backend/%s/%u/%u%s%s", f->us, f->kind, DOM, VDEV,
		 key[0] ? "/" : "", key);
	return p;
}

static const char *fe(const char *key)
{
	static char path[4][256];
	static int next;
	char *p = path[next++ % 4];

	snprintf(p, 256, "/local/domain/%u/device/vbd/%u%s%s", DOM, VDEV, key[0] ? "/" : "", key);
	return p;
}

static void put(struct fixture *f, const char *path, const char *value)
{
	assert_int_equal(guest_write(f->tool, HYP_TXN_NONE, path, value), 0);
}

/* libxl's nodes, in one transaction; extra: key, value, ..., NULL for the backend. */
static void attach(struct fixture *f, const char *params, const char *mode,
		   const char *const *extra)
{
	const struct hyp_perm fe_perms[] = { { DOM, HYP_PERM_NONE }, { f->us, HYP_PERM_READ } };
	const struct hyp_perm be_perms[] = { { f->us, HYP_PERM_NONE }, { DOM, HYP_PERM_READ } };
	char text[16];
	hyp_txn t;

	do {
		assert_int_equal(guest_begin(f->tool, &t), 0);
		guest_write(f->tool, t, fe(""), "");
		guest_set_perms(f->tool, t, fe(""), fe_perms, 2);
		guest_write(f->tool, t, fe("backend"), be(f, ""));
		guest_write(f->tool, t, fe("state"), "1");
		guest_write(f->tool, t, be(f, ""), "");
		guest_set_perms(f->tool, t, be(f, ""), be_perms, 2);
		guest_write(f->tool, t, be(f, "frontend"), fe(""));
		snprintf(text, sizeof(text), "%u", DOM);
		guest_write(f->tool, t, be(f, "frontend-id"), text);
		guest_write(f->tool, t, be(f, "online"), "1");
		guest_write(f->tool, t, be(f, "mode"), mode);
		guest_write(f->tool, t, be(f, "device-type"), "disk");
		guest_write(f->tool, t, be(f, "params"), params);
		for (const char *const *x = extra; x && *x; x += 2)
			guest_write(f->tool, t, be(f, x[0]), x[1]);
		guest_write(f->tool, t, be(f, "state"), "1");
	} while (guest_end(f->tool, t, true) == -EAGAIN);
}

static void detach(struct fixture *f)
{
	put(f, be(f, "online"), "0");
	put(f, be(f, "state"), "5");
}

static void wait_is(struct fixture *f, const char *path, const char *value)
{
	const char *const values[] = { value, NULL };

	if (guest_wait_for(f->tool, path, values, MS)) {
		char *now = NULL;

		guest_read(f->tool, HYP_TXN_NONE, path, &now);
		fail_msg("%s is '%s', not '%s'", path, now ? now : "(none)", value);
	}
}

static void wait_be(struct fixture *f, int state)
{
	char text[4];

	snprintf(text, sizeof(text), "%d", state);
	wait_is(f, be(f, "state"), text);
}

static void is(struct fixture *f, const char *path, const char *value)
{
	char *now = NULL;

	if (guest_read(f->tool, HYP_TXN_NONE, path, &now) || strcmp(now, value))
		fail_msg("%s is '%s', not '%s'", path, now ? now : "(none)", value);
	free(now);
}

static bool exists(struct fixture *f, const char *path)
{
	char *now;

	if (guest_read(f->tool, HYP_TXN_NONE, path, &now))
		return false;
	free(now);
	return true;
}

#define WAIT(cond) wait_true(cond, MS)

static void fe_state(struct fixture *f, int state)
{
	assert_int_equal(guest_writef(f->guest, HYP_TXN_NONE, fe("state"), "%d", state), 0);
}

/* As blkfront: the keys, then Initialised. */
static void fe_ready(struct fixture *f, unsigned gref)
{
	guest_writef(f->guest, HYP_TXN_NONE, fe("ring-ref"), "%u", gref);
	guest_writef(f->guest, HYP_TXN_NONE, fe("event-channel"), "%u", 7);
	guest_write(f->guest, HYP_TXN_NONE, fe("protocol"), "x86_64-abi");
	guest_write(f->guest, HYP_TXN_NONE, fe("feature-persistent"), "1");
	fe_state(f, 3);
}

static void connect_disk(struct fixture *f)
{
	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 2);
	fe_ready(f, 8);
	wait_be(f, 4);
	fe_state(f, 4);
}

static char *error_node(struct fixture *f)
{
	static char path[256];

	snprintf(path, sizeof(path), "/local/domain/%u/error/backend/%s/%u/%u/error", f->us,
		 f->kind, DOM, VDEV);
	return path;
}

/* ---- tests --------------------------------------------------------------------------------------- */

static void handshake(void **state)
{
	struct fixture *f = *state;
	struct stub_view v;

	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 2);
	is(f, be(f, "max-ring-page-order"), "4");
	is(f, be(f, "multi-queue-max-queues"), "4");
	is(f, be(f, "feature-max-indirect-segments"), "256");
	is(f, be(f, "hotplug-status"), "connected");
	assert_true(stub_look(DOM, VDEV, &v));
	assert_int_equal(v.state, DEV_IDLE);
	assert_true(v.spec.writable);
	assert_string_equal(v.params, "raw:/img");

	fe_ready(f, 8);
	wait_be(f, 4);
	is(f, be(f, "sectors"), "2048");
	is(f, be(f, "sector-size"), "512");
	is(f, be(f, "physical-sector-size"), "4096");
	is(f, be(f, "info"), "0");
	is(f, be(f, "feature-flush-cache"), "1");
	is(f, be(f, "feature-barrier"), "0");
	is(f, be(f, "feature-discard"), "1");
	is(f, be(f, "discard-granularity"), "4096");
	is(f, be(f, "feature-persistent"), "1");
	assert_true(stub_look(DOM, VDEV, &v));
	assert_int_equal(v.state, DEV_CONNECTED);
	assert_int_equal(v.rings.ring[0].gref[0], 8);
	assert_int_equal(v.rings.ring[0].evtchn, 7);
	assert_int_equal(v.rings.max_indirect, 256);
	fe_state(f, 4);

	/* close, begin again as after kexec: every state is seen */
	fe_state(f, 5);
	wait_be(f, 5);
	fe_state(f, 6);
	wait_be(f, 6);
	assert_int_equal(stub_connected(), 0);
	fe_state(f, 1);
	wait_be(f, 2);
	fe_ready(f, 9);
	wait_be(f, 4);
	assert_true(stub_look(DOM, VDEV, &v));
	assert_int_equal(v.rings.ring[0].gref[0], 9);
}

static void removal(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	detach(f);
	/* the guest lets go */
	fe_state(f, 5);
	fe_state(f, 6);
	wait_be(f, 6);
	WAIT(stub_count() == 0);
	assert_true(exists(f, be(f, "state"))); /* libxl removes it */
	guest_rm(f->tool, HYP_TXN_NONE, be(f, ""));
	guest_rm(f->tool, HYP_TXN_NONE, fe(""));
	/* and may come again under the same name */
	connect_disk(f);
}

static void removal_waits_for_the_guest(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	detach(f);
	/* something else that takes as long as noticing it would */
	attach(f, "raw:/img", "w", NULL); /* anew: the first is dropped, the second offered */
	wait_be(f, 2);
	fe_ready(f, 8);
	wait_be(f, 4);
	detach(f);
	wait_be(f, 5);
	assert_int_equal(stub_connected(), 1);
	fe_state(f, 6);
	wait_be(f, 6);
}

static void removal_before_the_guest_came(void **state)
{
	struct fixture *f = *state;

	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 2);
	detach(f);
	wait_be(f, 6);
	WAIT(stub_count() == 0);
}

static void node_vanishes(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	assert_int_equal(guest_rm(f->tool, HYP_TXN_NONE, be(f, "")), 0);
	WAIT(stub_count() == 0);
	stop(f);
	assert_false(exists(f, be(f, ""))); /* nothing brought it back to life */
}

static void frontend_vanishes(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	assert_int_equal(guest_rm(f->tool, HYP_TXN_NONE, fe("")), 0);
	wait_be(f, 6);
	assert_int_equal(stub_connected(), 0);
}

static void domain_dies(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	guest_vanish(f->guest);
	wait_be(f, 6);
	assert_int_equal(stub_connected(), 0);
}

static void libxl_writes_closed_itself(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	put(f, be(f, "state"), "6");
	WAIT(stub_connected() == 0);
	is(f, be(f, "state"), "6");
}

static void state_is_garbage(void **state)
{
	static const char *const garbage[] = { "", "9", "-1", "44", "four", "3", "7", "8", "0" };
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(garbage); i++) {
		connect_disk(f);
		put(f, be(f, "state"), garbage[i]);
		wait_be(f, 6);
		guest_rm(f->tool, HYP_TXN_NONE, be(f, ""));
		guest_rm(f->tool, HYP_TXN_NONE, fe(""));
		WAIT(stub_count() == 0);
	}
}

static void resume_in_place(void **state)
{
	struct fixture *f = *state;
	struct stub_view v;

	connect_disk(f);
	fe_state(f, 1);
	wait_be(f, 2);
	fe_ready(f, 9);
	wait_be(f, 4);
	fe_state(f, 4);
	/* or at once with other rings, Initialised being all that we see */
	fe_ready(f, 10);
	WAIT(stub_look(DOM, VDEV, &v) && v.state == DEV_CONNECTED && v.rings.ring[0].gref[0] == 10);
	wait_be(f, 4);
}

static void image_cannot_be_opened(void **state)
{
	struct fixture *f = *state;
	int probes;

	stub_fail(-ENOENT, 0, 0, "/img: no such file");
	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 6);
	is(f, error_node(f), "-2 /img: no such file");
	is(f, be(f, "hotplug-status"), "error");
	is(f, be(f, "hotplug-error"), "/img: no such file");
	assert_int_equal(stub_count(), 1); /* `ringdisk list` shows it */
	probes = stub_probes();
	/* It is not tried for ever: what makes us look again changes nothing... */
	put(f, be(f, "bootable"), "1");
	f->kind = "vbd3"; /* refused, and by then the first has been looked at */
	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 6);
	f->kind = "qdisk";
	assert_int_equal(stub_probes(), probes);
	/* ...until other params are asked for. */
	stub_fail(0, 0, 0, "");
	put(f, be(f, "params"), "raw:/other");
	wait_be(f, 2);
	assert_int_equal(stub_probes(), probes + 1);
	is(f, be(f, "hotplug-status"), "connected");
	WAIT(!exists(f, error_node(f)));
	assert_false(exists(f, be(f, "hotplug-error")));
	/* A failed one can be taken away. */
	detach(f);
	wait_be(f, 6);
	WAIT(stub_count() == 0);
}

/* What libxl of Xen 4.19 writes for backendtype=tap. */
static const char *const tap_keys[] = {
	"script", "/etc/xen/scripts/block-ringdisk",
	"type", "tap",
	"dev", "xvda",
	"removable", "0",
	"bootable", "1",
	"discard-enable", "1",
	"specification", "xen",
	NULL,
};

/* The toolstack's script runs at InitWait, and until it has, a guest that is in a hurry waits. */
static void script_lets_the_guest_go_on(void **state)
{
	struct fixture *f = *state;

	f->kind = "vbd3";
	attach(f, "aio:ringdisk:qcow2:/img", "w", tap_keys);
	wait_be(f, 2);
	assert_false(exists(f, be(f, "hotplug-status")));
	fe_ready(f, 8);
	put(f, be(f, "hotplug-status"), "almost");
	usleep(50000); /* nothing is to happen */
	is(f, be(f, "state"), "2");
	put(f, be(f, "hotplug-status"), "connected");
	wait_be(f, 4);
	fe_state(f, 4);
	/* The script is not run again for the next kernel. */
	fe_state(f, 5);
	wait_be(f, 5);
	fe_state(f, 6);
	wait_be(f, 6);
	fe_state(f, 1);
	wait_be(f, 2);
	fe_ready(f, 8);
	wait_be(f, 4);
	detach(f);
	wait_be(f, 5);
	fe_state(f, 6);
	wait_be(f, 6);
	WAIT(stub_count() == 0);
}

/* ---- an HVM guest's disks ---------------------------------------------------------------------------- */

static const char hvm_text[] =
	"QEMU opens this disk of an HVM guest, too: the line for both is 'vdev=xvda,format=raw,backendtype=qdisk,"
	"target=nbd+unix:///qcow2:/srv/100%25%2Ca.qcow2?socket=/run/ringdisk/nbd/sock'";

static void remove_disk(struct fixture *f)
{
	put(f, be(f, "online"), "0");
	guest_rm(f->tool, HYP_TXN_NONE, fe(""));
	wait_be(f, 6);
	guest_rm(f->tool, HYP_TXN_NONE, be(f, ""));
	WAIT(stub_count() == 0);
}

static void hvm_disk_is_refused(struct fixture *f, const char *params)
{
	attach(f, params, "w", NULL);
	wait_be(f, 6);
	is(f, be(f, "hotplug-status"), "error");
	is(f, be(f, "hotplug-error"), hvm_text);
	assert_int_equal(stub_count(), 1);
	assert_int_equal(stub_probes(), 0);
}

static void hvm_disk_is_served(struct fixture *f, const char *params, const char *mode)
{
	attach(f, params, mode, NULL);
	wait_be(f, 2);
	remove_disk(f);
}

/* Written before QEMU runs, it is refused, and stays so when QEMU runs and the guest begins; other lines are not. */
static void hvm_disk_of_qemu_too(void **state)
{
	struct fixture *f = *state;

	put(f, "/libxl/5/type", "hvm");
	hvm_disk_is_refused(f, "qcow2:/srv/100%,a.qcow2");
	put(f, "/local/domain/0/device-model/5/state", "running");
	fe_state(f, 5);
	WAIT(stub_count() == 1);
	fe_state(f, 6);
	fe_state(f, 1);
	put(f, be(f, "bootable"), "1");
	put(f, be(f, "params"), "qcow2:/srv/100%,a.qcow2");
	stop(f);
	start(f, CLAIM_ALL); /* a daemon that is started anew refuses it, too */
	WAIT(stub_count() == 1);
	is(f, be(f, "state"), "6");
	assert_int_equal(stub_probes(), 0);
	remove_disk(f);
	guest_rm(f->tool, HYP_TXN_NONE, "/local/domain/0/device-model/5/state");

	hvm_disk_is_refused(f, "aio:ringdisk:qcow2:/srv/100%,a.qcow2");
	remove_disk(f);
	hvm_disk_is_served(f, "aio:nbd+unix:///qcow2:/srv/vm.qcow2?socket=/run/ringdisk/nbd/sock", "w");
	hvm_disk_is_served(f, "qcow2:/srv/cd.qcow2", "r");
	/* What comes when QEMU runs is for the guest alone, also when the daemon is started anew. */
	put(f, "/local/domain/0/device-model/5/state", "running");
	attach(f, "qcow2:/srv/late.qcow2", "w", NULL);
	wait_be(f, 2);
	stop(f);
	wait_be(f, 6);
	start(f, CLAIM_ALL);
	wait_be(f, 2);
	remove_disk(f);
}

/* XAPI writes no type; PVH guests have no firmware of QEMU's. */
static void hvm_guest_is_known(void **state)
{
	struct fixture *f = *state;

	put(f, "/local/domain/5/hvmloader", "");
	hvm_disk_is_refused(f, "qcow2:/srv/100%,a.qcow2");
	remove_disk(f);
	put(f, "/libxl/5/type", "pvh");
	hvm_disk_is_served(f, "qcow2:/srv/vm.qcow2", "w");
	put(f, "/libxl/5/type", "hvm");
	f->kind = "vbd3"; /* QEMU is given what our script says */
	hvm_disk_is_served(f, "aio:/srv/vm.img", "w");
}

/* The script finds the reason. The guest waits until the toolstack has taken the disk away. */
static void script_is_told_of_failure(void **state)
{
	struct fixture *f = *state;

	f->kind = "vbd3";
	stub_fail(-ENOENT, -ENOENT, 0, "/img: no such file");
	attach(f, "aio:/img", "w", tap_keys);
	wait_be(f, 2);
	is(f, be(f, "hotplug-status"), "error");
	is(f, be(f, "hotplug-error"), "/img: no such file");
	fe_ready(f, 8);
	usleep(50000); /* nothing is to happen */
	is(f, be(f, "state"), "2");
	detach(f);
	wait_be(f, 6);
	WAIT(stub_count() == 0);
}

static void locked_image_is_waited_for(void **state)
{
	struct fixture *f = *state;
	int connects;

	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 2);
	stub_fail(0, -EBUSY, 0, "/img is locked");
	fe_ready(f, 8);
	wait_is(f, error_node(f), "-16 /img is locked");
	is(f, be(f, "state"), "2");
	connects = stub_connects();
	WAIT(stub_connects() > connects);
	stub_fail(0, 0, 0, "");
	wait_be(f, 4);
	WAIT(!exists(f, error_node(f)));
}

static void connect_fails(void **state)
{
	struct fixture *f = *state;

	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 2);
	stub_fail(0, -EIO, 0, "cannot map the ring");
	fe_ready(f, 8);
	wait_be(f, 6);
	is(f, error_node(f), "-5 cannot map the ring");
	stub_fail(0, 0, 0, "");
	/* the frontend may begin again */
	fe_state(f, 6);
	fe_state(f, 1);
	wait_be(f, 2);
	fe_ready(f, 8);
	wait_be(f, 4);
	WAIT(!exists(f, error_node(f)));
}

static void frontend_writes_nonsense(void **state)
{
	struct fixture *f = *state;
	char *text;

	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 2);
	guest_write(f->guest, HYP_TXN_NONE, fe("ring-page-order"), "31");
	fe_ready(f, 8);
	wait_be(f, 6);
	assert_int_equal(guest_read(f->tool, HYP_TXN_NONE, error_node(f), &text), 0);
	assert_non_null(strstr(text, "ring-page-order"));
	free(text);
	assert_int_equal(stub_connects(), 0);
	guest_rm(f->guest, HYP_TXN_NONE, fe("ring-page-order"));
	fe_state(f, 1);
	wait_be(f, 2);
	fe_ready(f, 8);
	wait_be(f, 4);
}

/* libxl waits ten seconds for Closed: a drain that hangs does not keep it from there. */
static void drain_hangs(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	stub_fail(0, 0, -ETIMEDOUT, "");
	detach(f);
	fe_state(f, 6);
	wait_be(f, 6);
}

/* --- an image that does not open --- */

static void probe_hangs(struct fixture *f)
{
	stub_hang(true);
	attach(f, "raw:/img", "w", NULL);
	WAIT(stub_hanging());
}

static void hanging_probe_ends_with_the_disk(void **state)
{
	struct fixture *f = *state;

	probe_hangs(f);
	detach(f);
	wait_be(f, 6);
	WAIT(stub_count() == 0);
}

static void hanging_probe_ends_with_the_node(void **state)
{
	struct fixture *f = *state;

	probe_hangs(f);
	assert_int_equal(guest_rm(f->tool, HYP_TXN_NONE, be(f, "")), 0);
	WAIT(stub_count() == 0);
	assert_false(exists(f, be(f, "")));
}

static void hanging_probe_ends_with_the_domain(void **state)
{
	struct fixture *f = *state;

	probe_hangs(f);
	guest_vanish(f->guest);
	wait_be(f, 6);
	assert_false(stub_hanging());
}

static void hanging_connect_ends_with_the_frontend(void **state)
{
	struct fixture *f = *state;

	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 2);
	stub_hang(true);
	fe_ready(f, 8);
	WAIT(stub_hanging());
	fe_state(f, 5);
	wait_be(f, 6);
	stub_hang(false);
	fe_state(f, 6);
	fe_state(f, 1);
	wait_be(f, 2);
	fe_ready(f, 8);
	wait_be(f, 4);
}

static void hanging_probe_ends_with_us(void **state)
{
	struct fixture *f = *state;

	probe_hangs(f);
	stop(f);
	assert_int_equal(stub_count(), 0);
	is(f, be(f, "state"), "6");
}

/* It may just take long. */
static void slow_probe_is_waited_for(void **state)
{
	struct fixture *f = *state;

	probe_hangs(f);
	put(f, be(f, "physical-device"), "8:1");
	fe_state(f, 1);
	f->kind = "vbd3";
	attach(f, "raw:/img", "w", NULL); /* refused: the first has the number. So all before has been looked at */
	wait_be(f, 6);
	assert_true(stub_hanging());
	stub_hang(false);
	f->kind = "qdisk";
	wait_be(f, 2);
	fe_ready(f, 8);
	wait_be(f, 4);
}

static void ring_is_impossible(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	stub_break(DOM, VDEV);
	wait_be(f, 5);
	is(f, error_node(f), "-71 the ring is impossible");
	fe_state(f, 6);
	wait_be(f, 6);
	fe_state(f, 1);
	wait_be(f, 2);
}

static void resize(void **state)
{
	struct fixture *f = *state;
	char *path, *token;
	bool seen = false;

	connect_disk(f);
	assert_int_equal(guest_watch(f->guest, be(f, "state"), "s"), 0);
	assert_int_equal(guest_event(f->guest, MS, &path, &token), 1); /* the first comes at once */
	free(path);
	free(token);
	stub_resize(DOM, VDEV, 4096);
	assert_int_equal(guest_event(f->guest, MS, &path, &token), 1);
	seen = !strcmp(path, be(f, "state"));
	free(path);
	free(token);
	assert_true(seen);
	is(f, be(f, "sectors"), "4096");
	is(f, be(f, "state"), "4");
}

/* The daemon that comes next finds it by the node; what keeps QEMU off stays in front. */
static void another_image(void **state)
{
	struct fixture *f = *state;

	attach(f, "aio:ringdisk:raw:/img", "w", NULL);
	wait_be(f, 2);
	stub_swap(DOM, VDEV, "qcow2:/idle");
	wait_is(f, be(f, "params"), "aio:ringdisk:qcow2:/idle");
	fe_ready(f, 8);
	wait_be(f, 4);
	stub_swap(DOM, VDEV, "qcow2:/new");
	wait_is(f, be(f, "params"), "aio:ringdisk:qcow2:/new");
	is(f, be(f, "state"), "4");
	/* It is no change by the toolstack: a guest that comes back gets the same device. */
	fe_state(f, 6);
	wait_be(f, 6);
	fe_state(f, 1);
	wait_be(f, 2);
	is(f, be(f, "params"), "aio:ringdisk:qcow2:/new");
	/* A node that is gone stays gone. */
	guest_rm(f->tool, HYP_TXN_NONE, be(f, ""));
	WAIT(stub_count() == 0);
	assert_int_equal(stub_probes(), 2);
}

static void mode_and_flags(void **state)
{
	static const char *const modes[] = {
		"", "r", "ro", "w!", "rw", "W", "w ", "garbage", NULL
	};
	struct fixture *f = *state;
	struct stub_view v;

	for (int i = 0; modes[i]; i++) {
		attach(f, "raw:/img", modes[i], NULL);
		wait_be(f, 2);
		assert_true(stub_look(DOM, VDEV, &v));
		assert_false(v.spec.writable);
		guest_rm(f->tool, HYP_TXN_NONE, be(f, ""));
		WAIT(stub_count() == 0);
	}
	attach(f, "raw:/img", "w",
	       (const char *[]){ "device-type", "cdrom", "removable", "1", "discard-enable", "0",
				 "direct-io-safe", "1", NULL });
	wait_be(f, 2);
	assert_true(stub_look(DOM, VDEV, &v));
	assert_true(v.spec.cdrom && v.spec.removable && !v.spec.writable);
	assert_int_equal(v.spec.settings.value[SET_CACHE], CACHE_NONE);
	assert_int_equal(v.spec.settings.origin[SET_AIO], ORIGIN_TOOLSTACK);
	fe_ready(f, 8);
	wait_be(f, 4);
	is(f, be(f, "info"), "7");
	is(f, be(f, "feature-discard"), "0");
	assert_false(exists(f, be(f, "discard-granularity")));
}

/* xentop and XAPI look for a disk's counters in DIR/td3-PID, by the PID that is in the store. */
static void statistics_are_found(void **state)
{
	struct fixture *f = *state;
	char dir[] = "/tmp/test-xenbus.XXXXXX", path[64], pid[16];

	start(f, CLAIM_ALL);
	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 2);
	assert_false(exists(f, be(f, "kthread-pid")));
	guest_rm(f->tool, HYP_TXN_NONE, be(f, ""));
	WAIT(stub_count() == 0);

	assert_non_null(mkdtemp(dir));
	assert_int_equal(shm_set_dir(dir), 0);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	snprintf(path, sizeof(path), "%s/td3-%s", dir, pid);
	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 2);
	is(f, be(f, "kthread-pid"), pid);
	assert_int_equal(access(path, X_OK), 0);
	guest_rm(f->tool, HYP_TXN_NONE, be(f, ""));
	WAIT(stub_count() == 0);
	shm_end();
	assert_int_equal(rmdir(dir), 0); /* nothing is left in it */
}

static void settings_of_a_disk(void **state)
{
	struct fixture *f = *state;
	struct stub_view v;
	char err[256], *text;

	settings_rules_add(&f->rules, NULL, "max-queues", "2", err, sizeof(err));
	settings_rules_add(&f->rules, "raw:/img*", "sync", "on", err, sizeof(err));
	start(f, CLAIM_ALL);
	attach(f, "raw:/img1", "w",
	       (const char *[]){ "ringdisk/max-ring-page-order", "2", "ringdisk/grant", "copy",
				 NULL });
	wait_be(f, 2);
	is(f, be(f, "multi-queue-max-queues"), "2");
	is(f, be(f, "max-ring-page-order"), "2");
	is(f, be(f, "max-ring-pages"), "4");
	assert_true(stub_look(DOM, VDEV, &v));
	assert_int_equal(v.spec.settings.value[SET_SYNC], 1);
	assert_int_equal(v.spec.settings.origin[SET_GRANT], ORIGIN_STORE);
	fe_ready(f, 8);
	wait_be(f, 4);
	is(f, be(f, "feature-persistent"), "0"); /* grant=copy does not offer it */
	guest_rm(f->tool, HYP_TXN_NONE, be(f, ""));
	WAIT(stub_count() == 0);

	attach(f, "raw:/img", "w", (const char *[]){ "ringdisk/cache", "fast", NULL });
	wait_be(f, 6);
	assert_int_equal(guest_read(f->tool, HYP_TXN_NONE, error_node(f), &text), 0);
	assert_non_null(strstr(text, "cache=fast"));
	free(text);
}

/* The guest may write below its own directory only, and nothing there says who it is. */
static void identity_is_the_path(void **state)
{
	struct fixture *f = *state;

	attach(f, "raw:/img", "w", (const char *[]){ "frontend-id", "6", NULL });
	wait_is(f, error_node(f), "-22 frontend, frontend-id: are not those of this node's path");
	is(f, be(f, "state"), "1");
	put(f, be(f, "frontend"), "/local/domain/5/device/vbd/51728");
	put(f, be(f, "frontend-id"), "5");
	put(f, be(f, "bootable"), "1");
	assert_int_equal(stub_count(), 0);
	put(f, be(f, "frontend"), fe(""));
	wait_be(f, 2);
}

static void opaque_claim(void **state)
{
	struct fixture *f = *state;

	start(f, CLAIM_OPAQUE);
	attach(f, "aio:/dev/null", "w", NULL); /* QEMU could open that */
	f->kind = "vbd3";                      /* QEMU never comes here */
	attach(f, "aio:/dev/zero", "w", NULL);
	wait_be(f, 2);
	f->kind = "qdisk";
	is(f, be(f, "state"), "1");
	f->kind = "vbd3";
	guest_rm(f->tool, HYP_TXN_NONE, be(f, ""));
	WAIT(stub_count() == 0);
	f->kind = "qdisk";
	put(f, be(f, "params"), "aio:ringdisk:raw:/dev/null");
	wait_be(f, 2);
}

static void never_claims_qdisk(void **state)
{
	struct fixture *f = *state;

	start(f, CLAIM_NEVER);
	attach(f, "aio:ringdisk:raw:/img", "w", NULL);
	f->kind = "vbd3";
	attach(f, "aio:/img", "w", NULL);
	wait_be(f, 2);
	f->kind = "qdisk";
	is(f, be(f, "state"), "1");
}

static void same_disk_in_two_kinds(void **state)
{
	struct fixture *f = *state;

	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 2);
	f->kind = "vbd3";
	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 6);
	is(f, error_node(f), "-17 there is a disk 5/xvda already");
	f->kind = "qdisk";
	is(f, be(f, "state"), "2");
}

/* What was there before us: a half-dead node is served, a live ring of another is not touched. */
static void nodes_of_an_earlier_daemon(void **state)
{
	struct fixture *f = *state;

	attach(f, "raw:/img", "w", NULL);
	put(f, be(f, "state"), "2");
	start(f, CLAIM_ALL);
	fe_ready(f, 8);
	wait_be(f, 4);
	stop(f);
	is(f, be(f, "state"), "6");
	put(f, be(f, "state"), "4");
	put(f, fe("state"), "4");
	start(f, CLAIM_ALL);
	wait_is(f, error_node(f),
		"-16 is connected to a backend that has gone: detach and attach it");
	is(f, be(f, "state"), "4");
	assert_int_equal(stub_count(), 0);
	/* the guest's next kernel gets it going again */
	fe_state(f, 5);
	wait_be(f, 5);
	fe_state(f, 6);
	wait_be(f, 6);
	fe_state(f, 1);
	wait_be(f, 2);
}

static void stop_closes_everything(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	stop(f);
	is(f, be(f, "state"), "6");
	assert_int_equal(stub_count(), 0);
}

static void store_is_lost(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	assert_int_equal(guest_fault(f->tool, LB_FAULT_STORE, 0, 0, 0), 0);
	WAIT(!xenbus_connected());
	assert_int_equal(stub_connected(), 1);
	/* what happens meanwhile is seen afterwards */
	fe_state(f, 5);
	assert_int_equal(guest_fault(f->tool, LB_FAULT_NONE, 0, 0, 0), 0);
	wait_be(f, 5);
	assert_int_equal(stub_connected(), 1);
	/* a loss with no change changes nothing */
	fe_state(f, 6);
	wait_be(f, 6);
	fe_state(f, 1);
	wait_be(f, 2);
	fe_ready(f, 8);
	wait_be(f, 4);
	fe_state(f, 4);
	for (int i = 0; i < 20; i++) {
		int connects = stub_connects();

		guest_fault(f->tool, LB_FAULT_STORE, 0, 0, 0);
		WAIT(!xenbus_connected());
		guest_fault(f->tool, LB_FAULT_NONE, 0, 0, 0);
		WAIT(xenbus_connected());
		assert_int_equal(stub_connects(), connects);
	}
	fe_state(f, 6);
	wait_be(f, 6);
}

static atomic_bool said_empty;

/* xenstored that was restarted knows no domain: that is no reason to take disks from guests that live. */
static void store_comes_back_empty(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	said_empty = false;
	guest_fault(f->tool, LB_FAULT_STORE, 0, 0, 0);
	WAIT(!xenbus_connected());
	assert_int_equal(guest_rm(f->tool, HYP_TXN_NONE, "/local/domain"), 0);
	guest_fault(f->tool, LB_FAULT_NONE, 0, 0, 0);
	WAIT(said_empty);
	/* It has looked at all nodes once a new one is served. */
	f->kind = "vbd3";
	attach(f, "raw:/img", "w", NULL);
	wait_be(f, 6);
	assert_int_equal(stub_connects(), 1);
	f->kind = "qdisk";
}

static void store_is_away_at_start_and_at_the_end(void **state)
{
	struct fixture *f = *state;

	attach(f, "raw:/img", "w", NULL);
	guest_fault(f->tool, LB_FAULT_STORE, 0, 0, 0);
	start(f, CLAIM_ALL);
	assert_false(xenbus_connected());
	guest_fault(f->tool, LB_FAULT_NONE, 0, 0, 0);
	wait_be(f, 2);
	fe_ready(f, 8);
	wait_be(f, 4);
	guest_fault(f->tool, LB_FAULT_STORE, 0, 0, 0);
	WAIT(!xenbus_connected());
	stop(f); /* comes back, and leaves no device */
	guest_fault(f->tool, LB_FAULT_NONE, 0, 0, 0);
}

/* A state is written only where the node is, and is what it was thought to be. */
static void writes_are_guarded(void **state)
{
	struct fixture *f = *state;
	struct xb_conn *conn;

	WAIT(xenbus_connected());
	conn = xb_conn_get();
	f->kind = "other"; /* which nobody serves */
	assert_int_equal(xb_change_state(conn, be(f, ""), XB_INITIALISING, XB_CLOSED, NULL, NULL),
			 -ENOENT);
	assert_false(exists(f, be(f, "")));
	attach(f, "raw:/img", "w", NULL);
	assert_int_equal(xb_change_state(conn, be(f, ""), XB_INITWAIT, XB_CONNECTED, NULL, NULL),
			 -ESTALE);
	is(f, be(f, "state"), "1");
	assert_int_equal(xb_change_state(conn, be(f, ""), XB_INITIALISING, XB_CLOSED, NULL, NULL),
			 0);
	is(f, be(f, "state"), "6");
	f->kind = "qdisk";
	xb_conn_put(conn);
}

static void driver_domain_removes_the_node(void **state)
{
	struct fixture *f = *state;

	connect_disk(f);
	detach(f);
	fe_state(f, 6);
	WAIT(!exists(f, be(f, "frontend")));
	WAIT(stub_count() == 0);
	assert_false(exists(f, be(f, "")));
}

/* ---- by hand ------------------------------------------------------------------------------------- */

static const struct xenbus_attach by_hand = {
	.domid = DOM,
	.vdev = VDEV,
	.params = "raw:/img",
	.kind = "qdisk",
	.writable = true,
};

static void attach_by_hand(void **state)
{
	struct fixture *f = *state;
	char err[256] = "";

	start(f, CLAIM_NEVER); /* what is attached by hand is ours all the same */
	WAIT(xenbus_connected());
	assert_int_equal(xenbus_attach(&by_hand, err, sizeof(err)), 0);
	is(f, be(f, "state"), "2");
	is(f, be(f, "dev"), "xvda");
	/* perms as libxl's */
	assert_int_equal(guest_write(f->guest, HYP_TXN_NONE, be(f, "params"), "raw:/etc"), -EACCES);
	assert_int_equal(guest_write(f->guest, HYP_TXN_NONE, be(f, "x"), "y"), -EACCES);
	fe_ready(f, 8);
	wait_be(f, 4);
	assert_int_equal(xenbus_attach(&by_hand, err, sizeof(err)), -EEXIST);
	assert_non_null(strstr(err, "5/xvda"));
	fe_state(f, 6); /* so that it need not be waited for */
	wait_be(f, 6);
	assert_int_equal(xenbus_detach(DOM, VDEV, false, err, sizeof(err)), 0);
	assert_false(exists(f, be(f, "")));
	assert_false(exists(f, fe("")));
	WAIT(stub_count() == 0);
	assert_int_equal(xenbus_detach(DOM, VDEV, false, err, sizeof(err)), -ENOENT);
}

static void detach_with_force(void **state)
{
	struct fixture *f = *state;
	char err[256] = "";

	connect_disk(f);
	assert_int_equal(xenbus_detach(DOM, VDEV, true, err, sizeof(err)), 0);
	assert_false(exists(f, be(f, "")));
	WAIT(stub_count() == 0);
}

static void attach_by_hand_fails(void **state)
{
	struct fixture *f = *state;
	struct xenbus_attach a = by_hand;
	char err[256] = "";

	WAIT(xenbus_connected());
	stub_fail(-EACCES, 0, 0, "/img: permission denied");
	assert_int_equal(xenbus_attach(&a, err, sizeof(err)), -EIO);
	assert_string_equal(err, "5/xvda: /img: permission denied");
	assert_false(exists(f, be(f, "")));
	assert_false(exists(f, fe("")));
	WAIT(stub_count() == 0);
	a.domid = 77;
	assert_int_equal(xenbus_attach(&a, err, sizeof(err)), -ESRCH);
	a.domid = DOM;
	a.kind = "vbd";
	assert_int_equal(xenbus_attach(&a, err, sizeof(err)), -EINVAL);
	guest_fault(f->tool, LB_FAULT_STORE, 0, 0, 0);
	WAIT(!xenbus_connected());
	assert_int_equal(xenbus_attach(&by_hand, err, sizeof(err)), -ENOTCONN);
	guest_fault(f->tool, LB_FAULT_NONE, 0, 0, 0);
}

/* No toolstack will remove these nodes when the guest dies. */
static void attached_by_hand_goes_with_its_guest(void **state)
{
	struct fixture *f = *state;
	char err[256];

	WAIT(xenbus_connected());
	assert_int_equal(xenbus_attach(&by_hand, err, sizeof(err)), 0);
	fe_ready(f, 8);
	wait_be(f, 4);
	guest_vanish(f->guest);
	WAIT(stub_count() == 0);
	WAIT(!exists(f, be(f, "frontend")));
}

/* ---- storms -------------------------------------------------------------------------------------- */

static unsigned seed;

static unsigned pick(unsigned n)
{
	seed = seed * 1103515245u + 12345u;
	return (seed >> 16) % n;
}

static void random_step(struct fixture *f)
{
	static const char *const garbage[] = { "", "9", "x", "-1", "4294967296", "0" };

	switch (pick(16)) {
	case 0:
		guest_rm(f->tool, HYP_TXN_NONE, be(f, ""));
		break;
	case 1:
		guest_rm(f->tool, HYP_TXN_NONE, fe(""));
		break;
	case 2:
	case 3:
		attach(f, pick(2) ? "raw:/img" : "raw:/other", pick(2) ? "w" : "r", NULL);
		break;
	case 4:
		if (exists(f, be(f, "frontend")))
			guest_writef(f->tool, HYP_TXN_NONE, be(f, "state"), "%u", pick(9));
		break;
	case 5:
		if (exists(f, be(f, "frontend")))
			guest_writef(f->tool, HYP_TXN_NONE, be(f, "online"), "%u", pick(2));
		break;
	case 6:
		guest_write(f->guest, HYP_TXN_NONE, fe("state"), garbage[pick(6)]);
		break;
	case 7:
		guest_write(f->guest, HYP_TXN_NONE, fe("ring-ref"), garbage[pick(6)]);
		break;
	case 8:
	case 9:
	case 10:
		if (exists(f, fe("state")))
			fe_ready(f, pick(4));
		break;
	case 11:
		stub_fail(pick(8) ? 0 : -EIO,
			  pick(4)   ? 0
			  : pick(2) ? -EBUSY
				    : -EIO,
			  pick(4) ? 0 : -ETIMEDOUT, "as the test wants");
		break;
	default:
		guest_writef(f->guest, HYP_TXN_NONE, fe("state"), "%u", pick(9));
		break;
	}
}

static void calm_after_storm(struct fixture *f)
{
	stub_fail(0, 0, 0, "");
	guest_fault(f->tool, LB_FAULT_NONE, 0, 0, 0);
	guest_rm(f->tool, HYP_TXN_NONE, be(f, ""));
	guest_rm(f->tool, HYP_TXN_NONE, fe(""));
	WAIT(stub_count() == 0);
	connect_disk(f);
	detach(f);
	fe_state(f, 6);
	wait_be(f, 6);
	WAIT(stub_count() == 0);
}

static void state_storm(void **state)
{
	struct fixture *f = *state;
	unsigned steps = 10000;

	for (seed = 1; steps--;)
		random_step(f);
	calm_after_storm(f);
}

static void state_storm_with_store_loss(void **state)
{
	struct fixture *f = *state;

	seed = 2;
	for (unsigned round = 0; round < 50; round++) {
		for (int i = 0; i < 30; i++)
			random_step(f);
		guest_fault(f->tool, LB_FAULT_STORE, 0, 0, 0);
		for (int i = 0; i < 10; i++)
			random_step(f);
		guest_fault(f->tool, LB_FAULT_NONE, 0, 0, 0);
	}
	WAIT(xenbus_connected());
	calm_after_storm(f);
}

/* A guest that writes as fast as it can does not keep another's disk from being served. */
static void flood_harms_nobody(void **state)
{
	struct fixture *f = *state;
	struct guest *other;
	char path[128], err[256];
	struct xenbus_attach a = by_hand;

	connect_disk(f);
	assert_int_equal(guest_open(f->socket, 6, 1, 16, &other), 0);
	for (int i = 0; i < 3000; i++)
		guest_writef(f->guest, HYP_TXN_NONE, fe("state"), "%d", i & 1 ? 4 : 7);
	a.domid = 6;
	assert_int_equal(xenbus_attach(&a, err, sizeof(err)), 0);
	snprintf(path, sizeof(path), "/local/domain/6/device/vbd/%u/state", VDEV);
	for (int i = 0; i < 3000; i++)
		guest_writef(f->guest, HYP_TXN_NONE, fe("state"), "%d", i & 1 ? 4 : 7);
	assert_int_equal(stub_connected(), 1);
	assert_int_equal(stub_count(), 2);
	guest_close(other);
	WAIT(stub_count() == 1);
}

/* What is said is said because of what the test does: it would only hide what matters. */
static void swallow(void *opaque, enum log_level level, enum log_subsys subsys, const char *line)
{
	(void)opaque;
	(void)level;
	(void)subsys;
	if (strstr(line, "the store is empty"))
		said_empty = true;
}

static int quiet(void **state)
{
	(void)state;
	log_to_callback(swallow, NULL);
	return 0;
}

#define CASE(test, set_up) cmocka_unit_test_setup_teardown(test, set_up, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(handshake, setup),
		CASE(removal, setup),
		CASE(removal_waits_for_the_guest, setup),
		CASE(removal_before_the_guest_came, setup),
		CASE(node_vanishes, setup),
		CASE(frontend_vanishes, setup),
		CASE(domain_dies, setup),
		CASE(libxl_writes_closed_itself, setup),
		CASE(state_is_garbage, setup),
		CASE(resume_in_place, setup),
		CASE(image_cannot_be_opened, setup),
		CASE(script_is_told_of_failure, setup),
		CASE(hvm_disk_of_qemu_too, setup),
		CASE(hvm_guest_is_known, setup),
		CASE(script_lets_the_guest_go_on, setup),
		CASE(locked_image_is_waited_for, setup),
		CASE(connect_fails, setup),
		CASE(frontend_writes_nonsense, setup),
		CASE(drain_hangs, setup),
		CASE(hanging_probe_ends_with_the_disk, setup),
		CASE(hanging_probe_ends_with_the_node, setup),
		CASE(hanging_probe_ends_with_the_domain, setup),
		CASE(hanging_connect_ends_with_the_frontend, setup),
		CASE(hanging_probe_ends_with_us, setup),
		CASE(slow_probe_is_waited_for, setup),
		CASE(ring_is_impossible, setup),
		CASE(resize, setup),
		CASE(another_image, setup),
		CASE(mode_and_flags, setup),
		CASE(statistics_are_found, setup_stopped),
		CASE(settings_of_a_disk, setup_stopped),
		CASE(identity_is_the_path, setup),
		CASE(opaque_claim, setup_stopped),
		CASE(never_claims_qdisk, setup_stopped),
		CASE(same_disk_in_two_kinds, setup),
		CASE(nodes_of_an_earlier_daemon, setup_stopped),
		CASE(stop_closes_everything, setup),
		CASE(store_is_lost, setup),
		CASE(store_comes_back_empty, setup),
		CASE(store_is_away_at_start_and_at_the_end, setup_stopped),
		CASE(writes_are_guarded, setup),
		CASE(driver_domain_removes_the_node, setup_driver_domain),
		CASE(attach_by_hand, setup_stopped),
		CASE(detach_with_force, setup),
		CASE(attach_by_hand_fails, setup),
		CASE(attached_by_hand_goes_with_its_guest, setup),
		CASE(state_storm, setup),
		CASE(state_storm_with_store_loss, setup),
		CASE(flood_harms_nobody, setup),
	};

	return cmocka_run_group_tests(tests, quiet, NULL);
}
