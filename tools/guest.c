/*
 * A guest of the loopback hypervisor (core/hyp-loopback-proto.h), as a library.
 *
 * Normal path: connect, pass a memfd whose first pages are the grant table, then ask and be answered, one
 * question at a time under a mutex. Watch events that arrive while an answer is awaited are kept in a list.
 *
 * What can go wrong: the daemon goes away; everything then returns -EPIPE (notify does not notice).
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/list.h"

#define FIRST_GREF 8u /* Xen keeps the first ones for itself */

struct event {
	struct list_head link;
	char *path, *token; /* one block with the struct */
};

struct guest {
	/* set at open */
	int fd;
	uint32_t domid;
	uint8_t *mem;
	size_t mem_len;
	struct lb_grant *grant;
	uint32_t nr_grants;
	uint32_t frames, first_frame; /* the table's pages come first */
	/* under lock */
	pthread_mutex_t lock;
	uint32_t seq;
	struct list_head events;
	uint8_t *page_used; /* by frame */
	uint32_t page_hint, gref_hint;
	int vcpu_fd[LB_MAX_VCPUS];
	char buf[LB_MAX_PAYLOAD + 1];
};

long long guest_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (long long)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- messages ---------------------------------------------------------------------------------- */

static int send_msg(int sock, const struct lb_msg *msg, const void *payload, size_t len, int fd)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov[2] = {
		{ .iov_base = (void *)(uintptr_t)msg, .iov_len = sizeof(*msg) },
		{ .iov_base = (void *)(uintptr_t)payload, .iov_len = len },
	};
	struct msghdr hdr = { .msg_iov = iov, .msg_iovlen = len ? 2 : 1 };

	if (fd >= 0) {
		struct cmsghdr *cmsg;

		hdr.msg_control = control.buf;
		hdr.msg_controllen = sizeof(control.buf);
		cmsg = CMSG_FIRSTHDR(&hdr);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
	}
	return sendmsg(sock, &hdr, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void take_fds(struct msghdr *hdr, int *fds)
{
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(hdr);

	if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(fds, CMSG_DATA(cmsg), cmsg->cmsg_len - CMSG_LEN(0));
}

/* The next packet: its payload is in guest->buf. -EPIPE, -EAGAIN (flags MSG_DONTWAIT). */
static ssize_t receive_locked(struct guest *guest, struct lb_reply *reply, int *fds, int flags)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * LB_MAX_FDS)];
	} control;
	struct iovec iov[2] = {
		{ .iov_base = reply, .iov_len = sizeof(*reply) },
		{ .iov_base = guest->buf, .iov_len = LB_MAX_PAYLOAD },
	};
	struct msghdr hdr = { .msg_iov = iov,
			      .msg_iovlen = 2,
			      .msg_control = control.buf,
			      .msg_controllen = sizeof(control.buf) };
	ssize_t n;

	do
		n = recvmsg(guest->fd, &hdr, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : -EPIPE;
	if ((size_t)n < sizeof(*reply))
		return -EPIPE;
	if (fds)
		take_fds(&hdr, fds);
	n -= (ssize_t)sizeof(*reply);
	guest->buf[n] = 0;
	return n;
}

/* The event whose payload is in guest->buf. */
static void keep_event_locked(struct guest *guest, size_t len)
{
	struct event *event = malloc(sizeof(*event) + len + 1);

	if (!event)
		return;
	event->path = (char *)(event + 1);
	memcpy(event->path, guest->buf, len + 1);
	event->token = event->path + strlen(event->path) + 1;
	list_add_tail(&event->link, &guest->events);
}

/* Ask, and wait for the answer: its result; the payload is in guest->buf, *got bytes. */
static int ask_locked(struct guest *guest, struct lb_msg *msg, const void *payload, size_t len,
		      int fd, size_t *got, int *fds)
{
	struct lb_reply reply;
	ssize_t n;
	int rc;

	if (guest->fd < 0)
		return -EPIPE;
	msg->seq = ++guest->seq;
	rc = send_msg(guest->fd, msg, payload, len, fd);
	if (rc)
		return rc == -ECONNRESET ? -EPIPE : rc;
	for (;;) {
		n = receive_locked(guest, &reply, fds, 0);
		if (n < 0)
			return (int)n;
		if (reply.op != LB_EV_WATCH)
			break;
		keep_event_locked(guest, (size_t)n);
	}
	if (got)
		*got = (size_t)n;
	return reply.result;
}

