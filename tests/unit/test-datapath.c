/*
 * The data path: a device on the loopback hypervisor, driven slot by slot.
 */
#include "test.h"

#include "base/clock.h"
#include "vbd.h"

#define SEGS 11u

static struct vbd vbd;
static char *dir, path[4096], params[4200];
static uint8_t *data;         /* SEGS pages of the guest */
static uint32_t gref[SEGS];

static int setup(void **state)
{
	(void)state;
	log_to_callback(disk_log_catch, NULL);
	disk_log_clear();
	assert_int_equal(drv_load(disk_driver_dir()), 0);
	vbd_setup(&vbd);
	dir = disk_dir(false);
	snprintf(path, sizeof(path), "%s", disk_file(dir, "disk", 8 << 20));
	snprintf(params, sizeof(params), "raw:%s", path);
	data = guest_pages(vbd.guest, SEGS);
	for (unsigned i = 0; i < SEGS; i++)
		gref[i] = guest_grant(vbd.guest, data + i * 4096, false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vbd_teardown(&vbd);
	vbd.dev = NULL;
	disk_remove(dir);
	log_to_callback(NULL, NULL);
	return 0;
}

static void fill(uint8_t seed)
{
	for (unsigned i = 0; i < SEGS * 4096; i++)
		data[i] = (uint8_t)(seed + i * 7 + i / 4096);
}

static bool is_filled(uint8_t seed)
{
	for (unsigned i = 0; i < SEGS * 4096; i++)
		if (data[i] != (uint8_t)(seed + i * 7 + i / 4096))
			return false;
	return true;
}

/* Write, wipe, read back, over one way of moving data. */
static void roundtrip(const char *settings, bool persistent)
{
	vbd_create(&vbd, params, settings, true);
	assert_int_equal(vbd_connect(&vbd, 0, persistent), 0);
	assert_int_equal(vbd.geometry.sectors, (8 << 20) / 512);
	for (uint8_t round = 1; round < 20; round++) {
		fill(round);
		assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, round * 88u, gref, SEGS), 0);
		memset(data, 0xee, SEGS * 4096);
		assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, round * 88u, gref, SEGS), 0);
		assert_true(is_filled(round));
	}
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 0, NULL, 0), 0);
	for (unsigned i = 0; i < SEGS && !persistent; i++)
		assert_int_equal(guest_grant_in_use(vbd.guest, gref[i]), 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	for (unsigned i = 0; i < SEGS; i++)
		assert_int_equal(guest_grant_in_use(vbd.guest, gref[i]), 0);
}

static void persistent_inline(void **state)
{
	(void)state;
	roundtrip("", true);
}

static void persistent_refused_by_frontend(void **state)
{
	(void)state;
	roundtrip("", false);
}

static void copy_inline(void **state)
{
	(void)state;
	roundtrip("grant=copy", true);
}

static void map_threads(void **state)
{
	(void)state;
	roundtrip("grant=map aio=threads", false);
}

static void map_single_inline(void **state)
{
	(void)state;
	roundtrip("grant=map-single", false);
}

static void persistent_threads(void **state)
{
	(void)state;
	roundtrip("aio=threads sync=on", true);
}

static void direct_native(void **state)
{
	(void)state;
	roundtrip("cache=none aio=native", true);
}

static void direct_native_copy(void **state)
{
	(void)state;
	roundtrip("cache=none aio=native grant=copy", true);
}

static void direct_threads_map(void **state)
{
	(void)state;
	roundtrip("cache=none aio=threads grant=map", false);
}

static void small_cap_falls_back_to_copy(void **state)
{
	(void)state;
	roundtrip("max-grants=4", true);
}

/* 200 requests in flight over a ring of 64 slots, answered once each. */
static void deep_queue(const char *settings, bool persistent)
{
	unsigned sent = 0, answered = 0;
	bool seen[200] = {false};
	uint32_t own[200]; /* a page each, since requests in flight together may not share one */
	uint8_t *pages = guest_pages(vbd.guest, 200);

	for (unsigned i = 0; i < 200; i++)
		own[i] = guest_grant(vbd.guest, pages + i * 4096, false);
	vbd_create(&vbd, params, settings, true);
	assert_int_equal(vbd_connect(&vbd, 1, persistent), 0);
	while (answered < 200) {
		while (sent < 200 && sent - answered < 64) {
			vbd_put(&vbd, sent % 3 ? BLKIF_OP_READ : BLKIF_OP_WRITE, sent, sent * 8,
				&own[sent], 1);
			sent++;
		}
		vbd_push(&vbd);
		blkif_response_t rsp = vbd_answer(&vbd);

		assert_int_equal(rsp.status, 0);
		assert_true(rsp.id < sent);
		assert_false(seen[rsp.id]);
		seen[rsp.id] = true;
		answered++;
	}
}

static void deep_inline(void **state)
{
	(void)state;
	deep_queue("", true);
}

static void deep_threads(void **state)
{
	(void)state;
	deep_queue("aio=threads grant=copy", true);
}

static void deep_direct(void **state)
{
	(void)state;
	deep_queue("cache=none aio=native", true);
}

static void deep_with_few_requests(void **state)
{
	(void)state;
	deep_queue("aio=threads max-requests=3", true);
}

static void malformed_requests_are_answered(void **state)
{
	uint32_t bad = 4000;

	(void)state;
	vbd_create(&vbd, params, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd_do(&vbd, 77, 0, gref, 1), BLKIF_RSP_EOPNOTSUPP);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, NULL, 0), BLKIF_RSP_ERROR);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, (8 << 20) / 512, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, UINT64_MAX, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 1ull << 55, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, &bad, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE_BARRIER, 0, gref, 1), BLKIF_RSP_EOPNOTSUPP);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, 1), 0);
	assert_int_equal(vbd.events[DEV_EV_BROKEN], 0);
}

static void read_only_refuses_all_that_writes(void **state)
{
	(void)state;
	vbd_create(&vbd, params, "barrier=on", false);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd.geometry.info & VDISK_READONLY, VDISK_READONLY);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE_BARRIER, 0, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 0, gref, 1), BLKIF_RSP_ERROR);
	assert_int_not_equal(vbd_do(&vbd, BLKIF_OP_DISCARD, 0, NULL, 0), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 0, NULL, 0), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, 1), 0);
}

