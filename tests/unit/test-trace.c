/* The trace of a queue: what is written is read once and whole, by a reader that is fast or slow. */
#include "test.h"

#include "base/clock.h"
#include "trace.h"

#include <pthread.h>
#include <string.h>

static struct trace trace;

static int setup(void **state)
{
	(void)state;
	memset(&trace, 0, sizeof(trace));
	clock_calibrate();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	trace_free(&trace);
	return 0;
}

static struct trace_entry nth(uint64_t n)
{
	return (struct trace_entry){
		.end_ns = now_ns(),
		.ns = n,
		.offset = n * 3,
		.length = n * 5,
		.id = n * 7,
		.kind = (unsigned)(n % 4),
		.err = -(int)(n % 100),
	};
}

static void put(uint64_t n)
{
	struct trace_entry entry = nth(n);

	trace_put(&trace, 1, &entry);
}

static void is_nth(const struct trace_entry *e, uint64_t n)
{
	assert_int_equal(e->ns, n);
	assert_int_equal(e->offset, n * 3);
	assert_int_equal(e->length, n * 5);
	assert_int_equal(e->id, n * 7);
	assert_int_equal(e->kind, n % 4);
	assert_int_equal(e->err, -(int)(n % 100));
}

static void off_until_it_is_asked_for(void **state)
{
	struct trace_entry entry;
	uint64_t at = 0, lost = 0;

	(void)state;
	assert_false(trace_on(&trace));
	put(1);
	assert_false(trace_read(&trace, 1, &at, &entry, &lost));
	assert_int_equal(trace_start(&trace, 60 * NSEC_PER_SEC), 0);
	assert_true(trace_on(&trace));
	put(2);
	assert_true(trace_read(&trace, 1, &at, &entry, &lost));
	is_nth(&entry, 2);
	assert_false(trace_read(&trace, 1, &at, &entry, &lost));
	assert_false(trace_read(&trace, TRACE_QUEUES, &at, &entry, &lost));
	assert_int_equal(lost, 0);
	/* Nobody asks any more. */
	assert_int_equal(trace_start(&trace, 0), 0);
	put(3);
	assert_false(trace_on(&trace));
	assert_int_equal(trace_next(&trace, 1), 1);
}

static void a_late_reader_is_told_what_it_lost(void **state)
{
	uint64_t at = 0, lost = 0, n = TRACE_KEPT + 10;
	struct trace_entry entry;

	(void)state;
	assert_int_equal(trace_start(&trace, 60 * NSEC_PER_SEC), 0);
	for (uint64_t i = 0; i < n; i++)
		put(i);
	assert_true(trace_read(&trace, 1, &at, &entry, &lost));
	assert_int_equal(lost, 10);
	is_nth(&entry, 10);
	for (uint64_t i = 11; i < n; i++) {
		assert_true(trace_read(&trace, 1, &at, &entry, &lost));
		is_nth(&entry, i);
	}
	assert_false(trace_read(&trace, 1, &at, &entry, &lost));
	assert_int_equal(lost, 10);
}

#define MANY 300000u

static void *writer(void *arg)
{
	(void)arg;
	for (uint64_t i = 0; i < MANY; i++)
		put(i);
	return NULL;
}

static void a_reader_beside_a_writer_sees_whole_entries(void **state)
{
	uint64_t at = 0, lost = 0, seen = 0, last = 0;
	struct trace_entry entry;
	pthread_t thread;

	(void)state;
	assert_int_equal(trace_start(&trace, 600 * NSEC_PER_SEC), 0);
	assert_int_equal(pthread_create(&thread, NULL, writer, NULL), 0);
	while (at < MANY) {
		if (!trace_read(&trace, 1, &at, &entry, &lost))
			continue;
		is_nth(&entry, at - 1);
		assert_true(!seen || entry.ns > last);
		last = entry.ns;
		seen++;
	}
	pthread_join(thread, NULL);
	assert_int_equal(seen + lost, MANY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(off_until_it_is_asked_for, setup, teardown),
		cmocka_unit_test_setup_teardown(a_late_reader_is_told_what_it_lost, setup, teardown),
		cmocka_unit_test_setup_teardown(a_reader_beside_a_writer_sees_whole_entries, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