static int ask(struct guest *guest, struct lb_msg msg, const void *payload, size_t len)
{
	int rc;

	pthread_mutex_lock(&guest->lock);
	rc = ask_locked(guest, &msg, payload, len, -1, NULL, NULL);
	pthread_mutex_unlock(&guest->lock);
	return rc;
}

int guest_raw(struct guest *guest, const struct lb_msg *msg, const void *payload, size_t len,
	      int fd)
{
	struct lb_msg copy = *msg;
	int rc;

	pthread_mutex_lock(&guest->lock);
	rc = ask_locked(guest, &copy, payload, len, fd, NULL, NULL);
	pthread_mutex_unlock(&guest->lock);
	return rc;
}

int guest_socket(const struct guest *guest)
{
	return guest->fd;
}

/* ---- life -------------------------------------------------------------------------------------- */

static int connect_to(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

static struct guest *guest_new(int fd)
{
	struct guest *guest = calloc(1, sizeof(*guest));

	if (!guest)
		return NULL;
	guest->fd = fd;
	list_init(&guest->events);
	pthread_mutex_init(&guest->lock, NULL);
	for (unsigned int i = 0; i < LB_MAX_VCPUS; i++)
		guest->vcpu_fd[i] = -1;
	return guest;
}

/* Memory and its descriptor; the grant table is at its start. */
static int make_memory(struct guest *guest, unsigned int pages, unsigned int nr_grants)
{
	size_t table =
		((size_t)nr_grants * sizeof(struct lb_grant) + HYP_PAGE_SIZE - 1) / HYP_PAGE_SIZE;
	int fd = memfd_create("ringdisk-guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	guest->first_frame = (uint32_t)table;
	guest->frames = (uint32_t)(table + pages);
	guest->mem_len = (size_t)guest->frames * HYP_PAGE_SIZE;
	guest->nr_grants = nr_grants;
	guest->page_used = calloc(guest->frames, 1);
	if (!guest->page_used || ftruncate(fd, (off_t)guest->mem_len) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))
		goto err_close;
	guest->mem = mmap(NULL, guest->mem_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (guest->mem == MAP_FAILED) {
		guest->mem = NULL;
		goto err_close;
	}
	guest->grant = (struct lb_grant *)(void *)guest->mem;
	guest->page_hint = guest->first_frame;
	guest->gref_hint = FIRST_GREF;
	return fd;

err_close:
	close(fd);
	return -ENOMEM;
}

static int guest_hello(struct guest *guest, uint32_t domid, int memfd)
{
	struct lb_msg msg = { .op = LB_HELLO, .a = LB_MAGIC, .b = domid, .c = guest->nr_grants };
	int rc = guest_raw(guest, &msg, NULL, 0, memfd);

	if (rc < 0)
		return rc;
	guest->domid = (uint32_t)rc;
	return 0;
}

static int guest_start(const char *socket, struct guest **guest)
{
	int fd = connect_to(socket);

	if (fd < 0)
		return fd;
	*guest = guest_new(fd);
	if (*guest)
		return 0;
	close(fd);
	return -ENOMEM;
}

int guest_open(const char *socket, uint32_t domid, unsigned int pages, unsigned int nr_grants,
	       struct guest **out)
{
	struct guest *guest;
	int memfd, rc = guest_start(socket, &guest);

	if (rc)
		return rc;
	memfd = make_memory(guest, pages, nr_grants);
	rc = memfd < 0 ? memfd : guest_hello(guest, domid, memfd);
	if (memfd >= 0)
		close(memfd);
	if (rc) {
		guest_close(guest);
		return rc;
	}
	*out = guest;
	return 0;
}

int guest_toolstack(const char *socket, struct guest **out)
{
	struct guest *guest;
	int rc = guest_start(socket, &guest);

	if (rc)
		return rc;
	rc = guest_hello(guest, 0, -1);
	if (rc) {
		guest_close(guest);
		return rc;
	}
	*out = guest;
	return 0;
}

void guest_vanish(struct guest *guest)
{
	pthread_mutex_lock(&guest->lock);
	if (guest->fd >= 0)
		close(guest->fd);
	guest->fd = -1;
	pthread_mutex_unlock(&guest->lock);
}

void guest_close(struct guest *guest)
{
	if (!guest)
		return;
	guest_vanish(guest);
	while (!list_empty(&guest->events)) {
		struct event *event = list_first_entry(&guest->events, struct event, link);

		list_del(&event->link);
		free(event);
	}
	for (unsigned int i = 0; i < LB_MAX_VCPUS; i++)
		if (guest->vcpu_fd[i] >= 0)
			close(guest->vcpu_fd[i]);
	if (guest->mem)
		munmap(guest->mem, guest->mem_len);
	free(guest->page_used);
	pthread_mutex_destroy(&guest->lock);
	free(guest);
}

uint32_t guest_domid(const struct guest *guest)
{
	return guest->domid;
}

/* ---- memory ------------------------------------------------------------------------------------ */

/* The first frame of count free ones at or above from; 0: none. */
static uint32_t find_free_locked(const struct guest *guest, uint32_t from, unsigned int count)
{
	unsigned int run = 0;

	for (uint32_t i = from; i < guest->frames; i++) {
		run = guest->page_used[i] ? 0 : run + 1;
		if (run == count)
			return i + 1 - count;
	}
	return 0;
}

void *guest_pages(struct guest *guest, unsigned int count)
{
	uint8_t *pages = NULL;
	uint32_t frame;

	if (!count)
		return NULL;
	pthread_mutex_lock(&guest->lock);
	frame = find_free_locked(guest, guest->page_hint, count);
	if (!frame)
		frame = find_free_locked(guest, guest->first_frame, count);
	if (frame) {
		memset(guest->page_used + frame, 1, count);
		guest->page_hint = frame + count;
		pages = guest->mem + (size_t)frame * HYP_PAGE_SIZE;
	}
	pthread_mutex_unlock(&guest->lock);
	if (pages)
		memset(pages, 0, (size_t)count * HYP_PAGE_SIZE);
	return pages;
}

void guest_pages_free(struct guest *guest, void *pages, unsigned int count)
{
	if (!pages)
		return;
	pthread_mutex_lock(&guest->lock);
	memset(guest->page_used + guest_frame(guest, pages), 0, count);
	pthread_mutex_unlock(&guest->lock);
}

uint32_t guest_frame(const struct guest *guest, const void *page)
{
	return (uint32_t)((size_t)((const uint8_t *)page - guest->mem) / HYP_PAGE_SIZE);
}

unsigned int guest_frames(const struct guest *guest)
{
	return guest->frames;
}

/* ---- grants ------------------------------------------------------------------------------------ */

void guest_grant_set(struct guest *guest, uint32_t gref, uint32_t flags, uint32_t domid,
		     uint32_t frame)
{
	__atomic_store_n(&guest->grant[gref].word, LB_GRANT_WORD(flags, domid, frame),
			 __ATOMIC_SEQ_CST);
}

static uint32_t find_gref_locked(const struct guest *guest, uint32_t from)
{
	for (uint32_t i = from; i < guest->nr_grants; i++)
		if (!guest->grant[i].pad)
			return i;
	return GUEST_NO_GREF;
}

/* pad is nobody's: it marks the references that are taken. */
uint32_t guest_grant(struct guest *guest, const void *page, bool readonly)
{
	uint32_t gref;

	pthread_mutex_lock(&guest->lock);
	gref = find_gref_locked(guest, guest->gref_hint);
	if (!gref)
		gref = find_gref_locked(guest, FIRST_GREF);
	if (gref) {
		guest->grant[gref].pad = 1;
		guest->gref_hint = gref + 1;
		guest_grant_set(guest, gref, LB_GTF_PERMIT | (readonly ? LB_GTF_READONLY : 0), 0,
				guest_frame(guest, page));
	}
	pthread_mutex_unlock(&guest->lock);
	return gref;
}

uint32_t guest_grant_in_use(const struct guest *guest, uint32_t gref)
{
	return __atomic_load_n(&guest->grant[gref].in_use, __ATOMIC_SEQ_CST);
}

int guest_grant_end(struct guest *guest, uint32_t gref)
{
	guest_grant_set(guest, gref, 0, 0, 0);
	if (guest_grant_in_use(guest, gref))
		return -EBUSY;
	pthread_mutex_lock(&guest->lock);
	guest->grant[gref].pad = 0;
	if (gref < guest->gref_hint)
		guest->gref_hint = gref;
	pthread_mutex_unlock(&guest->lock);
	return 0;
}

/* ---- event channels ---------------------------------------------------------------------------- */

int guest_port_open(struct guest *guest, uint32_t remote, uint32_t vcpu, struct guest_port *port)
{
	struct lb_msg msg = { .op = LB_EVTCHN_ALLOC, .a = remote, .b = vcpu };
	int rc, fds[LB_MAX_FDS] = { -1, -1 };

	pthread_mutex_lock(&guest->lock);
	rc = ask_locked(guest, &msg, NULL, 0, -1, NULL, fds);
	if (rc >= 0) {
		*port = (struct guest_port){ .port = (uint32_t)rc,
					     .vcpu = vcpu,
					     .kick_fd = fds[0] };
		if (fds[1] >= 0)
			guest->vcpu_fd[vcpu] = fds[1];
	}
	pthread_mutex_unlock(&guest->lock);
	return rc < 0 ? rc : 0;
}

void guest_port_close(struct guest *guest, struct guest_port *port)
{
	if (port->kick_fd < 0 || !port->port)
		return;
	ask(guest, (struct lb_msg){ .op = LB_EVTCHN_CLOSE, .a = port->port }, NULL, 0);
	close(port->kick_fd);
	*port = (struct guest_port){ .kick_fd = -1 };
}

int guest_notify(const struct guest_port *port)
{
	uint64_t one = 1;

	return write(port->kick_fd, &one, sizeof(one)) == sizeof(one) ? 0 : -errno;
}

int guest_vcpu_fd(const struct guest *guest, uint32_t vcpu)
{
	return vcpu < LB_MAX_VCPUS ? guest->vcpu_fd[vcpu] : -1;
}

int guest_wait(struct guest *guest, uint32_t vcpu, int timeout_ms, uint32_t *ports, int max)
{
	struct epoll_event ev[16];
	int n;

	if (max > 16)
		max = 16;
	n = epoll_wait(guest->vcpu_fd[vcpu], ev, max < 1 ? 1 : max, timeout_ms);
	for (int i = 0; i < n && i < max; i++)
		ports[i] = ev[i].data.u32;
	return n < 0 ? (errno == EINTR ? 0 : -errno) : n;
}

/* ---- store ------------------------------------------------------------------------------------- */

#define PATH_LEN 3200

static const char *full_path(const struct guest *guest, const char *path, char *buf)
{
	if (path[0] == '/' || path[0] == '@')
		return path;
	snprintf(buf, PATH_LEN, "/local/domain/%" PRIu32 "/%s", guest->domid, path);
	return buf;
}

/* Ask about a path; *value, if wanted, is a malloc'd copy of the answer. */
static int ask_path(struct guest *guest, enum lb_op op, hyp_txn txn, const char *path, char **value,
		    size_t *len)
{
	struct lb_msg msg = { .op = op, .a = txn };
	char buf[PATH_LEN];
	size_t got = 0;
	int rc;

	path = full_path(guest, path, buf);
	pthread_mutex_lock(&guest->lock);
	rc = ask_locked(guest, &msg, path, strlen(path) + 1, -1, &got, NULL);
	if (rc >= 0 && value) {
		*value = malloc(got + 1);
		if (*value)
			memcpy(*value, guest->buf, got + 1);
		else
			rc = -ENOMEM;
	}
	pthread_mutex_unlock(&guest->lock);
	if (len)
		*len = got;
	return rc;
}

/* Ask with two strings, or a string and bytes. */
static int ask_pair(struct guest *guest, struct lb_msg msg, const char *path, const void *second,
		    size_t len)
{
	char buf[PATH_LEN], *both;
	size_t path_len;
	int rc;

	path = full_path(guest, path, buf);
	path_len = strlen(path) + 1;
	both = malloc(path_len + len + 1);
	if (!both)
		return -ENOMEM;
	memcpy(both, path, path_len);
	if (len)
		memcpy(both + path_len, second, len);
	rc = ask(guest, msg, both, path_len + len);
	free(both);
	return rc;
}

int guest_read(struct guest *guest, hyp_txn txn, const char *path, char **value)
{
	return ask_path(guest, LB_READ, txn, path, value, NULL);
}

int guest_write_bytes(struct guest *guest, hyp_txn txn, const char *path, const void *value,
		      size_t len)
{
	return ask_pair(guest, (struct lb_msg){ .op = LB_WRITE, .a = txn }, path, value, len);
}

int guest_write(struct guest *guest, hyp_txn txn, const char *path, const char *value)
{
	return guest_write_bytes(guest, txn, path, value, strlen(value));
}

int guest_writef(struct guest *guest, hyp_txn txn, const char *path, const char *fmt, ...)
{
	char value[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(value, sizeof(value), fmt, ap);
	va_end(ap);
	return guest_write(guest, txn, path, value);
}

int guest_read_u64(struct guest *guest, const char *path, uint64_t *value)
{
	char *text, *end;
	int rc = guest_read(guest, HYP_TXN_NONE, path, &text);

	if (rc)
		return rc;
	errno = 0;
	*value = strtoull(text, &end, 10);
	rc = errno || end == text || *end ? -EINVAL : 0;
	free(text);
	return rc;
}

uint64_t guest_read_u64_or(struct guest *guest, const char *path, uint64_t fallback)
{
	uint64_t value;

	return guest_read_u64(guest, path, &value) ? fallback : value;
}

int guest_rm(struct guest *guest, hyp_txn txn, const char *path)
{
	return ask_path(guest, LB_RM, txn, path, NULL, NULL);
}

int guest_list(struct guest *guest, hyp_txn txn, const char *path, char ***names,
	       unsigned int *count)
{
	char *text, *at, **list;
	size_t len;
	unsigned int n = 0;
	int rc = ask_path(guest, LB_LIST, txn, path, &text, &len);

	if (rc)
		return rc;
	for (size_t i = 0; i < len; i++)
		n += !text[i];
	list = malloc(n * sizeof(*list) + len + 1);
	if (!list) {
		free(text);
		return -ENOMEM;
	}
	at = memcpy(list + n, text, len + 1);
	free(text);
	for (unsigned int i = 0; i < n; i++, at += strlen(at) + 1)
		list[i] = at;
	*names = list;
	*count = n;
	return 0;
}

int guest_set_perms(struct guest *guest, hyp_txn txn, const char *path,
		    const struct hyp_perm *perms, unsigned int count)
{
	struct lb_msg msg = { .op = LB_SET_PERMS, .a = txn, .b = count };
	char full[PATH_LEN], payload[PATH_LEN + 64 * sizeof(*perms)];
	size_t len = count * sizeof(*perms);

	if (count > 64)
		return -EINVAL;
	memcpy(payload, perms, len);
	path = full_path(guest, path, full);
	strcpy(payload + len, path);
	return ask(guest, msg, payload, len + strlen(path) + 1);
}

int guest_get_perms(struct guest *guest, hyp_txn txn, const char *path, struct hyp_perm **perms,
		    unsigned int *count)
{
	char *bytes;
	size_t len;
	int rc = ask_path(guest, LB_GET_PERMS, txn, path, &bytes, &len);

	if (rc)
		return rc;
	*perms = (struct hyp_perm *)(void *)bytes;
	*count = (unsigned int)(len / sizeof(**perms));
	return 0;
}

int guest_begin(struct guest *guest, hyp_txn *txn)
{
	int rc = ask(guest, (struct lb_msg){ .op = LB_TXN_BEGIN }, NULL, 0);

	if (rc < 0)
		return rc;
	*txn = (hyp_txn)rc;
	return 0;
}

int guest_end(struct guest *guest, hyp_txn txn, bool commit)
{
	return ask(guest, (struct lb_msg){ .op = LB_TXN_END, .a = txn, .b = commit }, NULL, 0);
}

int guest_watch(struct guest *guest, const char *path, const char *token)
{
	return ask_pair(guest, (struct lb_msg){ .op = LB_WATCH }, path, token, strlen(token) + 1);
}

int guest_unwatch(struct guest *guest, const char *path, const char *token)
{
	return ask_pair(guest, (struct lb_msg){ .op = LB_UNWATCH }, path, token, strlen(token) + 1);
}

/* Take what the socket has into the list. */
static int collect_locked(struct guest *guest)
{
	struct lb_reply reply;
	ssize_t n;

	if (guest->fd < 0)
		return -EPIPE;
	while ((n = receive_locked(guest, &reply, NULL, MSG_DONTWAIT)) >= 0)
		if (reply.op == LB_EV_WATCH)
			keep_event_locked(guest, (size_t)n);
	return n == -EAGAIN ? 0 : (int)n;
}

/* 1, 0 or -errno, at once. */
static int next_event(struct guest *guest, char **path, char **token)
{
	struct event *event;
	int rc;

	pthread_mutex_lock(&guest->lock);
	rc = list_empty(&guest->events) ? collect_locked(guest) : 0;
	event = list_first_entry_or_null(&guest->events, struct event, link);
	if (event)
		list_del(&event->link);
	pthread_mutex_unlock(&guest->lock);
	if (!event)
		return rc;
	*path = strdup(event->path);
	*token = strdup(event->token);
	free(event);
	return 1;
}

int guest_event(struct guest *guest, int timeout_ms, char **path, char **token)
{
	long long deadline = guest_now_ms() + timeout_ms;
	int rc;

	while (!(rc = next_event(guest, path, token))) {
		struct pollfd pfd = { .fd = guest->fd, .events = POLLIN };
		long long left = deadline - guest_now_ms();

		if (left <= 0)
			return 0;
		/* not for long: another thread's question may collect our event */
		poll(&pfd, 1, left > 100 ? 100 : (int)left);
	}
	return rc;
}

static int match_value(struct guest *guest, const char *path, const char *const *values)
{
	char *value = NULL;
	int rc = guest_read(guest, HYP_TXN_NONE, path, &value), found = -EAGAIN;

	/* who may not look above a node that is gone is told EACCES, as by xenstored */
	if (rc && rc != -ENOENT && rc != -EACCES)
		return rc;
	for (int i = 0; found < 0 && values[i]; i++)
		if (!strcmp(value ? value : "", values[i]))
			found = i;
	free(value);
	return found;
}

int guest_wait_for(struct guest *guest, const char *path, const char *const *values, int timeout_ms)
{
	long long deadline = guest_now_ms() + timeout_ms;
	static const char token[] = "wait-for";
	int rc, watched = guest_watch(guest, path, token);

	if (watched && watched != -EEXIST)
		return watched;
	while ((rc = match_value(guest, path, values)) == -EAGAIN) {
		char *got_path, *got_token;
		long long left = deadline - guest_now_ms();

		if (left <= 0) {
			rc = -ETIMEDOUT;
			break;
		}
		if (guest_event(guest, left > 1000 ? 1000 : (int)left, &got_path, &got_token) ==
		    1) {
			free(got_path);
			free(got_token);
		}
	}
	if (!watched)
		guest_unwatch(guest, path, token);
	return rc;
}

/* ---- control ----------------------------------------------------------------------------------- */

int guest_stats(struct guest *guest, uint32_t domid, struct lb_stats *stats)
{
	struct lb_msg msg = { .op = LB_STATS, .a = domid };
	size_t got = 0;
	int rc;

	pthread_mutex_lock(&guest->lock);
	rc = ask_locked(guest, &msg, NULL, 0, -1, &got, NULL);
	if (!rc && got == sizeof(*stats))
		memcpy(stats, guest->buf, sizeof(*stats));
	pthread_mutex_unlock(&guest->lock);
	return rc ? rc : got == sizeof(*stats) ? 0 : -EPROTO;
}

int guest_shutdown(struct guest *guest, uint32_t domid, int reason)
{
	return ask(guest, (struct lb_msg){ .op = LB_SHUTDOWN, .a = domid, .b = (uint32_t)reason },
		   NULL, 0);
}

int guest_dom_create(struct guest *toolstack, uint32_t domid)
{
	return ask(toolstack, (struct lb_msg){ .op = LB_DOM_CREATE, .a = domid }, NULL, 0);
}

int guest_dom_destroy(struct guest *toolstack, uint32_t domid)
{
	return ask(toolstack, (struct lb_msg){ .op = LB_DOM_DESTROY, .a = domid }, NULL, 0);
}

int guest_fault(struct guest *toolstack, enum lb_fault fault, uint32_t domid, uint32_t n,
		int status)
{
	return ask(toolstack,
		   (struct lb_msg){
			   .op = LB_FAULT, .a = fault, .b = domid, .c = n, .d = (uint32_t)status },
		   NULL, 0);
}
