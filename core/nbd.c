/*
 * nbd.c - the NBD server's thread: clients that come and go, bytes in and out
 *
 * A turn waits for events and serves them; then it takes what workers have done, starts what limits held back,
 * and looks after the clients that wait for something.  Sockets are nonblocking; a client is read from only as
 * long as there is room for what it sends, and is given up when it has not negotiated in time.
 *
 *	socket -> nbd_expect()ed bytes -> step of the state -> ... -> nbd_send() -> socket
 *
 * What can go wrong: clients.  Nothing that one sends harms more than itself: its requests, their memory and the
 * time of its negotiation are bounded, and so is the number of clients.  One that dies while something of it
 * runs stays as a struct without a socket until that has come back.
 *
 * Everything here is rd-nbd's, but nbd_start, nbd_stop and nbd_kick.
 */
#include "nbd-int.h"

#include "base/clock.h"
#include "log.h"
#include "thread.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS     32
#define READ_TURN  (2 * MiB) /* of one client, before others get their turn */
#define SEND_IOV   32
#define OUT_HIGH   (64 * KiB) /* of answers to options, before more are read */

struct nbd_server nbd_srv = {
	.epoll_fd = -1,
	.kick = {.source = SOURCE_KICK, .fd = -1},
	.common = {.source = SOURCE_LISTENER, .sock.fd = -1},
};

void nbd_kick(void)
{
	uint64_t one = 1;
	ssize_t n = write(nbd_srv.kick.fd, &one, sizeof(one));

	(void)n; /* full: it is awake already */
}

/* --- clients that go ------------------------------------------------------------------------------- */

static void drop_output(struct nbd_client *client)
{
	struct nbd_out *out, *next;

	list_for_each_safe(out, next, &client->out, node) {
		list_del(&out->node);
		if (out->req)
			nbd_request_free(out->req);
		else
			free(out);
	}
}

static void forget_queued(struct nbd_client *client)
{
	struct nbd_request *r, *next;
	struct list_head forgotten;

	if (!client->ex)
		return;
	list_init(&forgotten);
	lock_acquire(&nbd_srv.lock);
	nbd_forget_locked(client->ex, client, &forgotten);
	lock_release(&nbd_srv.lock);
	list_for_each_safe(r, next, &forgotten, req.node) {
		list_del(&r->req.node);
		nbd_request_free(r);
	}
}

void nbd_drop(struct nbd_client *client, const char *why)
{
	if (client->fd < 0)
		return;
	if (why)
		log_limited(&nbd_srv.limit, LOG_LVL_WARN, LOG_NBD, "client %llu (pid %d, uid %u): %s",
			    (unsigned long long)client->id, (int)client->pid, (unsigned)client->uid, why);
	close(client->fd);
	client->fd = -1;
	client->state = STATE_END;
	if (client->receiving)
		nbd_request_free(client->receiving);
	client->receiving = NULL;
	forget_queued(client);
	drop_output(client);
}

void nbd_tell_client(const struct nbd_client *client, enum event_type type)
{
	event_emit(type, client->ex->cfg.name, 0, "client %llu, pid %d, uid %u%s", (unsigned long long)client->id,
		   (int)client->pid, (unsigned)client->uid, client->read_only ? ", read-only" : "");
}

/* Dead, and nothing of it runs. */
static void client_free(struct nbd_client *client)
{
	if (client->told && client->ex)
		nbd_tell_client(client, EVENT_CLIENT_GONE);
	if (client->ex)
		nbd_export_leave(client);
	list_del(&client->node);
	nbd_srv.nclients--;
	bufs_destroy(&client->bufs);
	free(client->option_data);
	free(client);
}

/* --- clients that come ----------------------------------------------------------------------------- */

static struct nbd_client *client_new(const struct nbd_listener *from, int fd)
{
	struct nbd_client *client = calloc(1, sizeof(*client));

	if (!client)
		return NULL;
	client->source = SOURCE_CLIENT;
	client->from = from->ex ? &from->ex->listener : NULL;
	client->fd = fd;
	client->id = ++nbd_srv.next_id;
	client->deadline = monotonic_ms() + NBD_HANDSHAKE_MS;
	client->budget.limit = NBD_CLIENT_MEMORY;
	bufs_init(&client->bufs, &client->budget);
	list_init(&client->out);
	return client;
}

