/*
 * device-errand.c - devices: driver calls that may hang, on threads of their own
 *
 * Opening (rd-open), closing (rd-close) and what the operator asks of an image (rd-call) are errands: each has a
 * thread, and the strand waits for it.
 *
 *     dev_errand -> thread: run -> done, and the strand has its result
 *                               -> the strand has waited long enough: left_locked, on the strand; when
 *                                  the call returns at last the thread does what is left of it: late
 *
 * How long that is the caller says; and who wants the strand meanwhile makes it shorter (dev_hurry).  Whether an errand
 * is done or left is decided once, under the device lock: what it has made belongs to the strand or to the thread.
 *
 * What can go wrong: no thread can be started, and the errand is the caller's as before.
 */
#include "device-int.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "thread.h"

#include <errno.h>

#define HURRY_MS 1000 /* when others want the strand */
#define SLOW_MS  5000 /* somebody should know */

static void *errand_main(void *arg)
{
	struct errand *errand = arg;
	struct device *dev = errand->dev;
	bool left;

	log_set_prefix(dev->name);
	errand->run(errand);
	lock_acquire(&dev->lock);
	errand->done = true;
	left = errand->left;
	pthread_cond_broadcast(&dev->called);
	lock_release(&dev->lock);
	if (left)
		errand->late(errand);
	return NULL;
}

static bool is_hurried_locked(const struct device *dev, enum patience patience)
{
	return patience == UNTIL_WANTED ? dev->wanted : patience == UNTIL_END && dev->ending;
}

/* Wait for something to change, until the deadline, or for so long as somebody lets us who is in a hurry.  False: it is
 * over. */
static bool wait_on_locked(struct device *dev, long long begin, long long deadline, enum patience patience)
{
	long long until = is_hurried_locked(dev, patience) ? MIN(deadline, begin + HURRY_MS) : deadline;

	if (monotonic_ms() >= until)
		return false;
	lock_wait_until(&dev->called, &dev->lock, until);
	return true;
}

/* Until it is done, or so long. */
static bool wait_locked(const struct errand *errand, long long begin, long long deadline, enum patience patience)
{
	while (!errand->done && wait_on_locked(errand->dev, begin, deadline, patience))
		;
	return errand->done;
}

/* The same; an errand that takes long is told of. */
static bool wait_and_tell_locked(struct errand *errand, long long deadline, enum patience patience)
{
	struct device *dev = errand->dev;
	long long begin = monotonic_ms();

	if (errand->slow && !wait_locked(errand, begin, begin + SLOW_MS, patience) &&
	    !is_hurried_locked(dev, patience)) {
		lock_release(&dev->lock);
		errand->slow(errand);
		lock_acquire(&dev->lock);
	}
	return wait_locked(errand, begin, deadline, patience);
}

int dev_errand(struct errand *errand, const char *name, long long deadline, enum patience patience)
{
	struct device *dev = errand->dev;
	pthread_t thread;
	bool done;
	int err = thread_start(&thread, name, errand_main, errand);

	if (err)
		return err;
	lock_acquire(&dev->lock);
	done = wait_and_tell_locked(errand, deadline, patience);
	if (!done) {
		errand->left = true;
		errand->left_locked(errand);
	}
	lock_release(&dev->lock);
	if (done)
		pthread_join(thread, NULL);
	else
		pthread_detach(thread);
	return done ? 0 : -ETIMEDOUT;
}

bool dev_wait_none(struct device *dev, const unsigned *count, long long ms)
{
	long long begin = monotonic_ms();

	LOCK_SCOPE(&dev->lock);
	while (*count && wait_on_locked(dev, begin, begin + ms, UNTIL_END))
		;
	return !*count;
}
