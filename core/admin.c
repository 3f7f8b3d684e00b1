/*
 * The admin loop: clients, framing, dispatch, answers.
 *
 * One thread turns the loop. A turn waits for events, takes what threads have answered, and then pumps
 * every client (there are at most ADMIN_MAX_CLIENTS): run the complete lines in its buffer, write what can
 * be written, and decide whether to go on reading. A verb answers at once or later, from any
 * thread, through the done queue; its client may be gone by then.
 *
 *	socket -> in[] -> line -> JSON -> request -> verb -> (strand) -> done queue -> out -> socket
 *
 * Bounds, so that no client harms another or the daemon: a message has at most ADMIN_MAX_MESSAGE bytes and
 * must be complete within line_ms; a client with MAX_OUTSTANDING requests running, or with more than
 * OUT_HIGH bytes of answers to read, is not read from; who does not take any answer for output_ms is
 * dropped. When all places are taken, the client that was silent longest and waits for nothing makes room.
 *
 * Who follows events gets them between its answers, as far as it takes them; how many it has missed it is told
 * when it does again.  It may be as slow as it likes, for it costs one position in a ring (events.h).
 *
 * Batches (arrays) are refused, as JSON-RPC allows: a client can send several lines instead, and the
 * answers carry their ids.
 *
 * Threads: everything here is the loop's, but admin_reply and admin_fail, which any thread calls.
 * Locks: done_lock (RANK_LEAF), for the queue of answered requests and whether a loop takes them.
 */
#include "admin-internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "events.h"
#include "lock.h"
#include "log.h"
#include "thread.h"

#define MAX_OUTSTANDING 16u
#define OUT_HIGH        (64u * 1024)
#define IN_CHUNK        4096u

struct admin_limits admin_limits = {.line_ms = 10000, .output_ms = 10000, .stop_ms = 2000};

/* All of it is the loop's thread's. */
struct admin_client {
	struct list_head node;     /* in loop.clients */
	struct list_head requests; /* of admin_request.node */
	unsigned outstanding;
	int fd;
	struct admin_peer peer;
	uint32_t interest;        /* what epoll was told */
	bool readable, eof;
	bool hup;                 /* nobody reads our answers any more */
	bool dead;                /* drop it at the next pump */
	bool closing;             /* write what is left, then drop it */
	long long active;         /* when it last sent or took anything */
	/* input: [0, in_len) of in; in is NULL as long as there is none */
	char *in;
	size_t in_len, in_size;
	size_t scanned;           /* no newline before this */
	long long line_deadline;  /* 0: no message has begun */
	/* output */
	char *out;
	size_t out_len, out_sent, out_size;
	long long out_deadline;   /* 0: nothing to write */
	/* events: who follows them takes them when it likes, and loses what it does not take */
	bool follows;
	char follows_disk[24];    /* "": all */
	uint64_t events_at;       /* the next it wants */
	uint64_t events_lost;     /* it has not been told yet */
	bool more_events;         /* there may be some that had no room: it is to be looked at when it takes more */
};

static struct {
	/* set by admin_loop_open */
	struct admin_config config;
	char *hyp;
	struct pool_client control;
	struct admin_socket sock; /* fd -1: only clients that are added by hand */
	int epoll_fd, event_fd, spare_fd;
	pthread_t thread;
	/* loop's thread */
	struct list_head clients;
	unsigned n_clients;
	unsigned running;         /* requests that belong to a client still there */
	long long stop_deadline;  /* 0: runs */
	struct log_limit limit;
	_Atomic bool stop;
} loop = {.sock = {.at.fd = -1, .lock_fd = -1}, .epoll_fd = -1, .event_fd = -1, .spare_fd = -1};

/* Lives longer than a loop, since strands may answer after its end. */
static struct {
	struct rd_lock lock;
	bool open;              /* under the lock */
	struct list_head queue; /* under the lock; of admin_request.done */
} done;
/* This thread turns the loop: it looks at the queue itself, and needs no waking. */
static _Thread_local bool turning;
static pthread_once_t done_once = PTHREAD_ONCE_INIT;

static void done_init(void)
{
	lock_init(&done.lock, RANK_LEAF, "admin done");
	list_init(&done.queue);
}

