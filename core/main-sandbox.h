/*
 * main-sandbox.h - what the daemon could do and never does is taken away: system calls (seccomp) and files
 * (Landlock)
 *
 * The main thread, before there are others.
 */
#ifndef RD_MAIN_SANDBOX_H
#define RD_MAIN_SANDBOX_H

struct config;

/* If the configuration wants it, or by default after user_switch() has changed the user. 0; -errno: what was
 * demanded (sandbox=on) cannot be had, the reason has been logged. */
int sandbox_enter(const struct config *config);

#endif
