/*
 * The registry of drivers and the parser of params strings.
 *
 * drv_load() opens every NAME.so of one directory, asks its single symbol for the driver, checks
 * what it got and keeps a copy cut or padded to this daemon's struct rd_driver, so that a driver
 * built with another header size never makes us read past its end. params_parse() splits exactly
 * one prefix, and only the name of a driver found here: nothing is probed, and no name becomes a
 * path.
 *
 * What can go wrong: a driver that cannot be used is skipped, with the reason in the log and in its
 * entry; the others load. Params come from the toolstack and are only text: every refusal has a
 * message.
 *
 * drv_load and drv_unload run on the main thread before and after all others; the rest on any
 * thread.
 */
#include "drivers.h"

#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/overflow.h"
#include "log.h"

/* More are no honest params string; the store's own limit for a node is 4096. */
#define PARAMS_MAX  8192
#define OPTIONS_MAX 64

/* What a driver of API 1 must have: every field up to resize. */
#define DRIVER_SIZE_V1                                                                             \
	(offsetof(struct rd_driver, resize) + sizeof(((struct rd_driver *)0)->resize))

struct module {
	struct drv_entry entry;
	struct rd_driver driver; /* the copy that entry.driver names */
	char *file;
	char *error;
	void *dl;
};

/* Written by drv_load and drv_unload only. */
static struct module **modules;
static unsigned module_count;

static bool name_valid(const char *name)
{
	return name && name[0] && strlen(name) < 32 &&
	       name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-")] == '\0';
}

/* ---- checking a driver
 * --------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static bool refuse(struct module *m, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&m->error, fmt, ap) < 0)
		m->error = NULL;
	va_end(ap);
	m->entry.error = m->error ? m->error : "out of memory";
	return false;
}

static bool check_header(struct module *m, const struct rd_driver *d)
{
	if (!d)
		return refuse(m, "its entry function returned no driver");
	if (d->api > RD_DRIVER_API)
		return refuse(m, "is too new: it was built for driver API %u, this program has %u",
			      d->api, RD_DRIVER_API);
	if (d->api == 0)
		return refuse(m, "driver API 0 does not exist");
	if (d->struct_size < DRIVER_SIZE_V1)
		return refuse(m, "its struct rd_driver has %u bytes, API %u needs %zu",
			      d->struct_size, d->api, DRIVER_SIZE_V1);
	return true;
}

static bool check_callbacks(struct module *m, const struct rd_driver *d)
{
	const char *missing = !d->open              ? "open"
			      : !d->close           ? "close"
			      : !d->readv           ? "readv"
			      : d->map && !d->unmap ? "unmap"
						    : NULL;

	return missing ? refuse(m, "the callback %s is missing", missing) : true;
}

static bool check_options(struct module *m, const struct rd_driver *d)
{
	for (const struct rd_option *o = d->options; o && o->key; o++)
		if (!name_valid(o->key))
			return refuse(m, "the option name \"%s\" is not of [a-z0-9_-]", o->key);
	return true;
}

static bool check_driver(struct module *m, const struct rd_driver *d)
{
	const struct drv_entry *other;

	if (d->flags || d->reserved)
		return refuse(m, "uses flags (%#x, %#x) that must be 0", d->flags, d->reserved);
	if (!name_valid(d->name))
		return refuse(m, "its name \"%s\" is not of [a-z0-9_-]", d->name ? d->name : "");
	if (!strcmp(d->name, "aio") || !strcmp(d->name, "ringdisk"))
		return refuse(m, "the name \"%s\" is taken by the params syntax", d->name);
	for (unsigned i = 0; (other = drv_at(i)); i++)
		if (other->driver && !strcmp(other->driver->name, d->name))
			return refuse(m, "the name \"%s\" is already taken by %s", d->name,
				      other->file);
	return check_callbacks(m, d) && check_options(m, d);
}

/* ---- loading
 * ------------------------------------------------------------------------------------- */

/* The text of dlerror without the path that it likes to begin with: the caller says it. */
static const char *dl_reason(const char *path)
{
	const char *text = dlerror();
	size_t len = strlen(path);

	if (!text)
		return "unknown error";
	return !strncmp(text, path, len) && !strncmp(text + len, ": ", 2) ? text + len + 2 : text;
}

/*
 * The dynamic linker dies of a file that was cut off, and waits for ever at a fifo. So look first whether
 * it is a file and whether all that would be mapped is there; the rest of the checks are the linker's.
 */
