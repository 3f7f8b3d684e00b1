/*
 * vdev.h - names of virtual devices: "xvda1" and 51713, see xen-vbd-interface(7)
 *
 * Pure functions, any thread.
 */
#ifndef RD_VDEV_H
#define RD_VDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "xvda1", "hdc", "sdb2" or a plain number.  -EINVAL. */
int vdev_parse(const char *name, uint32_t *vdev);
/* The name, or the number where there is none; returns buf. */
const char *vdev_text(uint32_t vdev, char *buf, size_t len);
/* Is it, in an HVM guest, among the disks that libxl has QEMU emulate for the firmware? */
bool vdev_emulated(uint32_t vdev);

#endif
