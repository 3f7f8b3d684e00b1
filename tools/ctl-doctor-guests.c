/*
 * ringdisk doctor: which guests have raw files that would not come to us, and which HVM guests have disks that QEMU
 * would open, too.
 *
 * xl gives a raw image without backendtype=qdisk to the kernel's blkback, and an HVM guest's first disks to QEMU. Read are the configurations in /etc/xen,
 * and what libxl keeps of running guests in /var/lib/xen, userdata-d.DOMID.UUID.libxl-json. A disk line is
 * taken apart as xl-disk-configuration(5) says: words in order (target, format, vdev, access) or key=value in any,
 * target= with all that follows it last, and the prefixes of old. What cannot be understood is left to xl to
 * complain about.
 */
#include "ctl-doctor.h"

#include <glob.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vdev.h"

#define MAX_SAID 50 /* of such disks; more are counted */
#define MAX_CFG	 (256 * 1024)

struct disk_line {
	char target[1024], format[16], vdev[32], backendtype[16];
	bool readonly, cdrom, script, elsewhere; /* elsewhere: a driver domain's */
	bool old;				 /* a prefix of old takes the place of the format */
};

struct guest {
	char name[80], where[300];
	bool hvm;
};

static unsigned said, counted;

/* ---- a disk ----------------------------------------------------------------------------------------- */

static void copy(char *to, size_t room, const char *from)
{
	snprintf(to, room, "%s", from);
}

/* QEMU is given it for the firmware and the boot loader; a disk that is only read may be read by two. */
static bool is_emulated(const struct guest *guest, const struct disk_line *d)
{
	uint32_t vdev;

	return guest->hvm && !d->readonly && !vdev_parse(d->vdev, &vdev) && vdev_emulated(vdev);
}

/* The driver and the file behind a target, as they stand in an URI. */
static void encode_target(const struct disk_line *d, char *to, size_t room)
{
	const char *from = d->target;
	size_t n = 0;

	if (!strncmp(from, "ringdisk:", 9))
		from += 9;
	else
		n = (size_t)snprintf(to, room, "%s:", *d->format ? d->format : "raw");
	for (; *from && n + 4 < room; from++)
		n += (size_t)snprintf(to + n, room - n, strchr("?%,#&", *from) ? "%%%02X" : "%c",
		                      (unsigned char)*from);
	to[n] = 0;
}

static void working_line(const struct guest *guest, const struct disk_line *d, char *fix, size_t room)
{
	char name[1100];

	encode_target(d, name, sizeof(name));
	if (is_emulated(guest, d))
		snprintf(fix, room,
		         "'vdev=%s,format=raw,backendtype=qdisk,target=nbd+unix:///%s?socket=/run/ringdisk/nbd/sock'",
		         d->vdev, name);
	else
		snprintf(fix, room, "'vdev=%s,format=raw,%sbackendtype=qdisk,target=%s%s'", d->vdev,
		         d->readonly ? "access=ro," : "",
		         !strncmp(d->target, "ringdisk:", 9) ? "" : "ringdisk:raw:", d->target);
}

static void tell(const struct guest *guest, const struct disk_line *d, const char *what)
{
	char fix[1400];

	counted++;
	if (said >= MAX_SAID)
		return;
	said++;
	working_line(guest, d, fix, sizeof(fix));
	doctor_say(NOTE, "guests", fix, "%s: %s %s %s (%s)", guest->name, d->vdev, d->target, what,
	           guest->where);
}

/* Block devices are what blkback is for; a raw file is asked for, since QEMU is where it would else be. */
static void judge(const struct guest *guest, const struct disk_line *d)
{
	bool raw = !*d->format || !strcmp(d->format, "raw");
	bool phy = !*d->backendtype || !strcmp(d->backendtype, "phy");

	if (d->script || d->cdrom || d->elsewhere || !*d->target || !*d->vdev)
		return;
	if (!raw || !strcmp(d->backendtype, "qdisk")) {
		if (is_emulated(guest, d) && strncmp(d->target, "nbd+unix:", 9) != 0)
			tell(guest, d, "is opened by QEMU, and refused by ringdiskd if that is to serve it");
	} else if (phy && strncmp(d->target, "/dev/", 5) != 0) {
		tell(guest, d, "is given to the kernel's blkback");
	}
}

/* ---- a disk line of a configuration ----------------------------------------------------------------- */

static bool is_readonly(const char *access)
{
	return !strcmp(access, "r") || !strcmp(access, "ro");
}

