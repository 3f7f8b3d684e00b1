/*
 * The daemon as a guest sees it: every shape of ring, every ABI, every way of moving data, and what each
 * operation means. One daemon for all of it.
 */
#include "../unit/test.h"

#include <pthread.h>

#include "rig.h"

#define DOMID 5u

static struct rig rig;
static struct guest *guest;

static int group_setup(void **state)
{
	(void)state;
	rig_setup(&rig);
	guest = rig_guest(&rig, DOMID);
	rig_image(&rig, "a", 1);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	guest_close(guest);
	rig_teardown(&rig);
	return 0;
}

static struct frontend *attach(const char *options, const struct fe_config *config,
			       struct ts_vbd *vbd)
{
	static char params[256];

	rig_params(&rig, options, "a", params);
	vbd->domid = DOMID;
	vbd->vdev = config->vdev;
	vbd->params = params;
	return rig_connect(&rig, guest, config, vbd);
}

/* ---- shapes ------------------------------------------------------------------------------------------ */

static void every_order_and_abi(void **state)
{
	static const enum fe_abi abis[] = { FE_ABI_NATIVE, FE_ABI_X86_32, FE_ABI_X86_64,
					    FE_ABI_MISSING };

	(void)state;
	for (unsigned int order = 0; order <= 4; order++) {
		for (unsigned int i = 0; i < 4; i++) {
			struct fe_config config = rig_config();
			struct ts_vbd vbd = { .kind = i & 1 ? "vbd3" : "qdisk" };
			struct frontend *fe;

			config.vdev = RIG_XVDA + 16 * (i & 1);
			config.ring_order = order;
			config.abi = abis[i];
			fe = attach("", &config, &vbd);
			assert_int_equal(fe_ring_order(fe), order);
			rig_exercise(&rig, fe, "a", order * 4 + i);
			rig_detach(&rig, fe, &vbd);
		}
	}
}

static void every_way_of_moving_data(void **state)
{
	static const char *const grants[] = { "grant=persistent", "grant=copy", "grant=map",
					      "grant=map-single",
					      "grant=persistent,max-grants=16" };
	static const char *const aios[] = { "aio=inline", "aio=threads", "cache=none,aio=native",
					    "cache=none,aio=threads", "sync=on" };

	(void)state;
	for (unsigned int i = 0; i < 50; i++) {
		struct fe_config config = rig_config();
		struct ts_vbd vbd = { .kind = NULL };
		char options[128];
		struct frontend *fe;

		snprintf(options, sizeof(options), "%s,%s", grants[i % 5], aios[i / 5 % 5]);
		config.persistent = i / 25;
		config.ring_order = 1;
		fe = attach(options, &config, &vbd);
		assert_int_equal(fe_geometry(fe)->persistent, i % 5 == 0 || i % 5 == 4);
		rig_exercise(&rig, fe, "a", i + 100);
		rig_detach(&rig, fe, &vbd);
	}
}

static void without_indirect_requests(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .kind = NULL };
	struct frontend *fe;

	(void)state;
	config.max_segments = 0;
	fe = attach("", &config, &vbd);
	assert_int_equal(fe_max_segments(fe), 11);
	rig_exercise(&rig, fe, "a", 200);
	rig_detach(&rig, fe, &vbd);
	config.max_segments = 256; /* not offered */
	fe = attach("max-indirect-segments=0", &config, &vbd);
	assert_int_equal(fe_max_segments(fe), 11);
	rig_exercise(&rig, fe, "a", 201);
	rig_detach(&rig, fe, &vbd);
}

static void limits_are_what_is_offered(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .kind = NULL };
	struct frontend *fe;

	(void)state;
	config.ring_order = 6;
	config.queues = 16;
	fe = attach("max-ring-page-order=2,max-queues=3,max-indirect-segments=20", &config, &vbd);
	assert_int_equal(fe_ring_order(fe), 2);
	assert_int_equal(fe_queues(fe), 3);
	assert_int_equal(fe_max_segments(fe), 20);
	rig_exercise(&rig, fe, "a", 202);
	rig_detach(&rig, fe, &vbd);
}

