/*
 * parse.h - from the guest's request to ours: every field that the guest controls is checked here
 *
 * Pure functions on private copies: no state, no I/O, no log.  What they let pass needs no further
 * check but that of the grants.
 */
#ifndef RD_PARSE_H
#define RD_PARSE_H

#include "request.h"
#include "ring.h"

#include <stdbool.h>
#include <stdint.h>

/* What holds for the device while it is connected. */
struct parse_limits {
	uint64_t size;          /* bytes */
	uint32_t sector_size;   /* advertised: offsets and lengths are multiples of it */
	unsigned max_indirect;  /* segments, 0: INDIRECT not offered */
	bool writable;
	bool flush, barrier, discard; /* offered */
};

/*
 * Check and translate everything that the slot itself says.  0: req is complete, or, if it is INDIRECT
 * (req->flags), complete but for its segments: copy them to req->seg and call parse_segments.
 * -EOPNOTSUPP: not an operation that we know or offer.  -EINVAL, -EROFS, -ERANGE...: malformed.
 * In every case req->id and req->op are what the answer must carry.
 * req->seg must have room: for RING_SEGS_DIRECT here.
 */
int parse_request(const struct ring_request *wire, const struct parse_limits *limits,
		  struct request *req);
/* Check req->nr_segs segments in req->seg, and the range that follows from them. */
int parse_segments(const struct parse_limits *limits, struct request *req);

#endif
