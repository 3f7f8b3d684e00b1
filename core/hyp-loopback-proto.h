/*
 * hyp-loopback-proto.h - what a guest and the loopback hypervisor say to each other
 *
 * A client connects to a SOCK_SEQPACKET unix socket and sends struct lb_msg with a payload; each is
 * answered by a struct lb_reply with the same seq.  Watch events come in between, as replies with the
 * op LB_EV_WATCH and no seq of their own.  Numbers are in host order: both ends are on one machine.
 *
 * The first message is LB_HELLO.  A guest passes its memory, a memfd that cannot shrink; the first
 * nr_grants * 16 bytes of it are its grant table.  Domain 0 is the toolstack and passes nothing.
 *
 * A port is two descriptors: an eventfd that the guest writes to kick the backend, and a place in the
 * epoll set of one of the guest's virtual processors, which reports the port (data.u32) each time
 * the backend notifies it.  The guest never reads or resets anything: the events are edges.
 */
#ifndef RD_HYP_LOOPBACK_PROTO_H
#define RD_HYP_LOOPBACK_PROTO_H

#include <stdint.h>

#define LB_MAGIC       0x52444c31u /* "RDL1" */
#define LB_DOMID_ANY   0xffffffffu
#define LB_DOMID_LAST  0x7fefu /* DOMID_FIRST_RESERVED - 1 */
#define LB_MAX_PAYLOAD 65536u
#define LB_MAX_FDS     2u
#define LB_MAX_PORTS   256u
#define LB_MAX_VCPUS   64u
#define LB_MAX_MEMORY  (8ull << 30)

enum lb_op {
	LB_HELLO = 1, /* a LB_MAGIC, b domid or LB_DOMID_ANY, c nr_grants; fd: memory.  -> domid */
	LB_READ,      /* a txn; path\0                  -> value */
	LB_WRITE,     /* a txn; path\0value */
	LB_RM,        /* a txn; path\0 */
	LB_LIST,      /* a txn; path\0                  -> name\0name\0... */
	LB_SET_PERMS, /* a txn, b count; struct hyp_perm[], path\0 */
	LB_GET_PERMS, /* a txn; path\0                  -> struct hyp_perm[] */
	LB_TXN_BEGIN, /*                                -> txn */
	LB_TXN_END,   /* a txn, b commit */
	LB_WATCH,     /* path\0token\0 */
	LB_UNWATCH,   /* path\0token\0 */
	LB_EVTCHN_ALLOC, /* a domid of the peer, b vcpu    -> port; fd: kick, and the vcpu's epoll if new */
	LB_EVTCHN_CLOSE, /* a port */
	LB_STATS,        /* a domid                        -> struct lb_stats */
	LB_SHUTDOWN,     /* a domid, b SHUTDOWN_*: that domain stops (a guest: itself) */
	/* domain 0 only */
	LB_DOM_CREATE, /* a domid or LB_DOMID_ANY: it exists from now, its guest may connect -> domid */
	LB_DOM_DESTROY,     /* a domid */
	LB_FAULT,           /* a enum lb_fault, b domid, c n, d status */
	LB_EV_WATCH = 1000, /* event: path\0token\0 */
};

/* Failures on demand, for tests. */
enum lb_fault {
	LB_FAULT_NONE, /* forget all of them */
	LB_FAULT_STORE, /* every store connection of the daemon is lost, new ones are refused; until NONE */
	LB_FAULT_GRANT,     /* the nth segment mapped or copied from now on (1: the next) fails */
	LB_FAULT_GRANT_ALL, /* ... and all after it */
	LB_FAULT_BIND,      /* binding an event channel of this domain fails */
};

struct lb_msg {
	uint32_t op, seq;
	uint32_t a, b, c, d;
};

struct lb_reply {
	uint32_t op, seq;
	int32_t result; /* -errno */
	uint32_t fds;   /* how many come along */
};

/* An entry of the grant table.  word is read once, atomically; in_use is counted up before that and
 * down when the page is let go, so that a guest that clears word and then finds in_use 0 knows that
 * nobody has the page. */
struct lb_grant {
	uint64_t word; /* LB_GRANT_WORD */
	uint32_t in_use;
	uint32_t pad;
};

#define LB_GTF_PERMIT   1u
#define LB_GTF_READONLY 4u
#define LB_GRANT_WORD(flags, domid, frame)                                                         \
	((uint64_t)(uint16_t)(flags) | (uint64_t)(uint16_t)(domid) << 16 |                         \
	 (uint64_t)(uint32_t)(frame) << 32)
#define LB_GRANT_FLAGS(word) ((uint16_t)(word))
#define LB_GRANT_DOMID(word) ((uint16_t)((word) >> 16))
#define LB_GRANT_FRAME(word) ((uint32_t)((word) >> 32))

struct lb_stats {
	uint64_t mapped;  /* pages mapped now */
	uint64_t maps;    /* pages mapped ever */
	uint64_t copies;  /* segments copied ever */
	uint64_t refused; /* segments refused */
	uint64_t nodes;   /* store nodes that it owns */
};

#endif
