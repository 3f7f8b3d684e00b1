/*
 * The frontend of tools/ against a backend of a few lines, which serves a disk in memory by grant copy and
 * can be told to break each rule of the protocol: the frontend must notice each.
 */
#include "test.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "frontend.h"
#include "hyp.h"
#include "toolstack.h"

#define DISK_SECTORS 8192u
#define VDEV         51712u

enum wrong {
	RIGHT,
	TWICE, /* answers twice */
	UNKNOWN_ID,
	WRONG_OP,
	INNER_OP,  /* INDIRECT instead of the inner operation */
	RUN_AHEAD, /* rsp_prod too far */
	KEEPS_MAPPED,
	PADDING, /* writes more than three fields */
	BAD_STATUS,
	NOTIFY_MORE, /* harmless */
};

struct backend {
	struct hyp *hyp;
	const struct hyp_ops *ops;
	struct hyp_gnt *gnt;
	struct hyp_evtchn *evtchn;
	uint8_t *disk;
	enum fe_abi abi;
	enum wrong wrong;
	uint8_t *ring;
	unsigned int order, slots, slot_size, id_at;
	uint32_t cons, prod;
	int port, stop_fd;
	uint8_t last_op, last_inner;
	pthread_t thread;
	bool running;
};

struct fixture {
	char dir[64], socket[96];
	struct hyp *hyp;
	struct guest *guest, *toolstack;
	struct ts_vbd vbd;
	struct backend be;
	struct fe_config config;
	struct frontend *fe;
};

/* ---- the backend -------------------------------------------------------------------------------- */

static uint64_t get64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static uint32_t get32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static int copy(struct backend *be, uint32_t gref, unsigned int offset, void *local,
		unsigned int len, bool to_guest)
{
	struct hyp_copy seg = { .gref = gref,
				.offset = (uint16_t)offset,
				.len = (uint16_t)len,
				.local = local,
				.to_guest = to_guest };

	return be->ops->gnt_copy(be->gnt, 5, &seg, 1) || seg.status ? -1 : 0;
}

/* Serve segments; the status. */
static int rw(struct backend *be, uint8_t op, uint64_t sector, const uint8_t *segs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++, segs += 8) {
		unsigned int count = segs[5] - segs[4] + 1u;

		if (segs[4] > segs[5] || segs[5] > 7 || sector + count > DISK_SECTORS)
			return -1;
		if (copy(be, get32(segs), segs[4] * 512u, be->disk + sector * 512, count * 512,
			 !op))
			return -1;
		sector += count;
	}
	return 0;
}

static int indirect(struct backend *be, const uint8_t *req, uint64_t sector)
{
	uint8_t page[4096];
	uint16_t n;

	memcpy(&n, req + 2, sizeof(n));
	if (n > 512 || copy(be, get32(req + (be->id_at == 8 ? 28 : 24)), 0, page, 4096, false))
		return -1;
	return rw(be, req[1], sector, page, n);
}

static int serve(struct backend *be, const uint8_t *req)
{
	uint64_t sector = get64(req + be->id_at + 8);

	be->last_op = be->last_inner = req[0];
	switch (req[0]) {
	case BLKIF_OP_READ:
	case BLKIF_OP_WRITE:
	case BLKIF_OP_WRITE_BARRIER:
		return rw(be, req[0], sector, req + be->id_at + 16, req[1]);
	case BLKIF_OP_FLUSH_DISKCACHE:
		return 0;
	case BLKIF_OP_DISCARD:
		memset(be->disk + sector * 512, 0, get64(req + be->id_at + 16) * 512);
		return 0;
	case BLKIF_OP_INDIRECT:
		be->last_inner = req[1];
		return indirect(be, req, sector);
	default:
		return BLKIF_RSP_EOPNOTSUPP;
	}
}

static uint8_t *slot(struct backend *be, uint32_t index)
{
	return be->ring + 64 + (size_t)(index & (be->slots - 1)) * be->slot_size;
}

static void answer(struct backend *be, uint64_t id, uint8_t op, int16_t status)
{
	uint8_t *rsp = slot(be, be->prod++);

	memcpy(rsp, &id, sizeof(id));
	rsp[8] = op;
	memcpy(rsp + 10, &status, sizeof(status));
	if (be->wrong == PADDING)
		rsp[9] = 0x5a;
}

