/* events.h: numbers, what is lost, many writers. */
#include "test.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "events.h"

static void each_is_read_once_by_each_reader(void **state)
{
	uint64_t a = event_next(), b = a, lost = 0;
	struct event event;

	(void)state;
	assert_false(event_read(&a, &event, &lost));
	event_emit(EVENT_RESIZE, "5/xvda", 4096, "%s", "text");
	event_emit(EVENT_ERROR, "5/xvdb", 0, "%d", 7);
	assert_true(event_read(&a, &event, &lost));
	assert_int_equal(event.type, EVENT_RESIZE);
	assert_int_equal(event.value, 4096);
	assert_string_equal(event.disk, "5/xvda");
	assert_string_equal(event.text, "text");
	assert_true(event_read(&a, &event, &lost));
	assert_string_equal(event.text, "7");
	assert_false(event_read(&a, &event, &lost));
	assert_true(event_read(&b, &event, &lost));
	assert_int_equal(event.number, b - 1);
	assert_int_equal(lost, 0);
	for (unsigned type = 0; type < EVENT_TYPES; type++)
		assert_non_null(event_name(type));
}

static void a_slow_reader_is_told_how_many_it_lost(void **state)
{
	uint64_t at = event_next(), lost = 0, seen = 0;
	struct event event;

	(void)state;
	for (unsigned i = 0; i < EVENTS_KEPT + 100; i++)
		event_emit(EVENT_ERROR, "5/xvda", i, "%s", "");
	while (event_read(&at, &event, &lost)) {
		assert_int_equal(event.value, 100 + seen);
		seen++;
	}
	assert_int_equal(seen, EVENTS_KEPT);
	assert_int_equal(lost, 100);
}

static void long_texts_are_cut(void **state)
{
	uint64_t at = event_next(), lost = 0;
	char text[5000];
	struct event event;

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	event_emit(EVENT_ERROR, text, 0, "%s", text);
	assert_true(event_read(&at, &event, &lost));
	assert_int_equal(strlen(event.text), sizeof(event.text) - 1);
	assert_int_equal(strlen(event.disk), sizeof(event.disk) - 1);
}

#define EACH 5000u

static void *writer(void *arg)
{
	for (unsigned i = 0; i < EACH; i++)
		event_emit(EVENT_SLOW, arg, i, "%s", "");
	return NULL;
}

static void writers_and_a_reader(void **state)
{
	uint64_t at = event_next(), lost = 0, seen = 0, last = at - 1;
	struct event event;
	pthread_t thread[3];

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, writer, (void *)(uintptr_t)"5/xvda"), 0);
	while (seen + lost < 3 * EACH) {
		while (event_read(&at, &event, &lost)) {
			assert_true(event.number > last);
			last = event.number;
			seen++;
		}
	}
	assert_int_equal(seen + lost, 3 * EACH);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	assert_false(event_read(&at, &event, &lost));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_is_read_once_by_each_reader),
		cmocka_unit_test(a_slow_reader_is_told_how_many_it_lost),
		cmocka_unit_test(long_texts_are_cut),
		cmocka_unit_test(writers_and_a_reader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
