/*
 * qcow2/snaptable.h - the snapshot table (spec "Snapshots")
 */
#ifndef QCOW2_SNAPTABLE_H
#define QCOW2_SNAPTABLE_H

#include "qcow2.h"

#define ICOUNT_NONE UINT64_MAX

struct snapshot {
	uint64_t l1_offset;
	uint32_t l1_size;    /* entries */
	char *id, *name;     /* as they stand in the image: any bytes but 0 */
	uint32_t sec, nsec;  /* when it was made */
	uint64_t clock;      /* of the guest, ns */
	uint64_t vm_state;   /* bytes of saved state, behind the disk */
	uint64_t disk_size;
	uint64_t icount;
	uint8_t *more;       /* extra data that we do not know */
	uint32_t more_len;
	bool complete;       /* it says the disk's size: version 3 wants that */
};

struct snapshots {
	struct snapshot *v;
	uint32_t count;
	uint64_t bytes; /* of the table in the file */
};

/* Read the table that h points to. -EINVAL: it contradicts itself (logged if log is set); -EIO: could not be read.
 * In both cases there is nothing to free. */
int snaptable_read(struct qcow2 *q, const struct header *h, struct snapshots *list, bool log);
void snaptable_free(struct snapshots *list);
/* Bytes of the table, and those of it; *buf is to be freed. */
int snaptable_encode(const struct snapshots *list, uint8_t **buf, size_t *len);
/* By id, else by name; -1: there is none. */
int snaptable_find(const struct snapshots *list, const char *name);
/* Remove the ith and free what it has. */
void snaptable_remove(struct snapshots *list, uint32_t i);
/* Room for one more at the end, all zero but id and name, which are copied. */
int snaptable_append(struct snapshots *list, const char *id, const char *name, struct snapshot **s);

#endif