static void serve_one(struct backend *be)
{
	uint8_t req[112];
	uint64_t id;
	uint32_t gref;
	int status;
	void *addr;

	memcpy(req, slot(be, be->cons++), be->slot_size);
	id = get64(req + be->id_at);
	status = serve(be, req);
	gref = get32(req + be->id_at + 16);
	if (be->wrong == KEEPS_MAPPED)
		assert_int_equal(be->ops->gnt_map(be->gnt, 5, &gref, 1, false, &addr), 0);
	answer(be, be->wrong == UNKNOWN_ID ? id + 0x10000 : id,
	       be->wrong == WRONG_OP   ? (uint8_t)(be->last_inner ^ 1)
	       : be->wrong == INNER_OP ? be->last_op
				       : be->last_inner,
	       (int16_t)(be->wrong == BAD_STATUS ? 7 : status));
	if (be->wrong == TWICE)
		answer(be, id, be->last_inner, 0);
	if (be->wrong == RUN_AHEAD)
		be->prod += be->slots;
}

static void serve_all(struct backend *be)
{
	uint32_t *header = (uint32_t *)(void *)be->ring;

	for (;;) {
		while (__atomic_load_n(&header[0], __ATOMIC_ACQUIRE) != be->cons) {
			serve_one(be);
			__atomic_store_n(&header[2], be->prod, __ATOMIC_SEQ_CST);
			be->ops->evtchn_notify(be->evtchn, be->port);
			if (be->wrong == NOTIFY_MORE)
				be->ops->evtchn_notify(be->evtchn, be->port);
		}
		__atomic_store_n(&header[1], be->cons + 1, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&header[0], __ATOMIC_SEQ_CST) == be->cons)
			return;
	}
}

static void *backend_main(void *arg)
{
	struct backend *be = arg;
	struct pollfd pfd[2] = {
		{ .fd = be->ops->evtchn_fd(be->evtchn), .events = POLLIN },
		{ .fd = be->stop_fd, .events = POLLIN },
	};

	while (poll(pfd, 2, -1) > 0 && !pfd[1].revents) {
		int port = be->ops->evtchn_pending(be->evtchn);

		if (port < 0)
			continue;
		serve_all(be);
		be->ops->evtchn_unmask(be->evtchn, port);
	}
	return NULL;
}

static uint32_t fe_number(struct fixture *f, const char *key, uint32_t fallback)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", fe_path(f->fe), key);
	return (uint32_t)guest_read_u64_or(f->toolstack, path, fallback);
}

static void map_ring(struct fixture *f)
{
	struct backend *be = &f->be;
	uint32_t gref[16];
	void *addr;

	be->order = fe_number(f, "ring-page-order", 0);
	for (unsigned int i = 0; i < 1u << be->order; i++) {
		char key[32];

		snprintf(key, sizeof(key), be->order ? "ring-ref%u" : "ring-ref", i);
		gref[i] = fe_number(f, key, 0);
	}
	assert_int_equal(be->ops->gnt_map(be->gnt, 5, gref, 1u << be->order, true, &addr), 0);
	be->ring = addr;
	be->slot_size = be->abi == FE_ABI_X86_32 ? 108 : 112;
	be->id_at = be->abi == FE_ABI_X86_32 ? 4 : 8;
	be->slots = 32u << be->order;
	be->cons = be->prod = 0;
}

static void set(struct fixture *f, const char *key, const char *value)
{
	char path[TS_PATH_MAX + 64], dir[TS_PATH_MAX];

	ts_backend_path(&f->vbd, dir);
	snprintf(path, sizeof(path), "%s/%s", dir, key);
	assert_int_equal(guest_write(f->toolstack, HYP_TXN_NONE, path, value), 0);
}

/* ---- fixture ------------------------------------------------------------------------------------- */

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/rd-frontend-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->socket, sizeof(f->socket), "%s/sock", f->dir);
	assert_int_equal(hyp_loopback_open(f->socket, &f->hyp), 0);
	assert_int_equal(guest_toolstack(f->socket, &f->toolstack), 0);
	assert_int_equal(guest_open(f->socket, 5, 4096, 8192, &f->guest), 0);
	f->vbd = (struct ts_vbd){ .domid = 5, .vdev = VDEV, .params = "test:" };
	f->be.hyp = f->hyp;
	f->be.ops = f->hyp->ops;
	f->be.disk = calloc(DISK_SECTORS, 512);
	f->be.stop_fd = eventfd(0, EFD_CLOEXEC);
	f->be.abi = FE_ABI_X86_64;
	f->config = (struct fe_config){
		.vdev = VDEV, .abi = FE_ABI_X86_64, .max_segments = 64, .check_padding = true
	};
	assert_int_equal(f->be.ops->gnt_open(f->hyp, &f->be.gnt), 0);
	assert_int_equal(f->be.ops->evtchn_open(f->hyp, &f->be.evtchn), 0);
	assert_int_equal(ts_attach(f->toolstack, &f->vbd), 0);
	*state = f;
	return 0;
}

