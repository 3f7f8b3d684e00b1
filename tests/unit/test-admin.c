/*
 * admin.h: what a client on the socket sees. Framing, the rules of JSON-RPC, parameters, privilege, requests
 * that take long, clients that go, dawdle or flood, and the socket as a file. The disks are fake.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <jansson.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "admin-internal.h"
#include "fake-device.h"
#include "lock.h"
#include "log.h"

#ifdef RD_SANITIZED
#define PATIENCE_MS 60000
#else
#define PATIENCE_MS 20000
#endif

static char dir[] = "/tmp/test-admin.XXXXXX";
static char path[64];
static struct pool *control;
static struct device *xvda;
static atomic_int shutdowns;

#define WAIT_FOR(cond) wait_true(cond, PATIENCE_MS)

/* ---- the daemon's side --------------------------------------------------------------------------- */

static void note_shutdown(void)
{
	shutdowns++;
}

static int fake_attach(uint32_t domid, uint32_t vdev, const char *kind, const char *params, bool writable,
                       bool cdrom, char *err, size_t errlen)
{
	(void)vdev;
	(void)kind;
	(void)cdrom;
	if (!strcmp(params, "raw:/missing")) {
		snprintf(err, errlen, "raw: /missing: No such file or directory");
		return -ENOENT;
	}
	return domid == 7 && writable ? 0 : -EIO;
}

static int fake_detach(uint32_t domid, uint32_t vdev, bool force, char *err, size_t errlen)
{
	(void)domid;
	(void)vdev;
	if (force)
		return 0;
	snprintf(err, errlen, "the guest did not let go of it in time");
	return -ETIMEDOUT;
}

static bool fake_connected(void)
{
	return true;
}

static const struct admin_config *config(void)
{
	static struct admin_config c;

	c = (struct admin_config){
		.socket_path = path,
		.shutdown = note_shutdown,
		.hyp = "loopback",
		.control = control,
		.workers = control,
		.store = {fake_attach, fake_detach, fake_connected},
	};
	return &c;
}

static void log_nothing(void *opaque, enum log_level level, enum log_subsys subsys, const char *line)
{
	(void)opaque;
	(void)level;
	(void)subsys;
	(void)line;
}

static int start(void **state)
{
	(void)state;
	shutdowns = 0;
	admin_limits = (struct admin_limits){.line_ms = 10000, .output_ms = 10000, .stop_ms = 2000};
	assert_int_equal(pool_create("c", 2, 8, &control), 0);
	fake_devices_init(control);
	xvda = fake_device_add(5, 51712, "5/xvda", "raw:/srv/a.img");
	fake_device_add(5, 51728, "5/xvdb", "raw:/srv/b.img");
	assert_int_equal(admin_start(config()), 0);
	return 0;
}

static int stop(void **state)
{
	(void)state;
	fake_device_release(xvda);
	admin_stop();
	pool_destroy(control);
	fake_devices_end();
	return 0;
}

/* ---- the client's side --------------------------------------------------------------------------- */

static int dial(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	assert_true(fd >= 0);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		close(fd);
		return -1;
	}
	return fd;
}

static int dialled(void)
{
	int fd = dial();

	assert_true(fd >= 0);
	return fd;
}

static void put(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		assert_true(n > 0);
		text += n;
		len -= (size_t)n;
	}
}

static void say(int fd, const char *line)
{
	put(fd, line, strlen(line));
	put(fd, "\n", 1);
}

/* The next line, in memory of the caller's; NULL at the end of the connection. */
static char *hear_line(int fd)
{
	char *line = NULL;
	size_t len = 0;

	for (;;) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (len % 4096 == 0)
			line = realloc(line, len + 4096);
		assert_non_null(line);
		assert_int_equal(poll(&pfd, 1, PATIENCE_MS), 1);
		n = recv(fd, line + len, 1, 0);
		if (n <= 0) {
			free(line);
			return NULL;
		}
		if (line[len] == '\n') {
			line[len] = 0;
			return line;
		}
		len++;
	}
}

static json_t *hear(int fd)
{
	char *line = hear_line(fd);
	json_t *root;

	assert_non_null(line);
	root = json_loads(line, 0, NULL);
	assert_non_null(root);
	free(line);
	assert_string_equal(json_string_value(json_object_get(root, "jsonrpc")), "2.0");
	assert_non_null(json_object_get(root, "id"));
	return root;
}

static bool hears_end(int fd)
{
	char *line = hear_line(fd);
	bool end = !line;

	free(line);
	return end;
}

static json_t *ask(int fd, const char *line)
{
	say(fd, line);
	return hear(fd);
}

