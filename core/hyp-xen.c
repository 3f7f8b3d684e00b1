/*
 * hyp-xen.c - real Xen, through libxengnttab, libxenevtchn and libxenstore
 *
 * A thin layer: the libraries are wrappers of ioctls on /dev/xen/{gntdev,evtchn} and of the store's socket.
 * What is added: -errno, batches of fixed size for grant copy, and revocation.
 *
 * Revoking pages while a system call uses them: anonymous memory is mapped over them in one step.  That
 * ends the kernel's mapping of the grants (their domain can die), and the addresses stay ours.  gntdev then
 * knows nothing of them any more, so that unmapping them later is a plain munmap.
 *
 * Facts relied on (Xen 4.17, tools/libs): gnttab handles have no state in user space, so that several
 * threads may use one; an evtchn handle may be shared for notify only; a store handle takes one request at
 * a time, by a lock of its own, and is dead for good after an error of its connection.
 *
 * libxenctrl, whose ABI changes with every release, is loaded at run time for one thing, the reason of a
 * domain's shutdown, and only under the very soname that we were built against.
 */
#include "hyp.h"

#include "base/bytes.h"
#include "base/list.h"
#include "log.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* First: it asks Xen's public headers for the tools' part, and they are read once only. */
#ifdef XENCTRL_SONAME
#include <xenctrl.h>
#endif
#include <xenevtchn.h>
#include <xengnttab.h>
#include <xenstore.h>
#include <xentoollog.h>

#define COPY_BATCH 128u

struct hyp_xen {
	struct hyp hyp;
	uint32_t domid;
	void *ctrl_lib; /* libxenctrl, or NULL */
};

struct hyp_gnt {
	xengnttab_handle *handle;
};

struct hyp_evtchn {
	xenevtchn_handle *handle;
	int kick_port, kicker; /* a channel to ourselves */
};

struct hyp_store {
	struct xs_handle *handle;
};

/* --- the libraries' messages ------------------------------------------------------------------------ */

static void vmessage(struct xentoollog_logger *logger, xentoollog_level level, int errnoval,
		     const char *context, const char *format, va_list al)
{
	/* What fails is reported where it matters, with its disk: these are details. */
	char text[256];

	(void)logger;
	if (level < XTL_NOTICE || !log_enabled(LOG_HYP, LOG_LVL_DEBUG))
		return;
	vsnprintf(text, sizeof text, format, al);
	log_debug(LOG_HYP, "%s: %s%s%s", context ? context : "xen", text,
		  errnoval >= 0 ? ": " : "", errnoval >= 0 ? strerror(errnoval) : "");
}

static void no_progress(struct xentoollog_logger *logger, const char *context,
			const char *doing_what, int percent, unsigned long done,
			unsigned long total)
{
	(void)logger, (void)context, (void)doing_what, (void)percent, (void)done, (void)total;
}

static void no_destroy(struct xentoollog_logger *logger)
{
	(void)logger;
}

static struct xentoollog_logger logger = {
	.vmessage = vmessage,
	.progress = no_progress,
	.destroy = no_destroy,
};

static int failed(void)
{
	return errno ? -errno : -EIO;
}

/* --- grants -------------------------------------------------------------------------------------------- */

static int x_gnt_open(struct hyp *hyp, struct hyp_gnt **gnt)
{
	struct hyp_gnt *g = calloc(1, sizeof *g);
	int err;

	(void)hyp;
	if (!g)
		return -ENOMEM;
	g->handle = xengnttab_open(&logger, 0);
	if (!g->handle) {
		err = failed();
		free(g);
		return err;
	}
	*gnt = g;
	return 0;
}

static void x_gnt_close(struct hyp_gnt *gnt)
{
	xengnttab_close(gnt->handle);
	free(gnt);
}

static int x_gnt_map(struct hyp_gnt *gnt, uint32_t domid, const uint32_t *grefs, unsigned count,
		     bool writable, void **addr)
{
	int prot = PROT_READ | (writable ? PROT_WRITE : 0);
	/* The library takes a pointer to non-const and does not write to it. */
	void *p = xengnttab_map_domain_grant_refs(gnt->handle, count, domid, (uint32_t *)(uintptr_t)grefs,
						  prot);

	if (!p)
		return failed();
	*addr = p;
	return 0;
}

