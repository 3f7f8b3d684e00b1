/*
 * The life of a disk as its guest and the toolstack see it: connect, close, connect again, detach, vanish, at
 * every moment at which xl, a reboot, a crash or a dying store can do it. After each, the daemon serves the
 * next disk and keeps nothing of the last.
 */
#include "../unit/test.h"

#include "rig.h"

static struct rig rig;
static char params[256];

static int setup(void **state)
{
	(void)state;
	rig_setup(&rig);
	rig_image(&rig, "a", 1);
	rig_params(&rig, "", "a", params);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	rig_teardown(&rig);
	return 0;
}

static struct ts_vbd disk_of(uint32_t domid)
{
	return (struct ts_vbd){ .domid = domid, .vdev = RIG_XVDA, .params = params };
}

/* Connect what is attached already. */
static struct frontend *reconnect(struct guest *guest, const struct fe_config *config)
{
	struct frontend *fe = NULL;
	int rc = fe_open(guest, config, &fe);

	if (rc)
		rig_show_log(&rig);
	assert_int_equal(rc, 0);
	return fe;
}

static void set_node(const struct ts_vbd *vbd, const char *key, const char *value)
{
	char dir[TS_PATH_MAX], path[TS_PATH_MAX + 64];

	ts_backend_path(vbd, dir);
	snprintf(path, sizeof(path), "%s/%s", dir, key);
	assert_int_equal(guest_write(rig.toolstack, HYP_TXN_NONE, path, value), 0);
}

static char *backend_node(const struct ts_vbd *vbd, const char *key)
{
	char dir[TS_PATH_MAX], path[TS_PATH_MAX + 64], *value = NULL;

	ts_backend_path(vbd, dir);
	snprintf(path, sizeof(path), "%s/%s", dir, key);
	guest_read(rig.toolstack, HYP_TXN_NONE, path, &value);
	return value;
}

static void expect_state(const struct ts_vbd *vbd, const char *state)
{
	int rc = ts_wait_backend(rig.toolstack, vbd, state, RIG_WAIT_MS);

	if (rc)
		rig_show_log(&rig);
	assert_int_equal(rc, 0);
}

/* Nothing of the guest is mapped any more; it may take a moment. */
static void expect_unmapped(uint32_t domid)
{
	long long deadline = guest_now_ms() + RIG_WAIT_MS;
	struct lb_stats stats;

	for (;;) {
		assert_int_equal(guest_stats(rig.toolstack, domid, &stats), 0);
		if (!stats.mapped)
			return;
		assert_true(guest_now_ms() < deadline);
		rig_nap();
	}
}

/* The image is free: another guest can have it for writing. */
static void expect_image_free(void)
{
	struct guest *guest = rig_guest(&rig, 99);
	struct ts_vbd vbd = disk_of(99);
	struct fe_config config = rig_config();
	struct frontend *fe = rig_connect(&rig, guest, &config, &vbd);

	rig_exercise(&rig, fe, "a", 99);
	rig_detach(&rig, fe, &vbd);
	guest_close(guest);
}

/* ---- the guest reboots --------------------------------------------------------------------------------- */

static void reset_and_connect_in_another_shape(void **state)
{
	static const enum fe_abi abis[] = { FE_ABI_X86_64, FE_ABI_X86_32, FE_ABI_MISSING,
					    FE_ABI_NATIVE };
	struct guest *guest = rig_guest(&rig, 5);
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);
	struct frontend *fe = rig_connect(&rig, guest, &config, &vbd);

	(void)state;
	for (unsigned int i = 0; i < 8; i++) {
		rig_exercise(&rig, fe, "a", i);
		assert_int_equal(fe_reset(fe), 0);
		assert_int_equal(fe_free(fe), 0);
		config.ring_order = i % 5;
		config.queues = 1 + i % 3;
		config.abi = abis[i % 4];
		config.persistent = i % 2;
		config.max_segments = i % 2 ? 64 : 0;
		fe = reconnect(guest, &config);
	}
	rig_exercise(&rig, fe, "a", 50);
	rig_detach(&rig, fe, &vbd);
	guest_close(guest);
}

