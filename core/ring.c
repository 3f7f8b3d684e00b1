/*
 * ring.c - the shared ring
 *
 * For the poller: ring_read_prod, ring_pending (is the index possible?), then ring_copy_request for
 * each, then ring_final_check before it sleeps.  For whoever finished requests: ring_respond for each,
 * one ring_push, and a notification if that asks for one.
 *
 * The guest may change every byte of the ring at any time.  So each 32-bit word of a slot is loaded
 * once, into private memory, and everything is decided on the private copy (XSA-155).  A response is
 * three stores into the slot: no padding of ours ever reaches the guest (XSA-216).  An impossible
 * producer index is reported by ring_pending and the ring is not used again (CVE-2010-4247).
 *
 * Layouts (xen/include/public/io/blkif.h; the 32-bit ABI packs u64 to 4 bytes):
 *
 *                        x86_32   x86_64 and native
 *      operation           0          0            u8
 *      nr_segments         1          1            u8      (DISCARD: flag; INDIRECT: inner operation)
 *      handle              2          2            u16     (INDIRECT: nr_segments)
 *      id                  4          8            u64
 *      sector_number      12         16            u64
 *      seg[11]            20         24            8 bytes each
 *      DISCARD nr_sectors 20         24            u64
 *      INDIRECT grefs[8]  24         28            u32 each (behind a u16 handle and padding)
 *      slot              108        112
 *      response            12 (id 0, operation 8, status 10) in both
 */
#include "ring.h"

#include "base/tsan.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include <xen/xen.h>

#include <xen/io/blkif.h>

#define SRING_HEADER 64u
#define SLOT_MAX     112u
#define PAGE_BYTES   4096u

/* The head of the shared ring (DEFINE_RING_TYPES in xen/io/ring.h). */
struct sring {
	uint32_t req_prod, req_event;
	uint32_t rsp_prod, rsp_event;
};

struct layout {
	unsigned slot, id, sector, seg, grefs; /* byte offsets; all multiples of 4 */
};

static const struct layout layout_32 = {.slot = 108, .id = 4, .sector = 12, .seg = 20, .grefs = 24};
static const struct layout layout_64 = {.slot = 112, .id = 8, .sector = 16, .seg = 24, .grefs = 28};

_Static_assert(sizeof(struct blkif_request) == 112, "native is the 64-bit layout");
_Static_assert(offsetof(struct blkif_request, id) == 8, "native id");
_Static_assert(offsetof(struct blkif_request, seg) == 24, "native seg");
_Static_assert(offsetof(struct blkif_request_indirect, indirect_grefs) == 28, "native grefs");
_Static_assert(offsetof(struct blkif_response, status) == 10, "response status");

static const struct layout *layout_of(const struct ring *ring)
{
	return ring->abi == RING_ABI_X86_32 ? &layout_32 : &layout_64;
}

static struct sring *shared(const struct ring *ring)
{
	return ring->sring;
}

static uint32_t *slot(const struct ring *ring, uint32_t index)
{
	unsigned offset = (index & (ring->size - 1)) * layout_of(ring)->slot;

	return (uint32_t *)((char *)ring->sring + SRING_HEADER + offset);
}

unsigned ring_slots(unsigned order)
{
	unsigned fit = ((PAGE_BYTES << order) - SRING_HEADER) / SLOT_MAX, n = 1;

	while (n * 2 <= fit)
		n *= 2;
	return n;
}

int ring_attach(struct ring *ring, void *sring, unsigned order, enum ring_abi abi)
{
	uint32_t prod;

	assert(order <= RING_MAX_ORDER);
	ring->sring = sring;
	ring->abi = abi;
	ring->size = ring_slots(order);
	ring->rsp_prod = __atomic_load_n(&shared(ring)->rsp_prod, __ATOMIC_ACQUIRE);
	ring->rsp_pushed = ring->rsp_prod;
	ring->req_cons = ring->rsp_prod;
	prod = ring_read_prod(ring);
	return ring_pending(ring, prod, ring->rsp_prod) < 0 ? -EPROTO : 0;
}

uint32_t ring_read_prod(const struct ring *ring)
{
	uint32_t prod = __atomic_load_n(&shared(ring)->req_prod, __ATOMIC_ACQUIRE);

	/* A guest that uses a page again has seen the answer to its last use. */
	tsan_acquire(ring->sring);
	return prod;
}

int ring_pending(const struct ring *ring, uint32_t prod, uint32_t rsp_prod)
{
	uint32_t unconsumed = prod - ring->req_cons;

	if (prod - rsp_prod > ring->size || unconsumed > ring->size)
		return -EPROTO;
	return (int)unconsumed;
}

