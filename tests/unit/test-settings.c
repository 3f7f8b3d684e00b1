/* settings.h: the table, values that are refused, who wins, rules with globs. */
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "settings.h"

static char err[512];

static void table_is_complete(void **state)
{
	char buf[128];
	struct settings s;

	(void)state;
	settings_init(&s);
	for (int i = 0; i < SET_NKEYS; i++) {
		enum setting_key k = (enum setting_key)i;
		const char *name = settings_name(k);

		assert_non_null(name);
		assert_int_equal(settings_key(name, strlen(name)), i);
		assert_true(strlen(settings_help(k)) > 5);
		assert_true(strlen(settings_domain(k, buf, sizeof(buf))) > 2);
		assert_int_equal(s.origin[i], ORIGIN_DEFAULT);
	}
	assert_int_equal(settings_key("cach", 4), -1);
	assert_int_equal(settings_key("cachex", 6), -1);
	assert_int_equal(settings_key("", 0), -1);
}

/* What is printed for a default can be set again and is the same. */
static void text_is_read_back(void **state)
{
	struct settings s, t;
	char buf[64];

	(void)state;
	settings_init(&s);
	settings_init(&t);
	for (int i = 0; i < SET_NKEYS; i++) {
		enum setting_key k = (enum setting_key)i;

		settings_text(&s, k, buf, sizeof(buf));
		t.value[k] = 99999;
		assert_int_equal(
			settings_set(&t, settings_name(k), buf, ORIGIN_SET, err, sizeof(err)), 0);
		assert_int_equal(t.value[k], s.value[k]);
		assert_int_equal(t.origin[k], ORIGIN_SET);
	}
}

static void defaults_are_the_documented_ones(void **state)
{
	struct settings s;

	(void)state;
	settings_init(&s);
	assert_int_equal(s.value[SET_CACHE], CACHE_WRITEBACK);
	assert_int_equal(s.value[SET_SYNC], 0);
	assert_int_equal(s.value[SET_AIO], AIO_INLINE);
	assert_int_equal(s.value[SET_GRANT], GRANT_PERSISTENT);
	assert_int_equal(s.value[SET_MAX_RING_PAGE_ORDER], 4);
	assert_int_equal(s.value[SET_MAX_QUEUES], 4);
	assert_int_equal(s.value[SET_MAX_INDIRECT_SEGMENTS], 256);
	assert_int_equal(s.value[SET_ENOSPC], ENOSPC_PAUSE);
	assert_int_equal(s.value[SET_BARRIER], 0);
	assert_int_equal(s.value[SET_MAX_GRANTS], 1056);
}

static void bad_values_change_nothing(void **state)
{
	static const char *const bad[][2] = {
		{ "cache", "directsync" },
		{ "cache", "" },
		{ "cache", "None" },
		{ "sync", "1" },
		{ "sync", "yes" },
		{ "max-queues", "0" },
		{ "max-queues", "9" },
		{ "max-queues", "-1" },
		{ "max-queues", " 4" },
		{ "max-queues", "4 " },
		{ "max-queues", "0x4" },
		{ "max-queues", "4294967300" },
		{ "max-queues", "18446744073709551620" },
		{ "max-queues", "1e0" },
		{ "max-ring-page-order", "5" },
		{ "max-grants", "" },
		{ "max-indirect-segments", "257" },
		{ "poll", "on" },
		{ "iops", "1K" },
		{ "iops", "10000001" },
		{ "bps", "65G" },
		{ "bps", "99999999999999999999" },
		{ "bps", "17179869184G" },
		{ "bps", "K" },
		{ "bps", "1KB" },
		{ "bps", "1k" },
		{ "bps", "1T" },
		{ "burst", "9" },
	};
	struct settings s, before;

	(void)state;
	settings_init(&s);
	before = s;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err[0] = 0;
		assert_int_equal(
			settings_set(&s, bad[i][0], bad[i][1], ORIGIN_SET, err, sizeof(err)),
			-EINVAL);
		assert_non_null(strstr(err, "should be"));
		assert_non_null(strstr(err, bad[i][0]));
	}
	assert_int_equal(settings_set(&s, "cash", "none", ORIGIN_SET, err, sizeof(err)), -ENOENT);
	assert_non_null(strstr(err, "max-queues"));
	assert_memory_equal(&s, &before, sizeof(s));
}

static void bytes_take_units(void **state)
{
	struct settings s;

	(void)state;
	settings_init(&s);
	assert_int_equal(settings_set(&s, "bps", "64G", ORIGIN_SET, err, sizeof(err)), 0);
	assert_int_equal(s.value[SET_BPS], 64ull << 30);
	assert_int_equal(settings_set(&s, "bps", "3K", ORIGIN_SET, err, sizeof(err)), 0);
	assert_int_equal(s.value[SET_BPS], 3072);
	assert_int_equal(settings_set(&s, "bps", "7", ORIGIN_SET, err, sizeof(err)), 0);
	assert_int_equal(s.value[SET_BPS], 7);
}

