/*
 * main-journal.h - the log as systemd's journal has it: each message with fields to select by
 */
#ifndef RD_MAIN_JOURNAL_H
#define RD_MAIN_JOURNAL_H

/* Log there from now on. -ENOTSUP: built without; another -errno: there is no journal. The log is as it was then.
 * The main thread. */
int journal_open(void);

#endif
