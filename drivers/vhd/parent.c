/*
 * What a differencing image stands on.
 *
 * The image names its parent up to nine times: eight locators (relative and absolute Windows paths, file URLs) and a
 * name in the header. All of them are somebody's words: they are made into plain paths here, and opened by the
 * host's rules (backing_open), until one is there whose unique id is the one that the image was made on. A parent
 * without a unique id (null in the header) is a raw disk, as with tapdisk.
 *
 * What can go wrong: locators that are garbage are passed over; a parent that is another disk is never used.
 *
 * Threads: control threads.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "vhd.h"

#define PATH_LENGTH 2048

/* ---- from the image to paths --------------------------------------------------------------------------- */

/* "C:\dir\a.vhd", ".\a.vhd" */
static void windows_path(char *path)
{
	size_t skip = isalpha((unsigned char)path[0]) && path[1] == ':' ? 2 : 0;

	memmove(path, path + skip, strlen(path + skip) + 1);
	for (char *c = path; *c; c++)
		if (*c == '\\')
			*c = '/';
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : isxdigit((unsigned char)c) ? tolower(c) - 'a' + 10 : -1;
}

/* "%20" to " ", in place. */
static int percent_decode(char *text)
{
	char *out = text;

	for (; *text; text++) {
		if (*text == '%') {
			int high = hex(text[1]), low = high < 0 ? -1 : hex(text[2]);

			if (low < 0 || high * 16 + low == 0)
				return -EILSEQ;
			*out++ = (char)(high * 16 + low);
			text += 2;
		} else {
			*out++ = *text;
		}
	}
	*out = '\0';
	return 0;
}

/* "file:///dir/a.vhd", "file://localhost/dir/a.vhd", tapdisk's "file://./a.vhd" */
static int url_path(char *url)
{
	static const char scheme[] = "file://", here[] = "localhost/";
	char *path = url + strlen(scheme);

	if (strncmp(url, scheme, strlen(scheme)))
		return -EILSEQ;
	if (!strncmp(path, here, strlen(here)))
		path += strlen(here) - 1;
	memmove(url, path, strlen(path) + 1);
	return percent_decode(url);
}

static int decode(uint32_t code, const uint8_t *data, size_t length, char path[PATH_LENGTH])
{
	int r;

	if (code == PLATFORM_MACX) {
		if (length >= PATH_LENGTH)
			return -ENAMETOOLONG;
		memcpy(path, data, length);
		path[length] = '\0';
		return url_path(path);
	}
	r = utf16_decode(data, length, false, path, PATH_LENGTH);
	if (!r)
		windows_path(path);
	return r;
}

static int locator_path(struct vhd *v, const struct locator *loc, char path[PATH_LENGTH])
{
	uint8_t data[2 * PATH_LENGTH];
	uint64_t file;
	int r = file_size(v, &file);

	if (!r && (!loc->length || loc->length > loc->space || loc->length > sizeof(data) ||
		   !range_inside(loc->offset, loc->length, file)))
		r = -EINVAL;
	if (!r)
		r = file_read(v, data, loc->length, loc->offset);
	return r ? r : decode(loc->code, data, loc->length, path);
}

/* The name in the header: its last part, beside the image. */
static int name_path(struct vhd *v, char path[PATH_LENGTH])
{
	int r = utf16_decode(v->h.raw + HDR_PARENT_NAME, HDR_PARENT_NAME_LENGTH, true, path, PATH_LENGTH);
	char *last;

	if (r)
		return r;
	windows_path(path);
	last = strrchr(path, '/');
	if (last)
		memmove(path, last + 1, strlen(last + 1) + 1);
	return 0;
}

/* Adds it, if it is one and is new. */
static int add_path(char **paths, int n, int max, char *path)
{
	while (!strncmp(path, "./", 2))
		memmove(path, path + 2, strlen(path + 2) + 1);
	if (!path[0] || n == max)
		return n;
	for (int i = 0; i < n; i++)
		if (!strcmp(paths[i], path))
			return n;
	paths[n] = strdup(path);
	return paths[n] ? n + 1 : n;
}

int parent_paths(struct vhd *v, char **paths, int max)
{
	static const uint32_t order[] = { PLATFORM_W2RU, PLATFORM_MACX, PLATFORM_W2KU };
	char path[PATH_LENGTH];
	int n = 0;

	for (unsigned o = 0; o < ARRAY_SIZE(order); o++)
		for (unsigned i = 0; i < LOCATORS; i++)
			if (v->h.loc[i].code == order[o] && !locator_path(v, &v->h.loc[i], path))
				n = add_path(paths, n, max, path);
	if (!name_path(v, path))
		n = add_path(paths, n, max, path);
	return n;
}

/* ---- the parent's identity ----------------------------------------------------------------------------- */

struct identity {
	char uuid[37];
};

