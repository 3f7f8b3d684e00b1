/*
 * A device on the loopback hypervisor, without a store: the test connects it by hand, writes request
 * slots byte by byte as a frontend would, and looks at the answers. 64-bit ABI. Include after test.h.
 */
#ifndef RD_TEST_VBD_H
#define RD_TEST_VBD_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define mb()  __sync_synchronize()
#define rmb() __sync_synchronize()
#define wmb() __sync_synchronize()
#include <xen/xen.h>

#include <xen/io/blkif.h>

#include "device.h"
#include "disk.h"
#include "guest.h"
#include "strand.h"

#define VBD_GRANTS 4096u
#define VBD_PAGES  4096u
#define VBD_WAIT_MS 20000
#define VBD_CALL_MS 1500
#ifndef VBD_DRAIN_MS
#define VBD_DRAIN_MS 700 /* no test waits for the 8 s of the daemon */
#endif

struct vbd {
	char dir[64], socket[96];
	struct hyp *hyp;
	struct pool *workers, *control;
	struct dev_env env;
	struct guest *guest;
	struct device *dev;
	struct guest_port port;
	struct dev_rings rings;
	struct dev_geometry geometry;
	void *ring_pages;
	blkif_front_ring_t ring;
	_Atomic int events[8]; /* counts of DEV_EV_* */
	int result;
};

static inline void vbd_event(struct device *dev, int event, void *arg)
{
	struct vbd *v = arg;

	(void)dev;
	v->events[event]++;
}

static inline void vbd_setup(struct vbd *v)
{
	memset(v, 0, sizeof(*v));
	strcpy(v->dir, "/tmp/rd-vbd-XXXXXX");
	assert_non_null(mkdtemp(v->dir));
	snprintf(v->socket, sizeof(v->socket), "%s/sock", v->dir);
	assert_int_equal(hyp_loopback_open(v->socket, &v->hyp), 0);
	assert_int_equal(pool_create("w", 2, 16, &v->workers), 0);
	assert_int_equal(pool_create("c", 1, 16, &v->control), 0);
	v->env = (struct dev_env){
		.hyp = v->hyp, .workers = v->workers, .control = v->control,
		.notify = vbd_event, .notify_arg = v,
		.guest_memory = 8u << 20, .guest_grants = 4096, .drain_ms = VBD_DRAIN_MS, .call_ms = VBD_CALL_MS,
	};
	assert_int_equal(devtab_init(&v->env), 0);
	assert_int_equal(guest_open(v->socket, 5, VBD_PAGES, VBD_GRANTS, &v->guest), 0);
}

struct vbd_call {
	struct strand_call call;
	int (*fn)(struct vbd *v);
	struct vbd *v;
};

static inline int vbd_call_run(struct strand_call *call)
{
	struct vbd_call *c = container_of(call, struct vbd_call, call);

	return c->fn(c->v);
}

/* Until strand_end(&c->call). */
static inline void vbd_begin(struct vbd *v, struct vbd_call *c, int (*fn)(struct vbd *v))
{
	*c = (struct vbd_call){.call.run = vbd_call_run, .fn = fn, .v = v};
	strand_begin(v->dev, &c->call);
}

static inline int vbd_strand(struct vbd *v, int (*fn)(struct vbd *v))
{
	struct vbd_call c;

	vbd_begin(v, &c, fn);
	return strand_end(&c.call);
}

static inline int vbd_do_connect(struct vbd *v)
{
	return dev_connect(v->dev, &v->rings, &v->geometry);
}

static inline int vbd_do_disconnect(struct vbd *v)
{
	return dev_disconnect(v->dev);
}

static inline int vbd_do_pause(struct vbd *v)
{
	return dev_pause(v->dev);
}

static inline int vbd_do_unpause(struct vbd *v)
{
	return dev_unpause(v->dev, NULL);
}

static inline int vbd_do_destroy(struct vbd *v)
{
	dev_destroy(v->dev);
	return 0;
}

/* A device on params, with settings as "key=value" words; not connected. */
static inline void vbd_create(struct vbd *v, const char *params, const char *settings, bool writable)
{
	struct dev_spec spec = {.domid = 5, .vdev = 51712, .kind = "qdisk", .params = params,
				.writable = writable};
	char copy[256], err[256], *save, *word;

	settings_init(&spec.settings);
	snprintf(copy, sizeof(copy), "%s", settings);
	for (word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		char *eq = strchr(word, '=');

		*eq = 0;
		assert_int_equal(settings_set(&spec.settings, word, eq + 1, ORIGIN_SET, err,
					      sizeof(err)), 0);
	}
	assert_int_equal(dev_create(&spec, &v->dev), 0);
}