static void barriers_with_and_without_data(void **state)
{
	(void)state;
	vbd_create(&vbd, params, "barrier=on aio=threads", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_true(vbd.geometry.barrier);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE_BARRIER, UINT64_MAX, NULL, 0), 0);
	fill(9);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE_BARRIER, 0, gref, SEGS), 0);
	/* Behind a barrier, in one push: the write before it is there when the read after it runs. */
	fill(10);
	vbd_put(&vbd, BLKIF_OP_WRITE, 1, 0, gref, SEGS);
	vbd_put(&vbd, BLKIF_OP_WRITE_BARRIER, 2, 800, gref, SEGS);
	vbd_put(&vbd, BLKIF_OP_WRITE_BARRIER, 3, UINT64_MAX, NULL, 0);
	vbd_put(&vbd, BLKIF_OP_READ, 4, 0, gref, 1);
	vbd_push(&vbd);
	for (unsigned i = 1; i <= 4; i++)
		assert_int_equal(vbd_answer(&vbd).id, i);
	assert_true(is_filled(10));
}

static void put_discard(uint64_t id, uint64_t sector, uint64_t count, uint8_t flags)
{
	blkif_request_discard_t *req = (void *)vbd_slot(&vbd);

	req->operation = BLKIF_OP_DISCARD;
	req->flag = flags;
	req->id = id;
	req->sector_number = sector;
	req->nr_sectors = count;
	vbd_push(&vbd);
}

static void discard_gives_space_back(void **state)
{
	struct stat before, after;

	(void)state;
	vbd_create(&vbd, params, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	fill(3);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, SEGS), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 0, NULL, 0), 0);
	assert_int_equal(stat(path, &before), 0);
	put_discard(1, 0, 88, 0);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	assert_int_equal(stat(path, &after), 0);
	assert_true(after.st_blocks < before.st_blocks);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, SEGS), 0);
	for (unsigned i = 0; i < SEGS * 4096; i++)
		assert_int_equal(data[i], 0);
	put_discard(2, (8 << 20) / 512 - 1, 2, 0);
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
	put_discard(3, 8, UINT64_MAX, 0);
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
	put_discard(4, 0, 8, BLKIF_DISCARD_SECURE);
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_EOPNOTSUPP);
}

static void indirect(uint8_t op, uint16_t segs, uint32_t table, uint64_t id, uint8_t inner)
{
	blkif_request_indirect_t *req = (void *)vbd_slot(&vbd);

	req->operation = op;
	req->indirect_op = inner;
	req->nr_segments = segs;
	req->id = id;
	req->indirect_grefs[0] = table;
	vbd_push(&vbd);
}

static void indirect_requests(void **state)
{
	struct blkif_request_segment *table = guest_pages(vbd.guest, 1);
	uint32_t table_gref = guest_grant(vbd.guest, table, true);
	uint32_t big_gref[256];
	uint8_t *big = guest_pages(vbd.guest, 256);
	blkif_response_t rsp;

	(void)state;
	for (unsigned i = 0; i < 256; i++) {
		big_gref[i] = guest_grant(vbd.guest, big + i * 4096, false);
		memset(big + i * 4096, (int)i, 4096);
		table[i] = (struct blkif_request_segment){.gref = big_gref[i], .last_sect = 7};
	}
	vbd_create(&vbd, params, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	for (int round = 0; round < 3; round++) {
		indirect(BLKIF_OP_INDIRECT, 256, table_gref, 1, BLKIF_OP_WRITE);
		rsp = vbd_answer(&vbd);
		assert_int_equal(rsp.status, 0);
		assert_int_equal(rsp.operation, BLKIF_OP_WRITE);
		memset(big, 0, 256 * 4096);
		indirect(BLKIF_OP_INDIRECT, 256, table_gref, 2, BLKIF_OP_READ);
		assert_int_equal(vbd_answer(&vbd).status, 0);
		for (unsigned i = 0; i < 256; i++)
			assert_int_equal(big[i * 4096 + 17], i & 255);
	}
	indirect(BLKIF_OP_INDIRECT, 257, table_gref, 3, BLKIF_OP_READ);
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
	indirect(BLKIF_OP_INDIRECT, 0, table_gref, 4, BLKIF_OP_READ);
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
	indirect(BLKIF_OP_INDIRECT, 12, 4001, 5, BLKIF_OP_READ);
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
	indirect(BLKIF_OP_INDIRECT, 12, table_gref, 6, BLKIF_OP_FLUSH_DISKCACHE);
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
	table[5].last_sect = 8;
	indirect(BLKIF_OP_INDIRECT, 12, table_gref, 7, BLKIF_OP_READ);
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
	indirect(BLKIF_OP_INDIRECT, 5, table_gref, 8, BLKIF_OP_READ);
	assert_int_equal(vbd_answer(&vbd).status, 0);
}

static void wait_event(int event)
{
	wait_true(vbd.events[event], VBD_WAIT_MS);
}

static void impossible_producer_stops_the_device(void **state)
{
	(void)state;
	vbd_create(&vbd, params, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, 1), 0);
	vbd.ring.sring->req_prod += 34;
	guest_notify(&vbd.port);
	wait_event(DEV_EV_BROKEN);
	assert_int_equal(dev_state(vbd.dev), DEV_BROKEN);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	/* And it can be used again. */
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, 1), 0);
}

static void pause_holds_and_goes_on(void **state)
{
	(void)state;
	vbd_create(&vbd, params, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	for (int i = 0; i < 50; i++) {
		assert_int_equal(vbd_strand(&vbd, vbd_do_pause), 0);
		vbd_put(&vbd, BLKIF_OP_READ, 1, 0, gref, 1);
		vbd_push(&vbd);
		if (i == 0)
			usleep(20000);
		assert_false(vbd_answered(&vbd));
		assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
		assert_int_equal(vbd_answer(&vbd).status, 0);
	}
}

static int connect_and_unpause(struct vbd *v)
{
	int err = dev_connect(v->dev, &v->rings, &v->geometry);

	return err ? err : dev_unpause(v->dev, params);
}

/* The image goes at once: the new poller must not look at it any more. */
static void paused_at_connect_is_paused(void **state)
{
	(void)state;
	vbd_create(&vbd, params, "grant=copy", true);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(vbd_connect(&vbd, 0, true), 0);
		assert_int_equal(vbd_strand(&vbd, vbd_do_pause), 0);
		assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
		assert_int_equal(dev_state(vbd.dev), DEV_PAUSED);
		memset(vbd.ring_pages, 0, 4096);
		SHARED_RING_INIT((blkif_sring_t *)vbd.ring_pages);
		FRONT_RING_INIT(&vbd.ring, (blkif_sring_t *)vbd.ring_pages, 4096);
		assert_int_equal(vbd_strand(&vbd, connect_and_unpause), 0);
		assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, 1), 0);
	}
}

static unsigned parked(void)
{
	struct dev_view view;

	dev_look(vbd.dev, &view);
	return view.parked;
}

static void set_live(const char *key, const char *value)
{
	char err[200];

	assert_int_equal(dev_set(vbd.dev, key, value, ORIGIN_SET, err, sizeof(err)), 0);
}

