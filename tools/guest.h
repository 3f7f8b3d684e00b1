/*
 * guest.h - a guest of the loopback hypervisor, or its toolstack: for tests and ringdisk-bench
 *
 * A guest has memory (grantable, in pages), grants, event channel ports and a connection to the store.
 * guest_toolstack() gives domain 0's connection: store and control only.
 *
 * Threads: any; calls to the hypervisor take turns. guest_notify and guest_wait need no turn. Everything
 * returns 0 (or what it names) or -errno.
 */
#ifndef RD_GUEST_H
#define RD_GUEST_H

#include "hyp-loopback-proto.h"
#include "hyp.h"

#include <stdarg.h>

#define GUEST_ANY LB_DOMID_ANY
/* A reference that no grant has. */
#define GUEST_NO_GREF 0u

struct guest;

struct guest_port {
	uint32_t port, vcpu;
	int kick_fd;
};

/* Connect as domid (which the toolstack may have created) or GUEST_ANY, with memory of pages and a
 * table of nr_grants grants, which is in addition to them. */
int guest_open(const char *socket, uint32_t domid, unsigned int pages, unsigned int nr_grants,
	       struct guest **guest);
int guest_toolstack(const char *socket, struct guest **guest);
/* The domain dies. Its memory is unmapped: use nothing of it afterwards. NULL is accepted. */
void guest_close(struct guest *guest);
uint32_t guest_domid(const struct guest *guest);
/* Lose the connection, as by a crash, but keep the memory for a look. */
void guest_vanish(struct guest *guest);

/* --- memory: count consecutive pages, zeroed; NULL: no room --- */
void *guest_pages(struct guest *guest, unsigned int count);
void guest_pages_free(struct guest *guest, void *pages, unsigned int count);
uint32_t guest_frame(const struct guest *guest, const void *page);
unsigned int guest_frames(const struct guest *guest);

/* --- grants to the backend, domain 0 --- */
/* A reference, or GUEST_NO_GREF: the table is full. */
uint32_t guest_grant(struct guest *guest, const void *page, bool readonly);
/* -EBUSY: it is in use; taken back all the same, but the reference stays taken. */
int guest_grant_end(struct guest *guest, uint32_t gref);
uint32_t guest_grant_in_use(const struct guest *guest, uint32_t gref);
/* Change what a reference grants: its page or its being read-only. */
void guest_grant_set(struct guest *guest, uint32_t gref, uint32_t flags, uint32_t domid,
		     uint32_t frame);

/* --- event channels --- */
int guest_port_open(struct guest *guest, uint32_t remote, uint32_t vcpu, struct guest_port *port);
void guest_port_close(struct guest *guest, struct guest_port *port);
int guest_notify(const struct guest_port *port);
/* An epoll descriptor that reports ports of this vcpu; the guest's own. -1: it has no ports. */
int guest_vcpu_fd(const struct guest *guest, uint32_t vcpu);
/* Wait until a port of the vcpu is notified: how many of ports (at most max) are set, 0: time is up. */
int guest_wait(struct guest *guest, uint32_t vcpu, int timeout_ms, uint32_t *ports, int max);

/* --- store; relative paths are relative to /local/domain/DOMID --- */
int guest_read(struct guest *guest, hyp_txn txn, const char *path, char **value);
int guest_write(struct guest *guest, hyp_txn txn, const char *path, const char *value);
int guest_writef(struct guest *guest, hyp_txn txn, const char *path, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
int guest_write_bytes(struct guest *guest, hyp_txn txn, const char *path, const void *value,
		      size_t len);
/* A number; fallback if the node is not there. -EINVAL: not a number. */
int guest_read_u64(struct guest *guest, const char *path, uint64_t *value);
uint64_t guest_read_u64_or(struct guest *guest, const char *path, uint64_t fallback);
int guest_rm(struct guest *guest, hyp_txn txn, const char *path);
int guest_list(struct guest *guest, hyp_txn txn, const char *path, char ***names,
	       unsigned int *count);
int guest_set_perms(struct guest *guest, hyp_txn txn, const char *path,
		    const struct hyp_perm *perms, unsigned int count);
int guest_get_perms(struct guest *guest, hyp_txn txn, const char *path, struct hyp_perm **perms,
		    unsigned int *count);
int guest_begin(struct guest *guest, hyp_txn *txn);
int guest_end(struct guest *guest, hyp_txn txn, bool commit);
int guest_watch(struct guest *guest, const char *path, const char *token);
int guest_unwatch(struct guest *guest, const char *path, const char *token);
/* 1: *path and *token are malloc'd; 0: time is up. */
int guest_event(struct guest *guest, int timeout_ms, char **path, char **token);
/* Wait until the node is one of values (a list that ends with NULL), watching it: the index, or
 * -ETIMEDOUT. A node that is not there counts as "". Eats events of other watches. */
int guest_wait_for(struct guest *guest, const char *path, const char *const *values,
		   int timeout_ms);

/* --- control --- */
int guest_stats(struct guest *guest, uint32_t domid, struct lb_stats *stats);
int guest_shutdown(struct guest *guest, uint32_t domid, int reason);
int guest_dom_create(struct guest *toolstack, uint32_t domid); /* -> domid */
int guest_dom_destroy(struct guest *toolstack, uint32_t domid);
int guest_fault(struct guest *toolstack, enum lb_fault fault, uint32_t domid, uint32_t n,
		int status);
/* Anything at all, for hostile tests: the answer's result. */
int guest_raw(struct guest *guest, const struct lb_msg *msg, const void *payload, size_t len,
	      int fd);
int guest_socket(const struct guest *guest);

/* Milliseconds of CLOCK_MONOTONIC. */
long long guest_now_ms(void);

#endif
