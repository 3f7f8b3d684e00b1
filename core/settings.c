/*
 * The settings of a disk: one table says what there is, and everything else here is written over it.
 *
 * Normal path: settings_init() for the built-in defaults, settings_rules_apply() for the configuration
 * file, then settings_set() for what the toolstack, the params string, the store and the operator say,
 * in any order: the origin decides who wins. A bad value changes nothing; the caller gets a text that says
 * what would be right.
 *
 * No threads, no locks: plain data and its owner.
 */
#include "settings.h"

#include "base/bytes.h"
#include "throttle.h"

#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const off_on[] = { "off", "on", NULL };
static const char *const cache_modes[] = {
	[CACHE_WRITEBACK] = "writeback", [CACHE_NONE] = "none", [CACHE_UNSAFE] = "unsafe", NULL
};
static const char *const aio_modes[] = {
	[AIO_INLINE] = "inline", [AIO_THREADS] = "threads", [AIO_NATIVE] = "native", NULL
};
static const char *const grant_modes[] = { [GRANT_PERSISTENT] = "persistent",
					   [GRANT_COPY] = "copy",
					   [GRANT_MAP] = "map",
					   [GRANT_MAP_SINGLE] = "map-single",
					   NULL };
static const char *const poll_modes[] = { "off", "adaptive", NULL };
static const char *const enospc_modes[] = {
	[ENOSPC_PAUSE] = "pause", [ENOSPC_REPORT] = "report", NULL
};
static const char *const error_modes[] = {
	[ON_ERROR_REPORT] = "report", [ON_ERROR_PAUSE] = "pause", NULL
};
static const char *const discard_modes[] = {
	[DISCARD_UNMAP] = "unmap", [DISCARD_IGNORE] = "ignore", NULL
};

struct setting {
	const char *name;
	const char *const *choices; /* the words, by value; NULL: a number */
	uint64_t min, max;          /* of a number */
	bool bytes;                 /* a number that may end in K, M or G */
	uint64_t preset;
	bool live;
	const char *help;
};