/* "file:/srv/vm.img" and the like. */
static void set_target(struct disk_line *d, const char *text)
{
	static const char *const formats[] = {"raw", "qcow", "qcow2", "vhd", "qed"};
	static const char *const others[] = {"file", "phy", "aio", "tap", "tap2", "tapdisk", "ioemu"};
	const char *colon = strchr(text, ':');
	size_t len = colon && *text != '/' ? (size_t)(colon - text) : 0;

	for (size_t i = 0; len && i < sizeof(formats) / sizeof(formats[0]); i++) {
		if (strlen(formats[i]) == len && !strncmp(text, formats[i], len)) {
			copy(d->format, sizeof(d->format), formats[i]);
			d->old = true;
			set_target(d, colon + 1);
			return;
		}
	}
	for (size_t i = 0; len && i < sizeof(others) / sizeof(others[0]); i++) {
		if (strlen(others[i]) == len && !strncmp(text, others[i], len)) {
			d->old = true;
			set_target(d, colon + 1);
			return;
		}
	}
	d->script |= len > 0; /* iscsi: and others have a script each */
	copy(d->target, sizeof(d->target), text);
}

static void set_key(struct disk_line *d, const char *key, const char *value)
{
	if (!strcmp(key, "vdev"))
		copy(d->vdev, sizeof(d->vdev), value);
	else if (!strcmp(key, "format"))
		copy(d->format, sizeof(d->format), value);
	else if (!strcmp(key, "access"))
		d->readonly = is_readonly(value);
	else if (!strcmp(key, "backendtype"))
		copy(d->backendtype, sizeof(d->backendtype), value);
	else if (!strcmp(key, "script"))
		d->script = true;
	else if (!strcmp(key, "backend"))
		d->elsewhere = strcmp(value, "0") != 0 && strcmp(value, "Domain-0") != 0;
	else if (!strcmp(key, "devtype"))
		d->cdrom = !strcmp(value, "cdrom");
}

/* A word that stands for itself, wherever it stands. */
static bool is_flag(struct disk_line *d, const char *word)
{
	static const char *const flags[] = {"cdrom", "direct-io-safe", "discard", "no-discard",
	                                    "trusted", "untrusted"};

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		if (strcmp(word, flags[i]) != 0)
			continue;
		d->cdrom |= !i;
		return true;
	}
	return false;
}

static void set_word(struct disk_line *d, unsigned *position, const char *word)
{
	char *colon;

	if (is_flag(d, word))
		return;
	if (!strchr("rw", word[0]) || strlen(word) > 2 || *position < 2)
		(*position)++;
	else
		*position = 4;
	if (*position == 2 && d->old)
		*position = 3;
	switch (*position) {
	case 1:
		set_target(d, word);
		break;
	case 2:
		copy(d->format, sizeof(d->format), word);
		break;
	case 3:
		copy(d->vdev, sizeof(d->vdev), word);
		colon = strchr(d->vdev, ':');
		d->cdrom |= colon && !strcmp(colon, ":cdrom");
		break;
	case 4:
		d->readonly = is_readonly(word);
		break;
	default:
		break;
	}
}

/* Takes the text apart, and apart it stays. */
static void parse_line(struct disk_line *d, char *text)
{
	unsigned position = 0;

	*d = (struct disk_line){0};
	while (text) {
		char *item = text + strspn(text, " \t"), *value;

		if (!strncmp(item, "target=", 7)) {
			copy(d->target, sizeof(d->target), item + 7);
			return;
		}
		text = strchr(item, ',');
		if (text)
			*text++ = 0;
		value = strchr(item, '=');
		if (value) {
			*value++ = 0;
			set_key(d, item, value);
		} else {
			set_word(d, &position, item);
		}
	}
}

/* ---- a configuration --------------------------------------------------------------------------------- */

/* Past blanks, newlines, commas and comments. */
static char *skip(char *p)
{
	for (;;) {
		p += strspn(p, " \t\r\n,");
		if (*p != '#')
			return p;
		p += strcspn(p, "\n");
	}
}

/* The string that begins at p, or NULL; *end is behind it. */
static char *quoted(char *p, char **end)
{
	char *close = *p == '\'' || *p == '"' ? strchr(p + 1, *p) : NULL;

	if (!close)
		return NULL;
	*close = 0;
	*end = close + 1;
	return p + 1;
}

