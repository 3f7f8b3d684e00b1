/*
 * The loopback hypervisor: everything that hyp.h asks for, in user space, in the daemon's own process, so
 * that disks can be served, tried and measured on any Linux machine. Guests are processes that connect to a
 * unix socket (hyp-loopback-proto.h). Above the seam nobody can tell the difference.
 *
 * This file: open and close, and the daemon's own connections to the store, which are function calls.
 *
 * Threads: rd-loopback (hyp-loopback-server.c), and whoever calls.
 */
#include "hyp-loopback-int.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "log.h"

/* ---- the daemon's connections to the store ------------------------------------------------------ */

struct hyp_store {
	struct list_head link; /* lb->stores */
	struct hyp_loopback *lb;
	struct lb_conn conn;
	uint32_t epoch;
	int event_fd;
};

static bool lost(const struct hyp_store *store)
{
	return atomic_load(&store->lb->store_epoch) != store->epoch;
}

static int lb_store_open(struct hyp *hyp, struct hyp_store **out)
{
	struct hyp_loopback *lb = to_loopback(hyp);
	struct hyp_store *store;
	int err;

	if (atomic_load(&lb->store_down))
		return -ECONNREFUSED;
	store = calloc(1, sizeof(*store));
	if (!store)
		return -ENOMEM;
	store->lb = lb;
	store->epoch = atomic_load(&lb->store_epoch);
	store->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (store->event_fd < 0) {
		err = errno;
		free(store);
		return -err;
	}
	lb_conn_open(lb->store, &store->conn, 0, store->event_fd);
	LOCK_SCOPE(&lb->stores_lock);
	list_add_tail(&store->link, &lb->stores);
	*out = store;
	return 0;
}

static void lb_store_close(struct hyp_store *store)
{
	if (!store)
		return;
	lock_acquire(&store->lb->stores_lock);
	list_del(&store->link);
	lock_release(&store->lb->stores_lock);
	lb_conn_close(store->lb->store, &store->conn);
	close(store->event_fd);
	free(store);
}

void lb_stores_fault(struct hyp_loopback *lb, bool down)
{
	struct hyp_store *store;
	uint64_t one = 1;

	atomic_store(&lb->store_down, down);
	if (!down)
		return;
	atomic_fetch_add(&lb->store_epoch, 1);
	/* wake whoever waits for an event, so that it finds out */
	LOCK_SCOPE(&lb->stores_lock);
	list_for_each(store, &lb->stores, link)
		(void)!write(store->event_fd, &one, sizeof(one));
}

static int op_read(struct hyp_store *store, hyp_txn txn, const char *path, char **value,
		   size_t *len)
{
	return lost(store) ? -EPIPE
			   : lb_store_read(store->lb->store, &store->conn, txn, path, value, len);
}

static int op_write(struct hyp_store *store, hyp_txn txn, const char *path, const void *value,
		    size_t len)
{
	return lost(store) ? -EPIPE
			   : lb_store_write(store->lb->store, &store->conn, txn, path, value, len);
}

static int op_rm(struct hyp_store *store, hyp_txn txn, const char *path)
{
	return lost(store) ? -EPIPE : lb_store_rm(store->lb->store, &store->conn, txn, path);
}

/* name\0name\0... -> one block: the pointers, and behind them the names. */
static char **index_names(const char *names, size_t len, unsigned int count)
{
	char **list = malloc(count * sizeof(*list) + len + 1);
	char *text = list ? (char *)(list + count) : NULL;

	if (!list)
		return NULL;
	memcpy(text, names, len);
	for (unsigned int i = 0; i < count; i++) {
		list[i] = text;
		text += strlen(text) + 1;
	}
	return list;
}

static int op_list(struct hyp_store *store, hyp_txn txn, const char *path, char ***names,
		   unsigned int *count)
{
	char *text;
	size_t len;
	int rc;

	if (lost(store))
		return -EPIPE;
	rc = lb_store_list(store->lb->store, &store->conn, txn, path, &text, &len, count);
	if (rc)
		return rc;
	*names = index_names(text, len, *count);
	free(text);
	return *names ? 0 : -ENOMEM;
}

static int op_set_perms(struct hyp_store *store, hyp_txn txn, const char *path,
			const struct hyp_perm *perms, unsigned int count)
{
	return lost(store) ? -EPIPE
			   : lb_store_set_perms(store->lb->store, &store->conn, txn, path, perms,
						count);
}

static int op_get_perms(struct hyp_store *store, hyp_txn txn, const char *path,
			struct hyp_perm **perms, unsigned int *count)
{
	return lost(store) ? -EPIPE
			   : lb_store_get_perms(store->lb->store, &store->conn, txn, path, perms,
						count);
}

static int op_begin(struct hyp_store *store, hyp_txn *txn)
{
	return lost(store) ? -EPIPE : lb_store_begin(store->lb->store, &store->conn, txn);
}

static int op_end(struct hyp_store *store, hyp_txn txn, bool commit)
{
	return lost(store) ? -EPIPE : lb_store_end(store->lb->store, &store->conn, txn, commit);
}

static int op_watch(struct hyp_store *store, const char *path, const char *token)
{
	return lost(store) ? -EPIPE : lb_store_watch(store->lb->store, &store->conn, path, token);
}

static int op_unwatch(struct hyp_store *store, const char *path, const char *token)
{
	return lost(store) ? -EPIPE : lb_store_unwatch(store->lb->store, &store->conn, path, token);
}

static int op_fd(struct hyp_store *store)
{
	return store->event_fd;
}

