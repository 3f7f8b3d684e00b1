/* xenbus-frontend.h: what a frontend may write, and what it must not get away with. */
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "xenbus-frontend.h"

/* The frontend's directory: "key=value" strings, and at most one binary value. */
struct dir {
	const char *const *pairs;
	const char *odd_key, *odd_value;
	size_t odd_len;
	int fail; /* -errno of every read */
	unsigned reads;
};

static int give(const char *value, size_t len, char *buf, size_t room)
{
	memcpy(buf, value, MIN(len, room));
	return (int)len;
}

static int read_key(void *arg, const char *key, char *buf, size_t room)
{
	struct dir *dir = arg;
	size_t len = strlen(key);

	dir->reads++;
	if (dir->fail)
		return dir->fail;
	if (dir->odd_key && !strcmp(key, dir->odd_key))
		return dir->odd_value ? give(dir->odd_value, dir->odd_len, buf, room) : -ENOENT;
	for (size_t i = 0; dir->pairs[i]; i++) {
		const char *pair = dir->pairs[i];

		if (!strncmp(pair, key, len) && pair[len] == '=')
			return give(pair + len + 1, strlen(pair + len + 1), buf, room);
	}
	return -ENOENT;
}

static const struct xb_limits limits = { .max_order = 4, .max_queues = 4, .persistent = true };
static struct dev_rings rings;
static char err[256];

static int parse(const char *const *pairs)
{
	struct dir dir = { .pairs = pairs };

	err[0] = 0;
	return xb_frontend_read(&limits, read_key, &dir, &rings, err, sizeof(err));
}

#define PAIRS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void one_page_one_queue(void **state)
{
	(void)state;
	assert_int_equal(parse(PAIRS("ring-ref=8", "event-channel=17", "protocol=x86_64-abi",
				     "feature-persistent=1")),
			 0);
	assert_int_equal(rings.count, 1);
	assert_int_equal(rings.order, 0);
	assert_int_equal(rings.ring[0].gref[0], 8);
	assert_int_equal(rings.ring[0].evtchn, 17);
	assert_true(rings.persistent);
#ifdef __x86_64__
	assert_int_equal(rings.abi, RING_ABI_X86_64);
	assert_int_equal(parse(PAIRS("ring-ref=8", "event-channel=17")), 0);
	assert_int_equal(rings.abi, RING_ABI_X86_32);
	assert_false(rings.persistent);
#endif
}

static void pages_have_numbers(void **state)
{
	(void)state;
	assert_int_equal(parse(PAIRS("ring-page-order=1", "ring-ref0=5", "ring-ref1=4294967295",
				     "event-channel=1")),
			 0);
	assert_int_equal(rings.order, 1);
	assert_int_equal(rings.ring[0].gref[1], 4294967295u);
	/* one page, either way */
	assert_int_equal(parse(PAIRS("ring-page-order=0", "ring-ref0=5", "event-channel=1")), 0);
	assert_int_equal(rings.ring[0].gref[0], 5);
	assert_int_equal(parse(PAIRS("ring-page-order=0", "ring-ref=6", "event-channel=1")), 0);
	assert_int_equal(rings.ring[0].gref[0], 6);
	/* the old name */
	assert_int_equal(
		parse(PAIRS("num-ring-pages=2", "ring-ref0=5", "ring-ref1=6", "event-channel=1")),
		0);
	assert_int_equal(rings.order, 1);
}

static void queues(void **state)
{
	(void)state;
	assert_int_equal(parse(PAIRS("multi-queue-num-queues=2", "queue-0/ring-ref=1",
				     "queue-0/event-channel=2", "queue-1/ring-ref=3",
				     "queue-1/event-channel=4")),
			 0);
	assert_int_equal(rings.count, 2);
	assert_int_equal(rings.ring[1].gref[0], 3);
	assert_int_equal(rings.ring[1].evtchn, 4);
	/* one queue, either way */
	assert_int_equal(parse(PAIRS("multi-queue-num-queues=1", "queue-0/ring-ref=1",
				     "queue-0/event-channel=2")),
			 0);
	assert_int_equal(rings.ring[0].gref[0], 1);
	assert_int_equal(parse(PAIRS("multi-queue-num-queues=1", "ring-ref=7", "event-channel=2")),
			 0);
	assert_int_equal(rings.ring[0].gref[0], 7);
}