/* ---- queues ------------------------------------------------------------------------------------------ */

#define QUEUES 4u

struct writer {
	struct frontend *fe;
	unsigned int queue;
	struct fe_buf *buf[16];
	int rc;
	pthread_t thread;
};

/* Each thread fills its quarter of the disk, 16 requests of 4 KiB in flight. */
static void *write_quarter(void *arg)
{
	struct writer *w = arg;
	unsigned int blocks = RIG_SECTORS / 8 / QUEUES, sent = 0, got = 0;
	struct fe_done done[16];

	while (got < blocks && w->rc >= 0) {
		while (sent < blocks && sent - got < 16) {
			uint64_t sector = (uint64_t)(w->queue * blocks + sent) * 8;
			struct fe_buf *buf = NULL;

			for (unsigned int i = 0; i < 16 && !buf; i++) {
				buf = w->buf[i];
				w->buf[i] = NULL;
			}
			rig_fill(buf->data, 4096, sector + 77);
			w->rc = fe_submit(w->fe, w->queue,
					  &(struct fe_io){ .op = BLKIF_OP_WRITE,
							   .sector = sector,
							   .buf = buf,
							   .len = 4096,
							   .user = buf });
			if (w->rc)
				return NULL;
			sent++;
		}
		fe_push(w->fe, w->queue);
		w->rc = fe_wait(w->fe, w->queue, RIG_WAIT_MS) == 1
				? fe_poll(w->fe, w->queue, done, 16)
				: -ETIMEDOUT;
		for (int i = 0; i < w->rc; i++) {
			unsigned int free_at = 0;

			if (done[i].result)
				w->rc = done[i].result;
			while (w->buf[free_at])
				free_at++;
			w->buf[free_at] = done[i].user;
		}
		got += w->rc > 0 ? (unsigned int)w->rc : 0;
	}
	return NULL;
}

static void queues_in_parallel(const char *options, bool persistent)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .kind = NULL };
	struct writer w[QUEUES];
	uint8_t *image = malloc(RIG_SECTORS * 512), expected[4096];
	struct frontend *fe;

	config.queues = QUEUES;
	config.persistent = persistent;
	fe = attach(options, &config, &vbd);
	assert_int_equal(fe_queues(fe), QUEUES);
	for (unsigned int q = 0; q < QUEUES; q++) {
		w[q] = (struct writer){ .fe = fe, .queue = q };
		for (unsigned int i = 0; i < 16; i++)
			assert_int_equal(fe_buf_alloc(fe, 4096, &w[q].buf[i]), 0);
	}
	for (unsigned int q = 0; q < QUEUES; q++)
		assert_int_equal(pthread_create(&w[q].thread, NULL, write_quarter, &w[q]), 0);
	for (unsigned int q = 0; q < QUEUES; q++) {
		pthread_join(w[q].thread, NULL);
		assert_true(w[q].rc >= 0);
	}
	rig_read_image(&rig, "a", 0, image, RIG_SECTORS * 512);
	for (uint64_t sector = 0; sector < RIG_SECTORS; sector += 8) {
		rig_fill(expected, 4096, sector + 77);
		assert_memory_equal(image + sector * 512, expected, 4096);
	}
	assert_int_equal(ts_detach_start(rig.toolstack, &vbd), 0);
	assert_int_equal(fe_close(fe), 0);
	for (unsigned int i = 0; i < QUEUES * 16; i++)
		assert_int_equal(fe_buf_free(fe, w[i / 16].buf[i % 16]), 0);
	assert_int_equal(fe_free(fe), 0);
	assert_int_equal(ts_remove(rig.toolstack, &vbd), 0);
	free(image);
}