/* Suspend and resume in place: the frontend begins again without having closed. */
static void begin_again_without_closing(void **state)
{
	struct guest *guest = rig_guest(&rig, 5);
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);
	struct frontend *fe = rig_connect(&rig, guest, &config, &vbd);

	(void)state;
	rig_exercise(&rig, fe, "a", 1);
	assert_int_equal(fe_set_state(fe, XenbusStateInitialising), 0);
	assert_int_equal(fe_wait_backend(fe, XenbusStateInitWait), 0);
	assert_int_equal(fe_free(fe), 0);
	fe = reconnect(guest, &config);
	rig_exercise(&rig, fe, "a", 2);
	rig_detach(&rig, fe, &vbd);
	guest_close(guest);
}

/* A new domain of the same number, after the old one was destroyed with its nodes. */
static void domain_destroyed_and_created_again(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);

	(void)state;
	for (int i = 0; i < 5; i++) {
		struct guest *guest = rig_guest(&rig, 5);
		struct frontend *fe = rig_connect(&rig, guest, &config, &vbd);

		rig_exercise(&rig, fe, "a", (uint64_t)i);
		/* as libxl does: no handshake, 6 by its own hand, nodes away, domain away */
		set_node(&vbd, "state", "6");
		assert_int_equal(ts_remove(rig.toolstack, &vbd), 0);
		expect_unmapped(5);
		fe_free(fe);
		assert_int_equal(guest_dom_destroy(rig.toolstack, 5), 0);
		guest_close(guest);
	}
	expect_image_free();
}

/* ---- it vanishes --------------------------------------------------------------------------------------- */

static void submit_many(struct frontend *fe, struct fe_buf *buf)
{
	for (unsigned int i = 0; i < fe_slots(fe); i++) {
		struct fe_io io = { .op = i % 2 ? BLKIF_OP_READ : BLKIF_OP_WRITE,
				    .sector = i * 8,
				    .buf = buf,
				    .offset = i * 4096,
				    .len = 4096 };

		assert_int_equal(fe_submit(fe, 0, &io), 0);
	}
	assert_int_equal(fe_push(fe, 0), 0);
}

static void guest_crashes_with_io_in_flight(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);

	(void)state;
	config.ring_order = 4;
	for (int i = 0; i < 6; i++) {
		struct guest *guest = rig_guest(&rig, 5);
		struct frontend *fe;
		struct fe_buf *buf;

		config.persistent = i % 2;
		rig_params(&rig, i % 3 ? "aio=threads,grant=map" : "", "a", params);
		fe = rig_connect(&rig, guest, &config, &vbd);
		assert_int_equal(fe_buf_alloc(fe, (size_t)fe_slots(fe) * 4096, &buf), 0);
		submit_many(fe, buf);
		guest_vanish(guest);
		/* its nodes are still there, the toolstack clears up */
		assert_int_equal(ts_detach(rig.toolstack, &vbd, RIG_WAIT_MS), 0);
		fe_buf_free(fe, buf);
		fe_free(fe);
		guest_close(guest);
	}
	rig_params(&rig, "", "a", params);
	expect_image_free();
}

static void backend_node_removed_while_connected(void **state)
{
	struct guest *guest = rig_guest(&rig, 5);
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);
	struct frontend *fe = rig_connect(&rig, guest, &config, &vbd);
	char path[TS_PATH_MAX];

	(void)state;
	rig_exercise(&rig, fe, "a", 1);
	ts_backend_path(&vbd, path);
	assert_int_equal(guest_rm(rig.toolstack, HYP_TXN_NONE, path), 0);
	expect_unmapped(5);
	fe_free(fe);
	ts_remove(rig.toolstack, &vbd);
	expect_image_free();
	guest_close(guest);
}

static void frontend_node_removed_while_connected(void **state)
{
	struct guest *guest = rig_guest(&rig, 5);
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);
	struct frontend *fe = rig_connect(&rig, guest, &config, &vbd);
	char path[TS_PATH_MAX];

	(void)state;
	ts_frontend_path(&vbd, path);
	assert_int_equal(guest_rm(rig.toolstack, HYP_TXN_NONE, path), 0);
	expect_state(&vbd, "6");
	expect_unmapped(5);
	fe_free(fe);
	ts_remove(rig.toolstack, &vbd);
	expect_image_free();
	guest_close(guest);
}

/* ---- detach -------------------------------------------------------------------------------------------- */

