/*
 * frontend.h - a blkfront in user space, on the loopback hypervisor, and the strictest there is
 *
 * It negotiates as Linux's xen-blkfront does and applies all of its checks, and some more: an answer to a
 * request that is not pending, with another operation, or one too many; a grant still mapped when its
 * request is answered (unless persistent); bytes of the ring touched that no answer has. Any of them is
 * fatal: the frontend stops, every call returns -EPROTO and fe_error() says what it saw.
 *
 * Threads: a queue belongs to one thread at a time; different queues are independent. Everything else
 * (open, close, buffers, states) by one thread.
 *
 * Everything returns 0 (or what it names) or -errno. The answer to a request is 0, -EIO (BLKIF_RSP_ERROR)
 * or -EOPNOTSUPP.
 */
#ifndef RD_FRONTEND_H
#define RD_FRONTEND_H

#include "guest.h"

#include <xen/xen.h>

#include <xen/io/blkif.h>
#include <xen/io/xenbus.h>

#define FE_MAX_QUEUES 16u
#define FE_MAX_ORDER  6u

enum fe_abi {
	FE_ABI_NATIVE, /* writes the native name in "protocol" */
	FE_ABI_X86_32,
	FE_ABI_X86_64,
	FE_ABI_MISSING, /* writes no "protocol"; x86_32 on x86 */
};

/* A node to write along with the others, below the frontend's directory; value NULL: remove it. */
struct fe_node {
	const char *key, *value;
};

struct fe_config {
	uint32_t vdev;
	unsigned int ring_order;   /* at most what the backend offers is used */
	unsigned int queues;       /* 0: 1 */
	unsigned int max_segments; /* of an indirect request; 0: no indirect requests */
	bool persistent;           /* offer it */
	enum fe_abi abi;
	unsigned int vcpu;       /* queue q takes events on vcpu + q */
	bool greedy;             /* ask for ring_order and queues though the backend offers less */
	bool check_padding;      /* that nothing but the three fields of an answer is written */
	bool no_grants_check;    /* for hostile tests */
	unsigned int timeout_ms; /* for each step of a handshake; 0: 10 s */
	const struct fe_node *nodes; /* ends with key NULL; may be NULL */
};

struct frontend;

/* Memory for data: whole pages of the guest, granted as the protocol wants it. In flight with one request
 * at a time. */
struct fe_buf {
	uint8_t *data;
	unsigned int pages;
	uint32_t *gref;
};

struct fe_io {
	uint8_t op; /* BLKIF_OP_READ, WRITE, WRITE_BARRIER, FLUSH_DISKCACHE, DISCARD */
	uint8_t discard_flag;
	uint64_t sector;
	uint64_t nr_sectors;  /* DISCARD only */
	struct fe_buf *buf;   /* NULL: no data */
	uint32_t offset, len; /* in buf, multiples of 512 */
	void *user;
};

struct fe_done {
	void *user;
	int result;
	uint8_t op;
};

struct fe_geometry {
	uint64_t sectors;
	uint32_t sector_size, physical_sector_size, info;
	bool flush, barrier, discard, discard_secure, persistent;
	uint32_t discard_granularity, discard_alignment;
	unsigned int max_indirect; /* 0: none */
};

/* --- life ---------------------------------------------------------------------------------------- */
/* Wait for the backend's InitWait, connect, wait for Connected. -ECONNREFUSED: the backend closes. */
int fe_open(struct guest *guest, const struct fe_config *config, struct frontend **fe);
/* The steps of fe_open, for tests that look between them. */
int fe_prepare(struct guest *guest, const struct fe_config *config, struct frontend **fe);
int fe_negotiate(struct frontend *fe); /* up to Initialised */
int fe_connect(struct frontend *fe);   /* up to Connected */
/* As a kernel that finds the device of its predecessor: Closing, Closed, Initialising, each answered by
 * the backend. The rings are gone; fe_free, then fe_open connects anew. */
int fe_reset(struct frontend *fe);
/* The backend is Closing (detach): answer with Closed, and wait until it is Closed too. */
int fe_close(struct frontend *fe);
/* Give everything back without a word to the backend. -EBUSY: it still has a grant of ours (the memory
 * is given back all the same). NULL is accepted. */