static int admit(const struct nbd_listener *from, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};
	struct nbd_client *client;
	struct ucred peer;
	bool privileged;
	int r = unix_socket_peer(fd, nbd_srv.gid, &peer, &privileged);

	if (!r && !privileged)
		r = -EPERM;
	if (r || nbd_srv.nclients >= NBD_CLIENTS)
		return r ? r : -EBUSY;
	client = client_new(from, fd);
	if (!client)
		return -ENOMEM;
	client->uid = peer.uid;
	client->pid = peer.pid;
	client->interest = event.events;
	event.data.ptr = client;
	list_add_tail(&client->node, &nbd_srv.clients);
	nbd_srv.nclients++;
	if (epoll_ctl(nbd_srv.epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
		client->fd = -1;
		return -errno;
	}
	log_debug(LOG_NBD, "client %llu: pid %d, uid %u", (unsigned long long)client->id, (int)peer.pid,
		  (unsigned)peer.uid);
	nbd_greet(client);
	return 0;
}

static void accept_one(const struct nbd_listener *from)
{
	int fd = accept4(from->sock.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), r;

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE)
			usleep(1000); /* it stays readable: do not spin */
		return;
	}
	r = admit(from, fd);
	if (!r)
		return;
	close(fd);
	log_limited(&nbd_srv.limit, LOG_LVL_WARN, LOG_NBD, "%s: a client was refused: %s", from->sock.path,
		    strerror(-r));
}

/* --- input ------------------------------------------------------------------------------------------- */

void nbd_expect(struct nbd_client *client, enum nbd_state state, void *to, size_t len)
{
	client->state = state;
	client->in = to;
	client->in_want = len;
	client->in_got = 0;
}

static void step(struct nbd_client *client)
{
	if (client->state <= STATE_OPTION_DATA)
		nbd_option_step(client);
	else
		nbd_request_step(client);
}

static bool may_read(const struct nbd_client *client)
{
	switch (client->state) {
	case STATE_OPTION_WAIT:
	case STATE_FULL:
	case STATE_END:
		return false;
	default:
		return client->fd >= 0 && client->out_bytes < OUT_HIGH;
	}
}

/* What is skipped goes nowhere. */
static ssize_t receive(struct nbd_client *client)
{
	uint8_t nowhere[16 * KiB];
	size_t want;

	if (client->state != STATE_SKIP)
		return recv(client->fd, client->in + client->in_got, client->in_want - client->in_got, 0);
	want = MIN(client->skip, sizeof(nowhere));
	return recv(client->fd, nowhere, want, 0);
}

static void took(struct nbd_client *client, size_t n)
{
	if (client->state == STATE_SKIP)
		client->skip -= n;
	else
		client->in_got += n;
	if (client->state == STATE_SKIP ? !client->skip : client->in_got == client->in_want)
		step(client);
}

static void read_client(struct nbd_client *client)
{
	size_t total = 0;

	while (may_read(client) && total < READ_TURN) {
		ssize_t n = receive(client);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			nbd_drop(client, NULL);
			return;
		}
		total += (size_t)n;
		took(client, (size_t)n);
	}
}

/* --- output ------------------------------------------------------------------------------------------ */

void nbd_send(struct nbd_client *client, struct nbd_out *out)
{
	out->sent = 0;
	list_add_tail(&out->node, &client->out);
	if (!out->req)
		client->out_bytes += out->head_len + out->data_len;
}

/* A vector of one of the two parts of out, from what is sent already. */
static int add_parts(const struct nbd_out *out, struct iovec *iov, int n)
{
	size_t skip = out->sent;

	if (skip < out->head_len) {
		iov[n++] = (struct iovec){(uint8_t *)(uintptr_t)out->head + skip, out->head_len - skip};
		skip = 0;
	} else {
		skip -= out->head_len;
	}
	if (skip < out->data_len)
		iov[n++] = (struct iovec){(uint8_t *)(uintptr_t)out->data + skip, out->data_len - skip};
	return n;
}

static int gather(struct nbd_client *client, struct iovec *iov)
{
	struct nbd_out *out;
	int n = 0;

	list_for_each(out, &client->out, node) {
		if (n + 2 > SEND_IOV)
			break;
		n = add_parts(out, iov, n);
	}
	return n;
}

static void sent(struct nbd_client *client, size_t n)
{
	while (n) {
		struct nbd_out *out = list_first_entry(&client->out, struct nbd_out, node);
		size_t part = MIN(n, out->head_len + out->data_len - out->sent);

		out->sent += part;
		n -= part;
		if (out->sent < out->head_len + out->data_len)
			return;
		list_del(&out->node);
		if (out->req) {
			nbd_request_free(out->req);
		} else {
			client->out_bytes -= out->head_len + out->data_len;
			free(out);
		}
	}
}

