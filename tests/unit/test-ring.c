/*
 * The shared ring, against Xen's own macros for its front end (64-bit ABI) and against offsets counted by
 * hand for both ABIs.
 */
#include "test.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define mb()  __sync_synchronize()
#define rmb() __sync_synchronize()
#define wmb() __sync_synchronize()
#include <xen/xen.h>

#include <xen/io/blkif.h>

#include "ring.h"

static _Alignas(4096) uint8_t pages[4096u << RING_MAX_ORDER];

static void put(unsigned offset, const void *from, size_t len)
{
	memcpy(pages + 64 + offset, from, len);
}

/* Slots of a ring: __RING_SIZE for 112 bytes; the 32-bit slot of 108 bytes gives the same. */
static void sizes(void **state)
{
	static const unsigned expected[] = { 32, 64, 128, 256, 512 };

	(void)state;
	for (unsigned order = 0; order <= RING_MAX_ORDER; order++) {
		assert_int_equal(ring_slots(order), expected[order]);
		assert_int_equal(ring_slots(order), __RING_SIZE((blkif_sring_t *)pages, 4096u << order));
	}
}

/* Requests by Xen's macros, answers by ours, at every order and across the wrap of the index. */
static void against_xen_macros(void **state)
{
	(void)state;
	for (unsigned order = 0; order <= RING_MAX_ORDER; order++) {
		blkif_front_ring_t front;
		struct ring_request req;
		struct ring ring;
		int notify;

		memset(pages, 0, sizeof(pages));
		SHARED_RING_INIT((blkif_sring_t *)pages);
		FRONT_RING_INIT(&front, (blkif_sring_t *)pages, 4096u << order);
		front.sring->req_prod = front.sring->rsp_prod = front.req_prod_pvt = front.rsp_cons =
			0xffffff00u;
		front.sring->req_event = front.sring->rsp_event = 0xffffff01u;
		assert_int_equal(ring_attach(&ring, pages, order, RING_ABI_NATIVE), 0);
		for (uint64_t n = 0; n < 1200; n++) {
			blkif_request_t *r = RING_GET_REQUEST(&front, front.req_prod_pvt++);
			blkif_response_t *rsp;

			memset(r, 0, sizeof(*r));
			r->operation = BLKIF_OP_WRITE;
			r->nr_segments = 1 + n % 11;
			r->id = ~n;
			r->sector_number = n << 33 | n;
			for (unsigned i = 0; i < r->nr_segments; i++)
				r->seg[i] = (struct blkif_request_segment){
					.gref = (uint32_t)n * 16 + i, .first_sect = i % 8, .last_sect = 7};
			RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&front, notify);
			assert_true(notify);
			assert_int_equal(ring_pending(&ring, ring_read_prod(&ring), ring.rsp_prod), 1);
			ring_copy_request(&ring, &req);
			assert_int_equal(req.op, BLKIF_OP_WRITE);
			assert_int_equal(req.nr_segments, 1 + n % 11);
			assert_true(req.id == ~n && req.sector == (n << 33 | n));
			for (unsigned i = 0; i < req.nr_segments; i++) {
				assert_int_equal(req.seg[i].gref, (uint32_t)n * 16 + i);
				assert_int_equal(req.seg[i].first_sect, i % 8);
				assert_int_equal(req.seg[i].last_sect, 7);
			}
			assert_false(ring_final_check(&ring));
			ring_respond(&ring, req.id, req.op, (int16_t)-(n % 3));
			assert_true(ring_push(&ring));
			assert_int_equal(front.sring->rsp_prod - front.rsp_cons, 1);
			rsp = RING_GET_RESPONSE(&front, front.rsp_cons++);
			assert_true(rsp->id == ~n);
			assert_int_equal(rsp->operation, BLKIF_OP_WRITE);
			assert_int_equal(rsp->status, (int16_t)-(n % 3));
			front.sring->rsp_event = front.rsp_cons + 1;
		}
	}
}

