/*
 * The domains of the loopback hypervisor: who exists, their memory, their event channel ports.
 *
 * A domain comes to be when its guest connects or when the toolstack creates it (its guest then connects
 * later), and dies when the connection is lost or the toolstack destroys it. Dead, it is out of the table
 * at once; its memory stays mapped while the daemon holds references.
 *
 * The guest's memory is hostile only in what it contains: it is a memfd on tmpfs that is sealed against
 * shrinking, so that no access to it can fault.
 *
 * Threads: rd-loopback creates, attaches and destroys; any thread looks up, binds and unbinds.
 */
#include "hyp-loopback-int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static struct lb_dom *find_locked(struct hyp_loopback *lb, uint32_t domid)
{
	struct lb_dom *dom;

	lock_assert_held(&lb->lock);
	list_for_each(dom, &lb->doms, link)
		if (dom->domid == domid)
			return dom;
	return NULL;
}

struct lb_dom *lb_dom_get(struct hyp_loopback *lb, uint32_t domid)
{
	struct lb_dom *dom;

	LOCK_SCOPE(&lb->lock);
	dom = find_locked(lb, domid);
	if (dom)
		atomic_fetch_add(&dom->refs, 1);
	return dom;
}

void lb_dom_put(struct lb_dom *dom)
{
	if (!dom || atomic_fetch_sub(&dom->refs, 1) != 1)
		return;
	for (unsigned int i = 0; i < LB_MAX_PORTS; i++) {
		close_fd(&dom->port[i].kick_fd);
		close_fd(&dom->port[i].notify_fd);
	}
	for (unsigned int i = 0; i < LB_MAX_VCPUS; i++)
		close_fd(&dom->vcpu_fd[i]);
	if (dom->mem)
		munmap(dom->mem, (size_t)dom->frames * HYP_PAGE_SIZE);
	close_fd(&dom->memfd);
	free(dom);
}

static struct lb_dom *dom_new(void)
{
	struct lb_dom *dom = calloc(1, sizeof(*dom));

	if (!dom)
		return NULL;
	list_init(&dom->link);
	atomic_init(&dom->refs, 2); /* the table's and the caller's */
	dom->memfd = -1;
	dom->shutdown = HYP_RUNNING;
	for (unsigned int i = 0; i < LB_MAX_PORTS; i++)
		dom->port[i].kick_fd = dom->port[i].notify_fd = -1;
	for (unsigned int i = 0; i < LB_MAX_VCPUS; i++)
		dom->vcpu_fd[i] = -1;
	return dom;
}

/* A number, or -EEXIST, -ENOSPC. */
static int choose_domid_locked(struct hyp_loopback *lb, uint32_t wanted)
{
	if (wanted != LB_DOMID_ANY)
		return find_locked(lb, wanted) ? -EEXIST : (int)wanted;
	for (uint32_t i = 0; i < LB_DOMID_LAST; i++) {
		uint32_t domid = lb->next_domid;

		lb->next_domid = domid == LB_DOMID_LAST ? 1 : domid + 1;
		if (!find_locked(lb, domid))
			return (int)domid;
	}
	return -ENOSPC;
}

static int add_dom(struct hyp_loopback *lb, uint32_t wanted, struct lb_dom *dom)
{
	int domid;

	LOCK_SCOPE(&lb->lock);
	domid = choose_domid_locked(lb, wanted);
	if (domid < 0)
		return domid;
	dom->domid = (uint32_t)domid;
	list_add_tail(&dom->link, &lb->doms);
	return 0;
}

/* /local/domain/N is the guest's own, as are all nodes that are made below it. */
static int add_home(struct hyp_loopback *lb, uint32_t domid)
{
	struct hyp_perm perm = { .domid = domid, .perm = HYP_PERM_NONE };
	char path[64], text[16];
	int rc;

	snprintf(path, sizeof(path), "/local/domain/%" PRIu32, domid);
	rc = lb_store_write(lb->store, &lb->self, HYP_TXN_NONE, path, "", 0);
	if (!rc)
		rc = lb_store_set_perms(lb->store, &lb->self, HYP_TXN_NONE, path, &perm, 1);
	snprintf(path, sizeof(path), "/local/domain/%" PRIu32 "/domid", domid);
	snprintf(text, sizeof(text), "%" PRIu32, domid);
	if (!rc)
		rc = lb_store_write(lb->store, &lb->self, HYP_TXN_NONE, path, text, strlen(text));
	return rc;
}

int lb_dom_create(struct hyp_loopback *lb, uint32_t domid, struct lb_dom **out)
{
	struct lb_dom *dom;
	int rc;

	if (!domid || (domid > LB_DOMID_LAST && domid != LB_DOMID_ANY))
		return -EINVAL;
	dom = dom_new();
	if (!dom)
		return -ENOMEM;
	rc = add_dom(lb, domid, dom);
	if (rc) {
		free(dom);
		return rc;
	}
	rc = add_home(lb, dom->domid);
	if (rc) {
		lb_dom_destroy(lb, dom);
		lb_dom_put(dom);
		return rc;
	}
	lb_store_special(lb->store, "@introduceDomain");
	*out = dom;
	return 0;
}

/* Only memory that can neither shrink nor live on huge pages or a full file system: no SIGBUS. */
static int check_memory(int memfd, uint32_t nr_grants, uint64_t *size)
{
	struct statfs fs;
	struct stat st;
	int seals = fcntl(memfd, F_GET_SEALS);

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(memfd, &st) || fstatfs(memfd, &fs))
		return -EINVAL;
	if (fs.f_type != TMPFS_MAGIC || !S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size <= 0 || (uint64_t)st.st_size > LB_MAX_MEMORY || st.st_size % HYP_PAGE_SIZE)
		return -EINVAL;
	if ((uint64_t)nr_grants * sizeof(struct lb_grant) > (uint64_t)st.st_size)
		return -EINVAL;
	*size = (uint64_t)st.st_size;
	return 0;
}

