/*
 * The statistics by HTTP: GET /metrics (libmicrohttpd does the protocol).
 *
 * The thread "rd-http" waits for libmicrohttpd's epoll descriptor, and for the event descriptor that ends it. Each
 * connection has one request and then ends: a connection that is kept would hold one of the few places for nothing.
 * The text is made when it is asked for, from what the verbs `stats` and `list` answer, under the short locks that they
 * take: a scrape costs the disks nothing, and wakes no poller.
 *
 * What can go wrong: clients. At most MAX_CLIENTS are connected, with MEMORY bytes of request each, and whatever they
 * do or do not, each is hung up on when its time is over; others wait in the kernel's queue, which has an end, too.
 * Nobody is asked who he is: that is why only the loopback's addresses and a socket with a mode are taken, unless the
 * configuration says otherwise. What can be read is names, paths and counters; nothing can be changed.
 */
#include "admin-http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

unsigned admin_http_limit_ms = 5000;

/* ---- addresses ------------------------------------------------------------------------------------- */

union address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

static int parse_port(const char *text, in_port_t *port)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || n > UINT16_MAX)
		return -EINVAL;
	*port = htons((uint16_t)n);
	return 0;
}

/* Numbers only: a name could mean anything tomorrow. */
static int parse_address(const char *listen, union address *address, socklen_t *len)
{
	const char *colon = strrchr(listen, ':');
	char host[INET6_ADDRSTRLEN];
	size_t n = colon ? (size_t)(colon - listen) : 0;
	bool six = listen[0] == '[';

	*address = (union address){.any.sa_family = six ? AF_INET6 : AF_INET};
	*len = six ? sizeof(address->in6) : sizeof(address->in);
	if (six && (n < 2 || listen[n - 1] != ']'))
		return -EINVAL;
	if (!n || n - 2 * six >= sizeof(host))
		return -EINVAL;
	memcpy(host, listen + six, n - 2 * six);
	host[n - 2 * six] = 0;
	if (parse_port(colon + 1, six ? &address->in6.sin6_port : &address->in.sin_port))
		return -EINVAL;
	return inet_pton(address->any.sa_family, host,
	                 six ? (void *)&address->in6.sin6_addr : (void *)&address->in.sin_addr) == 1
	               ? 0
	               : -EINVAL;
}

static bool is_loopback(const union address *address)
{
	if (address->any.sa_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&address->in6.sin6_addr);
	return ntohl(address->in.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

static int check_address(const char *listen, bool remote, char *err, size_t errlen)
{
	union address address;
	socklen_t len;

	if (listen[0] == '/')
		return 0;
	if (parse_address(listen, &address, &len)) {
		snprintf(err, errlen, "'%.100s': should be ADDRESS:PORT in numbers ([ADDRESS]:PORT for IPv6), or a "
		                      "socket's absolute path", listen);
		return -EINVAL;
	}
	if (!remote && !is_loopback(&address)) {
		snprintf(err, errlen, "'%.100s' is not on the loopback: anybody could read it; metrics-remote=on "
		                      "allows that", listen);
		return -EACCES;
	}
	return 0;
}

#ifdef HAVE_MICROHTTPD

#include <microhttpd.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>

#include "admin-internal.h"
#include "base/cleanup.h"
#include "lock.h"
#include "log.h"
#include "openmetrics.h"
#include "thread.h"

#define MAX_CLIENTS 16u
#define MEMORY      (16u * 1024)
#define BACKLOG     16

struct place {
	int fd; /* -1: free */
	long long deadline;
};

static struct {
	/* set by the start */
	struct MHD_Daemon *daemon;
	struct admin_socket sock; /* as a file; fd -1: it is an address */
	int epoll_fd, event_fd;
	pthread_t thread;
	struct place places[MAX_CLIENTS]; /* the thread's */
	_Atomic bool stop;
} http = {.sock = {.at.fd = -1, .lock_fd = -1}, .event_fd = -1};

int admin_http_check(const char *listen, bool remote, char *err, size_t errlen)
{
	return check_address(listen, remote, err, errlen);
}

/* ---- answers ---------------------------------------------------------------------------------------- */

/* The text, malloc'd; NULL without memory. */
static char *make_text(enum metrics_format format, size_t *len)
{
	json_t *stats = admin_stats_result(), *list = admin_list_result();
	char *text = NULL;
	FILE *stream = stats && list ? open_memstream(&text, len) : NULL;
	bool good = false;

	if (stream) {
		metrics_write(stream, format, stats, list);
		good = !ferror(stream);
		good &= !fclose(stream);
	}
	json_decref(stats);
	json_decref(list);
	if (good)
		return text;
	free(text);
	return NULL;
}

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, struct MHD_Response *response,
                              const char *type)
{
	enum MHD_Result queued = MHD_NO;

	if (!response)
		return MHD_NO;
	if (MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type) == MHD_YES &&
	    MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES &&
	    (status != MHD_HTTP_METHOD_NOT_ALLOWED ||
	     MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD") == MHD_YES))
		queued = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return queued;
}

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status, const char *text)
{
	return answer(connection, status,
	              MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_PERSISTENT),
	              "text/plain; charset=utf-8");
}

