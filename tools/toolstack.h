/*
 * toolstack.h - what libxl does to the store for a disk, on the loopback: for tests and ringdisk-bench
 *
 * All calls want domain 0's connection (guest_toolstack). 0 or -errno.
 */
#ifndef RD_TOOLSTACK_H
#define RD_TOOLSTACK_H

#include "guest.h"

#define TS_PATH_MAX 256

struct ts_vbd {
	uint32_t domid, vdev;
	const char *kind; /* NULL: "qdisk" */
	const char *params;
	const char *mode;        /* NULL: "w" */
	const char *device_type; /* NULL: "disk" */
	bool removable, direct_io_safe, no_discard;
	const char *protocol; /* frontend's, NULL: none is written */
};

/* .../backend/qdisk/5/51712, and .../device/vbd/51712 */
void ts_backend_path(const struct ts_vbd *vbd, char path[TS_PATH_MAX]);
void ts_frontend_path(const struct ts_vbd *vbd, char path[TS_PATH_MAX]);

/* Write the nodes of the disk, both sides, in one transaction. */
int ts_attach(struct guest *toolstack, const struct ts_vbd *vbd);
/* As xl block-detach: online=0 and state=5, wait for 6, remove the nodes. -ETIMEDOUT: the nodes stay. */
int ts_detach(struct guest *toolstack, const struct ts_vbd *vbd, int timeout_ms);
/* The first half of it only. */
int ts_detach_start(struct guest *toolstack, const struct ts_vbd *vbd);
/* Remove the nodes, whatever state they are in. */
int ts_remove(struct guest *toolstack, const struct ts_vbd *vbd);
/* Wait for a state of the backend ("2"). */
int ts_wait_backend(struct guest *toolstack, const struct ts_vbd *vbd, const char *state,
		    int timeout_ms);
/* What the backend wrote as its error, malloc'd, or NULL. */
char *ts_error(struct guest *toolstack, const struct ts_vbd *vbd);

#endif
