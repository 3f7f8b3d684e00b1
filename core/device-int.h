/*
 * device-int.h - what the files of a device share; what the rest of the daemon sees is in device.h
 *
 *   device.c          the table, life, the strand, errors, settings, looking at it
 *   device-errand.c   driver calls that may hang: a thread, for which the strand waits, or not any more
 *   device-open.c     opening an image
 *   device-image.c    the open image: who shares it, its last flush and its closing
 *   device-connect.c  the guest: rings, poller, connecting and disconnecting, a call that hangs then
 *   device-pause.c    holding requests and going on
 *   device-swap.c     another image, a snapshot, other options of opening while the guest runs
 *   device-call.c     calls of the operator's that may hang: flush, resize, the look at the size; check
 *   device-nbd.c      the export, and the image for its clients
 *
 * A function's prefix tells its file, but for those of device.c, device-pause.c and device-connect.c,
 * which are dev_ alone.
 *
 * Who may touch what.  Almost all of this runs on the device's strand, one after the other, and what only the
 * strand changes it reads without a lock.  It changes under the device lock what others look at (dev_look,
 * dev_counters, events of the poller).  Other threads are guests: rd-open, rd-call, rd-close and rd-stuck own
 * what they were handed over, and tell the strand under the lock; the poller and the workers call the
 * device's event function; anybody looks and sets.  Nothing is called into a driver, Xen or the store with the
 * lock held.
 */
#ifndef RD_DEVICE_INT_H
#define RD_DEVICE_INT_H

#include "device.h"

#include "base/list.h"
#include "bufs.h"
#include "drivers.h"
#include "grants.h"
#include "image.h"
#include "lock.h"
#include "log.h"
#include "parse.h"
#include "poller.h"
#include "shm.h"

#include <pthread.h>
#include <stdatomic.h>

struct overlay;

#define SECTOR 512u

/* What all devices of one guest share; the budgets look after themselves. */
struct guest {
	struct list_head node; /* table lock */
	uint32_t domid;
	unsigned devices;      /* table lock */
	struct buf_budget memory;
	struct grant_budget grants;
};

/* The one open image of a disk: of its guest's connection, of its NBD clients', of a call that runs. */
struct shared {
	_Atomic unsigned refs;
	/* Changed by the strand, under the device lock, and only while nobody but the device's own connections has a
	 * reference (dev_shared_check): whoever else has one reads it without.  NULL: none now, and whoever uses it is
	 * paused. */
	struct image *image;
};

/* A driver call on a thread of its own, for which the strand waits: a part of what it works on. */
struct errand {
	/* set before start */
	struct device *dev; /* the owner's reference */
	/* [thread] The call. */
	void (*run)(struct errand *errand);
	/* [strand] It takes long.  NULL: nobody needs to know. */
	void (*slow)(struct errand *errand);
	/* [strand, device lock] The strand goes on without it: from here on it is the thread's. */
	void (*left_locked)(struct errand *errand);
	/* [thread] It was left, and has returned: clean up, and free. */
	void (*late)(struct errand *errand);
	/* device lock */
	bool done, left;
};

/* For whom the strand leaves an errand before its deadline. */
enum patience {
	UNTIL_WANTED,   /* anybody in a hurry */
	UNTIL_END,      /* who wants the end of the disk */
	UNTIL_DEADLINE, /* nobody */
};

enum call_what {
	CALL_FLUSH,
	CALL_RESIZE,
	CALL_REFRESH, /* of the image's size */
	CALL_LOOK,    /* the same, and nobody waits for it */
	CALL_SETTLE,  /* a flush that nobody waits for */
};

/* A driver call of the strand's on the image in use. */
struct call {
	struct errand errand; /* with a reference to the device */
	/* set before start */
	enum call_what what;
	uint64_t size;
	bool held; /* requests wait until it returns, also when it was left */
	/* the thread's until it is done */
	int result;
	/* device lock */
	struct shared *shared; /* a reference; NULL: put already */
	bool reaped;     /* left, and the strand knows the result */
	bool last_flush; /* left, and who had the image has gone: flush it */
};

/* Everything that exists only while connected; handed to rd-stuck as a whole when a call hangs.
 * That of NBD clients is the same without rings. */
