/*
 * The service manager: one datagram to the socket that it named in the environment, for each thing that it wants
 * to know. libsystemd has the same function; it is a few lines, and the daemon also runs where there is none.
 *
 * What can go wrong: nobody listens. That is a warning; the manager then acts on its own.
 *
 * The main thread only.
 */
#include "main-manager.h"

#include "log.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SIGNS_PER_TIMEOUT 4u /* so that one or two may be missed on a busy machine */

void manager_tell(const char *text)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	const char *path = getenv("NOTIFY_SOCKET");
	size_t len = path ? strlen(path) : 0;
	int fd;

	if (!len || len >= sizeof(addr.sun_path) || (path[0] != '/' && path[0] != '@'))
		return;
	memcpy(addr.sun_path, path, len);
	if (path[0] == '@')
		addr.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&addr,
		   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
		log_warn(LOG_MAIN, "NOTIFY_SOCKET %s: %m", path);
	close(fd);
}

/* Digits only; 0 if it is anything else. */
static unsigned long long number(const char *text)
{
	char *end;
	unsigned long long n;

	if (!text || text[0] < '0' || text[0] > '9')
		return 0;
	errno = 0;
	n = strtoull(text, &end, 10);
	return errno || *end ? 0 : n;
}

unsigned manager_watchdog_ms(void)
{
	unsigned long long ms = number(getenv("WATCHDOG_USEC")) / 1000 / SIGNS_PER_TIMEOUT;
	const char *pid = getenv("WATCHDOG_PID");

	if (!getenv("NOTIFY_SOCKET") || !getenv("WATCHDOG_USEC"))
		return 0;
	if (pid && number(pid) != (unsigned long long)getpid())
		return 0;
	return ms < 1 ? 1 : ms > INT_MAX ? INT_MAX : (unsigned)ms;
}
