/*
 * The log: four levels, a level per subsystem that can be changed at run time, and on every line the
 * thread's name and the disk it works for, so that no message needs to repeat them.
 *
 *	log_set_prefix("5/xvda");
 *	log_warn(LOG_POLLER, "producer index %u is out of range", prod);
 *
 * All functions may be called from any thread, keep errno, and take no lock but the log's own, the
 * last in the order. What a guest can cause goes through log_limited().
 */
#ifndef RD_LOG_H
#define RD_LOG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Values and names: someone should act; odd but handled; life events; details, off by default. */
enum log_level { LOG_LVL_ERR, LOG_LVL_WARN, LOG_LVL_INFO, LOG_LVL_DEBUG };

/* Add a subsystem here; its name for `ringdisk log-level` is in log.c. */
enum log_subsys {
	LOG_MAIN,
	LOG_CONFIG,
	LOG_ADMIN,
	LOG_XENBUS,
	LOG_DEVICE,
	LOG_POLLER,
	LOG_EXEC,
	LOG_IMAGE,
	LOG_DRIVER,
	LOG_POOL,
	LOG_RING,
	LOG_GRANTS,
	LOG_IO,
	LOG_HYP,
	LOG_NBD,
	LOG_TEST,
	LOG_SUBSYS_COUNT
};

/* Where lines go. The default is stderr. */
enum log_sink { LOG_SINK_STDERR, LOG_SINK_SYSLOG, LOG_SINK_CALLBACK, LOG_SINK_JOURNAL };

/* Gets each finished line without its newline; called with the log's lock held: do not log in it. */
typedef void log_callback(void *opaque, enum log_level level, enum log_subsys subsys,
			  const char *line);

/* A message in parts, for where they are kept apart. */
struct log_record {
	enum log_level level;
	enum log_subsys subsys;
	int priority;       /* syslog(3)'s */
	const char *line;   /* as on stderr */
	const char *disk;   /* log_prefix() */
	const char *driver; /* log_driver() */
};
/* Called as log_callback is. False: it could not be sent, and goes to stderr. */
typedef bool log_send(const struct log_record *record);

/* stderr; under the journal each line begins with its <priority>. */
void log_to_stderr(void);
/* Is that a stream of the journal's (JOURNAL_STREAM is ours)? */
bool log_stderr_is_journal(void);
void log_to_journal(log_send *send);
/* syslog(3), facility daemon, with @ident, which must stay valid. */
void log_to_syslog(const char *ident);
/* For tests. NULL returns to stderr. */
void log_to_callback(log_callback *fn, void *opaque);

/* The level of one subsystem, or of all. The start is LOG_LVL_INFO. */
void log_set_level(enum log_subsys subsys, enum log_level level);
void log_set_level_all(enum log_level level);
enum log_level log_get_level(enum log_subsys subsys);

/* Names, for the admin socket. The lookups return -EINVAL for a name that is unknown. */
const char *log_subsys_name(enum log_subsys subsys);
const char *log_level_name(enum log_level level);
int log_subsys_by_name(const char *name);
int log_level_by_name(const char *name);

/* The disk this thread works for ("5/xvda"), copied, cut at LOG_PREFIX_MAX; NULL or "" for none. There is no
 * driver then, until it is set. */
#define LOG_PREFIX_MAX 48
void log_set_prefix(const char *prefix);
const char *log_prefix(void);

/* The driver of that disk's image; NULL for none. Not copied: a driver's name, which stays as long as there are
 * threads. In no line, as messages of drivers begin with it. */
void log_set_driver(const char *driver);
/* "" for none. */
const char *log_driver(void);

/* Around messages about an image: its driver, and its disk if this thread works for none. */
struct log_was {
	bool prefix;
	const char *driver;
};
struct log_was log_enter(const char *disk, const char *driver);
void log_leave(struct log_was was);

/* The name printed for this thread; thread_start() sets it. */
#define LOG_THREAD_NAME_MAX 16
void log_set_thread_name(const char *name);
const char *log_thread_name(void);

/* Nothing is logged by this thread while muted: for work that a guest can make us repeat, whose own messages
 * cannot know how often. */
void log_mute(bool mute);

extern _Atomic unsigned char log_levels_[LOG_SUBSYS_COUNT];

static inline bool log_enabled(enum log_subsys subsys, enum log_level level)
{
	return level <= atomic_load_explicit(&log_levels_[subsys], memory_order_relaxed);
}

/* Unconditional; use the macros. A line is cut at about 1000 bytes; control characters become '?'. */
void log_line(enum log_subsys subsys, enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define log_at(level, subsys, ...)                                                                 \
	do {                                                                                       \
		if (log_enabled(subsys, level))                                                    \
			log_line(subsys, level, __VA_ARGS__);                                      \
	} while (0)

#define log_err(subsys, ...)   log_at(LOG_LVL_ERR, subsys, __VA_ARGS__)
#define log_warn(subsys, ...)  log_at(LOG_LVL_WARN, subsys, __VA_ARGS__)
#define log_info(subsys, ...)  log_at(LOG_LVL_INFO, subsys, __VA_ARGS__)
#define log_debug(subsys, ...) log_at(LOG_LVL_DEBUG, subsys, __VA_ARGS__)

/*
 * A limit on the messages of one cause, usually a member of the device: at most @burst of them in
 * @interval_ms. The first message of a later interval says how many were dropped. Shared by threads.
 */
struct log_limit {
	unsigned int burst;       /* set before use */
	unsigned int interval_ms; /* set before use */
	pthread_mutex_t lock;     /* protects the rest; nothing is called under it */
	uint64_t window_start_ms;
	unsigned int used;
	uint64_t dropped;
};

#define LOG_LIMIT_INIT(burst_, interval_ms_)                                                       \
	{                                                                                          \
		.burst = (burst_), .interval_ms = (interval_ms_),                                  \
		.lock = PTHREAD_MUTEX_INITIALIZER                                                  \
	}

void log_limit_init(struct log_limit *limit, unsigned int burst, unsigned int interval_ms);
/* May a message go out now? If so, *@dropped is how many were swallowed since the last one. */
bool log_limit_pass(struct log_limit *limit, uint64_t *dropped);
/* Messages swallowed and not yet reported. */
uint64_t log_limit_dropped(struct log_limit *limit);

#define log_limited(limit, level, subsys, ...)                                                     \
	do {                                                                                       \
		uint64_t dropped_;                                                                 \
		if (log_enabled(subsys, level) && log_limit_pass(limit, &dropped_)) {              \
			if (dropped_)                                                              \
				log_line(subsys, level, "%llu messages dropped",                   \
					 (unsigned long long)dropped_);                            \
			log_line(subsys, level, __VA_ARGS__);                                      \
		}                                                                                  \
	} while (0)

#endif
