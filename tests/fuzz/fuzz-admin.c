/*
 * The bytes of a client of the admin socket: through framing, JSON and every verb, against fake disks.
 * Whatever they are, each answer is a line of JSON with its id and either result or error, and the
 * connection ends when the client has hung up.
 *
 * Input: a byte of flags (bit 0: privileged, bits 1-7: how much is sent at a time), then what is sent.
 */
#include "fuzz.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../unit/fake-device.h"
#include "admin-internal.h"
#include "log.h"

#define MAX_TURNS 100000

static void no_log(void *opaque, enum log_level level, enum log_subsys subsys, const char *line)
{
	(void)opaque;
	(void)level;
	(void)subsys;
	(void)line;
}

static void nothing(void)
{
}

static void start(void)
{
	static const struct admin_config config = {.shutdown = nothing, .hyp = "fuzz"};

	log_to_callback(no_log, NULL);
	fake_devices_init(NULL);
	fake_device_add(5, 51712, "5/xvda", "raw:/a");
	fake_device_fail(fake_device_add(5, 51728, "5/xvdb", "raw:/b"), -EIO, "bad \xff");
	MUST(!admin_loop_open(&config));
}

/* What the client hears; lines may come in pieces. */
struct heard {
	char *text;
	size_t len;
	bool end;
};

static void check_line(const char *line, size_t len)
{
	json_t *answer = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
	json_t *error = json_object_get(answer, "error"), *id = json_object_get(answer, "id");

	MUST(json_is_object(answer));
	MUST(id && (json_is_string(id) || json_is_number(id) || json_is_null(id)));
	MUST((json_object_get(answer, "result") != NULL) != (error != NULL));
	MUST(!error || json_integer_value(json_object_get(error, "code")) < 0);
	json_decref(answer);
}

static void hear(int fd, struct heard *heard)
{
	char buf[65536], *end;
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	heard->end = n == 0 || (n < 0 && errno == ECONNRESET);
	if (n <= 0)
		return;
	heard->text = realloc(heard->text, heard->len + (size_t)n);
	MUST(heard->text);
	memcpy(heard->text + heard->len, buf, (size_t)n);
	heard->len += (size_t)n;
	while (heard->len && (end = memchr(heard->text, '\n', heard->len))) {
		size_t len = (size_t)(end - heard->text);

		check_line(heard->text, len);
		heard->len -= len + 1;
		memmove(heard->text, end + 1, heard->len);
	}
}

/* False: the daemon has hung up. */
static bool send_piece(int fd, const uint8_t *data, size_t size, struct heard *heard)
{
	size_t sent = 0;

	for (int turn = 0; sent < size && !heard->end; turn++) {
		ssize_t n = send(fd, data + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		MUST(turn < MAX_TURNS);
		if (n < 0 && errno != EAGAIN)
			return false;
		if (n > 0)
			sent += (size_t)n;
		admin_loop_turn(0);
		hear(fd, heard);
	}
	return !heard->end;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool started;
	struct heard heard = {.end = false};
	size_t step;
	int fds[2];

	if (!size || size > 300000)
		return 0;
	if (!started)
		start();
	started = true;
	MUST(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
	MUST(!admin_loop_add(fds[0], data[0] & 1));
	step = data[0] >> 1 ? (size_t)(data[0] >> 1) * 8 : size;
	data++;
	size--;
	while (size) {
		size_t piece = size < step ? size : step;

		if (!send_piece(fds[1], data, piece, &heard))
			break;
		data += piece;
		size -= piece;
	}
	shutdown(fds[1], SHUT_WR);
	for (int turn = 0; !heard.end; turn++) {
		MUST(turn < MAX_TURNS);
		admin_loop_turn(0);
		hear(fds[1], &heard);
	}
	MUST(!heard.len);
	close(fds[1]);
	free(heard.text);
	return 0;
}
