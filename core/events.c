/*
 * events.c - what happens to disks, told as it happens
 *
 * The lock is held for the copy of one event.  Nothing here can fail.
 */
#include "events.h"

#include "lock.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

static struct {
	pthread_once_t once;
	struct rd_lock lock; /* leaf */
	/* under lock */
	uint64_t next;       /* number of the next one */
	void (*listener)(void);
	struct event kept[EVENTS_KEPT]; /* number % EVENTS_KEPT */
} ev = {.once = PTHREAD_ONCE_INIT};

static void init(void)
{
	lock_init(&ev.lock, RANK_LEAF, "events");
}

const char *event_name(enum event_type type)
{
	static const char *const name[EVENT_TYPES] = {
		[EVENT_ATTACH] = "attach",   [EVENT_DETACH] = "detach",
		[EVENT_CONNECT] = "connect", [EVENT_DISCONNECT] = "disconnect",
		[EVENT_PAUSE] = "pause",     [EVENT_UNPAUSE] = "unpause",
		[EVENT_RESIZE] = "resize",   [EVENT_ERROR] = "error",
		[EVENT_WAIT] = "wait",       [EVENT_GAVE_UP] = "gave-up",
		[EVENT_SLOW] = "slow",       [EVENT_IMAGE] = "image",
		[EVENT_CLIENT] = "client",   [EVENT_CLIENT_GONE] = "client-gone",
	};

	return name[type];
}

void event_emit(enum event_type type, const char *disk, uint64_t value, const char *fmt, ...)
{
	struct event event = {.type = type, .value = value};
	va_list ap;

	pthread_once(&ev.once, init);
	clock_gettime(CLOCK_REALTIME, &event.time);
	snprintf(event.disk, sizeof event.disk, "%s", disk);
	va_start(ap, fmt);
	vsnprintf(event.text, sizeof event.text, fmt, ap);
	va_end(ap);
	LOCK_SCOPE(&ev.lock);
	event.number = ev.next++;
	ev.kept[event.number % EVENTS_KEPT] = event;
	if (ev.listener)
		ev.listener();
}

uint64_t event_next(void)
{
	pthread_once(&ev.once, init);
	LOCK_SCOPE(&ev.lock);
	return ev.next;
}

bool event_read(uint64_t *at, struct event *event, uint64_t *lost)
{
	uint64_t oldest;

	pthread_once(&ev.once, init);
	LOCK_SCOPE(&ev.lock);
	oldest = ev.next > EVENTS_KEPT ? ev.next - EVENTS_KEPT : 0;
	if (*at < oldest) {
		*lost += oldest - *at;
		*at = oldest;
	}
	if (*at >= ev.next)
		return false;
	*event = ev.kept[*at % EVENTS_KEPT];
	(*at)++;
	return true;
}

void event_listen(void (*fn)(void))
{
	pthread_once(&ev.once, init);
	LOCK_SCOPE(&ev.lock);
	ev.listener = fn;
}