static bool check_complete(struct module *m, const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ElfW(Ehdr) elf;
	ElfW(Phdr) part;
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return refuse(m, "cannot be loaded: %s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return refuse(m, "cannot be loaded: not a file");
	if (pread(fd, &elf, sizeof(elf), 0) != sizeof(elf) ||
	    memcmp(elf.e_ident, ELFMAG, SELFMAG) || elf.e_phentsize != sizeof(part))
		return refuse(m, "cannot be loaded: not a shared object");
	for (unsigned i = 0; i < elf.e_phnum; i++) {
		uint64_t at;

		if (!add_u64(elf.e_phoff, i * sizeof(part), &at) || at > INT64_MAX ||
		    pread(fd, &part, sizeof(part), (off_t)at) != sizeof(part) ||
		    (part.p_type == PT_LOAD &&
		     !range_inside(part.p_offset, part.p_filesz, (uint64_t)st.st_size)))
			return refuse(m, "cannot be loaded: a part of the file is missing");
	}
	return true;
}

static bool module_open(struct module *m, const char *path)
{
	const struct rd_driver *d;
	rd_driver_entry_fn entry;

	if (!check_complete(m, path))
		return false;

	m->dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!m->dl)
		return refuse(m, "cannot be loaded: %s", dl_reason(path));
	entry = (rd_driver_entry_fn)dlsym(m->dl, "rd_driver_entry");
	if (!entry)
		return refuse(m, "is no driver: the symbol rd_driver_entry is missing");
	d = entry();
	if (!check_header(m, d))
		return false;
	memcpy(&m->driver, d, MIN((size_t)d->struct_size, sizeof(m->driver)));
	return check_driver(m, &m->driver);
}

static void module_free(struct module *m)
{
	if (!m)
		return;
	if (m->dl)
		dlclose(m->dl);
	free(m->file);
	free(m->error);
	free(m);
}

