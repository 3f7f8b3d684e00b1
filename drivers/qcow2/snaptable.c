/*
 * qcow2/snaptable.c - the snapshot table: read, checked, searched, and made anew
 *
 * An entry has a fixed part, extra data whose length it says (newer writers put more into it), id and name.
 * What we do not know of the extra data is kept.
 * What can go wrong: lengths that lie, memory, I/O. Control threads, nothing else in flight.
 */
#include "snaptable.h"

#include <errno.h>
#include <stdlib.h>

/* Fixed part of an entry. */
enum {
	SNAP_L1_OFFSET = 0,
	SNAP_L1_SIZE = 8,
	SNAP_ID_LEN = 12,
	SNAP_NAME_LEN = 14,
	SNAP_SEC = 16,
	SNAP_NSEC = 20,
	SNAP_CLOCK = 24,
	SNAP_VM_STATE = 32,
	SNAP_EXTRA_LEN = 36,
	SNAP_FIXED = 40,
};

/* Extra data. */
enum {
	EXTRA_VM_STATE = 0,
	EXTRA_DISK_SIZE = 8,
	EXTRA_ICOUNT = 16,
	EXTRA_KNOWN = 24,
};

static void snapshot_free(struct snapshot *s)
{
	free(s->id);
	free(s->name);
	free(s->more);
}

void snaptable_free(struct snapshots *list)
{
	for (uint32_t i = 0; i < list->count; i++)
		snapshot_free(&list->v[i]);
	free(list->v);
	*list = (struct snapshots){ 0 };
}

/* ---- reading ------------------------------------------------------------------------------------------- */

struct reader {
	struct qcow2 *q;
	const struct header *h;
	uint64_t start, at, end; /* in the file */
};

static int take(struct reader *r, void *buf, size_t len)
{
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	int e;

	if (!range_inside(r->at, len, r->end) || r->at + len - r->start > SNAPSHOT_TABLE_MAX)
		return -EINVAL;
	e = len ? r->q->host->file_readv(r->q->file, &iov, 1, r->at) : 0;
	r->at += len;
	return e ? -EIO : 0;
}

static int take_string(struct reader *r, uint16_t len, char **text)
{
	*text = calloc(1, (size_t)len + 1);
	return *text ? take(r, *text, len) : -ENOMEM;
}

static int take_extra(struct reader *r, uint32_t len, struct snapshot *s)
{
	uint8_t extra[EXTRA_KNOWN] = { 0 };
	uint32_t known = MIN(len, (uint32_t)EXTRA_KNOWN);
	int e;

	if (len > SNAPSHOT_EXTRA_MAX)
		return -EINVAL;
	e = take(r, extra, known);
	if (e)
		return e;
	if (known >= EXTRA_DISK_SIZE)
		s->vm_state = get_be64(extra + EXTRA_VM_STATE);
	s->complete = known >= EXTRA_ICOUNT;
	s->disk_size = s->complete ? get_be64(extra + EXTRA_DISK_SIZE) : r->h->size;
	s->icount = known >= EXTRA_KNOWN ? get_be64(extra + EXTRA_ICOUNT) : ICOUNT_NONE;
	if (len == known)
		return 0;
	s->more_len = len - known;
	s->more = malloc(s->more_len);
	return s->more ? take(r, s->more, s->more_len) : -ENOMEM;
}

static int take_snapshot(struct reader *r, struct snapshot *s)
{
	uint8_t fixed[SNAP_FIXED];
	int e;

	r->at = align_up(r->at, 8);
	e = take(r, fixed, sizeof(fixed));
	if (e)
		return e;
	s->l1_offset = get_be64(fixed + SNAP_L1_OFFSET);
	s->l1_size = get_be32(fixed + SNAP_L1_SIZE);
	s->sec = get_be32(fixed + SNAP_SEC);
	s->nsec = get_be32(fixed + SNAP_NSEC);
	s->clock = get_be64(fixed + SNAP_CLOCK);
	s->vm_state = get_be32(fixed + SNAP_VM_STATE);
	e = take_extra(r, get_be32(fixed + SNAP_EXTRA_LEN), s);
	if (!e)
		e = take_string(r, get_be16(fixed + SNAP_ID_LEN), &s->id);
	if (!e)
		e = take_string(r, get_be16(fixed + SNAP_NAME_LEN), &s->name);
	return e;
}