static void fault_disk(const char *driver, const char *settings)
{
	snprintf(params, sizeof(params), "%s:raw:%s", driver, path);
	vbd_create(&vbd, params, settings, true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
}

static void no_space_waits_for_the_operator(void **state)
{
	(void)state;
	fault_disk("error,op=write,errno=ENOSPC,nth=1,count=2", "");
	fill(5);
	vbd_put(&vbd, BLKIF_OP_WRITE, 1, 0, gref, SEGS);
	vbd_put(&vbd, BLKIF_OP_WRITE, 2, 800, gref, SEGS);
	vbd_push(&vbd);
	wait_event(DEV_EV_PARKED);
	/* Nothing more is consumed, not even reads. */
	while (parked() != 2)
		usleep(1000);
	vbd_put(&vbd, BLKIF_OP_READ, 3, 0, gref, 1);
	vbd_push(&vbd);
	usleep(20000);
	assert_false(vbd_answered(&vbd));
	assert_int_equal(vbd_strand(&vbd, vbd_do_pause), 0);
	assert_int_equal(parked(), 2);
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(vbd_answer(&vbd).status, 0);
	assert_int_equal(parked(), 0);
	memset(data, 0, SEGS * 4096);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 800, gref, SEGS), 0);
	assert_true(is_filled(5));
}

/* What the message says: make room, then unpause. */
static void unpause_alone_ends_the_wait_for_space(void **state)
{
	char text[512];

	(void)state;
	fault_disk("error,op=write,errno=ENOSPC,nth=1,count=1", "");
	vbd_put(&vbd, BLKIF_OP_WRITE, 1, 0, gref, SEGS);
	vbd_push(&vbd);
	wait_event(DEV_EV_PARKED);
	assert_non_null(strstr(dev_error(vbd.dev, text, sizeof text), "unpause"));
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	assert_string_equal(dev_error(vbd.dev, text, sizeof text), "");
	/* One that does not wait is told so. */
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), -EALREADY);
}

static void no_space_is_reported_if_asked(void **state)
{
	(void)state;
	fault_disk("error,op=write,errno=ENOSPC,nth=1,count=1", "enospc=report");
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), 0);
	assert_int_equal(vbd.events[DEV_EV_PARKED], 0);
}

static void parked_writes_fail_at_detach(void **state)
{
	(void)state;
	fault_disk("error,op=write,errno=ENOSPC", "");
	vbd_put(&vbd, BLKIF_OP_WRITE, 7, 0, gref, SEGS);
	vbd_push(&vbd);
	wait_event(DEV_EV_PARKED);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	assert_true(vbd_answered(&vbd));
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
}

/* Metadata that found no room is still there: nothing is lost, and the flush is done again. */
static void flush_without_space_waits(void **state)
{
	struct dev_view view;

	(void)state;
	fault_disk("error,op=flush,errno=ENOSPC,nth=1,count=2", "");
	vbd_put(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 1, 0, NULL, 0);
	vbd_push(&vbd);
	wait_event(DEV_EV_PARKED);
	vbd.events[DEV_EV_PARKED] = 0;
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	wait_event(DEV_EV_PARKED); /* in vain */
	assert_false(vbd_answered(&vbd));
	dev_look(vbd.dev, &view);
	assert_false(view.flush_failed);
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), 0);
}

static void flush_without_space_is_reported_if_asked(void **state)
{
	(void)state;
	fault_disk("error,op=flush,errno=ENOSPC,nth=1,count=2", "enospc=report");
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 0, NULL, 0), BLKIF_RSP_ERROR);
	set_live("sync", "on");
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), 0);
}

/* Promise 3: no flush is ever answered again, and data requests fail; a reconnect changes nothing. */
static void failed_flush_is_held(void **state)
{
	(void)state;
	fault_disk("error,op=flush,errno=EIO,nth=1,count=1", "");
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), 0);
	vbd_put(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 1, 0, NULL, 0);
	vbd_push(&vbd);
	wait_event(DEV_EV_PARKED);
	assert_false(vbd_answered(&vbd));
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, 1), BLKIF_RSP_ERROR);
	vbd_put(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 2, 0, NULL, 0);
	vbd_push(&vbd);
	while (parked() != 2)
		usleep(1000);
	assert_false(vbd_answered(&vbd));
	disk_assert_logged("flush failed");

	vbd.events[DEV_EV_PARKED] = 0;
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	assert_false(vbd_answered(&vbd));
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), BLKIF_RSP_ERROR);
	vbd_put(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 3, 0, NULL, 0);
	vbd_push(&vbd);
	wait_event(DEV_EV_PARKED);
	assert_false(vbd_answered(&vbd));
}

static void release_file(char *name)
{
	FILE *f = fopen(name, "w");

	assert_non_null(f);
	fclose(f);
}

/* A driver call that never returns: the guest gets its memory back, and the daemon goes on. */
static void hanging_call_is_given_up(const char *op, const char *settings, uint8_t wire)
{
	char release[4200], driver[4400];

	snprintf(release, sizeof(release), "%s/release", dir);
	snprintf(driver, sizeof(driver), "delay,hang=%s,release=%s", op, release);
	fault_disk(driver, settings);
	fill(1);
	vbd_put(&vbd, wire, 1, 0, gref, SEGS);
	vbd_push(&vbd);
	while (!stats_get(dev_stats(vbd.dev)->pool_io))
		usleep(1000);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), -ETIMEDOUT);
	assert_int_equal(dev_state(vbd.dev), DEV_IDLE);
	for (unsigned i = 0; i < SEGS; i++)
		assert_int_equal(guest_grant_in_use(vbd.guest, gref[i]), 0);
	for (unsigned i = 0; i < SEGS * 4096; i++)
		data[i] = 0x77;
	release_file(release);
	while (!disk_logged("has returned"))
		usleep(1000);
	/* The read that came back late has not touched the guest. */
	for (unsigned i = 0; i < SEGS * 4096; i++)
		assert_int_equal(data[i], 0x77);
	assert_false(vbd_answered(&vbd));
}

/* A call that allocates, on an image whose calls are quick: the poller makes it itself. */
static void what_is_alone_needs_no_worker(void **state)
{
	const struct img_create what = {.size = 16 << 20};
	char text[4200], err[512];
	struct params parsed;

	(void)state;
	snprintf(text, sizeof(text), "qcow2:%s/alone", dir);
	assert_int_equal(params_parse(text, &parsed, err, sizeof(err)), 0);
	assert_int_equal(img_create("alone", &parsed, &what, err, sizeof(err)), 0);
	params_free(&parsed);
	vbd_create(&vbd, text, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	fill(9);
	for (uint64_t i = 0; i < 128; i++)
		assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, i * 128, gref, SEGS), 0);
	/* Some of them: on a busy machine calls may have slept. */
	assert_true(stats_get(dev_stats(vbd.dev)->pool_io) < 128);
	assert_int_equal(stats_get(dev_stats(vbd.dev)->inline_io) + stats_get(dev_stats(vbd.dev)->pool_io), 128);
	for (uint64_t i = 0; i < 128; i++) {
		fill(1);
		assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, i * 128, gref, SEGS), 0);
		assert_true(is_filled(9));
	}
}

