/*
 * exec.h - what is done with a request
 *
 * Getting at the guest's data (persistent pages, grant copy, grant map), the I/O itself on one of three
 * ways (inline on the poller, blocking on a worker, asynchronous by the kernel), and what a result means
 * for durability and for the operator.  Knows nothing of rings, pollers or devices: whoever calls owns
 * the requests before and after.
 *
 *      exec_prepare ---> exec_batch(inline) ---> exec_release        on the poller
 *                   \--> exec_batch(blocking) -> exec_release        prepare on the poller, then a worker
 *                   \--> exec_aio_start ... exec_aio_done -> exec_finish_reads -> exec_release
 */
#ifndef RD_EXEC_H
#define RD_EXEC_H

#include "bufs.h"
#include "grants.h"
#include "hyp.h"
#include "image.h"
#include "io.h"
#include "request.h"
#include "settings.h"
#include "stats.h"

#include <stdatomic.h>
#include <stdbool.h>

#define EXEC_BATCH   32u
#define EXEC_SLOW_NS 200000u /* a call that takes longer may have slept */

/* Whether calls may run on the poller: after some that slept, not for a while. */
struct exec_pace {
	unsigned score; /* those that slept lately */
	unsigned watch; /* so many more calls are looked at for sleeping */
	uint64_t until; /* none before this */
};

/* How a device's requests are executed.  Set before start, but where it says otherwise. */
struct exec {
	struct hyp *hyp;
	struct hyp_gnt *gnt;
	uint32_t domid;
	struct image *image; /* changed only while nothing is in flight */
	struct bufs *bufs;
	struct stats *stats;
	enum grant_mode grant; /* in effect: persistent only if the frontend agreed */
	bool direct;           /* the image wants private aligned buffers */
	bool inline_io;        /* aio=inline */
	/* poller only */
	struct exec_pace pace; /* of inline service */
	struct exec_pace alone_pace; /* of driver calls on the poller */
	bool alone;            /* what is executed is all that the guest has in flight: nobody waits behind it */
	_Atomic bool sync;          /* every write durable before its answer */
	_Atomic bool report_enospc; /* answer ERROR instead of parking */
	_Atomic bool halt_on_error; /* park on other errors, too */
	_Atomic bool gave_up;       /* the operator did not come in time: park no more */
	/* Promise 3: a flush failed; owned by the device, outlives reconnects. */
	_Atomic bool *flush_failed;
	/* The guest's memory is not ours any more; nobody new may touch it. */
	_Atomic bool revoked;
	_Atomic unsigned inside; /* threads that touch it right now */
};

/*
 * [poller] Give the request its memory: pin pages, or take a buffer.  For INDIRECT: exec_fetch_segments
 * and parse_segments came before.  -EAGAIN: no memory now, try again when a request has finished.
 */
int exec_prepare(struct exec *x, struct grant_cache *cache, struct request *req);
/* [poller] Arrays for an indirect request (-EAGAIN as above), and its segments copied from the page
 * that the slot named.  Other -errno: the guest's grants are bad. */
int exec_fetch_segments(struct exec *x, struct grant_cache *cache, struct request *req);

/*
 * Execute all of list, in order.  Inline: only what can be done at once, or, if it is alone, by a driver call that
 * is not known to sleep; what cannot stays in list.
 * Blocking: everything, up to the first call that took longer than EXEC_SLOW_NS; what stands behind it
 * stays in list, for other workers.  Done ones, with err set, are appended to done.
 * *now is the time at the call, and afterwards about the time at the return.
 */
void exec_batch(struct exec *x, struct list_head *list, bool inline_, struct list_head *done,
		uint64_t *now);
/* Could exec_batch do it inline at all? */
bool exec_may_inline(const struct exec *x, const struct request *req, uint64_t now);

/* [poller] Queue on aio; -EAGAIN: use a worker.  Data to write has been copied in by exec_copy_in. */
int exec_aio_start(struct exec *x, struct io_aio *aio, struct request *req);
/* [poller] One part came back.  True: that was the last. */
bool exec_aio_done(struct exec *x, struct request *req, int result);
/* Copy between private buffers and the guest, one grant-copy call for all of list. */
void exec_copy_in(struct exec *x, struct list_head *list);
void exec_finish_reads(struct exec *x, struct list_head *list);

/* Give everything back that exec_prepare took: before the answer. */
void exec_release(struct exec *x, struct request *req);

/* The gate to the guest's memory: enter before touching it, false if it is ours no more; leave soon, and
 * never block in between. */
bool exec_enter(struct exec *x);
void exec_leave(struct exec *x);
/* Nobody may touch the guest's memory from now on: returns when nobody is at it.  Then take away what is
 * mapped: grants_revoke for the persistent pages, exec_revoke_request for each request. */
void exec_revoke(struct exec *x);
void exec_revoke_request(struct exec *x, struct request *req);

#endif