static void queues_persistent(void **state)
{
	(void)state;
	queues_in_parallel("", true);
}

static void queues_copy_threads(void **state)
{
	(void)state;
	queues_in_parallel("grant=copy,aio=threads", false);
}

static void queues_map_native(void **state)
{
	(void)state;
	queues_in_parallel("grant=map,cache=none,aio=native", false);
}

static void queues_few_requests(void **state)
{
	(void)state;
	queues_in_parallel("max-requests=2", true);
}

/* ---- what the operations mean ------------------------------------------------------------------------- */

/* One request that the library would not send: slot as bytes, 64-bit layout; the answer. */
static int raw_request(struct frontend *fe, uint8_t op, uint8_t segs, uint64_t sector)
{
	struct fe_io io = { .op = BLKIF_OP_FLUSH_DISKCACHE };
	uint32_t index = fe_raw_prod(fe, 0);
	struct fe_done done;
	uint8_t *slot;

	assert_int_equal(fe_submit(fe, 0, &io), 0);
	slot = fe_raw_slot(fe, 0, index);
	slot[0] = op;
	slot[1] = segs;
	memcpy(slot + 16, &sector, 8);
	assert_int_equal(fe_push(fe, 0), 0);
	assert_int_equal(fe_wait(fe, 0, RIG_WAIT_MS), 1);
	/* the frontend expects an answer to a flush: the operation must be echoed as it was sent */
	assert_int_equal(fe_poll(fe, 0, &done, 1), op == BLKIF_OP_FLUSH_DISKCACHE ? 1 : -EPROTO);
	assert_int_equal(fe_raw_slot(fe, 0, index)[8], op);
	return (int16_t)(fe_raw_slot(fe, 0, index)[10] | fe_raw_slot(fe, 0, index)[11] << 8);
}

static int raw_on_fresh_ring(uint8_t op, uint8_t segs, uint64_t sector)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .kind = NULL };
	struct frontend *fe;
	int status;

	config.check_padding = false;
	fe = attach("", &config, &vbd);
	status = raw_request(fe, op, segs, sector);
	assert_int_equal(ts_detach_start(rig.toolstack, &vbd), 0);
	assert_int_equal(fe_close(fe), 0);
	assert_int_equal(fe_free(fe), 0);
	assert_int_equal(ts_remove(rig.toolstack, &vbd), 0);
	return status;
}

static void unknown_operations(void **state)
{
	(void)state;
	assert_int_equal(raw_on_fresh_ring(BLKIF_OP_RESERVED_1, 0, 0), BLKIF_RSP_EOPNOTSUPP);
	assert_int_equal(raw_on_fresh_ring(7, 1, 0), BLKIF_RSP_EOPNOTSUPP);
	assert_int_equal(raw_on_fresh_ring(255, 255, UINT64_MAX), BLKIF_RSP_EOPNOTSUPP);
	assert_int_equal(raw_on_fresh_ring(BLKIF_OP_READ, 0, 0), BLKIF_RSP_ERROR);
	assert_int_equal(raw_on_fresh_ring(BLKIF_OP_READ, 12, 0), BLKIF_RSP_ERROR);
	assert_int_equal(raw_on_fresh_ring(BLKIF_OP_FLUSH_DISKCACHE, 0, UINT64_MAX),
			 BLKIF_RSP_OKAY);
}

