/*
 * qcow2/snapshot.c - internal snapshots: made, applied, deleted; and the name of the backing file
 *
 * Each is one switch of the header (renew.h). First comes a walk through the whole image: what has errors is
 * refused, because a snapshot of it would spread them; and the counts of all clusters are in memory then. They are
 * changed to what they will be:
 *
 *      create    the snapshot takes the L1 table that is there, and what it refers to; the disk gets a copy. L2
 *                tables whose flags say that a cluster belongs to the disk alone are copied, too: the file as it
 *                stands is never in between
 *      apply     the disk gives up its tables and gets a copy of the snapshot's
 *      delete    the snapshot gives up its tables; what belongs to the disk alone now gets its flag back
 *
 * What can go wrong: errors in the image, refcounts that are too narrow, no space. Then nothing has changed.
 * Control threads, nothing else in flight.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "renew.h"

#define NAME_MAX_BYTES 255

/* ---- counting ------------------------------------------------------------------------------------------ */

/* References of an L2 table's entries; it is in w->l2. */
static int count_entries(struct walk *w, int by)
{
	int r = 0;

	for (uint32_t at = 0; !r && at < w->q->cluster; at += w->q->entry_size) {
		uint64_t entry = get_be64(w->l2 + at), first;
		uint64_t n = entry ? entry_clusters(w->q, entry, &first) : 0;

		for (uint64_t i = 0; !r && i < n; i++)
			r = counts_add(&w->counts, first + i, by, w->max);
	}
	return r;
}

/* What an L1 table (host byte order) refers to has so many references more. The table itself is not counted. */
static int count_tree(struct walk *w, const uint64_t *l1, uint32_t size, int by)
{
	int r = 0;

	for (uint32_t i = 0; !r && i < size; i++) {
		uint64_t l2 = l1[i] & ENTRY_OFFSET;

		if (!l2)
			continue;
		r = renew_count(w, l2, w->q->cluster, by);
		if (!r)
			r = walk_read(w, w->l2, w->q->cluster, l2);
		if (!r)
			r = count_entries(w, by);
		if (!r)
			r = walk_step(w);
	}
	return r;
}

/* L1 table of a snapshot, at least size entries long, host byte order; to be freed. */
static int read_l1(struct walk *w, const struct snapshot *s, uint32_t size, uint64_t **l1)
{
	int r;

	*l1 = calloc(MAX(size, s->l1_size) + 1ull, sizeof(uint64_t));
	if (!*l1)
		return -ENOMEM;
	r = walk_read(w, *l1, s->l1_size * 8ull, s->l1_offset);
	for (uint32_t i = 0; !r && i < s->l1_size; i++)
		(*l1)[i] = be64toh((*l1)[i]);
	return r;
}

/* ---- the three ----------------------------------------------------------------------------------------- */

static unsigned long long next_id(const struct snapshots *list)
{
	unsigned long long id, last = 0;

	for (uint32_t i = 0; i < list->count; i++) {
		id = strtoull(list->v[i].id, NULL, 10);
		last = MAX(last, id < UINT32_MAX ? id : 0);
	}
	return last + 1;
}

static int add_to_table(struct walk *w, const char *name)
{
	const struct header *h = &w->q->h;
	struct timespec now = { 0 };
	struct snapshot *s;
	char id[24];
	int r;

	/* The highest and one, as QEMU does it. */
	snprintf(id, sizeof(id), "%llu", next_id(&w->snapshots));
	if (snaptable_find(&w->snapshots, id) >= 0)
		return -EEXIST;
	r = snaptable_append(&w->snapshots, id, name, &s);
	if (r)
		return r;
	clock_gettime(CLOCK_REALTIME, &now);
	s->sec = (uint32_t)now.tv_sec;
	s->nsec = (uint32_t)now.tv_nsec;
	s->l1_offset = h->l1_offset;
	s->l1_size = h->l1_size;
	s->disk_size = h->size;
	return 0;
}

