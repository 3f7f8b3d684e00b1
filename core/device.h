/*
 * device.h - a device (vbd): one disk of one guest
 *
 *              dev_create
 *                  |
 *                  v        dev_connect                dev_pause
 *               IDLE ------------------> CONNECTED <------------> PAUSED
 *                ^  <------------------      |     dev_unpause      |
 *                |     dev_disconnect        | ring impossible      |
 *                |                           v                      |
 *                +----------------------- BROKEN <------------------+
 *                |  (dev_disconnect from any of them; what is PAUSED stays that until dev_unpause, also without a guest)
 *           dev_destroy
 *
 * Each device has a strand of the control pool (dev_submit): whatever may block (opening the image,
 * connecting, draining, closing) runs there, one after the other per device, so that a slow image
 * delays its own guest only.  The functions marked [strand] run only there.
 *
 * References: the table holds one, a queued control job one, whoever called dev_get one.
 * Locks: table (RANK_DEVTAB), device (RANK_DEVICE: state, settings, names; never on the data path).
 */
#ifndef RD_DEVICE_H
#define RD_DEVICE_H

#include "hyp.h"
#include "nbd.h"
#include "pool.h"
#include "ring.h"
#include "settings.h"
#include "stats.h"
#include "trace.h"
#include "vdev.h"

#include <ringdisk/driver.h>

#include <stdbool.h>

#define DEV_MAX_QUEUES 8u
#define DEV_NAME_LEN   24 /* "32751/xvdzz" and the extended ones */
/* Disks that no guest has, only NBD clients: "nbd/0".  DOMID_SELF, which is nobody's number. */
#define DEV_NBD_DOMID   0x7ff0u
#define DEV_MAX_EXPORTS 256u

enum dev_state { DEV_IDLE, DEV_CONNECTED, DEV_PAUSED, DEV_BROKEN };
const char *dev_state_text(enum dev_state state);

struct device;

/* What the toolstack says of a disk.  Strings are copied by dev_create. */
struct dev_spec {
	uint32_t domid;
	uint32_t vdev;       /* number as in the store: 51712 = xvda */
	const char *kind;    /* backend directory: "qdisk", "vbd3" */
	const char *params;  /* "raw:/path" */
	bool writable;       /* mode is exactly "w" */
	bool cdrom, removable;
	bool by_hand;        /* `ringdisk attach` has written its node */
	struct settings settings;
};

/* Resources that all devices share; made by main, lives longer than any device. */
struct dev_env {
	struct hyp *hyp;
	struct pool *workers;  /* I/O */
	struct pool *control;  /* strands */
	/* Something happened that others must tell the world: called from any thread, no lock held. */
	void (*notify)(struct device *dev, int event, void *arg); /* DEV_EV_* */
	void *notify_arg;
	size_t guest_memory;   /* bytes of buffers per guest */
	unsigned guest_grants; /* pages mapped per guest */
	unsigned drain_ms;     /* how long a disconnect waits for driver calls; 0: 8 s */
	unsigned call_ms;      /* and a flush or resize by the operator; 0: 30 s */
};
#define DEV_EV_BROKEN  1 /* the ring is impossible: stopped */
#define DEV_EV_PARKED  2 /* requests wait for the operator (ENOSPC, flush failure) */
#define DEV_EV_RESIZED 3 /* size changed: publish sectors, then state again */
#define DEV_EV_GAVE_UP 4 /* error-timeout: parked requests were answered with errors */
#define DEV_EV_IMAGE   5 /* it has another image: publish its params */

/* --- table ---------------------------------------------------------------------------------- */
int devtab_init(const struct dev_env *env);
/* Every device has been destroyed.  Waits a little for the last references; false: some hang in a driver
 * call, nothing was freed, and the pools must not be destroyed either: just exit. */
bool devtab_destroy(void);
/* A reference, or NULL. */
struct device *dev_get(uint32_t domid, uint32_t vdev);
/* A reference to the device named "5/xvda" or "5/51712", or NULL. */
struct device *dev_get_by_name(const char *name);
void dev_put(struct device *dev); /* accepts NULL */
/* Call fn for each device, each with a reference held and no lock held. */
void dev_for_each(void (*fn)(struct device *dev, void *arg), void *arg);