/* Connect, both sides in turn. */
static void connect_both(struct fixture *f)
{
	set(f, "max-ring-page-order", "4");
	set(f, "feature-max-indirect-segments", "256");
	set(f, "state", "2");
	assert_int_equal(fe_prepare(f->guest, &f->config, &f->fe), 0);
	assert_int_equal(fe_negotiate(f->fe), 0);
	assert_int_equal(fe_number(f, "state", 0), XenbusStateInitialised);
	map_ring(f);
	f->be.port = f->be.ops->evtchn_bind(f->be.evtchn, 5, fe_number(f, "event-channel", 0));
	assert_true(f->be.port > 0);
	set(f, "sectors", "8192");
	set(f, "sector-size", "512");
	set(f, "info", "0");
	set(f, "state", "4");
	assert_int_equal(fe_connect(f->fe), 0);
	assert_int_equal(pthread_create(&f->be.thread, NULL, backend_main, &f->be), 0);
	f->be.running = true;
}

static void close_backend(struct fixture *f)
{
	if (!f->be.gnt)
		return;
	f->be.ops->evtchn_close(f->be.evtchn);
	f->be.ops->gnt_close(f->be.gnt);
	f->be.gnt = NULL;
}

static void stop_backend(struct fixture *f)
{
	uint64_t one = 1;

	if (f->be.running) {
		assert_int_equal(write(f->be.stop_fd, &one, sizeof(one)), sizeof(one));
		pthread_join(f->be.thread, NULL);
		f->be.running = false;
	}
	close_backend(f);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	stop_backend(f);
	fe_free(f->fe);
	guest_close(f->guest);
	guest_close(f->toolstack);
	f->hyp->ops->close(f->hyp);
	close(f->be.stop_fd);
	free(f->be.disk);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void fill(uint8_t *data, size_t len, unsigned int seed)
{
	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)rand_r(&seed);
}

/* Write, read back, look at the disk; odd places and lengths. */
static void exercise(struct fixture *f)
{
	static const struct {
		uint64_t sector;
		size_t sectors;
	} range[] = { { 0, 1 },    { 7, 8 },       { 100, 88 },
		      { 200, 89 }, { 1000, 2048 }, { DISK_SECTORS - 3, 3 } };
	uint8_t *out = malloc(2048 * 512), *in = malloc(2048 * 512);

	for (size_t i = 0; i < sizeof(range) / sizeof(range[0]); i++) {
		size_t len = range[i].sectors * 512;

		fill(out, len, (unsigned int)i + 1);
		assert_int_equal(fe_write(f->fe, range[i].sector, out, len), 0);
		assert_memory_equal(f->be.disk + range[i].sector * 512, out, len);
		memset(in, 0, len);
		assert_int_equal(fe_read(f->fe, range[i].sector, in, len), 0);
		assert_memory_equal(in, out, len);
	}
	assert_int_equal(fe_read(f->fe, DISK_SECTORS, in, 512), -EIO);
	assert_int_equal(fe_flush(f->fe), 0);
	assert_int_equal(fe_discard(f->fe, 1000, 8), 0);
	assert_int_equal(fe_barrier(f->fe, 0, NULL, 0), 0);
	assert_int_equal(fe_barrier(f->fe, 1001, out, 512), 0);
	assert_int_equal(fe_read(f->fe, 1000, in, 1024), 0);
	assert_int_equal(in[0], 0);
	assert_memory_equal(in + 512, out, 512);
	assert_string_equal(fe_error(f->fe), "");
	free(out);
	free(in);
}

static void single_page_ring(void **state)
{
	connect_both(*state);
	exercise(*state);
}

static void ring_of_every_order_and_abi(void **state)
{
	struct fixture *f = *state;

	static const enum fe_abi abis[] = { FE_ABI_X86_64, FE_ABI_X86_32 };

	for (unsigned int i = 0; i < 10; i++) {
		void *again;

		if (i) {
			teardown(state);
			setup(&again);
			f = *state = again;
		}
		f->be.abi = f->config.abi = abis[i / 5];
		f->config.ring_order = i % 5;
		connect_both(f);
		assert_int_equal(fe_slots(f->fe), 32u << (i % 5));
		exercise(f);
	}
}

