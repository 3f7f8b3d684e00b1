/*
 * The log. A line is put together on the caller's stack, without a lock, and handed to the sink under
 * one mutex, so that lines of different threads do not mix. The usual call of a disabled message is one
 * relaxed load.
 *
 * What can go wrong: the sink cannot be written (a full pipe, a closed stderr). The line is then lost:
 * nothing in the daemon waits for its log or fails because of it. Text may come from a guest or an
 * image, so that control characters are replaced: nobody forges a line or drives a terminal.
 *
 * Any thread runs this.
 */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"

#define LINE_MAX_BYTES 1024

static const struct {
	const char *name;
	int priority;
} levels[] = {
	[LOG_LVL_ERR] = { "err", LOG_ERR },
	[LOG_LVL_WARN] = { "warn", LOG_WARNING },
	[LOG_LVL_INFO] = { "info", LOG_INFO },
	[LOG_LVL_DEBUG] = { "debug", LOG_DEBUG },
};

static const char *const subsystems[LOG_SUBSYS_COUNT] = {
	[LOG_MAIN] = "main",     [LOG_CONFIG] = "config", [LOG_ADMIN] = "admin",
	[LOG_XENBUS] = "xenbus", [LOG_DEVICE] = "device", [LOG_POLLER] = "poller",
	[LOG_EXEC] = "exec",     [LOG_IMAGE] = "image",   [LOG_DRIVER] = "driver",
	[LOG_POOL] = "pool",     [LOG_RING] = "ring",     [LOG_GRANTS] = "grants",
	[LOG_IO] = "io",         [LOG_HYP] = "hyp",       [LOG_NBD] = "nbd",
	[LOG_TEST] = "test",
};

_Atomic unsigned char log_levels_[LOG_SUBSYS_COUNT] = {
	[0 ... LOG_SUBSYS_COUNT - 1] = LOG_LVL_INFO,
};

/* Rank LOG, the last: see lock.h, which cannot be used here because it may itself log. */
static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sink {
	enum log_sink kind;
	bool priorities; /* stderr: begin lines with <N> */
	log_callback *callback;
	void *opaque;
	log_send *send;
} sink; /* under sink_lock */

static _Thread_local char prefix[LOG_PREFIX_MAX];
static _Thread_local const char *driver_name;
static _Thread_local char thread_name[LOG_THREAD_NAME_MAX];

/* JOURNAL_STREAM names the device and inode of the stream that leads to the journal (systemd.exec). */
bool log_stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	if (!stream || sscanf(stream, "%llu:%llu", &dev, &ino) != 2 || fstat(STDERR_FILENO, &st))
		return false;
	return st.st_dev == dev && st.st_ino == ino;
}

static void set_sink(struct sink next)
{
	pthread_mutex_lock(&sink_lock);
	sink = next;
	pthread_mutex_unlock(&sink_lock);
}

void log_to_stderr(void)
{
	set_sink((struct sink){ .kind = LOG_SINK_STDERR, .priorities = log_stderr_is_journal() });
}

void log_to_journal(log_send *send)
{
	set_sink((struct sink){
		.kind = LOG_SINK_JOURNAL, .priorities = log_stderr_is_journal(), .send = send });
}

void log_to_syslog(const char *ident)
{
	openlog(ident, LOG_PID | LOG_NDELAY, LOG_DAEMON);
	set_sink((struct sink){ .kind = LOG_SINK_SYSLOG });
}

void log_to_callback(log_callback *fn, void *opaque)
{
	if (fn)
		set_sink((struct sink){ .kind = LOG_SINK_CALLBACK, .callback = fn, .opaque = opaque });
	else
		log_to_stderr();
}

void log_set_level(enum log_subsys subsys, enum log_level level)
{
	atomic_store_explicit(&log_levels_[subsys], (unsigned char)level, memory_order_relaxed);
}

void log_set_level_all(enum log_level level)
{
	for (int i = 0; i < LOG_SUBSYS_COUNT; i++)
		log_set_level((enum log_subsys)i, level);
}

enum log_level log_get_level(enum log_subsys subsys)
{
	return (enum log_level)atomic_load_explicit(&log_levels_[subsys], memory_order_relaxed);
}

const char *log_subsys_name(enum log_subsys subsys)
{
	return subsystems[subsys];
}

const char *log_level_name(enum log_level level)
{
	return levels[level].name;
}

int log_subsys_by_name(const char *name)
{
	for (int i = 0; i < LOG_SUBSYS_COUNT; i++)
		if (!strcmp(subsystems[i], name))
			return i;
	return -EINVAL;
}

int log_level_by_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
		if (!strcmp(levels[i].name, name))
			return (int)i;
	return -EINVAL;
}

void log_set_prefix(const char *text)
{
	snprintf(prefix, sizeof(prefix), "%s", text ? text : "");
	driver_name = NULL;
}

