/*
 * Pieces of an image to copy: what is zero by its map is told apart from what must be read, in whole granules of
 * the target. For convert, commit and rebase.
 */
#ifndef IMG_COPY_H
#define IMG_COPY_H

#include "img.h"

enum { PIECE_DATA, PIECE_ZERO };

/* The next piece of walk in granules (a power of two up to JOB_BUFFER): PIECE_DATA up to JOB_CHUNK or a granule
 * long, PIECE_ZERO of any length. 1, 0, -errno. */
int copy_next(struct walk *walk, uint32_t granule, struct piece *piece);
/* What is best written whole: a cluster, where the target has such, and never less than 4 KiB. */
uint32_t copy_granule(const struct image *target);

#endif
