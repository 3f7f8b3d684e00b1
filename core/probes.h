/*
 * probes.h - places along a request's path where a tracer can look (USDT)
 *
 * ringdisk-internals(7) says what each means and what it gives. Built only where <sys/sdt.h> is; as long as nobody
 * traces, a probe costs the look at its semaphore, which the tracer raises.
 */
#ifndef RD_PROBES_H
#define RD_PROBES_H

#include <stdint.h>

#ifdef HAVE_SYS_SDT_H

#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>

extern volatile unsigned short ringdisk_request_received_semaphore;
extern volatile unsigned short ringdisk_request_validated_semaphore;
extern volatile unsigned short ringdisk_request_submitted_semaphore;
extern volatile unsigned short ringdisk_request_completed_semaphore;
extern volatile unsigned short ringdisk_request_failed_semaphore;
extern volatile unsigned short ringdisk_request_responded_semaphore;

#define RD_PROBED(name) __builtin_expect(ringdisk_##name##_semaphore != 0, 0)
#define RD_PROBE(name, domid, vdev, op, sector, length, ns, err)                                                       \
	DTRACE_PROBE7(ringdisk, name, (uint32_t)(domid), (uint32_t)(vdev), (uint32_t)(op), (uint64_t)(sector),         \
	              (uint64_t)(length), (uint64_t)(ns), (int32_t)(err))

#else

#define RD_PROBED(name) 0
#define RD_PROBE(name, domid, vdev, op, sector, length, ns, err)                                                       \
	((void)(domid), (void)(vdev), (void)(op), (void)(sector), (void)(length), (void)(ns), (void)(err))

#endif

#endif