static void ranges_outside_the_disk(void **state)
{
	static const uint64_t sectors[] = { RIG_SECTORS, RIG_SECTORS + 1, 1ull << 32,    1ull << 55,
					    1ull << 63,  UINT64_MAX,      UINT64_MAX - 7 };
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .kind = NULL };
	struct frontend *fe = attach("", &config, &vbd);
	uint8_t data[4096] = { 0 }, before[4096], after[4096];

	(void)state;
	rig_read_image(&rig, "a", RIG_SECTORS - 8, before, sizeof(before));
	for (size_t i = 0; i < sizeof(sectors) / sizeof(sectors[0]); i++) {
		assert_int_equal(fe_read(fe, sectors[i], data, 4096), -EIO);
		assert_int_equal(fe_write(fe, sectors[i], data, 4096), -EIO);
		assert_int_equal(fe_discard(fe, sectors[i], 8), -EIO);
	}
	assert_int_equal(fe_write(fe, RIG_SECTORS - 7, data, 4096), -EIO);
	assert_int_equal(fe_discard(fe, RIG_SECTORS - 7, 8), -EIO);
	assert_int_equal(fe_discard(fe, 8, UINT64_MAX), -EIO);
	assert_int_equal(fe_discard(fe, 8, UINT64_MAX - 7), -EIO);
	assert_int_equal(fe_discard(fe, 8, 1ull << 63), -EIO);
	rig_read_image(&rig, "a", RIG_SECTORS - 8, after, sizeof(after));
	assert_memory_equal(before, after, sizeof(after));
	rig_exercise(&rig, fe, "a", 300);
	rig_detach(&rig, fe, &vbd);
}

static void flush_with_and_without_data(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .kind = NULL };
	struct frontend *fe = attach("", &config, &vbd);
	struct fe_io io = { .op = BLKIF_OP_FLUSH_DISKCACHE, .sector = 64, .len = 8192 };
	uint8_t got[8192];

	(void)state;
	assert_true(fe_geometry(fe)->flush);
	assert_int_equal(fe_flush(fe), 0);
	assert_int_equal(fe_buf_alloc(fe, 8192, &io.buf), 0);
	rig_fill(io.buf->data, 8192, 301);
	assert_int_equal(fe_one(fe, &io), 0);
	rig_read_image(&rig, "a", 64, got, sizeof(got));
	assert_memory_equal(got, io.buf->data, sizeof(got));
	assert_int_equal(ts_detach_start(rig.toolstack, &vbd), 0);
	assert_int_equal(fe_close(fe), 0);
	assert_int_equal(fe_buf_free(fe, io.buf), 0);
	assert_int_equal(fe_free(fe), 0);
	assert_int_equal(ts_remove(rig.toolstack, &vbd), 0);
}

static void barriers(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .kind = NULL };
	uint8_t data[8192], got[8192];
	struct frontend *fe;

	(void)state;
	rig_fill(data, sizeof(data), 302);
	fe = attach("barrier=on", &config, &vbd);
	assert_true(fe_geometry(fe)->barrier);
	assert_int_equal(fe_barrier(fe, 0, NULL, 0), 0);
	assert_int_equal(fe_barrier(fe, 80, data, sizeof(data)), 0);
	rig_read_image(&rig, "a", 80, got, sizeof(got));
	assert_memory_equal(got, data, sizeof(got));
	rig_detach(&rig, fe, &vbd);

	fe = attach("barrier=off", &config, &vbd);
	assert_false(fe_geometry(fe)->barrier);
	assert_int_equal(fe_barrier(fe, 0, NULL, 0), -EOPNOTSUPP);
	assert_int_equal(fe_barrier(fe, 80, data, sizeof(data)), -EOPNOTSUPP);
	rig_exercise(&rig, fe, "a", 303);
	rig_detach(&rig, fe, &vbd);
}