static int code_of(json_t *answer)
{
	json_t *error = json_object_get(answer, "error");
	int code = (int)json_integer_value(json_object_get(error, "code"));

	if (error) {
		assert_true(json_is_string(json_object_get(error, "message")));
		assert_true(json_is_string(json_object_get(json_object_get(error, "data"), "what")));
		assert_null(json_object_get(answer, "result"));
	}
	return code;
}

static int ask_code(int fd, const char *line)
{
	json_t *answer = ask(fd, line);
	int code = code_of(answer);

	json_decref(answer);
	return code;
}

static const char version[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\"}";

#define REQUEST(method, params)                                                                    \
	"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" method "\",\"params\":{" params "}}"

/* ---- framing and JSON-RPC ------------------------------------------------------------------------- */

static void an_answer_carries_the_id(void **state)
{
	static const char *const ids[] = {"1", "-5", "1.5", "\"text \\u00e9\"", "null", "9007199254740993"};
	int fd = dialled();

	(void)state;
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		char line[200];
		json_t *answer, *id = json_loads(ids[i], JSON_DECODE_ANY, NULL);

		snprintf(line, sizeof(line), "{\"jsonrpc\":\"2.0\",\"id\":%s,\"method\":\"version\"}",
		         ids[i]);
		answer = ask(fd, line);
		assert_true(json_equal(json_object_get(answer, "id"), id));
		assert_non_null(json_object_get(answer, "result"));
		json_decref(id);
		json_decref(answer);
	}
	close(fd);
}

static void what_is_no_request_is_refused(void **state)
{
	static const struct {
		const char *line;
		int code;
	} cases[] = {
		{"{", -32700},
		{"garbage", -32700},
		{"{\"a\":1,\"a\":2}", -32700},
		{"\"\xff\"", -32700},
		{"7", -32600},
		{"null", -32600},
		{"[]", -32600},
		{"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\"}]", -32600},
		{"{}", -32600},
		{"{\"id\":1,\"method\":\"version\"}", -32600},
		{"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"version\"}", -32600},
		{"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"version\"}", -32600},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":5}", -32600},
		{"{\"jsonrpc\":\"2.0\",\"id\":1}", -32600},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\",\"params\":[1]}", -32600},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"no-such\"}", -32601},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\"}", -32601},
	};
	int fd = dialled();

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int code = ask_code(fd, cases[i].line);

		if (code != cases[i].code)
			fail_msg("%s: %d instead of %d", cases[i].line, code, cases[i].code);
	}
	/* The connection is as good as before. */
	assert_int_equal(ask_code(fd, version), 0);
	close(fd);
}

static void nul_bytes_and_deep_nesting_are_refused(void **state)
{
	char deep[20000];
	json_t *answer;
	int fd = dialled();

	(void)state;
	put(fd, "{\"a\0b\":1}\n", 10);
	answer = hear(fd);
	assert_int_equal(code_of(answer), -32700);
	json_decref(answer);
	memset(deep, '[', sizeof(deep));
	deep[sizeof(deep) - 1] = 0;
	assert_int_equal(ask_code(fd, deep), -32700);
	close(fd);
}

static void blank_lines_and_notifications_get_no_answer(void **state)
{
	json_t *answer;
	int fd = dialled();

	(void)state;
	say(fd, "");
	say(fd, " \t\r");
	say(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"version\"}");
	say(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"no-such\"}");
	say(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"list\",\"params\":{\"disk\":\"9/xvda\"}}");
	answer = ask(fd, "{\"jsonrpc\":\"2.0\",\"id\":\"last\",\"method\":\"version\"}");
	assert_string_equal(json_string_value(json_object_get(answer, "id")), "last");
	json_decref(answer);
	close(fd);
}

static void a_message_may_come_in_pieces(void **state)
{
	int fd = dialled();
	json_t *answer;

	(void)state;
	for (const char *s = version; *s; s++) {
		put(fd, s, 1);
		if ((s - version) % 8 == 0)
			usleep(200);
	}
	put(fd, "\n", 1);
	answer = hear(fd);
	assert_int_equal(code_of(answer), 0);
	json_decref(answer);
	close(fd);
}

static void many_messages_may_come_at_once(void **state)
{
	char *all = calloc(300, sizeof(version) + 1);
	int fd = dialled();

	(void)state;
	for (int i = 0; i < 300; i++) {
		strcat(all, version);
		strcat(all, "\n");
	}
	put(fd, all, strlen(all));
	free(all);
	for (int i = 0; i < 300; i++) {
		json_t *answer = hear(fd);

		assert_int_equal(code_of(answer), 0);
		json_decref(answer);
	}
	close(fd);
}

static void the_last_line_needs_no_newline(void **state)
{
	json_t *answer;
	int fd = dialled();

	(void)state;
	put(fd, version, strlen(version));
	shutdown(fd, SHUT_WR);
	answer = hear(fd);
	assert_int_equal(code_of(answer), 0);
	json_decref(answer);
	assert_true(hears_end(fd));
	close(fd);
}