static void write_client(struct nbd_client *client)
{
	struct iovec iov[SEND_IOV];

	while (client->fd >= 0 && !list_empty(&client->out)) {
		struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)gather(client, iov)};
		ssize_t n = sendmsg(client->fd, &msg, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			nbd_drop(client, NULL);
			return;
		}
		sent(client, (size_t)n);
	}
}

/* --- after each turn ------------------------------------------------------------------------------- */

static void set_interest(struct nbd_client *client)
{
	struct epoll_event event = {.data.ptr = client};

	event.events = (may_read(client) ? EPOLLIN : 0u) | (list_empty(&client->out) ? 0u : EPOLLOUT);
	if (event.events == client->interest)
		return;
	client->interest = event.events;
	if (epoll_ctl(nbd_srv.epoll_fd, EPOLL_CTL_MOD, client->fd, &event))
		nbd_drop(client, "epoll");
}

static void look_after(struct nbd_client *client, long long now)
{
	if (client->fd >= 0 && client->state == STATE_OPTION_WAIT)
		nbd_option_retry(client);
	else if (client->fd >= 0 && client->deadline && now >= client->deadline)
		nbd_drop(client, "has not negotiated in time");
	if (client->fd >= 0)
		write_client(client);
	/* In this order: what was sent makes room, and perhaps nothing else will tell. */
	if (client->fd >= 0 && client->state == STATE_FULL) {
		nbd_request_again(client);
		write_client(client);
	}
	if (client->fd >= 0 && client->state == STATE_END && !client->outstanding && list_empty(&client->out))
		nbd_drop(client, NULL);
	if (client->fd >= 0)
		set_interest(client);
	if (client->fd < 0 && !client->outstanding)
		client_free(client);
}

static void look_after_clients(void)
{
	struct nbd_client *client, *next;
	long long now = monotonic_ms();

	list_for_each_safe(client, next, &nbd_srv.clients, node)
		look_after(client, now);
}

static void take_done(void)
{
	struct nbd_request *r, *next;
	struct list_head done;

	list_init(&done);
	lock_acquire(&nbd_srv.lock);
	list_splice_tail(&nbd_srv.done, &done);
	lock_release(&nbd_srv.lock);
	list_for_each_safe(r, next, &done, req.node) {
		list_del(&r->req.node);
		nbd_request_done(r);
	}
}

/* An export that is to be closed, once. */
static struct nbd_export *next_closing(void)
{
	struct nbd_export *ex;

	LOCK_SCOPE(&nbd_srv.lock);
	list_for_each(ex, &nbd_srv.exports, node)
		if (ex->closing && !ex->closed)
			return ex;
	return NULL;
}

static void close_exports(void)
{
	struct nbd_client *client, *next;
	struct nbd_export *ex;

	while ((ex = next_closing())) {
		unix_socket_close(&ex->listener.sock);
		list_for_each_safe(client, next, &nbd_srv.clients, node) {
			if (client->from == &ex->listener) {
				nbd_drop(client, NULL);
				client->from = NULL;
			}
			if (client->ex == ex)
				nbd_drop(client, NULL);
			if (client->fd < 0 && !client->outstanding)
				client_free(client);
		}
		nbd_export_closed(ex);
	}
}

/* Until when the thread may sleep, in ms; -1: for ever. */
static int sleep_ms(void)
{
	uint64_t now = now_ns(), wake = UINT64_MAX;
	long long ms = monotonic_ms(), deadline = INT64_MAX;
	struct nbd_client *client;
	struct nbd_export *ex;

	list_for_each(client, &nbd_srv.clients, node) {
		/* Who waits for an image is not hurried: see look_after(). */
		long long its = client->state == STATE_OPTION_WAIT ? client->option_deadline : client->deadline;

		if (its)
			deadline = MIN(deadline, its);
	}
	lock_acquire(&nbd_srv.lock);
	list_for_each(ex, &nbd_srv.exports, node)
		if (ex->nwaiting && ex->wake_at)
			wake = MIN(wake, ex->wake_at);
	lock_release(&nbd_srv.lock);
	if (wake != UINT64_MAX)
		deadline = MIN(deadline, ms + (long long)((since_ns(now, wake) + 999999) / 1000000));
	if (deadline == INT64_MAX)
		return -1;
	return deadline <= ms ? 0 : (int)MIN(deadline - ms, 60000);
}

/* The next one behind node that has requests over its limits.  Exports go only in close_exports, on this thread. */
static struct nbd_export *next_limited(const struct list_head *node)
{
	LOCK_SCOPE(&nbd_srv.lock);
	while ((node = node->next) != &nbd_srv.exports) {
		struct nbd_export *ex = list_entry(node, struct nbd_export, node);

		if (ex->nwaiting)
			return ex;
	}
	return NULL;
}