static enum MHD_Result answer_metrics(struct MHD_Connection *connection)
{
	const char *accept = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT);
	/* Who knows of text/plain, and not of OpenMetrics, is an older Prometheus. */
	enum metrics_format format = accept && strstr(accept, "text/plain") && !strstr(accept, "openmetrics")
	                                     ? METRICS_PROMETHEUS
	                                     : METRICS_OPENMETRICS;
	size_t len = 0;
	char *text = make_text(format, &len);

	if (!text)
		return answer_text(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory\n");
	return answer(connection, MHD_HTTP_OK, MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE),
	              format == METRICS_PROMETHEUS ? METRICS_PROMETHEUS_TYPE : METRICS_OPENMETRICS_TYPE);
}

/* Comes with the headers; what a request has for a body is not read, as the answer closes the connection. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *data_len, void **context)
{
	(void)arg;
	(void)version;
	(void)data;
	(void)data_len;
	(void)context;
	if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
		return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
	if (strcmp(url, "/metrics"))
		return answer_text(connection, MHD_HTTP_NOT_FOUND, "there is only /metrics\n");
	return answer_metrics(connection);
}

/* ---- connections ------------------------------------------------------------------------------------- */

static struct place *place_of(int fd)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (http.places[i].fd == fd)
			return &http.places[i];
	return NULL;
}

static void on_connection(void *arg, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	bool begins = code == MHD_CONNECTION_NOTIFY_STARTED;
	struct place *place = info ? place_of(begins ? -1 : info->connect_fd) : NULL;

	(void)arg;
	(void)context;
	if (!place)
		return;
	place->fd = begins ? info->connect_fd : -1;
	place->deadline = monotonic_ms() + admin_http_limit_ms;
}

/* Hang up on those whose time is over; milliseconds until the next one's is, or -1. libmicrohttpd sees the end of
 * the stream and closes it. */
static int end_connections(void)
{
	long long now = monotonic_ms(), first = -1;

	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		struct place *place = &http.places[i];

		if (place->fd < 0)
			continue;
		if (place->deadline <= now) {
			shutdown(place->fd, SHUT_RDWR);
			place->deadline = now + 1000;
		}
		if (first < 0 || place->deadline - now < first)
			first = place->deadline - now;
	}
	return (int)first;
}

static void *http_main(void *arg)
{
	struct pollfd fds[2] = {{.fd = http.epoll_fd, .events = POLLIN}, {.fd = http.event_fd, .events = POLLIN}};

	(void)arg;
	while (!http.stop) {
		int limit = end_connections();
		MHD_UNSIGNED_LONG_LONG wanted;

		if (MHD_get_timeout(http.daemon, &wanted) == MHD_YES && (limit < 0 || wanted < (unsigned)limit))
			limit = (int)wanted;
		poll(fds, 2, limit);
		MHD_run(http.daemon);
	}
	return NULL;
}

/* ---- start, stop ------------------------------------------------------------------------------------- */