const struct admin_config *admin_config_get(void)
{
	return &loop.config;
}

/* ---- requests ------------------------------------------------------------------------------------ */

static void request_free(struct admin_request *req)
{
	json_decref(req->id);
	json_decref(req->params);
	json_decref(req->result);
	json_decref(req->error);
	free(req);
}

static void wake_loop(void)
{
	uint64_t one = 1;
	ssize_t n = write(loop.event_fd, &one, sizeof(one));

	(void)n; /* full: it is awake already */
}

/* Back to the loop; or to nowhere, when there is none any more. */
static void request_done(struct admin_request *req)
{
	bool open;

	lock_acquire(&done.lock);
	open = done.open;
	if (open) {
		list_add_tail(&req->done, &done.queue);
		if (!turning)
			wake_loop();
	}
	lock_release(&done.lock);
	if (!open)
		request_free(req);
}

static const char *error_what(enum admin_code code)
{
	for (const struct admin_error *error = admin_errors; error->what; error++)
		if (error->code == code)
			return error->what;
	return "failed";
}

/* A JSON-RPC error object; NULL without memory. */
static json_t *make_error(enum admin_code code, const char *where, const char *hint, const char *text)
{
	return json_pack("{s:i, s:o, s:{s:s, s:o, s:o}}", "code", (int)code, "message",
	                 admin_text(text), "data", "what", error_what(code), "where",
	                 admin_text(where), "hint", admin_text(hint));
}

void admin_reply(struct admin_request *req, json_t *result)
{
	assert(!req->result && !req->error);
	if (result)
		req->result = result;
	else
		req->error = make_error(ADMIN_E_INTERNAL, NULL, NULL, "out of memory");
	request_done(req);
}

void admin_fail(struct admin_request *req, enum admin_code code, const char *where, const char *hint,
                const char *fmt, ...)
{
	char text[700];
	va_list ap;

	assert(!req->result && !req->error);
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	req->error = make_error(code, where, hint, text);
	request_done(req);
}

void admin_run_control(struct admin_request *req, void (*fn)(struct pool_job *job))
{
	req->job.run = fn;
	pool_submit(&loop.control, &req->job);
}

const char *admin_string(const struct admin_request *req, const char *name)
{
	return json_string_value(json_object_get(req->params, name));
}

bool admin_bool(const struct admin_request *req, const char *name)
{
	return json_is_true(json_object_get(req->params, name));
}

bool admin_given(const struct admin_request *req, const char *name)
{
	return json_object_get(req->params, name) != NULL;
}

/* ---- text ---------------------------------------------------------------------------------------- */

