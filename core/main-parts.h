/*
 * main-parts.h - the parts of the daemon, started in order and stopped in reverse
 *
 * The main thread only.
 */
#ifndef RD_MAIN_PARTS_H
#define RD_MAIN_PARTS_H

#include "config.h"

#include <stdbool.h>

struct hyp;
struct pool;

struct parts {
	/* set by the caller, who keeps them */
	const struct config *config;
	void (*shutdown)(void); /* for the admin socket; any thread */
	/* the parts' own */
	struct hyp *hyp;
	struct pool *workers, *control;
	bool stuck; /* a driver call does not return: what it uses cannot be taken down */
};

/* 0, or -errno: the reason has been logged and nothing is left running. */
int parts_start(struct parts *parts);
void parts_stop(struct parts *parts);

/* New rules for the settings of disks: for those that come and those that are there. The caller keeps rules. */
void parts_reload(struct parts *parts, struct settings_rules *rules);

/* For the watchdog: false if nobody looks after the pools. It takes the locks that everything needs, so that
 * it does not return if one of them is never released. Waits for no disk. */
bool parts_healthy(struct parts *parts);

#endif