static int x_gnt_unmap(struct hyp_gnt *gnt, void *addr, unsigned count)
{
	if (!xengnttab_unmap(gnt->handle, addr, count))
		return 0;
	/* Revoked: not gntdev's any more. */
	return munmap(addr, (size_t)count * HYP_PAGE_SIZE) ? failed() : 0;
}

static int x_gnt_revoke(struct hyp_gnt *gnt, void *addr, unsigned count)
{
	(void)gnt;
	return hyp_replace_pages(addr, count);
}

static void fill_copy(xengnttab_grant_copy_segment_t *to, const struct hyp_copy *from, uint32_t domid)
{
	memset(to, 0, sizeof *to);
	to->len = from->len;
	if (from->to_guest) {
		to->flags = GNTCOPY_dest_gref;
		to->source.virt = from->local;
		to->dest.foreign.ref = from->gref;
		to->dest.foreign.offset = from->offset;
		to->dest.foreign.domid = (domid_t)domid;
	} else {
		to->flags = GNTCOPY_source_gref;
		to->dest.virt = from->local;
		to->source.foreign.ref = from->gref;
		to->source.foreign.offset = from->offset;
		to->source.foreign.domid = (domid_t)domid;
	}
}

static int x_gnt_copy(struct hyp_gnt *gnt, uint32_t domid, struct hyp_copy *segs, unsigned count)
{
	xengnttab_grant_copy_segment_t batch[COPY_BATCH];

	for (unsigned done = 0, n; done < count; done += n) {
		n = MIN(count - done, COPY_BATCH);
		for (unsigned i = 0; i < n; i++)
			fill_copy(&batch[i], &segs[done + i], domid);
		if (xengnttab_grant_copy(gnt->handle, n, batch))
			return failed();
		for (unsigned i = 0; i < n; i++)
			segs[done + i].status = batch[i].status;
	}
	return 0;
}

/* --- event channels -------------------------------------------------------------------------------------- */

/* The kick comes through the same file as the guest's events, so that the poller sleeps in one read. */
static int bind_kick(struct hyp_evtchn *e, uint32_t self)
{
	e->kick_port = xenevtchn_bind_unbound_port(e->handle, self);
	if (e->kick_port < 0)
		return failed();
	e->kicker = xenevtchn_bind_interdomain(e->handle, self, (evtchn_port_t)e->kick_port);
	return e->kicker < 0 ? failed() : 0;
}

static int x_evtchn_open(struct hyp *hyp, struct hyp_evtchn **evtchn)
{
	struct hyp_evtchn *e = calloc(1, sizeof *e);
	int err;

	if (!e)
		return -ENOMEM;
	e->handle = xenevtchn_open(&logger, 0);
	err = e->handle ? bind_kick(e, hyp->ops->domid(hyp)) : failed();
	if (err) {
		if (e->handle)
			xenevtchn_close(e->handle);
		free(e);
		return err;
	}
	*evtchn = e;
	return 0;
}

static void x_evtchn_close(struct hyp_evtchn *evtchn)
{
	xenevtchn_close(evtchn->handle);
	free(evtchn);
}

static int x_evtchn_fd(struct hyp_evtchn *evtchn)
{
	return xenevtchn_fd(evtchn->handle);
}

static int x_evtchn_bind(struct hyp_evtchn *evtchn, uint32_t domid, uint32_t remote_port)
{
	xenevtchn_port_or_error_t port =
		xenevtchn_bind_interdomain(evtchn->handle, domid, remote_port);

	return port < 0 ? failed() : port;
}

static int x_evtchn_unbind(struct hyp_evtchn *evtchn, int port)
{
	return xenevtchn_unbind(evtchn->handle, (evtchn_port_t)port) ? failed() : 0;
}

/* The file blocks: that is what x_evtchn_wait wants. */
static int read_port(struct hyp_evtchn *evtchn)
{
	xenevtchn_port_or_error_t port = xenevtchn_pending(evtchn->handle);

	if (port < 0)
		return failed();
	if (port != evtchn->kick_port && port != evtchn->kicker)
		return port;
	xenevtchn_unmask(evtchn->handle, (evtchn_port_t)port);
	return -EINTR;
}

