/* See img-copy.h. A granule that is zero only in part is data. */
#include "img-copy.h"

#include "base/bytes.h"

uint32_t copy_granule(const struct image *target)
{
	uint32_t optimal = img_info(target)->optimal_io;

	return is_pow2(optimal) && optimal > 4096 && optimal <= JOB_BUFFER ? optimal : 4096;
}

/* How many whole granules from walk->at on are zeroes, in bytes; the last one may be cut by the end. */
static int zeroes_ahead(struct walk *walk, uint32_t granule, uint64_t *length)
{
	struct run run;
	int r = walk_look(walk, &run);

	if (r <= 0)
		return r;
	*length = 0;
	if (run.zero)
		*length = walk->at + run.length == walk->end ? run.length : run.length / granule * granule;
	return 1;
}

int copy_next(struct walk *walk, uint32_t granule, struct piece *piece)
{
	const uint64_t most = MAX(JOB_CHUNK, granule);
	uint64_t zeroes;
	int r = zeroes_ahead(walk, granule, &zeroes);

	if (r <= 0)
		return r;
	*piece = (struct piece){.offset = walk->at, .length = zeroes, .kind = PIECE_ZERO};
	if (zeroes) {
		walk_step(walk, zeroes);
		return 1;
	}
	piece->kind = PIECE_DATA;
	while (r > 0 && !zeroes && piece->length < most) {
		struct run run;
		uint64_t step;

		r = walk_look(walk, &run);
		if (r < 0)
			return r;
		/* To the end of the run, in granules; a short rest is filled up. */
		step = run.zero ? granule : round_up(run.length, granule);
		step = MIN(step, most - piece->length);
		step = MIN(step, walk->end - walk->at);
		walk_step(walk, step);
		piece->length += step;
		r = zeroes_ahead(walk, granule, &zeroes);
	}
	return r < 0 ? r : 1;
}
