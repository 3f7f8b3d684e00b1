/*
 * Threads: named, so that top -H, gdb and the log agree, and with all signals blocked, so that signals
 * are the main thread's business alone.
 */
#ifndef RD_THREAD_H
#define RD_THREAD_H

#include <pthread.h>

/* The kernel's limit, without the final 0. */
#define THREAD_NAME_MAX 15

/*
 * Start @fn(@arg) on a new joinable thread named @name, copied and cut at THREAD_NAME_MAX bytes. 0 or
 * -errno (then no thread was started and *@thread is not set; @arg stays the caller's). Any thread may call.
 */
int thread_start(pthread_t *thread, const char *name, void *(*fn)(void *), void *arg);

/* Name the calling thread, for the log only if @log_only (the main thread keeps the program's name). */
void thread_set_name(const char *name, int log_only);

#endif
