/*
 * request.h - a request in flight
 *
 * A request lives in its ring's slot table, one contiguous array made at connect.  It never moves and
 * has exactly one owner at a time; whoever does not own it does not look at it:
 *
 *      free list --> poller --> (device's queue --> worker) or (kernel, aio) --> finisher --> free list
 *                       \--> parked (ring lock), until the operator acts
 *
 * Sectors end here: everything is bytes.
 */
#ifndef RD_REQUEST_H
#define RD_REQUEST_H

#include "base/list.h"
#include "ring.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define REQ_MAX_SEGS 256u /* of an indirect request; what we advertise at most */

/* REQ_ZERO comes from no ring (blkif has no such operation), only from NBD. */
enum req_kind { REQ_READ, REQ_WRITE, REQ_FLUSH, REQ_DISCARD, REQ_ZERO };

/* What else a request asks for. */
#define REQ_PREFLUSH  (1u << 0) /* make earlier writes durable first */
#define REQ_POSTFLUSH (1u << 1) /* be durable before the answer */
#define REQ_BARRIER   (1u << 2) /* nothing before it may be running, nothing after it may start */
#define REQ_INDIRECT  (1u << 3)
#define REQ_NO_HOLE   (1u << 4) /* REQ_ZERO: its space is not to be given back */
/* Where it stands. */
#define REQ_COPIED_IN (1u << 8)  /* the data to write is in .buf */
#define REQ_PREFLUSHED (1u << 9) /* the flush that comes first is done */
#define REQ_PARK      (1u << 10) /* cannot be answered before the operator acts */
#define REQ_HALT      (1u << 11) /* parked, and meanwhile nothing else of the disk starts; can be given up */

#define REQ_AIO_PARTS 4u

struct grant_map;

/* Arrays of an indirect request, from the device's buffers. */
struct req_big {
	struct ring_seg seg[REQ_MAX_SEGS];
	struct iovec iov[REQ_MAX_SEGS];
	struct grant_map *pin[REQ_MAX_SEGS];
	void *page[REQ_MAX_SEGS];
};

enum req_mapped { REQ_NOT_MAPPED, REQ_MAPPED, REQ_REVOKING };

struct request {
	struct list_head node; /* of whichever list the owner keeps it in */
	uint64_t id;           /* the guest's, echoed */
	uint64_t seq;          /* order of arrival on the device */
	uint64_t offset, length; /* bytes */
	uint64_t start_ns;
	uint32_t flags;
	int err;               /* result: 0 or -errno */
	uint8_t op;            /* BLKIF_OP_*, echoed: the inner one of INDIRECT */
	uint8_t kind;          /* enum req_kind */
	uint16_t nr_segs;
	uint16_t ring;         /* index of the ring it came from */
	uint16_t npins;
	int iovcnt;
	uint32_t indirect_gref;  /* REQ_INDIRECT: the page with its segments */
	struct ring_seg *seg;    /* small_seg or big->seg */
	struct iovec *iov;       /* where the data is in the guest's pages; none: grant copy */
	struct grant_map **pin;  /* what keeps those pages mapped (grant=persistent) */
	void **page;             /* address of each segment's page while it is mapped */
	/* .page was mapped for this request alone (grant=map): the owner's, but whoever revokes the guest's
	 * memory takes it from under the owner for a moment. */
	_Atomic uint8_t mapped;  /* enum req_mapped */
	struct req_big *big;
	void *buf;               /* private buffer, .length bytes, that the I/O uses; NULL: the pages */
	/* aio */
	uint64_t token;
	unsigned parts;          /* not completed yet */
	struct iovec aio_iov[REQ_AIO_PARTS];
	struct ring_seg small_seg[RING_SEGS_DIRECT];
	struct iovec small_iov[RING_SEGS_DIRECT];
	struct grant_map *small_pin[RING_SEGS_DIRECT];
	void *small_page[RING_SEGS_DIRECT];
};

static inline bool req_writes(const struct request *req)
{
	return req->kind == REQ_WRITE;
}

/* The answer on the wire, BLKIF_RSP_*: the one place where -errno becomes one. */
int16_t req_status(int err);

#endif
