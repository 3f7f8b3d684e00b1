/*
 * parse.c - from the guest's request to ours
 *
 * In this order, each step only if the one before passed (reliability of what is answered, too: an
 * unknown operation is EOPNOTSUPP whatever else is wrong with it):
 *
 *   operation known and offered -> read-only -> number of segments -> inner operation of INDIRECT ->
 *   each segment inside its page -> sectors are 512 bytes, aligned to the advertised sector size ->
 *   range inside the device, without overflow
 *
 * Duplicate grant references, 0, or the ring's own page are legal: they can hurt the guest only.
 */
#include "parse.h"

#include "base/overflow.h"

#include <errno.h>

#include <xen/xen.h>

#include <xen/io/blkif.h>

#define SECTOR 512u
#define SECTORS_PER_PAGE 8u

/* What an operation is to us.  Zero segments are allowed where .empty. */
struct op {
	uint8_t kind;
	bool known, empty, writes;
	uint32_t flags;
};

static const struct op ops[] = {
	[BLKIF_OP_READ] = {.known = true, .kind = REQ_READ},
	[BLKIF_OP_WRITE] = {.known = true, .kind = REQ_WRITE, .writes = true},
	[BLKIF_OP_WRITE_BARRIER] = {.known = true, .kind = REQ_WRITE, .writes = true, .empty = true,
				    .flags = REQ_BARRIER | REQ_PREFLUSH | REQ_POSTFLUSH},
	[BLKIF_OP_FLUSH_DISKCACHE] = {.known = true, .kind = REQ_WRITE, .writes = true,
				      .empty = true, .flags = REQ_PREFLUSH},
	[BLKIF_OP_DISCARD] = {.known = true, .kind = REQ_DISCARD, .writes = true},
};

static const struct op *lookup(uint8_t op)
{
	return op < sizeof ops / sizeof ops[0] && ops[op].known ? &ops[op] : NULL;
}

static bool offered(const struct ring_request *wire, const struct parse_limits *limits)
{
	switch (wire->op) {
	case BLKIF_OP_WRITE_BARRIER:
		return limits->barrier;
	case BLKIF_OP_FLUSH_DISKCACHE:
		return limits->flush;
	case BLKIF_OP_DISCARD:
		/* Secure discard is not offered; plain discard instead would be a lie. */
		return limits->discard && !(wire->discard_flags & BLKIF_DISCARD_SECURE);
	default:
		return true;
	}
}

/* Offset and length are set, in bytes: aligned, and inside the device. */
static int check_range(const struct parse_limits *limits, const struct request *req)
{
	if ((req->offset | req->length) & (limits->sector_size - 1))
		return -EINVAL;
	return range_inside(req->offset, req->length, limits->size) ? 0 : -ERANGE;
}

static int to_bytes(uint64_t sectors, uint64_t *bytes)
{
	return mul_u64(sectors, SECTOR, bytes) ? 0 : -ERANGE;
}

int parse_segments(const struct parse_limits *limits, struct request *req)
{
	uint64_t sectors = 0;

	for (unsigned i = 0; i < req->nr_segs; i++) {
		const struct ring_seg *seg = &req->seg[i];

		if (seg->first_sect > seg->last_sect || seg->last_sect >= SECTORS_PER_PAGE)
			return -EINVAL;
		sectors += seg->last_sect - seg->first_sect + 1u;
	}
	req->length = sectors * SECTOR;
	return check_range(limits, req);
}

static int parse_discard(const struct ring_request *wire, const struct parse_limits *limits,
			 struct request *req)
{
	if (to_bytes(wire->discard_sectors, &req->length) || !req->length)
		return -ERANGE;
	return check_range(limits, req);
}

static int parse_direct(const struct ring_request *wire, const struct parse_limits *limits,
			const struct op *op, struct request *req)
{
	if (wire->nr_segments > RING_SEGS_DIRECT || (!wire->nr_segments && !op->empty))
		return -EINVAL;
	req->nr_segs = wire->nr_segments;
	if (!req->nr_segs) { /* an empty flush or barrier: its sector means nothing */
		req->kind = REQ_FLUSH;
		req->flags &= REQ_BARRIER;
		return 0;
	}
	for (unsigned i = 0; i < req->nr_segs; i++)
		req->seg[i] = wire->seg[i];
	return parse_segments(limits, req);
}

static int parse_indirect(const struct ring_request *wire, const struct parse_limits *limits,
			  struct request *req)
{
	if (!wire->nr_segments || wire->nr_segments > limits->max_indirect)
		return -EINVAL;
	req->nr_segs = wire->nr_segments;
	req->flags |= REQ_INDIRECT;
	return 0;
}

int parse_request(const struct ring_request *wire, const struct parse_limits *limits,
		  struct request *req)
{
	bool indirect = wire->op == BLKIF_OP_INDIRECT;
	const struct op *op = lookup(indirect ? wire->inner_op : wire->op);

	req->id = wire->id;
	req->op = indirect ? wire->inner_op : wire->op;
	req->kind = REQ_READ;
	req->nr_segs = 0;
	req->length = 0;
	req->flags = 0;
	if (indirect && !limits->max_indirect)
		return -EOPNOTSUPP;
	if (indirect && wire->inner_op != BLKIF_OP_READ && wire->inner_op != BLKIF_OP_WRITE)
		return -EINVAL;
	if (!op || !offered(wire, limits))
		return -EOPNOTSUPP;
	if (op->writes && !limits->writable && !(op->empty && !wire->nr_segments))
		return -EROFS;
	req->kind = op->kind;
	req->flags = op->flags;
	/* Linux sends empty flushes with sector -1. */
	if (to_bytes(op->empty && !wire->nr_segments ? 0 : wire->sector, &req->offset))
		return -ERANGE;
	if (indirect)
		return parse_indirect(wire, limits, req);
	if (req->kind == REQ_DISCARD)
		return parse_discard(wire, limits, req);
	return parse_direct(wire, limits, op, req);
}
