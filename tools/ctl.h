/*
 * The command `ringdisk`: what ctl.c (options, errors, waiting) gives to the verbs, one file each.
 * Exit statuses are documented in ringdisk(8).
 */
#ifndef CTL_H
#define CTL_H

#include <jansson.h>
#include <stdbool.h>

#include "verbs.h"

enum ctl_exit {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_NO_DAEMON = 3,
	EXIT_NO_DISK = 4,
	EXIT_TIMEOUT = 5,
	EXIT_DENIED = 6,
	EXIT_STATE = 7,
};

extern const struct verb ctl_export, ctl_unexport;
extern const struct verb ctl_list, ctl_stats, ctl_attach, ctl_detach, ctl_pause, ctl_unpause, ctl_set,
	ctl_snapshot, ctl_swap, ctl_resize, ctl_flush, ctl_events, ctl_metrics, ctl_top, ctl_trace, ctl_check, ctl_save, ctl_load,
	ctl_completion, ctl_doctor, ctl_drivers, ctl_config, ctl_log_level, ctl_version, ctl_shutdown;

/* What all of it is made of. */
extern const struct program ctl_program;

/* --json was given: print the result as it is, and no tables. */
extern bool ctl_json;

/*
 * Ask the daemon. params is stolen. On success *result is the caller's. Otherwise the reason has been printed
 * with what to do about it, and the verb returns the status that it gets.
 */
enum ctl_exit ctl_ask(const char *method, json_t *params, json_t **result);
/* The same for what may take long: on a terminal it shows what is waited for. */
enum ctl_exit ctl_ask_slow(const char *method, json_t *params, const char *disk, json_t **result);

/* The daemon's socket, by default or as the command line says. */
const char *ctl_socket(void);

/* Ask, and print the result with --json, or else fmt (none if NULL) with the disk's name. */
enum ctl_exit ctl_do(const char *method, json_t *params, const char *disk, const char *done);

void ctl_print_json(json_t *value);
/* The same on one line, and out at once: for what comes again and again. */
void ctl_print_line(json_t *value);

/* Ask for events (or what comes in their way), and call each for every one, until it returns false or the daemon is
 * gone. */
enum ctl_exit ctl_follow(const char *method, json_t *params, bool (*each)(json_t *event));

/* Members of objects; "" and 0 if they are not there. */
const char *get_text(json_t *object, const char *key);
long long get_number(json_t *object, const char *key);
bool get_bool(json_t *object, const char *key);

#endif