/* The length of the UTF-8 sequence at s, 0 if it is none. Surrogates and overlong forms are none. */
static size_t utf8_length(const unsigned char *s)
{
	static const unsigned char minimum[] = {0, 0, 0, 0xa0, 0x90};
	size_t len;

	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xc2 || s[0] > 0xf4)
		return 0;
	len = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	if ((s[0] == 0xe0 || s[0] == 0xf0) && s[1] < minimum[len])
		return 0;
	if ((s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

json_t *admin_text(const char *text)
{
	static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */
	CLEANUP_FREE char *clean = NULL;
	size_t n = 0;

	if (!text)
		return json_null();
	clean = malloc(3 * strlen(text) + 1);
	if (!clean)
		return NULL;
	for (const unsigned char *s = (const unsigned char *)text; *s;) {
		size_t len = utf8_length(s);

		memcpy(clean + n, len ? (const void *)s : (const void *)replacement, len ? len : 3);
		n += len ? len : 3;
		s += len ? len : 1;
	}
	return json_stringn_nocheck(clean, n);
}

/* ---- output -------------------------------------------------------------------------------------- */

/* Room for len more bytes behind what is left to send. */
static bool out_reserve(struct admin_client *client, size_t len)
{
	size_t pending = client->out_len - client->out_sent, size = client->out_size;
	char *out;

	if (client->out_sent) {
		memmove(client->out, client->out + client->out_sent, pending);
		client->out_len = pending;
		client->out_sent = 0;
	}
	if (pending + len <= size)
		return true;
	size = pending + len + IN_CHUNK;
	out = realloc(client->out, size);
	if (!out)
		return false;
	client->out = out;
	client->out_size = size;
	return true;
}

/* Queue a message; a client whose answer cannot be made is dropped, so that it does not wait for ever. */
static void client_send(struct admin_client *client, json_t *message)
{
	CLEANUP_FREE char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;

	json_decref(message);
	if (!text || !out_reserve(client, len + 1)) {
		log_limited(&loop.limit, LOG_LVL_WARN, LOG_ADMIN, "no memory for an answer");
		client->dead = true;
		return;
	}
	memcpy(client->out + client->out_len, text, len);
	client->out[client->out_len + len] = '\n';
	client->out_len += len + 1;
	if (!client->out_deadline && !client->follows)
		client->out_deadline = monotonic_ms() + admin_limits.output_ms;
}

static void client_send_error(struct admin_client *client, json_t *id, enum admin_code code,
                              const char *where, const char *hint, const char *text)
{
	client_send(client, json_pack("{s:s, s:O?, s:o}", "jsonrpc", "2.0", "id",
	                              id ? id : json_null(), "error",
	                              make_error(code, where, hint, text)));
}

/* Write what the socket takes. */
static void client_flush(struct admin_client *client)
{
	ssize_t n;

	while (client->out_sent < client->out_len) {
		n = send(client->fd, client->out + client->out_sent, client->out_len - client->out_sent,
		         MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			client->dead = true;
			return;
		}
		client->out_sent += (size_t)n;
		client->active = monotonic_ms();
		if (!client->follows)
			client->out_deadline = client->active + admin_limits.output_ms;
	}
	free(client->out);
	client->out = NULL;
	client->out_len = client->out_sent = client->out_size = 0;
	client->out_deadline = 0;
}

/* ---- events -------------------------------------------------------------------------------------- */

void admin_subscribe(struct admin_request *req, const char *disk, json_t *result)
{
	struct admin_client *client = req->client;

	/* Once is enough: another time changes what it gets. */
	if (client)
		snprintf(client->follows_disk, sizeof(client->follows_disk), "%s", disk ? disk : "");
	req->subscribe = true;
	req->events_at = event_next();
	admin_reply(req, result);
}

static void send_event(struct admin_client *client, json_t *params)
{
	client_send(client, json_pack("{s:s, s:s, s:o}", "jsonrpc", "2.0", "method", "event", "params", params));
}

/* As many as there is room for. True if there was none for some. */
static bool queue_events(struct admin_client *client)
{
	struct event event;

	while (!client->dead && event_read(&client->events_at, &event, &client->events_lost)) {
		if (client->events_lost)
			send_event(client, admin_lost_json(client->events_lost));
		client->events_lost = 0;
		if (!client->follows_disk[0] || !strcmp(client->follows_disk, event.disk))
			send_event(client, admin_event_json(&event));
		if (client->out_len - client->out_sent >= OUT_HIGH / 2)
			return true;
	}
	return false;
}

/* As many as it takes; the others wait in the ring of all events, or get lost there.  Who takes all that was queued
 * gets the next at once: nothing else would bring us back. */
static void client_events(struct admin_client *client)
{
	client->more_events = client->follows;
	while (client->more_events && !client->dead && client->out_len - client->out_sent < OUT_HIGH / 2) {
		client->more_events = queue_events(client);
		if (client->more_events)
			client_flush(client);
	}
}

/* ---- dispatch ------------------------------------------------------------------------------------ */

static const char *type_text(enum admin_type type)
{
	return type == ADMIN_STRING ? "a string" : type == ADMIN_INTEGER ? "an integer" : "true or false";
}

static bool type_fits(enum admin_type type, const json_t *value)
{
	switch (type) {
	case ADMIN_STRING:
		return json_is_string(value);
	case ADMIN_INTEGER:
		return json_is_integer(value);
	case ADMIN_BOOLEAN:
		return json_is_boolean(value);
	}
	return false;
}

static const struct admin_param *find_param(const struct admin_verb *verb, const char *name)
{
	for (const struct admin_param *param = verb->params; param && param->name; param++)
		if (!strcmp(param->name, name))
			return param;
	return NULL;
}

/* "domid, vdev, params": for messages. */
static const char *param_names(const struct admin_verb *verb, char *buf, size_t size)
{
	size_t n = 0;

	snprintf(buf, size, "it takes no parameters");
	for (const struct admin_param *param = verb->params; param && param->name; param++) {
		int len = snprintf(buf + n, size - n, "%s%s", n ? ", " : "it takes ", param->name);

		if (len < 0 || (size_t)len >= size - n)
			break;
		n += (size_t)len;
	}
	return buf;
}

/* True, or the request has been answered. */
static bool check_params(struct admin_request *req)
{
	const struct admin_verb *verb = req->verb;
	const char *name;
	char names[200];
	json_t *value;

	json_object_foreach(req->params, name, value)
	{
		const struct admin_param *param = find_param(verb, name);

		if (!param) {
			admin_fail(req, ADMIN_E_PARAMS, name, param_names(verb, names, sizeof(names)),
			           "%s has no parameter \"%.60s\"", verb->name, name);
			return false;
		}
		if (!type_fits(param->type, value)) {
			admin_fail(req, ADMIN_E_PARAMS, name, NULL, "parameter \"%s\" of %s must be %s",
			           name, verb->name, type_text(param->type));
			return false;
		}
		if (param->privileged && !req->privileged) {
			admin_fail(req, ADMIN_E_DENIED, name,
			           "be root, or a member of the socket's group",
			           "%s with \"%s\" is not allowed for user %u", verb->name, name,
			           (unsigned)req->uid);
			return false;
		}
	}
	for (const struct admin_param *param = verb->params; param && param->name; param++) {
		if (!param->required || admin_given(req, param->name))
			continue;
		admin_fail(req, ADMIN_E_PARAMS, param->name, param_names(verb, names, sizeof(names)),
		           "%s needs the parameter \"%s\"", verb->name, param->name);
		return false;
	}
	return true;
}

static void request_start(struct admin_client *client, const struct admin_verb *verb, json_t *id,
                          json_t *params)
{
	struct admin_request *req = calloc(1, sizeof(*req));

	if (!req) {
		if (id)
			client_send_error(client, id, ADMIN_E_INTERNAL, NULL, NULL, "out of memory");
		return;
	}
	req->client = client;
	req->verb = verb;
	req->id = json_incref(id);
	req->params = params ? json_incref(params) : json_object();
	req->privileged = client->peer.privileged;
	req->uid = client->peer.uid;
	req->pid = client->peer.pid;
	list_init(&req->done);
	list_add_tail(&req->node, &client->requests);
	client->outstanding++;
	loop.running++;

	if (verb->privileged && !req->privileged)
		admin_fail(req, ADMIN_E_DENIED, verb->name, "be root, or a member of the socket's group",
		           "%s is not allowed for user %u", verb->name, (unsigned)req->uid);
	else if (check_params(req))
		verb->run(req);
}

static bool id_is_valid(const json_t *id)
{
	return json_is_string(id) || json_is_number(id) || json_is_null(id);
}

/* What is wrong with the shape of a request, or NULL. */
static const char *request_fault(json_t *root)
{
	const char *version = json_string_value(json_object_get(root, "jsonrpc"));
	json_t *id = json_object_get(root, "id"), *params = json_object_get(root, "params");

	if (json_is_array(root))
		return "batches are not supported: send one request a line";
	if (!json_is_object(root))
		return "a request is an object";
	if (!version || strcmp(version, "2.0"))
		return "\"jsonrpc\" must be \"2.0\"";
	if (id && !id_is_valid(id))
		return "\"id\" must be a string, a number or null";
	if (!json_is_string(json_object_get(root, "method")))
		return "\"method\" must be a string";
	if (params && !json_is_object(params))
		return "\"params\" must be an object: parameters go by name";
	return NULL;
}

static void dispatch(struct admin_client *client, json_t *root)
{
	json_t *id = json_object_get(root, "id");
	const char *fault = request_fault(root), *method;
	const struct admin_verb *verb;
	char text[120];

	if (fault) {
		client_send_error(client, id && id_is_valid(id) ? id : NULL, ADMIN_E_REQUEST, NULL,
		                  "see ringdisk-protocol(7)", fault);
		return;
	}
	method = json_string_value(json_object_get(root, "method"));
	verb = admin_verb_find(method);
	if (verb) {
		request_start(client, verb, id, json_object_get(root, "params"));
	} else if (id) {
		snprintf(text, sizeof(text), "there is no method \"%.60s\"", method);
		client_send_error(client, id, ADMIN_E_METHOD, method, "rpc.discover lists the methods",
		                  text);
	}
}

static bool is_blank(const char *line, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
			return false;
	return true;
}

static void handle_line(struct admin_client *client, const char *line, size_t len)
{
	json_error_t error;
	char text[JSON_ERROR_TEXT_LENGTH + 40];
	json_t *root;

	if (is_blank(line, len))
		return;
	root = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
	if (root) {
		dispatch(client, root);
		json_decref(root);
		return;
	}
	snprintf(text, sizeof(text), "not JSON: %s at byte %d", error.text, error.position);
	client_send_error(client, NULL, ADMIN_E_PARSE, NULL, "one JSON object a line", text);
}

/* ---- input --------------------------------------------------------------------------------------- */

/* A message of ADMIN_MAX_MESSAGE bytes, its newline, and room to notice that it is longer. */
#define IN_MAX (ADMIN_MAX_MESSAGE + 2)

static bool in_reserve(struct admin_client *client)
{
	size_t size;
	char *in;

	if (client->in_size - client->in_len >= IN_CHUNK / 2 || client->in_size == IN_MAX)
		return client->in_len < client->in_size;
	size = client->in_size ? client->in_size * 2 : IN_CHUNK;
	if (size > IN_MAX)
		size = IN_MAX;
	in = realloc(client->in, size);
	if (!in)
		return false;
	client->in = in;
	client->in_size = size;
	return true;
}

static void client_read(struct admin_client *client)
{
	ssize_t n;

	if (!in_reserve(client)) {
		client->dead = client->in_len < IN_MAX; /* no memory; else its lines come first */
		return;
	}
	n = recv(client->fd, client->in + client->in_len, client->in_size - client->in_len, 0);
	if (n > 0) {
		client->in_len += (size_t)n;
		client->active = monotonic_ms();
	} else if (n == 0) {
		client->eof = true;
	} else if (errno != EAGAIN && errno != EINTR) {
		client->dead = true;
	}
}

/* Drop the first len bytes; without any left the buffer goes, too: idle clients cost nothing. */
static void in_consume(struct admin_client *client, size_t len)
{
	client->in_len -= len;
	memmove(client->in, client->in + len, client->in_len);
	client->scanned = 0;
	client->line_deadline = 0;
	if (client->in_len)
		return;
	free(client->in);
	client->in = NULL;
	client->in_size = 0;
}

static bool may_take_requests(const struct admin_client *client)
{
	return !client->dead && !client->closing && !loop.stop_deadline &&
	       client->outstanding < MAX_OUTSTANDING && client->out_len - client->out_sent < OUT_HIGH;
}

/* Say why, and close when that is written. */
static void client_refuse(struct admin_client *client, const char *text)
{
	client_send_error(client, NULL, ADMIN_E_REQUEST, NULL, "see ringdisk-protocol(7)", text);
	client->closing = true;
	if (client->in_len)
		in_consume(client, client->in_len);
}

/* The length of the first line without its newline, or -1. At the end of the input its rest is a line. */
static ssize_t find_line(struct admin_client *client, bool *newline)
{
	char *end = memchr(client->in + client->scanned, '\n', client->in_len - client->scanned);

	*newline = end != NULL;
	client->scanned = client->in_len;
	if (end)
		return end - client->in;
	return client->eof ? (ssize_t)client->in_len : -1;
}

/* True if more could be done, were it not for its answers that wait. */
static bool take_lines(struct admin_client *client)
{
	ssize_t len;
	bool newline;

	while (client->in_len && may_take_requests(client)) {
		len = find_line(client, &newline);
		if (len > (ssize_t)ADMIN_MAX_MESSAGE ||
		    (len < 0 && client->in_len > ADMIN_MAX_MESSAGE)) {
			client_refuse(client, "the message is too long: at most 65536 bytes");
			return false;
		}
		if (len < 0) {
			if (!client->line_deadline)
				client->line_deadline = monotonic_ms() + admin_limits.line_ms;
			return false;
		}
		handle_line(client, client->in, (size_t)len);
		in_consume(client, (size_t)len + newline);
	}
	/* It waits for us, not we for it; find_line starts again at the beginning. */
	client->scanned = 0;
	client->line_deadline = 0;
	return client->in_len > 0;
}

/* ---- clients ------------------------------------------------------------------------------------- */

static int client_add(int fd, const struct admin_peer *peer)
{
	struct admin_client *client = calloc(1, sizeof(*client));
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};

	if (!client)
		return -ENOMEM;
	client->fd = fd;
	client->peer = *peer;
	client->interest = EPOLLIN;
	client->active = monotonic_ms();
	list_init(&client->requests);
	if (epoll_ctl(loop.epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
		free(client);
		return -errno;
	}
	list_add_tail(&client->node, &loop.clients);
	loop.n_clients++;
	return 0;
}

/* Its requests go on; their answers will find nobody. */
static void client_drop(struct admin_client *client)
{
	struct admin_request *req, *tmp;

	list_for_each_safe(req, tmp, &client->requests, node) {
		list_del(&req->node);
		req->client = NULL;
		loop.running--;
	}
	list_del(&client->node);
	loop.n_clients--;
	/* Closing alone is not enough if a child that was forked meanwhile has the file, too. */
	epoll_ctl(loop.epoll_fd, EPOLL_CTL_DEL, client->fd, NULL);
	close(client->fd);
	free(client->in);
	free(client->out);
	free(client);
}

static bool rather(const struct admin_client *a, const struct admin_client *b)
{
	if (a->follows != b->follows)
		return b->follows;
	return a->active < b->active;
}

/* Make room: the longest silent of those that wait for nothing; who follows events last. */
static bool evict_one(void)
{
	struct admin_client *client, *victim = NULL;

	list_for_each(client, &loop.clients, node)
		if (!client->outstanding && (!victim || rather(client, victim)))
			victim = client;
	if (!victim)
		return false;
	log_limited(&loop.limit, LOG_LVL_INFO, LOG_ADMIN,
	            "too many clients: closing the one silent longest (uid %u, pid %d)",
	            (unsigned)victim->peer.uid, (int)victim->peer.pid);
	client_drop(victim);
	return true;
}

static void client_interest(struct admin_client *client)
{
	struct epoll_event event = {.data.ptr = client};

	if (may_take_requests(client) && !client->eof)
		event.events |= EPOLLIN;
	if (client->out_len > client->out_sent || client->more_events)
		event.events |= EPOLLOUT;
	if (event.events == client->interest)
		return;
	if (epoll_ctl(loop.epoll_fd, EPOLL_CTL_MOD, client->fd, &event))
		client->dead = true;
	client->interest = event.events;
}

static bool client_finished(const struct admin_client *client)
{
	if (client->dead)
		return true;
	if (client->out_len > client->out_sent)
		return false;
	return client->closing || (client->eof && !client->outstanding && !client->in_len);
}

static void client_check_deadlines(struct admin_client *client, long long now)
{
	if (client->out_deadline && now >= client->out_deadline)
		client->dead = true;
	else if (client->line_deadline && now >= client->line_deadline)
		client_refuse(client, "the message was not complete in time");
}

/* Everything that can be done for it now. */
static void client_pump(struct admin_client *client, long long now)
{
	if (client->readable && may_take_requests(client) && !client->eof)
		client_read(client);
	client->readable = false;
	while (!client->dead && take_lines(client)) {
		client_flush(client);
		if (!may_take_requests(client))
			break;
	}
	/* What it sent before it went has been done. */
	client->dead |= client->hup;
	client_check_deadlines(client, now);
	client_events(client);
	if (!client->dead)
		client_flush(client);
	if (!client->dead)
		client_interest(client);
	if (client_finished(client))
		client_drop(client);
}

/* ---- the loop ------------------------------------------------------------------------------------ */

static void refuse_connection(int fd)
{
	static const char text[] =
		"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32007,\"message\":\"too many "
		"clients\",\"data\":{\"what\":\"busy\",\"where\":null,\"hint\":\"try again\"}}}\n";
	ssize_t n = send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);

	(void)n; /* as far as it goes */
	close(fd);
}

/* Without descriptors a pending connection would keep the loop spinning: take it and hang up. */
static void accept_without_descriptors(void)
{
	int fd;

	close(loop.spare_fd);
	fd = accept4(loop.sock.at.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd >= 0)
		close(fd);
	loop.spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	log_limited(&loop.limit, LOG_LVL_WARN, LOG_ADMIN, "no file descriptors left for clients");
}

static void accept_one(void)
{
	struct admin_peer peer;
	int fd = accept4(loop.sock.at.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE)
			accept_without_descriptors();
		return;
	}
	if (admin_socket_peer(&loop.sock, fd, &peer))
		close(fd);
	else if (loop.n_clients >= ADMIN_MAX_CLIENTS && !evict_one())
		refuse_connection(fd);
	else if (client_add(fd, &peer))
		close(fd);
}