/* What stands behind "key =" at the beginning of a line; NULL: there is none. */
static char *value_of(char *text, const char *key)
{
	size_t len = strlen(key);

	for (char *line = text; line; line = strchr(line, '\n')) {
		line += strspn(line, " \t\n");
		if (strncmp(line, key, len) != 0)
			continue;
		line += len;
		line += strspn(line, " \t");
		if (*line == '=')
			return line + 1 + strspn(line + 1, " \t");
	}
	return NULL;
}

static bool value_is(char *text, const char *key, const char *word)
{
	char *value = value_of(text, key);

	return value && (*value == '"' || *value == '\'') && !strncmp(value + 1, word, strlen(word)) &&
	       value[1 + strlen(word)] == *value;
}

static void read_disks(const struct guest *guest, char *p)
{
	struct disk_line d;
	char *line;

	if (!p || *p != '[')
		return;
	for (p = skip(p + 1); (line = quoted(p, &p)); p = skip(p)) {
		parse_line(&d, line);
		judge(guest, &d);
	}
}

static void read_configuration(const char *path, char *text)
{
	const char *file = strrchr(path, '/');
	struct guest guest = {
		.hvm = value_is(text, "type", "hvm") || value_is(text, "builder", "hvm"),
	};
	char *disks = value_of(text, "disk"), *name = value_of(text, "name"), *end;

	snprintf(guest.where, sizeof(guest.where), "/etc/xen%.280s", file ? file : "");
	copy(guest.name, sizeof(guest.name), file ? file + 1 : path);
	/* The name ends where a NUL is put: disks may stand before or behind it. */
	name = name ? quoted(name, &end) : NULL;
	if (name)
		snprintf(guest.name, sizeof(guest.name), "guest %.60s", name);
	read_disks(&guest, disks);
}

static void look_at_configuration(const char *path)
{
	char *text = malloc(MAX_CFG);
	FILE *file = fopen(path, "re");
	size_t len;

	if (file && text) {
		len = fread(text, 1, MAX_CFG - 1, file);
		text[len] = 0;
		if (strlen(text) == len)
			read_configuration(path, text);
	}
	if (file)
		fclose(file);
	free(text);
}

/* ---- a guest that runs -------------------------------------------------------------------------------- */

static const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

/* libxl writes some of its flags as numbers, and leaves out what is as it would be anyway. */
static bool flag_of(json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);

	return json_is_true(value) || json_integer_value(value);
}

static void judge_json(const struct guest *guest, json_t *disk)
{
	struct disk_line d = {
		.readonly = !flag_of(disk, "readwrite"),
		.cdrom = flag_of(disk, "is_cdrom"),
		.script = *text_of(disk, "script"),
		.elsewhere = *text_of(disk, "backend_domname"),
	};

	copy(d.target, sizeof(d.target), text_of(disk, "pdev_path"));
	copy(d.vdev, sizeof(d.vdev), text_of(disk, "vdev"));
	copy(d.format, sizeof(d.format), text_of(disk, "format"));
	copy(d.backendtype, sizeof(d.backendtype), text_of(disk, "backend"));
	judge(guest, &d);
}

static void look_at_guest(const char *path)
{
	const char *id = strstr(path, "userdata-d.");
	json_t *all = json_load_file(path, 0, NULL), *info = json_object_get(all, "c_info"), *disk;
	struct guest guest = {.hvm = !strcmp(text_of(info, "type"), "hvm")};
	size_t i;

	snprintf(guest.name, sizeof(guest.name), "guest %.60s", text_of(info, "name"));
	snprintf(guest.where, sizeof(guest.where), "it runs, domain %d", id ? atoi(id + 11) : 0);
	json_array_foreach(json_object_get(all, "disks"), i, disk)
		judge_json(&guest, disk);
	json_decref(all);
}

/* ---- all of them ---------------------------------------------------------------------------------------- */

static void each_file(const char *pattern, void (*look)(const char *path))
{
	char full[4096];
	glob_t found;

	if (!glob(doctor_path(pattern, full, sizeof(full)), 0, NULL, &found)) {
		for (size_t i = 0; i < found.gl_pathc; i++)
			look(found.gl_pathv[i]);
	}
	globfree(&found);
}

void doctor_guests(void)
{
	said = counted = 0;
	each_file("/etc/xen/*.cfg", look_at_configuration);
	each_file("/var/lib/xen/userdata-d.*.libxl-json", look_at_guest);
	if (counted > said)
		doctor_say(NOTE, "guests", NULL, "and %u more such disks", counted - said);
	else if (!counted)
		doctor_say(FINE, "guests", NULL,
		           "no guest's raw file is left to the kernel's blkback, no HVM guest's disk to two");
}
