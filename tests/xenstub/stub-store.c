/*
 * For LD_PRELOAD in xenstored: it finds its domains, their rings and its events in files (stub.h).
 *
 * Debian's xenstored is unmodified and does what it does on Xen: it introduces dom0 by /proc/xen, takes guests'
 * requests from their rings, with their permissions, and sees that a domain has died when it is told so.
 */
#define _GNU_SOURCE
#include "stub.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>

#define PORT_OF_DOMAIN 100u

static int something; /* what handles point to that have nothing to them */

/* --- /proc/xen -------------------------------------------------------------------------------- */

static const char *elsewhere(const char *path, char *buf, size_t len)
{
	if (!strcmp(path, "/proc/xen/xsd_port"))
		snprintf(buf, len, "%s/xsd_port", stub_dir());
	else if (!strcmp(path, "/proc/xen/xsd_kva"))
		stub_path(buf, len, 0, "ring");
	else
		return path;
	return buf;
}

static int really_open(const char *path, int flags, mode_t mode)
{
	int (*real)(const char *, int, ...);
	char buf[256];

	*(void **)&real = dlsym(RTLD_NEXT, "open64");
	return real(elsewhere(path, buf, sizeof(buf)), flags, mode);
}

int open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return really_open(path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

int __open_2(const char *path, int flags);
int __open_2(const char *path, int flags)
{
	return really_open(path, flags, 0);
}

int __open64_2(const char *path, int flags) __attribute__((alias("__open_2")));

/* --- domains ---------------------------------------------------------------------------------- */

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *dom_logger,
				unsigned flags)
{
	(void)logger, (void)dom_logger, (void)flags;
	return (xc_interface *)&something;
}

int xc_interface_close(xc_interface *xc)
{
	(void)xc;
	return 0;
}

/* As Xen does: the first domains from that number on. */
int xc_domain_getinfo(xc_interface *xc, uint32_t first, unsigned max, xc_dominfo_t *info)
{
	unsigned count = 0;

	(void)xc;
	for (uint32_t d = first; d < first + 64 && count < max; d++) {
		if (!stub_alive(d))
			continue;
		info[count++] = (xc_dominfo_t){
			.domid = d,
			.running = 1,
			.shutdown = (unsigned)stub_has(d, "shutdown"),
		};
	}
	return (int)count;
}

/* --- rings ------------------------------------------------------------------------------------ */

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned flags)
{
	(void)logger, (void)flags;
	return (xengnttab_handle *)&something;
}

int xengnttab_close(xengnttab_handle *gnt)
{
	(void)gnt;
	return 0;
}

int xengnttab_set_max_grants(xengnttab_handle *gnt, uint32_t count)
{
	(void)gnt, (void)count;
	return 0;
}

void *xengnttab_map_grant_ref(xengnttab_handle *gnt, uint32_t domid, uint32_t ref, int prot)
{
	char path[256];
	int fd = really_open(stub_path(path, sizeof(path), domid, "ring"), O_RDWR | O_CLOEXEC, 0);
	void *page = fd < 0 ? MAP_FAILED : mmap(NULL, STUB_PAGE, prot, MAP_SHARED, fd, 0);

	(void)gnt, (void)ref;
	if (fd >= 0)
		close(fd);
	return page == MAP_FAILED ? NULL : page;
}

int xengnttab_unmap(xengnttab_handle *gnt, void *addr, uint32_t count)
{
	(void)gnt;
	return munmap(addr, (size_t)count * STUB_PAGE);
}

/* --- events ----------------------------------------------------------------------------------- */

static int fd_of(xenevtchn_handle *evtchn)
{
	return *(int *)evtchn;
}

xenevtchn_handle *xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned flags)
{
	int *handle = malloc(sizeof(*handle));

	(void)logger, (void)flags;
	if (handle)
		*handle = fd;
	return (xenevtchn_handle *)handle;
}

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned flags)
{
	struct sockaddr_un address = stub_address("xenstored");
	int fd = stub_bind(&address);

	return fd < 0 ? NULL : xenevtchn_fdopen(logger, fd, flags);
}

int xenevtchn_close(xenevtchn_handle *evtchn)
{
	close(fd_of(evtchn));
	free(evtchn);
	return 0;
}

int xenevtchn_fd(xenevtchn_handle *evtchn)
{
	return fd_of(evtchn);
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *evtchn, unsigned virq)
{
	(void)evtchn, (void)virq;
	return STUB_VIRQ_PORT;
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *evtchn, uint32_t domid,
						     evtchn_port_t remote)
{
	(void)evtchn, (void)remote;
	return (int)(PORT_OF_DOMAIN + domid);
}

int xenevtchn_unbind(xenevtchn_handle *evtchn, evtchn_port_t port)
{
	(void)evtchn, (void)port;
	return 0;
}

int xenevtchn_unmask(xenevtchn_handle *evtchn, evtchn_port_t port)
{
	(void)evtchn, (void)port;
	return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *evtchn)
{
	uint32_t port;

	return recv(fd_of(evtchn), &port, sizeof(port), 0) == sizeof(port) ? (int)port : -1;
}

int xenevtchn_notify(xenevtchn_handle *evtchn, evtchn_port_t port)
{
	struct sockaddr_un guest = stub_guest_port(port - PORT_OF_DOMAIN, STUB_STORE_PORT);
	const uint32_t theirs = STUB_STORE_PORT;

	stub_send(fd_of(evtchn), &guest, &theirs, sizeof(theirs));
	return 0;
}
