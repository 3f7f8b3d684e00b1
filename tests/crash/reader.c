/*
 * What QEMU reads in a state: one qemu-io for all of them, asked over pipes.
 *
 * It answers each line with text and, when it is ready for the next, with its prompt. So a line is sent
 * only after the prompt: what comes earlier stays in its buffers.
 */
#include "crash.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROMPT  "qemu-io> "
#define WAIT_MS 60000

extern char **environ;

static struct {
	int in, out; /* of qemu-io; 0: it does not run */
	char *text;  /* its last answer, without the prompt */
	size_t room;
} qemu;

/* Up to the next prompt. */
static void answer(void)
{
	const size_t prompt = strlen(PROMPT);
	size_t used = 0;

	for (;;) {
		struct pollfd pfd = { .fd = qemu.out, .events = POLLIN };
		ssize_t n;

		if (used + 4096 > qemu.room) {
			qemu.room = 2 * qemu.room + 65536;
			qemu.text = realloc(qemu.text, qemu.room);
			if (!qemu.text)
				die("out of memory");
		}
		if (poll(&pfd, 1, WAIT_MS) != 1)
			die("qemu-io does not answer");
		n = read(qemu.out, qemu.text + used, qemu.room - used - 1);
		if (n <= 0)
			die("qemu-io is not there any more");
		used += (size_t)n;
		if (used >= prompt && !memcmp(qemu.text + used - prompt, PROMPT, prompt)) {
			qemu.text[used - prompt] = 0;
			return;
		}
	}
}

static void ask(const char *line)
{
	size_t length = strlen(line);

	if (write(qemu.in, line, length) != (ssize_t)length)
		die("qemu-io: %s", strerror(errno));
	answer();
}

static void start(void)
{
	char *argv[] = { (char *)"qemu-io", NULL };
	posix_spawn_file_actions_t actions;
	int to[2], from[2], r;
	pid_t pid;

	signal(SIGPIPE, SIG_IGN);
	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		die("pipe: %s", strerror(errno));
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, to[0], 0);
	posix_spawn_file_actions_adddup2(&actions, from[1], 1);
	posix_spawn_file_actions_adddup2(&actions, from[1], 2);
	r = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (r)
		die("qemu-io: %s", strerror(r));
	close(to[0]);
	close(from[1]);
	qemu.in = to[1]; /* it ends when we do */
	qemu.out = from[0];
	answer();
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "00000200:  00 01 ..  text": sixteen bytes a line. False: that is no dump of so many bytes. */
static bool parse_dump(const char *text, uint8_t *bytes, uint64_t length)
{
	for (uint64_t at = 0; at < length; at += 16) {
		const char *p = strstr(text, ":  ");

		if (!p || strtoull(text, NULL, 16) != at)
			return false;
		p += 3;
		for (unsigned i = 0; i < 16; i++, p += 3) {
			if (hex(p[0]) < 0 || hex(p[1]) < 0)
				return false;
			bytes[at + i] = (uint8_t)(hex(p[0]) << 4 | hex(p[1]));
		}
		text = strchr(p, '\n');
		if (!text)
			return false;
		text++;
	}
	return true;
}

bool reader_read(const char *format, const char *path, uint8_t *bytes, uint64_t length)
{
	char line[1024];
	bool good;

	if (!qemu.in)
		start();
	snprintf(line, sizeof(line), "open -r -o driver=%s %s\n", format, path);
	ask(line);
	if (*qemu.text)
		return false;
	snprintf(line, sizeof(line), "read -v 0 %llu\n", (unsigned long long)length);
	ask(line);
	good = parse_dump(qemu.text, bytes, length);
	ask("close\n");
	return good;
}

const char *reader_says(void)
{
	qemu.text[strcspn(qemu.text, "\n")] = 0;
	return qemu.text;
}
