/*
 * clock.c - the calibration of now_ns()
 *
 * Two readings of both clocks, some milliseconds apart. Each is the best of a few tries: the one with the
 * shortest time around it, so that a thread that loses its processor in between spoils nothing.
 */
#include "base/clock.h"

uint64_t clock_scale_;

#ifdef __x86_64__

#define TRIES   16
#define APART_NS 5000000ull

struct reading {
	uint64_t ticks, ns;
};

static struct reading read_both(void)
{
	struct reading best = {0, 0};
	uint64_t shortest = UINT64_MAX;

	for (int i = 0; i < TRIES; i++) {
		uint64_t before = __builtin_ia32_rdtsc(), ns = clock_monotonic_ns();
		uint64_t after = __builtin_ia32_rdtsc();

		if (after - before < shortest) {
			shortest = after - before;
			best = (struct reading){before + shortest / 2, ns};
		}
	}
	return best;
}

void clock_calibrate(void)
{
	const struct timespec apart = {.tv_nsec = APART_NS};
	struct reading a, b;

	if (clock_scale_)
		return;
	a = read_both();
	nanosleep(&apart, NULL);
	b = read_both();
	/* A clock that stands still, runs backwards or is slower than 1 MHz is none. */
	if (b.ns > a.ns && b.ticks > a.ticks && b.ticks - a.ticks > (b.ns - a.ns) / 1000)
		clock_scale_ = (uint64_t)(((unsigned __int128)(b.ns - a.ns) << 32) /
					  (b.ticks - a.ticks));
}

#else

void clock_calibrate(void)
{
}

#endif
