/*
 * lock.h: mutual exclusion, scopes, conditions; and in debug builds, that a wrong order aborts. What
 * must abort runs in a child process.
 */
#include "test.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lock.h"
#include "thread.h"

static struct rd_lock low, high, shared;

static int setup(void **state)
{
	(void)state;
	lock_init(&low, RANK_DEVTAB, "low");
	lock_init(&high, RANK_RING, "high");
	lock_init(&shared, RANK_POOL, "shared");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	lock_destroy(&low);
	lock_destroy(&high);
	lock_destroy(&shared);
	return 0;
}

#define ROUNDS 20000
static int counter;

static void *count(void *arg)
{
	(void)arg;
	for (int i = 0; i < ROUNDS; i++) {
		LOCK_SCOPE(&shared);
		counter++;
	}
	return NULL;
}

static void excludes(void **state)
{
	pthread_t threads[4];

	(void)state;
	counter = 0;
	for (int i = 0; i < 4; i++)
		assert_int_equal(thread_start(&threads[i], "count", count, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(counter, 4 * ROUNDS);
}

static void rising_order_is_fine(void **state)
{
	(void)state;
	lock_acquire(&low);
	lock_acquire(&high);
	lock_assert_held(&low);
	lock_assert_held(&high);
	lock_release(&low); /* any order of release */
	lock_release(&high);
	lock_assert_none_held();
}

static void try_says_whether(void **state)
{
	(void)state;
	assert_int_equal(lock_try(&high), 1);
	assert_int_equal(lock_try(&high), 0);
	lock_release(&high);
}

static void scope_ends_with_its_block(void **state)
{
	(void)state;
	{
		LOCK_SCOPE(&low);
		LOCK_SCOPE(&high);
		assert_int_equal(lock_try(&high), 0);
	}
	assert_int_equal(lock_try(&high), 1);
	lock_release(&high);
}

static void wait_ends_at_its_deadline(void **state)
{
	pthread_cond_t cond;
	long long start = monotonic_ms();
	int err = 0;

	(void)state;
	cond_init_monotonic(&cond);
	lock_acquire(&low);
	while (err != -ETIMEDOUT) /* wake-ups for no reason are allowed */
		err = lock_wait_until(&cond, &low, start + 50);
	lock_assert_held(&low);
	lock_release(&low);
	assert_true(monotonic_ms() >= start + 50);
	pthread_cond_destroy(&cond);
}

#ifdef RD_DEBUG
/* 1 if @fn ends its process by abort(). */
static int aborts(void (*fn)(void))
{
	struct rlimit no_core = { 0, 0 };
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		signal(SIGABRT, SIG_DFL);
		setrlimit(RLIMIT_CORE, &no_core);
		close(STDERR_FILENO);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void falling_order(void)
{
	lock_acquire(&high);
	lock_acquire(&low);
}

static void same_twice(void)
{
	lock_acquire(&low);
	lock_acquire(&low);
}

static void release_of_anothers(void)
{
	lock_release(&low);
}

static void assert_without(void)
{
	lock_assert_held(&low);
}

static void block_with(void)
{
	lock_acquire(&low);
	lock_assert_none_held();
}

static void wait_with_two(void)
{
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

	lock_acquire(&low);
	lock_acquire(&high);
	lock_wait(&cond, &high);
}

static void nothing_wrong(void)
{
	lock_acquire(&low);
	lock_acquire(&high);
}

static void misuse_aborts(void **state)
{
	(void)state;
	assert_int_equal(aborts(falling_order), 1);
	assert_int_equal(aborts(same_twice), 1);
	assert_int_equal(aborts(release_of_anothers), 1);
	assert_int_equal(aborts(assert_without), 1);
	assert_int_equal(aborts(block_with), 1);
	assert_int_equal(aborts(wait_with_two), 1);
	assert_int_equal(aborts(nothing_wrong), 0);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(excludes, setup, teardown),
		cmocka_unit_test_setup_teardown(rising_order_is_fine, setup, teardown),
		cmocka_unit_test_setup_teardown(try_says_whether, setup, teardown),
		cmocka_unit_test_setup_teardown(scope_ends_with_its_block, setup, teardown),
		cmocka_unit_test_setup_teardown(wait_ends_at_its_deadline, setup, teardown),
#ifdef RD_DEBUG
		cmocka_unit_test_setup_teardown(misuse_aborts, setup, teardown),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