static void look_at_limits(void)
{
	uint64_t now = now_ns();

	for (struct nbd_export *ex = next_limited(&nbd_srv.exports); ex; ex = next_limited(&ex->node))
		nbd_limits_look(ex, now);
}

static void serve_event(const struct epoll_event *event)
{
	enum nbd_source *source = event->data.ptr;
	struct nbd_client *client = event->data.ptr;
	uint64_t count;

	switch (*source) {
	case SOURCE_KICK:
		if (read(nbd_srv.kick.fd, &count, sizeof(count)) < 0)
			return;
		break;
	case SOURCE_LISTENER:
		accept_one(event->data.ptr);
		break;
	case SOURCE_CLIENT:
		if (event->events & EPOLLIN)
			read_client(client);
		else if (event->events & (EPOLLHUP | EPOLLERR) && !may_read(client))
			nbd_drop(client, NULL);
		break;
	}
}

static void *nbd_main(void *arg)
{
	struct epoll_event event[EVENTS];

	(void)arg;
	while (!atomic_load(&nbd_srv.stop)) {
		int n = epoll_wait(nbd_srv.epoll_fd, event, EVENTS, sleep_ms());

		for (int i = 0; i < n; i++)
			serve_event(&event[i]);
		take_done();
		look_at_limits();
		look_after_clients();
		close_exports();
	}
	return NULL;
}

/* --- start and end ----------------------------------------------------------------------------------- */

const char *nbd_common_socket(void)
{
	return nbd_srv.common.sock.fd >= 0 ? nbd_srv.common.sock.path : "";
}

static int add_source(int fd, void *source)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};

	return epoll_ctl(nbd_srv.epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static void close_all(void)
{
	unix_socket_close(&nbd_srv.common.sock);
	if (nbd_srv.kick.fd >= 0)
		close(nbd_srv.kick.fd);
	if (nbd_srv.epoll_fd >= 0)
		close(nbd_srv.epoll_fd);
	nbd_srv.kick.fd = nbd_srv.epoll_fd = -1;
	nbd_srv.dir[0] = 0;
}

static int open_all(const char *dir, const char *group)
{
	char path[NBD_PATH_MAX], err[256] = "";
	int r;

	if (snprintf(nbd_srv.dir, sizeof(nbd_srv.dir), "%s", dir) >= (int)sizeof(nbd_srv.dir) - 24) {
		log_err(LOG_NBD, "%s: too long for sockets in it", dir);
		return -ENAMETOOLONG;
	}
	r = nbd_socket_path("sock", path);
	if (!r)
		r = nbd_socket_dir(dir, group, &nbd_srv.gid, err, sizeof(err));
	if (!r)
		r = nbd_socket_open(&nbd_srv.common.sock, path, err, sizeof(err));
	if (r)
		log_err(LOG_NBD, "%s", err);
	if (r)
		return r;
	nbd_srv.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	nbd_srv.kick.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (nbd_srv.epoll_fd < 0 || nbd_srv.kick.fd < 0)
		return -errno;
	r = add_source(nbd_srv.kick.fd, &nbd_srv.kick);
	return r ? r : add_source(nbd_srv.common.sock.fd, &nbd_srv.common);
}

static void destroy_locks(void)
{
	pthread_cond_destroy(&nbd_srv.changed);
	lock_destroy(&nbd_srv.lock);
}

int nbd_start(const char *dir, const char *group)
{
	int r;

	clock_calibrate(); /* before there is a thread that reads the clock */
	lock_init(&nbd_srv.lock, RANK_LEAF, "nbd");
	cond_init_monotonic(&nbd_srv.changed);
	log_limit_init(&nbd_srv.limit, 10, 60000);
	list_init(&nbd_srv.exports);
	list_init(&nbd_srv.clients);
	list_init(&nbd_srv.done);
	atomic_store(&nbd_srv.stop, false);
	r = open_all(dir, group);
	if (!r)
		r = thread_start(&nbd_srv.thread, "rd-nbd", nbd_main, NULL);
	if (r) {
		close_all();
		destroy_locks();
		return r;
	}
	nbd_srv.running = true;
	return 0;
}

void nbd_stop(void)
{
	struct nbd_client *client, *next;

	if (!nbd_srv.running)
		return;
	atomic_store(&nbd_srv.stop, true);
	nbd_kick();
	pthread_join(nbd_srv.thread, NULL);
	nbd_srv.running = false;
	list_for_each_safe(client, next, &nbd_srv.clients, node) {
		nbd_drop(client, NULL);
		client_free(client);
	}
	close_all();
	destroy_locks();
}
