/*
 * nbd-export.c - the life of an export, as its disk sees it
 *
 * The image is the disk's: it opens it when a client wants it, and takes it away when there is none, or under the
 * clients' hands while nothing runs (another image, the end).  Closing is a conversation with rd-nbd, which alone
 * touches clients and sockets: it never blocks, so that waiting for it is short; what may take long is a call
 * that runs on a worker.
 *
 * Control threads, but where nbd-int.h says that it is rd-nbd's.
 */
#include "nbd-int.h"

#include "log.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

/* --- making ------------------------------------------------------------------------------------------ */

static void release(struct nbd_export *ex)
{
	free(ex->name);
	free(ex->alias);
	free(ex);
}

static struct nbd_export *export_new(const struct nbd_export_config *config)
{
	struct nbd_export *ex = calloc(1, sizeof(*ex));

	if (!ex)
		return NULL;
	ex->cfg = *config;
	ex->name = strdup(config->name);
	ex->alias = config->alias ? strdup(config->alias) : NULL;
	ex->cfg.name = ex->name;
	ex->cfg.alias = ex->alias;
	ex->cfg.socket = NULL;
	ex->listener = (struct nbd_listener){.source = SOURCE_LISTENER, .sock.fd = -1, .ex = ex};
	list_init(&ex->node);
	list_init(&ex->waiting[0]);
	list_init(&ex->waiting[1]);
	ex->exec.grant = GRANT_COPY;
	ex->exec.stats = config->stats;
	ex->exec.flush_failed = config->flush_failed;
	/* A client is told at once: it knows what to do about it. */
	atomic_store(&ex->exec.report_enospc, true);
	nbd_work_init(ex);
	if (!ex->name || (config->alias && !ex->alias)) {
		release(ex);
		return NULL;
	}
	return ex;
}

static int open_listener(struct nbd_export *ex, const char *socket, char *err, size_t errlen)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = &ex->listener};
	struct unix_socket *sock = &ex->listener.sock;
	char path[NBD_PATH_MAX];
	int r = nbd_socket_path(socket, path);

	if (r) {
		snprintf(err, errlen, "%.120s: should be an absolute path of at most %u bytes, or a plain name in %s",
			 socket, NBD_PATH_MAX - 1, nbd_srv.dir);
		return r;
	}
	/* It is found by its name there. */
	if (!strcmp(path, nbd_srv.common.sock.path))
		return 0;
	r = nbd_socket_open(sock, path, err, errlen);
	if (!r && epoll_ctl(nbd_srv.epoll_fd, EPOLL_CTL_ADD, sock->fd, &event)) {
		r = -errno;
		snprintf(err, errlen, "%s: %s", path, strerror(-r));
		unix_socket_close(sock);
	}
	return r;
}

int nbd_export_create(const struct nbd_export_config *config, struct nbd_export **out, char *err, size_t errlen)
{
	struct nbd_export *ex;
	int r;

	snprintf(err, errlen, "this daemon has no NBD server; its log tells why, from when it started");
	if (!nbd_srv.running)
		return -EOPNOTSUPP;
	snprintf(err, errlen, "out of memory");
	ex = export_new(config);
	if (!ex)
		return -ENOMEM;
	lock_acquire(&nbd_srv.lock);
	list_add(&ex->node, &nbd_srv.exports); /* the latest is found first */
	lock_release(&nbd_srv.lock);
	r = config->socket ? open_listener(ex, config->socket, err, errlen) : 0;
	if (r) {
		nbd_export_close(ex, -1);
		nbd_export_free(ex);
		return r;
	}
	err[0] = 0;
	nbd_kick(); /* somebody may be waiting for it */
	*out = ex;
	return 0;
}

/* --- clients (rd-nbd) ----------------------------------------------------------------------------------- */

static bool is_name(const char *name, size_t len, const char *other)
{
	return other && strlen(other) == len && !memcmp(name, other, len);
}

struct nbd_export *nbd_export_find(const struct nbd_listener *from, const char *name, size_t len)
{
	struct nbd_export *ex;

	LOCK_SCOPE(&nbd_srv.lock);
	list_for_each(ex, &nbd_srv.exports, node) {
		if (ex->closing || (from && from != &ex->listener))
			continue;
		if ((from && !len) || is_name(name, len, ex->name) || is_name(name, len, ex->alias))
			return ex;
	}
	return NULL;
}

bool nbd_export_join(struct nbd_export *ex, struct nbd_client *client)
{
	LOCK_SCOPE(&nbd_srv.lock);
	if (ex->closing || ex->users >= NBD_EXPORT_CLIENTS)
		return false;
	ex->users++;
	client->ex = ex;
	client->asked = false;
	return true;
}

void nbd_export_leave(struct nbd_client *client)
{
	struct nbd_export *ex = client->ex;
	bool last;

	lock_acquire(&nbd_srv.lock);
	assert(ex->users);
	last = !--ex->users && !ex->closing && ex->image != IMAGE_NONE;
	client->ex = NULL;
	client->context = false;
	pthread_cond_broadcast(&nbd_srv.changed);
	lock_release(&nbd_srv.lock);
	/* If there is no memory for it the image stays open, until somebody else comes and goes. */
	if (last)
		ex->cfg.want(ex->cfg.arg, false);
}