/* The one place where bytes of a request are loaded: words [from, to), each once. */
static void load_words(const uint32_t *from, uint32_t *to, unsigned first, unsigned last)
{
	for (unsigned i = first; i < last; i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

static uint64_t get64(const uint32_t *words, unsigned offset)
{
	uint64_t v;

	memcpy(&v, (const char *)words + offset, sizeof v);
	return v;
}

/* A gref and two bytes: see struct blkif_request_segment. */
static void get_seg(const uint32_t *words, struct ring_seg *seg)
{
	seg->gref = words[0];
	seg->first_sect = (uint8_t)words[1];
	seg->last_sect = (uint8_t)(words[1] >> 8);
}

/* How many bytes of the slot the operation uses; nr is already private. */
static unsigned used_bytes(const struct layout *l, uint8_t op, unsigned nr)
{
	switch (op) {
	case BLKIF_OP_DISCARD:
		return l->seg + 8;
	case BLKIF_OP_INDIRECT:
		return l->grefs + RING_INDIRECT_PAGES * 4;
	default:
		return l->seg + (nr < RING_SEGS_DIRECT ? nr : RING_SEGS_DIRECT) * 8;
	}
}

void ring_copy_request(struct ring *ring, struct ring_request *req)
{
	const struct layout *l = layout_of(ring);
	const uint32_t *from = slot(ring, ring->req_cons);
	uint32_t w[SLOT_MAX / 4];
	unsigned nr;

	load_words(from, w, 0, 1);
	req->op = (uint8_t)w[0];
	nr = (uint8_t)(w[0] >> 8);
	load_words(from, w, 1, used_bytes(l, req->op, nr) / 4);

	req->id = get64(w, l->id);
	req->sector = get64(w, l->sector);
	req->inner_op = 0;
	req->nr_segments = (uint16_t)nr;
	switch (req->op) {
	case BLKIF_OP_DISCARD:
		req->discard_flags = (uint8_t)nr;
		req->discard_sectors = get64(w, l->seg);
		req->nr_segments = 0;
		break;
	case BLKIF_OP_INDIRECT:
		req->inner_op = (uint8_t)nr;
		req->nr_segments = (uint16_t)(w[0] >> 16);
		memcpy(req->indirect_gref, (char *)w + l->grefs, sizeof req->indirect_gref);
		break;
	default:
		for (unsigned i = 0; i < nr && i < RING_SEGS_DIRECT; i++)
			get_seg(&w[l->seg / 4 + i * 2], &req->seg[i]);
	}
	ring->req_cons++;
}

bool ring_final_check(struct ring *ring)
{
	struct sring *s = shared(ring);

	/* The frontend must see the new req_event before we look at req_prod: else it publishes without
	 * notifying and we sleep. */
	__atomic_store_n(&s->req_event, ring->req_cons + 1, __ATOMIC_SEQ_CST);
	return __atomic_load_n(&s->req_prod, __ATOMIC_SEQ_CST) != ring->req_cons;
}

void ring_respond(struct ring *ring, uint64_t id, uint8_t op, int16_t status)
{
	uint32_t *to = slot(ring, ring->rsp_prod);
	uint16_t *half = (uint16_t *)to;

	/* Two halves: slots of the 32-bit ABI are aligned to 4 bytes only. */
	__atomic_store_n(&to[0], (uint32_t)id, __ATOMIC_RELAXED);
	__atomic_store_n(&to[1], (uint32_t)(id >> 32), __ATOMIC_RELAXED);
	__atomic_store_n((uint8_t *)&to[2], op, __ATOMIC_RELAXED);
	__atomic_store_n(&half[5], (uint16_t)status, __ATOMIC_RELAXED);
	ring->rsp_prod++;
}

bool ring_push(struct ring *ring)
{
	struct sring *s = shared(ring);
	uint32_t old = ring->rsp_pushed, new = ring->rsp_prod, event;

	if (new == old) /* a ring at its end may be the guest's for something else already */
		return false;
	ring->rsp_pushed = new;
	tsan_release(ring->sring);
	/* The frontend sets rsp_event and then looks at rsp_prod; we do it the other way round. */
	__atomic_store_n(&s->rsp_prod, new, __ATOMIC_SEQ_CST);
	event = __atomic_load_n(&s->rsp_event, __ATOMIC_SEQ_CST);
	return new - event < new - old;
}

void ring_indirect_segments(const void *page, unsigned count, struct ring_seg *segs)
{
	const uint32_t *words = page;

	assert(count <= RING_SEGS_PER_PAGE);
	for (unsigned i = 0; i < count; i++)
		get_seg(&words[i * 2], &segs[i]);
}
