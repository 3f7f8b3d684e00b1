/*
 * What drivers tell about an image ("a.b" is b inside a, "a.0.b" b of the first of a list) as JSON.
 *
 * Keys come from a driver, checked by core: a contradiction between them ("a" and "a.b") loses the later one,
 * and a list grows one by one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "img.h"

static bool is_index(const char *word, size_t length)
{
	return length && strspn(word, "0123456789") >= length;
}

/* The member of an object or array that word names; made, if it is not there, to hold what next names. */
static json_t *member(json_t *in, const char *word, size_t length, bool list)
{
	char name[256];
	json_t *found;

	memcpy(name, word, length);
	name[length] = '\0';
	if (json_is_array(in)) {
		size_t i = strtoul(name, NULL, 10);

		if (is_index(word, length) && i == json_array_size(in))
			json_array_append_new(in, list ? json_array() : json_object());
		return is_index(word, length) ? json_array_get(in, i) : NULL;
	}
	found = json_object_get(in, name);
	/* A count, and then what is counted: the list says more. */
	if (json_is_object(in) && !json_is_object(found) && !json_is_array(found)) {
		found = list ? json_array() : json_object();
		json_object_set_new(in, name, found);
	}
	return found;
}

/* Steals value. */
static void put(json_t *root, const char *key, json_t *value)
{
	const char *dot;
	json_t *at = root;

	for (; at && (dot = strchr(key, '.')); key = dot + 1)
		at = member(at, key, (size_t)(dot - key), is_index(dot + 1, strcspn(dot + 1, ".")));
	if (json_is_array(at) && is_index(key, strlen(key)) && strtoul(key, NULL, 10) == json_array_size(at))
		json_array_append_new(at, value);
	else if (json_is_object(at) && *key && !json_object_get(at, key))
		json_object_set_new(at, key, value);
	else
		json_decref(value);
}

static void put_text(void *ctx, const char *key, const char *value)
{
	json_t *text = json_string(value);

	/* Names in an image may be in any encoding. */
	if (!text) {
		char *clean = strdup(value);

		for (char *s = clean; s && *s; s++)
			if (*s & 0x80)
				*s = '?';
		text = clean ? json_string(clean) : NULL;
		free(clean);
	}
	put(ctx, key, text);
}

static void put_number(void *ctx, const char *key, uint64_t value)
{
	put(ctx, key, json_integer((json_int_t)value));
}

static void put_boolean(void *ctx, const char *key, int value)
{
	put(ctx, key, json_boolean(value));
}

json_t *facts_of(struct image *image)
{
	json_t *root = json_object();
	const struct rd_facts facts = {
		.text = put_text,
		.number = put_number,
		.boolean = put_boolean,
		.ctx = root,
	};

	if (root)
		img_describe(image, &facts);
	return root;
}

/*
 * The image is open for reading, and some drivers then name only what readers need: what the format can be asked for in
 * a plain file is said all the same.
 */
static uint32_t writer_caps(const struct rd_driver *driver)
{
	return (driver->flush ? RD_CAP_FLUSH : 0) | (driver->discard ? RD_CAP_DISCARD : 0) |
	       (driver->write_zeroes ? RD_CAP_WRITE_ZEROES : 0) | (driver->resize ? RD_CAP_RESIZE : 0) |
	       (driver->set_backing ? RD_CAP_SNAPSHOT : 0);
}

static json_t *capabilities(const struct image *image, bool plain)
{
	static const struct {
		uint32_t cap;
		const char *name;
	} caps[] = {
		{RD_CAP_PARALLEL, "parallel"},         {RD_CAP_FLUSH, "flush"},
		{RD_CAP_DISCARD, "discard"},           {RD_CAP_DISCARD_ZEROES, "discard-zeroes"},
		{RD_CAP_WRITE_ZEROES, "write-zeroes"}, {RD_CAP_RESIZE, "resize"},
		{RD_CAP_SNAPSHOT, "overlay"},
	};
	const struct rd_driver *driver = img_driver(image);
	const uint32_t can = img_info(image)->caps | (plain ? writer_caps(driver) : 0);
	json_t *list = json_array();

	for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++)
		if (can & caps[i].cap)
			json_array_append_new(list, json_string(caps[i].name));
	if (driver->check)
		json_array_append_new(list, json_string("check"));
	if (driver->snapshot)
		json_array_append_new(list, json_string("snapshot"));
	if (driver->set_backing)
		json_array_append_new(list, json_string("rebase"));
	if (driver->write_compressed)
		json_array_append_new(list, json_string("compress"));
	return list;
}

json_t *facts_all(struct source *source)
{
	const struct rd_info *info = img_info(source->image);
	json_t *all = json_object(), *own;
	struct stat st;
	bool plain = !stat(source->params.target, &st) && S_ISREG(st.st_mode);

	json_object_set_new(all, "image", json_string(source->string));
	json_object_set_new(all, "format", json_string(source->params.driver->name));
	json_object_set_new(all, "virtual-size", json_integer((json_int_t)info->size));
	if (plain) {
		json_object_set_new(all, "file-size", json_integer(st.st_size));
		json_object_set_new(all, "disk-size", json_integer(st.st_blocks * 512));
	}
	json_object_set_new(all, "logical-block", json_integer(info->logical_block));
	json_object_set_new(all, "physical-block", json_integer(info->physical_block));
	json_object_set_new(all, "optimal-io", json_integer(info->optimal_io));
	json_object_set_new(all, "discard-granularity", json_integer(info->discard_granularity));
	json_object_set_new(all, "can", capabilities(source->image, plain));
	own = facts_of(source->image);
	if (json_object_size(own))
		json_object_set(all, source->params.driver->name, own);
	json_decref(own);
	return all;
}

const char *get_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}
