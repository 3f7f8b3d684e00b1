/*
 * Locals that are released when they go out of scope:
 *
 *	CLEANUP_FREE char *line = NULL;
 *	CLEANUP_CLOSE int fd = -1;
 *
 * Always initialise them. To hand one on, return take_ptr(&line) or take_fd(&fd). errno is kept.
 */
#ifndef RD_BASE_CLEANUP_H
#define RD_BASE_CLEANUP_H

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_(void *p)
{
	int saved = errno;

	free(*(void **)p);
	errno = saved;
}

static inline void cleanup_close_(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved;
}

#define CLEANUP_FREE  __attribute__((cleanup(cleanup_free_)))
#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_close_)))

/* The value of the variable, which is emptied: the caller owns what it held. */
#define take_ptr(p)                                                                                \
	({                                                                                         \
		__typeof__(*(p)) taken_ = *(p);                                                    \
		*(p) = NULL;                                                                       \
		taken_;                                                                            \
	})

static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

#endif