static int x_evtchn_wait(struct hyp_evtchn *evtchn, int timeout_ms)
{
	struct pollfd fd = {.fd = xenevtchn_fd(evtchn->handle), .events = POLLIN};

	if (timeout_ms >= 0 && poll(&fd, 1, timeout_ms) <= 0)
		return -EAGAIN;
	return read_port(evtchn);
}

static int x_evtchn_pending(struct hyp_evtchn *evtchn)
{
	return x_evtchn_wait(evtchn, 0);
}

static void x_evtchn_kick(struct hyp_evtchn *evtchn)
{
	xenevtchn_notify(evtchn->handle, (evtchn_port_t)evtchn->kicker);
}

static int x_evtchn_unmask(struct hyp_evtchn *evtchn, int port)
{
	return xenevtchn_unmask(evtchn->handle, (evtchn_port_t)port) ? failed() : 0;
}

static int x_evtchn_notify(struct hyp_evtchn *evtchn, int port)
{
	return xenevtchn_notify(evtchn->handle, (evtchn_port_t)port) ? failed() : 0;
}

/* --- store ------------------------------------------------------------------------------------------------ */

/* Errors of the connection are -EPIPE; the rest is the store's answer. */
static int store_failed(void)
{
	switch (errno) {
	case EBADF:
	case EPIPE:
	case ECONNRESET:
	case ENOTCONN:
	case EIO:
		return -EPIPE;
	default:
		return failed();
	}
}

static int x_store_open(struct hyp *hyp, struct hyp_store **store)
{
	struct hyp_store *s = calloc(1, sizeof *s);
	int err;

	(void)hyp;
	if (!s)
		return -ENOMEM;
	s->handle = xs_open(XS_UNWATCH_FILTER);
	if (!s->handle) {
		err = failed();
		free(s);
		return err;
	}
	*store = s;
	return 0;
}

static void x_store_close(struct hyp_store *store)
{
	xs_close(store->handle);
	free(store);
}

static int x_store_read(struct hyp_store *store, hyp_txn txn, const char *path, char **value,
			size_t *len)
{
	unsigned n;
	char *v = xs_read(store->handle, txn, path, &n);

	if (!v)
		return store_failed();
	*value = v;
	if (len)
		*len = n;
	return 0;
}

static int x_store_write(struct hyp_store *store, hyp_txn txn, const char *path, const void *value,
			 size_t len)
{
	return xs_write(store->handle, txn, path, value, (unsigned)len) ? 0 : store_failed();
}

static int x_store_rm(struct hyp_store *store, hyp_txn txn, const char *path)
{
	return xs_rm(store->handle, txn, path) ? 0 : store_failed();
}

static int x_store_list(struct hyp_store *store, hyp_txn txn, const char *path, char ***names,
			unsigned *count)
{
	char **v = xs_directory(store->handle, txn, path, count);

	if (!v)
		return store_failed();
	*names = v;
	return 0;
}

static int x_store_set_perms(struct hyp_store *store, hyp_txn txn, const char *path,
			     const struct hyp_perm *perms, unsigned count)
{
	struct xs_permissions to[16];

	if (count > sizeof to / sizeof to[0])
		return -E2BIG;
	for (unsigned i = 0; i < count; i++) {
		to[i].id = perms[i].domid;
		to[i].perms = (perms[i].perm & HYP_PERM_READ ? XS_PERM_READ : XS_PERM_NONE) |
			      (perms[i].perm & HYP_PERM_WRITE ? XS_PERM_WRITE : XS_PERM_NONE);
	}
	return xs_set_permissions(store->handle, txn, path, to, count) ? 0 : store_failed();
}

static int x_store_get_perms(struct hyp_store *store, hyp_txn txn, const char *path,
			     struct hyp_perm **perms, unsigned *count)
{
	struct xs_permissions *from = xs_get_permissions(store->handle, txn, path, count);
	struct hyp_perm *to;