struct connection {
	/* strand, and then the thread that it is handed to */
	struct device *dev; /* a reference, for the name, the stats and the latch */
	struct shared *shared;
	uint32_t block; /* of the image, as the clients were told */
	struct nbd_export *export; /* handed over with it when a call of its clients hangs */
	struct hyp_gnt *gnt;
	struct hyp_evtchn *evtchn;
	struct poller *poller;
	struct settings settings; /* as it was made with; the cache is the image's */
	unsigned nrings, pages; /* pages of each ring */
	struct poller_ring_config ring[DEV_MAX_QUEUES];
	struct errand closing; /* rd-close */
};

struct device {
	struct list_head node; /* table lock; on itself when not listed */
	_Atomic unsigned refs;
	/* set before start */
	uint32_t domid, vdev;
	char name[DEV_NAME_LEN];
	char *kind;
	bool writable, cdrom, removable, by_hand;
	struct guest *guest;
	struct pool_client strand;
	struct shm_disk *shm; /* of .stats; NULL: none */
	struct stats stats;
	struct trace trace;
	struct rd_lock throttle_lock; /* RANK_LEAF */
	struct throttle throttle;     /* throttle_lock */
	/* A guest can connect and close as often as it likes. */
	struct log_limit life, opens;
	_Atomic bool flush_failed;
	_Atomic bool looking; /* a size check is queued */
	/* device lock; what the strand alone changes it may read without */
	struct rd_lock lock;
	enum dev_state state;     /* changed by on_event, too */
	struct connection *conn;
	struct connection *nbd;    /* while NBD clients use the image */
	struct nbd_export *export; /* clients may come */
	unsigned closing, openings; /* of images, that were left; changed by those threads */
	struct call *call;        /* has been left, and was not reaped yet */
	unsigned wanted, ending;  /* by so many who are in a hurry, of them for its end: changed by anyone, dev_hurry */
	pthread_cond_t called;    /* one of these has changed, or an errand is done */
	struct settings settings; /* changed by anyone: dev_set */
	struct params parsed;
	struct dev_geometry geometry;
	unsigned ring_order;
	enum ring_abi abi;
	bool persistent;
	char *params;
	char error[512];          /* changed by anyone: dev_set_error */
};

/* --- device.c */
/* What all devices share; set by devtab_init, for good. */
extern const struct dev_env *devtab_env;
/* [any] One more reference, for dev_put.  NULL stays NULL. */
struct device *dev_ref(struct device *dev);
/* [strand, or before anybody can find it] Parse a params string into parsed, which the caller frees, and what it says
 * of settings into settings.  On failure the reason is in dev->error, and parsed is empty. */
int dev_take_params(struct device *dev, const char *string, struct params *parsed,
		    struct settings *settings);
/* [any] A copy: `ringdisk set` may change them meanwhile. */
struct settings dev_settings_now(struct device *dev);
/* [device lock] Tell those who run what has been set. */
void dev_apply_locked(struct device *dev);
/* [any] Where there is no guest to be connected it is idle; what is broken stays that until it connects anew. */
void dev_set_state(struct device *dev, enum dev_state state);
/* [strand, device lock] Nobody uses the image any more. */
void dev_end_state_locked(struct device *dev);
/* [strand] For the log: the driver of what messages are about from now on. */
void dev_name_driver(const struct device *dev);
/* [rd-close, rd-stuck] For the log: the disk of the connection that was handed over, and its driver. */
void dev_name_thread(const struct connection *c);
/* [strand] The connection, if its state is one of the two; without a guest that of NBD clients, which is as good as
 * connected when it is not paused.  NULL: it is another state, or nobody uses the image. */
struct connection *dev_connection_in(struct device *dev, enum dev_state a, enum dev_state b);

/* --- device-errand.c: strand */
/* Run it on a thread with that name, and wait until the deadline (monotonic ms) or for as long as patience has it.  0: it
 * is done, and the caller's again.  -ETIMEDOUT: it was left, and is the thread's.  -errno: there is no thread, nothing
 * has run. */
int dev_errand(struct errand *errand, const char *name, long long deadline, enum patience patience);
/* Until one of the counts under the device lock is 0.  False: it is not in so many ms, or the disk is to end. */
bool dev_wait_none(struct device *dev, const unsigned *count, long long ms);

/* --- device-open.c: strand */
/* Open params as the settings say, with more flags of RD_OPEN_*.  The reason of a failure is in dev->error, which is
 * empty otherwise.  The image is the caller's, for img_close.  -ETIMEDOUT: the disk is to end, and the opening was left.
 * -EBUSY: one that was left has not returned, and this one was not begun. */
