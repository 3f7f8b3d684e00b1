/*
 * The rules for requests, against a second implementation of them that shares nothing with the first: a
 * few hundred thousand random requests around the edges; and the order of the rules, one by one.
 */
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <xen/xen.h>

#include <xen/io/blkif.h>

#include "../fuzz/judge.h"
#include "parse.h"

#define SECTORS 2048u

static uint64_t rnd(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	return *x ^= *x << 17;
}

static uint64_t some_sector(uint64_t *x)
{
	static const uint64_t edges[] = { 0, SECTORS, UINT64_MAX, UINT64_C(1) << 55, UINT64_C(1) << 63,
					  UINT64_MAX / 512 };
	uint64_t r = rnd(x);

	return r & 3 ? (r >> 8) % (SECTORS + 16) & ~(r & 4 ? 7u : 0u)
		     : edges[(r >> 8) % 6] + (r >> 16) % 17 - 8;
}

static void some_segment(struct ring_seg *seg, uint64_t *x)
{
	uint64_t r = rnd(x);

	*seg = (struct ring_seg){ .gref = (uint32_t)r, .first_sect = (r >> 32) % 8, .last_sect = 7 };
	if (r >> 40 & 1)
		seg->first_sect = 0;
	if ((r >> 41) % 64 == 0)
		seg->last_sect = (uint8_t)(r >> 48);
}

static void agrees_with_the_other_implementation(void **state)
{
	static struct ring_seg segs[REQ_MAX_SEGS], indirect[REQ_MAX_SEGS];
	uint64_t x = 2463534242u, seen[3] = { 0 };

	(void)state;
	for (unsigned n = 0; n < 300000; n++) {
		uint64_t r = rnd(&x);
		struct parse_limits l = {
			.size = SECTORS * 512u, .sector_size = r & 1 ? 512 : 4096,
			.max_indirect = r & 2 ? REQ_MAX_SEGS : (r >> 8) % 40, .writable = r & 4,
			.flush = r & 24, .barrier = r & 32, .discard = r & 64,
		};
		struct ring_request w = { .id = r, .op = (r >> 16) % 9, .inner_op = (r >> 24) % 4,
					  .sector = some_sector(&x) };
		struct request req;
		enum verdict v;
		int err;

		w.nr_segments = w.op == 6 ? (r >> 32) % 300 : (r >> 32) % 14;
		w.discard_flags = (r >> 48) % 8 == 0;
		w.discard_sectors = w.op == 5 ? some_sector(&x) % (r & 128 ? 64 : UINT64_MAX) : 0;
		for (unsigned i = 0; i < 11; i++)
			some_segment(&w.seg[i], &x);
		for (unsigned i = 0; w.op == 6 && i < REQ_MAX_SEGS; i++)
			some_segment(&indirect[i], &x);
		memset(&req, 0xa5, sizeof(req));
		req.seg = segs;
		err = parse_request(&w, &l, &req);
		if (!err && req.flags & REQ_INDIRECT) {
			memcpy(segs, indirect, req.nr_segs * sizeof(segs[0]));
			err = parse_segments(&l, &req);
		}
		v = judge(&w, &l, indirect);
		if (verdict_of(err) != v)
			fail_msg("op %u/%u nr %u sector %#llx: %d, not %d", w.op, w.inner_op,
				 w.nr_segments, (unsigned long long)w.sector, err, v);
		assert_true(req.id == w.id && req.op == (w.op == 6 ? w.inner_op : w.op));
		seen[v]++;
	}
	/* All three come often: the comparison means something. */
	for (unsigned i = 0; i < 3; i++)
		assert_true(seen[i] > 5000);
}

/* A request breaks several rules: what it is answered is the first of them. */
static void first_rule_wins(void **state)
{
	const struct parse_limits ro = { .size = SECTORS * 512u, .sector_size = 512, .flush = true,
					 .max_indirect = 16 };
	static const struct {
		struct ring_request w;
		int err;
	} t[] = {
		{ { .op = 200, .nr_segments = 99, .sector = UINT64_MAX }, -EOPNOTSUPP },
		{ { .op = BLKIF_OP_WRITE_BARRIER, .nr_segments = 99 }, -EOPNOTSUPP },
		{ { .op = BLKIF_OP_WRITE, .nr_segments = 99, .sector = UINT64_MAX }, -EROFS },
		{ { .op = BLKIF_OP_INDIRECT, .inner_op = BLKIF_OP_WRITE, .nr_segments = 99 }, -EROFS },
		{ { .op = BLKIF_OP_INDIRECT, .inner_op = BLKIF_OP_DISCARD, .nr_segments = 99 }, -EINVAL },
		{ { .op = BLKIF_OP_READ, .nr_segments = 12 }, -EINVAL },
		{ { .op = BLKIF_OP_READ, .nr_segments = 0 }, -EINVAL },
		{ { .op = BLKIF_OP_READ, .nr_segments = 1, .sector = SECTORS,
		    .seg = { { .first_sect = 3, .last_sect = 2 } } }, -EINVAL },
		{ { .op = BLKIF_OP_READ, .nr_segments = 1, .sector = SECTORS }, -ERANGE },
		{ { .op = BLKIF_OP_FLUSH_DISKCACHE, .sector = UINT64_MAX }, 0 },
		{ { .op = BLKIF_OP_READ, .nr_segments = 1, .sector = SECTORS - 1 }, 0 },
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct ring_seg segs[RING_SEGS_DIRECT];
		struct request req = { .seg = segs };

		assert_int_equal(parse_request(&t[i].w, &ro, &req), t[i].err);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(agrees_with_the_other_implementation),
		cmocka_unit_test(first_rule_wins),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
