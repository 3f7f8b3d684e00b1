/*
 * admin-http.h - the statistics by HTTP, for a monitoring that scrapes
 *
 * GET and HEAD of /metrics on one address, and nothing else. One thread, "rd-http", which sleeps as long as nobody
 * connects. In a build without libmicrohttpd it only says that it is not there.
 */
#ifndef RD_ADMIN_HTTP_H
#define RD_ADMIN_HTTP_H

#include <stdbool.h>
#include <stddef.h>

struct http_config {
	const char *listen; /* "127.0.0.1:9273", "[::1]:9273", "/path/of/socket" */
	const char *group;  /* of the socket; NULL: leave it */
	bool remote;        /* other addresses than the loopback's, too */
};

/* Could this be listened on? 0; -EINVAL; -EACCES: only with remote; -ENOSYS: not in this build. With a text in err. */
int admin_http_check(const char *listen, bool remote, char *err, size_t errlen);

/* After admin_start(). Strings are copied. 0 or -errno; the reason has been logged. */
int admin_http_start(const struct http_config *config);
/* Before admin_stop(). Hangs up. */
void admin_http_stop(void);

/* For tests, before the start: milliseconds that a connection may last. */
extern unsigned admin_http_limit_ms;

#endif
