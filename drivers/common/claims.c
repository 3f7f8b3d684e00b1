/*
 * common/claims.c - ranges that one thread changes while others wait
 *
 * A list of what is claimed now, and one condition for all who wait. There are never more claims than threads
 * that write, so the list is short. Who waits gets no queue number: with claims of very different sizes the big
 * one may be overtaken, but not for ever, because the small ones are given back and everybody looks again.
 * Any thread.
 */
#include "common/claims.h"

#include <assert.h>
#include <stddef.h>

void claims_init(struct claims *claims)
{
	pthread_mutex_init(&claims->mutex, NULL);
	pthread_cond_init(&claims->freed, NULL);
	claims->first = NULL;
}

void claims_destroy(struct claims *claims)
{
	assert(!claims->first);
	pthread_cond_destroy(&claims->freed);
	pthread_mutex_destroy(&claims->mutex);
}

static bool overlaps(const struct claims *claims, uint64_t start, uint64_t end)
{
	for (const struct claim *c = claims->first; c; c = c->next)
		if (c->start < end && start < c->end)
			return true;
	return false;
}

void claims_take(struct claims *claims, struct claim *claim, uint64_t start, uint64_t end)
{
	pthread_mutex_lock(&claims->mutex);
	while (overlaps(claims, start, end))
		pthread_cond_wait(&claims->freed, &claims->mutex);
	claim->start = start;
	claim->end = end;
	claim->next = claims->first;
	claims->first = claim;
	pthread_mutex_unlock(&claims->mutex);
}

void claims_give(struct claims *claims, struct claim *claim)
{
	struct claim **at;

	pthread_mutex_lock(&claims->mutex);
	for (at = &claims->first; *at != claim; at = &(*at)->next)
		assert(*at);
	*at = claim->next;
	pthread_cond_broadcast(&claims->freed);
	pthread_mutex_unlock(&claims->mutex);
}
