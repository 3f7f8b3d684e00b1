/*
 * redo.h - the redo log behind struct rd_host: changes of metadata that are not yet in the image
 *
 * A file per open image in a directory on tmpfs. It outlives the process, so that a write can be
 * acknowledged before its metadata is written in a safe order; it does not outlive the machine, for
 * which drivers have their order of writes. driver.h ("The redo log") says what a driver may expect.
 *
 * Errors are -errno. The directory is set on the main thread before there are others; recover, create
 * and close on control threads; append, switch and cut on any thread, and they never block.
 */
#ifndef RD_REDO_H
#define RD_REDO_H

#include "io.h"

#include <stdbool.h>

#define REDO_DEFAULT_DIR "/run/ringdisk/redo"

/*
 * Make the directory (its parent, too) and have new logs there. Copied. NULL, as at the start: no new
 * logs; those that others may have left are looked for in REDO_DEFAULT_DIR. Logs the reason of a failure.
 */
int redo_set_dir(const char *dir);
/* A tool: no new logs, but look for old ones there. */
int redo_look_in(const char *dir);

/*
 * Returns the number of records that were replayed; 0: there was nothing to do; -EUCLEAN: there is a log
 * that does not fit, or that would be needed and cannot be replayed because the file is read-only. Then,
 * and with any other -errno, err says why (a line that names image and log). Nothing has been changed
 * unless reading or writing the image failed; doing it again is right then.
 */
int redo_recover(struct rd_file *file, uint64_t generation, char *err, size_t errlen);

/* -EOPNOTSUPP: no directory for logs here. room: bytes in the two halves together. */
int redo_create(struct rd_file *file, uint64_t generation, size_t room, struct rd_redo **redo,
		char *err, size_t errlen);
int redo_append(struct rd_redo *redo, unsigned order, uint64_t offset, const void *before,
		const void *after, size_t len);
int redo_switch(struct rd_redo *redo);
void redo_cut(struct rd_redo *redo);
/* Accepts NULL. */
void redo_close(struct rd_redo *redo, int clean);

#endif
