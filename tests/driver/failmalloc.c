/*
 * Preloaded by test-nomem.sh: allocation number $FAIL_NTH of the program fails. Counting begins with the
 * first call of fail_from_here(), so that what runs before main is left alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *mem, size_t size);
extern void *__libc_memalign(size_t align, size_t size);

static long left = -1; /* allocations that still work, -1: all */

void fail_from_here(void);
void fail_from_here(void)
{
	const char *nth = getenv("FAIL_NTH");

	left = nth ? atol(nth) : -1;
}

static int fails(void)
{
	if (left < 0 || --left >= 0)
		return 0;
	left = -1; /* this one only */
	errno = ENOMEM;
	return 1;
}

void *malloc(size_t size)
{
	return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *mem, size_t size)
{
	return fails() ? NULL : __libc_realloc(mem, size);
}

int posix_memalign(void **mem, size_t align, size_t size)
{
	if (fails())
		return ENOMEM;
	*mem = __libc_memalign(align, size);
	return *mem ? 0 : ENOMEM;
}