/* The counter is cleared before the queue is looked at: an event that comes later sets it again. */
static int op_event(struct hyp_store *store, char **path, char **token)
{
	struct lb_event *event;
	uint64_t count, one = 1;
	int rc = 1;

	if (lost(store))
		return -EPIPE;
	(void)!read(store->event_fd, &count, sizeof(count));
	event = lb_store_event(store->lb->store, &store->conn);
	if (!event)
		return lost(store) ? -EPIPE : 0;
	(void)!write(store->event_fd, &one, sizeof(one)); /* perhaps there is another */
	*path = strdup(event->path);
	*token = strdup(event->token);
	if (!*path || !*token) {
		free(*path);
		free(*token);
		lb_store_unevent(store->lb->store, &store->conn, event);
		return -ENOMEM;
	}
	free(event);
	return rc;
}

static int op_domain_alive(struct hyp_store *store, uint32_t domid)
{
	struct lb_dom *dom;

	if (lost(store))
		return -EPIPE;
	if (!domid)
		return 1;
	dom = lb_dom_get(store->lb, domid);
	lb_dom_put(dom);
	return dom != NULL;
}

/* ---- the hypervisor ---------------------------------------------------------------------------- */

static uint32_t op_domid(struct hyp *hyp)
{
	(void)hyp;
	return 0;
}

static int op_shutdown_reason(struct hyp *hyp, uint32_t domid)
{
	struct hyp_loopback *lb = to_loopback(hyp);
	struct lb_dom *dom = lb_dom_get(lb, domid);
	int reason;

	if (!dom)
		return -ENOTSUP;
	lock_acquire(&lb->lock);
	reason = dom->shutdown;
	lock_release(&lb->lock);
	lb_dom_put(dom);
	return reason;
}

static void loopback_free(struct hyp_loopback *lb)
{
	while (!list_empty(&lb->doms))
		lb_dom_destroy(lb, list_first_entry(&lb->doms, struct lb_dom, link));
	if (lb->store) {
		lb_conn_close(lb->store, &lb->self);
		lb_store_free(lb->store);
	}
	if (lb->wake_fd >= 0)
		close(lb->wake_fd);
	lock_destroy(&lb->lock);
	lock_destroy(&lb->stores_lock);
	free(lb);
}

static void loopback_close(struct hyp *hyp)
{
	struct hyp_loopback *lb = to_loopback(hyp);

	lb_server_stop(lb);
	loopback_free(lb);
}

const struct hyp_ops lb_ops = {
	.name = "loopback",
	.close = loopback_close,
	.domid = op_domid,
	.gnt_open = lb_gnt_open,
	.gnt_close = lb_gnt_close,
	.gnt_map = lb_gnt_map,
	.gnt_unmap = lb_gnt_unmap,
	.gnt_revoke = lb_gnt_revoke,
	.gnt_copy = lb_gnt_copy,
	.evtchn_open = lb_evtchn_open,
	.evtchn_close = lb_evtchn_close,
	.evtchn_fd = lb_evtchn_fd,
	.evtchn_bind = lb_evtchn_bind,
	.evtchn_unbind = lb_evtchn_unbind,
	.evtchn_pending = lb_evtchn_pending,
	.evtchn_wait = lb_evtchn_wait,
	.evtchn_kick = lb_evtchn_kick,
	.evtchn_unmask = lb_evtchn_unmask,
	.evtchn_notify = lb_evtchn_notify,
	.store_open = lb_store_open,
	.store_close = lb_store_close,
	.store_read = op_read,
	.store_write = op_write,
	.store_rm = op_rm,
	.store_list = op_list,
	.store_set_perms = op_set_perms,
	.store_get_perms = op_get_perms,
	.store_begin = op_begin,
	.store_end = op_end,
	.store_watch = op_watch,
	.store_unwatch = op_unwatch,
	.store_fd = op_fd,
	.store_event = op_event,
	.domain_alive = op_domain_alive,
	.shutdown_reason = op_shutdown_reason,
};

/* What is there before any guest: the paths that a toolstack expects. */
static int seed_store(struct hyp_loopback *lb)
{
	static const char *const nodes[][2] = {
		{ "/local/domain/0/domid", "0" },
		{ "/local/domain/0/name", "Domain-0" },
	};
	int rc = 0;

	for (size_t i = 0; !rc && i < sizeof(nodes) / sizeof(nodes[0]); i++)
		rc = lb_store_write(lb->store, &lb->self, HYP_TXN_NONE, nodes[i][0], nodes[i][1],
				    strlen(nodes[i][1]));
	return rc;
}

/* Three quarters of what we may have. */
static int fd_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > INT_MAX)
		return INT_MAX;
	return (int)(limit.rlim_cur / 4 * 3);
}

static struct hyp_loopback *loopback_new(void)
{
	struct hyp_loopback *lb = calloc(1, sizeof(*lb));

	if (!lb)
		return NULL;
	lb->hyp.ops = &lb_ops;
	lb->next_domid = 1;
	lb->fd_limit = fd_limit();
	lb->listener.fd = lb->epoll_fd = -1;
	list_init(&lb->doms);
	list_init(&lb->clients);
	list_init(&lb->stores);
	lock_init(&lb->lock, RANK_LEAF, "loopback domains");
	lock_init(&lb->stores_lock, RANK_LEAF, "loopback store handles");
	lb->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	lb->store = lb_store_new();
	if (lb->store)
		lb_conn_open(lb->store, &lb->self, 0, lb->wake_fd);
	if (lb->wake_fd < 0 || !lb->store || seed_store(lb)) {
		loopback_free(lb);
		return NULL;
	}
	return lb;
}

int hyp_loopback_open(const char *socket, struct hyp **hyp)
{
	struct hyp_loopback *lb = loopback_new();
	int rc;

	if (!lb)
		return -ENOMEM;
	rc = lb_server_start(lb, socket);
	if (rc) {
		loopback_free(lb);
		return rc;
	}
	*hyp = &lb->hyp;
	return 0;
}
