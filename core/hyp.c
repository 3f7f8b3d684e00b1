/*
 * Which hypervisor: what --hyp says. "auto" takes Xen where we run on Xen, and says what is missing if that
 * fails; it never falls back to the loopback there, as a daemon that serves nobody looks like one that
 * works. Everywhere else it takes the loopback. Called once, by the main thread.
 */
#include "hyp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log.h"

int hyp_replace_pages(void *addr, unsigned count)
{
	size_t len = (size_t)count * HYP_PAGE_SIZE;
	void *copy = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int err;

	if (copy == MAP_FAILED)
		return -errno;
	memcpy(copy, addr, len);
	if (mremap(copy, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, addr) != MAP_FAILED)
		return 0;
	err = -errno;
	munmap(copy, len);
	return err;
}

/* $XDG_RUNTIME_DIR is for a user's own daemon; root's is in /run. */
static const char *default_socket(char *buf, size_t len)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");

	if (!dir || dir[0] != '/' || !geteuid())
		dir = "/run/ringdisk";
	snprintf(buf, len, "%s/loopback.sock", dir);
	return buf;
}

static int open_loopback(const struct hyp_config *cfg, struct hyp **hyp)
{
	char buf[256];
	const char *socket = cfg->loopback_socket;

	return hyp_loopback_open(socket ? socket : default_socket(buf, sizeof(buf)), hyp);
}

#ifdef HAVE_XEN

static int open_xen(struct hyp **hyp)
{
	return hyp_xen_open(hyp);
}

static bool on_xen(void)
{
	return hyp_xen_detected();
}

#else

static int open_xen(struct hyp **hyp)
{
	(void)hyp;
	log_err(LOG_HYP, "this ringdiskd was built without Xen (--without-xen)");
	return -ENOTSUP;
}

static bool on_xen(void)
{
	return !access("/proc/xen/capabilities", F_OK);
}

#endif

int hyp_open(const struct hyp_config *cfg, struct hyp **hyp)
{
	const char *kind = cfg->kind ? cfg->kind : "auto";

	if (!strcmp(kind, "xen"))
		return open_xen(hyp);
	if (!strcmp(kind, "loopback"))
		return open_loopback(cfg, hyp);
	if (strcmp(kind, "auto")) {
		log_err(LOG_HYP, "--hyp=%s: must be auto, xen or loopback", kind);
		return -EINVAL;
	}
	return on_xen() ? open_xen(hyp) : open_loopback(cfg, hyp);
}
