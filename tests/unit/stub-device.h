/* Disks without images and rings, for tests of xenbus: what device.h promises, and a check that xenbus keeps
 * to it (connect only what is idle, one call at a time, nothing after destroy). */
#ifndef STUB_DEVICE_H
#define STUB_DEVICE_H

#include <stdbool.h>

#include "device.h"

void stub_init(struct pool *control);
/* After the pool is gone. Every device must be, too: how many are not. */
int stub_end(void);

/* How the next calls of any device end; 0: well. */
void stub_fail(int probe, int connect, int disconnect, const char *why);

/* Do images hang when they are opened?  Until it is false, or who wants the end of the disk has hurried. */
void stub_hang(bool hang);
bool stub_hanging(void); /* does one just now? */

/* What a device was made with, and what it is doing; false: there is none. */
struct stub_view {
	struct dev_spec spec; /* its strings are below */
	char kind[32], params[256];
	enum dev_state state;
	struct dev_rings rings;
};
bool stub_look(uint32_t domid, uint32_t vdev, struct stub_view *view);
int stub_count(void);     /* devices */
int stub_connected(void); /* of them connected */
int stub_probes(void);    /* calls so far */
int stub_connects(void);

/* The guest made its ring impossible / the image has another size / it is another image: as device.c would tell it. */
void stub_break(uint32_t domid, uint32_t vdev);
void stub_resize(uint32_t domid, uint32_t vdev, uint64_t sectors);
void stub_swap(uint32_t domid, uint32_t vdev, const char *params);

#endif
