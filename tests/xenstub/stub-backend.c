/*
 * For LD_PRELOAD in a backend, QEMU's or ours: grants are pages of a file, event channels are datagrams
 * (stub.h), and the files by which Xen is recognised are there.
 *
 * As with Xen, a grant that does not exist cannot be mapped, and what is mapped stays when the domain dies.
 * A handle of event channels is used by one thread, except for notify.
 */
#define _GNU_SOURCE
#include "stub.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <xenevtchn.h>
#include <xengnttab.h>

#define MAX_PORTS 64

static int something; /* what a handle of grants points to */

/* --- files ------------------------------------------------------------------------------------ */

FILE *fopen(const char *path, const char *mode)
{
	FILE *(*real)(const char *, const char *);
	char buf[256];

	*(void **)&real = dlsym(RTLD_NEXT, "fopen64");
	if (!strcmp(path, "/sys/hypervisor/type") || !strcmp(path, "/proc/xen/capabilities")) {
		snprintf(buf, sizeof(buf), "%s/%s", stub_dir(), strrchr(path, '/') + 1);
		path = buf;
	}
	return real(path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
	FILE *(*real)(const char *, const char *);

	*(void **)&real = dlsym(RTLD_NEXT, "fopen64");
	return real(path, mode);
}

int access(const char *path, int mode)
{
	int (*real)(const char *, int);

	*(void **)&real = dlsym(RTLD_NEXT, "access");
	return strncmp(path, "/dev/xen/", 9) ? real(path, mode) : 0;
}

/* --- event channels --------------------------------------------------------------------------- */

struct port {
	int bound;
	struct sockaddr_un to;
	uint32_t theirs;
};

struct handle {
	int fd;
	struct sockaddr_un address;
	pthread_mutex_t lock; /* ports */
	struct port ports[MAX_PORTS];
};

static struct handle *of(xenevtchn_handle *evtchn)
{
	return (struct handle *)evtchn;
}

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned flags)
{
	static int count;
	struct handle *h = calloc(1, sizeof(*h));
	char name[40];

	(void)logger, (void)flags;
	if (!h)
		return NULL;
	snprintf(name, sizeof(name), "end-%d-%d", getpid(),
		 __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED));
	h->address = stub_address(name);
	h->fd = stub_bind(&h->address);
	pthread_mutex_init(&h->lock, NULL);
	if (h->fd >= 0)
		return (xenevtchn_handle *)h;
	free(h);
	return NULL;
}

int xenevtchn_close(xenevtchn_handle *evtchn)
{
	struct handle *h = of(evtchn);

	unlink(h->address.sun_path);
	close(h->fd);
	pthread_mutex_destroy(&h->lock);
	free(h);
	return 0;
}

int xenevtchn_fd(xenevtchn_handle *evtchn)
{
	return of(evtchn)->fd;
}

static int new_port(struct handle *h, const struct sockaddr_un *to, uint32_t theirs)
{
	int found = -1;

	pthread_mutex_lock(&h->lock);
	for (int i = 1; i < MAX_PORTS && found < 0; i++) {
		if (h->ports[i].bound)
			continue;
		h->ports[i] = (struct port){ .bound = 1, .to = *to, .theirs = theirs };
		found = i;
	}
	pthread_mutex_unlock(&h->lock);
	if (found < 0)
		errno = ENOSPC;
	return found;
}

/* For a channel to ourselves, the only ones without a guest. */
xenevtchn_port_or_error_t xenevtchn_bind_unbound_port(xenevtchn_handle *evtchn, uint32_t domid)
{
	struct handle *h = of(evtchn);

	(void)domid;
	return new_port(h, &h->address, 0);
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *evtchn, uint32_t domid,
						     evtchn_port_t remote)
{
	struct handle *h = of(evtchn);
	struct sockaddr_un guest = domid ? stub_guest_port(domid, remote) : h->address;
	struct stub_hello hello = { .magic = STUB_HELLO, .from = h->address };
	int port;

	if (domid && access(guest.sun_path, F_OK)) {
		errno = EINVAL;
		return -1;
	}
	port = new_port(h, &guest, remote);
	if (port < 0 || !domid)
		return port;
	hello.port = (uint32_t)port;
	stub_send(h->fd, &guest, &hello, sizeof(hello));
	return port;
}

int xenevtchn_unbind(xenevtchn_handle *evtchn, evtchn_port_t port)
{
	struct handle *h = of(evtchn);

	if (port >= MAX_PORTS) {
		errno = EINVAL;
		return -1;
	}
	pthread_mutex_lock(&h->lock);
	h->ports[port].bound = 0;
	pthread_mutex_unlock(&h->lock);
	return 0;
}