/* --- life ----------------------------------------------------------------------------------- */
/* Adds it to the table; the caller gets a reference.  -EEXIST. */
int dev_create(const struct dev_spec *spec, struct device **dev);
/* [strand] Disconnects if need be, drops it from the table (and the table's reference). */
void dev_destroy(struct device *dev);
/* Not destroyed yet: on its strand that stays so until the caller returns. */
bool dev_is_listed(struct device *dev);

/* Queue fn(dev, arg) on the device's strand; a reference is held until it returned. */
int dev_submit(struct device *dev, void (*fn)(struct device *dev, void *arg), void *arg);

/* Somebody wants the strand, for what the guest waits for: until it has done what is queued already a call of the
 * operator's that is slow is left alone soon (-ETIMEDOUT).  end: the disk, or its guest's use of it, is to end: so is an
 * image that is being opened.  After the dev_submit of what is wanted, or something may come in between and hang. */
void dev_hurry(struct device *dev, bool end);

/* [strand] Open the image for a look: can it be opened, how large is it.  Takes no lock on it.  The
 * reason of a failure goes to the log and to dev_error.  This and all that opens an image: as long as that takes, unless
 * the disk is to end (dev_hurry): -ETIMEDOUT; -EBUSY: an opening that was left so has not returned yet. */
int dev_probe(struct device *dev);

/* What the frontend asked for, bounded already. */
struct dev_rings {
	unsigned count;     /* 1..DEV_MAX_QUEUES */
	unsigned order;     /* pages 1 << order each */
	enum ring_abi abi;
	bool persistent;    /* the frontend agrees */
	unsigned max_indirect; /* segments, as the frontend was told: `ringdisk set` may have changed it since */
	struct {
		uint32_t gref[1u << RING_MAX_ORDER];
		uint32_t evtchn;
	} ring[DEV_MAX_QUEUES];
};

/* What to publish at Connected. */
struct dev_geometry {
	uint64_t sectors;         /* of 512 bytes */
	uint32_t sector_size, physical_sector_size;
	uint32_t info;            /* VDISK_* bits */
	bool flush, barrier, discard, discard_secure, persistent;
	uint32_t discard_granularity, discard_alignment;
};

/* [strand] Open the image (for writing if the spec says so: this takes the lock), map the rings, bind
 * the event channels, start the poller.  On failure nothing is left open; dev_error has the reason. */
int dev_connect(struct device *dev, const struct dev_rings *rings, struct dev_geometry *geometry);

/* [strand] Stop consuming, drain, stop the poller, unmap, close.  If a driver call does not return
 * within the limit the guest's memory is revoked and the device gives up on the call: -ETIMEDOUT;
 * what hangs is freed when it returns.  The same if only the image cannot be flushed and closed in time:
 * then nothing of the guest's is in use.  0 when there was nothing to do. */
int dev_disconnect(struct device *dev);

/* [strand] Stop consuming and wait until what is in flight is answered (parked requests are kept).  Who comes later
 * waits, too, also when everybody has gone meanwhile.  Then what was answered is flushed from the driver's memory into
 * the image: if that fails dev_error has the reason, and the state is DEV_PAUSED. */
int dev_pause(struct device *dev);
/* [strand] Go on, on another image if params is not NULL.  If that cannot be opened: -errno, still
 * paused on the old one, dev_error has the reason.  Also for a disk that is not paused, but whose writes
 * wait for space.  -EALREADY: it is neither. */
int dev_unpause(struct device *dev, const char *params);

/*
 * [strand] Go over to another image, drained meanwhile; what is paused stays paused.  If that fails the disk goes
 * on on the old one, and dev_error has the reason.  Without a guest the new image is only looked at: the next
 * connection opens it.
 */
int dev_swap(struct device *dev, const char *params);
/* [strand] The same, on a new image (driver,options of creation and of opening:/path) that is made on top of the
 * present one.  If that fails there is no new file. */
int dev_snapshot(struct device *dev, const char *params);

