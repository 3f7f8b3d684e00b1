/*
 * frontend-int.h - what frontend.c (handshake), frontend-ring.c (requests) and frontend-sync.c share
 */
#ifndef RD_FRONTEND_INT_H
#define RD_FRONTEND_INT_H

#include "frontend.h"

#include <pthread.h>
#include <stdatomic.h>

#define FE_SEGS_DIRECT BLKIF_MAX_SEGMENTS_PER_REQUEST
#define FE_SEGS_MAX    256u /* 1 indirect page would hold 512 */
#define FE_SYNC_LEN    (1024u * 1024)

/* Where the fields are; xen/io/blkif.h as a 32- or 64-bit x86 compiler lays it out. */
struct fe_layout {
	unsigned int slot_size;
	unsigned int id, sector, seg; /* read, write, flush, barrier */
	unsigned int discard_count;
	unsigned int ind_handle, ind_grefs; /* indirect */
	unsigned int rsp_size;
};

/* A request in flight. Its index in the table is its id. */
struct fe_shadow {
	bool pending;
	uint8_t op;                    /* what the answer must say; for INDIRECT the inner one */
	uint16_t first_page, nr_pages; /* of buf: what was granted */
	struct fe_buf *buf;
	void *user;
	uint16_t next_free;
	bool indirect;
	uint8_t *ind_page; /* this shadow's page of segments */
	uint32_t ind_gref;
};

struct fe_queue {
	struct frontend *fe;
	uint8_t *ring; /* pages of the guest */
	uint32_t gref[1u << FE_MAX_ORDER];
	struct guest_port port;
	uint32_t req_prod, pushed, rsp_cons;
	unsigned int inflight, free_head;
	struct fe_shadow *shadow;
	uint8_t *mirror; /* what the slots must hold but for answers, if check_padding */
	uint64_t events, notifies;
};

struct frontend {
	struct guest *guest;
	struct fe_config config;
	char path[128], be_path[192], be_state[208];
	const struct fe_layout *layout;
	unsigned int order, slots, nr_queues, max_segments;
	bool persistent, connected;
	struct fe_geometry geometry;
	struct fe_queue *queue;
	struct fe_buf *sync_buf;
	atomic_bool broken;
	pthread_mutex_t error_lock; /* protects error */
	char error[256];
};

const struct fe_layout *fe_layout_of(enum fe_abi abi);
int fe_queue_init(struct frontend *fe, struct fe_queue *queue, unsigned int index);
int fe_queue_indirect(struct frontend *fe, struct fe_queue *queue); /* once indirect is agreed */
int fe_queue_free(struct frontend *fe, struct fe_queue *queue);
/* Note what was wrong and stop: -EPROTO. */
int fe_fatal(struct frontend *fe, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
