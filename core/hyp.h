/*
 * hyp.h - the hypervisor seam: grants, event channels, store
 *
 * Everything above this header is the same on real Xen (hyp-xen.c) and on the loopback hypervisor
 * in user space (hyp-loopback.c).  A page is 4096 bytes.  Every function returns 0 (or the result
 * it names) or -errno.
 *
 * Objects and threads:
 *   struct hyp         one per process; made before any thread, closed after the last.
 *   struct hyp_gnt     grants; one handle per device.  map, unmap and copy may be called from several
 *                      threads at once.
 *   struct hyp_evtchn  event channels; one handle per poller.  bind, unbind, pending and unmask on
 *                      the poller's thread only (bind and unbind also while it does not run);
 *                      notify from any thread.
 *   struct hyp_store   one connection to the store; any thread, one request at a time inside.
 *                      Never used by pollers or workers: a store that hangs must not stop I/O.
 */
#ifndef RD_HYP_H
#define RD_HYP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HYP_PAGE_SIZE 4096u

struct hyp_gnt;
struct hyp_evtchn;
struct hyp_store;

/* One segment of a grant copy.  offset + len <= HYP_PAGE_SIZE; the local side may cross pages. */
struct hyp_copy {
	uint32_t gref;
	uint16_t offset;
	uint16_t len;
	void *local;
	bool to_guest;  /* else from the guest */
	int16_t status; /* out: 0, or a negative GNTST_* / errno: this segment was not copied */
};

/* A right on a store node: HYP_PERM_* for a domain.  The first entry names the owner, whose right is
 * everything, and gives in .perm the right of all domains that are not listed. */
#define HYP_PERM_NONE  0
#define HYP_PERM_READ  1
#define HYP_PERM_WRITE 2
struct hyp_perm {
	uint32_t domid;
	uint32_t perm;
};

#define HYP_TXN_NONE 0u
typedef uint32_t hyp_txn;

/* Why a domain shut down; values of SHUTDOWN_* in xen/sched.h. */
enum hyp_shutdown {
	HYP_RUNNING = -1, /* it did not */
	HYP_SHUTDOWN_POWEROFF = 0,
	HYP_SHUTDOWN_REBOOT = 1,
	HYP_SHUTDOWN_SUSPEND = 2,
	HYP_SHUTDOWN_CRASH = 3,
};

struct hyp;

struct hyp_ops {
	const char *name; /* "xen", "loopback" */
	void (*close)(struct hyp *hyp);
	/* Our own domain. */
	uint32_t (*domid)(struct hyp *hyp);

	/* Grants.  domid is the domain that granted. */
	int (*gnt_open)(struct hyp *hyp, struct hyp_gnt **gnt);
	void (*gnt_close)(struct hyp_gnt *gnt); /* whatever is still mapped goes with it */
	/* Map count pages to consecutive addresses: all of them, or -errno and none. */
	int (*gnt_map)(struct hyp_gnt *gnt, uint32_t domid, const uint32_t *grefs, unsigned count,
		       bool writable, void **addr);
	/* addr and count exactly as mapped. */
	int (*gnt_unmap)(struct hyp_gnt *gnt, void *addr, unsigned count);
	/* Take the pages away at once, even while a system call may be using them: the addresses then
	 * hold a private copy of what was there, ours until gnt_unmap (which still must be called).  For
	 * closing a device whose driver never returns: a write that goes on late writes what it was to. */
	int (*gnt_revoke)(struct hyp_gnt *gnt, void *addr, unsigned count);
	/* Copy count segments in one call.  -errno: nothing can be said, treat all as failed;
	 * 0: see the status of each. */
	int (*gnt_copy)(struct hyp_gnt *gnt, uint32_t domid, struct hyp_copy *segs, unsigned count);

