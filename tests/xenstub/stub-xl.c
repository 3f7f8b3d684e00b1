/*
 * For LD_PRELOAD in xl (and whatever else links libxenctrl): the few hypercalls that it makes when disks come
 * and go. The real libxenctrl and libxl run above this; domains are directories (stub.h).
 *
 * A hypercall that is not known here is ENOSYS, and told on stderr if XENSTUB_DEBUG is set.
 */
#define _GNU_SOURCE
#define __XEN_TOOLS__ 1
#include "stub.h"

#include <errno.h>
#include <xen/domctl.h>
#include <xen/sched.h>
#include <xen/sysctl.h>
#include <xen/version.h>
#include <xen/xen.h>
#include <xencall.h>
#include <xendevicemodel.h>
#include <xenforeignmemory.h>

#define MAX_DOMAINS 64u
#define XEN_VERSION (4 << 16 | 17)

static int something; /* what handles point to */

static int answer(int ret)
{
	if (ret >= 0)
		return ret;
	errno = -ret;
	return -1;
}

static int unknown(unsigned op, unsigned long arg)
{
	if (getenv("XENSTUB_DEBUG"))
		fprintf(stderr, "stub-xl: hypercall %u, %lu\n", op, arg);
	return -ENOSYS;
}

/* --- handles and buffers ---------------------------------------------------------------------- */

xencall_handle *xencall_open(struct xentoollog_logger *logger, unsigned flags)
{
	(void)logger, (void)flags;
	return (xencall_handle *)&something;
}

int xencall_close(xencall_handle *call)
{
	(void)call;
	return 0;
}

int xencall_fd(xencall_handle *call)
{
	(void)call;
	return -1;
}

void *xencall_alloc_buffer_pages(xencall_handle *call, size_t pages)
{
	void *p = aligned_alloc(STUB_PAGE, pages * STUB_PAGE);

	(void)call;
	return p ? memset(p, 0, pages * STUB_PAGE) : NULL;
}

void xencall_free_buffer_pages(xencall_handle *call, void *p, size_t pages)
{
	(void)call, (void)pages;
	free(p);
}

void *xencall_alloc_buffer(xencall_handle *call, size_t size)
{
	(void)call;
	return calloc(1, size);
}

void xencall_free_buffer(xencall_handle *call, void *p)
{
	(void)call;
	free(p);
}

int xencall_buffers_never_fault(xencall_handle *call)
{
	(void)call;
	return 1;
}

xenforeignmemory_handle *xenforeignmemory_open(struct xentoollog_logger *logger, unsigned flags)
{
	(void)logger, (void)flags;
	return (xenforeignmemory_handle *)&something;
}

int xenforeignmemory_close(xenforeignmemory_handle *mem)
{
	(void)mem;
	return 0;
}

xendevicemodel_handle *xendevicemodel_open(struct xentoollog_logger *logger, unsigned flags)
{
	(void)logger, (void)flags;
	return (xendevicemodel_handle *)&something;
}

int xendevicemodel_close(xendevicemodel_handle *model)
{
	(void)model;
	return 0;
}

/* --- domains ---------------------------------------------------------------------------------- */

static void describe(struct xen_domctl_getdomaininfo *info, uint32_t domid)
{
	*info = (struct xen_domctl_getdomaininfo){
		.domain = (domid_t)domid,
		.flags = stub_has(domid, "paused") ? XEN_DOMINF_paused : XEN_DOMINF_running,
		.tot_pages = 1024,
		.max_pages = 2048,
		.nr_online_vcpus = 1,
		.handle = { 0xab, [15] = (uint8_t)domid },
	};
	if (stub_has(domid, "shutdown"))
		info->flags |= XEN_DOMINF_shutdown | SHUTDOWN_poweroff << XEN_DOMINF_shutdownshift;
}

/* The first domain from that number on. */
static int get_info(struct xen_domctl *ctl)
{
	for (uint32_t d = ctl->domain; d < MAX_DOMAINS; d++) {
		if (!stub_alive(d))
			continue;
		describe(&ctl->u.getdomaininfo, d);
		ctl->domain = (domid_t)d;
		return 0;
	}
	return -ESRCH;
}

static int set_paused(uint32_t domid, int paused)
{
	char path[256];
	FILE *f;

	if (!stub_alive(domid))
		return -ESRCH;
	stub_path(path, sizeof(path), domid, "paused");
	if (!paused)
		return unlink(path) && errno != ENOENT ? -errno : 0;
	f = fopen(path, "w");
	if (!f)
		return -errno;
	fclose(f);
	return 0;
}

