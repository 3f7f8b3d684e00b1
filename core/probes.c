/*
 * probes.c - the semaphores of the probes: a tracer that looks at one raises it, from outside
 */
#include "probes.h"

#ifdef HAVE_SYS_SDT_H

#define SEMAPHORE(name) volatile unsigned short ringdisk_##name##_semaphore __attribute__((section(".probes")))

SEMAPHORE(request_received);
SEMAPHORE(request_validated);
SEMAPHORE(request_submitted);
SEMAPHORE(request_completed);
SEMAPHORE(request_failed);
SEMAPHORE(request_responded);

#endif
