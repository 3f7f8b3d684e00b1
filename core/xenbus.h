/*
 * xenbus.h - the backend's side of the store: watches, handshake, what is published
 *
 * Two threads: "rd-watch" empties the store's event queue as fast as it comes and only marks
 * devices dirty; "rd-xenbus" looks at dirty devices, compares both ends' states with the table of
 * moves (xenbus.c), and queues what may block on the device's strand.  Losing the store stops neither
 * I/O nor the daemon: both threads reconnect and look at everything again.
 */
#ifndef RD_XENBUS_H
#define RD_XENBUS_H

#include "device.h"

enum claim_policy { CLAIM_AUTO, CLAIM_ALL, CLAIM_OPAQUE, CLAIM_NEVER };

struct xenbus_config {
	struct hyp *hyp;
	const char *const *kinds;   /* "qdisk", "vbd3", NULL */
	enum claim_policy claim;    /* which qdisk nodes are ours */
	struct settings_rules *rules; /* xenbus takes a reference */
};

/* Starts the threads; the store may be away (they keep trying). */
int xenbus_start(const struct xenbus_config *config);
/* Every device is disconnected and goes to Closed first, in bounded time. */
void xenbus_stop(void);
/* For dev_env.notify: publish what happened. */
void xenbus_notify(struct device *dev, int event, void *arg);

/* The rules for disks that come, from now on: takes a reference. Any thread, between start and stop. */
void xenbus_set_rules(struct settings_rules *rules);
/* These, a reference. */
struct settings_rules *xenbus_get_rules(void);

/* By hand, for `ringdisk attach` and `detach`: write both ends' nodes of a vbd, as the toolstack
 * would; set online=0 and state 5.  Called from the control pool; may block.  err: text. */
struct xenbus_attach {
	uint32_t domid, vdev;
	const char *params, *kind;
	bool writable, cdrom;
};
int xenbus_attach(const struct xenbus_attach *attach, char *err, size_t errlen);
int xenbus_detach(uint32_t domid, uint32_t vdev, bool force, char *err, size_t errlen);

/* Is the store connected now. */
bool xenbus_connected(void);

#endif
