/* base/cleanup.h: scope end closes and frees, taking prevents it, errno stays. */
#include "test.h"

#include <fcntl.h>

#include "base/cleanup.h"

static int open_null(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void scope_end_closes(void **state)
{
	int number;

	(void)state;
	{
		CLEANUP_CLOSE int fd = open_null();

		number = fd;
	}
	assert_int_equal(fcntl(number, F_GETFD), -1);
	assert_int_equal(errno, EBADF);
}

static int open_and_hand_on(void)
{
	CLEANUP_CLOSE int fd = open_null();

	return take_fd(&fd);
}

static void taken_descriptor_stays_open(void **state)
{
	int fd = open_and_hand_on();

	(void)state;
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);
}

/* A leak or a double free here is the sanitizer's to find. */
static char *allocate_and_hand_on(void)
{
	CLEANUP_FREE char *freed = malloc(10);
	CLEANUP_FREE char *kept = calloc(1, 10);

	assert_non_null(freed);
	return take_ptr(&kept);
}

static void taken_memory_stays_valid(void **state)
{
	char *p = allocate_and_hand_on();

	(void)state;
	assert_non_null(p);
	assert_int_equal(p[9], 0);
	free(p);
}

static void errno_is_kept(void **state)
{
	(void)state;
	errno = ENOSPC;
	{
		CLEANUP_CLOSE int bad = 1 << 20; /* close() fails with EBADF */

		(void)bad;
	}
	assert_int_equal(errno, ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(scope_end_closes),
		cmocka_unit_test(taken_descriptor_stays_open),
		cmocka_unit_test(taken_memory_stays_valid),
		cmocka_unit_test(errno_is_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
