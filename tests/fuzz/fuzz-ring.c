/*
 * The bytes of a shared ring: whatever a guest writes there, each slot is copied, translated and parsed as
 * the poller does it, and what passes keeps every promise that later code relies on.
 *
 * Input: one byte that chooses the ABI and what the device offers, the ring's page (the last
 * 4096 bytes), and before it a page of indirect segments.
 */
#include "fuzz.h"

#include <string.h>

#include "base/bytes.h"
#include "judge.h"
#include "parse.h"
#include "request.h"
#include "ring.h"

#define PAGE        ((size_t)4096)
#define DEVICE_SIZE (UINT64_C(1) << 30)

static _Alignas(PAGE) unsigned char ring_page[PAGE];
static _Alignas(PAGE) unsigned char indirect_page[PAGE];

static void check_accepted(const struct request *req, const struct parse_limits *limits)
{
	uint64_t bytes = 0;

	MUST(req->offset <= limits->size && req->length <= limits->size - req->offset);
	MUST(req->offset % limits->sector_size == 0 && req->length % limits->sector_size == 0);
	if (req->kind != REQ_READ && req->kind != REQ_FLUSH)
		MUST(limits->writable);
	if (req->kind == REQ_DISCARD)
		MUST(limits->discard && req->length > 0);
	if (req->flags & REQ_BARRIER)
		MUST(limits->barrier);
	if (req->kind == REQ_DISCARD || req->kind == REQ_FLUSH)
		return;
	MUST(req->nr_segs > 0);
	for (unsigned i = 0; i < req->nr_segs; i++) {
		MUST(req->seg[i].first_sect <= req->seg[i].last_sect);
		MUST(req->seg[i].last_sect < PAGE / 512);
		bytes += (req->seg[i].last_sect - req->seg[i].first_sect + 1u) * 512u;
	}
	MUST(bytes == req->length);
}

static void one_request(struct ring *ring, const struct parse_limits *limits)
{
	struct ring_seg segs[REQ_MAX_SEGS];
	struct ring_request wire;
	struct request req;
	int ret;

	memset(&req, 0xa5, sizeof(req)); /* as a slot that was used before */
	req.seg = segs;
	ring_copy_request(ring, &wire);
	ret = parse_request(&wire, limits, &req);
	MUST(ret <= 0);
	MUST(req.id == wire.id);
	if (!ret && (req.flags & REQ_INDIRECT)) {
		MUST(req.nr_segs > 0 && req.nr_segs <= limits->max_indirect);
		ring_indirect_segments(indirect_page, req.nr_segs, segs);
		ret = parse_segments(limits, &req);
		MUST(ret <= 0);
	} else if (!ret) {
		MUST(req.nr_segs <= RING_SEGS_DIRECT);
	}
	if (!ret)
		check_accepted(&req, limits);
	ring_indirect_segments(indirect_page, REQ_MAX_SEGS, segs);
	MUST(verdict_of(ret) == judge(&wire, limits, segs));
	ring_respond(ring, req.id, req.op, req_status(ret));
}

static void all_requests(struct ring *ring, const struct parse_limits *limits)
{
	int pending = ring_pending(ring, ring_read_prod(ring), ring->rsp_prod);

	MUST(pending >= 0 && (unsigned)pending <= ring->size);
	while (pending-- > 0)
		one_request(ring, limits);
	ring_push(ring);
	ring_final_check(ring);
}

static const enum ring_abi abis[] = { RING_ABI_NATIVE, RING_ABI_X86_32, RING_ABI_X86_64,
				      RING_ABI_X86_32 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct parse_limits limits = { .size = DEVICE_SIZE, .sector_size = 512 };
	struct ring ring = { .sring = NULL };
	uint8_t choice;
	size_t half;

	if (!size)
		return 0;
	choice = *data++;
	size--;
	limits.writable = choice & 1;
	limits.flush = choice & 2;
	limits.barrier = choice & 4;
	limits.discard = choice & 8;
	limits.max_indirect = choice & 16 ? REQ_MAX_SEGS : 0;
	limits.sector_size = choice & 32 ? 4096 : 512;

	half = MIN(size > PAGE ? size - PAGE : 0, PAGE);
	memset(indirect_page, 0, PAGE);
	memcpy(indirect_page, data, half);
	memset(ring_page, 0, PAGE);
	memcpy(ring_page, data + half, MIN(size - half, PAGE));

	if (!ring_attach(&ring, ring_page, 0, abis[choice >> 6]))
		all_requests(&ring, &limits);
	return 0;
}
