/*
 * main-manager.h - what the service manager is told (sd_notify(3)), and its watchdog
 *
 * The main thread only.
 */
#ifndef RD_MAIN_MANAGER_H
#define RD_MAIN_MANAGER_H

/* "READY=1" and the like, one datagram to NOTIFY_SOCKET; nothing if there is none. */
void manager_tell(const char *text);

/* Milliseconds between two signs of life that the manager's watchdog (WATCHDOG_USEC) wants, a few of which may
 * be missed; 0: there is none, or it is another process's. */
unsigned manager_watchdog_ms(void);

#endif