void nbd_export_closed(struct nbd_export *ex)
{
	struct nbd_request *r, *next;
	struct list_head forgotten;

	list_init(&forgotten);
	lock_acquire(&nbd_srv.lock);
	nbd_forget_locked(ex, NULL, &forgotten);
	list_del(&ex->node);
	ex->closed = true;
	pthread_cond_broadcast(&nbd_srv.changed);
	lock_release(&nbd_srv.lock);
	list_for_each_safe(r, next, &forgotten, req.node) {
		list_del(&r->req.node);
		nbd_request_free(r);
	}
}

/* --- the image -------------------------------------------------------------------------------------- */

bool nbd_export_wanted(struct nbd_export *ex)
{
	LOCK_SCOPE(&nbd_srv.lock);
	return ex->image == IMAGE_OPENING;
}

static void take_image_locked(struct nbd_export *ex, struct image *image)
{
	ex->exec.image = image;
	ex->info = img_info_now(image);
	ex->writable = img_writable(image);
}

void nbd_export_start(struct nbd_export *ex, struct image *image, const struct settings *settings)
{
	bool serial = !(img_info(image)->caps & RD_CAP_PARALLEL);

	nbd_export_apply(ex, settings);
	pool_client_set_limit(&ex->pool, serial ? 1 : NBD_JOBS);
	lock_acquire(&nbd_srv.lock);
	take_image_locked(ex, image);
	ex->image = IMAGE_OPEN;
	lock_release(&nbd_srv.lock);
	nbd_kick();
}

void nbd_export_fail(struct nbd_export *ex, const char *text)
{
	lock_acquire(&nbd_srv.lock);
	snprintf(ex->why, sizeof(ex->why), "%s", text);
	ex->image = IMAGE_FAILED;
	lock_release(&nbd_srv.lock);
	nbd_kick();
}

bool nbd_export_stop(struct nbd_export *ex)
{
	LOCK_SCOPE(&nbd_srv.lock);
	if (ex->users || ex->running)
		return false;
	ex->image = IMAGE_NONE;
	ex->exec.image = NULL;
	return true;
}

/* Until the condition holds, which is looked at under the lock. */
#define WAIT_UNTIL(condition, deadline_ms)                                                         \
	({                                                                                         \
		int r_ = 0;                                                                        \
		while (!r_ && !(condition)) {                                                      \
			if ((deadline_ms) < 0)                                                     \
				lock_wait(&nbd_srv.changed, &nbd_srv.lock);                        \
			else                                                                       \
				r_ = lock_wait_until(&nbd_srv.changed, &nbd_srv.lock, deadline_ms); \
		}                                                                                  \
		(condition) ? 0 : r_;                                                              \
	})

int nbd_export_pause(struct nbd_export *ex, long long deadline_ms)
{
	LOCK_SCOPE(&nbd_srv.lock);
	ex->paused = true;
	return WAIT_UNTIL(!ex->running, deadline_ms);
}

void nbd_export_resume(struct nbd_export *ex, struct image *image)
{
	bool serial = image && !(img_info(image)->caps & RD_CAP_PARALLEL);

	if (image)
		pool_client_set_limit(&ex->pool, serial ? 1 : NBD_JOBS);
	lock_acquire(&nbd_srv.lock);
	if (image && ex->image == IMAGE_OPEN)
		take_image_locked(ex, image);
	ex->paused = false;
	lock_release(&nbd_srv.lock);
	nbd_work(ex);
	nbd_kick();
}

void nbd_export_apply(struct nbd_export *ex, const struct settings *settings)
{
	for (unsigned i = 0; i < THROTTLE_LIMITS; i++)
		atomic_store_explicit(&ex->limit[i], settings->value[SET_IOPS + i], memory_order_relaxed);
	atomic_store_explicit(&ex->burst, settings->value[SET_BURST], memory_order_relaxed);
	atomic_store(&ex->exec.sync, settings->value[SET_SYNC] != 0);
	atomic_store(&ex->relimit, true);
	nbd_kick();
}

/* --- the end ---------------------------------------------------------------------------------------- */

int nbd_export_close(struct nbd_export *ex, long long deadline_ms)
{
	int r;

	lock_acquire(&nbd_srv.lock);
	ex->closing = true;
	nbd_kick();
	r = WAIT_UNTIL(ex->closed && !ex->users && !ex->running, deadline_ms);
	lock_release(&nbd_srv.lock);
	if (!r)
		pool_client_drain(&ex->pool);
	return r;
}

void nbd_export_free(struct nbd_export *ex)
{
	if (ex)
		release(ex);
}

void nbd_export_look(struct nbd_export *ex, struct nbd_view *view)
{
	LOCK_SCOPE(&nbd_srv.lock);
	*view = (struct nbd_view){
		.clients = ex->users,
		.running = ex->running,
		.waiting = ex->ntodo + atomic_load(&ex->nwaiting),
		.read_only = ex->cfg.read_only,
	};
	snprintf(view->socket, sizeof(view->socket), "%s",
		 ex->listener.sock.path[0] ? ex->listener.sock.path : nbd_srv.common.sock.path);
}
