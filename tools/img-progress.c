/*
 * How far it is: a bar on a terminal, lines where --progress asks for them, and else nothing.
 *
 * Workers only add to a number; the main thread draws, ten times a second at most.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "img.h"
#include "log.h"
#include "table.h"

bool progress_lines;

static struct {
	const char *verb; /* NULL: nothing to be shown */
	bool bytes, bar, shown;
	_Atomic uint64_t done, total;
	uint64_t started, last; /* nanoseconds */
} now;

/* Messages of workers hide the line, too. */
static pthread_mutex_t screen = PTHREAD_MUTEX_INITIALIZER;

void progress_start(const char *verb, uint64_t total, bool bytes)
{
	if (tool_quiet || (!progress_lines && !isatty(STDERR_FILENO)))
		return;
	now.bytes = bytes;
	now.bar = !progress_lines;
	now.shown = false;
	atomic_store(&now.done, 0);
	atomic_store(&now.total, total);
	now.started = now.last = clock_monotonic_ns();
	now.verb = verb;
}

void progress_add(uint64_t done)
{
	atomic_fetch_add_explicit(&now.done, done, memory_order_relaxed);
}

/* "4.2 GiB of 10 GiB, 1.1 GiB/s, 5 s left" */
static void amounts(char *buf, size_t len, uint64_t done, uint64_t total, double seconds)
{
	char d[32], t[32], rate[32], left[48] = "";

	if (done && seconds > 1)
		snprintf(left, sizeof(left), ", %.0f s left", seconds / (double)done * (double)(total - done));
	if (!now.bytes) {
		snprintf(buf, len, "%.0f s%s", seconds, left);
		return;
	}
	snprintf(buf, len, "%s of %s, %s/s%s", text_size((double)done, d, sizeof(d)),
	         text_size((double)total, t, sizeof(t)),
	         text_size(seconds > 0 ? (double)done / seconds : 0, rate, sizeof(rate)), left);
}

static void draw_bar(double part, const char *text)
{
	struct winsize size = {.ws_col = 80};
	char bar[64];
	int room, full;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || !size.ws_col)
		size.ws_col = 80;
	room = size.ws_col - (int)strlen(now.verb) - (int)strlen(text) - 12;
	room = room > 40 ? 40 : room;
	if (room < 5) {
		fprintf(stderr, "\r\033[K%s %3.0f%%", now.verb, part * 100);
		return;
	}
	full = (int)(part * room);
	memset(bar, '#', (size_t)full);
	memset(bar + full, '.', (size_t)(room - full));
	bar[room] = '\0';
	fprintf(stderr, "\r\033[K%s %3.0f%% [%s] %s", now.verb, part * 100, bar, text);
}

static void draw(void)
{
	uint64_t total = atomic_load(&now.total), done = atomic_load(&now.done);
	double part, seconds = (double)(clock_monotonic_ns() - now.started) / 1e9;
	char text[160];

	done = done > total ? total : done;
	part = total ? (double)done / (double)total : 1;
	amounts(text, sizeof(text), done, total, seconds);
	pthread_mutex_lock(&screen);
	if (now.bar)
		draw_bar(part, text);
	else
		fprintf(stderr, "%s: %.1f%%, %s\n", now.verb, part * 100, text);
	fflush(stderr);
	now.shown = true;
	pthread_mutex_unlock(&screen);
}

void progress_show(void)
{
	uint64_t time = clock_monotonic_ns();

	if (!now.verb || time - now.last < NSEC_PER_SEC / (now.bar ? 10 : 1))
		return;
	now.last = time;
	draw();
}

void progress_hide(void)
{
	pthread_mutex_lock(&screen);
	if (now.verb && now.bar && now.shown) {
		fputs("\r\033[K", stderr);
		now.shown = false;
	}
	pthread_mutex_unlock(&screen);
}

void progress_end(void)
{
	if (now.verb && !now.bar && !tool_stopped())
		draw();
	progress_hide();
	now.verb = NULL;
}

static int step(void *ctx, uint64_t done, uint64_t total)
{
	(void)ctx;
	atomic_store(&now.done, done);
	atomic_store(&now.total, total);
	progress_show();
	return tool_stopped();
}

static void note(void *ctx, int severity, const char *text)
{
	(void)ctx;
	if (severity <= RD_LOG_WARN)
		tool_fail("%s", text);
	else
		tool_note("%s", text);
}

const struct rd_progress progress_driver = {.step = step, .note = note};
