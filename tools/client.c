/*
 * The client's side of the admin socket. Answers are read line by line; what belongs to another request is
 * kept until that is asked for. An answer that belongs to none (the daemon refuses us as a whole) is taken for
 * the one that is waited for.
 */
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

/* A daemon would have to serve a hundred thousand disks. */
#define MAX_ANSWER (256u * 1024 * 1024)
#define CHUNK      65536u

struct client {
	int fd, last_id;
	json_t *kept; /* an array of answers */
	char *in;
	size_t len, size, scanned;
};

long long client_clock_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (long long)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int client_open(const char *path, struct client **out)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct client *client;
	int err;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path));
	client = calloc(1, sizeof(*client));
	if (!client)
		return -ENOMEM;
	client->kept = json_array();
	client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (client->fd >= 0 && !connect(client->fd, (struct sockaddr *)&address, sizeof(address))) {
		*out = client;
		return 0;
	}
	err = -errno;
	client_close(client);
	return err;
}

void client_close(struct client *client)
{
	if (!client)
		return;
	if (client->fd >= 0)
		close(client->fd);
	json_decref(client->kept);
	free(client->in);
	free(client);
}

static int send_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

int client_send(struct client *client, const char *method, json_t *params)
{
	json_t *request = json_pack("{s:s, s:i, s:s, s:o*}", "jsonrpc", "2.0", "id", client->last_id + 1,
	                            "method", method, "params", params);
	CLEANUP_FREE char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	size_t len;
	int err;

	json_decref(request);
	if (!text)
		return -ENOMEM;
	len = strlen(text);
	text[len] = '\n'; /* in place of the NUL */
	err = send_all(client->fd, text, len + 1);
	return err ? err : ++client->last_id;
}

/* The answer with that id out of those that were kept, or NULL. */
static json_t *take_kept(struct client *client, int id)
{
	for (size_t i = 0; i < json_array_size(client->kept); i++) {
		json_t *answer = json_array_get(client->kept, i), *its_id = json_object_get(answer, "id");

		if (json_integer_value(its_id) != id && !json_is_null(its_id))
			continue;
		json_incref(answer);
		json_array_remove(client->kept, i);
		return answer;
	}
	return NULL;
}

/* Move complete lines from the buffer to those kept. */
static int parse_lines(struct client *client)
{
	char *start = client->in, *end;

	while (client->len && (end = memchr(client->in + client->scanned, '\n', client->len - client->scanned))) {
		size_t len = (size_t)(end - start) + 1;
		json_t *answer = json_loadb(start, len, 0, NULL);

		if (!json_is_object(answer)) {
			json_decref(answer);
			return -EPROTO;
		}
		json_array_append_new(client->kept, answer);
		client->len -= len;
		client->scanned = 0;
		memmove(client->in, client->in + len, client->len);
	}
	client->scanned = client->len;
	return 0;
}

static int read_some(struct client *client)
{
	ssize_t n;

	if (client->size - client->len < CHUNK) {
		size_t size = client->size * 2 + CHUNK;
		char *in = size > MAX_ANSWER ? NULL : realloc(client->in, size);

		if (!in)
			return -ENOMEM;
		client->in = in;
		client->size = size;
	}
	n = recv(client->fd, client->in + client->len, client->size - client->len, 0);
	if (n < 0)
		return errno == EINTR ? 0 : errno == ECONNRESET ? -EPIPE : -errno;
	if (n == 0)
		return -EPIPE;
	client->len += (size_t)n;
	return parse_lines(client);
}

/* Until something can be read: 0, -ETIMEDOUT, -errno. deadline < 0: none. */
static int wait_readable(struct client *client, long long deadline)
{
	struct pollfd pfd = {.fd = client->fd, .events = POLLIN};
	long long left = -1;
	int n;

	if (deadline >= 0) {
		left = deadline - client_clock_ms();
		if (left < 0)
			left = 0;
	}
	n = poll(&pfd, 1, (int)left);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (n)
		return read_some(client);
	return deadline >= 0 && client_clock_ms() >= deadline ? -ETIMEDOUT : 0;
}

int client_receive(struct client *client, int id, int timeout_ms, json_t **answer)
{
	long long deadline = timeout_ms < 0 ? -1 : client_clock_ms() + timeout_ms;
	int err = 0;

	while (!(*answer = take_kept(client, id))) {
		if (err)
			return err;
		err = wait_readable(client, deadline);
	}
	return 0;
}

static json_t *take_event(struct client *client)
{
	for (size_t i = 0; i < json_array_size(client->kept); i++) {
		json_t *line = json_array_get(client->kept, i), *params = json_object_get(line, "params");

		if (!json_object_get(line, "method"))
			continue;
		json_incref(params);
		json_array_remove(client->kept, i);
		return params ? params : json_object();
	}
	return NULL;
}

int client_event(struct client *client, int timeout_ms, json_t **event)
{
	long long deadline = timeout_ms < 0 ? -1 : client_clock_ms() + timeout_ms;
	int err = 0;

	while (!(*event = take_event(client))) {
		if (err)
			return err;
		err = wait_readable(client, deadline);
	}
	return 0;
}

int client_call(struct client *client, const char *method, json_t *params, int timeout_ms, json_t **answer)
{
	int id = client_send(client, method, params);

	return id < 0 ? id : client_receive(client, id, timeout_ms, answer);
}