const char *log_prefix(void)
{
	return prefix;
}

void log_set_driver(const char *driver)
{
	driver_name = driver;
}

const char *log_driver(void)
{
	return driver_name ? driver_name : "";
}

struct log_was log_enter(const char *disk, const char *driver)
{
	struct log_was was = { .prefix = prefix[0], .driver = driver_name };

	if (!was.prefix)
		log_set_prefix(disk);
	driver_name = driver;
	return was;
}

void log_leave(struct log_was was)
{
	if (!was.prefix)
		log_set_prefix(NULL);
	driver_name = was.driver;
}

void log_set_thread_name(const char *name)
{
	snprintf(thread_name, sizeof(thread_name), "%s", name ? name : "");
}

const char *log_thread_name(void)
{
	return thread_name;
}

static void replace_controls(char *line)
{
	for (unsigned char *c = (unsigned char *)line; *c; c++)
		if (*c < ' ' || *c == 0x7f)
			*c = *c == '\t' ? ' ' : '?';
}

/* "[thread] prefix: level: text"; what is empty is left out. Returns the length, at most size - 1. */
__attribute__((format(printf, 4, 0))) static size_t
format_line(char *line, size_t size, enum log_level level, const char *fmt, va_list ap)
{
	size_t len = 0;
	int n = snprintf(line, size, "%s%s%s%s%s%s", thread_name[0] ? "[" : "", thread_name,
			 thread_name[0] ? "] " : "", prefix, prefix[0] ? ": " : "",
			 level == LOG_LVL_ERR    ? "error: "
			 : level == LOG_LVL_WARN ? "warning: "
						 : "");

	if (n > 0)
		len = MIN((size_t)n, size - 1);
	n = vsnprintf(line + len, size - len, fmt, ap);
	if (n > 0)
		len = MIN(len + (size_t)n, size - 1);
	replace_controls(line);
	return len;
}

/* One write per line, so that lines of several processes on one stderr do not mix either. */
static void write_stderr(enum log_level level, char *line, size_t len)
{
	char out[LINE_MAX_BYTES + 8];
	int n = sink.priorities ? snprintf(out, sizeof(out), "<%d>", levels[level].priority) : 0;

	memcpy(out + n, line, len);
	out[(size_t)n + len] = '\n';
	if (write(STDERR_FILENO, out, (size_t)n + len + 1) < 0)
		return; /* nobody left to tell */
}

static bool send_journal(enum log_level level, enum log_subsys subsys, const char *line)
{
	const struct log_record record = {
		.level = level,
		.subsys = subsys,
		.priority = levels[level].priority,
		.line = line,
		.disk = prefix,
		.driver = log_driver(),
	};

	return sink.send(&record);
}

static _Thread_local bool muted;

void log_mute(bool mute)
{
	muted = mute;
}

void log_line(enum log_subsys subsys, enum log_level level, const char *fmt, ...)
{
	int saved = errno;
	char line[LINE_MAX_BYTES];
	va_list ap;
	size_t len;

	if (muted)
		return;
	va_start(ap, fmt);
	errno = saved; /* for %m */
	len = format_line(line, sizeof(line), level, fmt, ap);
	va_end(ap);

	pthread_mutex_lock(&sink_lock);
	switch (sink.kind) {
	case LOG_SINK_STDERR:
		write_stderr(level, line, len);
		break;
	case LOG_SINK_SYSLOG:
		syslog(levels[level].priority, "%s", line);
		break;
	case LOG_SINK_CALLBACK:
		sink.callback(sink.opaque, level, subsys, line);
		break;
	case LOG_SINK_JOURNAL:
		if (!send_journal(level, subsys, line))
			write_stderr(level, line, len);
		break;
	}
	pthread_mutex_unlock(&sink_lock);
	errno = saved;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void log_limit_init(struct log_limit *limit, unsigned int burst, unsigned int interval_ms)
{
	*limit = (struct log_limit)LOG_LIMIT_INIT(burst, interval_ms);
}

bool log_limit_pass(struct log_limit *limit, uint64_t *dropped)
{
	int saved = errno;
	uint64_t now = now_ms();
	bool pass;

	*dropped = 0;
	pthread_mutex_lock(&limit->lock);
	if (!limit->window_start_ms || now - limit->window_start_ms >= limit->interval_ms) {
		limit->window_start_ms = now;
		limit->used = 0;
	}
	pass = limit->used < limit->burst;
	if (pass) {
		limit->used++;
		*dropped = limit->dropped;
		limit->dropped = 0;
	} else {
		limit->dropped++;
	}
	pthread_mutex_unlock(&limit->lock);
	errno = saved;
	return pass;
}

uint64_t log_limit_dropped(struct log_limit *limit)
{
	uint64_t n;

	pthread_mutex_lock(&limit->lock);
	n = limit->dropped;
	pthread_mutex_unlock(&limit->lock);
	return n;
}