/* What is not quick goes to a worker, alone or not. */
static void what_may_sleep_goes_to_a_worker(void **state)
{
	char text[13000];

	(void)state;
	snprintf(text, sizeof(text), "delay,write-ms=1:%s", params);
	vbd_create(&vbd, text, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, SEGS), 0);
	assert_int_equal(stats_get(dev_stats(vbd.dev)->pool_io), 1);
}

static void hanging_read_persistent(void **state)
{
	(void)state;
	hanging_call_is_given_up("read", "", BLKIF_OP_READ);
}

static void hanging_read_mapped(void **state)
{
	(void)state;
	hanging_call_is_given_up("read", "grant=map", BLKIF_OP_READ);
}

static void hanging_read_copied(void **state)
{
	(void)state;
	hanging_call_is_given_up("read", "grant=copy", BLKIF_OP_READ);
}

/* Segment k of n has a grant that was not given, for every k: ERROR, and nothing stays in use. */
static void bad_grant_at_each_segment(const char *settings)
{
	uint32_t bad[SEGS];

	vbd_create(&vbd, params, settings, true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	for (unsigned n = 1; n <= SEGS; n++)
		for (unsigned k = 0; k < n; k++) {
			memcpy(bad, gref, sizeof(bad));
			bad[k] = 4090;
			assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, bad, n), BLKIF_RSP_ERROR);
			assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, bad, n), BLKIF_RSP_ERROR);
			assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, n), 0);
		}
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	for (unsigned i = 0; i < SEGS; i++)
		assert_int_equal(guest_grant_in_use(vbd.guest, gref[i]), 0);
}

static void bad_grants_persistent(void **state)
{
	(void)state;
	bad_grant_at_each_segment("");
}

static void bad_grants_copy(void **state)
{
	(void)state;
	bad_grant_at_each_segment("grant=copy");
}

static void bad_grants_map(void **state)
{
	(void)state;
	bad_grant_at_each_segment("grant=map");
}

static void bad_grants_map_single(void **state)
{
	(void)state;
	bad_grant_at_each_segment("grant=map-single aio=threads");
}

/* --- errors that wait --- */

static uint64_t wanted_size;
static bool may_shrink;

static int do_resize(struct vbd *v)
{
	return dev_resize(v->dev, wanted_size, may_shrink);
}

static int resize_to(uint64_t size, bool shrink)
{
	wanted_size = size;
	may_shrink = shrink;
	return vbd_strand(&vbd, do_resize);
}

static void put_pages(unsigned count, uint8_t op, uint64_t first_id)
{
	for (unsigned i = 0; i < count; i++)
		vbd_put(&vbd, op, first_id + i, i * 8, &gref[i % SEGS], 1);
}

static void errors_wait_if_asked(const char *more)
{
	char settings[100], text[512];

	snprintf(settings, sizeof settings, "on-error=pause %s", more);
	fault_disk("error,op=read+write,errno=EIO,nth=2,count=2", settings);
	fill(5);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, SEGS), 0);
	vbd_put(&vbd, BLKIF_OP_READ, 1, 0, gref, SEGS);
	vbd_push(&vbd);
	wait_event(DEV_EV_PARKED);
	assert_non_null(strstr(dev_error(vbd.dev, text, sizeof text), "storage fails"));
	assert_false(vbd_answered(&vbd));
	/* Still broken: it waits again. */
	vbd.events[DEV_EV_PARKED] = 0;
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	wait_event(DEV_EV_PARKED);
	assert_int_equal(parked(), 1);
	memset(data, 0, SEGS * 4096);
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	assert_true(is_filled(5));
	assert_int_equal(parked(), 0);
	/* What is the guest's own fault does not wait. */
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, (8 << 20) / 512, gref, 1), BLKIF_RSP_ERROR);
	vbd_put(&vbd, BLKIF_OP_WRITE, 9, 0, (const uint32_t[]){4000}, 1);
	vbd_push(&vbd);
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
}

static void errors_wait_persistent(void **state)
{
	(void)state;
	errors_wait_if_asked("");
}

static void errors_wait_copied(void **state)
{
	(void)state;
	errors_wait_if_asked("grant=copy");
}

static void errors_wait_mapped(void **state)
{
	(void)state;
	errors_wait_if_asked("grant=map");
}

/* A minute is more than any test lasts; 1 s is soon over, and how soon does not matter. */
static void nobody_comes_in_time(void **state)
{
	(void)state;
	fault_disk("error,op=write,errno=EIO", "on-error=pause error-timeout=600");
	put_pages(3, BLKIF_OP_WRITE, 1);
	vbd_push(&vbd);
	wait_event(DEV_EV_PARKED);
	while (parked() != 3)
		usleep(1000);
	assert_false(vbd_answered(&vbd));
	set_live("error-timeout", "1");
	wait_event(DEV_EV_GAVE_UP);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
	assert_int_equal(parked(), 0);
	assert_int_equal(stats_get(dev_stats(vbd.dev)->op[STAT_WRITE].done), 3);
	assert_int_equal(stats_get(dev_stats(vbd.dev)->op[STAT_WRITE].errors), 3);
	assert_int_equal(stats_get(dev_stats(vbd.dev)->parked), 0);
	/* From now on nobody waits; until somebody is there again, which other settings and a look at the size are not. */
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), BLKIF_RSP_ERROR);
	set_live("iops", "100000");
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(resize_to(0, false), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, 1), 0);
	vbd.events[DEV_EV_PARKED] = 0;
	set_live("error-timeout", "0");
	put_pages(1, BLKIF_OP_WRITE, 1);
	vbd_push(&vbd);
	wait_event(DEV_EV_PARKED);
	assert_false(vbd_answered(&vbd));
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
	assert_int_equal(stats_get(dev_stats(vbd.dev)->op[STAT_WRITE].done), 7);
	assert_int_equal(stats_get(dev_stats(vbd.dev)->op[STAT_WRITE].errors), 7);
}