static void no_indirect_requests(void **state)
{
	struct fixture *f = *state;

	f->config.max_segments = 0;
	connect_both(f);
	assert_int_equal(fe_max_segments(f->fe), 11);
	exercise(f);
}

/* A full ring, answers out of the frontend's hand many times over. */
static void deep_queue(void **state)
{
	struct fixture *f = *state;
	struct fe_buf *buf[64];
	struct fe_done done[64];
	unsigned int sent = 0, got = 0;
	bool busy[64] = { false };

	f->config.ring_order = 1;
	connect_both(f);
	for (int i = 0; i < 64; i++)
		assert_int_equal(fe_buf_alloc(f->fe, 4096, &buf[i]), 0);
	while (got < 20000) {
		int n;

		for (unsigned int i = 0; i < 64 && sent < 20000; i++) {
			struct fe_io io = { .op = BLKIF_OP_READ,
					    .sector = i * 8,
					    .buf = buf[i],
					    .len = 4096,
					    .user = (void *)(uintptr_t)i };

			if (busy[i])
				continue;
			assert_int_equal(fe_submit(f->fe, 0, &io), 0);
			busy[i] = true;
			sent++;
		}
		assert_int_equal(fe_push(f->fe, 0), 0);
		n = fe_poll(f->fe, 0, done, 64);
		assert_true(n >= 0);
		for (int i = 0; i < n; i++) {
			assert_int_equal(done[i].result, 0);
			busy[(uintptr_t)done[i].user] = false;
		}
		got += (unsigned int)n;
		if (!n)
			assert_int_equal(fe_wait(f->fe, 0, 10000), 1);
	}
	assert_int_equal(fe_inflight(f->fe, 0), 0);
	for (int i = 0; i < 64; i++)
		assert_int_equal(fe_buf_free(f->fe, buf[i]), 0);
}

static void ring_that_is_full(void **state)
{
	struct fixture *f = *state;
	struct fe_io io = { .op = BLKIF_OP_FLUSH_DISKCACHE };

	connect_both(f);
	for (int i = 0; i < 32; i++)
		assert_int_equal(fe_submit(f->fe, 0, &io), 0);
	assert_int_equal(fe_submit(f->fe, 0, &io), -EAGAIN);
}

static void what_does_not_fit_is_refused(void **state)
{
	struct fixture *f = *state;
	struct fe_buf *buf;
	struct fe_io io = { .op = BLKIF_OP_WRITE };

	connect_both(f);
	assert_int_equal(fe_buf_alloc(f->fe, 65 * 4096, &buf), 0);
	io.buf = buf;
	io.len = 65 * 4096;
	assert_int_equal(fe_submit(f->fe, 0, &io), -EINVAL);
	io.len = 64 * 4096;
	io.op = BLKIF_OP_WRITE_BARRIER;
	assert_int_equal(fe_submit(f->fe, 0, &io), -EINVAL);
	io.op = BLKIF_OP_WRITE;
	io.offset = 8192;
	assert_int_equal(fe_submit(f->fe, 0, &io), -EINVAL);
	io.offset = 4096;
	assert_int_equal(fe_one(f->fe, &io), 0);
	fe_buf_free(f->fe, buf);
}

static void backend_that_refuses(void **state)
{
	struct fixture *f = *state;

	set(f, "state", "2");
	assert_int_equal(fe_prepare(f->guest, &f->config, &f->fe), 0);
	assert_int_equal(fe_negotiate(f->fe), 0);
	set(f, "state", "5");
	assert_int_equal(fe_connect(f->fe), -ECONNREFUSED);
	assert_int_equal(fe_free(f->fe), 0);
	f->fe = NULL;
}

static void backend_that_says_nothing(void **state)
{
	struct fixture *f = *state;

	f->config.timeout_ms = 50;
	assert_int_equal(fe_open(f->guest, &f->config, &f->fe), -ETIMEDOUT);
	f->fe = NULL;
}