/* A request of exactly len bytes, padded with blanks, and its newline. */
static char *padded(size_t len)
{
	char *line = malloc(len + 2);

	memset(line, ' ', len);
	memcpy(line, version, strlen(version));
	line[len] = '\n';
	line[len + 1] = 0;
	return line;
}

static void the_longest_message_passes(void **state)
{
	char *line = padded(ADMIN_MAX_MESSAGE);
	int fd = dialled();
	json_t *answer;

	(void)state;
	put(fd, line, ADMIN_MAX_MESSAGE + 1);
	answer = hear(fd);
	assert_int_equal(code_of(answer), 0);
	json_decref(answer);
	assert_int_equal(ask_code(fd, version), 0);
	free(line);
	close(fd);
}

static void a_longer_one_is_refused_and_ends_the_connection(void **state)
{
	char *line = padded(ADMIN_MAX_MESSAGE + 1);

	(void)state;
	/* With its newline in sight, and without. */
	for (size_t extra = 0; extra < 2; extra++) {
		int fd = dialled();
		json_t *answer;

		put(fd, line, ADMIN_MAX_MESSAGE + 1 + extra);
		answer = hear(fd);
		assert_int_equal(code_of(answer), -32600);
		json_decref(answer);
		assert_true(hears_end(fd));
		close(fd);
	}
	free(line);
}

/* ---- verbs --------------------------------------------------------------------------------------- */

static void params_are_checked(void **state)
{
	int fd = dialled();

	(void)state;
	assert_int_equal(ask_code(fd, REQUEST("version", "\"x\":1")), -32602);
	assert_int_equal(ask_code(fd, REQUEST("list", "\"disk\":5")), -32602);
	assert_int_equal(ask_code(fd, REQUEST("list", "\"settings\":\"yes\"")), -32602);
	assert_int_equal(ask_code(fd, REQUEST("pause", "")), -32602);
	assert_int_equal(ask_code(fd, REQUEST("attach", "\"domid\":7")), -32602);
	assert_int_equal(ask_code(fd, REQUEST("attach", "\"domid\":40000,\"vdev\":\"xvda\","
	                                                "\"params\":\"raw:/x\"")),
	                 -32602);
	assert_int_equal(ask_code(fd, REQUEST("attach", "\"domid\":7,\"vdev\":\"what\","
	                                                "\"params\":\"raw:/x\"")),
	                 -32602);
	assert_int_equal(ask_code(fd, REQUEST("attach", "\"domid\":7,\"vdev\":\"xvda\",\"kind\":\"../x\","
	                                                "\"params\":\"raw:/x\"")),
	                 -32602);
	assert_int_equal(ask_code(fd, REQUEST("log-level", "\"subsystem\":\"no\"")), -32602);
	assert_int_equal(ask_code(fd, REQUEST("log-level", "\"level\":\"no\"")), -32602);
	close(fd);
}

static void list_shows_the_disks(void **state)
{
	json_t *answer, *disks, *disk;
	int fd = dialled();

	(void)state;
	answer = ask(fd, REQUEST("list", ""));
	disks = json_object_get(json_object_get(answer, "result"), "disks");
	assert_int_equal(json_array_size(disks), 2);
	disk = json_array_get(disks, 0);
	assert_string_equal(json_string_value(json_object_get(disk, "disk")), "5/xvda");
	assert_string_equal(json_string_value(json_object_get(disk, "state")), "connected");
	assert_string_equal(json_string_value(json_object_get(disk, "params")), "raw:/srv/a.img");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(disk, "geometry"), "size")),
	                 1048576);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(disk, "rings"), "pages")), 2);
	assert_null(json_object_get(disk, "settings"));
	json_decref(answer);

	answer = ask(fd, REQUEST("list", "\"disk\":\"5/xvdb\",\"settings\":true"));
	disks = json_object_get(json_object_get(answer, "result"), "disks");
	assert_int_equal(json_array_size(disks), 1);
	disk = json_object_get(json_array_get(disks, 0), "settings");
	assert_int_equal(json_object_size(disk), SET_NKEYS);
	disk = json_object_get(disk, "cache");
	assert_string_equal(json_string_value(json_object_get(disk, "value")), "writeback");
	assert_string_equal(json_string_value(json_object_get(disk, "origin")),
	                    settings_origin_text(ORIGIN_DEFAULT));
	json_decref(answer);
	close(fd);
}