static void take_text(void *ctx, const char *key, const char *value)
{
	struct identity *id = ctx;

	if (!strcmp(key, "uuid"))
		snprintf(id->uuid, sizeof(id->uuid), "%s", value);
}

static void pass_number(void *ctx, const char *key, uint64_t value)
{
	(void)ctx, (void)key, (void)value;
}

static void pass_boolean(void *ctx, const char *key, int value)
{
	(void)ctx, (void)key, (void)value;
}

static void identify(const struct rd_host *host, struct rd_child *child, struct identity *id)
{
	const struct rd_facts facts = {
		.text = take_text,
		.number = pass_number,
		.boolean = pass_boolean,
		.ctx = id,
	};

	id->uuid[0] = '\0';
	host->child_describe(child, &facts);
}

static bool is_the_one(struct vhd *v, struct rd_child *child, const char *path)
{
	struct identity id;
	char wanted[37];

	if (uuid_is_null(v->h.parent_uuid))
		return true;
	uuid_text(v->h.parent_uuid, wanted);
	identify(v->host, child, &id);
	if (!strcmp(id.uuid, wanted))
		return true;
	v->host->log(v->host, RD_LOG_ERR, "%s: %s is not its parent: it is disk %s, and should be %s", v->path,
		     path, id.uuid[0] ? id.uuid : "(none)", wanted);
	return false;
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static int try_parent(struct vhd *v, const char *path)
{
	const char *format = uuid_is_null(v->h.parent_uuid) ? "raw" : "vhd";
	struct rd_info info = { .struct_size = sizeof(info) };
	struct rd_child *child;
	int r = v->host->backing_open(v->host, v->file, format, path, &child, &info);

	if (r)
		return r;
	if (!is_the_one(v, child, path)) {
		v->host->child_close(child);
		return -ESTALE;
	}
	v->parent = child;
	v->parent_size = info.size;
	v->parent_block = info.logical_block;
	v->parent_name = strdup(path);
	return v->parent_name ? 0 : -ENOMEM;
}

int parent_open(struct vhd *v)
{
	char *paths[LOCATORS + 1];
	int n = parent_paths(v, paths, LOCATORS + 1), r = -ENOENT;

	if (!n)
		v->host->log(v->host, RD_LOG_ERR, "%s: is a differencing disk, but names no parent", v->path);
	for (int i = 0; i < n; i++) {
		if (r && r != -ENOMEM)
			r = try_parent(v, paths[i]);
		free(paths[i]);
	}
	return r;
}

/* ---- naming it ----------------------------------------------------------------------------------------- */

/* name as Windows writes it; relative ones begin with ".\". */
static int encode_windows(const char *name, uint8_t *out, size_t room)
{
	char path[PATH_LENGTH];

	while (!strncmp(name, "./", 2))
		name += 2;
	if (snprintf(path, sizeof(path), "%s%s", name[0] == '/' ? "" : ".\\", name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	for (char *c = path; *c; c++)
		if (*c == '/')
			*c = '\\';
	return utf16_encode(path, false, out, room);
}

static int encode_url(const char *name, uint8_t *out, size_t room)
{
	static const char keep[] = "/-_.~!$&'()*+,;=:@";
	char *end = (char *)out, *limit = end + room;

	end += snprintf(end, room, "file://%s", name[0] == '/' ? "" : "./");
	for (; *name; name++) {
		bool plain = isalnum((unsigned char)*name) || strchr(keep, *name);

		if (limit - end < 4)
			return -ENAMETOOLONG;
		end += snprintf(end, 4, plain ? "%c" : "%%%02x", (unsigned char)*name);
	}
	return (int)(end - (char *)out);
}

static int encode_name(struct header *h, const char *name)
{
	const char *last = strrchr(name, '/');
	int r;

	memset(h->raw + HDR_PARENT_NAME, 0, HDR_PARENT_NAME_LENGTH);
	r = utf16_encode(last ? last + 1 : name, true, h->raw + HDR_PARENT_NAME, HDR_PARENT_NAME_LENGTH - 2);
	return r < 0 ? r : 0;
}

int parent_encode(struct header *h, const char *name, uint64_t offset, uint8_t *data, size_t room)
{
	static const uint32_t codes[] = { PLATFORM_MACX, PLATFORM_W2KU, PLATFORM_W2RU };
	const size_t each = room / ARRAY_SIZE(codes);
	int r = encode_name(h, name);

	memset(data, 0, room);
	memset(h->loc, 0, sizeof(h->loc));
	for (unsigned i = 0; i < ARRAY_SIZE(codes) && r >= 0; i++) {
		uint8_t *out = data + i * each;

		r = codes[i] == PLATFORM_MACX ? encode_url(name, out, each)
					      : encode_windows(name, out, each);
		h->loc[i] = (struct locator){
			.code = codes[i],
			.length = (uint32_t)MAX(r, 0),
			.space = each,
			.offset = offset + i * each,
		};
	}
	return r < 0 ? r : 0;
}

int parent_identify(const struct rd_host *host, struct rd_file *from, const char *format, const char *name,
		    uint8_t uuid[16], uint64_t *size)
{
	struct rd_info info = { .struct_size = sizeof(info) };
	struct rd_child *child;
	struct identity id;
	int r;

	if (!format || (strcmp(format, "vhd") && strcmp(format, "raw"))) {
		host->log(host, RD_LOG_ERR, "a parent is of format vhd or raw, not %s", format ? format : "unknown");
		return -EINVAL;
	}
	r = host->backing_open(host, from, format, name, &child, &info);
	if (r)
		return r;
	memset(uuid, 0, 16);
	*size = info.size;
	identify(host, child, &id);
	host->child_close(child);
	if (!strcmp(format, "raw"))
		return 0;
	for (unsigned i = 0, at = 0; i < 16 && id.uuid[at] && id.uuid[at + 1]; i++, at += 2) {
		at += id.uuid[at] == '-';
		uuid[i] = (uint8_t)(hex(id.uuid[at]) << 4 | hex(id.uuid[at + 1]));
	}
	if (!uuid_is_null(uuid))
		return 0;
	host->log(host, RD_LOG_ERR, "%s has no unique id: nothing can stand on it", name);
	return -EINVAL;
}

/* ---- another parent ------------------------------------------------------------------------------------ */

static uint64_t behind_tables(const struct vhd *v)
{
	uint64_t end = v->h.table_offset + bat_bytes(v->h.entries);

	if (v->batmap.there) {
		end = MAX(end, v->batmap.header + BMH_LENGTH);
		end = MAX(end, v->batmap.offset + v->batmap.bytes);
	}
	return align_up(end, 4096);
}

/* Where the locators' data goes: behind the tables, but not where the present ones are, which count until the new
 * header takes over. So they alternate between two places. */
static uint64_t locator_area(const struct vhd *v)
{
	uint64_t start = behind_tables(v);

	for (unsigned round = 0; round < LOCATORS; round++)
		for (unsigned i = 0; i < LOCATORS; i++) {
			const struct locator *loc = &v->h.loc[i];

			if (loc->code && loc->space && loc->space <= LOCATOR_BYTES_MAX &&
			    ranges_meet(start, PARENT_AREA, loc->offset, loc->space))
				start = align_up(loc->offset + loc->space, 4096);
		}
	return ranges_meet(start, PARENT_AREA, v->footer.data_offset, HDR_LENGTH)
		       ? align_up(v->footer.data_offset + HDR_LENGTH, 4096)
		       : start;
}

/* Locators' data, if there is any, to where it was made room for; then the header that counts on them, and the type,
 * take over in one step. */
static int write_parent(struct vhd *v, struct header *h, const uint8_t *data, uint64_t offset, uint32_t type)
{
	uint64_t end = MAX(header_end(v), data ? offset + PARENT_AREA : 0), spare = header_spare(v, end);
	struct footer f = v->footer;
	int r = make_room(v, spare == end ? end + HDR_LENGTH : end);

	if (!r && data)
		r = file_write(v, data, PARENT_AREA, offset);
	f.type = type;
	r = r ? r : header_switch(v, h, &f, spare, true);
	v->differencing = v->footer.type == TYPE_DIFFERENCING;
	return r;
}

static int set_parent(struct vhd *v, const char *name, struct header *h)
{
	uint8_t *data = malloc(PARENT_AREA);
	uint64_t offset = locator_area(v);
	int r = data ? parent_encode(h, name, offset, data, PARENT_AREA) : -ENOMEM;

	if (r == -EILSEQ || r == -ENAMETOOLONG)
		v->host->log(v->host, RD_LOG_ERR, "%s: the parent's path is too long, or is no UTF-8", v->path);
	r = r ? r : write_parent(v, h, data, offset, TYPE_DIFFERENCING);
	free(data);
	return r;
}

static int set_none(struct vhd *v, struct header *h)
{
	memset(h->parent_uuid, 0, sizeof(h->parent_uuid));
	memset(h->raw + HDR_PARENT_NAME, 0, HDR_PARENT_NAME_LENGTH);
	memset(h->loc, 0, sizeof(h->loc));
	h->parent_timestamp = 0;
	return write_parent(v, h, NULL, 0, TYPE_DYNAMIC);
}

int vhd_set_backing(void *handle, const char *backing, const char *format)
{
	struct vhd *v = handle;
	struct header h = v->h;
	uint64_t size;
	int r;

	if (v->fixed || v->damaged)
		return v->fixed ? -EOPNOTSUPP : -EROFS;
	r = meta_checkpoint(v->meta);
	if (r || !backing)
		return r ? r : set_none(v, &h);
	r = parent_identify(v->host, v->file, format, backing, h.parent_uuid, &size);
	if (r)
		return r;
	h.parent_timestamp = vhd_time();
	return set_parent(v, backing, &h);
}