static void connected_without_a_size(void **state)
{
	struct fixture *f = *state;

	set(f, "state", "2");
	assert_int_equal(fe_prepare(f->guest, &f->config, &f->fe), 0);
	assert_int_equal(fe_negotiate(f->fe), 0);
	set(f, "sectors", "8192");
	set(f, "sector-size", "512"); /* but no info */
	set(f, "state", "4");
	assert_int_equal(fe_connect(f->fe), -EPROTO);
	assert_string_not_equal(fe_error(f->fe), "");
	assert_int_equal(fe_free(f->fe), 0);
	f->fe = NULL;
}

static void grants_are_returned(void **state)
{
	struct fixture *f = *state;
	struct lb_stats stats;

	connect_both(f);
	exercise(f);
	stop_backend(f);
	assert_int_equal(guest_stats(f->guest, 5, &stats), 0);
	assert_int_equal(stats.mapped, 0);
	assert_int_equal(fe_free(f->fe), 0);
	f->fe = NULL;
}

static void ring_kept_mapped_is_noticed(void **state)
{
	struct fixture *f = *state;

	connect_both(f);
	assert_int_equal(fe_free(f->fe), -EBUSY);
	f->fe = NULL;
	stop_backend(f);
}

/* ---- each rule broken ------------------------------------------------------------------------------ */

static void breaks(void **state, enum wrong wrong, const char *text, bool with_indirect)
{
	struct fixture *f = *state;
	uint8_t data[65536];
	struct fe_done done;
	int rc = 0;

	f->be.wrong = wrong;
	connect_both(f);
	for (int i = 0; i < 3 && !rc; i++)
		rc = fe_read(f->fe, 0, data, with_indirect ? sizeof(data) : 512);
	assert_int_equal(rc, -EPROTO);
	assert_non_null(strstr(fe_error(f->fe), text));
	assert_int_equal(fe_poll(f->fe, 0, &done, 1), -EPROTO); /* for good */
	assert_int_equal(fe_flush(f->fe), -EPROTO);
}

static void answer_twice(void **state)
{
	breaks(state, TWICE, "answers to", false);
}

static void answer_unknown(void **state)
{
	breaks(state, UNKNOWN_ID, "unknown request", false);
}

static void answer_wrong_op(void **state)
{
	breaks(state, WRONG_OP, "operation 0, its answer 1", false);
}

static void answer_indirect_op(void **state)
{
	breaks(state, INNER_OP, "operation 0, its answer 6", true);
}

static void answers_run_ahead(void **state)
{
	breaks(state, RUN_AHEAD, "answers to 1 requests", false);
}

static void grant_kept(void **state)
{
	breaks(state, KEEPS_MAPPED, "while grant", false);
}

static void padding_written(void **state)
{
	breaks(state, PADDING, "wrote 0x5a at byte 9", false);
}

static void status_invented(void **state)
{
	breaks(state, BAD_STATUS, "status 7", false);
}

static void needless_events_are_fine(void **state)
{
	struct fixture *f = *state;

	f->be.wrong = NOTIFY_MORE;
	connect_both(f);
	exercise(f);
}

/* Answered once too often, but within what is in flight: only the id tells. */
static void answer_twice_in_flight(void **state)
{
	struct fixture *f = *state;
	struct fe_io io = { .op = BLKIF_OP_FLUSH_DISKCACHE };
	struct fe_done done[4];
	int rc = 0;

	f->be.wrong = TWICE;
	connect_both(f);
	for (int i = 0; i < 4; i++)
		assert_int_equal(fe_submit(f->fe, 0, &io), 0);
	assert_int_equal(fe_push(f->fe, 0), 0);
	while (rc >= 0) {
		rc = fe_poll(f->fe, 0, done, 4);
		if (!rc)
			assert_int_equal(fe_wait(f->fe, 0, 10000), 1);
	}
	assert_int_equal(rc, -EPROTO);
	assert_string_not_equal(fe_error(f->fe), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(single_page_ring),
		T(ring_of_every_order_and_abi),
		T(no_indirect_requests),
		T(deep_queue),
		T(ring_that_is_full),
		T(what_does_not_fit_is_refused),
		T(backend_that_refuses),
		T(backend_that_says_nothing),
		T(connected_without_a_size),
		T(grants_are_returned),
		T(ring_kept_mapped_is_noticed),
		T(answer_twice),
		T(answer_twice_in_flight),
		T(answer_unknown),
		T(answer_wrong_op),
		T(answer_indirect_op),
		T(answers_run_ahead),
		T(grant_kept),
		T(padding_written),
		T(status_invented),
		T(needless_events_are_fine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