static inline unsigned vbd_offered(struct vbd *v)
{
	struct dev_view view;

	dev_look(v->dev, &view);
	return (unsigned)view.settings.value[SET_MAX_INDIRECT_SEGMENTS];
}

/* A fresh ring of 1 << order pages. */
static inline void vbd_new_ring(struct vbd *v, unsigned order, bool persistent)
{
	unsigned pages = 1u << order;

	if (!v->ring_pages) {
		v->ring_pages = guest_pages(v->guest, 1u << RING_MAX_ORDER);
		assert_int_equal(guest_port_open(v->guest, 0, 0, &v->port), 0);
		for (unsigned i = 0; i < 1u << RING_MAX_ORDER; i++)
			v->rings.ring[0].gref[i] = guest_grant(
				v->guest, (char *)v->ring_pages + i * 4096, false);
	}
	memset(v->ring_pages, 0, pages * 4096);
	SHARED_RING_INIT((blkif_sring_t *)v->ring_pages);
	FRONT_RING_INIT(&v->ring, (blkif_sring_t *)v->ring_pages, pages * 4096);
	v->rings.count = 1;
	v->rings.order = order;
	v->rings.abi = RING_ABI_X86_64;
	v->rings.persistent = persistent;
	v->rings.max_indirect = vbd_offered(v);
	v->rings.ring[0].evtchn = v->port.port;
}

static inline int vbd_connect(struct vbd *v, unsigned order, bool persistent)
{
	vbd_new_ring(v, order, persistent);
	return vbd_strand(v, vbd_do_connect);
}

static inline void vbd_teardown(struct vbd *v)
{
	if (v->dev) {
		vbd_strand(v, vbd_do_destroy);
		dev_put(v->dev);
	}
	devtab_destroy();
	pool_destroy(v->control);
	pool_destroy(v->workers);
	guest_close(v->guest);
	v->hyp->ops->close(v->hyp);
	rmdir(v->dir);
}

/* --- requests --- */

static inline blkif_request_t *vbd_slot(struct vbd *v)
{
	blkif_request_t *req = RING_GET_REQUEST(&v->ring, v->ring.req_prod_pvt);

	v->ring.req_prod_pvt++;
	memset(req, 0, sizeof(*req));
	return req;
}

static inline void vbd_push(struct vbd *v)
{
	int notify;

	RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&v->ring, notify);
	if (notify)
		guest_notify(&v->port);
}

/* The next answer; fails the test when none comes. */
static inline blkif_response_t vbd_answer(struct vbd *v)
{
	long long end = guest_now_ms() + VBD_WAIT_MS;
	blkif_response_t rsp;
	int more;

	for (;;) {
		xen_rmb();
		if (v->ring.rsp_cons != *(volatile RING_IDX *)&v->ring.sring->rsp_prod)
			break;
		RING_FINAL_CHECK_FOR_RESPONSES(&v->ring, more);
		if (more)
			continue;
		if (guest_now_ms() > end)
			fail_msg("no answer");
		guest_wait(v->guest, 0, 1000, NULL, 0);
	}
	xen_rmb();
	rsp = *RING_GET_RESPONSE(&v->ring, v->ring.rsp_cons);
	v->ring.rsp_cons++;
	return rsp;
}

static inline bool vbd_answered(struct vbd *v)
{
	xen_rmb();
	return v->ring.rsp_cons != *(volatile RING_IDX *)&v->ring.sring->rsp_prod;
}

/* Put one request of up to 11 segments on the ring: whole pages from page on. */
static inline void vbd_put(struct vbd *v, uint8_t op, uint64_t id, uint64_t sector,
			   const uint32_t *gref, unsigned segs)
{
	blkif_request_t *req = vbd_slot(v);

	req->operation = op;
	req->id = id;
	req->sector_number = sector;
	req->nr_segments = (uint8_t)segs;
	for (unsigned i = 0; i < segs; i++)
		req->seg[i] = (struct blkif_request_segment){
			.gref = gref[i], .first_sect = 0, .last_sect = 7};
}

/* Put it, wait for its answer, check what the answer echoes: its status. */
static inline int vbd_do(struct vbd *v, uint8_t op, uint64_t sector, const uint32_t *gref, unsigned segs)
{
	static uint64_t id = 1000;
	blkif_response_t rsp;

	vbd_put(v, op, ++id, sector, gref, segs);
	vbd_push(v);
	rsp = vbd_answer(v);
	assert_int_equal(rsp.id, id);
	assert_int_equal(rsp.operation, op);
	return rsp.status;
}

#endif
