/*
 * The thread rd-loopback: it listens on the socket, and does for each client what the client asks for, one
 * message at a time and in turn. A guest's connection is its life: when it is lost, the domain has died.
 *
 * Clients are hostile. Their number is bounded, as are the descriptors that they can have us open, a message has a largest size, descriptors that nobody asked
 * for are closed, an answer that does not fit into the socket stops the reading until it does, and a client
 * that lets its watch events pile up is cut off. Only processes of our own user (or root) may connect.
 *
 * Threads: rd-loopback only, but start and stop.
 */
#include "hyp-loopback-int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "thread.h"

#define MAX_CLIENTS 512u

/* An answer: the header, and what follows it. */
struct answer {
	struct lb_reply head;
	void *payload; /* malloc'd, or NULL */
	size_t len;
	int fds[LB_MAX_FDS]; /* head.fds of them; not the answer's own */
};

struct client {
	struct list_head link;
	struct hyp_loopback *lb;
	int fd;
	bool hello;          /* it has said who it is */
	bool gone;           /* to be freed at the end of the round */
	uint32_t events;     /* what epoll waits for */
	struct lb_dom *dom;  /* NULL: domain 0 */
	struct lb_conn conn; /* once it has said who it is */
	struct answer late;  /* an answer that the socket did not take; head.op 0: none */
};

/* A message, and what came along. text and text2 are NUL-terminated strings of the payload. */
struct request {
	struct lb_msg msg;
	char *payload; /* NUL behind it */
	size_t len;
	int fd; /* or -1 */
};

/* ---- sending ----------------------------------------------------------------------------------- */

static int send_packet(int fd, const struct lb_reply *head, const void *payload, size_t len,
		       const int *fds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * LB_MAX_FDS)];
	} control = { 0 };
	struct iovec iov[2] = {
		{ .iov_base = (void *)(uintptr_t)head, .iov_len = sizeof(*head) },
		{ .iov_base = (void *)(uintptr_t)payload, .iov_len = len },
	};
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = len ? 2 : 1 };

	if (head->fds) {
		struct cmsghdr *cmsg;

		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * head->fds);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int) * head->fds);
		memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * head->fds);
	}
	return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void wait_for(struct client *client, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = client };

	if (client->events == events)
		return;
	client->events = events;
	if (epoll_ctl(client->lb->epoll_fd, EPOLL_CTL_MOD, client->fd, &ev))
		client->gone = true;
}

static void send_answer(struct client *client, struct answer *answer)
{
	int rc = send_packet(client->fd, &answer->head, answer->payload, answer->len, answer->fds);

	if (rc == -EAGAIN) {
		client->late = *answer; /* with the payload */
		wait_for(client, EPOLLOUT);
		return;
	}
	free(answer->payload);
	if (rc)
		client->gone = true;
}

/* The socket takes more: the late answer, if there is one, then the watch events. */
static void send_late(struct client *client)
{
	struct answer late = client->late;

	client->late = (struct answer){ .payload = NULL };
	if (late.head.op)
		send_answer(client, &late);
	if (!client->late.head.op)
		wait_for(client, EPOLLIN);
}

static void send_events(struct client *client)
{
	struct lb_store *st = client->lb->store;
	struct lb_reply head = { .op = LB_EV_WATCH };
	struct lb_event *event;

	if (lb_store_overflowed(st, &client->conn))
		client->gone = true;
	while (!client->gone && !client->late.head.op &&
	       (event = lb_store_event(st, &client->conn))) {
		size_t len = strlen(event->path) + 1 + strlen(event->token) + 1;
		int rc = send_packet(client->fd, &head, event->path, len, NULL);

		if (rc == -EAGAIN) {
			lb_store_unevent(st, &client->conn, event);
			wait_for(client, EPOLLIN | EPOLLOUT);
			return;
		}
		free(event);
		if (rc)
			client->gone = true;
	}
	if (!client->late.head.op)
		wait_for(client, EPOLLIN);
}

/* ---- what a client may ask for ----------------------------------------------------------------- */

/* The string at *at of the payload; NULL if there is none. Moves *at behind it. */
static const char *take_string(const struct request *req, size_t *at)
{
	const char *text = req->payload + *at;
	size_t len;

	if (*at >= req->len)
		return NULL;
	len = strlen(text);
	if (*at + len >= req->len) /* the NUL that we added, not one that was sent */
		return NULL;
	*at += len + 1;
	return text;
}

