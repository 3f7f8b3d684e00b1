/*
 * For hostile tests: guests and disks on one loopback hypervisor, without a store. The test writes request
 * slots byte by byte, in any ABI, by offsets of its own. Include after ../unit/test.h.
 */
#ifndef RD_TEST_RIG_H
#define RD_TEST_RIG_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <xen/xen.h>

#include <xen/io/blkif.h>

#include "../unit/disk.h"
#include "../unit/strand.h"
#include "device.h"
#include "drivers.h"
#include "base/tsan.h"
#include "guest.h"

#define WAIT_MS 20000
#define SEGS    11u

#ifdef RD_TSAN
#define RIG_DRAIN_MS 5000
/* These guests use a page for several requests at once: what they get then is their own affair. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:copy_segment\nrace:copy_pages\nrace:hyp_replace_pages\nrace:call_preadv\nrace:call_pwritev\n"
	       "race:zero_iov\nrace:flip\n";
}
#else
#define RIG_DRAIN_MS 1500 /* no test waits for the 8 s of the daemon */
#endif

/* For tests whose calls do not hang: a slow disk may take long to flush. */
#define RIG_PATIENT_MS 60000
static unsigned rig_drain_ms = RIG_PATIENT_MS; /* set before rig_open */

struct rig {
	char dir[64], socket[96];
	char *files;
	struct hyp *hyp;
	struct pool *workers, *control;
	struct dev_env env;
	struct guest *toolstack;
};

struct queue {
	struct guest *guest;
	uint8_t *pages; /* 1 << RING_MAX_ORDER of them */
	uint32_t gref[1u << RING_MAX_ORDER];
	struct guest_port port;
	enum ring_abi abi;
	unsigned size, slot; /* slots, bytes of each */
	uint32_t req_prod, rsp_cons; /* private */
};

struct disk {
	struct rig *rig;
	struct guest *guest;
	struct device *dev;
	struct queue q[DEV_MAX_QUEUES];
	struct dev_rings rings;
	struct dev_geometry geometry;
	_Atomic int events[4]; /* DEV_EV_* */
};

struct answer {
	uint64_t id;
	uint8_t op;
	int16_t status;
};

/* One disk of the rig gets the events: set it before they come. */
static struct disk *_Atomic rig_watched;

static inline void rig_event(struct device *dev, int event, void *arg)
{
	struct disk *d = rig_watched;

	(void)arg;
	if (d && d->dev == dev)
		d->events[event]++;
}

static inline void rig_open(struct rig *rig, size_t guest_memory)
{
	memset(rig, 0, sizeof(*rig));
	log_to_callback(disk_log_catch, NULL);
	disk_log_clear();
	assert_int_equal(drv_load(disk_driver_dir()), 0);
	strcpy(rig->dir, "/tmp/rd-rig-XXXXXX");
	assert_non_null(mkdtemp(rig->dir));
	snprintf(rig->socket, sizeof(rig->socket), "%s/sock", rig->dir);
	rig->files = disk_dir(false);
	assert_int_equal(hyp_loopback_open(rig->socket, &rig->hyp), 0);
	assert_int_equal(pool_create("w", 2, 64, &rig->workers), 0);
	assert_int_equal(pool_create("c", 1, 16, &rig->control), 0);
	rig->env = (struct dev_env){
		.hyp = rig->hyp, .workers = rig->workers, .control = rig->control,
		.notify = rig_event, .guest_memory = guest_memory, .guest_grants = 4096,
		.drain_ms = rig_drain_ms,
	};
	assert_int_equal(devtab_init(&rig->env), 0);
	assert_int_equal(guest_toolstack(rig->socket, &rig->toolstack), 0);
}

static inline void rig_close(struct rig *rig)
{
	assert_true(devtab_destroy());
	pool_destroy(rig->control);
	pool_destroy(rig->workers);
	guest_close(rig->toolstack);
	rig->hyp->ops->close(rig->hyp);
	rmdir(rig->dir);
	disk_remove(rig->files);
	rig_watched = NULL;
	log_to_callback(NULL, NULL);
}

/* --- on a device's strand ------------------------------------------------------------------------ */

struct disk_call {
	struct strand_call call;
	int (*fn)(struct disk *d);
	struct disk *d;
};

static inline int disk_call_run(struct strand_call *call)
{
	struct disk_call *c = container_of(call, struct disk_call, call);

	return c->fn(c->d);
}

static inline int strand(struct disk *d, int (*fn)(struct disk *d))
{
	struct disk_call c = { .call.run = disk_call_run, .fn = fn, .d = d };

	return strand_wait(d->dev, &c.call);
}

static inline int do_connect(struct disk *d)
{
	return dev_connect(d->dev, &d->rings, &d->geometry);
}

static inline int do_disconnect(struct disk *d)
{
	return dev_disconnect(d->dev);
}

