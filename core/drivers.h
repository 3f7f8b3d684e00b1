/*
 * drivers.h - the registry of drivers, loaded once at startup from one directory
 *
 * Read-only after drv_load: any thread, no lock.  A driver that is broken, too new, or lacks a
 * callback is skipped with a message that says what is wrong with it; its failure is kept for
 * `ringdisk drivers`.
 */
#ifndef RD_DRIVERS_H
#define RD_DRIVERS_H

#include <ringdisk/driver.h>

/* Load every *.so in dir (RTLD_NOW|RTLD_LOCAL).  0 even if some were skipped; -errno if dir cannot
 * be read or holds no usable driver. */
int drv_load(const char *dir);
/* Only for tests: forget all. */
void drv_unload(void);

/* NULL if there is none of that name. */
const struct rd_driver *drv_find(const char *name);

struct drv_entry {
	const char *file;                /* base name of the .so */
	const struct rd_driver *driver;  /* NULL: skipped, and error says why */
	const char *error;
};
/* The i-th .so found, NULL past the end. */
const struct drv_entry *drv_at(unsigned i);

/*
 * A params string, "driver[,key=value...]:target", taken apart.  Exactly one prefix is split, and
 * only a known driver name.  libxl's "aio:" means raw; "aio:ringdisk:PARAMS" means PARAMS (the way
 * to pass anything through xl's target=).  Everything else is an error that lists the drivers.
 */
struct params {
	const struct rd_driver *driver;
	char *target;
	char **options;  /* "key=value", NULL at end */
	char *mem;       /* owns all of it */
};
/* 0, or -EINVAL with a message in err (owned by caller, always terminated). */
int params_parse(const char *string, struct params *params, char *err, size_t errlen);
void params_free(struct params *params);
/* A copy of params that params_parse has made, for params_free.  0 or -ENOMEM. */
int params_copy(const struct params *params, struct params *copy);

#endif