static const struct setting table[SET_NKEYS] = {
	[SET_CACHE] = {
		.name = "cache",
		.choices = cache_modes,
		.preset = CACHE_WRITEBACK,
		.help = "writeback: through the page cache; none: O_DIRECT; unsafe: flushes are ignored",
	},
	[SET_SYNC] = {
		.name = "sync",
		.choices = off_on,
		.preset = 0,
		.live = true,
		.help = "every write is durable before it is answered",
	},
	[SET_AIO] = {
		.name = "aio",
		.choices = aio_modes,
		.preset = AIO_INLINE,
		.help = "inline: the poller may do I/O itself; threads: only workers; native: libaio",
	},
	[SET_GRANT] = {
		.name = "grant",
		.choices = grant_modes,
		.preset = GRANT_PERSISTENT,
		.help = "how the guest's pages are reached: kept mapped, copied, mapped per request",
	},
	[SET_MAX_REQUESTS] = {
		.name = "max-requests",
		.max = 4096,
		.preset = 128,
		.live = true,
		.help = "requests of a disk in flight at once; 0: as many as its ring holds",
	},
	[SET_MAX_RING_PAGE_ORDER] = {
		.name = "max-ring-page-order",
		.max = 4,
		.preset = 4,
		.help = "the largest ring the guest may use, as a power of two of pages",
	},
	[SET_MAX_QUEUES] = {
		.name = "max-queues",
		.min = 1,
		.max = 8,
		.preset = 4,
		.help = "rings that the guest may use",
	},
	[SET_MAX_INDIRECT_SEGMENTS] = {
		.name = "max-indirect-segments",
		.max = 256,
		.preset = 256,
		.help = "segments of an indirect request; 0: none are offered",
	},
	[SET_POLL] = {
		.name = "poll",
		.choices = poll_modes,
		.preset = 1,
		.live = true,
		.help = "adaptive: look at the ring once more before sleeping, where that has paid",
	},
	[SET_ENOSPC] = {
		.name = "enospc",
		.choices = enospc_modes,
		.preset = ENOSPC_PAUSE,
		.live = true,
		.help = "when the host's disk is full: pause the guest's disk, or report errors to it",
	},
	[SET_DISCARD] = {
		.name = "discard",
		.choices = discard_modes,
		.preset = DISCARD_UNMAP,
		.help = "unmap: a discard frees space; ignore: discard is not offered",
	},
	[SET_BARRIER] = {
		.name = "barrier",
		.choices = off_on,
		.preset = 0,
		.help = "offer write barriers too, for guests that know no flush",
	},
	[SET_MAX_GRANTS] = {
		.name = "max-grants",
		.max = 16384,
		.preset = 1056,
		.help = "pages kept mapped per ring with grant=persistent",
	},
	[SET_ON_ERROR] = {
		.name = "on-error",
		.choices = error_modes,
		.preset = ON_ERROR_REPORT,
		.live = true,
		.help = "when the storage fails otherwise: report it to the guest, or pause its disk",
	},
	[SET_ERROR_TIMEOUT] = {
		.name = "error-timeout",
		.max = 86400,
		.live = true,
		.help = "seconds after which such a pause ends with errors for the guest; 0: never",
	},
	[SET_SLOW] = {
		.name = "slow",
		.max = 3600000,
		.preset = 1000,
		.live = true,
		.help = "milliseconds from which on a request is told as an event; 0: never",
	},
	[SET_IOPS] = {
		.name = "iops",
		.max = THROTTLE_MAX_IOPS,
		.live = true,
		.help = "reads and writes a second together; 0: no limit",
	},
	[SET_IOPS_READ] = {
		.name = "iops-read",
		.max = THROTTLE_MAX_IOPS,
		.live = true,
		.help = "reads a second; 0: no limit",
	},
	[SET_IOPS_WRITE] = {
		.name = "iops-write",
		.max = THROTTLE_MAX_IOPS,
		.live = true,
		.help = "writes and discards a second; 0: no limit",
	},
	[SET_BPS] = {
		.name = "bps",
		.max = THROTTLE_MAX_BPS,
		.bytes = true,
		.live = true,
		.help = "bytes read and written a second together; 0: no limit",
	},
	[SET_BPS_READ] = {
		.name = "bps-read",
		.max = THROTTLE_MAX_BPS,
		.bytes = true,
		.live = true,
		.help = "bytes read a second; 0: no limit",
	},
	[SET_BPS_WRITE] = {
		.name = "bps-write",
		.max = THROTTLE_MAX_BPS,
		.bytes = true,
		.live = true,
		.help = "bytes written a second; 0: no limit",
	},
	[SET_BURST] = {
		.name = "burst",
		.min = 10,
		.max = THROTTLE_MAX_BURST_MS,
		.preset = 100,
		.live = true,
		.help = "milliseconds of these limits that an idle disk saves up",
	},
	[SET_NBD] = {
		.name = "nbd",
		.choices = off_on,
		.help = "NBD clients on this host may use the disk, by a unix socket",
	},
};

static const char *const origins[] = {
	[ORIGIN_DEFAULT] = "default",  [ORIGIN_CONFIG] = "config",
	[ORIGIN_CONFIG_DISK] = "disk", [ORIGIN_TOOLSTACK] = "toolstack",
	[ORIGIN_PARAMS] = "params",    [ORIGIN_STORE] = "store",
	[ORIGIN_SET] = "set",
};

void settings_init(struct settings *settings)
{
	for (unsigned i = 0; i < SET_NKEYS; i++) {
		settings->value[i] = table[i].preset;
		settings->origin[i] = ORIGIN_DEFAULT;
	}
}