static void later_origin_wins_in_any_order(void **state)
{
	struct settings s;
	char buf[64];

	(void)state;
	settings_init(&s);
	assert_int_equal(settings_set(&s, "cache", "none", ORIGIN_STORE, err, sizeof(err)), 0);
	assert_int_equal(settings_set(&s, "cache", "unsafe", ORIGIN_PARAMS, err, sizeof(err)), 0);
	assert_string_equal(settings_text(&s, SET_CACHE, buf, sizeof(buf)), "none");
	assert_int_equal(s.origin[SET_CACHE], ORIGIN_STORE);
	assert_int_equal(settings_set(&s, "cache", "unsafe", ORIGIN_STORE, err, sizeof(err)), 0);
	assert_string_equal(settings_text(&s, SET_CACHE, buf, sizeof(buf)), "unsafe");
	assert_int_equal(settings_set(&s, "cache", "writeback", ORIGIN_SET, err, sizeof(err)), 0);
	assert_string_equal(settings_origin_text((enum setting_origin)s.origin[SET_CACHE]), "set");
	/* A bad value is told even where it would not have won. */
	assert_int_equal(settings_set(&s, "cache", "x", ORIGIN_CONFIG, err, sizeof(err)), -EINVAL);
}

static void rules_match_disk_or_params(void **state)
{
	struct settings_rules *rules = NULL;
	struct settings s;

	(void)state;
	assert_int_equal(settings_rules_add(&rules, "7/*", "sync", "on", err, sizeof(err)), 0);
	assert_int_equal(settings_rules_add(&rules, NULL, "sync", "off", err, sizeof(err)), 0);
	assert_int_equal(settings_rules_add(&rules, NULL, "max-queues", "2", err, sizeof(err)), 0);
	assert_int_equal(
		settings_rules_add(&rules, "raw:/srv/*.img", "cache", "none", err, sizeof(err)), 0);
	assert_int_equal(
		settings_rules_add(&rules, "7/xvd[b-d]", "cache", "unsafe", err, sizeof(err)), 0);

	settings_init(&s);
	settings_rules_apply(rules, "7/xvda", "raw:/srv/a.img", &s);
	assert_int_equal(s.value[SET_SYNC],
			 1); /* a disk's rule beats [defaults] wherever it stands */
	assert_int_equal(s.origin[SET_SYNC], ORIGIN_CONFIG_DISK);
	assert_int_equal(s.value[SET_MAX_QUEUES], 2);
	assert_int_equal(s.origin[SET_MAX_QUEUES], ORIGIN_CONFIG);
	assert_int_equal(s.value[SET_CACHE], CACHE_NONE);

	settings_init(&s);
	settings_rules_apply(rules, "7/xvdb", "raw:/srv/a.img", &s);
	assert_int_equal(s.value[SET_CACHE], CACHE_UNSAFE); /* both match: the later one */

	settings_init(&s);
	settings_rules_apply(rules, "17/xvda", NULL, &s);
	assert_int_equal(s.value[SET_SYNC], 0);
	assert_int_equal(s.value[SET_CACHE], CACHE_WRITEBACK);
	settings_rules_free(rules);
}

static void bad_rule_is_refused_at_once(void **state)
{
	struct settings_rules *rules = NULL;
	struct settings s, before;

	(void)state;
	assert_int_equal(settings_rules_add(&rules, "*", "aio", "fast", err, sizeof(err)), -EINVAL);
	assert_int_equal(settings_rules_add(&rules, "*", "ai", "native", err, sizeof(err)),
			 -ENOENT);
	settings_init(&s);
	before = s;
	settings_rules_apply(rules, "1/xvda", "raw:/x", &s);
	assert_memory_equal(&s, &before, sizeof(s));
	settings_rules_free(rules);
}

/* --- ringdisk.conf(5) has every setting with its values, default and when it acts, and no other -------- */

/* As roff wants it: each '-' escaped. */
static void escape(char *out, const char *in)
{
	while (*in) {
		if (*in == '-')
			*out++ = '\\';
		*out++ = *in++;
	}
	*out = 0;
}

static char *read_page(const char *top)
{
	static char page[65536];
	char path[1024];
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "%s/man/ringdisk.conf.5", top);
	file = fopen(path, "r");
	assert_non_null(file);
	n = fread(page, 1, sizeof(page) - 1, file);
	page[n] = 0;
	fclose(file);
	return page;
}

static void manual_page_matches(void **state)
{
	const char *top = getenv("top_srcdir");
	int items = 0;
	struct settings s;
	char *page;

	(void)state;
	if (!top)
		skip();
	page = read_page(top);
	settings_init(&s);
	for (int i = 0; i < SET_NKEYS; i++) {
		enum setting_key k = (enum setting_key)i;
		char name[64], domain[256], plain[128], value[64], want[600];

		escape(name, settings_name(k));
		escape(domain, settings_domain(k, plain, sizeof(plain)));
		snprintf(want, sizeof(want), "\n.BI %s= %s\nDefault \\fB%s\\fR; %s.\n", name,
			 domain, settings_text(&s, k, value, sizeof(value)),
			 settings_live(k) ? "at once" : "at the next connect");
		if (!strstr(page, want))
			fail_msg("ringdisk.conf(5) should have:%s", want);
	}
	for (char *at = strstr(page, "\n.BI "); at; at = strstr(at + 1, "\n.BI "))
		items += at[strcspn(at + 5, "= \n") + 5] == '=';
	assert_int_equal(items, SET_NKEYS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_is_complete),
		cmocka_unit_test(text_is_read_back),
		cmocka_unit_test(defaults_are_the_documented_ones),
		cmocka_unit_test(bad_values_change_nothing),
		cmocka_unit_test(bytes_take_units),
		cmocka_unit_test(later_origin_wins_in_any_order),
		cmocka_unit_test(rules_match_disk_or_params),
		cmocka_unit_test(bad_rule_is_refused_at_once),
		cmocka_unit_test(manual_page_matches),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
