/*
 * settings.h - the settings of a disk, and where each came from
 *
 * Later wins: built-in default, [defaults] and [disk "GLOB"] of the configuration file, options of
 * the params string, keys ringdisk/KEY in the backend node, `ringdisk set`.  One table (settings.c)
 * describes every key: its type, range, default, when a change takes effect, and a line of help.
 *
 * Plain data: whoever owns the struct (a device, under its lock) guards it.
 */
#ifndef RD_SETTINGS_H
#define RD_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cache_mode { CACHE_WRITEBACK, CACHE_NONE, CACHE_UNSAFE };
enum aio_mode { AIO_INLINE, AIO_THREADS, AIO_NATIVE };
enum grant_mode { GRANT_PERSISTENT, GRANT_COPY, GRANT_MAP, GRANT_MAP_SINGLE };
enum enospc_mode { ENOSPC_PAUSE, ENOSPC_REPORT };
enum error_mode { ON_ERROR_REPORT, ON_ERROR_PAUSE };
enum discard_mode { DISCARD_UNMAP, DISCARD_IGNORE };

enum setting_origin {
	ORIGIN_DEFAULT,
	ORIGIN_CONFIG,     /* [defaults] */
	ORIGIN_CONFIG_DISK, /* [disk "GLOB"] */
	ORIGIN_TOOLSTACK,  /* direct-io-safe=1 of the backend node */
	ORIGIN_PARAMS,
	ORIGIN_STORE,      /* ringdisk/KEY of the backend node */
	ORIGIN_SET,        /* ringdisk set */
};

enum setting_key {
	SET_CACHE,                 /* cache=writeback|none|unsafe */
	SET_SYNC,                  /* sync=off|on */
	SET_AIO,                   /* aio=inline|threads|native */
	SET_GRANT,                 /* grant=persistent|copy|map|map-single */
	SET_MAX_REQUESTS,          /* max-requests=N, 0: the whole ring */
	SET_MAX_RING_PAGE_ORDER,   /* 0..4, default 4 */
	SET_MAX_QUEUES,            /* 1..8, default 4 */
	SET_MAX_INDIRECT_SEGMENTS, /* 0..256, default 256 */
	SET_POLL,                  /* poll=adaptive|off: look once more before sleeping */
	SET_ENOSPC,                /* enospc=pause|report */
	SET_DISCARD,               /* discard=unmap|ignore */
	SET_BARRIER,               /* barrier=off|on: offer feature-barrier */
	SET_MAX_GRANTS,            /* max-grants=N: pages of the persistent cache per ring, default 1056 */
	SET_ON_ERROR,              /* on-error=report|pause: what else fails */
	SET_ERROR_TIMEOUT,         /* error-timeout=SECONDS that either pause lasts at most; 0: no end */
	SET_SLOW,                  /* slow=MS: requests that take longer are an event; 0: none */
	/* in the order of enum throttle_limit */
	SET_IOPS,                  /* iops=N, operations a second; 0: as many as there are */
	SET_IOPS_READ,
	SET_IOPS_WRITE,
	SET_BPS,                   /* bps=BYTES a second */
	SET_BPS_READ,
	SET_BPS_WRITE,
	SET_BURST,                 /* burst=MS: what is saved up of these */
	SET_NBD,                   /* nbd=off|on: exported on a socket */
	SET_NKEYS
};

struct settings {
	uint64_t value[SET_NKEYS]; /* the enum's value, 0/1, or the number */
	uint8_t origin[SET_NKEYS]; /* enum setting_origin */
};

void settings_init(struct settings *settings); /* built-in defaults */
/* The key of that name, or -1. */
int settings_key(const char *name, size_t len);
const char *settings_name(enum setting_key key);
const char *settings_help(enum setting_key key);
bool settings_live(enum setting_key key); /* a change works without a reconnect */
/* The same to whoever made a disk with it: value and origin of each key, but where both are from the defaults
 * or the configuration file, whose rules may change meanwhile (settings_reload()). */
bool settings_equal(const struct settings *a, const struct settings *b);
/* What a value may be, "a|b|c" or "MIN..MAX", into buf; returns buf. */
const char *settings_domain(enum setting_key key, char *buf, size_t len);
/* Set from text.  A key whose present origin is later than origin is left alone (0).  -ENOENT: no
 * such key; -EINVAL: bad value; err then says what would be right. */
int settings_set(struct settings *settings, const char *key, const char *value,
		 enum setting_origin origin, char *err, size_t errlen);
/*
 * Rules from the configuration file: [defaults] has glob NULL; [disk "GLOB"] is matched (fnmatch)
 * against "DOMID/VDEV" and against the params string, in the order of the file.  Filled by one thread,
 * read-only afterwards, and shared by references: a reload makes others, and the last user frees these.
 */
struct settings_rules;
int settings_rules_add(struct settings_rules **rules, const char *glob, const char *key,
		       const char *value, char *err, size_t errlen);
void settings_rules_apply(const struct settings_rules *rules, const char *disk, const char *params,
			  struct settings *settings);
/* Another reference; NULL stays NULL.  Any thread. */
struct settings_rules *settings_rules_get(struct settings_rules *rules);
/* Gives a reference back.  Accepts NULL. */
void settings_rules_free(struct settings_rules *rules);
/* What is from the defaults or the configuration file becomes what these rules say; the rest stays.  True if
 * anything changed. */
bool settings_reload(struct settings *settings, const struct settings_rules *rules, const char *disk,
		     const char *params);

/* The value as text, into buf; returns buf. */
const char *settings_text(const struct settings *settings, enum setting_key key, char *buf,
			  size_t len);
const char *settings_origin_text(enum setting_origin origin);

#endif