static int create(struct walk *w, struct header *h, const char *name)
{
	int r;

	if (strlen(name) > NAME_MAX_BYTES)
		return -ENAMETOOLONG;
	if (snaptable_find(&w->snapshots, name) >= 0)
		return -EEXIST;
	if (w->snapshots.count >= SNAPSHOTS_MAX)
		return -E2BIG;
	r = count_tree(w, w->l1, h->l1_size, 1);
	if (!r)
		r = renew_active(w, h, w->l1, h->l1_size, true);
	if (!r)
		r = add_to_table(w, name);
	return r;
}

/* L1 entries that the disk of a snapshot needs; 0: impossible. */
static uint32_t l1_needed(const struct walk *w, const struct snapshot *s)
{
	uint64_t span = (uint64_t)w->q->cluster << w->q->l2_bits, n;

	n = s->disk_size / span + (s->disk_size % span ? 1 : 0);
	return s->disk_size <= INT64_MAX && n <= L1_BYTES_MAX / 8 ? (uint32_t)n : 0;
}

static int apply(struct walk *w, struct header *h, const struct snapshot *s)
{
	uint32_t needed = l1_needed(w, s), size = MAX(needed, s->l1_size);
	uint64_t *l1 = NULL;
	int r = needed ? read_l1(w, s, size, &l1) : -EINVAL;

	if (!r)
		r = count_tree(w, w->l1, h->l1_size, -1);
	if (!r)
		r = renew_count(w, h->l1_offset, h->l1_size * 8ull, -1);
	if (!r)
		r = count_tree(w, l1, size, 1);
	if (!r)
		r = renew_active(w, h, l1, size, true);
	h->size = s->disk_size;
	free(l1);
	return r;
}

static int delete (struct walk *w, struct header *h, uint32_t i)
{
	const struct snapshot *s = &w->snapshots.v[i];
	uint64_t *l1 = NULL;
	int r = read_l1(w, s, 0, &l1);

	if (!r)
		r = count_tree(w, l1, s->l1_size, -1);
	if (!r)
		r = renew_count(w, s->l1_offset, s->l1_size * 8ull, -1);
	if (!r)
		r = renew_active(w, h, w->l1, h->l1_size, false);
	free(l1);
	if (!r)
		snaptable_remove(&w->snapshots, i);
	return r;
}

static int change(struct walk *w, struct header *h, int op, const char *name)
{
	int i = snaptable_find(&w->snapshots, name);

	if (op == RD_SNAPSHOT_CREATE)
		return create(w, h, name);
	if (i < 0)
		return -ENOENT;
	return op == RD_SNAPSHOT_APPLY ? apply(w, h, &w->snapshots.v[i])
				       : delete (w, h, (uint32_t)i);
}

/* ---- around them --------------------------------------------------------------------------------------- */

/* All counts, and no errors. */
static int survey(struct walk *w, struct qcow2 *q, const struct rd_progress *progress,
		  struct rd_check *result)
{
	int r = walk_begin(w, q, progress, result);

	if (!r)
		r = walk_tables(w);
	if (!r)
		r = walk_refcounts(w);
	if (!r)
		r = walk_compare(w);
	if (r)
		return r;
	if (!result->errors && !result->unchecked && !w->tangled && !w->rebuild)
		return renew_forget_refcounts(w);
	q->host->log(q->host, RD_LOG_ERR,
		     "%s: has errors: repair it before anything is done with snapshots", q->path);
	return -EUCLEAN;
}

static void say_why(struct qcow2 *q, int op, const char *name, int r)
{
	static const char *const ops[] = { "create", "apply", "delete" };

	q->host->log(q->host, RD_LOG_ERR, "%s: snapshot %s: %s: %s", q->path, ops[op], name,
		     r == -ERANGE
			     ? "the refcounts of this image are too narrow for one more reference"
		     : r == -EEXIST ? "there is a snapshot of that name or id"
		     : r == -ENOENT ? "there is no snapshot of that name or id"
				    : strerror(-r));
}

