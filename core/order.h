/*
 * order.h - which request may start now
 *
 * A barrier (WRITE_BARRIER) starts when everything before it on its ring has finished, and nothing
 * behind it starts before it has finished.  Everything else may run in any order: the guest waits for
 * an answer before it relies on it (a FLUSH covers what was answered before it was sent).
 *
 * One struct order per ring, poller only.
 */
#ifndef RD_ORDER_H
#define RD_ORDER_H

#include "request.h"

#include <stdbool.h>

struct order {
	bool barrier_running;
};

/* May req start, when others requests that came before it on the ring are not finished (parked ones
 * do not count)?  If so it counts as started. */
static inline bool order_admit(struct order *order, const struct request *req, unsigned others)
{
	if (others && (order->barrier_running || req->flags & REQ_BARRIER))
		return false;
	order->barrier_running = (req->flags & REQ_BARRIER) != 0;
	return true;
}

#endif