/* Offsets of the page that both ABIs have in common, and of those that differ. */
static void offsets_by_hand(void **state)
{
	static const struct {
		enum ring_abi abi;
		unsigned slot, id, sector, seg, discard, grefs;
	} t[] = {
		{ RING_ABI_X86_32, 108, 4, 12, 20, 20, 24 },
		{ RING_ABI_X86_64, 112, 8, 16, 24, 24, 28 },
		{ RING_ABI_NATIVE, 112, 8, 16, 24, 24, 28 },
	};
	const uint64_t id = 0x1122334455667788, sector = 0x99aabbccddeeff00, count = 0x0123456789abcdef;
	struct ring_request req;
	struct ring ring;

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		unsigned s2 = t[i].slot * 2;
		uint16_t nr = 0x1234;
		uint32_t gref = 0xcafebabe;

		memset(pages, 0, sizeof(pages));
		((uint32_t *)pages)[0] = 3;
		assert_int_equal(ring_attach(&ring, pages, 0, t[i].abi), 0);
		/* slot 0: 11 segments, of which the last is looked at; and more are claimed */
		pages[64] = 1;
		pages[65] = 200;
		put(t[i].id, &id, 8);
		put(t[i].sector, &sector, 8);
		put(t[i].seg + 80, &gref, 4);
		pages[64 + t[i].seg + 84] = 3;
		pages[64 + t[i].seg + 85] = 250;
		ring_copy_request(&ring, &req);
		assert_true(req.op == 1 && req.nr_segments == 200 && req.id == id && req.sector == sector);
		assert_true(req.seg[10].gref == gref && req.seg[10].first_sect == 3 &&
			    req.seg[10].last_sect == 250);
		/* slot 1: discard */
		pages[64 + t[i].slot] = BLKIF_OP_DISCARD;
		pages[65 + t[i].slot] = 0x81;
		put(t[i].slot + t[i].discard, &count, 8);
		ring_copy_request(&ring, &req);
		assert_true(req.op == BLKIF_OP_DISCARD && req.discard_flags == 0x81);
		assert_true(req.discard_sectors == count && req.nr_segments == 0);
		/* slot 2: indirect */
		pages[64 + s2] = BLKIF_OP_INDIRECT;
		pages[65 + s2] = BLKIF_OP_WRITE;
		put(s2 + 2, &nr, 2);
		put(s2 + t[i].id, &id, 8);
		put(s2 + t[i].grefs + 28, &gref, 4);
		ring_copy_request(&ring, &req);
		assert_true(req.inner_op == BLKIF_OP_WRITE && req.nr_segments == nr && req.id == id);
		assert_true(req.indirect_gref[7] == gref && req.indirect_gref[0] == 0);
		/* The answer: bytes 0-7, 8 and 10-11, wherever the request's id was. */
		memset(pages + 64, 0xa5, t[i].slot);
		ring_respond(&ring, id, 5, -2);
		assert_memory_equal(pages + 64, &id, 8);
		assert_int_equal(pages[72], 5);
		assert_int_equal(pages[73], 0xa5);
		assert_int_equal(pages[74] | pages[75] << 8, 0xfffe);
		for (unsigned b = 12; b < t[i].slot; b++)
			assert_int_equal(pages[64 + b], 0xa5);
	}
}

static void impossible_indices(void **state)
{
	struct ring ring;
	uint32_t *h = (uint32_t *)pages;

	(void)state;
	memset(pages, 0, sizeof(pages));
	h[0] = 33;
	assert_int_equal(ring_attach(&ring, pages, 0, RING_ABI_NATIVE), -71 /* EPROTO */);
	h[0] = 5;
	h[2] = 0xfffffff0u;
	assert_int_equal(ring_attach(&ring, pages, 0, RING_ABI_NATIVE), 0);
	assert_int_equal(ring_pending(&ring, 5, 0xfffffff0u), 21);
	assert_int_equal(ring_pending(&ring, 16, 0xfffffff0u), 32);
	assert_int_equal(ring_pending(&ring, 17, 0xfffffff0u), -71);
	assert_int_equal(ring_pending(&ring, 0xffffffefu, 0xfffffff0u), -71);
	/* Consumed, not answered: the producer may not go beyond the answers by more than the ring. */
	ring.req_cons += 10;
	assert_int_equal(ring_pending(&ring, 16, 0xfffffff0u), 22);
	assert_int_equal(ring_pending(&ring, 17, 0xfffffff0u), -71);
	assert_int_equal(ring_pending(&ring, 0xfffffff5u, 0xfffffff0u), -71);
}

/* Notify only if the front end asked for an event among what is pushed; nothing pushed, nothing written. */
static void notifications(void **state)
{
	struct ring ring;
	uint32_t *h = (uint32_t *)pages;

	(void)state;
	memset(pages, 0, sizeof(pages));
	assert_int_equal(ring_attach(&ring, pages, 0, RING_ABI_NATIVE), 0);
	h[3] = 3; /* rsp_event */
	ring_respond(&ring, 1, 0, 0);
	ring_respond(&ring, 2, 0, 0);
	assert_false(ring_push(&ring));
	ring_respond(&ring, 3, 0, 0);
	assert_true(ring_push(&ring));
	ring_respond(&ring, 4, 0, 0);
	assert_false(ring_push(&ring));
	assert_int_equal(h[2], 4);
	h[2] = 77;
	assert_false(ring_push(&ring));
	assert_int_equal(h[2], 77);
	h[0] = 1;
	assert_true(ring_final_check(&ring));
	assert_int_equal(h[1], 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(against_xen_macros),
		cmocka_unit_test(offsets_by_hand),
		cmocka_unit_test(impossible_indices),
		cmocka_unit_test(notifications),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