static inline int do_pause(struct disk *d)
{
	return dev_pause(d->dev);
}

static inline int do_unpause(struct disk *d)
{
	return dev_unpause(d->dev, NULL);
}

static inline int do_destroy(struct disk *d)
{
	dev_destroy(d->dev);
	return 0;
}

/* --- disks --------------------------------------------------------------------------------------- */

/* settings: "key=value" words. */
static inline void disk_new(struct disk *d, struct rig *rig, struct guest *guest, uint32_t vdev,
			    const char *params, const char *settings, bool writable)
{
	struct dev_spec spec = { .domid = guest_domid(guest), .vdev = vdev, .kind = "qdisk",
				 .params = params, .writable = writable };
	char copy[256], err[256], *save, *word;

	if (!d->rig || d->guest != guest)
		memset(d, 0, sizeof(*d));
	memset((void *)d->events, 0, sizeof(d->events));
	d->rig = rig;
	d->guest = guest;
	settings_init(&spec.settings);
	snprintf(copy, sizeof(copy), "%s", settings);
	for (word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		char *eq = strchr(word, '=');

		*eq = 0;
		if (settings_set(&spec.settings, word, eq + 1, ORIGIN_SET, err, sizeof(err)))
			fail_msg("%s", err);
	}
	assert_int_equal(dev_create(&spec, &d->dev), 0);
}

static inline uint32_t *q_header(struct queue *q)
{
	return (uint32_t *)q->pages; /* req_prod, req_event, rsp_prod, rsp_event */
}

static inline uint8_t *q_slot(struct queue *q, uint32_t index)
{
	return q->pages + 64 + (index & (q->size - 1)) * q->slot;
}

/* A fresh ring whose indices all are at start. */
static inline void q_init(struct queue *q, unsigned order, enum ring_abi abi, uint32_t start)
{
	unsigned fit;

	q->abi = abi;
	q->slot = abi == RING_ABI_X86_32 ? 108 : 112;
	fit = ((4096u << order) - 64) / q->slot;
	for (q->size = 1; q->size * 2 <= fit;)
		q->size *= 2;
	memset(q->pages, 0, 4096u << order);
	q_header(q)[0] = q_header(q)[2] = start;
	q_header(q)[1] = q_header(q)[3] = start + 1;
	q->req_prod = q->rsp_cons = start;
}

/* Gives a queue its pages, their grants and its port, once. */
static inline void q_open(struct disk *d, struct queue *q)
{
	if (q->pages)
		return;
	q->guest = d->guest;
	q->pages = guest_pages(d->guest, 1u << RING_MAX_ORDER);
	assert_non_null(q->pages);
	for (unsigned p = 0; p < 1u << RING_MAX_ORDER; p++)
		q->gref[p] = guest_grant(d->guest, q->pages + p * 4096, false);
	assert_int_equal(guest_port_open(d->guest, 0, q->gref[0] % 60, &q->port), 0);
}

static inline unsigned offered(struct disk *d)
{
	struct dev_view view;

	dev_look(d->dev, &view);
	return (unsigned)view.settings.value[SET_MAX_INDIRECT_SEGMENTS];
}

static inline int disk_connect_at(struct disk *d, unsigned order, unsigned queues, bool persistent,
				  enum ring_abi abi, uint32_t start)
{
	/* Its memory is used anew. */
	strand(d, do_disconnect);
	for (unsigned i = 0; i < queues; i++) {
		struct queue *q = &d->q[i];

		q_open(d, q);
		q_init(q, order, abi, start);
		memcpy(d->rings.ring[i].gref, q->gref, sizeof(q->gref));
		d->rings.ring[i].evtchn = q->port.port;
	}
	d->rings.count = queues;
	d->rings.order = order;
	d->rings.abi = abi;
	d->rings.persistent = persistent;
	d->rings.max_indirect = offered(d);
	return strand(d, do_connect);
}

static inline int disk_connect(struct disk *d, unsigned order, unsigned queues, bool persistent)
{
	return disk_connect_at(d, order, queues, persistent, RING_ABI_X86_64, 0);
}

static inline void disk_end(struct disk *d)
{
	if (!d->dev)
		return;
	strand(d, do_destroy);
	dev_put(d->dev);
	d->dev = NULL;
}

static inline struct dev_view disk_look(struct disk *d)
{
	struct dev_view view;

	dev_look(d->dev, &view);
	return view;
}

/* --- requests ------------------------------------------------------------------------------------- */

