/* thread.h: the name reaches the kernel and the log, signals are blocked, the caller's mask is kept. */
#include "test.h"

#include <signal.h>
#include <string.h>

#include "log.h"
#include "thread.h"

struct seen {
	char kernel_name[32];
	char log_name[32];
	int blocked;
};

static void *look_around(void *arg)
{
	struct seen *seen = arg;
	sigset_t mask;

	pthread_getname_np(pthread_self(), seen->kernel_name, sizeof(seen->kernel_name));
	strncpy(seen->log_name, log_thread_name(), sizeof(seen->log_name) - 1);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	seen->blocked = sigismember(&mask, SIGTERM) && sigismember(&mask, SIGUSR1);
	return seen;
}

static void run(const char *name, struct seen *seen)
{
	pthread_t thread;
	void *result;

	memset(seen, 0, sizeof(*seen));
	assert_int_equal(thread_start(&thread, name, look_around, seen), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_ptr_equal(result, seen);
}

static void name_is_everywhere(void **state)
{
	struct seen seen;

	(void)state;
	run("5/xvda", &seen);
	assert_string_equal(seen.kernel_name, "5/xvda");
	assert_string_equal(seen.log_name, "5/xvda");
}

static void long_name_is_cut(void **state)
{
	struct seen seen;

	(void)state;
	run("0123456789abcdefgh", &seen);
	assert_string_equal(seen.kernel_name, "0123456789abcde");
	assert_string_equal(seen.log_name, "0123456789abcde");
}

static void signals_are_blocked_there_only(void **state)
{
	struct seen seen;
	sigset_t before, after;

	(void)state;
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	run("t", &seen);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	assert_int_equal(seen.blocked, 1);
	assert_false(sigismember(&before, SIGTERM));
	assert_false(sigismember(&after, SIGTERM));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(name_is_everywhere),
		cmocka_unit_test(long_name_is_cut),
		cmocka_unit_test(signals_are_blocked_there_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