	/* Event channels. */
	int (*evtchn_open)(struct hyp *hyp, struct hyp_evtchn **evtchn);
	void (*evtchn_close)(struct hyp_evtchn *evtchn); /* unbinds what is still bound */
	int (*evtchn_fd)(struct hyp_evtchn *evtchn);     /* readable when a port is pending */
	int (*evtchn_bind)(struct hyp_evtchn *evtchn, uint32_t domid, uint32_t remote_port);
	int (*evtchn_unbind)(struct hyp_evtchn *evtchn, int port);
	/* The next pending port, which is then masked until unmask; -EINTR: evtchn_kick was called;
	 * -EAGAIN: none. */
	int (*evtchn_pending)(struct hyp_evtchn *evtchn);
	/* Sleep until there is one, as evtchn_pending; -EAGAIN after timeout_ms (-1: never). */
	int (*evtchn_wait)(struct hyp_evtchn *evtchn, int timeout_ms);
	/* Wake the poller.  Any thread; a kick is never lost, several may become one. */
	void (*evtchn_kick)(struct hyp_evtchn *evtchn);
	int (*evtchn_unmask)(struct hyp_evtchn *evtchn, int port);
	int (*evtchn_notify)(struct hyp_evtchn *evtchn, int port);

	/*
	 * Store.  Paths are absolute.  -ENOENT, -EACCES, -EAGAIN (transaction must be repeated) mean
	 * what they say; -EPIPE: the connection is lost for good, close it and open another.
	 */
	int (*store_open)(struct hyp *hyp, struct hyp_store **store);
	void (*store_close)(struct hyp_store *store);
	/* *value is malloc'd, NUL behind its last byte; it may hold NULs of its own: see *len. */
	int (*store_read)(struct hyp_store *store, hyp_txn txn, const char *path, char **value,
			  size_t *len);
	int (*store_write)(struct hyp_store *store, hyp_txn txn, const char *path,
			   const void *value, size_t len);
	int (*store_rm)(struct hyp_store *store, hyp_txn txn, const char *path);
	/* Names of the children, one malloc'd block: free(*names) frees all. */
	int (*store_list)(struct hyp_store *store, hyp_txn txn, const char *path, char ***names,
			  unsigned *count);
	int (*store_set_perms)(struct hyp_store *store, hyp_txn txn, const char *path,
			       const struct hyp_perm *perms, unsigned count);
	/* *perms is malloc'd. */
	int (*store_get_perms)(struct hyp_store *store, hyp_txn txn, const char *path,
			       struct hyp_perm **perms, unsigned *count);
	int (*store_begin)(struct hyp_store *store, hyp_txn *txn);
	int (*store_end)(struct hyp_store *store, hyp_txn txn, bool commit);
	/* Fires once at once, then at each change at or below path.  "@introduceDomain" and
	 * "@releaseDomain" are watchable. */
	int (*store_watch)(struct hyp_store *store, const char *path, const char *token);
	int (*store_unwatch)(struct hyp_store *store, const char *path, const char *token);
	int (*store_fd)(struct hyp_store *store); /* readable when an event waits, or when lost */
	/* 1: an event, *path and *token malloc'd; 0: none now; -EPIPE: lost. */
	int (*store_event)(struct hyp_store *store, char **path, char **token);
	/* 1: the domain exists (is introduced to the store), 0: it does not. */
	int (*domain_alive)(struct hyp_store *store, uint32_t domid);

	/* Optional (may be NULL): an enum hyp_shutdown, or -ENOTSUP where nobody can tell. */
	int (*shutdown_reason)(struct hyp *hyp, uint32_t domid);
};

struct hyp {
	const struct hyp_ops *ops;
};

/* Where the loopback hypervisor listens, and what else --hyp needs to know. */
struct hyp_config {
	const char *kind;            /* "auto", "xen", "loopback" */
	const char *loopback_socket; /* path; NULL: $XDG_RUNTIME_DIR or /run/ringdisk, loopback.sock */
};

/*
 * Open the hypervisor that cfg names (hyp.c).  "auto" takes Xen where Xen is detected and never
 * falls back to the loopback when a device node is missing there: it fails and logs which module to
 * load.  The reason for a failure has been logged.
 */
int hyp_open(const struct hyp_config *cfg, struct hyp **hyp);

/* For the two implementations (hyp.c): put a private copy of count mapped pages in their place, at once. */
int hyp_replace_pages(void *addr, unsigned count);

int hyp_xen_open(struct hyp **hyp);                            /* hyp-xen.c */
bool hyp_xen_detected(void);                                   /* hyp-xen.c: are we on Xen at all */
int hyp_loopback_open(const char *socket, struct hyp **hyp);   /* hyp-loopback.c */

#endif
