/*
 * What is in force of the configuration, and where it came from, for `ringdisk config`.
 *
 * The text is made when the configuration has been read, since the struct config of a reload goes with the reload:
 * what a reload does not bring into force stays as it was, with what a new start would make of it.  Levels of
 * the log are looked at when somebody asks, because they are set from elsewhere, too.
 *
 * The main thread tells, the admin thread asks; lock (leaf).
 */
#include "main-config.h"

#include "lock.h"
#include "log.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static struct {
	/* under lock */
	pthread_mutex_t lock; /* held for a copy only */
	json_t *options, *settings;
	enum log_level levels[LOG_SUBSYS_COUNT];
} told = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Any bytes may stand in a file. */
static json_t *text_json(const char *text)
{
	json_t *json = text ? json_string(text) : json_null();

	return json ? json : json_string("?");
}

static json_t *option_json(const struct config_entry *e)
{
	return json_pack("{s:s, s:o, s:o}", "name", e->name, "value", text_json(e->value), "from",
			 text_json(e->from));
}

static bool same(const json_t *a, const json_t *b, const char *key)
{
	return json_equal(json_object_get(a, key), json_object_get(b, key));
}

/* After a reload: was, or what is now. */
static json_t *after_reload(json_t *was, json_t *now, bool live)
{
	json_t *value = json_object_get(now, "value");

	if (!was || live || same(was, now, "value"))
		return now;
	was = json_copy(was);
	json_object_set(was, "restart", value);
	json_decref(now);
	return was;
}

static json_t *options_json(const struct config *config, json_t *before)
{
	json_t *all = json_array();
	struct config_entry e;

	for (unsigned i = 0; config_option_at(config, i, &e); i++) {
		if (e.is_option)
			json_array_append_new(all, after_reload(json_array_get(before, json_array_size(all)),
								option_json(&e), e.live));
	}
	return all;
}

static json_t *settings_json(const struct config *config)
{
	json_t *all = json_array();

	for (unsigned i = 0; i < config->nlines; i++) {
		const struct config_line *l = &config->lines[i];

		json_array_append_new(all, json_pack("{s:o, s:o, s:o, s:o}", "section", text_json(l->section),
						     "name", text_json(l->name), "value", text_json(l->value),
						     "from", text_json(l->from)));
	}
	return all;
}

void main_config_tell(const struct config *config)
{
	json_t *options = options_json(config, told.options), *settings = settings_json(config);

	pthread_mutex_lock(&told.lock);
	json_decref(told.options);
	json_decref(told.settings);
	told.options = options;
	told.settings = settings;
	memcpy(told.levels, config->log_levels, sizeof(told.levels));
	pthread_mutex_unlock(&told.lock);
}

void main_config_end(void)
{
	json_decref(told.options);
	json_decref(told.settings);
	told.options = told.settings = NULL;
}

/* "info,ring=debug": the level of most, and the others. */
static void levels_text(char *buf, size_t len)
{
	enum log_level most = log_get_level(0);
	unsigned count[LOG_LVL_DEBUG + 1] = { 0 };
	size_t n;

	for (unsigned i = 0; i < LOG_SUBSYS_COUNT; i++) {
		enum log_level level = log_get_level(i);

		if (++count[level] > count[most])
			most = level;
	}
	n = (size_t)snprintf(buf, len, "%s", log_level_name(most));
	for (unsigned i = 0; i < LOG_SUBSYS_COUNT && n < len; i++) {
		if (log_get_level(i) != most)
			n += (size_t)snprintf(buf + n, len - n, ",%s=%s", log_subsys_name(i),
					      log_level_name(log_get_level(i)));
	}
}

/* Set by `ringdisk log-level`, if they are not what the configuration says. */
static void live_levels(json_t *options)
{
	bool live = false;
	char text[512];
	json_t *option;
	size_t i;

	for (unsigned s = 0; s < LOG_SUBSYS_COUNT; s++)
		live |= log_get_level(s) != told.levels[s];
	if (!live)
		return;
	levels_text(text, sizeof(text));
	json_array_foreach(options, i, option) {
		if (strcmp(json_string_value(json_object_get(option, "name")), "log-level") != 0)
			continue;
		json_object_set_new(option, "value", json_string(text));
		json_object_set_new(option, "from", json_string("live"));
	}
}

struct json_t *main_config_json(void)
{
	json_t *options, *settings;

	pthread_mutex_lock(&told.lock);
	options = json_deep_copy(told.options);
	settings = json_deep_copy(told.settings);
	live_levels(options);
	pthread_mutex_unlock(&told.lock);
	return json_pack("{s:o, s:o}", "options", options, "settings", settings);
}
