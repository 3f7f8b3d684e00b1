/*
 * qcow2/zero.h - ranges without content: what zero.c has for the other files
 *
 * All of it may block, and takes claims: call it with none, and not under the lock. 0 or -errno; what comes before the
 * place that failed is done then.
 */
#ifndef QCOW2_ZERO_H
#define QCOW2_ZERO_H

#include "qcow2.h"

/* From start to end, whole clusters that are not part of the disk (any more): no entry is left. */
int q_vanish(struct qcow2 *q, uint64_t start, uint64_t end);
/* From start to end, whole (sub)clusters, behind the disk's size or not: they read as zeroes, whatever is below. */
int q_zero_entries(struct qcow2 *q, uint64_t start, uint64_t end);
/* From start to end, which lie in one (sub)cluster: reads as zeroes. */
int q_zero_edge(struct qcow2 *q, uint64_t start, uint64_t end);

/* As q_writev(), but zeroes are found and not stored, if the option detect-zeroes says so. It is the driver's
 * writev(); map() for writing must say -EAGAIN when the option is on. */
int q_writev_detect(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset);

#endif
