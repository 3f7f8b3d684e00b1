/*
 * common/claims.h - ranges that one thread changes while others wait
 *
 * An allocating write claims the range of the disk whose tables it is going to change, so that two writes to
 * one cluster do not both allocate it. Claims of different ranges do not meet. Held over I/O: this is no lock
 * in the sense of the lock order; take one claim at a time, never under the metadata's lock.
 */
#ifndef RD_COMMON_CLAIMS_H
#define RD_COMMON_CLAIMS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct claim { /* on the claimer's stack */
	struct claim *next;
	uint64_t start, end;
};

struct claims {
	pthread_mutex_t mutex;
	pthread_cond_t freed;
	struct claim *first;
};

void claims_init(struct claims *claims);
void claims_destroy(struct claims *claims); /* nothing is claimed */
/* Waits until no claim overlaps start to end (exclusive), and claims it. */
void claims_take(struct claims *claims, struct claim *claim, uint64_t start, uint64_t end);
void claims_give(struct claims *claims, struct claim *claim);

#endif
