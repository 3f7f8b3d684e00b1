/*
 * A state that a crash may have left: does it open, does it contradict itself, and is every sector legal?
 */
#include "crash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"

struct image *judge_open(const struct format *format, const char *path, uint32_t flags, char *err,
			 size_t errlen)
{
	char string[4096];
	struct params params;
	struct image *image = NULL;

	snprintf(string, sizeof(string), "%s%s:%s", format->name, format->options, path);
	if (params_parse(string, &params, err, errlen))
		return NULL;
	if (img_open("crash", &params, flags, &image, err, errlen))
		image = NULL;
	params_free(&params);
	return image;
}

/* True if it is new. Open addressing. */
static bool set_add(struct set *set, uint64_t hash)
{
	size_t i;

	hash |= !hash;
	if (!set->room || set->count > set->room / 2) {
		struct set old = *set;

		set->room = old.room ? 2 * old.room : 4096;
		set->table = xalloc(set->room * sizeof(*set->table));
		set->count = 0;
		for (size_t k = 0; k < old.room; k++)
			if (old.table[k])
				set_add(set, old.table[k]);
		free(old.table);
	}
	for (i = hash % set->room; set->table[i]; i = (i + 1) % set->room)
		if (set->table[i] == hash)
			return false;
	set->table[i] = hash;
	set->count++;
	return true;
}

static bool is_legal(const struct model_sector *s, uint16_t value)
{
	for (unsigned i = 0; i < s->count; i++)
		if (s->legal[i] == value)
			return true;
	return false;
}

static bool wrong_value(struct judge *judge, const struct model_sector *s, uint64_t at,
			uint16_t value)
{
	size_t used = (size_t)snprintf(judge->why, sizeof(judge->why),
				       "sector %llu has the value %#x; legal are",
				       (unsigned long long)at, value);

	for (unsigned i = 0; i < s->count && used < sizeof(judge->why); i++)
		used += (size_t)snprintf(judge->why + used, sizeof(judge->why) - used, " %#x",
					 s->legal[i]);
	return false;
}

/* Where the size of the file is that of the disk, it may be in between while it grows. */
static bool size_is_legal(struct image *image, const struct model *model, uint64_t sectors)
{
	bool below = false, above = false;

	for (unsigned i = 0; i < model->size_count; i++) {
		if (model->sizes[i] == sectors)
			return true;
		below |= model->sizes[i] < sectors;
		above |= model->sizes[i] > sectors;
	}
	return below && above && !img_driver(image)->check;
}

static bool content_is_legal(struct judge *judge, const struct model *model, const uint8_t *bytes,
			     uint64_t sectors)
{
	for (uint64_t s = 0; s < sectors; s++) {
		uint16_t value = value_read(bytes + s * SECTOR, s);

		if (!is_legal(&model->sector[s], value))
			return wrong_value(judge, &model->sector[s], s, value);
	}
	return true;
}

static bool judge_content(struct judge *judge, struct image *image, const struct model *model)
{
	uint64_t sectors = img_info(image)->size / SECTOR;
	struct iovec iov = { .iov_len = img_info(image)->size };
	bool good = size_is_legal(image, model, sectors);
	int r;

	if (!good) {
		snprintf(judge->why, sizeof(judge->why), "the disk has %llu sectors",
			 (unsigned long long)sectors);
		return false;
	}
	iov.iov_base = xalloc(iov.iov_len);
	r = img_readv(image, &iov, 1, 0);
	if (r)
		snprintf(judge->why, sizeof(judge->why), "it cannot be read: %s", strerror(-r));
	good = !r && content_is_legal(judge, model, iov.iov_base, sectors);
	free(iov.iov_base);
	return good;
}

static bool judge_check(struct judge *judge, struct image *image)
{
	struct rd_check result = { .struct_size = sizeof(result) };
	int r;

	if (!img_driver(image)->check)
		return true;
	r = img_check(image, 0, NULL, &result);
	judge->leaks += !r && result.leaks;
	if (!r && !result.errors && !result.unchecked)
		return true;
	snprintf(judge->why, sizeof(judge->why), "check: %s, %llu errors, %llu unchecked",
		 strerror(-r), (unsigned long long)result.errors,
		 (unsigned long long)result.unchecked);
	return false;
}

/* As much as the disk has at least. */
static bool judge_reader(struct judge *judge, const struct model *model)
{
	uint64_t sectors = model->sizes[0];
	uint8_t *bytes;
	bool good;

	for (unsigned i = 1; i < model->size_count; i++)
		sectors = MIN(sectors, model->sizes[i]);
	bytes = xalloc(sectors * SECTOR);
	good = reader_read(judge->format->reader, judge->path, bytes, sectors * SECTOR);
	if (!good)
		snprintf(judge->why, sizeof(judge->why), "QEMU does not read it: %.400s", reader_says());
	else if (!content_is_legal(judge, model, bytes, sectors)) {
		size_t used = strlen(judge->why);

		snprintf(judge->why + used, sizeof(judge->why) - used, ", as QEMU reads it");
		good = false;
	}
	free(bytes);
	return good;
}

/* What costs a process. It looks at the tables: states that differ in the guest's data alone are one to it. */
static bool judge_external(struct judge *judge, const struct state *state, const struct model *model)
{
	char command[4096];
	int status;

	if (!judge->format->external || !judge->external_one_in ||
	    next_random(&judge->seed) % judge->external_one_in ||
	    !set_add(&judge->seen_tables, state_hash_tables(state)))
		return true;
	judge->externals++;
	snprintf(command, sizeof(command), "set -- '%s'; %s", judge->path, judge->format->external);
	status = system(command);
	if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3))
		return !judge->format->reader || judge_reader(judge, model);
	snprintf(judge->why, sizeof(judge->why), "'%s' fails with status %d",
		 judge->format->external, status);
	return false;
}

/* Once as it is, and once more after our own open and close have changed it. */
bool judge_file(struct judge *judge, const char *path, const struct model *model)
{
	for (int round = 0; round < 2; round++) {
		char err[400];
		struct image *image =
			judge_open(judge->format, path, RD_OPEN_WRITE, err, sizeof(err));
		bool good;
		int r;

		if (!image) {
			snprintf(judge->why, sizeof(judge->why), "it does not open: %s", err);
			return false;
		}
		good = judge_check(judge, image) && judge_content(judge, image, model);
		r = img_close(image);
		if (good && r)
			snprintf(judge->why, sizeof(judge->why), "it does not close: %s",
				 strerror(-r));
		if (!good || r)
			return false;
	}
	return true;
}

bool judge_state(struct judge *judge, const struct state *state, const struct model *model)
{
	bool good;

	judge->states++;
	if (!set_add(&judge->seen, state_hash(state) ^ model_hash(model)))
		return true;
	state_store(state, judge->path);
	good = judge_external(judge, state, model) && judge_file(judge, judge->path, model);
	judge->failures += !good;
	return good;
}
