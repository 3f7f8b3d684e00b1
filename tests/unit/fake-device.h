/* Disks that are not there, for tests of the admin socket: what device.h promises, without rings, images
 * and a hypervisor. */
#ifndef FAKE_DEVICE_H
#define FAKE_DEVICE_H

#include <stdbool.h>

#include "device.h"
#include "drivers.h"

/* pool: strands run there; NULL: dev_submit calls at once. */
void fake_devices_init(struct pool *pool);
/* After pool_destroy, which waits for the strands; nobody may hold a reference any more. */
void fake_devices_end(void);
struct device *fake_device_add(uint32_t domid, uint32_t vdev, const char *name, const char *params);
/* dev_pause waits until it is let go again. */
void fake_device_hold(struct device *dev);
void fake_device_release(struct device *dev);
/* How many dev_pause calls are inside. */
int fake_device_pausing(struct device *dev);
/* What dev_pause and dev_unpause return, and the text for dev_error. */
void fake_device_fail(struct device *dev, int err, const char *text);

#endif
