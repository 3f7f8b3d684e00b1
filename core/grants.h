/*
 * grants.h - the pages of persistent grants that a ring keeps mapped
 *
 * Pages are mapped in groups (the pages that one request was missing), keyed by grant reference.  A
 * group is pinned while a request uses one of its pages, and unpinned groups go, least recently used
 * first, when the ring's cap or the guest's is reached.
 *
 * Threads: the poller only, but grants_unpin: any thread, lock-free.
 */
#ifndef RD_GRANTS_H
#define RD_GRANTS_H

#include "hyp.h"
#include "ring.h"
#include "stats.h"

#include <stdatomic.h>
#include <stddef.h>

struct grant_cache;
struct grant_map;

/* What all devices of one guest share: pages mapped, and the limit. */
struct grant_budget {
	_Atomic size_t used;
	size_t limit; /* set before start */
};

/* Nothing is mapped or allocated before the first use.  cap: pages. */
int grants_create(struct hyp *hyp, struct hyp_gnt *gnt, uint32_t domid, unsigned cap,
		  struct grant_budget *budget, struct stats *stats, struct grant_cache **cache);
/* Unmaps everything; nothing is pinned any more (else: grants_revoke first, and unpinned later).
 * Accepts NULL. */
void grants_destroy(struct grant_cache *cache);
/* Take the guest's memory away from whoever still uses it. */
void grants_revoke(struct grant_cache *cache);

/*
 * Find or map the pages of count segments, and pin them: page[i] is the address of segment i's page,
 * the groups to unpin are pin[0..*npins), at most count.  -ENOSPC (caps) or what the hypervisor says:
 * nothing is pinned, use grant copy.
 */
int grants_pin(struct grant_cache *cache, const struct ring_seg *seg, unsigned count, void **page,
	       struct grant_map **pin, unsigned *npins);
void grants_unpin(struct grant_map **pin, unsigned npins);

unsigned grants_mapped(const struct grant_cache *cache); /* pages, by any thread, about */

#endif
