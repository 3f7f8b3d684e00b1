/*
 * Event channels of the loopback hypervisor. A handle is an epoll set of the kick eventfds of the ports
 * bound to it, edge-triggered and never read. To notify is one write.
 *
 * A port that was reported is masked: that costs nothing as long as the guest is quiet until the unmask.
 * A kick that comes while the port is masked is seen when the set is next asked: the port is then disarmed
 * in the set, so that a storm of kicks wakes nobody, and marked; unmask arms it again, and as its counter is
 * not zero (nobody ever reads it) it is reported at once.
 *
 * The poller's own kick is one more eventfd in the set, in place of port 0.
 *
 * Threads: as hyp.h says; only notify and kick come from others than the poller.
 */
#include "hyp-loopback-int.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Ports are numbered from 1; a device has one for each of its rings. */
#define MAX_LOCAL 64
#define KICK      0 /* no port: our own kick */

struct local_port {
	/* poller only */
	struct lb_dom *dom; /* NULL: free */
	uint32_t remote;
	int kick_fd;
	bool masked, disarmed;
	/* atomic */
	atomic_int notify_fd;
};

struct hyp_evtchn {
	struct hyp_loopback *lb;
	int epoll_fd, kick_fd;
	struct local_port port[MAX_LOCAL];
};

static void close_fds(struct hyp_evtchn *evtchn)
{
	if (evtchn->epoll_fd >= 0)
		close(evtchn->epoll_fd);
	if (evtchn->kick_fd >= 0)
		close(evtchn->kick_fd);
}

int lb_evtchn_open(struct hyp *hyp, struct hyp_evtchn **out)
{
	struct epoll_event kick = { .events = EPOLLIN | EPOLLET, .data.u32 = KICK };
	struct hyp_evtchn *evtchn = calloc(1, sizeof(*evtchn));
	int err;

	if (!evtchn)
		return -ENOMEM;
	evtchn->lb = to_loopback(hyp);
	evtchn->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	evtchn->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (evtchn->epoll_fd < 0 || evtchn->kick_fd < 0 ||
	    epoll_ctl(evtchn->epoll_fd, EPOLL_CTL_ADD, evtchn->kick_fd, &kick)) {
		err = errno;
		close_fds(evtchn);
		free(evtchn);
		return -err;
	}
	for (int i = 0; i < MAX_LOCAL; i++)
		evtchn->port[i].notify_fd = -1;
	*out = evtchn;
	return 0;
}

void lb_evtchn_close(struct hyp_evtchn *evtchn)
{
	if (!evtchn)
		return;
	for (int i = 1; i < MAX_LOCAL; i++)
		if (evtchn->port[i].dom)
			lb_evtchn_unbind(evtchn, i);
	close_fds(evtchn);
	free(evtchn);
}

int lb_evtchn_fd(struct hyp_evtchn *evtchn)
{
	return evtchn->epoll_fd;
}

static int arm(struct hyp_evtchn *evtchn, int port, int op, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.u32 = (uint32_t)port };

	return epoll_ctl(evtchn->epoll_fd, op, evtchn->port[port].kick_fd, &ev) ? -errno : 0;
}

static int bind_port(struct hyp_evtchn *evtchn, struct lb_dom *dom, uint32_t remote, int index)
{
	struct local_port *port = &evtchn->port[index];
	int rc, notify_fd;

	rc = lb_port_bind(evtchn->lb, dom, remote, &port->kick_fd, &notify_fd);
	if (rc)
		return rc;
	rc = arm(evtchn, index, EPOLL_CTL_ADD, EPOLLIN | EPOLLET);
	if (rc) {
		lb_port_unbind(evtchn->lb, dom, remote);
		return rc;
	}
	port->dom = dom;
	port->remote = remote;
	port->masked = port->disarmed = false;
	atomic_store(&port->notify_fd, notify_fd);
	return index;
}

int lb_evtchn_bind(struct hyp_evtchn *evtchn, uint32_t domid, uint32_t remote_port)
{
	struct lb_dom *dom;
	int rc, index = 1;

	while (index < MAX_LOCAL && evtchn->port[index].dom)
		index++;
	if (index == MAX_LOCAL)
		return -ENOSPC;
	dom = lb_dom_get(evtchn->lb, domid);
	if (!dom)
		return -ESRCH;
	rc = bind_port(evtchn, dom, remote_port, index);
	if (rc < 0)
		lb_dom_put(dom);
	return rc;
}

static struct local_port *bound_port(struct hyp_evtchn *evtchn, int port)
{
	return port > 0 && port < MAX_LOCAL && evtchn->port[port].dom ? &evtchn->port[port] : NULL;
}

int lb_evtchn_unbind(struct hyp_evtchn *evtchn, int index)
{
	struct local_port *port = bound_port(evtchn, index);

	if (!port)
		return -EINVAL;
	arm(evtchn, index, EPOLL_CTL_DEL, 0);
	atomic_store(&port->notify_fd, -1);
	lb_port_unbind(evtchn->lb, port->dom, port->remote);
	lb_dom_put(port->dom);
	port->dom = NULL;
	return 0;
}

int lb_evtchn_pending(struct hyp_evtchn *evtchn)
{
	return lb_evtchn_wait(evtchn, 0);
}

void lb_evtchn_kick(struct hyp_evtchn *evtchn)
{
	uint64_t one = 1;

	/* Nobody reads it, and each write is an edge. */
	(void)!write(evtchn->kick_fd, &one, sizeof(one));
}

int lb_evtchn_wait(struct hyp_evtchn *evtchn, int timeout_ms)
{
	struct epoll_event ev;
	int n;

	while ((n = epoll_wait(evtchn->epoll_fd, &ev, 1, timeout_ms)) > 0) {
		int index = (int)ev.data.u32;
		struct local_port *port = bound_port(evtchn, index);

		if (index == KICK)
			return -EINTR;
		if (!port)
			continue;
		if (!port->masked) {
			port->masked = true;
			return index;
		}
		if (!port->disarmed && !arm(evtchn, index, EPOLL_CTL_MOD, 0))
			port->disarmed = true;
	}
	return n < 0 && errno != EINTR ? -errno : -EAGAIN;
}

int lb_evtchn_unmask(struct hyp_evtchn *evtchn, int index)
{
	struct local_port *port = bound_port(evtchn, index);

	if (!port)
		return -EINVAL;
	port->masked = false;
	if (!port->disarmed)
		return 0;
	port->disarmed = false;
	return arm(evtchn, index, EPOLL_CTL_MOD, EPOLLIN | EPOLLET);
}

int lb_evtchn_notify(struct hyp_evtchn *evtchn, int index)
{
	uint64_t one = 1;
	int fd;

	if (index <= 0 || index >= MAX_LOCAL)
		return -EINVAL;
	fd = atomic_load_explicit(&evtchn->port[index].notify_fd, memory_order_relaxed);
	if (fd < 0)
		return -EINVAL;
	return write(fd, &one, sizeof(one)) == sizeof(one) ? 0 : -errno;
}
