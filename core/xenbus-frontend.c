/*
 * Reads what the frontend asks for when it goes to Initialised.
 *
 * Normal path: how many queues, how many pages each, then per queue the pages' grants and the event
 * channel; `protocol` and `feature-persistent`. With one queue the keys stand in the frontend's
 * directory itself, with more in queue-N; a frontend that says "one queue" may use either. One page is
 * ring-ref; more are ring-ref0, ring-ref1, ...
 *
 * What can go wrong: everything, the guest writes the keys. The first one that is missing or not in its
 * bounds ends it, with its name in the message; what a value was is not repeated.
 *
 * Pure but for the reader that the caller gives; any thread.
 */
#include "xenbus-frontend.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define VALUE_MAX  32u     /* longer than every good value */
#define MAX_EVTCHN 131071u /* EVTCHN_FIFO_NR_CHANNELS - 1 */

struct reader {
	xb_key_reader *read;
	void *arg;
	char *err;
	size_t errlen;
};

bool xb_decimal(const char *text, size_t len, uint32_t max, uint32_t *value)
{
	uint64_t v = 0;

	if (!len || len > 10)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		v = v * 10 + (uint64_t)(text[i] - '0');
	}
	if (v > max)
		return false;
	*value = (uint32_t)v;
	return true;
}

static int bad(const struct reader *r, const char *key, const char *what)
{
	snprintf(r->err, r->errlen, "frontend: %s: %s", key, what);
	return -EINVAL;
}

/* 1: *value is in [min, max]; 0: there is no such key; -errno. */
static int number(const struct reader *r, const char *key, uint32_t min, uint32_t max,
		  uint32_t *value)
{
	char buf[VALUE_MAX];
	int len = r->read(r->arg, key, buf, sizeof(buf));

	if (len == -ENOENT)
		return 0;
	if (len < 0) {
		snprintf(r->err, r->errlen, "frontend: %s: %s", key, strerror(-len));
		return len;
	}
	if ((size_t)len > sizeof(buf) || !xb_decimal(buf, (size_t)len, max, value) || *value < min)
		return bad(r, key, "is not a number in its range");
	return 1;
}

static int must_have(const struct reader *r, const char *key, int ret)
{
	return ret ? ret : bad(r, key, "is missing");
}

static enum ring_abi default_abi(void)
{
#if defined(__x86_64__) || defined(__i386__)
	return RING_ABI_X86_32;
#else
	return RING_ABI_NATIVE;
#endif
}

/* BLKIF's strings, xen/io/protocols.h. */
static int read_protocol(const struct reader *r, enum ring_abi *abi)
{
	static const struct {
		const char *name;
		enum ring_abi abi;
	} known[] = {
#if defined(__x86_64__) || defined(__i386__)
		{ "x86_32-abi", RING_ABI_X86_32 },
		{ "x86_64-abi", RING_ABI_X86_64 },
#elif defined(__aarch64__) || defined(__arm__)
		{ "arm-abi", RING_ABI_NATIVE },
#endif
	};
	char buf[VALUE_MAX];
	int len = r->read(r->arg, "protocol", buf, sizeof(buf));

	*abi = default_abi();
	if (len == -ENOENT)
		return 0;
	if (len < 0)
		return bad(r, "protocol", "cannot be read");
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if ((size_t)len == strlen(known[i].name) &&
		    !memcmp(buf, known[i].name, (size_t)len)) {
			*abi = known[i].abi;
			return 0;
		}
	}
	return bad(r, "protocol", "is not one that we know");
}

/* Anything but a good 1 is 0: the key only makes things faster. */
static bool read_persistent(const struct reader *r)
{
	char buf[VALUE_MAX];
	int len = r->read(r->arg, "feature-persistent", buf, sizeof(buf));

	return len == 1 && buf[0] == '1';
}

/* ring-page-order, or its old name for other guests, num-ring-pages. *keyed: the pages have numbers. */
static int read_order(const struct reader *r, const struct xb_limits *limits, unsigned *order,
		      bool *keyed)
{
	uint32_t value = 0;
	int ret = number(r, "ring-page-order", 0, limits->max_order, &value);

	*keyed = ret > 0;
	if (ret < 0)
		return ret;
	if (!ret) {
		ret = number(r, "num-ring-pages", 1, 1u << limits->max_order, &value);
		if (ret < 0)
			return ret;
		if (ret && !is_pow2(value))
			return bad(r, "num-ring-pages", "is not a power of two");
		*keyed = ret > 0;
		value = ret ? log2_u64(value) : 0;
	}
	*order = value;
	return 0;
}