static void detach_before_the_guest_ever_came(void **state)
{
	struct ts_vbd vbd = disk_of(5);
	struct guest *guest = rig_guest(&rig, 5);

	(void)state;
	assert_int_equal(ts_attach(rig.toolstack, &vbd), 0);
	expect_state(&vbd, "2");
	assert_int_equal(ts_detach(rig.toolstack, &vbd, RIG_WAIT_MS), 0);
	expect_image_free();
	guest_close(guest);
}

static void detach_with_io_in_flight_answers_it(void **state)
{
	struct guest *guest = rig_guest(&rig, 5);
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);
	struct fe_done done[64];
	struct frontend *fe;
	struct fe_buf *buf;
	unsigned int left;

	(void)state;
	config.ring_order = 2;
	fe = rig_connect(&rig, guest, &config, &vbd);
	assert_int_equal(fe_buf_alloc(fe, (size_t)fe_slots(fe) * 4096, &buf), 0);
	submit_many(fe, buf);
	assert_int_equal(ts_detach_start(rig.toolstack, &vbd), 0);
	assert_int_equal(fe_wait_backend(fe, XenbusStateClosing), 0);
	for (left = fe_slots(fe); left;) {
		int n;

		assert_int_equal(fe_wait(fe, 0, RIG_WAIT_MS), 1);
		n = fe_poll(fe, 0, done, 64);
		assert_true(n > 0);
		for (int i = 0; i < n; i++)
			assert_int_equal(done[i].result, 0);
		left -= (unsigned int)n;
	}
	assert_int_equal(fe_close(fe), 0);
	assert_int_equal(fe_buf_free(fe, buf), 0);
	assert_int_equal(fe_free(fe), 0);
	assert_int_equal(ts_remove(rig.toolstack, &vbd), 0);
	guest_close(guest);
}

static void attach_and_detach_many_times(void **state)
{
	struct guest *guest = rig_guest(&rig, 5);
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);

	(void)state;
	for (int i = 0; i < 40; i++) {
		struct frontend *fe = rig_connect(&rig, guest, &config, &vbd);

		assert_int_equal(fe_flush(fe), 0);
		rig_detach(&rig, fe, &vbd);
	}
	guest_close(guest);
}

/* ---- what is refused ------------------------------------------------------------------------------------ */

/* The frontend writes nodes that are wrong; the backend closes, and says why. */
static void expect_refusal(struct guest *guest, const struct fe_node *nodes)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);
	struct frontend *fe = NULL;
	char *error;

	config.nodes = nodes;
	config.ring_order = 1;
	assert_int_equal(ts_attach(rig.toolstack, &vbd), 0);
	assert_int_equal(fe_open(guest, &config, &fe), -ECONNREFUSED);
	expect_state(&vbd, "6");
	error = ts_error(rig.toolstack, &vbd);
	if (!error)
		fprintf(stderr, "%s=%s\n", nodes[0].key,
			nodes[0].value ? nodes[0].value : "(none)");
	assert_non_null(error);
	free(error);
	expect_unmapped(5);
	assert_int_equal(ts_detach(rig.toolstack, &vbd, RIG_WAIT_MS), 0);
}

static void nonsense_in_the_frontend_is_refused(void **state)
{
	static const struct fe_node wrong[] = {
		{ "protocol", "vax-abi" },
		{ "protocol", "" },
		{ "ring-ref0", "" },
		{ "ring-ref0", "-1" },
		{ "ring-ref0", "4294967296" },
		{ "ring-ref0", "1e3" },
		{ "ring-ref0", " 7" },
		{ "ring-ref0", NULL },
		{ "ring-ref1", NULL },
		{ "ring-ref1", "4294967295" },
		{ "ring-ref1", "0" },
		{ "ring-page-order", "5" },
		{ "ring-page-order", "31" },
		{ "ring-page-order", "x" },
		{ "event-channel", "0" },
		{ "event-channel", "99" },
		{ "event-channel", "4294967295" },
		{ "event-channel", NULL },
		{ "multi-queue-num-queues", "0" },
		{ "multi-queue-num-queues", "9" },
		{ "multi-queue-num-queues", "65536" },
		{ "multi-queue-num-queues", "2" }, /* but no queue-0 */
	};
	struct guest *guest = rig_guest(&rig, 5);

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct fe_node nodes[2] = { wrong[i] };

		expect_refusal(guest, nodes);
	}
	guest_close(guest);
	expect_image_free();
}