/* Also after a pause by hand. */
static void unpause_waits_again(void **state)
{
	(void)state;
	fault_disk("error,op=write,errno=EIO", "on-error=pause error-timeout=1");
	put_pages(1, BLKIF_OP_WRITE, 1);
	vbd_push(&vbd);
	wait_event(DEV_EV_GAVE_UP);
	assert_int_equal(vbd_answer(&vbd).status, BLKIF_RSP_ERROR);
	assert_int_equal(vbd_strand(&vbd, vbd_do_pause), 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	vbd.events[DEV_EV_PARKED] = 0;
	put_pages(1, BLKIF_OP_WRITE, 2);
	vbd_push(&vbd);
	wait_event(DEV_EV_PARKED);
}

/* A flush that failed is never answered, whatever the policy. */
static void a_failed_flush_is_no_error_that_waits(void **state)
{
	(void)state;
	fault_disk("error,op=flush,errno=EIO,nth=1,count=1", "on-error=pause error-timeout=1");
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), 0);
	vbd_put(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 1, 0, NULL, 0);
	vbd_push(&vbd);
	wait_event(DEV_EV_PARKED);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd.events[DEV_EV_GAVE_UP], 0);
	assert_int_equal(parked(), 1);
}

/* --- size, flush --- */

/* What the frontend was told of holds for the connection, also if it was set meanwhile. */
static void what_was_offered_is_kept(void **state)
{
	struct blkif_request_segment *table = guest_pages(vbd.guest, 1);
	uint32_t table_gref = guest_grant(vbd.guest, table, true);

	(void)state;
	for (unsigned i = 0; i < SEGS; i++)
		table[i] = (struct blkif_request_segment){.gref = gref[i], .last_sect = 7};
	vbd_create(&vbd, params, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	set_live("max-indirect-segments", "0");
	assert_int_equal(vbd_strand(&vbd, vbd_do_connect), 0);
	indirect(BLKIF_OP_INDIRECT, SEGS, table_gref, 1, BLKIF_OP_READ);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_pause), 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	indirect(BLKIF_OP_INDIRECT, SEGS, table_gref, 2, BLKIF_OP_READ);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	/* The next one is told anew. */
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	indirect(BLKIF_OP_INDIRECT, SEGS, table_gref, 3, BLKIF_OP_READ);
	assert_int_not_equal(vbd_answer(&vbd).status, 0);
}

static uint64_t file_size(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

static void resize_while_connected(void **state)
{
	char text[512];

	(void)state;
	vbd_create(&vbd, params, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, (8 << 20) / 512, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(resize_to(16 << 20, false), 0);
	assert_int_equal(vbd.events[DEV_EV_RESIZED], 1);
	assert_int_equal(file_size(), 16 << 20);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, (8 << 20) / 512, gref, 1), 0);
	/* Nothing is lost by a slip of the pen. */
	assert_int_equal(resize_to(4 << 20, false), -EPERM);
	assert_non_null(strstr(dev_error(vbd.dev, text, sizeof text), "--shrink"));
	assert_int_equal(file_size(), 16 << 20);
	assert_int_equal(resize_to(4097, true), -EPERM);
	assert_int_equal(resize_to(4 << 20, true), 0);
	assert_int_equal(file_size(), 4 << 20);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, (8 << 20) / 512, gref, 1), BLKIF_RSP_ERROR);
	assert_int_equal(vbd.events[DEV_EV_RESIZED], 2);
	/* Paused it stays paused. */
	assert_int_equal(vbd_strand(&vbd, vbd_do_pause), 0);
	assert_int_equal(resize_to(5 << 20, false), 0);
	assert_int_equal(dev_state(vbd.dev), DEV_PAUSED);
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, (4 << 20) / 512, gref, 1), 0);
}

/* Somebody else has changed it, and the guest does nothing. */
static void a_changed_size_is_noticed_when_asked(void **state)
{
	struct dev_view view;

	(void)state;
	vbd_create(&vbd, params, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(truncate(path, 10 << 20), 0);
	assert_int_equal(resize_to(0, false), 0);
	assert_int_equal(vbd.events[DEV_EV_RESIZED], 1);
	dev_look(vbd.dev, &view);
	assert_int_equal(view.geometry.sectors, (10 << 20) / 512);
	assert_int_equal(resize_to(0, false), 0);
	assert_int_equal(vbd.events[DEV_EV_RESIZED], 1);
}

static void resize_without_a_guest(void **state)
{
	(void)state;
	vbd_create(&vbd, params, "", true);
	assert_int_equal(resize_to(9 << 20, false), 0);
	assert_int_equal(file_size(), 9 << 20);
	assert_int_equal(resize_to(0, false), 0);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd.geometry.sectors, (9 << 20) / 512);
}

static void what_is_read_only_keeps_its_size(void **state)
{
	(void)state;
	vbd_create(&vbd, params, "", false);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(resize_to(9 << 20, false), -EPERM);
	assert_int_equal(file_size(), 8 << 20);
}

/* --- discards are settled --- */

static bool flush_fails_within(int ms)
{
	long long end = guest_now_ms() + ms;
	struct dev_view view;

	do {
		usleep(1000);
		dev_look(vbd.dev, &view);
	} while (!view.flush_failed && guest_now_ms() < end);
	return view.flush_failed;
}

/* By a flush that nobody has asked for: seen by its failing. */
static void slow_discard_is_settled(void **state)
{
	(void)state;
	fault_disk("error,op=flush:delay,discard-ms=100", "");
	put_discard(1, 0, 64, 0);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	assert_true(flush_fails_within(VBD_WAIT_MS));
}

/* What is sick is not flushed behind the operator's back. */
static void discard_is_not_settled_while_requests_wait(void **state)
{
	char when[4200], driver[4400];

	(void)state;
	snprintf(when, sizeof(when), "%s/when", dir);
	snprintf(driver, sizeof(driver), "error,op=write+flush,when=%s", when);
	fault_disk(driver, "on-error=pause");
	put_discard(1, 0, 64, 0);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	fclose(fopen(when, "w"));
	vbd_put(&vbd, BLKIF_OP_WRITE, 7, 0, gref, 1);
	vbd_push(&vbd);
	assert_false(flush_fails_within(3000));
	unlink(when);
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	assert_int_equal(vbd_answer(&vbd).status, 0);
}

static int do_flush(struct vbd *v)
{
	return dev_flush(v->dev);
}

static void flush_by_the_operator_without_space(void **state)
{
	char text[512];

	(void)state;
	fault_disk("error,op=flush,errno=ENOSPC,nth=1,count=1", "");
	assert_int_equal(vbd_strand(&vbd, do_flush), -ENOSPC);
	assert_non_null(strstr(dev_error(vbd.dev, text, sizeof text), "make room"));
	assert_int_equal(vbd_strand(&vbd, do_flush), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 0, NULL, 0), 0);
}

static void flush_by_the_operator(void **state)
{
	struct dev_view view;

	(void)state;
	fault_disk("error,op=flush,errno=EIO,nth=2,count=1", "");
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), 0);
	assert_int_equal(vbd_strand(&vbd, do_flush), 0);
	assert_int_equal(vbd_strand(&vbd, do_flush), -EIO);
	/* Promise 3 holds for this flush, too. */
	dev_look(vbd.dev, &view);
	assert_true(view.flush_failed);
	assert_int_equal(vbd_strand(&vbd, do_flush), -EIO);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), BLKIF_RSP_ERROR);
}

