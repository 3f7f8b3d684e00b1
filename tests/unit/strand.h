/*
 * A call on a device's strand, that the test waits for. Include after test.h.
 */
#ifndef RD_TEST_STRAND_H
#define RD_TEST_STRAND_H

#include "base/list.h"
#include "device.h"
#include "lock.h"

#include <pthread.h>
#include <stdbool.h>

/* At the start of a struct that says what for. */
struct strand_call {
	int (*run)(struct strand_call *call);
	struct rd_lock lock;
	pthread_cond_t cond;
	bool done;
	int result;
};

static inline void strand_run(struct device *dev, void *arg)
{
	struct strand_call *c = arg;
	int result = c->run(c);

	(void)dev;
	lock_acquire(&c->lock);
	c->result = result;
	c->done = true;
	pthread_cond_signal(&c->cond);
	lock_release(&c->lock);
}

static inline void strand_begin(struct device *dev, struct strand_call *c)
{
	c->done = false;
	lock_init(&c->lock, RANK_LEAF, "test call");
	cond_init_monotonic(&c->cond);
	assert_int_equal(dev_submit(dev, strand_run, c), 0);
}

/* What run returned. */
static inline int strand_end(struct strand_call *c)
{
	lock_acquire(&c->lock);
	while (!c->done)
		lock_wait(&c->cond, &c->lock);
	lock_release(&c->lock);
	pthread_cond_destroy(&c->cond);
	lock_destroy(&c->lock);
	return c->result;
}

static inline int strand_wait(struct device *dev, struct strand_call *c)
{
	strand_begin(dev, c);
	return strand_end(c);
}

#endif