/* From here on; its deadline is gone, as nobody waits for it. */
static void client_follow(struct admin_client *client, uint64_t at)
{
	client->follows = true;
	client->events_at = at;
	client->out_deadline = 0;
}

static void deliver(struct admin_request *req)
{
	struct admin_client *client = req->client;

	if (client) {
		list_del(&req->node);
		client->outstanding--;
		loop.running--;
		if (req->id && (req->result || req->error))
			client_send(client, json_pack("{s:s, s:O, s:O}", "jsonrpc", "2.0", "id",
			                              req->id, req->result ? "result" : "error",
			                              req->result ? req->result : req->error));
		else if (req->id)
			client->dead = true;
		if (req->subscribe)
			client_follow(client, req->events_at);
	}
	request_free(req);
}

/* True if there were any. */
static bool take_answers(void)
{
	struct admin_request *req, *tmp;
	struct list_head answered;
	bool any;

	list_init(&answered);
	lock_acquire(&done.lock);
	list_splice_tail(&done.queue, &answered);
	lock_release(&done.lock);
	any = !list_empty(&answered);
	list_for_each_safe(req, tmp, &answered, done) {
		list_del(&req->done);
		deliver(req);
	}
	return any;
}

static void take_event(const struct epoll_event *event)
{
	struct admin_client *client = event->data.ptr;
	uint64_t count;

	if (event->data.ptr == &loop.sock) {
		return; /* last, since it may drop clients that events still point to */
	} else if (event->data.ptr == &loop.event_fd) {
		ssize_t n = read(loop.event_fd, &count, sizeof(count));

		(void)n;
	} else {
		if (event->events & EPOLLIN)
			client->readable = true;
		if (event->events & (EPOLLHUP | EPOLLERR))
			client->hup = true;
	}
}