int xenevtchn_unmask(xenevtchn_handle *evtchn, evtchn_port_t port)
{
	(void)evtchn, (void)port;
	return 0;
}

int xenevtchn_notify(xenevtchn_handle *evtchn, evtchn_port_t port)
{
	struct handle *h = of(evtchn);
	struct port p = { 0 };

	pthread_mutex_lock(&h->lock);
	if (port < MAX_PORTS)
		p = h->ports[port];
	pthread_mutex_unlock(&h->lock);
	if (!p.bound) {
		errno = ENOTCONN;
		return -1;
	}
	stub_send(h->fd, &p.to, &p.theirs, sizeof(p.theirs));
	return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *evtchn)
{
	uint32_t port;

	return recv(of(evtchn)->fd, &port, sizeof(port), 0) == sizeof(port) ? (int)port : -1;
}

/* --- grants ----------------------------------------------------------------------------------- */

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

int xengnttab_fd(xengnttab_handle *gnt)
{
	(void)gnt;
	return -1;
}

int xengnttab_set_max_grants(xengnttab_handle *gnt, uint32_t count)
{
	(void)gnt, (void)count;
	return 0;
}

static int open_memory(uint32_t domid)
{
	char path[256];

	return open(stub_path(path, sizeof(path), domid, "memory"), O_RDWR | O_CLOEXEC);
}

static int map_page(void *at, uint32_t domid, uint32_t ref, int prot)
{
	int fd = open_memory(domid), err = EINVAL;
	struct stat st;

	if (fd < 0)
		return err;
	if (!fstat(fd, &st) && ((off_t)ref + 1) * STUB_PAGE <= st.st_size &&
	    mmap(at, STUB_PAGE, prot, MAP_SHARED | MAP_FIXED, fd, (off_t)ref * STUB_PAGE) !=
		    MAP_FAILED)
		err = 0;
	close(fd);
	return err;
}

void *xengnttab_map_grant_refs(xengnttab_handle *gnt, uint32_t count, uint32_t *domids,
			       uint32_t *refs, int prot)
{
	size_t len = (size_t)count * STUB_PAGE;
	char *at = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int err = 0;

	(void)gnt;
	if (at == MAP_FAILED)
		return NULL;
	for (uint32_t i = 0; i < count && !err; i++)
		err = map_page(at + (size_t)i * STUB_PAGE, domids[i], refs[i], prot);
	if (!err)
		return at;
	munmap(at, len);
	errno = err;
	return NULL;
}

void *xengnttab_map_domain_grant_refs(xengnttab_handle *gnt, uint32_t count, uint32_t domid,
				      uint32_t *refs, int prot)
{
	uint32_t domids[count];

	for (uint32_t i = 0; i < count; i++)
		domids[i] = domid;
	return xengnttab_map_grant_refs(gnt, count, domids, refs, prot);
}

void *xengnttab_map_grant_ref(xengnttab_handle *gnt, uint32_t domid, uint32_t ref, int prot)
{
	return xengnttab_map_grant_refs(gnt, 1, &domid, &ref, prot);
}

int xengnttab_unmap(xengnttab_handle *gnt, void *addr, uint32_t count)
{
	(void)gnt;
	return munmap(addr, (size_t)count * STUB_PAGE);
}

static int copy_foreign(uint32_t domid, uint32_t ref, uint32_t offset, void *local, size_t len,
			int to_guest)
{
	off_t at = (off_t)ref * STUB_PAGE + offset;
	ssize_t done = -1;
	int fd = open_memory(domid);

	if (fd < 0 || offset + len > STUB_PAGE)
		goto out;
	done = to_guest ? pwrite(fd, local, len, at) : pread(fd, local, len, at);
out:
	if (fd >= 0)
		close(fd);
	return done == (ssize_t)len ? GNTST_okay : GNTST_bad_gntref;
}

int xengnttab_grant_copy(xengnttab_handle *gnt, uint32_t count,
			 xengnttab_grant_copy_segment_t *segs)
{
	(void)gnt;
	for (uint32_t i = 0; i < count; i++) {
		xengnttab_grant_copy_segment_t *s = &segs[i];

		if (s->flags == GNTCOPY_dest_gref)
			s->status = (int16_t)copy_foreign(
				s->dest.foreign.domid, s->dest.foreign.ref, s->dest.foreign.offset,
				s->source.virt, s->len, 1);
		else if (s->flags == GNTCOPY_source_gref)
			s->status = (int16_t)copy_foreign(
				s->source.foreign.domid, s->source.foreign.ref,
				s->source.foreign.offset, s->dest.virt, s->len, 0);
		else
			s->status = GNTST_general_error;
	}
	return 0;
}
