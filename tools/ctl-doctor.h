/*
 * ctl-doctor.h - what the parts of ringdisk doctor share: findings, and files below --root
 */
#ifndef RD_CTL_DOCTOR_H
#define RD_CTL_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

enum doctor_state { FINE, NOTE, PROBLEM };

/* fix: what to do, or NULL. */
void doctor_say(enum doctor_state state, const char *what, const char *fix, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* The path below --root, in buf. */
const char *doctor_path(const char *path, char *buf, size_t len);

/* Guests whose raw files xl gives to the kernel's blkback: those of /etc/xen and those that run. */
void doctor_guests(void);

#endif