bool settings_equal(const struct settings *a, const struct settings *b)
{
	for (unsigned i = 0; i < SET_NKEYS; i++) {
		if (a->origin[i] <= ORIGIN_CONFIG_DISK && b->origin[i] <= ORIGIN_CONFIG_DISK)
			continue;
		if (a->value[i] != b->value[i] || a->origin[i] != b->origin[i])
			return false;
	}
	return true;
}

int settings_key(const char *name, size_t len)
{
	for (int i = 0; i < SET_NKEYS; i++) {
		if (strlen(table[i].name) == len && !memcmp(table[i].name, name, len))
			return i;
	}
	return -1;
}

const char *settings_name(enum setting_key key)
{
	return table[key].name;
}

const char *settings_help(enum setting_key key)
{
	return table[key].help;
}

bool settings_live(enum setting_key key)
{
	return table[key].live;
}

const char *settings_origin_text(enum setting_origin origin)
{
	return (unsigned)origin < ARRAY_SIZE(origins) ? origins[origin] : "?";
}

const char *settings_text(const struct settings *settings, enum setting_key key, char *buf,
			  size_t len)
{
	if (table[key].choices)
		snprintf(buf, len, "%s", table[key].choices[settings->value[key]]);
	else
		snprintf(buf, len, "%" PRIu64, settings->value[key]);
	return buf;
}

const char *settings_domain(enum setting_key key, char *buf, size_t len)
{
	const struct setting *s = &table[key];
	size_t at = 0;

	if (!s->choices) {
		snprintf(buf, len, "%" PRIu64 "..%" PRIu64, s->min, s->max);
		return buf;
	}
	buf[0] = 0;
	for (unsigned i = 0; s->choices[i] && at < len; i++)
		at += (size_t)snprintf(buf + at, len - at, "%s%s", i ? "|" : "", s->choices[i]);
	return buf;
}

/* Digits only, and at most twelve: no sign, no blank, no 0x; of bytes, K, M or G behind them. */
static bool number_parse(const struct setting *s, const char *text, uint64_t *value)
{
	static const char units[] = "KMG";
	size_t len = strspn(text, "0123456789");
	const char *unit = s->bytes && text[len] ? strchr(units, text[len]) : NULL;
	uint64_t v = 0;

	if (!len || len > 12 || text[len + (unit != NULL)])
		return false;
	for (size_t i = 0; i < len; i++)
		v = v * 10 + (uint64_t)(text[i] - '0');
	if (unit) {
		unsigned shift = 10 * (unsigned)(unit - units + 1);

		if (v > s->max >> shift)
			return false;
		v <<= shift;
	}
	if (v < s->min || v > s->max)
		return false;
	*value = v;
	return true;
}

static bool value_parse(const struct setting *s, const char *text, uint64_t *value)
{
	if (!s->choices)
		return number_parse(s, text, value);
	if (s->choices == discard_modes)
		text = !strcmp(text, "on") ? "unmap" : !strcmp(text, "off") ? "ignore" : text;
	for (uint64_t i = 0; s->choices[i]; i++) {
		if (!strcmp(text, s->choices[i])) {
			*value = i;
			return true;
		}
	}
	return false;
}

static void say_keys(const char *key, char *err, size_t errlen)
{
	int at = snprintf(err, errlen, "there is no setting '%.64s'; there are:", key);

	for (unsigned i = 0; i < SET_NKEYS && at >= 0 && (size_t)at < errlen; i++)
		at += snprintf(err + at, errlen - (size_t)at, " %s", table[i].name);
}

static void say_domain(enum setting_key key, const char *value, char *err, size_t errlen)
{
	char domain[128];

	snprintf(err, errlen, "%s=%.64s: should be %s%s", table[key].name, value,
		 settings_domain(key, domain, sizeof(domain)), table[key].bytes ? ", or as in 512K, 10M, 1G" : "");
}

int settings_set(struct settings *settings, const char *key, const char *value,
		 enum setting_origin origin, char *err, size_t errlen)
{
	int k = settings_key(key, strlen(key));
	uint64_t v;