static int do_read(struct client *client, struct request *req, struct answer *answer)
{
	size_t at = 0;
	const char *path = take_string(req, &at);

	return path ? lb_store_read(client->lb->store, &client->conn, req->msg.a, path,
				    (char **)&answer->payload, &answer->len)
		    : -EINVAL;
}

static int do_write(struct client *client, struct request *req, struct answer *answer)
{
	size_t at = 0;
	const char *path = take_string(req, &at);

	(void)answer;
	return path ? lb_store_write(client->lb->store, &client->conn, req->msg.a, path,
				     req->payload + at, req->len - at)
		    : -EINVAL;
}

static int do_rm(struct client *client, struct request *req, struct answer *answer)
{
	size_t at = 0;
	const char *path = take_string(req, &at);

	(void)answer;
	return path ? lb_store_rm(client->lb->store, &client->conn, req->msg.a, path) : -EINVAL;
}

static int do_list(struct client *client, struct request *req, struct answer *answer)
{
	size_t at = 0;
	unsigned int count;
	const char *path = take_string(req, &at);

	return path ? lb_store_list(client->lb->store, &client->conn, req->msg.a, path,
				    (char **)&answer->payload, &answer->len, &count)
		    : -EINVAL;
}

static int do_set_perms(struct client *client, struct request *req, struct answer *answer)
{
	size_t at = (size_t)req->msg.b * sizeof(struct hyp_perm);
	const char *path;

	(void)answer;
	if (req->msg.b > 64 || at > req->len)
		return -EINVAL;
	path = take_string(req, &at);
	return path ? lb_store_set_perms(client->lb->store, &client->conn, req->msg.a, path,
					 (struct hyp_perm *)(void *)req->payload, req->msg.b)
		    : -EINVAL;
}

static int do_get_perms(struct client *client, struct request *req, struct answer *answer)
{
	size_t at = 0;
	const char *path = take_string(req, &at);
	unsigned int count = 0;
	int rc;

	if (!path)
		return -EINVAL;
	rc = lb_store_get_perms(client->lb->store, &client->conn, req->msg.a, path,
				(struct hyp_perm **)&answer->payload, &count);
	answer->len = count * sizeof(struct hyp_perm);
	return rc;
}

static int do_txn_begin(struct client *client, struct request *req, struct answer *answer)
{
	hyp_txn txn;
	int rc = lb_store_begin(client->lb->store, &client->conn, &txn);

	(void)req;
	(void)answer;
	return rc ? rc : (int)txn;
}

static int do_txn_end(struct client *client, struct request *req, struct answer *answer)
{
	(void)answer;
	return lb_store_end(client->lb->store, &client->conn, req->msg.a, req->msg.b);
}

static int do_watch(struct client *client, struct request *req, struct answer *answer)
{
	size_t at = 0;
	const char *path = take_string(req, &at), *token = take_string(req, &at);

	(void)answer;
	if (!path || !token)
		return -EINVAL;
	return req->msg.op == LB_WATCH
		       ? lb_store_watch(client->lb->store, &client->conn, path, token)
		       : lb_store_unwatch(client->lb->store, &client->conn, path, token);
}

static int do_evtchn_alloc(struct client *client, struct request *req, struct answer *answer)
{
	int rc;

	if (!client->dom)
		return -EINVAL;
	rc = lb_port_alloc(client->lb, client->dom, req->msg.a, req->msg.b, answer->fds);
	if (rc >= 0)
		answer->head.fds = answer->fds[1] >= 0 ? 2 : 1;
	return rc;
}

static int do_evtchn_close(struct client *client, struct request *req, struct answer *answer)
{
	(void)answer;
	return client->dom ? lb_port_close(client->lb, client->dom, req->msg.a) : -EINVAL;
}

/* The domain that a message names; a guest may name only itself. */
static struct lb_dom *named_dom(struct client *client, uint32_t domid)
{
	if (client->dom && client->dom->domid != domid)
		return NULL;
	return lb_dom_get(client->lb, domid);
}

