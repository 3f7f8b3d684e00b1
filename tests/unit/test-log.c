/* log.h: what a line looks like, levels, errno, hostile text, the rate limiter. */
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

static struct {
	char line[2048];
	enum log_level level;
	enum log_subsys subsys;
	int count;
} last;

static void remember(void *opaque, enum log_level level, enum log_subsys subsys, const char *line)
{
	assert_ptr_equal(opaque, &last);
	snprintf(last.line, sizeof(last.line), "%s", line);
	last.level = level;
	last.subsys = subsys;
	last.count++;
}

static int reset(void **state)
{
	(void)state;
	memset(&last, 0, sizeof(last));
	log_set_level_all(LOG_LVL_INFO);
	log_set_prefix(NULL);
	log_set_thread_name(NULL);
	log_to_callback(remember, &last);
	return 0;
}

static int back_to_stderr(void **state)
{
	(void)state;
	log_to_callback(NULL, NULL);
	return 0;
}

static void line_names_thread_and_disk(void **state)
{
	(void)state;
	log_set_thread_name("worker-1");
	log_set_prefix("5/xvda");
	log_warn(LOG_RING, "%d slots", 32);
	assert_string_equal(last.line, "[worker-1] 5/xvda: warning: 32 slots");
	assert_int_equal(last.level, LOG_LVL_WARN);
	assert_int_equal(last.subsys, LOG_RING);
	log_set_prefix("");
	log_set_thread_name("");
	log_info(LOG_RING, "plain");
	assert_string_equal(last.line, "plain");
}

static void level_is_per_subsystem(void **state)
{
	(void)state;
	log_debug(LOG_RING, "no");
	assert_int_equal(last.count, 0);
	log_set_level(LOG_RING, LOG_LVL_DEBUG);
	log_debug(LOG_RING, "yes");
	log_debug(LOG_POOL, "no");
	assert_string_equal(last.line, "yes");
	log_set_level_all(LOG_LVL_ERR);
	log_warn(LOG_RING, "no");
	assert_int_equal(last.count, 1);
	assert_int_equal(log_get_level(LOG_POOL), LOG_LVL_ERR);
}

static void names_are_found_again(void **state)
{
	(void)state;
	for (int i = 0; i < LOG_SUBSYS_COUNT; i++)
		assert_int_equal(log_subsys_by_name(log_subsys_name((enum log_subsys)i)), i);
	for (int i = LOG_LVL_ERR; i <= LOG_LVL_DEBUG; i++)
		assert_int_equal(log_level_by_name(log_level_name((enum log_level)i)), i);
	assert_int_equal(log_subsys_by_name("nonsense"), -EINVAL);
	assert_int_equal(log_level_by_name(""), -EINVAL);
}

static void errno_is_kept(void **state)
{
	(void)state;
	errno = ENOSPC;
	log_err(LOG_IO, "write: %m");
	assert_int_equal(errno, ENOSPC);
	assert_string_equal(last.line, "error: write: No space left on device");
}

static void controls_cannot_forge_a_line(void **state)
{
	(void)state;
	log_info(LOG_XENBUS, "%s", "a\nerror: b\x1b[2J\tc\x7f");
	assert_string_equal(last.line, "a?error: b?[2J c?");
}

static void long_line_is_cut(void **state)
{
	char text[3000];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	log_info(LOG_MAIN, "%s", text);
	assert_in_range(strlen(last.line), 900, 1100);
}

static void limit_counts_what_it_drops(void **state)
{
	struct log_limit limit = LOG_LIMIT_INIT(2, 3600 * 1000);

	(void)state;
	for (int i = 0; i < 10; i++)
		log_limited(&limit, LOG_LVL_WARN, LOG_RING, "message %d", i);
	assert_int_equal(last.count, 2);
	assert_string_equal(last.line, "warning: message 1");
	assert_int_equal(log_limit_dropped(&limit), 8);
}

/* The next interval begins when the clock says so, as here by moving the start back. */
static void limit_tells_how_many_were_dropped(void **state)
{
	struct log_limit limit;
	uint64_t dropped;

	(void)state;
	log_limit_init(&limit, 1, 1000);
	assert_true(log_limit_pass(&limit, &dropped));
	assert_int_equal(dropped, 0);
	assert_false(log_limit_pass(&limit, &dropped));
	assert_false(log_limit_pass(&limit, &dropped));
	limit.window_start_ms -= 1000;
	assert_true(log_limit_pass(&limit, &dropped));
	assert_int_equal(dropped, 2);
	assert_int_equal(log_limit_dropped(&limit), 0);
}