static void an_unknown_disk_is_named_with_those_there_are(void **state)
{
	json_t *answer, *data;
	int fd = dialled();

	(void)state;
	answer = ask(fd, REQUEST("pause", "\"disk\":\"5/xvdz\""));
	assert_int_equal(code_of(answer), -32001);
	data = json_object_get(json_object_get(answer, "error"), "data");
	assert_string_equal(json_string_value(json_object_get(data, "where")), "5/xvdz");
	assert_non_null(strstr(json_string_value(json_object_get(data, "hint")), "5/xvda, 5/xvdb"));
	json_decref(answer);
	close(fd);
}

static void text_that_is_not_utf8_is_mended(void **state)
{
	json_t *answer, *disk;
	int fd = dialled();

	(void)state;
	fake_device_fail(xvda, 0, "bad \xc3\x28 \xed\xa0\x80 \xf5 \xc3\xa9 end \xe2\x82");
	answer = ask(fd, REQUEST("list", "\"disk\":\"5/xvda\""));
	disk = json_array_get(json_object_get(json_object_get(answer, "result"), "disks"), 0);
	assert_string_equal(json_string_value(json_object_get(disk, "error")),
	                    "bad \xef\xbf\xbd( \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd \xc3\xa9 "
	                    "end \xef\xbf\xbd\xef\xbf\xbd");
	json_decref(answer);
	assert_int_equal(ask_code(fd, REQUEST("drivers", "")), 0);
	close(fd);
}

static void every_reading_verb_answers(void **state)
{
	static const char *const lines[] = {
		REQUEST("list", ""), REQUEST("stats", ""), REQUEST("stats", "\"disk\":\"5/xvda\""),
		REQUEST("drivers", ""), REQUEST("version", ""), REQUEST("log-level", ""),
		REQUEST("rpc.discover", ""),
	};
	int fd = dialled();

	(void)state;
	stats_add(dev_stats(xvda)->op[STAT_READ].latency[4], 7);
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		assert_int_equal(ask_code(fd, lines[i]), 0);
	close(fd);
}

static void discover_lists_every_method_and_error(void **state)
{
	json_t *answer, *methods, *method;
	int fd = dialled();
	size_t i, n = 0;

	(void)state;
	while (admin_verbs[n].name)
		n++;
	answer = ask(fd, REQUEST("rpc.discover", ""));
	methods = json_object_get(json_object_get(answer, "result"), "methods");
	assert_int_equal(json_array_size(methods), n);
	json_array_foreach(methods, i, method)
	{
		assert_string_equal(json_string_value(json_object_get(method, "name")),
		                    admin_verbs[i].name);
		assert_true(json_is_array(json_object_get(method, "params")));
	}
	assert_true(json_array_size(json_object_get(json_object_get(answer, "result"), "errors")) > 5);
	json_decref(answer);
	close(fd);
}

static void pause_and_unpause_work_on_the_disk(void **state)
{
	int fd = dialled();
	struct dev_view view;

	(void)state;
	assert_int_equal(ask_code(fd, REQUEST("pause", "\"disk\":\"5/xvda\"")), 0);
	assert_int_equal(dev_state(xvda), DEV_PAUSED);
	assert_int_equal(ask_code(fd, REQUEST("unpause", "\"disk\":\"5/xvda\",\"params\":\"raw:/new\"")), 0);
	assert_int_equal(dev_state(xvda), DEV_CONNECTED);
	dev_look(xvda, &view);
	assert_string_equal(view.params, "raw:/new");
	close(fd);
}

static void a_failure_says_why(void **state)
{
	json_t *answer, *error;
	int fd = dialled();

	(void)state;
	fake_device_fail(xvda, -EIO, "raw: /new: Input/output error");
	answer = ask(fd, REQUEST("unpause", "\"disk\":\"5/xvda\",\"params\":\"raw:/new\""));
	assert_int_equal(code_of(answer), -32000);
	error = json_object_get(answer, "error");
	assert_string_equal(json_string_value(json_object_get(error, "message")),
	                    "cannot unpause 5/xvda: raw: /new: Input/output error");
	json_decref(answer);
	fake_device_fail(xvda, -ENOTCONN, "");
	assert_int_equal(ask_code(fd, REQUEST("pause", "\"disk\":\"5/xvda\"")), -32003);
	close(fd);
}