static int do_stats(struct client *client, struct request *req, struct answer *answer)
{
	struct lb_dom *dom = named_dom(client, req->msg.a);
	struct lb_stats *stats = dom ? calloc(1, sizeof(*stats)) : NULL;

	if (stats) {
		*stats = (struct lb_stats){
			.mapped = atomic_load(&dom->mapped),
			.maps = atomic_load(&dom->maps),
			.copies = atomic_load(&dom->copies),
			.refused = atomic_load(&dom->refused),
			.nodes = lb_store_nodes_of(client->lb->store, dom->domid),
		};
		answer->payload = stats;
		answer->len = sizeof(*stats);
	}
	lb_dom_put(dom);
	return stats ? 0 : -ESRCH;
}

static int do_shutdown(struct client *client, struct request *req, struct answer *answer)
{
	struct lb_dom *dom = named_dom(client, req->msg.a);

	(void)answer;
	if (!dom)
		return -ESRCH;
	lb_dom_shutdown(client->lb, dom, (int)(req->msg.b & 0xff));
	lb_dom_put(dom);
	return 0;
}

static int do_dom_create(struct client *client, struct request *req, struct answer *answer)
{
	struct lb_dom *dom;
	int rc;

	(void)answer;
	if (client->dom)
		return -EPERM;
	rc = lb_dom_create(client->lb, req->msg.a, &dom);
	if (rc)
		return rc;
	rc = (int)dom->domid;
	lb_dom_put(dom);
	return rc;
}

/* The guest's connection ends with its domain. */
static void drop_guest(struct hyp_loopback *lb, const struct lb_dom *dom)
{
	struct client *client;

	list_for_each(client, &lb->clients, link)
		if (client->dom == dom)
			client->gone = true;
}

static int do_dom_destroy(struct client *client, struct request *req, struct answer *answer)
{
	struct lb_dom *dom;

	(void)answer;
	if (client->dom)
		return -EPERM;
	dom = lb_dom_get(client->lb, req->msg.a);
	if (!dom)
		return -ESRCH;
	lb_dom_destroy(client->lb, dom);
	drop_guest(client->lb, dom);
	lb_dom_put(dom);
	return 0;
}

static void fault_dom(struct hyp_loopback *lb, struct lb_dom *dom, const struct lb_msg *msg)
{
	if (msg->a == LB_FAULT_BIND || msg->a == LB_FAULT_NONE) {
		LOCK_SCOPE(&lb->lock);
		dom->fault_bind = msg->a == LB_FAULT_BIND;
	}
	if (msg->a == LB_FAULT_BIND)
		return;
	atomic_store(&dom->fault_in, 0);
	atomic_store(&dom->fault_status, (int)(int16_t)msg->d);
	atomic_store(&dom->fault_all, msg->a == LB_FAULT_GRANT_ALL);
	if (msg->a != LB_FAULT_NONE)
		atomic_store(&dom->fault_in, (int)(msg->c & 0x7fffffff));
}

static int do_fault(struct client *client, struct request *req, struct answer *answer)
{
	struct lb_dom *dom;

	(void)answer;
	if (client->dom)
		return -EPERM;
	if (req->msg.a == LB_FAULT_STORE || req->msg.a == LB_FAULT_NONE)
		lb_stores_fault(client->lb, req->msg.a == LB_FAULT_STORE);
	if (req->msg.a == LB_FAULT_STORE)
		return 0;
	dom = lb_dom_get(client->lb, req->msg.b);
	if (!dom)
		return req->msg.a == LB_FAULT_NONE ? 0 : -ESRCH;
	fault_dom(client->lb, dom, &req->msg);
	lb_dom_put(dom);
	return 0;
}

/* A guest takes the domain that the toolstack made for it, or makes its own. */
static int hello_guest(struct client *client, struct request *req)
{
	struct hyp_loopback *lb = client->lb;
	struct lb_dom *dom = NULL;
	bool made = false;
	int rc;

	if (req->fd < 0)
		return -EINVAL;
	if (req->msg.b != LB_DOMID_ANY)
		dom = lb_dom_get(lb, req->msg.b);
	if (!dom) {
		rc = lb_dom_create(lb, req->msg.b, &dom);
		if (rc)
			return rc;
		made = true;
	}
	rc = lb_dom_attach(lb, dom, req->fd, req->msg.c);
	if (rc) {
		if (made)
			lb_dom_destroy(lb, dom);
		lb_dom_put(dom);
		return rc;
	}
	req->fd = -1; /* the domain's now */
	client->dom = dom;
	return 0;
}