/* A barrier between two writes of the same place, all three in the ring at once, many times. */
static void barriers_keep_the_order(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .kind = NULL };
	struct frontend *fe;
	struct fe_buf *buf[3];
	uint8_t got[4096];

	(void)state;
	config.persistent = false;
	fe = attach("barrier=on,aio=threads,grant=copy", &config, &vbd);
	for (int i = 0; i < 3; i++)
		assert_int_equal(fe_buf_alloc(fe, 4096, &buf[i]), 0);
	for (unsigned int round = 0; round < 200; round++) {
		unsigned int left = 3;

		for (unsigned int i = 0; i < 3; i++) {
			struct fe_io io = { .op = i == 1 ? BLKIF_OP_WRITE_BARRIER : BLKIF_OP_WRITE,
					    .sector = i == 1 ? 64 : 0,
					    .buf = buf[i],
					    .len = 4096 };

			memset(buf[i]->data, (int)(round * 3 + i), 4096);
			assert_int_equal(fe_submit(fe, 0, &io), 0);
		}
		assert_int_equal(fe_push(fe, 0), 0);
		while (left) {
			struct fe_done done[3];
			int n;

			assert_int_equal(fe_wait(fe, 0, RIG_WAIT_MS), 1);
			n = fe_poll(fe, 0, done, 3);
			assert_true(n > 0);
			left -= (unsigned int)n;
		}
		rig_read_image(&rig, "a", 0, got, sizeof(got));
		assert_int_equal(got[0], (uint8_t)(round * 3 + 2));
		assert_int_equal(got[4095], (uint8_t)(round * 3 + 2));
	}
	for (int i = 0; i < 3; i++)
		assert_int_equal(fe_buf_free(fe, buf[i]), 0);
	rig_detach(&rig, fe, &vbd);
}

static void discard_makes_holes(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .kind = NULL };
	uint8_t data[65536], zero[65536] = { 0 };
	struct frontend *fe;
	uint64_t before;

	(void)state;
	rig_image(&rig, "a", 5);
	fe = attach("", &config, &vbd);
	if (!fe_geometry(fe)->discard) { /* the file system cannot */
		rig_detach(&rig, fe, &vbd);
		skip();
	}
	before = rig_allocated(&rig, "a");
	assert_int_equal(fe_discard(fe, 2048, 4096), 0);
	assert_true(rig_allocated(&rig, "a") <= before - 4096 * 512 + 65536);
	assert_int_equal(fe_read(fe, 2048, data, sizeof(data)), 0);
	assert_memory_equal(data, zero, sizeof(data));
	rig_exercise(&rig, fe, "a", 304);
	rig_detach(&rig, fe, &vbd);
}

/* A disk on a new qcow2 image, q. */
static struct frontend *attach_qcow2(const struct fe_config *config, struct ts_vbd *vbd)
{
	static char params[256];
	char command[1024];

	snprintf(params, sizeof(params), "qcow2:%s/q", rig.dir);
	snprintf(command, sizeof(command), "%s/tools/ringdisk-img create -qf --driver-dir=%s/drivers/.libs %s 16M",
		 rig_builddir(), rig_builddir(), params);
	assert_int_equal(system(command), 0);
	*vbd = (struct ts_vbd){ .domid = DOMID, .vdev = config->vdev, .params = params };
	return rig_connect(&rig, guest, config, vbd);
}

/* No flush comes from this guest: formats free the space all the same once it does nothing more. */
static void discard_frees_space_without_a_flush(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd;
	struct frontend *fe = attach_qcow2(&config, &vbd);
	uint8_t data[65536];
	long long deadline;
	uint64_t full;

	(void)state;
	if (!fe_geometry(fe)->discard) { /* the file system cannot */
		rig_detach(&rig, fe, &vbd);
		skip();
	}
	rig_fill(data, sizeof(data), 306);
	for (unsigned int i = 0; i < 64; i++)
		assert_int_equal(fe_write(fe, i * 128, data, sizeof(data)), 0);
	full = rig_allocated(&rig, "q");
	assert_int_equal(fe_discard(fe, 0, 64 * 128), 0);
	deadline = guest_now_ms() + RIG_WAIT_MS;
	while (rig_allocated(&rig, "q") > full - 63 * sizeof(data) && guest_now_ms() < deadline)
		rig_nap();
	assert_true(rig_allocated(&rig, "q") <= full - 63 * sizeof(data));
	rig_detach(&rig, fe, &vbd);
}