static void what_is_refused(void **state)
{
	static const struct {
		const char *pairs[8];
		const char *says;
	} cases[] = {
		{ { NULL }, "ring-ref: is missing" },
		{ { "ring-ref=1" }, "event-channel: is missing" },
		{ { "event-channel=1" }, "ring-ref: is missing" },
		{ { "ring-ref=1", "event-channel=0" }, "event-channel" },
		{ { "ring-ref=1", "event-channel=131072" }, "event-channel" },
		{ { "ring-ref=4294967296", "event-channel=1" }, "ring-ref" },
		{ { "ring-ref=1", "event-channel=1", "ring-page-order=5" }, "ring-page-order" },
		{ { "ring-ref=1", "event-channel=1", "ring-page-order=31" }, "ring-page-order" },
		{ { "ring-ref=1", "event-channel=1", "num-ring-pages=3" }, "num-ring-pages" },
		{ { "ring-ref=1", "event-channel=1", "num-ring-pages=0" }, "num-ring-pages" },
		{ { "ring-ref=1", "event-channel=1", "num-ring-pages=32" }, "num-ring-pages" },
		{ { "ring-ref0=1", "ring-page-order=1", "event-channel=1" },
		  "ring-ref1: is missing" },
		{ { "ring-ref0=1", "ring-ref1=1", "ring-page-order=1", "event-channel=1" },
		  "page twice" },
		{ { "ring-ref=1", "event-channel=1", "multi-queue-num-queues=0" }, "multi-queue" },
		{ { "ring-ref=1", "event-channel=1", "multi-queue-num-queues=5" }, "multi-queue" },
		{ { "ring-ref=1", "event-channel=1", "multi-queue-num-queues=65535" },
		  "multi-queue" },
		{ { "multi-queue-num-queues=2", "queue-0/ring-ref=1", "queue-0/event-channel=2",
		    "queue-1/ring-ref=3", "queue-1/event-channel=2" },
		  "channel twice" },
		{ { "multi-queue-num-queues=2", "queue-0/ring-ref=1", "queue-0/event-channel=2" },
		  "queue-1/ring-ref: is missing" },
		{ { "ring-ref=1", "event-channel=1", "protocol=x86_64" }, "protocol" },
		{ { "ring-ref=1", "event-channel=1", "protocol=" }, "protocol" },
		{ { "ring-ref=1", "event-channel=1", "protocol=x86_64-abi " }, "protocol" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (parse(cases[i].pairs) != -EINVAL || !strstr(err, cases[i].says))
			fail_msg("case %zu: '%s' does not say '%s'", i, err, cases[i].says);
	}
}

/* Every key, with every kind of nonsense. */
static void hostile_values(void **state)
{
	static const char *const good[] = { "multi-queue-num-queues=2", "ring-page-order=1",
					    "queue-0/ring-ref0=1",      "queue-0/ring-ref1=2",
					    "queue-0/event-channel=2",  "queue-1/ring-ref0=3",
					    "queue-1/ring-ref1=4",      "queue-1/event-channel=5",
					    "protocol=x86_64-abi",      NULL };
	static char big[4096];
	static const struct {
		const char *text;
		size_t len;
	} bad[] = {
		{ "", 0 },
		{ "-1", 2 },
		{ "4294967296", 10 },
		{ "1e3", 3 },
		{ " 7", 2 },
		{ "7 ", 2 },
		{ "7\n", 2 },
		{ "+7", 2 },
		{ "0x7", 3 },
		{ "7\0", 2 },
		{ "\0", 1 },
		{ "\xff\xfe", 2 },
		{ "99999999999999999999", 20 },
		{ "seven", 5 },
		{ big, sizeof(big) },
		{ "%n%n%n%s", 8 },
		{ "../../..", 8 },
		{ "00000000001", 11 },
	};

	(void)state;
	memset(big, '1', sizeof(big));
	for (size_t k = 0; good[k]; k++) {
		char key[64];
		struct dir dir = { .pairs = good, .odd_key = key };

		snprintf(key, sizeof(key), "%.*s", (int)strcspn(good[k], "="), good[k]);
		for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
			dir.odd_value = bad[i].text;
			dir.odd_len = bad[i].len;
			if (xb_frontend_read(&limits, read_key, &dir, &rings, err, sizeof(err)) !=
			    -EINVAL)
				fail_msg("%s: nonsense %zu was taken", key, i);
			assert_null(memchr(err, '\xff', strlen(err)));
		}
	}
	assert_int_equal(parse(good), 0);
}