static int read_pages(const struct reader *r, const char *prefix, unsigned order, bool keyed,
		      uint32_t *gref)
{
	char key[48];
	int ret = 0;

	if (!order) {
		snprintf(key, sizeof(key), "%sring-ref", prefix);
		ret = number(r, key, 0, UINT32_MAX, gref);
		if (ret || !keyed)
			return must_have(r, key, ret);
	}
	for (unsigned i = 0; i < 1u << order; i++) {
		snprintf(key, sizeof(key), "%sring-ref%u", prefix, i);
		ret = must_have(r, key, number(r, key, 0, UINT32_MAX, &gref[i]));
		if (ret < 0)
			return ret;
	}
	return ret;
}

static int read_ring(const struct reader *r, const char *prefix, bool keyed,
		     struct dev_rings *rings, unsigned n)
{
	char key[48];
	int ret = read_pages(r, prefix, rings->order, keyed, rings->ring[n].gref);

	if (ret < 0)
		return ret;
	snprintf(key, sizeof(key), "%sevent-channel", prefix);
	return must_have(r, key, number(r, key, 1, MAX_EVTCHN, &rings->ring[n].evtchn));
}

/* No page may be in two places, no channel belong to two rings. */
static int check_distinct(const struct reader *r, const struct dev_rings *rings)
{
	unsigned pages = 1u << rings->order, all = rings->count * pages;

	for (unsigned i = 0; i < all; i++) {
		for (unsigned j = 0; j < i; j++) {
			if (rings->ring[i / pages].gref[i % pages] ==
			    rings->ring[j / pages].gref[j % pages])
				return bad(r, "ring-ref", "the same page twice");
		}
	}
	for (unsigned i = 0; i < rings->count; i++) {
		for (unsigned j = 0; j < i; j++) {
			if (rings->ring[i].evtchn == rings->ring[j].evtchn)
				return bad(r, "event-channel", "the same channel twice");
		}
	}
	return 0;
}

static int read_rings(const struct reader *r, bool keyed, bool queues, struct dev_rings *rings)
{
	char prefix[24] = "";
	uint32_t ignored;
	int ret;

	/* "One queue" is written both ways. */
	if (queues && rings->count == 1)
		queues = number(r, "event-channel", 0, UINT32_MAX, &ignored) == 0;
	for (unsigned n = 0; n < rings->count; n++) {
		if (queues)
			snprintf(prefix, sizeof(prefix), "queue-%u/", n);
		ret = read_ring(r, prefix, keyed, rings, n);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int xb_frontend_read(const struct xb_limits *limits, xb_key_reader *read, void *arg,
		     struct dev_rings *rings, char *err, size_t errlen)
{
	const struct reader r = { .read = read, .arg = arg, .err = err, .errlen = errlen };
	uint32_t count = 1;
	bool keyed;
	int queues, ret;

	*rings = (struct dev_rings){ 0 };
	queues = number(&r, "multi-queue-num-queues", 1, MIN(limits->max_queues, DEV_MAX_QUEUES),
			&count);
	if (queues < 0)
		return queues;
	rings->count = count;
	ret = read_order(&r, limits, &rings->order, &keyed);
	if (ret)
		return ret;
	ret = read_protocol(&r, &rings->abi);
	if (ret)
		return ret;
	rings->persistent = limits->persistent && read_persistent(&r);
	rings->max_indirect = limits->max_indirect;
	ret = read_rings(&r, keyed, queues > 0, rings);
	return ret ? ret : check_distinct(&r, rings);
}

bool xb_rings_equal(const struct dev_rings *a, const struct dev_rings *b)
{
	if (a->count != b->count || a->order != b->order || a->abi != b->abi)
		return false;
	for (unsigned i = 0; i < a->count; i++) {
		if (a->ring[i].evtchn != b->ring[i].evtchn ||
		    memcmp(a->ring[i].gref, b->ring[i].gref, sizeof(uint32_t) << a->order))
			return false;
	}
	return true;
}