static inline void put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void put64(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline bool q_is_32(const struct queue *q)
{
	return q->abi == RING_ABI_X86_32;
}

/* The next slot, zeroed, with what all operations have. */
static inline uint8_t *q_next(struct queue *q, uint8_t op, uint64_t id, uint64_t sector)
{
	uint8_t *s = q_slot(q, q->req_prod++);

	memset(s, 0, q->slot);
	s[0] = op;
	put64(s + (q_is_32(q) ? 4 : 8), id);
	put64(s + (q_is_32(q) ? 12 : 16), sector);
	return s;
}

static inline uint8_t *q_seg(struct queue *q, uint8_t *slot, unsigned i)
{
	return slot + (q_is_32(q) ? 20 : 24) + i * 8;
}

/* Whole pages. */
static inline void q_put(struct queue *q, uint8_t op, uint64_t id, uint64_t sector, const uint32_t *gref,
			 unsigned segs)
{
	uint8_t *s = q_next(q, op, id, sector);

	s[1] = (uint8_t)segs;
	for (unsigned i = 0; i < segs && i < SEGS; i++) {
		put32(q_seg(q, s, i), gref[i]);
		q_seg(q, s, i)[5] = 7;
	}
}

static inline void q_put_indirect(struct queue *q, uint8_t inner, uint64_t id, uint64_t sector,
				  uint32_t table, unsigned segs)
{
	uint8_t *s = q_next(q, BLKIF_OP_INDIRECT, id, sector);

	s[1] = inner;
	put16(s + 2, (uint16_t)segs);
	put32(s + (q_is_32(q) ? 24 : 28), table);
}

static inline void q_put_discard(struct queue *q, uint64_t id, uint64_t sector, uint64_t count, uint8_t flag)
{
	uint8_t *s = q_next(q, BLKIF_OP_DISCARD, id, sector);

	s[1] = flag;
	put64(q_seg(q, s, 0), count);
}

static inline void q_kick(struct queue *q)
{
	guest_notify(&q->port);
}

static inline void q_push(struct queue *q)
{
	uint32_t *h = q_header(q);
	uint32_t old = __atomic_exchange_n(&h[0], q->req_prod, __ATOMIC_SEQ_CST);
	uint32_t event = __atomic_load_n(&h[1], __ATOMIC_SEQ_CST);

	if (q->req_prod - event < q->req_prod - old)
		q_kick(q);
}

static inline bool q_answered(struct queue *q)
{
	return __atomic_load_n(&q_header(q)[2], __ATOMIC_ACQUIRE) != q->rsp_cons;
}

/* The next answer: false when none comes in time. */
static inline bool q_try_answer(struct queue *q, struct answer *a, int ms)
{
	long long end = guest_now_ms() + ms;
	uint8_t *s;

	while (!q_answered(q)) {
		__atomic_store_n(&q_header(q)[3], q->rsp_cons + 1, __ATOMIC_SEQ_CST);
		if (q_answered(q))
			break;
		if (guest_now_ms() >= end)
			return false;
		guest_wait(q->guest, q->port.vcpu, 20, NULL, 0);
	}
	s = q_slot(q, q->rsp_cons++);
	memcpy(&a->id, s, 8);
	a->op = s[8];
	memcpy(&a->status, s + 10, 2);
	return true;
}

static inline struct answer q_answer(struct queue *q)
{
	struct answer a = { 0 }; /* gcc does not know that fail_msg does not return */

	if (!q_try_answer(q, &a, WAIT_MS))
		fail_msg("no answer");
	return a;
}

/* One request alone: its status. */
static inline int q_do(struct queue *q, uint8_t op, uint64_t sector, const uint32_t *gref, unsigned segs)
{
	struct answer a;

	q_put(q, op, 0x1122334455667788, sector, gref, segs);
	q_push(q);
	a = q_answer(q);
	assert_int_equal(a.id, 0x1122334455667788);
	assert_int_equal(a.op, op);
	return a.status;
}

/* --- memory of a guest ----------------------------------------------------------------------------- */

struct mem {
	uint8_t *data;
	unsigned pages;
	uint32_t gref[256];
};

static inline void mem_get(struct mem *m, struct guest *guest, unsigned pages)
{
	m->data = guest_pages(guest, pages);
	assert_non_null(m->data);
	m->pages = pages;
	for (unsigned i = 0; i < pages; i++) {
		m->gref[i] = guest_grant(guest, m->data + i * 4096, false);
		assert_true(m->gref[i] != GUEST_NO_GREF);
	}
}

static inline void mem_assert_unused(const struct mem *m, struct guest *guest)
{
	for (unsigned i = 0; i < m->pages; i++)
		assert_int_equal(guest_grant_in_use(guest, m->gref[i]), 0);
}

/* Fill an indirect table with whole pages of m. */
static inline void mem_table(const struct mem *m, uint8_t *table, unsigned segs)
{
	for (unsigned i = 0; i < segs; i++) {
		memset(table + i * 8, 0, 8);
		put32(table + i * 8, m->gref[i % m->pages]);
		table[i * 8 + 5] = 7;
	}
}

/* --- looking at the process ------------------------------------------------------------------------- */

#define wait_until(expression) wait_true(expression, WAIT_MS)

static inline unsigned count_entries(const char *path)
{
	DIR *dir = opendir(path);
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static inline uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif
