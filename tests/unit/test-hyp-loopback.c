/*
 * The loopback hypervisor, from both sides: the daemon's (hyp.h) and the guest's (tools/guest.h), in one
 * process but over the real socket.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <xen/xen.h>

#include <xen/grant_table.h>

#include "guest.h"
#include "hyp.h"
#include "log.h"

#define PAGES  64u
#define GRANTS 256u

struct fixture {
	char dir[64], socket[96];
	struct hyp *hyp;
	const struct hyp_ops *ops;
	struct hyp_gnt *gnt;
	struct hyp_evtchn *evtchn;
	struct hyp_store *store;
	struct guest *guest, *toolstack;
	uint32_t domid;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/rd-loopback-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->socket, sizeof(f->socket), "%s/sock", f->dir);
	assert_int_equal(hyp_loopback_open(f->socket, &f->hyp), 0);
	f->ops = f->hyp->ops;
	assert_int_equal(f->ops->gnt_open(f->hyp, &f->gnt), 0);
	assert_int_equal(f->ops->evtchn_open(f->hyp, &f->evtchn), 0);
	assert_int_equal(f->ops->store_open(f->hyp, &f->store), 0);
	assert_int_equal(guest_toolstack(f->socket, &f->toolstack), 0);
	assert_int_equal(guest_open(f->socket, 5, PAGES, GRANTS, &f->guest), 0);
	f->domid = guest_domid(f->guest);
	assert_int_equal(f->domid, 5);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	guest_close(f->guest);
	guest_close(f->toolstack);
	f->ops->gnt_close(f->gnt);
	f->ops->evtchn_close(f->evtchn);
	f->ops->store_close(f->store);
	f->ops->close(f->hyp);
	assert_int_equal(access(f->socket, F_OK), -1);
	rmdir(f->dir);
	free(f);
	return 0;
}

static int copy_one(struct fixture *f, uint32_t gref, void *local, bool to_guest)
{
	struct hyp_copy seg = {
		.gref = gref, .len = 16, .local = local, .to_guest = to_guest, .status = 99
	};

	assert_int_equal(f->ops->gnt_copy(f->gnt, f->domid, &seg, 1), 0);
	return seg.status;
}

static bool readable(int fd, int timeout_ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, timeout_ms) == 1;
}

/* ---- grants ------------------------------------------------------------------------------------ */

static void copy_both_ways(void **state)
{
	struct fixture *f = *state;
	char *page = guest_pages(f->guest, 1), local[16] = "from the daemon", back[16];
	uint32_t gref = guest_grant(f->guest, page, false);

	assert_int_equal(copy_one(f, gref, local, true), 0);
	assert_string_equal(page, local);
	strcpy(page, "from the guest");
	assert_int_equal(copy_one(f, gref, back, false), 0);
	assert_string_equal(back, "from the guest");
	assert_int_equal(guest_grant_in_use(f->guest, gref), 0);
}

static void copy_says_why_per_segment(void **state)
{
	struct fixture *f = *state;
	char *page = guest_pages(f->guest, 1), local[64];
	uint32_t good = guest_grant(f->guest, page, false), ro = guest_grant(f->guest, page, true);
	uint32_t other = guest_grant(f->guest, page, false),
		 wild = guest_grant(f->guest, page, false);
	struct hyp_copy seg[] = {
		{ .gref = good, .len = 16, .local = local, .to_guest = true },
		{ .gref = ro, .len = 16, .local = local, .to_guest = true },
		{ .gref = ro, .len = 16, .local = local, .to_guest = false },
		{ .gref = GRANTS, .len = 16, .local = local },
		{ .gref = UINT32_MAX, .len = 16, .local = local },
		{ .gref = GRANTS - 1, .len = 16, .local = local }, /* never given */
		{ .gref = other, .len = 16, .local = local },
		{ .gref = wild, .len = 16, .local = local },
		{ .gref = good, .offset = 4090, .len = 7, .local = local },
		{ .gref = good, .offset = 4090, .len = 6, .local = local },
	};
	static const int expected[] = {
		GNTST_okay,         GNTST_general_error, GNTST_okay,          GNTST_bad_gntref,
		GNTST_bad_gntref,   GNTST_general_error, GNTST_general_error, GNTST_bad_page,
		GNTST_bad_copy_arg, GNTST_okay,
	};

	memset(local, 0x5a, sizeof(local));
	guest_grant_set(f->guest, other, LB_GTF_PERMIT, 3, guest_frame(f->guest, page));
	guest_grant_set(f->guest, wild, LB_GTF_PERMIT, 0, guest_frames(f->guest));
	assert_int_equal(f->ops->gnt_copy(f->gnt, f->domid, seg, 10), 0);
	for (int i = 0; i < 10; i++)
		assert_int_equal(seg[i].status, expected[i]);
}

static void copy_of_no_domain(void **state)
{
	struct fixture *f = *state;
	struct hyp_copy seg = { .gref = 8, .len = 1, .local = &seg };

	assert_int_equal(f->ops->gnt_copy(f->gnt, 77, &seg, 1), 0);
	assert_int_equal(seg.status, GNTST_bad_domain);
}

static void map_is_contiguous_and_counted(void **state)
{
	struct fixture *f = *state;
	char *page = guest_pages(f->guest, 4), *at;
	uint32_t gref[4];
	struct lb_stats stats;
	void *addr;

	for (int i = 0; i < 4; i++) { /* in another order than they lie in memory */
		page[(size_t)i * 4096] = (char)('a' + i);
		gref[i] = guest_grant(f->guest, page + (size_t)((i + 2) % 4) * 4096, false);
	}
	assert_int_equal(f->ops->gnt_map(f->gnt, f->domid, gref, 4, true, &addr), 0);
	at = addr;
	for (int i = 0; i < 4; i++)
		assert_int_equal(at[(size_t)i * 4096], 'a' + (i + 2) % 4);
	at[1] = 'x';
	assert_int_equal(page[(size_t)2 * 4096 + 1], 'x');
	assert_int_equal(guest_grant_in_use(f->guest, gref[3]), 1);
	assert_int_equal(guest_stats(f->guest, f->domid, &stats), 0);
	assert_int_equal(stats.mapped, 4);
	assert_int_equal(guest_grant_end(f->guest, gref[0]), -EBUSY);

	assert_int_equal(f->ops->gnt_unmap(f->gnt, addr, 3), -EINVAL);
	assert_int_equal(f->ops->gnt_unmap(f->gnt, addr, 4), 0);
	assert_int_equal(f->ops->gnt_unmap(f->gnt, addr, 4), -EINVAL);
	assert_int_equal(guest_grant_in_use(f->guest, gref[3]), 0);
	assert_int_equal(guest_stats(f->toolstack, f->domid, &stats), 0);
	assert_int_equal(stats.mapped, 0);
}

static void map_is_all_or_none(void **state)
{
	struct fixture *f = *state;
	char *page = guest_pages(f->guest, 1);
	uint32_t gref[3] = { guest_grant(f->guest, page, false), guest_grant(f->guest, page, true),
			     GRANTS };
	void *addr;

	assert_int_equal(f->ops->gnt_map(f->gnt, f->domid, gref, 2, true, &addr), -EINVAL);
	assert_int_equal(f->ops->gnt_map(f->gnt, f->domid, gref, 3, false, &addr), -EINVAL);
	assert_int_equal(f->ops->gnt_map(f->gnt, 99, gref, 1, false, &addr), -EINVAL);
	for (int i = 0; i < 2; i++)
		assert_int_equal(guest_grant_in_use(f->guest, gref[i]), 0);
	assert_int_equal(f->ops->gnt_map(f->gnt, f->domid, gref, 2, false, &addr), 0);
	assert_int_equal(f->ops->gnt_unmap(f->gnt, addr, 2), 0);
}

/* A read-only map must not be writable: ask the kernel, by a system call that would write there. */
static void map_readonly_is_readonly(void **state)
{
	struct fixture *f = *state;
	char *page = guest_pages(f->guest, 1);
	uint32_t gref = guest_grant(f->guest, page, true);
	int fds[2];
	void *addr;

	assert_int_equal(f->ops->gnt_map(f->gnt, f->domid, &gref, 1, false, &addr), 0);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(read(fds[0], addr, 1), -1);
	assert_int_equal(errno, EFAULT);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(f->ops->gnt_unmap(f->gnt, addr, 1), 0);
}

static void revoke_takes_the_pages_away(void **state)
{
	struct fixture *f = *state;
	char *page = guest_pages(f->guest, 2);
	uint32_t gref[2] = { guest_grant(f->guest, page, false),
			     guest_grant(f->guest, page + 4096, false) };
	char *at;
	void *addr;

	strcpy(page, "secret");
	assert_int_equal(f->ops->gnt_map(f->gnt, f->domid, gref, 2, true, &addr), 0);
	at = addr;
	assert_int_equal(f->ops->gnt_revoke(f->gnt, addr, 2), 0);
	assert_int_equal(guest_grant_in_use(f->guest, gref[0]), 0);
	assert_int_equal(guest_grant_end(f->guest, gref[0]), 0);
	/* A private copy: a write that goes on late writes what it was to. */
	assert_string_equal(at, "secret");
	at[0] = 'x';
	assert_string_equal(page, "secret");
	assert_int_equal(f->ops->gnt_unmap(f->gnt, addr, 2), 0);
	assert_int_equal(guest_grant_in_use(f->guest, gref[1]), 0);
}

static void close_unmaps(void **state)
{
	struct fixture *f = *state;
	uint32_t gref = guest_grant(f->guest, guest_pages(f->guest, 1), false);
	struct hyp_gnt *gnt;
	void *addr;

	assert_int_equal(f->ops->gnt_open(f->hyp, &gnt), 0);
	assert_int_equal(f->ops->gnt_map(gnt, f->domid, &gref, 1, true, &addr), 0);
	f->ops->gnt_close(gnt);
	assert_int_equal(guest_grant_in_use(f->guest, gref), 0);
}

static void nth_grant_fails_on_demand(void **state)
{
	struct fixture *f = *state;
	char *page = guest_pages(f->guest, 1), local[16] = "";
	uint32_t gref[4];
	void *addr;

	for (int i = 0; i < 4; i++)
		gref[i] = guest_grant(f->guest, page, false);
	for (uint32_t k = 1; k <= 4; k++) {
		assert_int_equal(
			guest_fault(f->toolstack, LB_FAULT_GRANT, f->domid, k, GNTST_eagain), 0);
		for (uint32_t i = 1; i <= 4; i++)
			assert_int_equal(copy_one(f, gref[0], local, true),
					 i == k ? GNTST_eagain : 0);
		assert_int_equal(
			guest_fault(f->toolstack, LB_FAULT_GRANT, f->domid, k, GNTST_eagain), 0);
		assert_int_equal(f->ops->gnt_map(f->gnt, f->domid, gref, 4, true, &addr), -EINVAL);
		for (int i = 0; i < 4; i++)
			assert_int_equal(guest_grant_in_use(f->guest, gref[i]), 0);
		assert_int_equal(guest_fault(f->toolstack, LB_FAULT_NONE, f->domid, 0, 0), 0);
	}
	assert_int_equal(guest_fault(f->toolstack, LB_FAULT_GRANT_ALL, f->domid, 2, -1), 0);
	assert_int_equal(copy_one(f, gref[0], local, true), 0);
	assert_int_equal(copy_one(f, gref[0], local, true), -1);
	assert_int_equal(copy_one(f, gref[0], local, true), -1);
	assert_int_equal(guest_fault(f->guest, LB_FAULT_NONE, f->domid, 0, 0), -EPERM);
}

/* ---- events ------------------------------------------------------------------------------------ */

static int bind_one(struct fixture *f, struct guest_port *port)
{
	int local;

	assert_int_equal(guest_port_open(f->guest, 0, 0, port), 0);
	local = f->ops->evtchn_bind(f->evtchn, f->domid, port->port);
	assert_true(local > 0);
	return local;
}

static void event_is_pending_after_bind(void **state)
{
	struct fixture *f = *state;
	struct guest_port port;
	int local = bind_one(f, &port);

	assert_true(readable(f->ops->evtchn_fd(f->evtchn), 0));
	assert_int_equal(f->ops->evtchn_pending(f->evtchn), local);
	assert_int_equal(f->ops->evtchn_pending(f->evtchn), -EAGAIN);
	assert_false(readable(f->ops->evtchn_fd(f->evtchn), 0));
	guest_port_close(f->guest, &port);
}

static void event_is_masked_until_unmask(void **state)
{
	struct fixture *f = *state;
	struct guest_port port;
	int local = bind_one(f, &port), fd = f->ops->evtchn_fd(f->evtchn);

	assert_int_equal(f->ops->evtchn_pending(f->evtchn), local);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 3; i++) {
			assert_int_equal(guest_notify(&port), 0);
			assert_int_equal(f->ops->evtchn_pending(f->evtchn), -EAGAIN);
		}
		assert_false(readable(fd, 0)); /* a storm on a masked port wakes nobody */
		assert_int_equal(f->ops->evtchn_unmask(f->evtchn, local), 0);
		assert_true(readable(fd, 0));
		assert_int_equal(f->ops->evtchn_pending(f->evtchn), local);
	}
	assert_int_equal(f->ops->evtchn_unmask(f->evtchn, local), 0);
	assert_false(readable(fd, 0)); /* nothing new */
	assert_int_equal(guest_notify(&port), 0);
	assert_int_equal(f->ops->evtchn_pending(f->evtchn), local);
	guest_port_close(f->guest, &port);
}

static void event_between_pending_and_unmask_is_kept(void **state)
{
	struct fixture *f = *state;
	struct guest_port port;
	int local = bind_one(f, &port);

	assert_int_equal(f->ops->evtchn_pending(f->evtchn), local);
	assert_int_equal(guest_notify(&port), 0);
	assert_int_equal(f->ops->evtchn_unmask(f->evtchn, local), 0);
	assert_int_equal(f->ops->evtchn_pending(f->evtchn), local);
	guest_port_close(f->guest, &port);
}

static void notify_reaches_the_guest_each_time(void **state)
{
	struct fixture *f = *state;
	struct guest_port port[2];
	int local[2] = { bind_one(f, &port[0]), bind_one(f, &port[1]) };
	uint32_t got[4];

	assert_int_equal(guest_wait(f->guest, 0, 0, got, 4), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(f->ops->evtchn_notify(f->evtchn, local[1]), 0);
		assert_int_equal(guest_wait(f->guest, 0, 5000, got, 4), 1);
		assert_int_equal(got[0], port[1].port);
		assert_int_equal(guest_wait(f->guest, 0, 0, got, 4), 0);
	}
	assert_int_equal(f->ops->evtchn_notify(f->evtchn, local[0]), 0);
	assert_int_equal(f->ops->evtchn_notify(f->evtchn, local[1]), 0);
	assert_int_equal(guest_wait(f->guest, 0, 5000, got, 4), 2);
	guest_port_close(f->guest, &port[0]);
	guest_port_close(f->guest, &port[1]);
}

static void bind_refuses_what_is_not_ours(void **state)
{
	struct fixture *f = *state;
	struct guest_port port, foreign;
	int local = bind_one(f, &port);

	assert_int_equal(guest_port_open(f->guest, 3, 0, &foreign), 0);
	assert_int_equal(f->ops->evtchn_bind(f->evtchn, f->domid, foreign.port), -EINVAL);
	assert_int_equal(f->ops->evtchn_bind(f->evtchn, f->domid, port.port), -EINVAL); /* bound */
	assert_int_equal(f->ops->evtchn_bind(f->evtchn, f->domid, 0), -EINVAL);
	assert_int_equal(f->ops->evtchn_bind(f->evtchn, f->domid, 200), -EINVAL);
	assert_int_equal(f->ops->evtchn_bind(f->evtchn, f->domid, UINT32_MAX), -EINVAL);
	assert_int_equal(f->ops->evtchn_bind(f->evtchn, 99, port.port), -ESRCH);
	assert_int_equal(f->ops->evtchn_notify(f->evtchn, 40), -EINVAL);
	assert_int_equal(f->ops->evtchn_unbind(f->evtchn, 40), -EINVAL);
	/* unbound, it can be bound again */
	assert_int_equal(f->ops->evtchn_unbind(f->evtchn, local), 0);
	assert_int_equal(f->ops->evtchn_bind(f->evtchn, f->domid, port.port), local);
	guest_port_close(f->guest, &foreign);
	guest_port_close(f->guest, &port); /* while it is bound */
	assert_int_equal(f->ops->evtchn_notify(f->evtchn, local), 0);
}

/* ---- store ------------------------------------------------------------------------------------- */

#define T0 HYP_TXN_NONE

static void assert_node(struct guest *guest, const char *path, const char *expected)
{
	char *value;

	assert_int_equal(guest_read(guest, T0, path, &value), 0);
	assert_string_equal(value, expected);
	free(value);
}

static void put(struct fixture *f, const char *path, const char *value)
{
	assert_int_equal(f->ops->store_write(f->store, T0, path, value, strlen(value)), 0);
}

static void store_basics(void **state)
{
	struct fixture *f = *state;
	char *value, **names;
	unsigned int count;
	size_t len;

	assert_int_equal(f->ops->store_write(f->store, T0, "/a/b/c", "x\0y", 3), 0);
	assert_int_equal(f->ops->store_read(f->store, T0, "/a/b/c", &value, &len), 0);
	assert_int_equal(len, 3);
	assert_memory_equal(value, "x\0y", 4);
	free(value);
	put(f, "/a/b/d", "");
	assert_int_equal(f->ops->store_list(f->store, T0, "/a/b", &names, &count), 0);
	assert_int_equal(count, 2);
	assert_true(!strcmp(names[0], "c") || !strcmp(names[1], "c"));
	free(names);
	assert_int_equal(f->ops->store_list(f->store, T0, "/a/b/c", &names, &count), 0);
	assert_int_equal(count, 0);
	free(names);
	assert_int_equal(f->ops->store_rm(f->store, T0, "/a"), 0);
	assert_int_equal(f->ops->store_read(f->store, T0, "/a/b/c", &value, &len), -ENOENT);
	assert_int_equal(f->ops->store_read(f->store, T0, "/a/b", &value, &len), -ENOENT);
	assert_int_equal(f->ops->store_rm(f->store, T0, "/a"),
			 0); /* as xenstored: its parent is there */
	assert_int_equal(f->ops->store_rm(f->store, T0, "/a/b/c"), -ENOENT);
}

static void store_refuses_bad_paths(void **state)
{
	static const char *const bad[] = { "",     "a",    "//",    "/a//b", "/a/",
					   "/a b", "/a\n", "/\xff", "/a.b" };
	struct fixture *f = *state;
	char longest[3074];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(f->ops->store_write(f->store, T0, bad[i], "", 0), -EINVAL);
	memset(longest, 'x', sizeof(longest));
	longest[0] = '/';
	longest[3073] = 0;
	assert_int_equal(f->ops->store_write(f->store, T0, longest, "", 0), -EINVAL);
	longest[3072] = 0;
	assert_int_equal(f->ops->store_write(f->store, T0, longest, "", 0), 0);
}

static void store_permissions(void **state)
{
	struct fixture *f = *state;
	struct hyp_perm perms[2] = { { .domid = 0, .perm = HYP_PERM_NONE },
				     { .domid = 5, .perm = HYP_PERM_READ } };
	struct hyp_perm *got;
	struct guest *six;
	unsigned int count;
	char *value;

	assert_int_equal(guest_open(f->socket, 6, 4, 16, &six), 0);
	put(f, "/be/5/state", "2");
	assert_int_equal(f->ops->store_set_perms(f->store, T0, "/be/5/state", perms, 2), 0);
	assert_node(f->guest, "/be/5/state", "2");
	assert_int_equal(guest_write(f->guest, T0, "/be/5/state", "6"), -EACCES);
	assert_int_equal(guest_write(f->guest, T0, "/be/5/state/sub", "6"), -EACCES);
	assert_int_equal(guest_rm(f->guest, T0, "/be/5/state"), -EACCES);
	assert_int_equal(guest_read(six, T0, "/be/5/state", &value), -EACCES);
	assert_int_equal(guest_read(six, T0, "/be/5/missing", &value), -EACCES);
	assert_int_equal(guest_set_perms(f->guest, T0, "/be/5/state", perms, 1), -EACCES);

	/* its own part of the tree */
	assert_int_equal(guest_write(f->guest, T0, "device/vbd/51712/state", "1"), 0);
	assert_int_equal(guest_read(six, T0, "/local/domain/5/device/vbd/51712/state", &value),
			 -EACCES);
	assert_int_equal(guest_write(six, T0, "/local/domain/5/x", "1"), -EACCES);
	assert_node(f->toolstack, "/local/domain/5/device/vbd/51712/state", "1");
	assert_int_equal(guest_get_perms(f->guest, T0, "device/vbd/51712/state", &got, &count), 0);
	assert_int_equal(count, 1);
	assert_int_equal(got[0].domid, 5);
	free(got);
	perms[0].domid = 5;
	perms[1].domid = 6;
	assert_int_equal(guest_set_perms(f->guest, T0, "device", perms, 2), 0);
	assert_int_equal(guest_read(six, T0, "/local/domain/5/device", &value), 0);
	free(value);
	perms[0].domid = 6; /* a node is not given away */
	assert_int_equal(guest_set_perms(f->guest, T0, "device", perms, 1), -EPERM);
	guest_close(six);
}

static void store_transactions(void **state)
{
	struct fixture *f = *state;
	hyp_txn txn;
	char *value;

	assert_int_equal(guest_write(f->guest, T0, "n", "1"), 0);
	assert_int_equal(guest_begin(f->guest, &txn), 0);
	assert_int_equal(guest_write(f->guest, txn, "n", "2"), 0);
	assert_int_equal(guest_write(f->guest, txn, "new/deep", "3"), 0);
	assert_node(f->guest, "n", "1");
	assert_int_equal(guest_read(f->guest, T0, "new", &value), -ENOENT);
	assert_int_equal(guest_read(f->guest, txn, "new/deep", &value), 0);
	free(value);
	assert_int_equal(guest_end(f->guest, txn, true), 0);
	assert_node(f->guest, "n", "2");
	assert_node(f->guest, "new/deep", "3");
	assert_int_equal(guest_end(f->guest, txn, true), -ENOENT);
	assert_int_equal(guest_write(f->guest, txn, "n", "2"), -ENOENT);

	assert_int_equal(guest_begin(f->guest, &txn), 0);
	assert_int_equal(guest_rm(f->guest, txn, "new"), 0);
	assert_int_equal(guest_read(f->guest, txn, "new/deep", &value), -ENOENT);
	assert_node(f->guest, "new/deep", "3");
	assert_int_equal(guest_end(f->guest, txn, false), 0);
	assert_node(f->guest, "new/deep", "3");
}

static void store_transaction_conflicts(void **state)
{
	struct fixture *f = *state;
	hyp_txn txn;
	char *value;

	/* it read what another has written since */
	put(f, "/local/domain/5/n", "1");
	assert_int_equal(guest_begin(f->guest, &txn), 0);
	assert_int_equal(guest_read(f->guest, txn, "n", &value), 0);
	free(value);
	assert_int_equal(guest_write(f->guest, txn, "m", "2"), 0);
	put(f, "/local/domain/5/n", "1");
	assert_int_equal(guest_end(f->guest, txn, true), -EAGAIN);
	assert_int_equal(guest_read(f->guest, T0, "m", &value), -ENOENT);
	/* it found missing what another has made */
	assert_int_equal(guest_begin(f->guest, &txn), 0);
	assert_int_equal(guest_read(f->guest, txn, "o", &value), -ENOENT);
	put(f, "/local/domain/5/o", "1");
	assert_int_equal(guest_end(f->guest, txn, true), -EAGAIN);
	/* what others do elsewhere is no conflict */
	assert_int_equal(guest_begin(f->guest, &txn), 0);
	assert_int_equal(guest_write(f->guest, txn, "n", "2"), 0);
	put(f, "/elsewhere", "1");
	assert_int_equal(guest_end(f->guest, txn, true), 0);
	assert_node(f->guest, "n", "2");
}

static void expect_event(struct guest *guest, const char *path, const char *token)
{
	char *got_path, *got_token;

	assert_int_equal(guest_event(guest, 5000, &got_path, &got_token), 1);
	assert_string_equal(got_path, path);
	assert_string_equal(got_token, token);
	free(got_path);
	free(got_token);
}

/* What a connection asked for later is answered later: when the answer is here, no event is under way. */
static void expect_no_event(struct guest *guest)
{
	char *path, *token, *value;

	assert_int_equal(guest_read(guest, T0, "domid", &value) & 0, 0);
	free(value);
	assert_int_equal(guest_event(guest, 0, &path, &token), 0);
}

static void store_watches(void **state)
{
	struct fixture *f = *state;
	hyp_txn txn;

	assert_int_equal(guest_watch(f->guest, "device", "tok"), 0);
	assert_int_equal(guest_watch(f->guest, "device", "tok"), -EEXIST);
	expect_event(f->guest, "/local/domain/5/device", "tok");
	put(f, "/local/domain/5/device/a", "1");
	expect_event(f->guest, "/local/domain/5/device/a", "tok");
	put(f, "/local/domain/5/devices", "1");
	put(f, "/local/domain/5/devic", "1");
	expect_no_event(f->guest);
	/* a node that vanishes with its parent */
	assert_int_equal(guest_watch(f->guest, "device/a", "sub"), 0);
	expect_event(f->guest, "/local/domain/5/device/a", "sub");
	assert_int_equal(f->ops->store_rm(f->store, T0, "/local/domain/5/device"), 0);
	expect_event(f->guest, "/local/domain/5/device/a", "sub");
	expect_event(f->guest, "/local/domain/5/device", "tok");
	/* a transaction is seen when it is done */
	assert_int_equal(f->ops->store_begin(f->store, &txn), 0);
	assert_int_equal(f->ops->store_write(f->store, txn, "/local/domain/5/device/b", "", 0), 0);
	expect_no_event(f->guest);
	assert_int_equal(f->ops->store_end(f->store, txn, true), 0);
	expect_event(f->guest, "/local/domain/5/device/b", "tok");
	assert_int_equal(guest_unwatch(f->guest, "device", "tok"), 0);
	assert_int_equal(guest_unwatch(f->guest, "device", "tok"), -ENOENT);
	put(f, "/local/domain/5/device/b", "2");
	expect_no_event(f->guest);
}

static void store_watch_hides_what_may_not_be_read(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(guest_watch(f->guest, "/", "all"), 0);
	expect_event(f->guest, "/", "all");
	put(f, "/secret", "1");
	expect_no_event(f->guest);
	put(f, "/local/domain/5/x", "1");
	expect_event(f->guest, "/local/domain/5/x", "all");
}

static void store_quotas(void **state)
{
	struct fixture *f = *state;
	char name[64], big[4097];
	hyp_txn txn;
	int i, rc = 0;

	memset(big, 'x', sizeof(big));
	assert_int_equal(guest_write_bytes(f->guest, T0, "big", big, 2049), -ENOSPC);
	assert_int_equal(guest_write_bytes(f->guest, T0, "big", big, 2048), 0);
	assert_int_equal(guest_write_bytes(f->toolstack, T0, "/big", big, 4097), -E2BIG);
	assert_int_equal(guest_write_bytes(f->toolstack, T0, "/big", big, 4096), 0);
	for (i = 0; i < 2000 && !rc; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		rc = guest_write(f->guest, T0, name, "");
	}
	assert_int_equal(rc, -ENOSPC);
	assert_true(i > 900 && i < 1001);
	assert_int_equal(guest_rm(f->guest, T0, "n0"), 0);
	assert_int_equal(guest_write(f->guest, T0, "again", ""), 0);
	for (i = 0, rc = 0; i < 20 && !rc; i++)
		rc = guest_begin(f->guest, &txn);
	assert_int_equal(rc, -ENOSPC);
	for (i = 0, rc = 0; i < 200 && !rc; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		rc = guest_watch(f->guest, name, "t");
	}
	assert_int_equal(rc, -ENOSPC);
}

/* As deep as a path can be, then all of it removed at once. */
static void store_deep_tree(void **state)
{
	struct fixture *f = *state;
	char path[3073] = "";
	char *value;
	size_t len;

	for (size_t i = 0; i < 3072; i += 2)
		memcpy(path + i, "/a", 2);
	path[3072] = 0;
	assert_int_equal(f->ops->store_write(f->store, T0, path, "deep", 4), 0);
	assert_int_equal(f->ops->store_rm(f->store, T0, "/a"), 0);
	assert_int_equal(f->ops->store_read(f->store, T0, path, &value, &len), -ENOENT);
}

static void expect_daemon_event(struct fixture *f, const char *path, const char *token)
{
	char *got_path, *got_token;

	assert_true(readable(f->ops->store_fd(f->store), 5000));
	while (!f->ops->store_event(f->store, &got_path, &got_token))
		assert_true(readable(f->ops->store_fd(f->store), 5000));
	assert_string_equal(got_path, path);
	assert_string_equal(got_token, token);
	free(got_path);
	free(got_token);
}

static void store_can_be_lost(void **state)
{
	struct fixture *f = *state;
	struct hyp_store *second;
	char *path, *token;

	assert_int_equal(f->ops->store_watch(f->store, "/x", "t"), 0);
	expect_daemon_event(f, "/x", "t");
	assert_int_equal(guest_fault(f->toolstack, LB_FAULT_STORE, 0, 0, 0), 0);
	assert_true(readable(f->ops->store_fd(f->store), 5000));
	assert_int_equal(f->ops->store_event(f->store, &path, &token), -EPIPE);
	assert_int_equal(f->ops->store_write(f->store, T0, "/x", "", 0), -EPIPE);
	assert_int_equal(f->ops->domain_alive(f->store, 5), -EPIPE);
	assert_int_equal(f->ops->store_open(f->hyp, &second), -ECONNREFUSED);
	assert_int_equal(guest_fault(f->toolstack, LB_FAULT_NONE, 0, 0, 0), 0);
	assert_int_equal(f->ops->store_write(f->store, T0, "/x", "", 0), -EPIPE);
	assert_int_equal(f->ops->store_open(f->hyp, &second), 0);
	assert_int_equal(f->ops->store_write(second, T0, "/x", "", 0), 0);
	f->ops->store_close(second);
}

/* ---- domains ----------------------------------------------------------------------------------- */

static void domain_that_vanishes_is_dead(void **state)
{
	struct fixture *f = *state;
	char *page = guest_pages(f->guest, 1), local[16] = "", *value;
	uint32_t gref = guest_grant(f->guest, page, false);
	struct guest_port port;
	int evtchn = bind_one(f, &port);
	void *addr, *other;
	size_t len;

	assert_int_equal(f->ops->gnt_map(f->gnt, f->domid, &gref, 1, true, &addr), 0);
	assert_int_equal(f->ops->store_watch(f->store, "@releaseDomain", "dead"), 0);
	expect_daemon_event(f, "@releaseDomain", "dead");
	assert_int_equal(f->ops->domain_alive(f->store, 5), 1);
	strcpy(page, "still here");
	guest_vanish(f->guest);
	expect_daemon_event(f, "@releaseDomain", "dead");
	assert_int_equal(f->ops->domain_alive(f->store, 5), 0);
	/* what we had we keep, what is new we do not get */
	assert_string_equal(addr, "still here");
	assert_int_equal(f->ops->evtchn_notify(f->evtchn, evtchn), 0);
	assert_int_equal(copy_one(f, gref, local, true), GNTST_bad_domain);
	assert_int_equal(f->ops->gnt_map(f->gnt, f->domid, &gref, 1, true, &other), -EINVAL);
	assert_int_equal(f->ops->gnt_unmap(f->gnt, addr, 1), 0);
	assert_int_equal(f->ops->evtchn_unbind(f->evtchn, evtchn), 0);
	/* its nodes are the toolstack's to remove */
	assert_int_equal(f->ops->store_read(f->store, T0, "/local/domain/5/domid", &value, &len),
			 0);
	free(value);
	guest_close(f->guest);
	/* the next one of that number is another */
	assert_int_equal(guest_open(f->socket, 5, PAGES, GRANTS, &f->guest), 0);
	page = guest_pages(f->guest, 1);
	gref = guest_grant(f->guest, page, false);
	strcpy(local, "new");
	assert_int_equal(copy_one(f, gref, local, true), 0);
	assert_string_equal(page, "new");
	close(port.kick_fd);
}

static void toolstack_makes_and_destroys(void **state)
{
	struct fixture *f = *state;
	struct guest *nine, *other;
	char *value;

	assert_int_equal(f->ops->store_watch(f->store, "@introduceDomain", "new"), 0);
	expect_daemon_event(f, "@introduceDomain", "new");
	assert_int_equal(guest_dom_create(f->toolstack, 9), 9);
	expect_daemon_event(f, "@introduceDomain", "new");
	assert_int_equal(guest_dom_create(f->toolstack, 9), -EEXIST);
	assert_int_equal(guest_dom_create(f->guest, 10), -EPERM);
	assert_int_equal(f->ops->domain_alive(f->store, 9), 1);
	assert_int_equal(guest_open(f->socket, 9, 4, 16, &nine), 0);
	assert_int_equal(guest_open(f->socket, 9, 4, 16, &other), -EBUSY);
	assert_int_equal(guest_shutdown(nine, 5, 3), -ESRCH); /* only itself */
	assert_int_equal(f->ops->shutdown_reason(f->hyp, 9), HYP_RUNNING);
	assert_int_equal(guest_shutdown(nine, 9, HYP_SHUTDOWN_SUSPEND), 0);
	assert_int_equal(f->ops->shutdown_reason(f->hyp, 9), HYP_SHUTDOWN_SUSPEND);
	assert_int_equal(f->ops->domain_alive(f->store, 9), 1);
	assert_int_equal(guest_dom_destroy(f->guest, 9), -EPERM);
	assert_int_equal(guest_dom_destroy(f->toolstack, 9), 0);
	assert_int_equal(f->ops->domain_alive(f->store, 9), 0);
	assert_int_equal(guest_read(nine, T0, "domid", &value), -EPIPE);
	guest_close(nine);
	assert_int_equal(guest_open(f->socket, GUEST_ANY, 4, 16, &nine), 0);
	assert_int_equal(guest_domid(nine), 1);
	guest_close(nine);
}

/* ---- hostile clients --------------------------------------------------------------------------- */

static int raw_client(struct fixture *f)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, f->socket);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static int hello_with(struct fixture *f, int memfd, uint32_t domid, uint32_t nr_grants)
{
	struct lb_msg msg = { .op = LB_HELLO, .a = LB_MAGIC, .b = domid, .c = nr_grants };
	struct cmsghdr *cmsg;
	struct lb_reply reply = { .result = -999 };
	char control[CMSG_SPACE(sizeof(int))] = "";
	struct iovec iov = { .iov_base = &msg, .iov_len = sizeof(msg) };
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };
	int fd = raw_client(f);

	if (memfd >= 0) {
		hdr.msg_control = control;
		hdr.msg_controllen = sizeof(control);
		cmsg = CMSG_FIRSTHDR(&hdr);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &memfd, sizeof(int));
	}
	assert_int_equal(sendmsg(fd, &hdr, MSG_NOSIGNAL), sizeof(msg));
	assert_int_equal(recv(fd, &reply, sizeof(reply), 0), sizeof(reply));
	close(fd);
	return reply.result;
}

static void memory_that_could_fault_is_refused(void **state)
{
	struct fixture *f = *state;
	int memfd = memfd_create("t", MFD_CLOEXEC | MFD_ALLOW_SEALING), pipes[2], file;
	char path[128];

	assert_int_equal(ftruncate(memfd, 8192), 0);
	assert_int_equal(hello_with(f, memfd, 20, 16), -EINVAL); /* could shrink */
	assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	assert_int_equal(hello_with(f, memfd, 20, 513), -EINVAL); /* the table does not fit */
	assert_int_equal(hello_with(f, memfd, 20, UINT32_MAX), -EINVAL);
	assert_int_equal(hello_with(f, memfd, 0x7ff0, 16), -EINVAL); /* no such number */
	assert_int_equal(hello_with(f, -1, 20, 16), -EINVAL);
	assert_int_equal(hello_with(f, memfd, 20, 512), 20);
	assert_int_equal(ftruncate(memfd, 8193), 0);
	assert_int_equal(hello_with(f, memfd, 21, 16), -EINVAL); /* not whole pages */
	close(memfd);
	memfd = memfd_create("t", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	assert_int_equal(hello_with(f, memfd, 21, 0), -EINVAL); /* empty */
	close(memfd);
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(hello_with(f, pipes[0], 21, 0), -EINVAL);
	close(pipes[0]);
	close(pipes[1]);
	snprintf(path, sizeof(path), "%s/file", f->dir);
	file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(file, 8192), 0);
	assert_int_equal(hello_with(f, file, 21, 0), -EINVAL);
	close(file);
	unlink(path);
	assert_int_equal(f->ops->domain_alive(f->store, 21), 0);
}

static void garbage_harms_nobody(void **state)
{
	struct fixture *f = *state;
	unsigned int seed = 1;
	char buf[512];
	int fd = -1;

	for (int i = 0; i < 3000; i++) {
		struct lb_msg *msg = (struct lb_msg *)(void *)buf;
		size_t len = (size_t)(rand_r(&seed) % (int)sizeof(buf)) + 1;

		if (fd < 0)
			fd = raw_client(f);
		for (size_t j = 0; j < len; j++)
			buf[j] = (char)rand_r(&seed);
		if (i %
		    4) /* a message that is right enough to be looked at; not the destructive ones */
			msg->op = (uint32_t)rand_r(&seed) % LB_SHUTDOWN;
		if (i % 7 == 1) {
			msg->op = LB_HELLO;
			msg->a = LB_MAGIC;
			msg->b = 0;
		}
		if (send(fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 || i % 50 == 49) {
			close(fd);
			fd = -1;
		}
		while (fd >= 0 && recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
			;
	}
	if (fd >= 0)
		close(fd);
	assert_int_equal(guest_write(f->guest, T0, "alive", "1"), 0);
	assert_node(f->guest, "alive", "1");
}

/* A client that asks and never reads is not answered any more; the others are. */
static void client_that_never_reads(void **state)
{
	struct fixture *f = *state;
	struct lb_msg msg = { .op = LB_HELLO, .a = LB_MAGIC };
	char big[4096], packet[64] = "";
	int fd = raw_client(f);

	memset(big, 'x', sizeof(big));
	assert_int_equal(guest_write_bytes(f->toolstack, T0, "/big", big, sizeof(big)), 0);
	assert_int_equal(send(fd, &msg, sizeof(msg), 0), sizeof(msg));
	msg.op = LB_READ;
	memcpy(packet, &msg, sizeof(msg));
	strcpy(packet + sizeof(msg), "/big");
	for (int i = 0; i < 5000; i++)
		if (send(fd, packet, sizeof(msg) + 5, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			usleep(100); /* its queue is full: that is the point */
	assert_int_equal(guest_write(f->guest, T0, "alive", "1"), 0);
	close(fd);
	assert_int_equal(guest_write(f->guest, T0, "alive", "2"), 0);
}

static void guest_that_never_reads_events_is_cut_off(void **state)
{
	struct fixture *f = *state;
	struct guest *six;
	char path[64];
	int alive = 1;

	assert_int_equal(guest_open(f->socket, 6, 4, 16, &six), 0);
	assert_int_equal(guest_watch(six, "/local/domain/6", "t"), 0);
	for (int i = 0; i < 20000 && alive; i++) {
		snprintf(path, sizeof(path), "/local/domain/6/n%d", i);
		put(f, path, "");
		assert_int_equal(f->ops->store_rm(f->store, T0, path), 0);
		alive = f->ops->domain_alive(f->store, 6);
	}
	assert_int_equal(alive, 0);
	assert_int_equal(guest_write(f->guest, T0, "alive", "1"), 0);
	guest_close(six);
}

/* However many ports guests ask for, the daemon can still open what it needs. */
static void descriptors_are_left_for_the_daemon(void **state)
{
	struct rlimit saved, tight;
	struct fixture *f = *state;
	struct guest_port port[150];
	struct hyp_evtchn *evtchn;
	struct hyp *second;
	struct guest *guest;
	char path[128];
	int n = 0, rc = 0;

	getrlimit(RLIMIT_NOFILE, &saved);
	tight = (struct rlimit){ .rlim_cur = 300, .rlim_max = saved.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
	snprintf(path, sizeof(path), "%s/second", f->dir);
	assert_int_equal(hyp_loopback_open(path, &second), 0);
	assert_int_equal(guest_open(path, 5, 4, 16, &guest), 0);
	while (n < 150 && !(rc = guest_port_open(guest, 0, 0, &port[n])))
		n++;
	assert_int_equal(rc, -EMFILE);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(second->ops->evtchn_open(second, &evtchn), 0);
		second->ops->evtchn_close(evtchn);
	}
	while (n--)
		guest_port_close(guest, &port[n]);
	guest_close(guest);
	second->ops->close(second);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &saved), 0);
}

static void socket_is_taken_over_only_if_stale(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct hyp *second;
	int fd;

	log_set_level(LOG_HYP, LOG_LVL_ERR);
	assert_int_equal(hyp_loopback_open(f->socket, &second), -EADDRINUSE);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/stale", f->dir);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	assert_int_equal(hyp_loopback_open(addr.sun_path, &second), 0);
	second->ops->close(second);
	assert_int_equal(hyp_loopback_open("/nonexistent/dir/sock", &second), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(copy_both_ways),
		T(copy_says_why_per_segment),
		T(copy_of_no_domain),
		T(map_is_contiguous_and_counted),
		T(map_is_all_or_none),
		T(map_readonly_is_readonly),
		T(revoke_takes_the_pages_away),
		T(close_unmaps),
		T(nth_grant_fails_on_demand),
		T(event_is_pending_after_bind),
		T(event_is_masked_until_unmask),
		T(event_between_pending_and_unmask_is_kept),
		T(notify_reaches_the_guest_each_time),
		T(bind_refuses_what_is_not_ours),
		T(store_basics),
		T(store_refuses_bad_paths),
		T(store_permissions),
		T(store_transactions),
		T(store_transaction_conflicts),
		T(store_watches),
		T(store_watch_hides_what_may_not_be_read),
		T(store_quotas),
		T(store_deep_tree),
		T(store_can_be_lost),
		T(domain_that_vanishes_is_dead),
		T(toolstack_makes_and_destroys),
		T(memory_that_could_fault_is_refused),
		T(garbage_harms_nobody),
		T(client_that_never_reads),
		T(guest_that_never_reads_events_is_cut_off),
		T(descriptors_are_left_for_the_daemon),
		T(socket_is_taken_over_only_if_stale),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