/*
 * [strand] Make the image size bytes long, and tell the guest; also while no guest is connected.  Smaller
 * only with shrink: what was behind is lost.  size 0: only look whether it has changed from outside.  On
 * failure dev_error has the reason; -ETIMEDOUT: it goes on, and the requests wait for it; -EBUSY: another such call
 * has not returned yet, as from all that pauses the disk or changes its image.
 */
int dev_resize(struct device *dev, uint64_t size, bool shrink);
/* [strand] The size in bytes as dev_resize would find it; -errno as there. */
int dev_size(struct device *dev, uint64_t *size);
struct rd_progress;
/* [strand] Check the image's metadata, drained and flushed meanwhile; without a connection as it is in the file.
 * -EOPNOTSUPP: there is nothing to check; -ECANCELED: progress said so. */
int dev_check(struct device *dev, const struct rd_progress *progress, struct rd_check *result);
/* [strand] As dev_set, of how the image is opened (cache): it is opened anew, drained meanwhile.  If that fails
 * nothing is changed, and err has the reason. */
int dev_set_reopen(struct device *dev, const char *key, const char *value, char *err, size_t errlen);
/* [strand] Make durable what has been answered.  If that fails it is as when a guest's flush fails: promise 3.
 * 0 also without a connection: then nothing is left to flush.  -ETIMEDOUT: it goes on.  -EBUSY, as above. */
int dev_flush(struct device *dev);

/* --- NBD (nbd.h) --------------------------------------------------------------------------------- */

/*
 * A disk with nbd=on, or whose params name our socket, is exported from its making to its end.  Its clients use the
 * image that the guest uses, before the guest does and after it; what pauses the disk pauses them.
 */
/* [strand] Let clients come.  socket: a path, or a name in the directory of NBD sockets; NULL: by the disk's
 * name.  -EEXIST: they may already.  On failure dev_error has the reason. */
int dev_export(struct device *dev, const char *socket, bool read_only);
/* [strand] Drop them.  -ETIMEDOUT: a call of theirs hangs, and keeps the image open. */
int dev_unexport(struct device *dev);
/* As dev_create, of a disk that has no guest and no node: it ends by dev_destroy. */
int dev_create_export(const char *params, bool writable, const struct settings *settings, struct device **dev);
/* Queue the end of all of these. */
void devtab_end_exports(void);

/* --- looking at it; any thread ----------------------------------------------------------------- */
uint32_t dev_domid(const struct device *dev);
uint32_t dev_vdev(const struct device *dev);
const char *dev_name(const struct device *dev);  /* "5/xvda", constant */
const char *dev_kind(const struct device *dev);  /* constant */
enum dev_state dev_state(struct device *dev);
/* The last error as a person should read it, "" if none; copied into buf. */
const char *dev_error(struct device *dev, char *buf, size_t len);
void dev_set_error(struct device *dev, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
struct stats *dev_stats(struct device *dev);
struct trace *dev_trace(struct device *dev); /* as long as the device */

struct dev_view {
	uint32_t domid, vdev;
	enum dev_state state;
	bool writable, cdrom, by_hand;
	char params[1024];
	char driver[32];
	char error[512];
	struct dev_geometry geometry; /* zero when not connected */
	unsigned rings, ring_order;
	enum ring_abi abi;
	bool persistent;
	unsigned inflight, parked;
	uint64_t memory, grants;      /* bytes of buffers, pages mapped */
	bool exported;
	struct nbd_view nbd;          /* if it is */
	bool flush_failed;            /* promise 3: the latch is set */
	struct settings settings;
};
void dev_look(struct device *dev, struct dev_view *view);
/* What the image's driver counts (caches, allocations), told at once; nothing is called back later.  facts must
 * not take a ranked lock.  -ENOTCONN: no image is open; -EOPNOTSUPP: it counts nothing. */
int dev_counters(struct device *dev, const struct rd_facts *facts);
/* `ringdisk set`: live keys act at once, others at the next connect.  -EINVAL with text in err. */
int dev_set(struct device *dev, const char *key, const char *value, enum setting_origin origin,
	    char *err, size_t errlen);
/* The configuration file was read again: what the disk has from there, or by default, becomes what it says
 * now.  Live keys act at once, others at the next connect.  Any thread. */
void dev_reload(struct device *dev, const struct settings_rules *rules);

#endif
