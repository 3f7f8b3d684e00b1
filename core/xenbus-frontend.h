/*
 * xenbus-frontend.h - the frontend's keys, read once and checked
 *
 * The guest writes them: each is read exactly once, is a bounded decimal or one of the known words, and
 * never says who the guest is, where anything lies, or what it may do.
 */
#ifndef RD_XENBUS_FRONTEND_H
#define RD_XENBUS_FRONTEND_H

#include "device.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A decimal of at most ten digits and nothing else, not above max. */
bool xb_decimal(const char *text, size_t len, uint32_t max, uint32_t *value);

/* What we published, and the frontend may choose from. */
struct xb_limits {
	unsigned max_order, max_queues, max_indirect;
	bool persistent;
};

/*
 * Read key (relative to the frontend's directory) into buf: its true length, of which at most room bytes
 * were stored; -ENOENT if there is none.
 */
typedef int xb_key_reader(void *arg, const char *key, char *buf, size_t room);

/* 0 and *rings filled; -EINVAL: the frontend wrote nonsense; or what read() failed with. err: text. */
int xb_frontend_read(const struct xb_limits *limits, xb_key_reader *read, void *arg,
		     struct dev_rings *rings, char *err, size_t errlen);
/* The same rings: pages, event channels, ABI. */
bool xb_rings_equal(const struct dev_rings *a, const struct dev_rings *b);

#endif