static int do_hello(struct client *client, struct request *req, struct answer *answer)
{
	int rc;

	(void)answer;
	if (client->hello || req->msg.a != LB_MAGIC)
		return -EINVAL;
	rc = req->msg.b ? hello_guest(client, req) : 0;
	if (rc)
		return rc;
	client->hello = true;
	lb_conn_open(client->lb->store, &client->conn, client->dom ? client->dom->domid : 0,
		     client->lb->wake_fd);
	return client->dom ? (int)client->dom->domid : 0;
}

static int (*const verbs[])(struct client *, struct request *, struct answer *) = {
	[LB_HELLO] = do_hello,
	[LB_READ] = do_read,
	[LB_WRITE] = do_write,
	[LB_RM] = do_rm,
	[LB_LIST] = do_list,
	[LB_SET_PERMS] = do_set_perms,
	[LB_GET_PERMS] = do_get_perms,
	[LB_TXN_BEGIN] = do_txn_begin,
	[LB_TXN_END] = do_txn_end,
	[LB_WATCH] = do_watch,
	[LB_UNWATCH] = do_watch,
	[LB_EVTCHN_ALLOC] = do_evtchn_alloc,
	[LB_EVTCHN_CLOSE] = do_evtchn_close,
	[LB_STATS] = do_stats,
	[LB_SHUTDOWN] = do_shutdown,
	[LB_DOM_CREATE] = do_dom_create,
	[LB_DOM_DESTROY] = do_dom_destroy,
	[LB_FAULT] = do_fault,
};

/* ---- receiving --------------------------------------------------------------------------------- */

/* Keep the first descriptor, close the others. */
static void take_fds(struct msghdr *msg, struct request *req)
{
	struct cmsghdr *cmsg;

	for (cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		size_t n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
			if (req->fd < 0)
				req->fd = fd;
			else
				close(fd);
		}
	}
}

