/*
 * main-user.h - from root to the user that serves
 *
 * The main thread, before there are others.
 */
#ifndef RD_MAIN_USER_H
#define RD_MAIN_USER_H

struct config;

/*
 * If we are root and the configuration names a user: see to the runtime directory, start the process that opens
 * images (io-opener.h), and become that user, without any capability. 0, also when there is nothing to do;
 * -errno: the reason has been logged, and we must not go on.
 */
int user_switch(const struct config *config);

#endif