/* --- calls of the operator's that hang --- */

static char go_file[4200];

static void hanging_disk(const char *op)
{
	char driver[4400];

	snprintf(go_file, sizeof(go_file), "%s/release", dir);
	snprintf(driver, sizeof(driver), "delay,hang=%s,release=%s", op, go_file);
	fault_disk(driver, "");
}

/* The guest's memory goes back to it; when the call returns the image is closed, and can be opened again. */
static void ends_all_the_same(void)
{
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), -ETIMEDOUT);
	for (unsigned i = 0; i < SEGS; i++)
		assert_int_equal(guest_grant_in_use(vbd.guest, gref[i]), 0);
	assert_int_equal(vbd_connect(&vbd, 0, true), -EBUSY);
	release_file(go_file);
	while (!disk_logged("the image is closed now"))
		usleep(1000);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, SEGS), 0);
}

static void hanging_flush_is_left(void **state)
{
	char text[512];

	(void)state;
	hanging_disk("flush");
	assert_int_equal(vbd_strand(&vbd, do_flush), -ETIMEDOUT);
	/* I/O goes on, what would have to wait for it says so. */
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, SEGS), 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_pause), -EBUSY);
	assert_non_null(strstr(dev_error(vbd.dev, text, sizeof(text)), "busy: a flush has not returned yet"));
	ends_all_the_same();
}

static void flush_that_was_left_counts(void **state)
{
	char driver[4500];
	struct dev_view view;

	(void)state;
	snprintf(go_file, sizeof(go_file), "%s/release", dir);
	snprintf(driver, sizeof(driver), "delay,hang=flush,release=%s:error,op=flush,errno=EIO", go_file);
	fault_disk(driver, "");
	assert_int_equal(vbd_strand(&vbd, do_flush), -ETIMEDOUT);
	release_file(go_file);
	do {
		usleep(1000);
		dev_look(vbd.dev, &view);
	} while (!view.flush_failed);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), BLKIF_RSP_ERROR);
}

/* The requests must not go on beside it: they do when it has returned. */
static void hanging_resize_holds_the_requests(void **state)
{
	(void)state;
	hanging_disk("refresh");
	assert_int_equal(resize_to(0, false), -ETIMEDOUT);
	vbd_put(&vbd, BLKIF_OP_READ, 7, 0, gref, 1);
	vbd_push(&vbd);
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), -EBUSY);
	assert_false(vbd_answered(&vbd));
	release_file(go_file);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_pause), 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
}

static void hanging_resize_holds_no_guest_that_goes(void **state)
{
	(void)state;
	hanging_disk("refresh");
	assert_int_equal(resize_to(0, false), -ETIMEDOUT);
	ends_all_the_same();
}

/* By the clock of the poller, while the disk has work. */
static void hanging_look_at_the_size_holds_nobody(void **state)
{
	long long end = guest_now_ms() + VBD_WAIT_MS;
	int err;

	(void)state;
	hanging_disk("refresh");
	do {
		assert_true(guest_now_ms() < end);
		for (unsigned i = 0; i < 20; i++)
			assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, SEGS), 0);
		usleep(10000);
		err = vbd_strand(&vbd, vbd_do_pause);
		if (!err)
			assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	} while (!err);
	assert_int_equal(err, -EBUSY);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, SEGS), 0);
	ends_all_the_same();
}

/* The domain dies, or its kernel begins: the operator's call is left sooner. */
static void who_is_in_a_hurry_waits_less(void **state)
{
	struct vbd_call flush;
	long long begin;

	(void)state;
	hanging_disk("flush");
	begin = guest_now_ms();
	vbd_begin(&vbd, &flush, do_flush);
	dev_hurry(vbd.dev, false);
	assert_int_equal(strand_end(&flush.call), -ETIMEDOUT);
	assert_true(guest_now_ms() - begin < VBD_CALL_MS);
	ends_all_the_same();
}

/* --- an image that does not open --- */

static char hanging_file[4200], new_params[9000];
static const char *swap_to;

static int do_swap(struct vbd *v)
{
	return dev_swap(v->dev, swap_to);
}

static int do_probe(struct vbd *v)
{
	return dev_probe(v->dev);
}

/* Params whose opening hangs, as long as there is no file "release". */
static const char *hanging_params(const char *target)
{
	snprintf(go_file, sizeof(go_file), "%s/release", dir);
	snprintf(hanging_file, sizeof(hanging_file), "%s/hanging", dir);
	snprintf(new_params, sizeof(new_params), "delay,hang=open,hanging=%s,release=%s:%s", hanging_file, go_file, target);
	return new_params;
}

static void hanging_to_open(const char *target)
{
	vbd_create(&vbd, hanging_params(target), "", true);
	vbd_new_ring(&vbd, 0, true);
}

static void begin_to_hang(struct vbd_call *call, int (*fn)(struct vbd *v))
{
	vbd_begin(&vbd, call, fn);
	wait_true(!access(hanging_file, F_OK), VBD_WAIT_MS);
}

/* Somebody wants the end of it. */
static void left_when_it_is_to_end(struct vbd_call *call)
{
	char text[512];

	dev_hurry(vbd.dev, true);
	assert_int_equal(strand_end(&call->call), -ETIMEDOUT);
	assert_non_null(strstr(dev_error(vbd.dev, text, sizeof(text)), "the image is still being opened"));
}

static void comes_back(void)
{
	release_file(go_file);
	wait_true(disk_logged("the image that was still being opened is closed again"), VBD_WAIT_MS);
}

static void opening_that_hangs_is_left(void **state)
{
	struct vbd_call connect;
	char text[512];

	(void)state;
	hanging_to_open(params);
	begin_to_hang(&connect, vbd_do_connect);
	left_when_it_is_to_end(&connect);
	assert_int_equal(dev_state(vbd.dev), DEV_IDLE);
	/* A guest cannot make us leave one after the other. */
	assert_int_equal(vbd_strand(&vbd, vbd_do_connect), -EBUSY);
	assert_non_null(strstr(dev_error(vbd.dev, text, sizeof(text)), "try again when its storage answers"));
	assert_int_equal(vbd_strand(&vbd, do_probe), -EBUSY);
	comes_back();
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, SEGS), 0);
	assert_string_equal(dev_error(vbd.dev, text, sizeof(text)), "");
}