/* 0, or -errno: the client is to be cut off, -EAGAIN: nothing there. buf has LB_MAX_PAYLOAD + 1 bytes. */
static int receive(struct client *client, char *buf, struct request *req)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * 16)];
	} control;
	struct iovec iov[2] = {
		{ .iov_base = &req->msg, .iov_len = sizeof(req->msg) },
		{ .iov_base = buf, .iov_len = LB_MAX_PAYLOAD },
	};
	struct msghdr msg = { .msg_iov = iov,
			      .msg_iovlen = 2,
			      .msg_control = control.buf,
			      .msg_controllen = sizeof(control.buf) };
	ssize_t n;

	*req = (struct request){ .payload = buf, .fd = -1 };
	n = recvmsg(client->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	take_fds(&msg, req);
	if ((size_t)n < sizeof(req->msg) || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return -EBADMSG; /* also the end of the connection */
	req->len = (size_t)n - sizeof(req->msg);
	buf[req->len] = 0;
	return 0;
}

static void serve(struct client *client, struct request *req)
{
	struct answer answer = { .head = { .op = req->msg.op, .seq = req->msg.seq } };
	uint32_t op = req->msg.op;

	if (op >= sizeof(verbs) / sizeof(verbs[0]) || !verbs[op])
		answer.head.result = -EOPNOTSUPP;
	else if (!client->hello && op != LB_HELLO)
		answer.head.result = -EPERM;
	else
		answer.head.result = verbs[op](client, req, &answer);
	if (answer.len > LB_MAX_PAYLOAD) {
		answer.head.result = -E2BIG;
		answer.len = 0;
	}
	if (answer.head.result < 0)
		answer.len = 0;
	send_answer(client, &answer);
}

/* ---- the thread -------------------------------------------------------------------------------- */

static void client_free(struct client *client)
{
	struct hyp_loopback *lb = client->lb;

	list_del(&client->link);
	lb->nr_clients--;
	close(client->fd);
	free(client->late.payload);
	if (client->hello)
		lb_conn_close(lb->store, &client->conn);
	if (client->dom) {
		lb_dom_destroy(lb, client->dom);
		lb_dom_put(client->dom);
	}
	free(client);
}

static bool may_connect(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
		return false;
	return peer.uid == geteuid() || !peer.uid;
}

static void accept_client(struct hyp_loopback *lb)
{
	int fd = accept4(lb->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct epoll_event ev = { .events = EPOLLIN };
	struct client *client = NULL;

	if (fd < 0)
		return;
	if (lb->nr_clients < MAX_CLIENTS && fd < lb->fd_limit && may_connect(fd))
		client = calloc(1, sizeof(*client));
	if (!client)
		goto err_close;
	client->lb = lb;
	client->fd = fd;
	client->events = EPOLLIN;
	ev.data.ptr = client;
	if (epoll_ctl(lb->epoll_fd, EPOLL_CTL_ADD, fd, &ev))
		goto err_close;
	list_add_tail(&client->link, &lb->clients);
	lb->nr_clients++;
	return;

err_close:
	free(client);
	close(fd);
}

static void client_ready(struct client *client, uint32_t events, char *buf)
{
	struct request req;
	int rc;

	if (events & EPOLLOUT)
		send_late(client);
	if (client->gone || client->late.head.op)
		return;
	rc = receive(client, buf, &req);
	if (!rc)
		serve(client, &req);
	else if (rc != -EAGAIN)
		client->gone = true;
	if (req.fd >= 0)
		close(req.fd);
}

/* After each round: events that the round or the daemon's threads caused, and clients that are gone. */
static void settle(struct hyp_loopback *lb)
{
	struct client *client, *tmp;
	bool again = true;

	list_for_each(client, &lb->clients, link)
		if (client->hello && !client->gone)
			send_events(client);
	while (again) {
		again = false;
		list_for_each_safe(client, tmp, &lb->clients, link) {
			if (!client->gone)
				continue;
			client_free(client);
			again = true;
			break;
		}
	}
}

static void *server_main(void *arg)
{
	struct hyp_loopback *lb = arg;
	struct epoll_event ev[16];
	char *buf = malloc(LB_MAX_PAYLOAD + 1);
	uint64_t count;

	while (buf && !atomic_load(&lb->stop)) {
		int n = epoll_wait(lb->epoll_fd, ev, 16, -1);

		for (int i = 0; i < n; i++) {
			if (ev[i].data.ptr == &lb->listener.fd)
				accept_client(lb);
			else if (ev[i].data.ptr == &lb->wake_fd)
				(void)!read(lb->wake_fd, &count, sizeof(count));
			else
				client_ready(ev[i].data.ptr, ev[i].events, buf);
		}
		settle(lb);
	}
	while (!list_empty(&lb->clients))
		client_free(list_first_entry(&lb->clients, struct client, link));
	free(buf);
	return NULL;
}

static int watch_fd(struct hyp_loopback *lb, int *fd)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = fd };

	return epoll_ctl(lb->epoll_fd, EPOLL_CTL_ADD, *fd, &ev) ? -errno : 0;
}

int lb_server_start(struct hyp_loopback *lb, const char *path)
{
	const struct unix_socket_options options = { SOCK_SEQPACKET, 0600, (gid_t)-1, 64 };
	char why[256];
	int rc = unix_socket_open(&lb->listener, path, &options, why, sizeof(why));

	if (rc) {
		log_err(LOG_HYP, "loopback: %s", why);
		return rc;
	}
	lb->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (lb->epoll_fd < 0) {
		rc = -errno;
		goto err_listen;
	}
	rc = watch_fd(lb, &lb->listener.fd);
	if (!rc)
		rc = watch_fd(lb, &lb->wake_fd);
	if (!rc)
		rc = thread_start(&lb->thread, "rd-loopback", server_main, lb);
	if (!rc)
		return 0;
	close(lb->epoll_fd);
err_listen:
	unix_socket_close(&lb->listener);
	return rc;
}

void lb_server_stop(struct hyp_loopback *lb)
{
	uint64_t one = 1;

	atomic_store(&lb->stop, true);
	(void)!write(lb->wake_fd, &one, sizeof(one));
	pthread_join(lb->thread, NULL);
	close(lb->epoll_fd);
	unix_socket_close(&lb->listener);
}