/* Say which address it is now: the port may have been 0. */
static void log_address(const char *listen, int fd)
{
	union address address;
	socklen_t len = sizeof(address);
	unsigned port;

	if (listen[0] == '/' || getsockname(fd, &address.any, &len)) {
		log_info(LOG_ADMIN, "metrics at %s", listen);
		return;
	}
	port = ntohs(address.any.sa_family == AF_INET6 ? address.in6.sin6_port : address.in.sin_port);
	log_info(LOG_ADMIN, "metrics at http://%.*s:%u/metrics", (int)(strrchr(listen, ':') - listen), listen, port);
}

/* A listening socket, or -errno. */
static int listen_address(const char *listen_on)
{
	union address address;
	socklen_t len;
	CLEANUP_CLOSE int fd = -1;
	int one = 1;

	if (parse_address(listen_on, &address, &len))
		return -EINVAL;
	fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    (address.any.sa_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one))) ||
	    bind(fd, &address.any, len) || listen(fd, BACKLOG))
		return -errno;
	return take_fd(&fd);
}

/* libmicrohttpd closes the descriptor at its end, and the socket's file stays with its owner: give it a copy. */
static int listen_on(const struct http_config *config)
{
	int fd, err;

	if (config->listen[0] != '/') {
		fd = listen_address(config->listen);
		if (fd < 0)
			log_err(LOG_ADMIN, "metrics: %s: %s", config->listen, strerror(-fd));
		return fd;
	}
	err = admin_socket_open(&http.sock, config->listen, config->group);
	if (err)
		return err;
	fd = fcntl(http.sock.at.fd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static int start_daemon(int fd)
{
	const union MHD_DaemonInfo *info;

	/* Not to use TLS, not to log: what clients do wrong is their business. */
	http.daemon = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
	                               MHD_OPTION_CONNECTION_LIMIT, MAX_CLIENTS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
	                               (size_t)MEMORY, MHD_OPTION_CONNECTION_TIMEOUT,
	                               (unsigned)(admin_http_limit_ms + 999) / 1000, MHD_OPTION_NOTIFY_CONNECTION,
	                               on_connection, NULL, MHD_OPTION_END);
	if (!http.daemon) {
		close(fd);
		return -EIO;
	}
	info = MHD_get_daemon_info(http.daemon, MHD_DAEMON_INFO_EPOLL_FD);
	if (!info)
		return -EIO;
	http.epoll_fd = info->epoll_fd;
	return 0;
}

static void close_all(void)
{
	if (http.daemon)
		MHD_stop_daemon(http.daemon);
	http.daemon = NULL;
	if (http.sock.at.fd >= 0)
		admin_socket_close(&http.sock);
	if (http.event_fd >= 0)
		close(http.event_fd);
	http.event_fd = -1;
}

int admin_http_start(const struct http_config *config)
{
	char text[300];
	int fd, err = check_address(config->listen, config->remote, text, sizeof(text));

	if (err) {
		log_err(LOG_ADMIN, "metrics: %s", text);
		return err;
	}
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		http.places[i].fd = -1;
	http.stop = false;
	fd = listen_on(config);
	if (fd < 0) {
		close_all();
		return fd;
	}
	log_address(config->listen, fd);
	http.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = start_daemon(fd);
	if (!err)
		err = http.event_fd < 0 ? -EMFILE : thread_start(&http.thread, "rd-http", http_main, NULL);
	if (err) {
		log_err(LOG_ADMIN, "metrics: cannot start: %s", strerror(-err));
		close_all();
	}
	return err;
}

void admin_http_stop(void)
{
	uint64_t one = 1;
	ssize_t n;

	if (!http.daemon)
		return;
	http.stop = true;
	n = write(http.event_fd, &one, sizeof(one));
	(void)n;
	pthread_join(http.thread, NULL);
	close_all();
}

#else

int admin_http_check(const char *listen, bool remote, char *err, size_t errlen)
{
	int bad = check_address(listen, remote, err, errlen);

	if (bad)
		return bad;
	snprintf(err, errlen, "this build has no HTTP (libmicrohttpd)");
	return -ENOSYS;
}

int admin_http_start(const struct http_config *config)
{
	(void)config;
	return -ENOSYS;
}

void admin_http_stop(void)
{
}

#endif