/* It may be a long repair: who merely wants the strand waits. */
static void opening_that_is_slow_is_waited_for(void **state)
{
	struct vbd_call connect;

	(void)state;
	hanging_to_open(params);
	begin_to_hang(&connect, vbd_do_connect);
	dev_hurry(vbd.dev, false);
	usleep(1500000);
	release_file(go_file);
	assert_int_equal(strand_end(&connect.call), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, SEGS), 0);
}

static void opening_that_was_left_outlives_the_disk(void **state)
{
	struct vbd_call probe;
	struct image *image;

	(void)state;
	hanging_to_open(params);
	begin_to_hang(&probe, do_probe);
	left_when_it_is_to_end(&probe);
	vbd_strand(&vbd, vbd_do_destroy);
	dev_put(vbd.dev);
	vbd.dev = NULL;
	/* Attached again meanwhile: another disk, which only the image's lock could keep out. */
	vbd_create(&vbd, params, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	comes_back();
	image = disk_open(params, RD_OPEN_WRITE);
	assert_int_equal(img_close(image), 0);
}

static void opening_that_was_left_may_fail(void **state)
{
	struct vbd_call connect;

	(void)state;
	hanging_to_open("raw:/nonexistent/image");
	begin_to_hang(&connect, vbd_do_connect);
	left_when_it_is_to_end(&connect);
	release_file(go_file);
	wait_true(disk_logged("the opening that was given up has failed"), VBD_WAIT_MS);
	wait_true(vbd_strand(&vbd, do_probe) == -ENOENT, VBD_WAIT_MS);
}

/* The guest goes on on what it had. */
static void swap_to_what_does_not_open_is_left(void **state)
{
	struct vbd_call swap;
	char other[4200];

	(void)state;
	vbd_create(&vbd, params, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	snprintf(other, sizeof(other), "raw:%s", disk_file(dir, "other", 8 << 20));
	swap_to = hanging_params(other);
	begin_to_hang(&swap, do_swap);
	left_when_it_is_to_end(&swap);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, SEGS), 0);
	assert_int_equal(vbd_strand(&vbd, do_swap), -EBUSY);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, gref, SEGS), 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	assert_int_equal(vbd_connect(&vbd, 0, true), -EBUSY);
	comes_back();
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
}

/* The server of both is gone: then there is no image, and the disk can go. */
static void swap_without_a_way_back_is_left(void **state)
{
	char old[9000], when_file[4200];
	struct vbd_call swap;

	(void)state;
	snprintf(when_file, sizeof(when_file), "%s/when", dir);
	snprintf(old, sizeof(old), "delay,hang=open,when=%s,release=%s/release:raw:%s", when_file, dir, path);
	vbd_create(&vbd, old, "", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	snprintf(old, sizeof(old), "raw:%s", disk_file(dir, "other", 8 << 20));
	swap_to = hanging_params(old);
	release_file(when_file);
	begin_to_hang(&swap, do_swap);
	left_when_it_is_to_end(&swap);
	assert_int_equal(dev_state(vbd.dev), DEV_PAUSED);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	comes_back();
}

/* --- limits --- */

/* Counted against the time that has passed, however slow the machine is. */
static void limits_let_so_many_start(void **state)
{
	const uint64_t rate = 100, full = 2; /* burst=10 brings one, and one is always there */
	uint64_t start;

	(void)state;
	vbd_create(&vbd, params, "iops=100 burst=10", true);
	start = now_ns(); /* before the bucket is made */
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	put_pages(32, BLKIF_OP_READ, 1);
	vbd_push(&vbd);
	for (uint64_t n = 1; n <= 32; n++) {
		assert_int_equal(vbd_answer(&vbd).status, 0);
		/* 0.1 %: the clock is the processor's, calibrated. */
		if (n > full)
			assert_true((n - full) * NSEC_PER_SEC / rate <=
				    (now_ns() - start) * 1001 / 1000);
	}
	assert_true(stats_get(dev_stats(vbd.dev)->throttled) >= 1);
	/* Flushes do not wait for others' sins. */
	set_live("iops", "0");
	set_live("iops-write", "1");
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_FLUSH_DISKCACHE, 0, NULL, 0), 0);
}

static void bytes_are_limited_too(void **state)
{
	const uint64_t rate = 1u << 20, full = rate / 100, size = SEGS * 4096;
	uint64_t start;

	(void)state;
	vbd_create(&vbd, params, "bps-write=1M burst=10 aio=threads", true);
	start = now_ns();
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	for (unsigned i = 0; i < 12; i++)
		vbd_put(&vbd, BLKIF_OP_WRITE, i, 0, gref, SEGS);
	vbd_push(&vbd);
	for (uint64_t n = 1; n <= 12; n++) {
		assert_int_equal(vbd_answer(&vbd).status, 0);
		/* The last one may have gone into debt. */
		if ((n - 1) * size > full)
			assert_true(((n - 1) * size - full) * NSEC_PER_SEC / rate <=
				    (now_ns() - start) * 1001 / 1000);
	}
}

static void reads_pass_writes_that_wait(void **state)
{
	unsigned reads = 0, writes = 0;

	(void)state;
	vbd_create(&vbd, params, "iops-write=1 burst=10", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	put_pages(11, BLKIF_OP_WRITE, 100);
	put_pages(11, BLKIF_OP_READ, 200);
	vbd_push(&vbd);
	while (reads < 11) {
		uint64_t id = vbd_answer(&vbd).id;

		if (id < 200)
			writes++;
		else
			reads++;
	}
	/* All came at once, so one write went with them; more only if a second passes here. */
	assert_true(writes < 11);
	set_live("iops-write", "0");
	for (; writes < 11; writes++)
		assert_true(vbd_answer(&vbd).id < 200);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_WRITE, 0, gref, 1), 0);
}

/* What waits does not run: nobody needs to wait for it. */
static void waiting_ones_hold_up_neither_pause_nor_disconnect(void **state)
{
	unsigned answered = 1;

	(void)state;
	vbd_create(&vbd, params, "iops-write=1 burst=10", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	put_pages(20, BLKIF_OP_WRITE, 1);
	vbd_push(&vbd);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_pause), 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	set_live("iops-write", "100000");
	for (; answered < 20; answered++)
		assert_int_equal(vbd_answer(&vbd).status, 0);
	set_live("iops-write", "1");
	set_live("iops", "1");
	put_pages(20, BLKIF_OP_WRITE, 1);
	put_pages(5, BLKIF_OP_READ, 30);
	vbd_push(&vbd);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	for (unsigned i = 0; i < SEGS; i++)
		assert_int_equal(guest_grant_in_use(vbd.guest, gref[i]), 0);
}

