/*
 * ring.h - the shared ring: the one place that touches memory which the guest changes under our feet
 *
 * A slot is copied out exactly once, then translated from the guest's ABI; responses are three
 * fields written in place.  Layouts: xen/io/blkif.h, xen/io/ring.h; offsets of the 32- and 64-bit
 * ABIs are in ring.c.
 *
 * Threads: ring_pending, ring_copy_request, ring_final_check on the poller only.  ring_respond and
 * ring_push under the ring lock of whoever owns the struct (poller.c).
 */
#ifndef RD_RING_H
#define RD_RING_H

#include <stdbool.h>
#include <stdint.h>

#define RING_MAX_ORDER 4u /* 16 pages, 512 slots */
#define RING_SEGS_DIRECT 11u
#define RING_INDIRECT_PAGES 8u
#define RING_SEGS_PER_PAGE 512u

enum ring_abi { RING_ABI_NATIVE, RING_ABI_X86_32, RING_ABI_X86_64 };

/* A segment as the guest wrote it: sectors of 512 bytes inside the granted page. */
struct ring_seg {
	uint32_t gref;
	uint8_t first_sect, last_sect;
};

/* A request as the guest wrote it, in private memory, whatever its ABI was. */
struct ring_request {
	uint64_t id;
	uint64_t sector; /* 512-byte units */
	uint8_t op;      /* BLKIF_OP_* */
	uint8_t inner_op;        /* INDIRECT only */
	uint16_t nr_segments;    /* as written: not checked */
	uint8_t discard_flags;   /* DISCARD only */
	uint64_t discard_sectors; /* DISCARD only */
	struct ring_seg seg[RING_SEGS_DIRECT];        /* all but INDIRECT and DISCARD */
	uint32_t indirect_gref[RING_INDIRECT_PAGES];  /* INDIRECT only */
};

struct ring {
	/* set before start */
	void *sring;         /* shared with the guest */
	enum ring_abi abi;
	unsigned size;       /* slots, power of two */
	/* poller only */
	uint32_t req_cons;
	/* under the ring lock */
	uint32_t rsp_prod;   /* private; responses below it are written */
	uint32_t rsp_pushed; /* private; responses below it are published */
};

/* Number of slots of a ring of 1 << order pages. */
unsigned ring_slots(unsigned order);

/* Take over the ring at sring, 1 << order consecutive pages, fresh or at the place where its
 * responses end.  -EPROTO: its indices are impossible. */
int ring_attach(struct ring *ring, void *sring, unsigned order, enum ring_abi abi);

/* The frontend's producer index, with acquire.  Read it before rsp_prod is read under the lock. */
uint32_t ring_read_prod(const struct ring *ring);
/* How many requests wait; -EPROTO: the producer index is impossible, the ring must not be used any
 * more.  rsp_prod as read under the ring lock. */
int ring_pending(const struct ring *ring, uint32_t prod, uint32_t rsp_prod);

/* Copy and translate the request at req_cons, and step over it.  There must be one. */
void ring_copy_request(struct ring *ring, struct ring_request *req);

/* Ask for an event at the next request, then look once more: true if there is one already. */
bool ring_final_check(struct ring *ring);

/* Write a response into the next slot. */
void ring_respond(struct ring *ring, uint64_t id, uint8_t op, int16_t status);
/* Publish what ring_respond wrote.  True: the frontend asked to be notified. */
bool ring_push(struct ring *ring);

/* Translate one page of indirect segments, copied out already, into segs.  count <= 512. */
void ring_indirect_segments(const void *page, unsigned count, struct ring_seg *segs);

#endif