int fe_free(struct frontend *fe);
/* Set our state. */
int fe_set_state(struct frontend *fe, enum xenbus_state state);
/* Wait until the backend's state is this one. -ETIMEDOUT */
int fe_wait_backend(struct frontend *fe, enum xenbus_state state);
int fe_backend_state(struct frontend *fe);

const struct fe_geometry *fe_geometry(const struct frontend *fe);
/* Wait until the backend reports another size; then it is in the geometry. -ETIMEDOUT */
int fe_wait_resize(struct frontend *fe, int timeout_ms);
unsigned int fe_queues(const struct frontend *fe);
unsigned int fe_ring_order(const struct frontend *fe);
unsigned int fe_slots(const struct frontend *fe);        /* of each queue */
unsigned int fe_max_segments(const struct frontend *fe); /* per request */
unsigned int fe_inflight(const struct frontend *fe, unsigned int queue);
struct guest *fe_guest(const struct frontend *fe);
const char *fe_path(const struct frontend *fe); /* /local/domain/5/device/vbd/51712 */
const char *fe_backend_path(const struct frontend *fe);
/* What was wrong, "" if nothing. */
const char *fe_error(const struct frontend *fe);

/* --- buffers ------------------------------------------------------------------------------------- */
int fe_buf_alloc(struct frontend *fe, size_t len, struct fe_buf **buf);
/* -EBUSY: the backend still has some of it. NULL is accepted. */
int fe_buf_free(struct frontend *fe, struct fe_buf *buf);

/* --- asynchronous -------------------------------------------------------------------------------- */
/* Put a request into the ring. -EAGAIN: it is full; -EINVAL: more segments than a request can have. */
int fe_submit(struct frontend *fe, unsigned int queue, const struct fe_io *io);
/* Show the backend what was put there, and notify it if it wants to be. */
int fe_push(struct frontend *fe, unsigned int queue);
/* Answers that are there, at most max. Does not wait. */
int fe_poll(struct frontend *fe, unsigned int queue, struct fe_done *done, unsigned int max);
/* Wait until there is an answer: 1, or 0 when the time is up. */
int fe_wait(struct frontend *fe, unsigned int queue, int timeout_ms);
/* Events received, and notifications sent. */
uint64_t fe_events(const struct frontend *fe, unsigned int queue);
uint64_t fe_notifies(const struct frontend *fe, unsigned int queue);

/* --- synchronous, on queue 0, which must be idle; any length, in as many requests as it takes -------- */
int fe_read(struct frontend *fe, uint64_t sector, void *data, size_t len);
int fe_write(struct frontend *fe, uint64_t sector, const void *data, size_t len);
int fe_barrier(struct frontend *fe, uint64_t sector, const void *data,
	       size_t len); /* len 0: none */
int fe_flush(struct frontend *fe);
int fe_discard(struct frontend *fe, uint64_t sector, uint64_t nr_sectors);
/* One request with anything in it; the answer. */
int fe_one(struct frontend *fe, const struct fe_io *io);

/* --- raw, for hostile tests ------------------------------------------------------------------------ */
/* The slot of a request index: as many bytes as fe_raw_slot_size. */
uint8_t *fe_raw_slot(struct frontend *fe, unsigned int queue, uint32_t index);
size_t fe_raw_slot_size(const struct frontend *fe);
/* The ring's first four words: req_prod, req_event, rsp_prod, rsp_event. */
uint32_t *fe_raw_header(struct frontend *fe, unsigned int queue);
uint32_t fe_raw_prod(const struct frontend *fe,
		     unsigned int queue); /* our private producer index */
int fe_raw_notify(struct frontend *fe, unsigned int queue);
/* The reference of a page of a buffer, granted now (until fe_raw_ungrant). */
uint32_t fe_raw_grant(struct frontend *fe, struct fe_buf *buf, unsigned int page, bool readonly);
void fe_raw_ungrant(struct frontend *fe, struct fe_buf *buf, unsigned int page);

#endif