	if (!from)
		return store_failed();
	to = calloc(*count ? *count : 1, sizeof *to);
	for (unsigned i = 0; to && i < *count; i++) {
		to[i].domid = from[i].id;
		to[i].perm = (from[i].perms & XS_PERM_READ ? HYP_PERM_READ : 0u) |
			     (from[i].perms & XS_PERM_WRITE ? HYP_PERM_WRITE : 0u);
	}
	free(from);
	*perms = to;
	return to ? 0 : -ENOMEM;
}

static int x_store_begin(struct hyp_store *store, hyp_txn *txn)
{
	xs_transaction_t t = xs_transaction_start(store->handle);

	if (t == XBT_NULL)
		return store_failed();
	*txn = t;
	return 0;
}

static int x_store_end(struct hyp_store *store, hyp_txn txn, bool commit)
{
	return xs_transaction_end(store->handle, txn, !commit) ? 0 : store_failed();
}

static int x_store_watch(struct hyp_store *store, const char *path, const char *token)
{
	return xs_watch(store->handle, path, token) ? 0 : store_failed();
}

static int x_store_unwatch(struct hyp_store *store, const char *path, const char *token)
{
	return xs_unwatch(store->handle, path, token) ? 0 : store_failed();
}

static int x_store_fd(struct hyp_store *store)
{
	return xs_fileno(store->handle);
}

/* The two strings of an event, as malloc'd ones each. */
static int split_event(char **event, char **path, char **token)
{
	*path = strdup(event[XS_WATCH_PATH]);
	*token = strdup(event[XS_WATCH_TOKEN]);
	free(event);
	if (*path && *token)
		return 1;
	free(*path);
	free(*token);
	return -ENOMEM;
}

static int x_store_event(struct hyp_store *store, char **path, char **token)
{
	char **event;

	errno = 0;
	event = xs_check_watch(store->handle);
	if (event)
		return split_event(event, path, token);
	return errno == EAGAIN || errno == EINTR ? 0 : -EPIPE;
}

static int x_domain_alive(struct hyp_store *store, uint32_t domid)
{
	bool alive;

	errno = 0;
	alive = xs_is_domain_introduced(store->handle, domid);
	if (!alive && (errno == EPIPE || errno == EBADF || errno == ECONNRESET))
		return -EPIPE;
	return alive;
}

/* --- the reason of a shutdown ----------------------------------------------------------------------------- */

#ifdef XENCTRL_SONAME

static void load_ctrl(struct hyp_xen *x)
{
	x->ctrl_lib = dlopen(XENCTRL_SONAME, RTLD_NOW | RTLD_LOCAL);
	if (!x->ctrl_lib)
		log_info(LOG_HYP, "no %s: the reason of a guest's shutdown stays unknown",
			 XENCTRL_SONAME);
}

/* Opened for each question: privcmd is never kept open. */
static int x_shutdown_reason(struct hyp *hyp, uint32_t domid)
{
	struct hyp_xen *x = container_of(hyp, struct hyp_xen, hyp);
	__typeof__(&xc_interface_open) open_fn;
	__typeof__(&xc_interface_close) close_fn;
	__typeof__(&xc_domain_getinfo) info_fn;
	xc_interface *xc;
	xc_dominfo_t info;
	int n;

	if (!x->ctrl_lib)
		return -ENOTSUP;
	*(void **)&open_fn = dlsym(x->ctrl_lib, "xc_interface_open");
	*(void **)&close_fn = dlsym(x->ctrl_lib, "xc_interface_close");
	*(void **)&info_fn = dlsym(x->ctrl_lib, "xc_domain_getinfo");
	if (!open_fn || !close_fn || !info_fn)
		return -ENOTSUP;
	xc = open_fn(&logger, &logger, 0);
	if (!xc)
		return -ENOTSUP;
	n = info_fn(xc, domid, 1, &info);
	close_fn(xc);
	if (n != 1 || info.domid != domid)
		return -ESRCH;
	return info.shutdown ? (int)info.shutdown_reason : HYP_RUNNING;
}

#else

static void load_ctrl(struct hyp_xen *x)
{
	(void)x;
}

static int x_shutdown_reason(struct hyp *hyp, uint32_t domid)
{
	(void)hyp, (void)domid;
	return -ENOTSUP;
}

#endif

/* --- open --------------------------------------------------------------------------------------------------- */