static void params_that_cannot_be_opened(void **state)
{
	static const char *const wrong[] = {
		"raw:/nonexistent", "nosuch:/x",          "raw:",       "",
		"raw,what=1:/x",    "raw,cache=maybe:/x", "/etc/passwd"
	};
	struct guest *guest = rig_guest(&rig, 5);
	struct ts_vbd vbd = disk_of(5);

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		char *error;

		vbd.params = wrong[i];
		assert_int_equal(ts_attach(rig.toolstack, &vbd), 0);
		expect_state(&vbd, "6");
		error = ts_error(rig.toolstack, &vbd);
		assert_non_null(error);
		free(error);
		error = backend_node(&vbd, "hotplug-status");
		assert_string_equal(error, "error");
		free(error);
		assert_int_equal(ts_detach(rig.toolstack, &vbd, RIG_WAIT_MS), 0);
	}
	guest_close(guest);
	expect_image_free();
}

/* The image is locked when a frontend connects, not when the node appears. */
static void second_writer_waits_for_the_first(void **state)
{
	struct guest *one = rig_guest(&rig, 5), *two = rig_guest(&rig, 6);
	struct ts_vbd vbd1 = disk_of(5), vbd2 = disk_of(6);
	struct fe_config config = rig_config();
	struct frontend *fe1 = rig_connect(&rig, one, &config, &vbd1), *fe2;

	(void)state;
	assert_int_equal(ts_attach(rig.toolstack, &vbd2), 0);
	assert_int_equal(fe_prepare(two, &config, &fe2), 0);
	assert_int_equal(fe_negotiate(fe2), 0);
	rig_exercise(&rig, fe1, "a", 1);
	assert_int_not_equal(fe_backend_state(fe2), XenbusStateConnected);
	rig_detach(&rig, fe1, &vbd1);
	assert_int_equal(fe_connect(fe2), 0);
	rig_exercise(&rig, fe2, "a", 2);
	rig_detach(&rig, fe2, &vbd2);
	guest_close(one);
	guest_close(two);
}

/* ---- size ---------------------------------------------------------------------------------------------- */

static void resize_is_noticed(void **state)
{
	struct guest *guest = rig_guest(&rig, 5);
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);
	struct frontend *fe = rig_connect(&rig, guest, &config, &vbd);
	long long deadline = guest_now_ms() + RIG_WAIT_MS;
	uint8_t data[4096];
	char path[160];

	(void)state;
	assert_int_equal(fe_read(fe, RIG_SECTORS, data, 512), -EIO);
	rig_path(&rig, "a", path);
	assert_int_equal(truncate(path, (off_t)RIG_SECTORS * 1024), 0);
	while (fe_wait_resize(fe, 20) == -ETIMEDOUT) {
		assert_true(guest_now_ms() < deadline);
		assert_int_equal(fe_read(fe, 0, data, 4096), 0); /* a disk in use */
	}
	assert_int_equal(fe_geometry(fe)->sectors, RIG_SECTORS * 2);
	assert_int_equal(fe_backend_state(fe), XenbusStateConnected);
	rig_fill(data, sizeof(data), 1);
	assert_int_equal(fe_write(fe, RIG_SECTORS * 2 - 8, data, sizeof(data)), 0);
	rig_detach(&rig, fe, &vbd);
	guest_close(guest);
}

/* ---- the store dies -------------------------------------------------------------------------------------- */

static void io_goes_on_without_the_store(void **state)
{
	struct guest *guest = rig_guest(&rig, 5);
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);
	struct frontend *fe = rig_connect(&rig, guest, &config, &vbd);

	(void)state;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(guest_fault(rig.toolstack, LB_FAULT_STORE, 0, 0, 0), 0);
		rig_exercise(&rig, fe, "a", (uint64_t)i);
		assert_int_equal(guest_fault(rig.toolstack, LB_FAULT_NONE, 0, 0, 0), 0);
		rig_exercise(&rig, fe, "a", (uint64_t)i + 10);
	}
	rig_detach(&rig, fe, &vbd);
	expect_image_free();
	guest_close(guest);
}