int q_snapshot(void *handle, int op, const char *name, const struct rd_progress *progress)
{
	struct rd_check result = { .struct_size = sizeof(result) };
	const struct rd_progress quiet = { .step = progress ? progress->step : NULL,
					   .ctx = progress ? progress->ctx : NULL };
	struct qcow2 *q = handle;
	struct header h, before = q->h;
	struct walk w;
	int r, reloaded;

	if (op < RD_SNAPSHOT_CREATE || op > RD_SNAPSHOT_DELETE)
		return -EINVAL;
	if (!q->writable || q->corrupt)
		return -EROFS;
	r = survey(&w, q, &quiet, &result);
	h = q->h;
	if (!r)
		r = renew_pin(&w);
	if (!r)
		r = change(&w, &h, op, name);
	if (!r)
		r = renew_snapshots(&w, &h);
	if (!r)
		r = renew_finish(&w, &h);
	walk_end(&w);
	if (r && r != -EUCLEAN)
		say_why(q, op, name, r);
	reloaded = renew_reload(q, &before);
	return r ? r : reloaded;
}

/* ---- told ---------------------------------------------------------------------------------------------- */

/* Text out of the image: only what is plain everywhere. */
static void fact_text(const struct rd_facts *facts, const char *key, const char *value)
{
	char text[NAME_MAX_BYTES + 1];
	size_t n = 0;

	for (; value[n] && n < NAME_MAX_BYTES; n++)
		text[n] = value[n] >= ' ' && value[n] < 0x7f ? value[n] : '?';
	text[n] = '\0';
	facts->text(facts->ctx, key, text);
}

void snapshots_describe(struct qcow2 *q, const struct rd_facts *facts)
{
	struct snapshots list;
	char key[64];

	if (snaptable_read(q, &q->h, &list, true))
		return;
	for (uint32_t i = 0; i < list.count; i++) {
		const struct snapshot *s = &list.v[i];
		const struct {
			const char *name;
			uint64_t value;
		} numbers[] = {
			{ "vm-state-size", s->vm_state }, { "date-sec", s->sec },
			{ "date-nsec", s->nsec },         { "vm-clock-nsec", s->clock },
			{ "disk-size", s->disk_size },    { "icount", s->icount },
		};

		snprintf(key, sizeof(key), "snapshots.%u.id", i);
		fact_text(facts, key, s->id);
		snprintf(key, sizeof(key), "snapshots.%u.name", i);
		fact_text(facts, key, s->name);
		for (size_t n = 0; n < ARRAY_SIZE(numbers) - (s->icount == ICOUNT_NONE); n++) {
			snprintf(key, sizeof(key), "snapshots.%u.%s", i, numbers[n].name);
			facts->number(facts->ctx, key, numbers[n].value);
		}
	}
	snaptable_free(&list);
}

/* ---- the backing file's name --------------------------------------------------------------------------- */

int q_set_backing(void *handle, const char *backing, const char *backing_format)
{
	struct qcow2 *q = handle;
	struct header h = q->h;
	int r = -ENOMEM;

	if (!q->writable || q->corrupt)
		return -EROFS;
	if (backing && (!*backing || strlen(backing) > BACKING_NAME_MAX || !backing_format ||
			!*backing_format || strlen(backing_format) > BACKING_FORMAT_MAX))
		return -EINVAL;
	h.backing = backing ? strdup(backing) : NULL;
	h.backing_format = backing ? strdup(backing_format) : NULL;
	if (!backing || (h.backing && h.backing_format))
		r = header_update(q, &h);
	if (!r)
		return 0;
	free(h.backing);
	free(h.backing_format);
	q->host->log(q->host, RD_LOG_ERR, "%s: the backing file could not be recorded: %s", q->path,
		     r == -E2BIG ? "its name does not fit into the header" : strerror(-r));
	return r;
}
