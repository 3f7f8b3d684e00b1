/*
 * io-opener.h - a small process that keeps root's rights and opens images for a daemon without them
 *
 * It opens regular files and block devices below the directories that the configuration names, and nothing
 * else: whatever has become of the daemon, these are the files that it can reach.
 *
 * Started by the main thread before there are others; used by any thread.
 */
#ifndef RD_IO_OPENER_H
#define RD_IO_OPENER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/*
 * Fork it: dirs are absolute paths with ':' between them, as are more (NULL: none), both copied; key is the
 * name of the option that dirs is from, for messages. It ends when the caller does. 0 or -errno.
 */
int opener_start(const char *key, const char *dirs, const char *more);
/* Whether there is one: then the functions below are the only way to open. */
bool opener_is_used(void);
/* Its process, 0: none. */
pid_t opener_pid(void);
/* For tests: forget it (it ends). */
void opener_stop(void);

/*
 * Open a regular file or block device: a descriptor, or -errno, then with a reason in why, or "" where the
 * errno says it all. mode: as open(2)'s, out of O_RDONLY, O_RDWR, O_DIRECT, and O_EXCL, which counts for block
 * devices only. found >= 0 (stays the caller's): path is only where to look for the very file that this is.
 */
int opener_open(const char *path, int found, int mode, char *why, size_t len);
/* An O_PATH descriptor of what rest ("": dir itself) names below dir, or -errno (-EXDEV: it leads out of dir). */
int opener_find(const char *dir, const char *rest);
/* Make a file that is not there yet: a descriptor for writing, or -errno. */
int opener_create(const char *path, char *why, size_t len);
/* Remove the file that path names if it is the one that fd, open for writing, is. 0 or -errno. */
int opener_remove(const char *path, int fd);
/* fsync a directory: the names in it are durable. 0 or -errno. */
int opener_sync(const char *dir);

#endif