int snaptable_read(struct qcow2 *q, const struct header *h, struct snapshots *list, bool log)
{
	struct reader r = {
		.q = q, .h = h, .start = h->snapshots_offset, .at = h->snapshots_offset
	};
	struct rd_info info = { .struct_size = sizeof(info) };
	int e = q->host->file_info(q->file, &info);

	*list = (struct snapshots){ 0 };
	if (e || !h->nb_snapshots)
		return e;
	r.end = info.size;
	/* The file has this many bytes at least: an absurd number asks for no absurd memory. */
	if (h->nb_snapshots > SNAPSHOTS_MAX ||
	    !range_inside(r.at, (uint64_t)h->nb_snapshots * SNAP_FIXED, r.end))
		e = -EINVAL;
	if (!e) {
		list->v = calloc(h->nb_snapshots, sizeof(struct snapshot));
		e = list->v ? 0 : -ENOMEM;
	}
	while (!e && list->count < h->nb_snapshots)
		e = take_snapshot(&r, &list->v[list->count++]);
	list->bytes = r.at - r.start;
	if (!e)
		return 0;
	if (log)
		q->host->log(q->host, RD_LOG_ERR, "%s: snapshot table: entry %u: %s", q->path,
			     list->count ? list->count - 1 : 0,
			     e == -EINVAL ? "impossible lengths" : strerror(-e));
	snaptable_free(list);
	return e;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static size_t entry_bytes(const struct snapshot *s)
{
	return align_up(SNAP_FIXED + EXTRA_KNOWN + s->more_len + strlen(s->id) + strlen(s->name),
			8);
}

static void encode(const struct snapshot *s, uint8_t *b)
{
	size_t id = strlen(s->id), name = strlen(s->name);

	put_be64(b + SNAP_L1_OFFSET, s->l1_offset);
	put_be32(b + SNAP_L1_SIZE, s->l1_size);
	put_be16(b + SNAP_ID_LEN, (uint16_t)id);
	put_be16(b + SNAP_NAME_LEN, (uint16_t)name);
	put_be32(b + SNAP_SEC, s->sec);
	put_be32(b + SNAP_NSEC, s->nsec);
	put_be64(b + SNAP_CLOCK, s->clock);
	put_be32(b + SNAP_VM_STATE, s->vm_state <= UINT32_MAX ? (uint32_t)s->vm_state : 0);
	put_be32(b + SNAP_EXTRA_LEN, EXTRA_KNOWN + s->more_len);
	b += SNAP_FIXED;
	put_be64(b + EXTRA_VM_STATE, s->vm_state);
	put_be64(b + EXTRA_DISK_SIZE, s->disk_size);
	put_be64(b + EXTRA_ICOUNT, s->icount);
	b += EXTRA_KNOWN;
	if (s->more_len)
		memcpy(b, s->more, s->more_len);
	memcpy(b + s->more_len, s->id, id);
	memcpy(b + s->more_len + id, s->name, name);
}

int snaptable_encode(const struct snapshots *list, uint8_t **buf, size_t *len)
{
	size_t at = 0;

	*len = 0;
	for (uint32_t i = 0; i < list->count; i++)
		*len += entry_bytes(&list->v[i]);
	if (*len > SNAPSHOT_TABLE_MAX)
		return -E2BIG;
	*buf = calloc(1, *len + 1);
	if (!*buf)
		return -ENOMEM;
	for (uint32_t i = 0; i < list->count; i++) {
		encode(&list->v[i], *buf + at);
		at += entry_bytes(&list->v[i]);
	}
	return 0;
}

/* ---- the list ------------------------------------------------------------------------------------------ */

int snaptable_find(const struct snapshots *list, const char *name)
{
	for (uint32_t i = 0; i < list->count; i++)
		if (!strcmp(list->v[i].id, name))
			return (int)i;
	for (uint32_t i = 0; i < list->count; i++)
		if (!strcmp(list->v[i].name, name))
			return (int)i;
	return -1;
}

void snaptable_remove(struct snapshots *list, uint32_t i)
{
	snapshot_free(&list->v[i]);
	list->count--;
	memmove(&list->v[i], &list->v[i + 1], (list->count - i) * sizeof(struct snapshot));
}

int snaptable_append(struct snapshots *list, const char *id, const char *name, struct snapshot **s)
{
	struct snapshot *v = realloc(list->v, (list->count + 1) * sizeof(struct snapshot));

	if (!v)
		return -ENOMEM;
	list->v = v;
	*s = &v[list->count];
	**s = (struct snapshot){
		.id = strdup(id), .name = strdup(name), .icount = ICOUNT_NONE, .complete = true
	};
	if (!(*s)->id || !(*s)->name) {
		snapshot_free(*s);
		return -ENOMEM;
	}
	list->count++;
	return 0;
}
