/*
 * The rules for requests once more, to compare with parse.c: what a request is to be answered if its grants
 * are good and the image does not fail.
 */
#ifndef RD_FUZZ_JUDGE_H
#define RD_FUZZ_JUDGE_H

#include <errno.h>

#include "parse.h"

enum verdict { OK, UNKNOWN, BAD };

static inline enum verdict verdict_of(int err)
{
	return !err ? OK : err == -EOPNOTSUPP ? UNKNOWN : BAD;
}

/* Sectors [sector, sector + count) of the disk, in units of the advertised size. */
static inline enum verdict judge_range(uint64_t sector, unsigned __int128 count, const struct parse_limits *l)
{
	unsigned per = l->sector_size / 512;

	if (sector % per || count % per)
		return BAD;
	return (unsigned __int128)sector + count <= l->size / 512 ? OK : BAD;
}

static inline enum verdict judge_segments(const struct ring_seg *seg, unsigned n, uint64_t sector,
				   const struct parse_limits *l)
{
	unsigned count = 0;

	while (n--) {
		if (seg[n].last_sect > 7 || seg[n].first_sect > seg[n].last_sect)
			return BAD;
		count += 1u + seg[n].last_sect - seg[n].first_sect;
	}
	return judge_range(sector, count, l);
}

static inline enum verdict judge(const struct ring_request *w, const struct parse_limits *l,
			  const struct ring_seg *indirect)
{
	bool ro = !l->writable;

	if (w->op == 6) {
		if (!l->max_indirect)
			return UNKNOWN;
		if (w->inner_op > 1 || (w->inner_op == 1 && ro) || w->nr_segments == 0 ||
		    w->nr_segments > l->max_indirect)
			return BAD;
		return judge_segments(indirect, w->nr_segments, w->sector, l);
	}
	if (w->op == 5) {
		if (!l->discard || w->discard_flags & 1)
			return UNKNOWN;
		if (ro)
			return BAD;
		return w->discard_sectors ? judge_range(w->sector, w->discard_sectors, l) : BAD;
	}
	if (w->op > 3 || (w->op == 2 && !l->barrier) || (w->op == 3 && !l->flush))
		return UNKNOWN;
	if (w->nr_segments == 0)
		return w->op >= 2 ? OK : BAD;
	if ((w->op != 0 && ro) || w->nr_segments > 11)
		return BAD;
	return judge_segments(w->seg, w->nr_segments, w->sector, l);
}

#endif
