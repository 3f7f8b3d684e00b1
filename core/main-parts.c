/*
 * What the daemon is made of, in the order in which each part needs those before it. If one does not
 * start, those that did are stopped in reverse, as at the end.
 */
#include "main-parts.h"

#include "base/bytes.h"
#include "log.h"
#include "pool.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CONTROL_THREADS 64u /* bound of the pool that opens and closes images */

struct part {
	const char *name;
	int (*start)(struct parts *parts);
	void (*stop)(struct parts *parts); /* NULL: nothing to do */
};

static int start_pools(struct parts *p)
{
	int err = pool_create("w", p->config->workers, p->config->max_workers, &p->workers);

	if (err)
		return err;
	err = pool_create("c", 2, CONTROL_THREADS, &p->control);
	if (err)
		pool_destroy(p->workers);
	return err;
}

static void stop_pools(struct parts *p)
{
	pool_destroy(p->control);
	pool_destroy(p->workers);
}

static int start_pid_file(struct parts *p)
{
	const char *path = p->config->pid_file;
	FILE *file;
	int err = 0;

	if (!path)
		return 0;
	file = fopen(path, "we");
	if (!file || fprintf(file, "%d\n", (int)getpid()) < 0)
		err = -errno;
	if (file && fclose(file))
		err = -errno;
	if (err)
		log_err(LOG_MAIN, "%s: %s", path, strerror(-err));
	return err;
}

static void stop_pid_file(struct parts *p)
{
	if (p->config->pid_file)
		unlink(p->config->pid_file);
}

static const struct part table[] = {
	{ "the threads", start_pools, stop_pools },
	{ "the pid file", start_pid_file, stop_pid_file },
};

static void stop_from(struct parts *parts, size_t count)
{
	while (count--) {
		if (table[count].stop)
			table[count].stop(parts);
	}
}

int parts_start(struct parts *parts)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		int err = table[i].start(parts);

		if (err) {
			log_err(LOG_MAIN, "cannot start %s: %s", table[i].name, strerror(-err));
			stop_from(parts, i);
			return err;
		}
	}
	return 0;
}

void parts_stop(struct parts *parts)
{
	stop_from(parts, ARRAY_SIZE(table));
}
