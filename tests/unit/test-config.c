/* config.h: the file with every mistake told by its line, and the command line that wins. */
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"

static char *said;
static size_t said_len;

/* Read text as a file named "f"; returns the number of complaints, which are in said. */
static int read_text(struct config *config, const char *text)
{
	FILE *in = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
	FILE *out;
	int n;

	free(said);
	out = open_memstream(&said, &said_len);
	assert_int_equal(config_init(config), 0);
	n = config_read(config, in, "f", out);
	fclose(in);
	fclose(out);
	return n;
}

static void good_file(void **state)
{
	struct config c;
	struct settings s;

	(void)state;
	assert_int_equal(read_text(&c, "# ours\n"
				       "[daemon]\n"
				       "claim = opaque\n"
				       "backend-kinds = vbd3 ; only\n"
				       "max-workers=7\n"
				       "control-socket=/tmp/x\n"
				       "[defaults]\n"
				       "max-queues = 2\n"
				       "[disk \"raw:/srv/[ab]*\"] ; see [1]\n"
				       "cache = none\n"),
			 0);
	assert_int_equal(c.claim, CLAIM_OPAQUE);
	assert_string_equal(c.kinds[0], "vbd3");
	assert_null(c.kinds[1]);
	assert_int_equal(c.max_workers, 7);
	assert_string_equal(c.control_socket, "/tmp/x");
	settings_init(&s);
	settings_rules_apply(c.rules, "1/xvda", "raw:/srv/b.img", &s);
	assert_int_equal(s.value[SET_CACHE], CACHE_NONE);
	assert_int_equal(s.value[SET_MAX_QUEUES], 2);
	config_free(&c);
}

/* libinih cuts section names at 50 bytes; a path is longer. */
static void long_glob_is_kept(void **state)
{
	struct config c;
	struct settings s;
	const char *path = "raw:/srv/a/rather/long/path/to/the/images/of/some/customer/disk.img";
	char text[300];

	(void)state;
	snprintf(text, sizeof(text), "[disk \"%s\"]\nsync=on\n", path);
	assert_int_equal(read_text(&c, text), 0);
	settings_init(&s);
	settings_rules_apply(c.rules, "1/xvda", "raw:/srv/a/rather/long/path/to/the/images/of/x",
			     &s);
	assert_int_equal(s.value[SET_SYNC], 0);
	settings_rules_apply(c.rules, "1/xvda", path, &s);
	assert_int_equal(s.value[SET_SYNC], 1);
	config_free(&c);
}

static void every_mistake_has_its_line(void **state)
{
	static const struct {
		const char *text, *expect;
	} cases[] = {
		{ "[daemon]\nclaim = some\n",
		  "f:2: claim: 'some': should be auto, all, opaque or never" },
		{ "[daemon]\n\nworkers = many\n", "f:3: workers: 'many': should be a number" },
		{ "[daemon]\nworkers = 99999\n", "f:2: workers" },
		{ "[daemon]\nnonsense = 1\n", "f:2: there is no option 'nonsense'" },
		{ "[daemon]\nconfig = /x\n", "f:2: there is no option 'config'" },
		{ "[daemon]\npid-file = x\n", "f:2: pid-file: 'x': should be an absolute path" },
		{ "[daemon]\nbackend-kinds = ../x\n", "f:2: backend-kinds" },
		{ "[daemon]\nlog-level = loud\n", "f:2: log-level: 'loud'" },
		{ "[daemon]\nlog-target = file\n", "f:2: log-target: 'file': should be auto, stderr" },
		{ "[defaults]\ncache = fast\n",
		  "f:2: cache=fast: should be writeback|none|unsafe" },
		{ "[defaults]\ncash = none\n", "f:2: there is no setting 'cash'" },
		{ "[disk]\nsync = on\n", "f:2: not in one of the sections" },
		{ "[disk \"\"]\nsync = on\n", "f:2: not in one of the sections" },
		{ "[disk \"x]\nsync = on\n", "f:2: not in one of the sections" },
		{ "[disks \"x\"]\nsync = on\n", "f:2: not in one of the sections" },
		{ "sync = on\n", "f:1: not in one of the sections" },
		{ "[daemon]\njust a word\n", "f:2: not [SECTION] nor NAME = VALUE" },
		{ "[daemon\nclaim = all\n", "f:1: not [SECTION]" },
	};
	struct config c;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_true(read_text(&c, cases[i].text) > 0);
		if (!strstr(said, cases[i].expect))
			fail_msg("case %zu: '%s' is not in: %s", i, cases[i].expect, said);
		config_free(&c);
	}
}

static void all_mistakes_are_told(void **state)
{
	struct config c;

	(void)state;
	assert_int_equal(read_text(&c, "[daemon]\nclaim=x\n[defaults]\nsync=x\ncache=x\n"), 3);
	assert_non_null(strstr(said, "f:2:"));
	assert_non_null(strstr(said, "f:4:"));
	assert_non_null(strstr(said, "f:5:"));
	config_free(&c);
}