static void disabled_message_uses_no_budget(void **state)
{
	struct log_limit limit = LOG_LIMIT_INIT(1, 3600 * 1000);

	(void)state;
	log_limited(&limit, LOG_LVL_DEBUG, LOG_RING, "off");
	log_limited(&limit, LOG_LVL_WARN, LOG_RING, "on");
	assert_string_equal(last.line, "warning: on");
}

/* As the log is now, of a message of LOG_IMAGE. */
static void assert_on_stderr(const char *text, const char *line)
{
	char got[256] = "";
	int pipe_fds[2], saved = dup(STDERR_FILENO);

	assert_int_equal(pipe(pipe_fds), 0);
	dup2(pipe_fds[1], STDERR_FILENO);
	log_err(LOG_IMAGE, "%s", text);
	dup2(saved, STDERR_FILENO);
	assert_true(read(pipe_fds[0], got, sizeof(got) - 1) > 0);
	assert_string_equal(got, line);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	close(saved);
}

static void stderr_gets_one_line(void **state)
{
	(void)state;
	unsetenv("JOURNAL_STREAM");
	log_to_stderr();
	assert_on_stderr("to stderr", "error: to stderr\n");
}

static struct {
	char disk[LOG_PREFIX_MAX], driver[32], line[64];
	int priority;
	bool takes;
} sent;

static bool send_record(const struct log_record *record)
{
	assert_int_equal(record->subsys, LOG_IMAGE);
	snprintf(sent.disk, sizeof(sent.disk), "%s", record->disk);
	snprintf(sent.driver, sizeof(sent.driver), "%s", record->driver);
	snprintf(sent.line, sizeof(sent.line), "%s", record->line);
	sent.priority = record->priority;
	return sent.takes;
}

static void assert_sent(const char *disk, const char *driver, const char *line)
{
	log_err(LOG_IMAGE, "text");
	assert_string_equal(sent.disk, disk);
	assert_string_equal(sent.driver, driver);
	assert_string_equal(sent.line, line);
}

static void record_has_disk_and_driver(void **state)
{
	struct log_was outer, inner;

	(void)state;
	sent.takes = true;
	log_to_journal(send_record);
	assert_sent("", "", "error: text");
	assert_int_equal(sent.priority, 3);
	outer = log_enter("5/xvda", "qcow2");
	assert_sent("5/xvda", "qcow2", "5/xvda: error: text");
	inner = log_enter("6/xvda", "raw"); /* of the same disk, whatever it is called */
	assert_sent("5/xvda", "raw", "5/xvda: error: text");
	log_leave(inner);
	assert_sent("5/xvda", "qcow2", "5/xvda: error: text");
	log_leave(outer);
	assert_sent("", "", "error: text");
	log_set_prefix("7/xvdb");
	log_set_driver("vhd");
	assert_sent("7/xvdb", "vhd", "7/xvdb: error: text");
	log_set_prefix("8/xvdb");
	assert_sent("8/xvdb", "", "8/xvdb: error: text");
}

static void what_cannot_be_sent_is_on_stderr(void **state)
{
	(void)state;
	unsetenv("JOURNAL_STREAM");
	sent.takes = false;
	log_to_journal(send_record);
	assert_on_stderr("lost", "error: lost\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(line_names_thread_and_disk, reset),
		cmocka_unit_test_setup(level_is_per_subsystem, reset),
		cmocka_unit_test_setup(names_are_found_again, reset),
		cmocka_unit_test_setup(errno_is_kept, reset),
		cmocka_unit_test_setup(controls_cannot_forge_a_line, reset),
		cmocka_unit_test_setup(long_line_is_cut, reset),
		cmocka_unit_test_setup(limit_counts_what_it_drops, reset),
		cmocka_unit_test_setup(limit_tells_how_many_were_dropped, reset),
		cmocka_unit_test_setup(disabled_message_uses_no_budget, reset),
		cmocka_unit_test_setup(stderr_gets_one_line, reset),
		cmocka_unit_test_setup(record_has_disk_and_driver, reset),
		cmocka_unit_test_setup(what_cannot_be_sent_is_on_stderr, reset),
	};

	return cmocka_run_group_tests(tests, NULL, back_to_stderr);
}