static void x_close(struct hyp *hyp)
{
	struct hyp_xen *x = container_of(hyp, struct hyp_xen, hyp);

	/* The library stays loaded until the process ends. */
	free(x);
}

static uint32_t x_domid(struct hyp *hyp)
{
	return container_of(hyp, struct hyp_xen, hyp)->domid;
}

static const struct hyp_ops xen_ops = {
	.name = "xen",
	.close = x_close,
	.domid = x_domid,
	.gnt_open = x_gnt_open,
	.gnt_close = x_gnt_close,
	.gnt_map = x_gnt_map,
	.gnt_unmap = x_gnt_unmap,
	.gnt_revoke = x_gnt_revoke,
	.gnt_copy = x_gnt_copy,
	.evtchn_open = x_evtchn_open,
	.evtchn_close = x_evtchn_close,
	.evtchn_fd = x_evtchn_fd,
	.evtchn_bind = x_evtchn_bind,
	.evtchn_unbind = x_evtchn_unbind,
	.evtchn_pending = x_evtchn_pending,
	.evtchn_wait = x_evtchn_wait,
	.evtchn_kick = x_evtchn_kick,
	.evtchn_unmask = x_evtchn_unmask,
	.evtchn_notify = x_evtchn_notify,
	.store_open = x_store_open,
	.store_close = x_store_close,
	.store_read = x_store_read,
	.store_write = x_store_write,
	.store_rm = x_store_rm,
	.store_list = x_store_list,
	.store_set_perms = x_store_set_perms,
	.store_get_perms = x_store_get_perms,
	.store_begin = x_store_begin,
	.store_end = x_store_end,
	.store_watch = x_store_watch,
	.store_unwatch = x_store_unwatch,
	.store_fd = x_store_fd,
	.store_event = x_store_event,
	.domain_alive = x_domain_alive,
	.shutdown_reason = x_shutdown_reason,
};

/* The first line of a small file; empty if there is none. */
static void first_line(const char *path, char *buf, size_t len)
{
	FILE *f = fopen(path, "re");

	buf[0] = 0;
	if (!f)
		return;
	if (fgets(buf, (int)len, f))
		buf[strcspn(buf, "\n")] = 0;
	fclose(f);
}

bool hyp_xen_detected(void)
{
	char type[32];

	first_line("/sys/hypervisor/type", type, sizeof type);
	return !strcmp(type, "xen");
}

/* dom0 is told so by the kernel; everybody else asks the store. */
static int find_domid(uint32_t *domid)
{
	struct xs_handle *xs;
	char caps[64], *text, *end;
	unsigned len;

	first_line("/proc/xen/capabilities", caps, sizeof caps);
	*domid = 0;
	if (strstr(caps, "control_d"))
		return 0;
	xs = xs_open(0);
	text = xs ? xs_read(xs, XBT_NULL, "domid", &len) : NULL;
	if (!text) {
		log_err(LOG_HYP, "cannot ask xenstore for our own domain id: %s; is xenstored running?",
			strerror(errno));
		if (xs)
			xs_close(xs);
		return -ENOTCONN;
	}
	*domid = (uint32_t)strtoul(text, &end, 10);
	free(text);
	xs_close(xs);
	return 0;
}

static int check_node(const char *path, const char *module)
{
	if (!access(path, R_OK | W_OK))
		return 0;
	log_err(LOG_HYP, "%s: %s; load its module: modprobe %s", path, strerror(errno), module);
	return -errno;
}

int hyp_xen_open(struct hyp **hyp)
{
	struct hyp_xen *x;
	int err;

	if (!hyp_xen_detected()) {
		log_err(LOG_HYP, "this machine does not run on Xen; --hyp=loopback works without");
		return -ENODEV;
	}
	err = check_node("/dev/xen/gntdev", "xen-gntdev");
	if (!err)
		err = check_node("/dev/xen/evtchn", "xen-evtchn");
	if (err)
		return err;
	x = calloc(1, sizeof *x);
	if (!x)
		return -ENOMEM;
	x->hyp.ops = &xen_ops;
	err = find_domid(&x->domid);
	if (err) {
		free(x);
		return err;
	}
	load_ctrl(x);
	*hyp = &x->hyp;
	return 0;
}
