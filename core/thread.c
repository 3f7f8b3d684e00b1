/*
 * Starting threads. The creator blocks all signals around pthread_create(), since a new thread inherits
 * the mask: there is no moment in which it could run a handler. The new thread names itself first and
 * then calls its function.
 *
 * What can go wrong: no memory or no more threads allowed; the caller gets -errno and keeps everything.
 */
#include "thread.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"

struct start {
	void *(*fn)(void *);
	void *arg;
	char name[THREAD_NAME_MAX + 1];
};

void thread_set_name(const char *name, int log_only)
{
	char cut[THREAD_NAME_MAX + 1];

	snprintf(cut, sizeof(cut), "%s", name);
	log_set_thread_name(cut);
	if (!log_only)
		pthread_setname_np(pthread_self(), cut);
}

/* Owns @opaque, a struct start. */
static void *thread_main(void *opaque)
{
	struct start start = *(struct start *)opaque;

	free(opaque);
	thread_set_name(start.name, 0);
	return start.fn(start.arg);
}

int thread_start(pthread_t *thread, const char *name, void *(*fn)(void *), void *arg)
{
	struct start *start = malloc(sizeof(*start));
	sigset_t all, saved;
	int err;

	if (!start)
		return -ENOMEM;
	start->fn = fn;
	start->arg = arg;
	snprintf(start->name, sizeof(start->name), "%s", name);

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	err = pthread_create(thread, NULL, thread_main, start);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (err)
		free(start);
	return -err;
}