static void discard_is_off_when_told(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .no_discard = true };
	uint8_t data[4096], got[4096];
	struct frontend *fe;

	(void)state;
	fe = attach("", &config, &vbd);
	assert_false(fe_geometry(fe)->discard);
	rig_fill(data, sizeof(data), 305);
	assert_int_equal(fe_write(fe, 0, data, sizeof(data)), 0);
	assert_int_equal(fe_discard(fe, 0, 8), -EOPNOTSUPP);
	rig_read_image(&rig, "a", 0, got, sizeof(got));
	assert_memory_equal(got, data, sizeof(data));
	rig_detach(&rig, fe, &vbd);
}

static void read_only_is_read_only(void **state)
{
	static const char *const modes[] = { "r", "ro", "", "W", "rw", "garbage" };
	struct fe_config config = rig_config();
	uint8_t *before = malloc(RIG_SECTORS * 512), *after = malloc(RIG_SECTORS * 512);

	(void)state;
	rig_read_image(&rig, "a", 0, before, RIG_SECTORS * 512);
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		struct ts_vbd vbd = { .mode = modes[i] };
		struct frontend *fe = attach("barrier=on", &config, &vbd);
		uint8_t *data = calloc(1, 256 * 4096);
		struct fe_io io = { .op = BLKIF_OP_FLUSH_DISKCACHE, .len = 4096 };

		assert_int_equal(fe_geometry(fe)->info & VDISK_READONLY, VDISK_READONLY);
		assert_int_equal(fe_read(fe, 0, data, 256 * 4096), 0);
		assert_memory_equal(data, before, 256 * 4096);
		memset(data, 0, 256 * 4096);
		assert_int_equal(fe_write(fe, 0, data, 4096), -EIO);
		assert_int_equal(fe_write(fe, 0, data, 256 * 4096), -EIO); /* indirect */
		assert_int_not_equal(fe_barrier(fe, 0, data, 4096), 0);
		assert_int_not_equal(fe_discard(fe, 0, 8), 0);
		assert_int_equal(fe_buf_alloc(fe, 4096, &io.buf), 0);
		assert_int_not_equal(fe_one(fe, &io), 0);
		fe_buf_free(fe, io.buf);
		free(data);
		assert_int_equal(ts_detach_start(rig.toolstack, &vbd), 0);
		assert_int_equal(fe_close(fe), 0);
		assert_int_equal(fe_free(fe), 0);
		assert_int_equal(ts_remove(rig.toolstack, &vbd), 0);
	}
	rig_read_image(&rig, "a", 0, after, RIG_SECTORS * 512);
	assert_memory_equal(before, after, RIG_SECTORS * 512);
	free(before);
	free(after);
}

static void cdrom_and_removable(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .mode = "r", .device_type = "cdrom", .removable = true };
	struct frontend *fe;

	(void)state;
	fe = attach("", &config, &vbd);
	assert_int_equal(fe_geometry(fe)->info & (VDISK_CDROM | VDISK_READONLY),
			 VDISK_CDROM | VDISK_READONLY);
	assert_int_equal(fe_geometry(fe)->sectors, RIG_SECTORS);
	assert_int_equal(fe_geometry(fe)->sector_size, 512);
	rig_detach(&rig, fe, &vbd);
}