static void attach_and_detach_reach_the_store(void **state)
{
	int fd = dialled();

	(void)state;
	assert_int_equal(ask_code(fd, REQUEST("attach", "\"domid\":7,\"vdev\":\"xvda\","
	                                                "\"params\":\"raw:/srv/c.img\"")),
	                 0);
	assert_int_equal(ask_code(fd, REQUEST("attach", "\"domid\":7,\"vdev\":\"xvda\","
	                                                "\"params\":\"raw:/missing\"")),
	                 -32000);
	assert_int_equal(ask_code(fd, REQUEST("attach", "\"domid\":7,\"vdev\":\"xvda\",\"read_only\":true,"
	                                                "\"params\":\"raw:/srv/c.img\"")),
	                 -32000);
	assert_int_equal(ask_code(fd, REQUEST("attach", "\"domid\":5,\"vdev\":\"xvda\","
	                                                "\"params\":\"raw:/srv/c.img\"")),
	                 -32005);
	assert_int_equal(ask_code(fd, REQUEST("detach", "\"disk\":\"5/xvdb\"")), -32004);
	assert_int_equal(ask_code(fd, REQUEST("detach", "\"disk\":\"5/xvdb\",\"force\":true")), 0);
	close(fd);
}

static void set_changes_a_setting(void **state)
{
	struct dev_view view;
	int fd = dialled();

	(void)state;
	assert_int_equal(ask_code(fd, REQUEST("set", "\"disk\":\"5/xvda\",\"key\":\"sync\",\"value\":\"on\"")),
	                 0);
	dev_look(xvda, &view);
	assert_int_equal(view.settings.value[SET_SYNC], 1);
	assert_int_equal(view.settings.origin[SET_SYNC], ORIGIN_SET);
	assert_int_equal(ask_code(fd, REQUEST("set", "\"disk\":\"5/xvda\",\"key\":\"sync\",\"value\":\"7\"")),
	                 -32602);
	assert_int_equal(ask_code(fd, REQUEST("set", "\"disk\":\"5/xvda\",\"key\":\"no\",\"value\":\"7\"")),
	                 -32602);
	close(fd);
}

static void log_levels_can_be_set(void **state)
{
	enum log_level before = log_get_level(LOG_RING);
	json_t *answer, *levels;
	int fd = dialled();

	(void)state;
	answer = ask(fd, REQUEST("log-level", "\"subsystem\":\"ring\",\"level\":\"debug\""));
	levels = json_object_get(json_object_get(answer, "result"), "levels");
	assert_string_equal(json_string_value(json_object_get(levels, "ring")), "debug");
	assert_string_equal(json_string_value(json_object_get(levels, "io")), "info");
	json_decref(answer);
	assert_int_equal(log_get_level(LOG_RING), LOG_LVL_DEBUG);
	log_set_level(LOG_RING, before);
	close(fd);
}

static void shutdown_is_answered_first(void **state)
{
	int fd = dialled();

	(void)state;
	assert_int_equal(ask_code(fd, REQUEST("shutdown", "")), 0);
	assert_int_equal(shutdowns, 1);
	close(fd);
}

/* ---- requests that take long ---------------------------------------------------------------------- */

static const char pause_xvda[] =
	"{\"jsonrpc\":\"2.0\",\"id\":\"slow\",\"method\":\"pause\",\"params\":{\"disk\":\"5/xvda\"}}";

static void a_slow_request_does_not_hold_up_others(void **state)
{
	int fd = dialled();
	json_t *answer;

	(void)state;
	fake_device_hold(xvda);
	say(fd, pause_xvda);
	WAIT_FOR(fake_device_pausing(xvda) == 1);
	answer = ask(fd, version);
	assert_int_equal(json_integer_value(json_object_get(answer, "id")), 1);
	json_decref(answer);
	fake_device_release(xvda);
	answer = hear(fd);
	assert_string_equal(json_string_value(json_object_get(answer, "id")), "slow");
	assert_int_equal(code_of(answer), 0);
	json_decref(answer);
	close(fd);
}

static void a_client_may_be_gone_before_its_answer(void **state)
{
	int fd = dialled(), other = dialled();

	(void)state;
	fake_device_hold(xvda);
	say(fd, pause_xvda);
	WAIT_FOR(fake_device_pausing(xvda) == 1);
	close(fd);
	assert_int_equal(ask_code(other, version), 0);
	fake_device_release(xvda);
	WAIT_FOR(dev_state(xvda) == DEV_PAUSED);
	assert_int_equal(ask_code(other, version), 0);
	close(other);
}

static void what_was_sent_before_hanging_up_is_done(void **state)
{
	int fd = dialled();

	(void)state;
	say(fd, pause_xvda);
	close(fd);
	WAIT_FOR(dev_state(xvda) == DEV_PAUSED);
}

static void too_many_at_once_wait_their_turn(void **state)
{
	int fd = dialled();

	(void)state;
	fake_device_hold(xvda);
	for (int i = 0; i < 100; i++)
		say(fd, pause_xvda);
	WAIT_FOR(fake_device_pausing(xvda) == 1);
	fake_device_release(xvda);
	for (int i = 0; i < 100; i++) {
		json_t *answer = hear(fd);

		assert_int_equal(code_of(answer), 0);
		json_decref(answer);
	}
	close(fd);
}