/* Each its own, although their segments are read long after they came. */
static void indirect_requests_that_wait_keep_their_pages(void **state)
{
	enum { REQS = 6, PAGES = 12 };

	(void)state;
	vbd_create(&vbd, params, "iops-write=20 burst=10", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	for (unsigned n = 0; n < REQS; n++) {
		struct blkif_request_segment *table = guest_pages(vbd.guest, 1);
		uint8_t *pages = guest_pages(vbd.guest, PAGES);
		blkif_request_indirect_t *req = (void *)vbd_slot(&vbd);

		memset(pages, (int)n + 1, PAGES * 4096);
		for (unsigned i = 0; i < PAGES; i++)
			table[i] = (struct blkif_request_segment){
				.gref = guest_grant(vbd.guest, pages + i * 4096, false),
				.last_sect = 7,
			};
		req->operation = BLKIF_OP_INDIRECT;
		req->indirect_op = BLKIF_OP_WRITE;
		req->nr_segments = PAGES;
		req->id = n;
		req->sector_number = n * PAGES * 8;
		req->indirect_grefs[0] = guest_grant(vbd.guest, table, true);
	}
	vbd_push(&vbd);
	for (unsigned n = 0; n < REQS; n++)
		assert_int_equal(vbd_answer(&vbd).status, 0);
	for (unsigned n = 0; n < REQS; n++) {
		assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, n * PAGES * 8, gref, 1), 0);
		assert_int_equal(data[0], n + 1);
	}
}

/* Its place is not the one that those before it wait for. */
static void a_barrier_leaves_room_for_those_before_it(void **state)
{
	(void)state;
	vbd_create(&vbd, params, "barrier=on max-requests=1 iops-write=20 burst=10", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	put_pages(3, BLKIF_OP_WRITE, 1);
	vbd_put(&vbd, BLKIF_OP_WRITE_BARRIER, 4, 80, gref, 2);
	vbd_push(&vbd);
	for (unsigned i = 1; i <= 4; i++) {
		uint64_t id = vbd_answer(&vbd).id;

		assert_true(i < 4 ? id < 4 : id == 4);
	}
}

/* One after the other, whatever has to wait. */
static void nothing_passes_a_barrier(void **state)
{
	(void)state;
	vbd_create(&vbd, params, "barrier=on iops-write=50 burst=10 aio=threads", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	for (unsigned round = 0; round < 5; round++) {
		unsigned seen = 0;

		put_pages(3, BLKIF_OP_WRITE, 1);
		vbd_put(&vbd, BLKIF_OP_WRITE_BARRIER, 4, 80, gref, 2);
		put_pages(3, BLKIF_OP_READ, 5);
		put_pages(1, BLKIF_OP_WRITE, 8);
		vbd_push(&vbd);
		for (unsigned i = 1; i <= 8; i++) {
			uint64_t id = vbd_answer(&vbd).id;

			assert_true(i < 4 ? id < 4 : i == 4 ? id == 4 : id > 4);
			seen |= 1u << id;
		}
		assert_int_equal(seen, 0x1fe);
	}
}

/* Many small changes while it works: no wake-up is lost. */
static void limits_change_while_it_works(void **state)
{
	static const char *const value[] = {"1", "0", "50", "100000", "0"};

	(void)state;
	vbd_create(&vbd, params, "burst=10", true);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	for (unsigned round = 0; round < 60; round++) {
		set_live(round & 1 ? "iops-read" : "iops", value[round % 5]);
		put_pages(4, BLKIF_OP_READ, 1);
		put_pages(4, BLKIF_OP_WRITE, 1);
		vbd_push(&vbd);
		set_live("iops-read", "0");
		set_live("iops", "0");
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(vbd_answer(&vbd).status, 0);
	}
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(persistent_inline),
		CASE(persistent_refused_by_frontend),
		CASE(copy_inline),
		CASE(map_threads),
		CASE(map_single_inline),
		CASE(persistent_threads),
		CASE(direct_native),
		CASE(direct_native_copy),
		CASE(direct_threads_map),
		CASE(small_cap_falls_back_to_copy),
		CASE(deep_inline),
		CASE(deep_threads),
		CASE(deep_direct),
		CASE(deep_with_few_requests),
		CASE(malformed_requests_are_answered),
		CASE(read_only_refuses_all_that_writes),
		CASE(barriers_with_and_without_data),
		CASE(discard_gives_space_back),
		CASE(indirect_requests),
		CASE(impossible_producer_stops_the_device),
		CASE(pause_holds_and_goes_on),
		CASE(paused_at_connect_is_paused),
		CASE(no_space_waits_for_the_operator),
		CASE(unpause_alone_ends_the_wait_for_space),
		CASE(no_space_is_reported_if_asked),
		CASE(parked_writes_fail_at_detach),
		CASE(flush_without_space_waits),
		CASE(flush_without_space_is_reported_if_asked),
		CASE(failed_flush_is_held),
		CASE(what_is_alone_needs_no_worker),
		CASE(what_may_sleep_goes_to_a_worker),
		CASE(hanging_read_persistent),
		CASE(hanging_read_mapped),
		CASE(hanging_read_copied),
		CASE(bad_grants_persistent),
		CASE(bad_grants_copy),
		CASE(bad_grants_map),
		CASE(bad_grants_map_single),
		CASE(errors_wait_persistent),
		CASE(errors_wait_copied),
		CASE(errors_wait_mapped),
		CASE(nobody_comes_in_time),
		CASE(unpause_waits_again),
		CASE(a_failed_flush_is_no_error_that_waits),
		CASE(what_was_offered_is_kept),
		CASE(resize_while_connected),
		CASE(a_changed_size_is_noticed_when_asked),
		CASE(resize_without_a_guest),
		CASE(what_is_read_only_keeps_its_size),
		CASE(slow_discard_is_settled),
		CASE(discard_is_not_settled_while_requests_wait),
		CASE(flush_by_the_operator_without_space),
		CASE(flush_by_the_operator),
		CASE(hanging_flush_is_left),
		CASE(flush_that_was_left_counts),
		CASE(hanging_resize_holds_the_requests),
		CASE(hanging_resize_holds_no_guest_that_goes),
		CASE(hanging_look_at_the_size_holds_nobody),
		CASE(who_is_in_a_hurry_waits_less),
		CASE(opening_that_hangs_is_left),
		CASE(opening_that_is_slow_is_waited_for),
		CASE(opening_that_was_left_outlives_the_disk),
		CASE(opening_that_was_left_may_fail),
		CASE(swap_to_what_does_not_open_is_left),
		CASE(swap_without_a_way_back_is_left),
		CASE(limits_let_so_many_start),
		CASE(bytes_are_limited_too),
		CASE(reads_pass_writes_that_wait),
		CASE(waiting_ones_hold_up_neither_pause_nor_disconnect),
		CASE(indirect_requests_that_wait_keep_their_pages),
		CASE(a_barrier_leaves_room_for_those_before_it),
		CASE(nothing_passes_a_barrier),
		CASE(limits_change_while_it_works),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
