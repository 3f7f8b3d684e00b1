/* The map of a chain of images, as ringdisk-img map prints and draws it. Main thread. */
#ifndef MAP_H
#define MAP_H

#include <stdio.h>

#include "img.h"

struct map_run {
	struct run run;
	unsigned depth; /* which layer says so; without run.present: the last that was asked */
};

struct map {
	struct map_run *run; /* in order, without gaps */
	size_t count, room;
};

/* "data", "reserved", "zero", "hole" */
const char *map_word(const struct run *run);
/* A picture as SVG, of a size that does not depend on the image's. */
void map_draw(const struct map *map, const struct chain *chain, FILE *to);

#endif