int dev_image_open(struct device *dev, const struct params *params, const struct settings *settings,
		   uint32_t more, struct image **image);
/* The same beside one that was left, for the image that was closed a moment ago. */
int dev_image_open_again(struct device *dev, const struct params *params, const struct settings *settings,
			 uint32_t more, struct image **image);
/* 0, or -EBUSY as dev_image_open, after so many ms. */
int dev_image_open_check(struct device *dev, long long ms);

/* --- device-image.c: strand */
/* The disk's open image with a reference, for dev_shared_put: the one that is there, or opened now. */
int dev_shared_get(struct device *dev, const struct settings *settings, struct shared **out);
/* [any] The last one closes the image, on this thread.  Accepts NULL. */
void dev_shared_put(struct shared *shared);
/* For what needs an image with no call in flight, also when the requests are held: 0, or -EBUSY and dev->error: a call
 * of an earlier connection hangs, and has it, too. */
int dev_shared_check(struct device *dev, struct connection *c);
/* What the guest is told of such an image, and what its requests are checked by. */
void dev_geometry_of(const struct device *dev, const struct rd_info *info,
		     const struct settings *settings, struct dev_geometry *g);
struct parse_limits dev_limits_of(const struct device *dev, const struct dev_geometry *g,
				  const struct settings *settings);
/* [strand, rd-close, rd-stuck] Make what is written durable before the image is closed.  If that fails promise 3's
 * latch is set. */
void dev_image_flush(struct connection *c);
/* Flush and close without waiting longer than until the deadline (monotonic ms).  Takes c, which is not the device's
 * any more and has no rings.  -ETIMEDOUT: a thread goes on with it. */
int dev_image_close(struct connection *c, long long deadline);
/* Until what is being closed without the strand is closed, or for so long as a connect waits. */
void dev_image_wait_closed(struct device *dev);

/* --- device-connect.c */
/* How long a disconnect waits for driver calls. */
unsigned dev_drain_ms(void);
/* [strand, rd-close, rd-stuck] Unmap, and give back what it refers to.  Takes a half-made one, too; the poller is
 * paused or was never started. */
void dev_connection_free(struct connection *c);
/* A call of the connection's hangs: "rd-stuck" runs wait for it, which frees c.  Always -ETIMEDOUT. */
int dev_connection_leave(struct connection *c, void *(*wait)(void *arg));

/* --- device-pause.c: strand */
/* Nothing new starts, and nothing runs, of the ring and of NBD clients: dev_go_on follows.  -errno: a request has not
 * finished in PAUSE_MS, and all goes on as before; otherwise says in dev->error what was not done, NULL: nothing. */
int dev_hold(struct device *dev, struct connection *c, const char *otherwise);
/* On c's image, as it is now, and with the size that the guest is told now. */
void dev_go_on(struct device *dev, struct connection *c);

/* --- device-swap.c: strand */
/* Close the image and open string, made before if there is an overlay.  What uses it is held.  On failure it is the
 * old one again, or none (c->shared->image is NULL); the reason is in dev->error. */
int dev_swap_image(struct device *dev, struct connection *c, const char *string,
		   const struct overlay *overlay);
/* Tell that there is another image; sectors: the size that was told before. */
void dev_swap_tell(struct device *dev, uint64_t sectors);

/* --- device-call.c: strand */
/* How long the operator waits for a call. */
unsigned dev_call_ms(void);
/* 0: no such call runs.  -EBUSY and dev->error: one has not returned yet; for what cannot be done beside it. */
int dev_call_check(struct device *dev);
/* False: the call that was left has not returned at the deadline.  c: a connection that is being closed, or NULL. */
bool dev_call_await(struct device *dev, struct connection *c, long long deadline);
/* For dev_submit: has the image another size?  dev->looking is set before, and reset when it is known. */
void dev_call_look(struct device *dev, void *arg);
/* For dev_submit: flush, if something was discarded since the last one. */
void dev_call_settle(struct device *dev, void *arg);

/* --- device-nbd.c: strand */
/* Export it if the setting nbd=on or the params say so, and it is not exported yet. */
void dev_nbd_begin(struct device *dev);
/* Drop the clients, and the socket; the image, too, if no guest has it.  -ETIMEDOUT as dev_unexport. */
int dev_nbd_end(struct device *dev);
/* NBD clients, after whatever stopped them, if there is an image to go on. */
void dev_nbd_go_on(struct device *dev);

#endif