	if (k < 0) {
		say_keys(key, err, errlen);
		return -ENOENT;
	}
	if (!value_parse(&table[k], value, &v)) {
		say_domain((enum setting_key)k, value, err, errlen);
		return -EINVAL;
	}
	if (settings->origin[k] <= origin) {
		settings->value[k] = v;
		settings->origin[k] = (uint8_t)origin;
	}
	return 0;
}

/* --- rules of the configuration file ---------------------------------------------------------- */

struct rule {
	char *glob; /* NULL: [defaults] */
	char *key, *value;
};

struct settings_rules {
	struct rule *rule; /* in the order of the file */
	size_t count;
	_Atomic unsigned references; /* beyond the first */
};

static void rule_clear(struct rule *rule)
{
	free(rule->glob);
	free(rule->key);
	free(rule->value);
}

static int rule_fill(struct rule *rule, const char *glob, const char *key, const char *value)
{
	*rule = (struct rule){
		.glob = glob ? strdup(glob) : NULL,
		.key = strdup(key),
		.value = strdup(value),
	};
	if ((!glob || rule->glob) && rule->key && rule->value)
		return 0;
	rule_clear(rule);
	return -ENOMEM;
}

static int rules_append(struct settings_rules *rules, const char *glob, const char *key,
			const char *value)
{
	struct rule *more = realloc(rules->rule, (rules->count + 1) * sizeof(*more));
	int err;

	if (!more)
		return -ENOMEM;
	rules->rule = more;
	err = rule_fill(&more[rules->count], glob, key, value);
	if (!err)
		rules->count++;
	return err;
}

int settings_rules_add(struct settings_rules **rules, const char *glob, const char *key,
		       const char *value, char *err, size_t errlen)
{
	struct settings scratch;
	int ret;

	settings_init(&scratch);
	ret = settings_set(&scratch, key, value, ORIGIN_CONFIG, err, errlen);
	if (ret)
		return ret;
	if (!*rules)
		*rules = calloc(1, sizeof(**rules));
	ret = *rules ? rules_append(*rules, glob, key, value) : -ENOMEM;
	if (ret)
		snprintf(err, errlen, "out of memory");
	return ret;
}

static bool rule_matches(const struct rule *rule, const char *disk, const char *params)
{
	if (!rule->glob)
		return true;
	return !fnmatch(rule->glob, disk, 0) || (params && !fnmatch(rule->glob, params, 0));
}

void settings_rules_apply(const struct settings_rules *rules, const char *disk, const char *params,
			  struct settings *settings)
{
	char err[256];

	for (size_t i = 0; rules && i < rules->count; i++) {
		const struct rule *rule = &rules->rule[i];

		/* The value was accepted by settings_rules_add() and cannot fail now. */
		if (rule_matches(rule, disk, params))
			settings_set(settings, rule->key, rule->value,
				     rule->glob ? ORIGIN_CONFIG_DISK : ORIGIN_CONFIG, err,
				     sizeof(err));
	}
}

bool settings_reload(struct settings *settings, const struct settings_rules *rules, const char *disk,
		     const char *params)
{
	struct settings fresh;
	bool changed = false;

	settings_init(&fresh);
	settings_rules_apply(rules, disk, params, &fresh);
	for (unsigned i = 0; i < SET_NKEYS; i++) {
		if (settings->origin[i] > ORIGIN_CONFIG_DISK)
			continue;
		changed |= settings->value[i] != fresh.value[i];
		settings->value[i] = fresh.value[i];
		settings->origin[i] = fresh.origin[i];
	}
	return changed;
}

struct settings_rules *settings_rules_get(struct settings_rules *rules)
{
	if (rules)
		atomic_fetch_add(&rules->references, 1);
	return rules;
}

void settings_rules_free(struct settings_rules *rules)
{
	if (!rules || atomic_fetch_sub(&rules->references, 1))
		return;
	for (size_t i = 0; i < rules->count; i++)
		rule_clear(&rules->rule[i]);
	free(rules->rule);
	free(rules);
}