/* The response for each size of request that a page boundary can cut. */
static void every_part_of_a_page(void **state)
{
	struct fe_config config = rig_config();
	struct ts_vbd vbd = { .kind = NULL };
	struct frontend *fe = attach("", &config, &vbd);
	struct fe_buf *buf;
	uint8_t got[3 * 4096];

	(void)state;
	assert_int_equal(fe_buf_alloc(fe, 3 * 4096, &buf), 0);
	for (uint32_t from = 0; from < 8; from++) {
		for (uint32_t count = 1; count <= 17; count++) {
			struct fe_io io = { .op = BLKIF_OP_WRITE,
					    .sector = 200 + from * 3,
					    .buf = buf,
					    .offset = from * 512,
					    .len = count * 512 };

			rig_fill(buf->data, 3 * 4096, from * 100 + count);
			assert_int_equal(fe_one(fe, &io), 0);
			rig_read_image(&rig, "a", io.sector, got, io.len);
			assert_memory_equal(got, buf->data + io.offset, io.len);
			io.op = BLKIF_OP_READ;
			memset(buf->data, 0x77, 3 * 4096);
			assert_int_equal(fe_one(fe, &io), 0);
			assert_memory_equal(got, buf->data + io.offset, io.len);
			/* and nothing beside it */
			for (uint32_t i = 0; i < io.offset; i++)
				assert_int_equal(buf->data[i], 0x77);
			for (uint32_t i = io.offset + io.len; i < 3 * 4096; i++)
				assert_int_equal(buf->data[i], 0x77);
		}
	}
	fe_buf_free(fe, buf);
	assert_int_equal(ts_detach_start(rig.toolstack, &vbd), 0);
	assert_int_equal(fe_close(fe), 0);
	assert_int_equal(fe_free(fe), 0);
	assert_int_equal(ts_remove(rig.toolstack, &vbd), 0);
}

/* The daemon may not write into a page that the guest gave for reading only. */
static void grants_of_writes_are_read_only(void **state)
{
	static const char *const grants[] = { "grant=copy", "grant=map", "grant=map-single" };
	struct fe_config config = rig_config();

	(void)state;
	config.persistent = false;
	config.max_segments = 0; /* raw slots below */
	for (size_t i = 0; i < 3; i++) {
		struct ts_vbd vbd = { .kind = NULL };
		struct frontend *fe = attach(grants[i], &config, &vbd);
		struct fe_io io = { .op = BLKIF_OP_READ, .len = 4096 };
		struct fe_done done;

		assert_int_equal(fe_buf_alloc(fe, 4096, &io.buf), 0);
		assert_int_equal(fe_submit(fe, 0, &io), 0);
		fe_raw_grant(fe, io.buf, 0, true); /* take back the right to write */
		memset(io.buf->data, 0x11, 4096);
		assert_int_equal(fe_push(fe, 0), 0);
		assert_int_equal(fe_wait(fe, 0, RIG_WAIT_MS), 1);
		assert_int_equal(fe_poll(fe, 0, &done, 1), 1);
		assert_int_equal(done.result, -EIO);
		for (int j = 0; j < 4096; j++)
			assert_int_equal(io.buf->data[j], 0x11);
		assert_int_equal(fe_buf_free(fe, io.buf), 0);
		rig_exercise(&rig, fe, "a", 400 + i);
		rig_detach(&rig, fe, &vbd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_order_and_abi),
		cmocka_unit_test(every_way_of_moving_data),
		cmocka_unit_test(without_indirect_requests),
		cmocka_unit_test(limits_are_what_is_offered),
		cmocka_unit_test(queues_persistent),
		cmocka_unit_test(queues_copy_threads),
		cmocka_unit_test(queues_map_native),
		cmocka_unit_test(queues_few_requests),
		cmocka_unit_test(unknown_operations),
		cmocka_unit_test(ranges_outside_the_disk),
		cmocka_unit_test(flush_with_and_without_data),
		cmocka_unit_test(barriers),
		cmocka_unit_test(barriers_keep_the_order),
		cmocka_unit_test(discard_makes_holes),
		cmocka_unit_test(discard_frees_space_without_a_flush),
		cmocka_unit_test(discard_is_off_when_told),
		cmocka_unit_test(read_only_is_read_only),
		cmocka_unit_test(cdrom_and_removable),
		cmocka_unit_test(every_part_of_a_page),
		cmocka_unit_test(grants_of_writes_are_read_only),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