int lb_dom_attach(struct hyp_loopback *lb, struct lb_dom *dom, int memfd, uint32_t nr_grants)
{
	uint64_t size;
	void *mem;
	int rc = check_memory(memfd, nr_grants, &size);

	if (rc)
		return rc;
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (mem == MAP_FAILED)
		return -errno;

	LOCK_SCOPE(&lb->lock);
	if (dom->attached || atomic_load(&dom->dead)) {
		munmap(mem, size);
		return -EBUSY;
	}
	dom->memfd = memfd;
	dom->mem = mem;
	dom->frames = (uint32_t)(size / HYP_PAGE_SIZE);
	dom->grants = mem;
	dom->nr_grants = nr_grants;
	dom->attached = true;
	return 0;
}

void lb_dom_destroy(struct hyp_loopback *lb, struct lb_dom *dom)
{
	bool was_there;

	lock_acquire(&lb->lock);
	was_there = !list_empty(&dom->link);
	list_del(&dom->link);
	atomic_store(&dom->dead, true);
	lock_release(&lb->lock);
	if (!was_there)
		return;
	lb_dom_put(dom);
	lb_store_special(lb->store, "@releaseDomain");
}

void lb_dom_shutdown(struct hyp_loopback *lb, struct lb_dom *dom, int reason)
{
	lock_acquire(&lb->lock);
	dom->shutdown = reason;
	lock_release(&lb->lock);
	lb_store_special(lb->store, "@releaseDomain");
}

/* ---- ports ------------------------------------------------------------------------------------ */

static void port_free(struct lb_port *port)
{
	close_fd(&port->kick_fd);
	close_fd(&port->notify_fd); /* leaves the vcpu's epoll: nobody else has it */
	*port = (struct lb_port){ .kick_fd = -1, .notify_fd = -1 };
}

/* The epoll of a vcpu; *fresh if it was made now. */
static int vcpu_fd_locked(struct lb_dom *dom, uint32_t vcpu, bool *fresh)
{
	*fresh = dom->vcpu_fd[vcpu] < 0;
	if (*fresh)
		dom->vcpu_fd[vcpu] = epoll_create1(EPOLL_CLOEXEC);
	return dom->vcpu_fd[vcpu] < 0 ? -errno : dom->vcpu_fd[vcpu];
}

/*
 * The kick starts at one: a bind finds the port pending, as on Xen. The guest gets that eventfd, and could
 * make it block; we never read or write it. It does not get the one that we write.
 */
static int port_init(struct lb_port *port, int vcpu_fd, uint32_t index, int fd_limit)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET, .data.u32 = index };

	port->kick_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	port->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (port->kick_fd >= fd_limit || port->notify_fd >= fd_limit) {
		port_free(port);
		return -EMFILE;
	}
	if (port->kick_fd < 0 || port->notify_fd < 0 ||
	    epoll_ctl(vcpu_fd, EPOLL_CTL_ADD, port->notify_fd, &ev)) {
		int err = errno;

		port_free(port);
		return -err;
	}
	port->used = true;
	return 0;
}

int lb_port_alloc(struct hyp_loopback *lb, struct lb_dom *dom, uint32_t remote, uint32_t vcpu,
		  int fds[2])
{
	uint32_t index = 1;
	bool fresh;
	int rc, epoll_fd;

	if (vcpu >= LB_MAX_VCPUS)
		return -EINVAL;
	LOCK_SCOPE(&lb->lock);
	while (index < LB_MAX_PORTS && dom->port[index].used)
		index++;
	if (index == LB_MAX_PORTS)
		return -ENOSPC;
	epoll_fd = vcpu_fd_locked(dom, vcpu, &fresh);
	if (epoll_fd < 0)
		return epoll_fd;
	rc = port_init(&dom->port[index], epoll_fd, index, lb->fd_limit);
	if (rc)
		return rc;
	dom->port[index].remote = remote;
	fds[0] = dom->port[index].kick_fd;
	fds[1] = fresh ? epoll_fd : -1;
	return (int)index;
}

int lb_port_close(struct hyp_loopback *lb, struct lb_dom *dom, uint32_t index)
{
	struct lb_port *port;

	if (!index || index >= LB_MAX_PORTS)
		return -EINVAL;
	LOCK_SCOPE(&lb->lock);
	port = &dom->port[index];
	if (!port->used || port->orphan)
		return -EINVAL;
	if (port->bound)
		port->orphan = true;
	else
		port_free(port);
	return 0;
}

int lb_port_bind(struct hyp_loopback *lb, struct lb_dom *dom, uint32_t index, int *kick_fd,
		 int *notify_fd)
{
	struct lb_port *port;

	if (!index || index >= LB_MAX_PORTS)
		return -EINVAL;
	LOCK_SCOPE(&lb->lock);
	port = &dom->port[index];
	if (!port->used || port->bound || port->orphan || port->remote || dom->fault_bind)
		return -EINVAL;
	port->bound = true;
	*kick_fd = port->kick_fd;
	*notify_fd = port->notify_fd;
	return 0;
}

void lb_port_unbind(struct hyp_loopback *lb, struct lb_dom *dom, uint32_t index)
{
	struct lb_port *port = &dom->port[index];

	LOCK_SCOPE(&lb->lock);
	port->bound = false;
	if (port->orphan)
		port_free(port);
}
