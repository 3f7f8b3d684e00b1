/*
 * events.h - what happens to disks, told as it happens
 *
 * One ring of the last EVENTS_KEPT events, with numbers; whoever follows them remembers the number that it
 * wants next.  So a reader costs nothing, is never waited for, and one that is too slow finds that events are
 * missing, and how many.
 *
 * Any thread; no ranked leaf lock may be held.
 */
#ifndef RD_EVENTS_H
#define RD_EVENTS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define EVENTS_KEPT 512u

enum event_type {
	EVENT_ATTACH,     /* the disk is there */
	EVENT_DETACH,
	EVENT_CONNECT,    /* a guest uses it */
	EVENT_DISCONNECT,
	EVENT_PAUSE,      /* by the operator */
	EVENT_UNPAUSE,
	EVENT_RESIZE,
	EVENT_ERROR,      /* something did not work; the text says what */
	EVENT_WAIT,       /* requests wait for the operator */
	EVENT_GAVE_UP,    /* they have been answered with errors */
	EVENT_IMAGE,      /* it has another image, which the text names */
	EVENT_SLOW,       /* a request took longer than the setting `slow` */
	EVENT_CLIENT,     /* an NBD client uses the disk; the text says who */
	EVENT_CLIENT_GONE,
	EVENT_TYPES
};

struct event {
	uint64_t number;
	struct timespec time; /* CLOCK_REALTIME */
	enum event_type type;
	uint64_t value;       /* RESIZE: bytes; SLOW: ns; else 0 */
	char disk[24];        /* "5/xvda" */
	char text[256];
};

const char *event_name(enum event_type type); /* "attach" */

void event_emit(enum event_type type, const char *disk, uint64_t value, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* The number of the event that comes next. */
uint64_t event_next(void);
/* The event with number *at, or the oldest that is still there, into *event; *at is then the number behind it,
 * and *lost has grown by those that were not there any more.  False: there is none yet. */
bool event_read(uint64_t *at, struct event *event, uint64_t *lost);

/* Call fn after each event; under a leaf lock, so it must be short and take none.  NULL: nobody follows. */
void event_listen(void (*fn)(void));

#endif
