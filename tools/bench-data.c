/*
 * Data that gives away what happened to it. Each sector begins with a stamp: magic, the sector's number on
 * the disk, generation, seed. The rest follows from the stamp, so that a torn or overwritten sector shows as
 * well as one from elsewhere or from before.
 */
#include "bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAGIC 0x6b7369646772696eull /* "ringdisk" or nearly */
#define WORDS (512 / 8)

enum { AT_MAGIC, AT_SECTOR, AT_GENERATION, AT_SEED, AT_REST };

/* splitmix64 */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static void fill_sector(uint64_t *words, uint64_t sector, uint32_t generation, uint64_t seed)
{
	uint64_t x = mix(mix(sector ^ seed) + generation);

	words[AT_MAGIC] = MAGIC;
	words[AT_SECTOR] = sector;
	words[AT_GENERATION] = generation;
	words[AT_SEED] = seed;
	for (int i = AT_REST; i < WORDS; i++) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		words[i] = x;
	}
}

void data_fill(uint8_t *data, size_t len, uint64_t sector, uint32_t generation, uint64_t seed)
{
	for (; len; len -= 512, data += 512, sector++)
		fill_sector((uint64_t *)(void *)data, sector, generation, seed);
}

static bool all_zero(const uint64_t *words)
{
	for (int i = 0; i < WORDS; i++)
		if (words[i])
			return false;
	return true;
}

static void describe(const uint64_t *got, uint64_t sector, uint32_t generation, uint64_t seed,
		     char *text, size_t len)
{
	int n = snprintf(text, len, "sector %" PRIu64 ": ", sector);

	text += n;
	len -= (size_t)n;
	if (all_zero(got))
		snprintf(text, len, "zeroes instead of generation %" PRIu32, generation);
	else if (got[AT_MAGIC] != MAGIC)
		snprintf(text, len, "foreign data instead of generation %" PRIu32, generation);
	else if (got[AT_SECTOR] != sector)
		snprintf(text, len, "misplaced: it belongs to sector %" PRIu64, got[AT_SECTOR]);
	else if (got[AT_SEED] != seed)
		snprintf(text, len, "written by another run");
	else if (got[AT_GENERATION] != generation)
		snprintf(text, len, "stale: generation %" PRIu64 " instead of %" PRIu32,
			 got[AT_GENERATION], generation);
	else
		snprintf(text, len, "damaged behind a good stamp");
}

unsigned int data_check(const uint8_t *data, size_t len, uint64_t sector, uint32_t generation,
			uint64_t seed, char *text, size_t textlen)
{
	unsigned int wrong = 0;
	uint64_t expected[WORDS];

	for (; len; len -= 512, data += 512, sector++) {
		fill_sector(expected, sector, generation, seed);
		if (!memcmp(data, expected, 512))
			continue;
		wrong++;
		if (!text[0])
			describe((const uint64_t *)(const void *)data, sector, generation, seed,
				 text, textlen);
	}
	return wrong;
}