/* The directory goes away, and xenstored hears of a death. */
static int destroy(uint32_t domid)
{
	const uint32_t port = STUB_VIRQ_PORT;
	struct sockaddr_un store = stub_address("xenstored");
	char from[256], to[256];
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	stub_path(from, sizeof(from), domid, "");
	snprintf(to, sizeof(to), "%s/dead/%u.%d", stub_dir(), domid, getpid());
	if (rename(from, to))
		return errno == ENOENT ? -ESRCH : -errno;
	stub_send(fd, &store, &port, sizeof(port));
	close(fd);
	return 0;
}

static int domctl(struct xen_domctl *ctl)
{
	switch (ctl->cmd) {
	case XEN_DOMCTL_getdomaininfo:
		return get_info(ctl);
	case XEN_DOMCTL_pausedomain:
		return set_paused(ctl->domain, 1);
	case XEN_DOMCTL_unpausedomain:
		return set_paused(ctl->domain, 0);
	case XEN_DOMCTL_destroydomain:
		return destroy(ctl->domain);
	case XEN_DOMCTL_get_address_size:
		ctl->u.address_size.size = 64;
		return 0;
	default:
		return unknown(__HYPERVISOR_domctl, ctl->cmd);
	}
}

static int list_domains(struct xen_sysctl_getdomaininfolist *list)
{
	uint32_t count = 0;

	for (uint32_t d = list->first_domain; d < MAX_DOMAINS && count < list->max_domains; d++) {
		if (stub_alive(d))
			describe(&list->buffer.p[count++], d);
	}
	list->num_domains = count;
	return 0;
}

static int machine(struct xen_sysctl_physinfo *info)
{
	*info = (struct xen_sysctl_physinfo){
		.threads_per_core = 1,
		.cores_per_socket = 1,
		.nr_cpus = 1,
		.total_pages = 1 << 20,
	};
	return 0;
}

static int sysctl(struct xen_sysctl *ctl)
{
	switch (ctl->cmd) {
	case XEN_SYSCTL_getdomaininfolist:
		return list_domains(&ctl->u.getdomaininfolist);
	case XEN_SYSCTL_physinfo:
		return machine(&ctl->u.physinfo);
	default:
		return unknown(__HYPERVISOR_sysctl, ctl->cmd);
	}
}

static int version(uint64_t what, void *buf)
{
	switch (what) {
	case XENVER_version:
		return XEN_VERSION;
	case XENVER_pagesize:
		return STUB_PAGE;
	case XENVER_extraversion:
		strcpy(buf, ".0-stub");
		return 0;
	default:
		return 0; /* buf is zeroed: empty strings */
	}
}

/* --- the calls -------------------------------------------------------------------------------- */

int xencall0(xencall_handle *call, unsigned op)
{
	(void)call;
	return answer(unknown(op, 0));
}

int xencall1(xencall_handle *call, unsigned op, uint64_t a1)
{
	(void)call;
	if (op == __HYPERVISOR_domctl)
		return answer(domctl((struct xen_domctl *)(uintptr_t)a1));
	if (op == __HYPERVISOR_sysctl)
		return answer(sysctl((struct xen_sysctl *)(uintptr_t)a1));
	return answer(unknown(op, 0));
}

int xencall2(xencall_handle *call, unsigned op, uint64_t a1, uint64_t a2)
{
	(void)call;
	if (op == __HYPERVISOR_xen_version)
		return answer(version(a1, (void *)(uintptr_t)a2));
	return answer(unknown(op, a1));
}

long xencall2L(xencall_handle *call, unsigned op, uint64_t a1, uint64_t a2)
{
	(void)call, (void)a2;
	return answer(unknown(op, a1));
}

int xencall3(xencall_handle *call, unsigned op, uint64_t a1, uint64_t a2, uint64_t a3)
{
	(void)call, (void)a2, (void)a3;
	return answer(unknown(op, a1));
}

int xencall4(xencall_handle *call, unsigned op, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4)
{
	(void)call, (void)a2, (void)a3, (void)a4;
	return answer(unknown(op, a1));
}

int xencall5(xencall_handle *call, unsigned op, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
	     uint64_t a5)
{
	(void)call, (void)a2, (void)a3, (void)a4, (void)a5;
	return answer(unknown(op, a1));
}
