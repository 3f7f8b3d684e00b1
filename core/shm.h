/*
 * shm.h - what a disk counts, where xentop and XAPI look for it
 *
 * Xen's libxenstat (from 4.19 on) and XAPI read the counters of user-space backends from DIR/td3-PID/vbd-DOMID-VDEV, as
 * tapdisk3 writes them; PID is the node kthread-pid in the backend's directory of the store. The file is mapped and
 * counted in directly, so that it is always right and nothing has to be woken up to write it.
 */
#ifndef RD_SHM_H
#define RD_SHM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* The layout is theirs. */
#define SHM_VERSION 1u

struct shm_op {
	_Atomic uint64_t submitted, completed;
	_Atomic uint64_t sectors; /* of 512 bytes */
	_Atomic uint64_t ticks;   /* microseconds, all requests together */
};

struct shm_layout {
	uint32_t version, pad;
	_Atomic uint64_t out_of_requests; /* times that a request had to wait for a free one */
	struct shm_op read, write;
	_Atomic uint64_t io_errors;
	uint64_t flags; /* tapdisk's, none of ours */
};
_Static_assert(sizeof(struct shm_layout) == 96, "what others read");

struct shm_disk;

/* Before any disk: where; NULL: nowhere. Takes away what dead daemons left there. -errno: it cannot be used. */
int shm_set_dir(const char *dir);
/* Takes the directory away; its files are gone with their disks. */
void shm_end(void);
bool shm_enabled(void);

/* The file of a disk; NULL: there is none (the reason has been logged), which does no harm. */
struct shm_disk *shm_create(uint32_t domid, uint32_t vdev);
/* Where to count. Valid until shm_free(). */
struct shm_layout *shm_counters(struct shm_disk *disk);
/* Remove the file, if it is still this disk's; what is mapped stays. Accepts NULL. */
void shm_remove(struct shm_disk *disk);
/* Accepts NULL. */
void shm_free(struct shm_disk *disk);

#endif