static void nonsense_in_feature_persistent_is_no(void **state)
{
	static const char *const words[] = { "", "0", "2", "yes", "-1", "11", "01" };
	char pair[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		snprintf(pair, sizeof(pair), "feature-persistent=%s", words[i]);
		assert_int_equal(parse(PAIRS("ring-ref=8", "event-channel=17", pair)), 0);
		assert_false(rings.persistent);
	}
}

/* A guest that changes a key between two reads gains nothing: there is only one. */
static void each_key_is_read_once(void **state)
{
	struct dir dir = { .pairs = PAIRS("ring-ref=8", "event-channel=17") };

	(void)state;
	assert_int_equal(xb_frontend_read(&limits, read_key, &dir, &rings, err, sizeof(err)), 0);
	/* queues, order, its old name, protocol, persistent, ring-ref, event-channel */
	assert_int_equal(dir.reads, 7);
}

static void store_errors_are_passed_on(void **state)
{
	struct dir dir = { .pairs = PAIRS("ring-ref=8"), .fail = -EPIPE };

	(void)state;
	assert_int_equal(xb_frontend_read(&limits, read_key, &dir, &rings, err, sizeof(err)),
			 -EPIPE);
}

static void limits_are_what_was_published(void **state)
{
	const struct xb_limits one = { .max_order = 0, .max_queues = 1, .persistent = false };
	struct dir dir = { .pairs = PAIRS("ring-ref=8", "event-channel=17",
					  "feature-persistent=1") };
	struct dir two = { .pairs = PAIRS("ring-ref=8", "event-channel=17",
					  "multi-queue-num-queues=2") };

	(void)state;
	assert_int_equal(xb_frontend_read(&one, read_key, &dir, &rings, err, sizeof(err)), 0);
	assert_false(rings.persistent);
	assert_int_equal(xb_frontend_read(&one, read_key, &two, &rings, err, sizeof(err)), -EINVAL);
}

static void same_rings(void **state)
{
	struct dev_rings other;

	(void)state;
	assert_int_equal(parse(PAIRS("ring-ref=8", "event-channel=17")), 0);
	other = rings;
	assert_true(xb_rings_equal(&rings, &other));
	other.ring[0].gref[0]++;
	assert_false(xb_rings_equal(&rings, &other));
	other = rings;
	other.ring[0].evtchn++;
	assert_false(xb_rings_equal(&rings, &other));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_page_one_queue),
		cmocka_unit_test(pages_have_numbers),
		cmocka_unit_test(queues),
		cmocka_unit_test(what_is_refused),
		cmocka_unit_test(hostile_values),
		cmocka_unit_test(nonsense_in_feature_persistent_is_no),
		cmocka_unit_test(each_key_is_read_once),
		cmocka_unit_test(store_errors_are_passed_on),
		cmocka_unit_test(limits_are_what_was_published),
		cmocka_unit_test(same_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