/* Load one file and append its entry. Only running out of memory is an error. */
static int module_add(const char *dir, const char *file)
{
	CLEANUP_FREE char *path = NULL;
	struct module **grown, *m;

	if (asprintf(&path, "%s/%s", dir, file) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	grown = reallocarray(modules, module_count + 1, sizeof(struct module *));
	if (!grown)
		return -ENOMEM;
	modules = grown;
	m = calloc(1, sizeof(*m));
	if (!m || !(m->file = strdup(file))) {
		module_free(m);
		return -ENOMEM;
	}
	m->entry.file = m->file;
	if (module_open(m, path)) {
		m->entry.driver = &m->driver;
		log_debug(LOG_DRIVER, "driver %s %s from %s", m->driver.name,
			  m->driver.version ? m->driver.version : "", path);
	} else {
		log_err(LOG_DRIVER, "driver %s skipped: %s", path, m->entry.error);
		if (m->dl)
			dlclose(m->dl);
		m->dl = NULL;
	}
	modules[module_count++] = m;
	return 0;
}

static int is_so(const struct dirent *d)
{
	size_t len = strlen(d->d_name);

	return len > 3 && d->d_name[0] != '.' && !strcmp(d->d_name + len - 3, ".so");
}

int drv_load(const char *dir)
{
	struct dirent **names;
	int n = scandir(dir, &names, is_so, alphasort);
	int r = n < 0 ? -errno : 0;
	bool usable = false;

	if (n < 0) {
		log_err(LOG_DRIVER, "driver directory %s: %s", dir, strerror(-r));
		return r;
	}
	for (int i = 0; i < n; i++) {
		if (!r)
			r = module_add(dir, names[i]->d_name);
		free(names[i]);
	}
	free(names);
	for (unsigned i = 0; i < module_count; i++)
		usable |= !!modules[i]->entry.driver;
	if (!r && !usable) {
		log_err(LOG_DRIVER, "driver directory %s holds no usable driver", dir);
		r = -ENOENT;
	}
	return r;
}

void drv_unload(void)
{
	for (unsigned i = 0; i < module_count; i++)
		module_free(modules[i]);
	free(modules);
	modules = NULL;
	module_count = 0;
}

const struct drv_entry *drv_at(unsigned i)
{
	return i < module_count ? &modules[i]->entry : NULL;
}

static const struct rd_driver *find_name(const char *name, size_t len)
{
	for (unsigned i = 0; i < module_count; i++) {
		const struct rd_driver *d = modules[i]->entry.driver;

		if (d && strlen(d->name) == len && !memcmp(d->name, name, len))
			return d;
	}
	return NULL;
}

const struct rd_driver *drv_find(const char *name)
{
	return find_name(name, strlen(name));
}

/* ---- params strings
 * ------------------------------------------------------------------------------ */

__attribute__((format(printf, 3, 4))) static int bad(char *err, size_t len, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (len)
		vsnprintf(err, len, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* "null, raw" into buf. */
static const char *driver_list(char *buf, size_t len)
{
	size_t used = 0;

	snprintf(buf, len, "none");
	for (unsigned i = 0; i < module_count && used < len; i++)
		if (modules[i]->entry.driver)
			used += (size_t)snprintf(buf + used, len - used, "%s%s", used ? ", " : "",
						 modules[i]->entry.driver->name);
	return buf;
}

/* One "key=value", checked against those before it. */
static int check_option(char *const *before, size_t count, const char *option, char *err,
			size_t len)
{
	size_t key = strcspn(option, "=");

	if (!key || option[key] != '=')
		return bad(err, len, "\"%.64s\" is not an option of the form key=value", option);
	if (strspn(option, "abcdefghijklmnopqrstuvwxyz0123456789_-") != key)
		return bad(err, len, "the option name \"%.*s\" is not of [a-z0-9_-]",
			   (int)MIN(key, (size_t)64), option);
	for (size_t i = 0; i < count; i++)
		if (!strncmp(before[i], option, key + 1))
			return bad(err, len, "the option %.*s is given twice",
				   (int)MIN(key, (size_t)64), option);
	return 0;
}

/* Cut text, "" or ",key=value,key=value", into options: room for OPTIONS_MAX and the NULL. */
static int split_options(char *text, char **options, char *err, size_t len)
{
	char *rest = *text == ',' ? text + 1 : NULL, *option;
	size_t count = 0;
	int r;

	while ((option = strsep(&rest, ","))) {
		if (count == OPTIONS_MAX)
			return bad(err, len, "more than %d options", OPTIONS_MAX);
		r = check_option(options, count, option, err, len);
		if (r)
			return r;
		options[count++] = option;
		options[count] = NULL;
	}
	return 0;
}

int params_parse(const char *string, struct params *params, char *err, size_t errlen)
{
	static const char nested[] = "aio:ringdisk:";
	const struct rd_driver *driver;
	char list[512], *colon, *text;
	size_t name, length;
	int r;

	memset(params, 0, sizeof(*params));
	if (!strncmp(string, nested, sizeof(nested) - 1))
		string += sizeof(nested) - 1;
	length = strlen(string);
	if (length > PARAMS_MAX)
		return bad(err, errlen, "the params string is longer than %d bytes", PARAMS_MAX);
	if (!strchr(string, ':'))
		return bad(err, errlen,
			   "\"%.128s\" does not begin with a driver (DRIVER:TARGET); "
			   "there are: %s",
			   string, driver_list(list, sizeof(list)));
	name = strcspn(string, ",:");
	driver = name == 3 && !memcmp(string, "aio", 3) ? drv_find("raw") : find_name(string, name);
	if (!driver)
		return bad(err, errlen, "there is no driver \"%.*s\"; there are: %s",
			   (int)MIN(name, (size_t)64), string, driver_list(list, sizeof(list)));

	params->mem = malloc((OPTIONS_MAX + 1) * sizeof(char *) + length + 1);
	if (!params->mem)
		return bad(err, errlen, "out of memory");
	params->options = (char **)(void *)params->mem;
	params->options[0] = NULL;
	text = params->mem + (OPTIONS_MAX + 1) * sizeof(char *);
	memcpy(text, string, length + 1);
	colon = strchr(text, ':');
	*colon = '\0';
	params->driver = driver;
	params->target = colon + 1;
	r = params->target[0]
		    ? split_options(text + name, params->options, err, errlen)
		    : bad(err, errlen, "%s: there is no target after the colon", driver->name);
	if (r)
		params_free(params);
	return r;
}

int params_copy(const struct params *params, struct params *copy)
{
	/* The target is what stands last. */
	size_t size = (size_t)(params->target - params->mem) + strlen(params->target) + 1;

	*copy = (struct params){ .driver = params->driver, .mem = malloc(size) };
	if (!copy->mem)
		return -ENOMEM;
	memcpy(copy->mem, params->mem, size);
	copy->target = copy->mem + (params->target - params->mem);
	copy->options = (char **)(void *)copy->mem;
	for (char **option = copy->options; *option; option++)
		*option = copy->mem + (*option - params->mem);
	return 0;
}

void params_free(struct params *params)
{
	free(params->mem);
	memset(params, 0, sizeof(*params));
}