static void detached_while_the_store_was_away(void **state)
{
	struct guest *guest = rig_guest(&rig, 5);
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);
	struct frontend *fe = rig_connect(&rig, guest, &config, &vbd);

	(void)state;
	assert_int_equal(guest_fault(rig.toolstack, LB_FAULT_STORE, 0, 0, 0), 0);
	assert_int_equal(ts_detach_start(rig.toolstack, &vbd), 0);
	rig_exercise(&rig, fe, "a", 1);
	assert_int_equal(guest_fault(rig.toolstack, LB_FAULT_NONE, 0, 0, 0), 0);
	assert_int_equal(fe_close(fe), 0);
	assert_int_equal(fe_free(fe), 0);
	assert_int_equal(ts_remove(rig.toolstack, &vbd), 0);
	expect_image_free();
	guest_close(guest);
}

/* ---- many ------------------------------------------------------------------------------------------------ */

static void many_disks_of_many_guests(void **state)
{
	enum { GUESTS = 4, DISKS = 6 };
	struct fe_config config = rig_config();
	struct guest *guest[GUESTS];
	struct frontend *fe[GUESTS][DISKS];
	struct ts_vbd vbd[GUESTS][DISKS];
	static char text[GUESTS][DISKS][256];
	char name[32];

	(void)state;
	for (unsigned int g = 0; g < GUESTS; g++) {
		guest[g] = rig_guest(&rig, g + 10);
		for (unsigned int d = 0; d < DISKS; d++) {
			snprintf(name, sizeof(name), "disk-%u-%u", g, d);
			rig_image(&rig, name, g * 100 + d + 1);
			rig_params(&rig, "", name, text[g][d]);
			vbd[g][d] = (struct ts_vbd){ .domid = g + 10,
						     .vdev = RIG_XVDA + 16 * d,
						     .params = text[g][d] };
			config.vdev = vbd[g][d].vdev;
			config.vcpu = d;
			fe[g][d] = rig_connect(&rig, guest[g], &config, &vbd[g][d]);
		}
	}
	for (unsigned int g = 0; g < GUESTS; g++) {
		for (unsigned int d = 0; d < DISKS; d++) {
			snprintf(name, sizeof(name), "disk-%u-%u", g, d);
			rig_exercise(&rig, fe[g][d], name, g * 10 + d);
		}
	}
	for (unsigned int g = 0; g < GUESTS; g++) {
		for (unsigned int d = 0; d < DISKS; d++) {
			assert_int_equal(ts_detach_start(rig.toolstack, &vbd[g][d]), 0);
			assert_int_equal(fe_close(fe[g][d]), 0);
			assert_int_equal(fe_free(fe[g][d]), 0);
			assert_int_equal(ts_remove(rig.toolstack, &vbd[g][d]), 0);
		}
		expect_unmapped(g + 10);
		guest_close(guest[g]);
	}
}

/* The daemon ends while guests are connected: they see Closed, nothing is left mapped, it exits with 0. */
static void daemon_ends_in_order(void **state)
{
	struct guest *guest = rig_guest(&rig, 5);
	struct fe_config config = rig_config();
	struct ts_vbd vbd = disk_of(5);
	struct frontend *fe = rig_connect(&rig, guest, &config, &vbd);

	(void)state;
	rig_exercise(&rig, fe, "a", 1);
	assert_int_equal(rig_stop_daemon(&rig), 0);
	assert_int_equal(fe_free(fe), 0);
	guest_close(guest);
	rig_start_daemon(&rig);
	expect_image_free();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(reset_and_connect_in_another_shape),
		T(begin_again_without_closing),
		T(domain_destroyed_and_created_again),
		T(guest_crashes_with_io_in_flight),
		T(backend_node_removed_while_connected),
		T(frontend_node_removed_while_connected),
		T(detach_before_the_guest_ever_came),
		T(detach_with_io_in_flight_answers_it),
		T(attach_and_detach_many_times),
		T(nonsense_in_the_frontend_is_refused),
		T(params_that_cannot_be_opened),
		T(second_writer_waits_for_the_first),
		T(resize_is_noticed),
		T(io_goes_on_without_the_store),
		T(detached_while_the_store_was_away),
		T(many_disks_of_many_guests),
		T(daemon_ends_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
