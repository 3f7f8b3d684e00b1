/*
 * stub.h - what the stubs and the guest agree on: how a machine without Xen looks like one with it
 *
 * Everything is below $XENSTUB_DIR:
 *
 *	dom/N           a domain lives as long as its directory is here; xl destroy moves it to dead/N
 *	dom/N/memory    its memory: grant reference G is page G
 *	dom/N/ring      its page for xenstored (domain 0 has one, too, which nobody speaks over)
 *	dom/N/paused    it is paused; dom/N/shutdown: it has shut down
 *	dom/N/port-P    its event channel P, a datagram socket that the guest has bound
 *	end-PID-K       the backend's end of event channels, one a handle
 *	xenstored       xenstored's end of all of its channels
 *
 * An event is a datagram, the number of the receiver's port. A backend that binds a port says hello first, so
 * that the guest knows where to send to.
 */
#ifndef XENSTUB_H
#define XENSTUB_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define STUB_PAGE       4096u
#define STUB_HELLO      0x6f6c6c65u
#define STUB_STORE_PORT 1u /* the guest's port for xenstored */
#define STUB_VIRQ_PORT  1u /* xenstored's, for the death of domains */

struct stub_hello {
	uint32_t magic, port;
	struct sockaddr_un from;
};

static inline const char *stub_dir(void)
{
	const char *dir = getenv("XENSTUB_DIR");

	return dir ? dir : "/nonexistent";
}

static inline struct sockaddr_un stub_address(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%.60s/%.40s", stub_dir(), name);
	return address;
}

static inline struct sockaddr_un stub_guest_port(uint32_t domid, uint32_t port)
{
	char name[40];

	snprintf(name, sizeof(name), "dom/%u/port-%u", domid, port);
	return stub_address(name);
}

/* A file of a domain. */
static inline const char *stub_path(char *buf, size_t len, uint32_t domid, const char *file)
{
	snprintf(buf, len, "%s/dom/%u/%s", stub_dir(), domid, file);
	return buf;
}

static inline int stub_has(uint32_t domid, const char *file)
{
	char path[256];

	return !access(stub_path(path, sizeof(path), domid, file), F_OK);
}

static inline int stub_alive(uint32_t domid)
{
	return stub_has(domid, ".");
}

/* A datagram socket of that address; -1 if there cannot be one. */
static inline int stub_bind(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	unlink(address->sun_path);
	if (!bind(fd, (const struct sockaddr *)address, sizeof(*address)))
		return fd;
	close(fd);
	return -1;
}

/* An event may be lost only when the receiver has many waiting, which is as good as one. */
static inline void stub_send(int fd, const struct sockaddr_un *to, const void *data, size_t len)
{
	if (sendto(fd, data, len, MSG_DONTWAIT, (const struct sockaddr *)to, sizeof(*to)) < 0)
		return;
}

#endif