static void stop_with_a_request_running(void **state)
{
	struct pool *pool;
	struct device *dev;
	int fd;

	(void)state;
	admin_limits.stop_ms = 50;
	assert_int_equal(pool_create("c", 2, 8, &pool), 0);
	control = pool;
	fake_devices_init(pool);
	dev = fake_device_add(5, 51712, "5/xvda", "raw:/a");
	assert_int_equal(admin_start(config()), 0);
	fd = dialled();
	fake_device_hold(dev);
	say(fd, pause_xvda);
	WAIT_FOR(fake_device_pausing(dev) == 1);
	admin_stop();
	assert_true(hears_end(fd));
	assert_int_equal(access(path, F_OK), -1);
	fake_device_release(dev); /* its answer finds no loop, and is freed */
	pool_destroy(pool);
	fake_devices_end();
	close(fd);
}

/* ---- clients that do harm ------------------------------------------------------------------------- */

static void half_a_message_is_given_up(void **state)
{
	json_t *answer;
	int fd;

	(void)state;
	admin_limits.line_ms = 100;
	fd = dialled();
	put(fd, "{\"jsonrpc\"", 10);
	answer = hear(fd);
	assert_int_equal(code_of(answer), -32600);
	json_decref(answer);
	assert_true(hears_end(fd));
	close(fd);
}

static void dripping_does_not_extend_the_time(void **state)
{
	long long start_ms = monotonic_ms();
	int fd;

	(void)state;
	admin_limits.line_ms = 200;
	fd = dialled();
	while (send(fd, " x", 2, MSG_NOSIGNAL) == 2) {
		assert_true(monotonic_ms() - start_ms < PATIENCE_MS);
		usleep(5000);
	}
	close(fd);
}