/* Milliseconds until the first deadline; -1: there is none. */
static int loop_timeout(long long now)
{
	long long first = loop.stop_deadline;
	struct admin_client *client;

	list_for_each(client, &loop.clients, node) {
		if (client->out_deadline && (!first || client->out_deadline < first))
			first = client->out_deadline;
		if (client->line_deadline && (!first || client->line_deadline < first))
			first = client->line_deadline;
	}
	if (!first)
		return -1;
	return first <= now ? 0 : (int)(first - now);
}

static void pump_all(void)
{
	struct admin_client *client, *tmp;
	long long now = monotonic_ms();

	list_for_each_safe(client, tmp, &loop.clients, node)
		client_pump(client, now);
}

void admin_loop_turn(int timeout_ms)
{
	struct epoll_event events[ADMIN_MAX_CLIENTS + 2];
	int limit = loop_timeout(monotonic_ms()), n;
	bool connections = false;

	if (timeout_ms < 0 || (limit >= 0 && limit < timeout_ms))
		timeout_ms = limit;
	n = epoll_wait(loop.epoll_fd, events, ADMIN_MAX_CLIENTS + 2, timeout_ms);
	for (int i = 0; i < n; i++) {
		take_event(&events[i]);
		connections |= events[i].data.ptr == &loop.sock;
	}
	turning = true;
	take_answers();
	do
		pump_all();
	while (take_answers()); /* most verbs answer at once */
	turning = false;
	if (connections)
		accept_one();
}