static void long_line_is_a_mistake(void **state)
{
	char text[2000] = "[daemon]\nclaim = ";
	struct config c;

	(void)state;
	memset(text + strlen(text), 'x', 1000);
	strcat(text, "\nclaim = never\n");
	assert_int_equal(read_text(&c, text), 1);
	assert_non_null(strstr(said, "f:2: this line is too long"));
	assert_int_equal(c.claim, CLAIM_NEVER); /* and what follows is read */
	config_free(&c);
}

static void binary_file_is_refused(void **state)
{
	static const char text[] = "[daemon]\ncla\0im = all\n\xff\xfe\n";
	struct config c;
	FILE *in = fmemopen((void *)(uintptr_t)text, sizeof(text) - 1, "r");
	FILE *out;

	(void)state;
	free(said);
	out = open_memstream(&said, &said_len);
	assert_int_equal(config_init(&c), 0);
	assert_true(config_read(&c, in, "f", out) >= 2);
	fclose(in);
	fclose(out);
	config_free(&c);
}

/* config_load with a file of this text (NULL: none) and these arguments. */
static int load(struct config *c, const char *text, const char *const *args)
{
	char path[] = "/tmp/ringdisk-test-XXXXXX", option[64], name[] = "ringdiskd";
	char *argv[16];
	int argc = 1, fd, ret;
	FILE *out;

	argv[0] = name;
	if (text) {
		fd = mkstemp(path);
		assert_true(fd >= 0);
		assert_int_equal(write(fd, text, strlen(text)), strlen(text));
		close(fd);
		snprintf(option, sizeof(option), "--config=%s", path);
		argv[argc++] = option;
	}
	while (*args)
		argv[argc++] = (char *)(uintptr_t)*args++;
	free(said);
	out = open_memstream(&said, &said_len);
	ret = config_load(c, argc, argv, out);
	fclose(out);
	if (text)
		unlink(path);
	return ret;
}

static void command_line_wins(void **state)
{
	struct config c;
	const char *args[] = { "--claim=never", "--foreground", "--backend-kinds=qdisk", NULL };

	(void)state;
	assert_int_equal(
		load(&c, "[daemon]\nclaim=all\nworkers=3\nbackend-kinds=vbd3,other\n", args), 0);
	assert_int_equal(c.claim, CLAIM_NEVER);
	assert_int_equal(c.workers, 3);
	assert_true(c.foreground);
	assert_string_equal(c.kinds[0], "qdisk");
	assert_null(c.kinds[1]);
	config_free(&c);
}

static void wrong_arguments_are_refused(void **state)
{
	static const char *const cases[][3] = {
		{ "--hyp=vmware" },
		{ "--config=/nonexistent/ringdisk.conf" },
		{ "extra" },
		{ "--workers=-1" },
		{ "--max-workers=0" },
		{ "--workers=9", "--max-workers=8" },
		{ "--control-socket=here" },
		{ "--log-level=xenbus=loud" },
	};
	struct config c;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(load(&c, "", cases[i]), -EINVAL);
		assert_true(said_len > 10);
		config_free(&c);
	}
}

static void actions(void **state)
{
	struct config c;
	const char *check[] = { "--check-config", NULL }, *help[] = { "-h", NULL },
		   *version[] = { "-V", NULL };

	(void)state;
	assert_int_equal(load(&c, "[daemon]\nclaim=all\n", check), 0);
	assert_int_equal(c.action, CONFIG_CHECK);
	config_free(&c);
	assert_int_equal(load(&c, "[daemon]\nclaim=x\n", check), -EINVAL);
	config_free(&c);
	assert_int_equal(load(&c, "[daemon]\nclaim=x\n", help), 0);
	assert_int_equal(c.action, CONFIG_HELP);
	config_free(&c);
	assert_int_equal(load(&c, NULL, version), 0);
	assert_int_equal(c.action, CONFIG_VERSION);
	config_free(&c);
}

/* --help names every option. */
static void usage_is_complete(void **state)
{
	FILE *out;

	(void)state;
	free(said);
	out = open_memstream(&said, &said_len);
	config_usage(out);
	fclose(out);
	for (unsigned i = 0; config_option_name(i); i++)
		assert_non_null(strstr(said, config_option_name(i)));
}

static int free_said(void **state)
{
	(void)state;
	free(said);
	log_set_level_all(LOG_LVL_INFO);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_file),
		cmocka_unit_test(long_glob_is_kept),
		cmocka_unit_test(every_mistake_has_its_line),
		cmocka_unit_test(all_mistakes_are_told),
		cmocka_unit_test(long_line_is_a_mistake),
		cmocka_unit_test(binary_file_is_refused),
		cmocka_unit_test(command_line_wins),
		cmocka_unit_test(wrong_arguments_are_refused),
		cmocka_unit_test(actions),
		cmocka_unit_test(usage_is_complete),
	};

	return cmocka_run_group_tests(tests, NULL, free_said);
}