/* Sends requests for long answers and never reads one. */
static void who_never_reads_is_dropped(void **state)
{
	long long start_ms = monotonic_ms();
	int fd, other;

	(void)state;
	admin_limits.output_ms = 200;
	fd = dialled();
	fcntl(fd, F_SETFL, O_NONBLOCK);
	for (;;) {
		ssize_t n = send(fd, REQUEST("rpc.discover", "") "\n",
		                 sizeof(REQUEST("rpc.discover", "")), MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			break;
		if (n < 0)
			usleep(5000);
		assert_true(monotonic_ms() - start_ms < PATIENCE_MS);
	}
	other = dialled();
	assert_int_equal(ask_code(other, version), 0);
	close(other);
	close(fd);
}

static void who_reads_slowly_gets_everything(void **state)
{
	int fd = dialled();

	(void)state;
	for (int i = 0; i < 100; i++)
		say(fd, REQUEST("rpc.discover", ""));
	for (int i = 0; i < 100; i++) {
		json_t *answer = hear(fd);

		assert_int_equal(code_of(answer), 0);
		json_decref(answer);
	}
	close(fd);
}

static void a_thousand_connections_are_survived(void **state)
{
	int fds[1000], last;

	(void)state;
	for (int i = 0; i < 1000; i++)
		fds[i] = dial();
	/* The newest is served, whoever else keeps a place. */
	last = dialled();
	assert_int_equal(ask_code(last, version), 0);
	close(last);
	for (int i = 0; i < 1000; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	last = dialled();
	assert_int_equal(ask_code(last, version), 0);
	close(last);
}

static void who_waits_for_an_answer_keeps_its_place(void **state)
{
	int slow = dialled(), idle[ADMIN_MAX_CLIENTS];
	json_t *answer;

	(void)state;
	fake_device_hold(xvda);
	say(slow, pause_xvda);
	WAIT_FOR(fake_device_pausing(xvda) == 1);
	for (unsigned i = 0; i < ADMIN_MAX_CLIENTS; i++) {
		idle[i] = dialled();
		assert_int_equal(ask_code(idle[i], version), 0);
	}
	assert_true(hears_end(idle[0]));
	fake_device_release(xvda);
	answer = hear(slow);
	assert_int_equal(code_of(answer), 0);
	json_decref(answer);
	for (unsigned i = 0; i < ADMIN_MAX_CLIENTS; i++)
		close(idle[i]);
	close(slow);
}

static void a_full_house_is_said_so(void **state)
{
	int busy[ADMIN_MAX_CLIENTS], fd;
	json_t *answer;

	(void)state;
	fake_device_hold(xvda);
	for (unsigned i = 0; i < ADMIN_MAX_CLIENTS; i++) {
		busy[i] = dialled();
		say(busy[i], pause_xvda);
		/* Its request is taken when its second one is answered. */
		assert_int_equal(ask_code(busy[i], version), 0);
	}
	fd = dialled();
	answer = hear(fd);
	assert_int_equal(code_of(answer), -32007);
	json_decref(answer);
	assert_true(hears_end(fd));
	close(fd);
	fake_device_release(xvda);
	for (unsigned i = 0; i < ADMIN_MAX_CLIENTS; i++) {
		json_decref(hear(busy[i]));
		close(busy[i]);
	}
}

static void running_out_of_descriptors_is_survived(void **state)
{
	struct rlimit saved, tight;
	int fd = dialled(), other[8], probe;

	(void)state;
	assert_int_equal(ask_code(fd, version), 0);
	for (int i = 0; i < 8; i++)
		other[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	probe = dup(fd);
	getrlimit(RLIMIT_NOFILE, &saved);
	tight = (struct rlimit){.rlim_cur = (rlim_t)probe + 1, .rlim_max = saved.rlim_max};
	setrlimit(RLIMIT_NOFILE, &tight);
	for (int i = 0; i < 8; i++) {
		struct sockaddr_un address = {.sun_family = AF_UNIX};

		snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
		assert_int_equal(connect(other[i], (struct sockaddr *)&address, sizeof(address)), 0);
	}
	for (int i = 0; i < 8; i++)
		assert_true(hears_end(other[i]));
	assert_int_equal(ask_code(fd, version), 0);
	setrlimit(RLIMIT_NOFILE, &saved);
	for (int i = 0; i < 8; i++)
		close(other[i]);
	close(probe);
	close(fd);
}

/* ---- privilege ------------------------------------------------------------------------------------ */

#define STRANGER 54321

/* As another user, in a child: exit status 0 if @line is answered with @code. */
static int code_as(uid_t uid, gid_t gid, gid_t extra, const char *line)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		char answer[8192] = "", *code;
		ssize_t n;
		int fd;

		if (setgroups(extra ? 1 : 0, &extra) || setresgid(gid, gid, gid) ||
		    setresuid(uid, uid, uid))
			_exit(120);
		fd = dial();
		if (fd < 0)
			_exit(121);
		if (send(fd, line, strlen(line), MSG_NOSIGNAL) < 0 || send(fd, "\n", 1, MSG_NOSIGNAL) < 0)
			_exit(122);
		n = recv(fd, answer, sizeof(answer) - 1, 0);
		if (n <= 0)
			_exit(123);
		code = strstr(answer, "\"code\":-3200");
		_exit(code ? atoi(code + 12) : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

#define DENIED 2
#define REFUSED 121

static void strangers_may_look_but_not_touch(void **state)
{
	static const char set_level[] = REQUEST("log-level", "\"level\":\"info\"");

	(void)state;
	if (getuid())
		skip();
	/* As it is made, they may not even connect. */
	assert_int_equal(code_as(STRANGER, STRANGER, 0, version), REFUSED);
	assert_int_equal(chmod(path, 0666), 0);
	assert_int_equal(code_as(STRANGER, STRANGER, 0, version), 0);
	assert_int_equal(code_as(STRANGER, STRANGER, 0, REQUEST("log-level", "")), 0);
	assert_int_equal(code_as(STRANGER, STRANGER, 0, set_level), DENIED);
	assert_int_equal(code_as(STRANGER, STRANGER, 0, pause_xvda), DENIED);
	assert_int_equal(code_as(STRANGER, STRANGER, 0, REQUEST("shutdown", "")), DENIED);
	assert_int_equal(shutdowns, 0);
	assert_int_equal(dev_state(xvda), DEV_CONNECTED);
	/* Every verb that changes something is marked so. */
	for (const struct admin_verb *verb = admin_verbs; verb->name; verb++) {
		bool changes = strstr("attach detach pause unpause snapshot swap resize flush set export unexport trace check shutdown", verb->name) != NULL;

		assert_int_equal(verb->privileged, changes);
	}
}

static void the_sockets_group_may_touch(void **state)
{
	struct admin_config with_group = *config();
	struct stat st;

	(void)state;
	if (getuid())
		skip();
	admin_stop();
	with_group.group = "daemon";
	assert_int_equal(admin_start(&with_group), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_gid, getgrnam("daemon")->gr_gid);
	assert_int_equal(code_as(STRANGER, st.st_gid, 0, pause_xvda), 0);
	assert_int_equal(code_as(STRANGER, STRANGER, st.st_gid, pause_xvda), 0);
	assert_int_equal(code_as(STRANGER, STRANGER, 0, pause_xvda), REFUSED);
}

/* ---- the socket as a file -------------------------------------------------------------------------- */

static void the_socket_has_its_mode_whatever_the_umask(void **state)
{
	mode_t saved = umask(0);
	struct stat st;

	(void)state;
	admin_stop();
	assert_int_equal(admin_start(config()), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);
	admin_stop();
	umask(0777);
	assert_int_equal(admin_start(config()), 0);
	umask(saved);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);
}

/* What the next daemon says about the socket, in a child: the exit status is -result. */
static int second_daemon(void)
{
	struct admin_socket sock;
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		int err = admin_socket_open(&sock, path, NULL);

		if (!err)
			admin_socket_close(&sock);
		_exit(-err);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return -WEXITSTATUS(status);
}

static void a_live_socket_is_refused(void **state)
{
	int fd;

	(void)state;
	assert_int_equal(second_daemon(), -EADDRINUSE);
	fd = dialled();
	assert_int_equal(ask_code(fd, version), 0);
	close(fd);
}

static int listen_at_path(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 5), 0);
	return fd;
}

static void a_strangers_live_socket_is_left_alone(void **state)
{
	int fd;

	(void)state;
	admin_stop();
	fd = listen_at_path();
	assert_int_equal(second_daemon(), -EADDRINUSE);
	assert_int_equal(access(path, F_OK), 0);
	close(fd);
	/* Now it is stale: the next one takes it. */
	assert_int_equal(admin_start(config()), 0);
	fd = dialled();
	assert_int_equal(ask_code(fd, version), 0);
	close(fd);
}

static void a_file_in_the_way_is_not_removed(void **state)
{
	int fd;

	(void)state;
	admin_stop();
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(admin_start(config()), -EEXIST);
	assert_int_equal(access(path, F_OK), 0);
	unlink(path);
	assert_int_equal(admin_start(config()), 0);
}

static void a_socket_that_is_not_ours_any_more_is_not_removed(void **state)
{
	int fd;

	(void)state;
	unlink(path);
	fd = listen_at_path();
	admin_stop();
	assert_int_equal(access(path, F_OK), 0);
	close(fd);
	unlink(path);
	assert_int_equal(admin_start(config()), 0);
}

static void a_path_too_long_is_refused(void **state)
{
	struct admin_config c = *config();
	char long_path[200];

	(void)state;
	memset(long_path, 'x', sizeof(long_path));
	long_path[0] = '/';
	long_path[sizeof(long_path) - 1] = 0;
	c.socket_path = long_path;
	admin_stop();
	assert_int_equal(admin_start(&c), -ENAMETOOLONG);
	assert_int_equal(admin_start(config()), 0);
}

static int make_dir(void **state)
{
	(void)state;
	log_to_callback(log_nothing, NULL);
	if (!mkdtemp(dir) || chmod(dir, 0755))
		return -1;
	snprintf(path, sizeof(path), "%s/control.sock", dir);
	return 0;
}

static int remove_dir(void **state)
{
	char lock_path[80];

	(void)state;
	snprintf(lock_path, sizeof(lock_path), "%s.lock", path);
	unlink(lock_path);
	return rmdir(dir);
}

#define T(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(an_answer_carries_the_id),
		T(what_is_no_request_is_refused),
		T(nul_bytes_and_deep_nesting_are_refused),
		T(blank_lines_and_notifications_get_no_answer),
		T(a_message_may_come_in_pieces),
		T(many_messages_may_come_at_once),
		T(the_last_line_needs_no_newline),
		T(the_longest_message_passes),
		T(a_longer_one_is_refused_and_ends_the_connection),
		T(params_are_checked),
		T(list_shows_the_disks),
		T(an_unknown_disk_is_named_with_those_there_are),
		T(text_that_is_not_utf8_is_mended),
		T(every_reading_verb_answers),
		T(discover_lists_every_method_and_error),
		T(pause_and_unpause_work_on_the_disk),
		T(a_failure_says_why),
		T(attach_and_detach_reach_the_store),
		T(set_changes_a_setting),
		T(log_levels_can_be_set),
		T(shutdown_is_answered_first),
		T(a_slow_request_does_not_hold_up_others),
		T(a_client_may_be_gone_before_its_answer),
		T(what_was_sent_before_hanging_up_is_done),
		T(too_many_at_once_wait_their_turn),
		cmocka_unit_test(stop_with_a_request_running),
		T(half_a_message_is_given_up),
		T(dripping_does_not_extend_the_time),
		T(who_never_reads_is_dropped),
		T(who_reads_slowly_gets_everything),
		T(a_thousand_connections_are_survived),
		T(who_waits_for_an_answer_keeps_its_place),
		T(a_full_house_is_said_so),
		T(running_out_of_descriptors_is_survived),
		T(strangers_may_look_but_not_touch),
		T(the_sockets_group_may_touch),
		T(the_socket_has_its_mode_whatever_the_umask),
		T(a_live_socket_is_refused),
		T(a_strangers_live_socket_is_left_alone),
		T(a_file_in_the_way_is_not_removed),
		T(a_socket_that_is_not_ours_any_more_is_not_removed),
		T(a_path_too_long_is_refused),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