/* No more requests; what is answered, and what will be soon, still goes out. */
static bool loop_ended(void)
{
	struct admin_client *client;

	if (!loop.stop)
		return false;
	if (!loop.stop_deadline) {
		loop.stop_deadline = monotonic_ms() + admin_limits.stop_ms;
		epoll_ctl(loop.epoll_fd, EPOLL_CTL_DEL, loop.sock.at.fd, NULL);
	}
	if (monotonic_ms() >= loop.stop_deadline)
		return true;
	list_for_each(client, &loop.clients, node)
		if (client->out_len > client->out_sent)
			return false;
	return !loop.running;
}

static void *loop_main(void *arg)
{
	(void)arg;
	while (!loop_ended())
		admin_loop_turn(-1);
	return NULL;
}

static int epoll_add(int fd, void *ptr)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = ptr};

	return epoll_ctl(loop.epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

int admin_loop_open(const struct admin_config *config)
{
	pthread_once(&done_once, done_init);
	json_object_seed(0); /* not thread-safe at its first use */
	loop.config = *config;
	loop.config.socket_path = loop.config.group = NULL; /* not ours to keep */
	loop.hyp = strdup(config->hyp ? config->hyp : "");
	loop.config.hyp = loop.hyp;
	loop.stop = false;
	loop.stop_deadline = 0;
	list_init(&loop.clients);
	log_limit_init(&loop.limit, 5, 60000);
	if (config->control)
		pool_client_init(&loop.control, config->control, 4);
	loop.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop.spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (loop.epoll_fd < 0 || loop.event_fd < 0 || loop.spare_fd < 0 || !loop.hyp ||
	    epoll_add(loop.event_fd, &loop.event_fd)) {
		int err = errno ? errno : ENOMEM;

		admin_loop_close();
		return -err;
	}
	lock_acquire(&done.lock);
	done.open = true;
	lock_release(&done.lock);
	event_listen(wake_loop);
	return 0;
}

int admin_loop_add(int fd, bool privileged)
{
	struct admin_peer peer = {.pid = getpid(), .uid = geteuid(), .privileged = privileged};

	return client_add(fd, &peer);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void admin_loop_close(void)
{
	struct admin_client *client, *tmp;

	event_listen(NULL);
	take_answers();
	list_for_each_safe(client, tmp, &loop.clients, node)
		client_drop(client);
	/* From here on a late answer frees its request itself, and does not touch the loop. */
	lock_acquire(&done.lock);
	done.open = false;
	lock_release(&done.lock);
	take_answers();
	close_fd(&loop.epoll_fd);
	close_fd(&loop.event_fd);
	close_fd(&loop.spare_fd);
	free(loop.hyp);
	loop.hyp = NULL;
}

int admin_start(const struct admin_config *config)
{
	int err = admin_loop_open(config);

	if (err) {
		log_err(LOG_ADMIN, "cannot start: %s", strerror(-err));
		return err;
	}
	err = admin_socket_open(&loop.sock, config->socket_path, config->group);
	if (err)
		goto err_loop;
	err = epoll_add(loop.sock.at.fd, &loop.sock);
	if (!err)
		err = thread_start(&loop.thread, "rd-admin", loop_main, NULL);
	if (err) {
		log_err(LOG_ADMIN, "cannot start: %s", strerror(-err));
		goto err_socket;
	}
	log_info(LOG_ADMIN, "listening on %s", loop.sock.at.path);
	return 0;

err_socket:
	admin_socket_close(&loop.sock);
err_loop:
	admin_loop_close();
	return err;
}

void admin_stop(void)
{
	if (loop.sock.at.fd < 0)
		return;
	loop.stop = true;
	wake_loop();
	pthread_join(loop.thread, NULL);
	admin_socket_close(&loop.sock);
	admin_loop_close();
	/* Attach and detach use the store, which goes next. They wait for bounded time. */
	if (loop.config.control)
		pool_client_drain(&loop.control);
}
