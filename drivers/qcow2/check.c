/*
 * qcow2/check.c - check and repair
 *
 * Check is a walk (walk.h). Repair, when something is wrong and asked for:
 *
 *      leaks only       refcounts of clusters that nothing refers to become 0, in place
 *      errors           another walk clears impossible entries, each by one write of one sector, and says what is
 *                       lost; then new refcounts, and tables with the right COPIED flags, are made beside the
 *                       old ones and switched to (renew.h)
 *      afterwards       a third walk says what is left; if that is nothing, the dirty and the corrupt bit go
 *
 * An interruption leaves the old image, with some impossible entries fewer. Nothing is repaired while something
 * could not be read, or where tables overlap so that one of them would be destroyed; nor are leaks while there
 * are errors that are to stay: what nothing refers to may be what the error has lost.
 *
 * Control threads, nothing else in flight.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "renew.h"

/* One progress bar over several walks. */
struct phases {
	struct rd_progress inner;
	const struct rd_progress *outer;
	unsigned phase, phases;
	bool quiet; /* no notes: it is about things that have been noted */
};

static int phase_step(void *ctx, uint64_t done, uint64_t total)
{
	struct phases *p = ctx;
	uint64_t part = total ? (uint64_t)((double)done / (double)total * 1000) : 0;

	if (!p->outer || !p->outer->step)
		return 0;
	return p->outer->step(p->outer->ctx, p->phase * 1000 + part, p->phases * 1000ull);
}

static void phase_note(void *ctx, int severity, const char *text)
{
	struct phases *p = ctx;

	if (p->outer && p->outer->note && !p->quiet)
		p->outer->note(p->outer->ctx, severity, text);
}

static void phases_init(struct phases *p, const struct rd_progress *outer, unsigned phases)
{
	*p = (struct phases){ .outer = outer, .phases = phases };
	p->inner = (struct rd_progress){ .step = phase_step, .note = phase_note, .ctx = p };
}

__attribute__((format(printf, 3, 4))) static void say(struct phases *p, int severity,
						      const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (p->outer && p->outer->note)
		p->outer->note(p->outer->ctx, severity, text);
}

static int look(struct walk *w, struct qcow2 *q, struct phases *p, struct rd_check *result)
{
	int r = walk_begin(w, q, &p->inner, result);

	if (!r)
		r = walk_tables(w);
	if (!r)
		r = walk_refcounts(w);
	return r ? r : walk_compare(w);
}

/* ---- leaks --------------------------------------------------------------------------------------------- */

/* Refcounts of one block, in w->l2. Returns the leaks that are none now. */
static uint64_t clear_leaks(struct walk *w, uint64_t block)
{
	unsigned order = w->q->h.refcount_order;
	uint64_t per_block = (uint64_t)w->q->cluster * 8 >> order, cleared = 0;

	for (uint64_t i = 0; i < per_block; i++) {
		uint64_t cluster = block * per_block + i;

		if (cluster >= w->file_clusters || !refcount_at(w->l2, order, i) ||
		    counts_get(&w->counts, cluster))
			continue;
		refcount_put(w->l2, order, i, 0);
		cleared++;
		w->q->host->file_punch(w->q->file, cluster << w->q->cluster_bits, w->q->cluster);
	}
	return cleared;
}

/* All leaks have no references: their refcounts become 0, block by block. A block written in part is no worse. */
static int repair_leaks(struct walk *w)
{
	int r = 0;

	for (uint64_t i = 0; !r && i < w->reftable_entries; i++) {
		uint64_t at = block_offset(w, i), cleared;

		if (!at)
			continue;
		r = walk_read(w, w->l2, w->q->cluster, at);
		cleared = r ? 0 : clear_leaks(w, i);
		if (!cleared)
			continue;
		r = walk_write(w, w->l2, w->q->cluster, at);
		w->result->leaks_fixed += r ? 0 : cleared;
	}
	return r ? r : w->q->host->file_flush(w->q->file);
}

/* Is some cluster referred to, only less often than its refcount says? Its COPIED flag may have to change. */
static bool has_partial_leaks(struct walk *w)
{
	uint64_t disk;

	for (size_t n = 0; n < w->counts.nr_groups; n++) {
		struct group *g = counts_nth(&w->counts, n);

		for (unsigned i = 0; i < GROUP_CLUSTERS; i++)
			if (group_get(g, i) &&
			    !disk_refcount(w, g->key * GROUP_CLUSTERS + i, &disk) &&
			    disk > group_get(g, i))
				return true;
	}
	return false;
}

/* ---- errors -------------------------------------------------------------------------------------------- */

static int rebuild(struct qcow2 *q, struct phases *p)
{
	struct rd_check scratch = { .struct_size = sizeof(scratch) };
	struct header h = q->h;
	struct walk w;
	int r = walk_begin(&w, q, &p->inner, &scratch);

	w.fix = true;
	if (!r)
		r = walk_tables(&w);
	if (!r && (w.tangled || scratch.unchecked))
		r = -EIO;
	if (!r)
		r = renew_pin(&w);
	if (!r)
		r = renew_active(&w, &h, w.l1, h.l1_size, false);
	if (!r)
		r = renew_snapshots(&w, &h);
	h.incompatible &= ~INCOMPAT_DIRTY;
	if (!r)
		r = renew_finish(&w, &h);
	walk_end(&w);
	return r;
}

/* What is left, in *left. */
static int verify(struct qcow2 *q, struct phases *p, struct rd_check *left)
{
	struct walk w;
	int r;

	*left = (struct rd_check){ .struct_size = sizeof(*left) };
	p->quiet = true;
	r = look(&w, q, p, left);
	p->quiet = false;
	walk_end(&w);
	return r;
}

static int clear_bits(struct qcow2 *q)
{
	struct header h = q->h;

	if (!(h.incompatible & (INCOMPAT_DIRTY | INCOMPAT_CORRUPT)))
		return 0;
	h.incompatible &= ~(INCOMPAT_DIRTY | INCOMPAT_CORRUPT);
	return header_update(q, &h);
}

static int repair_errors(struct qcow2 *q, struct phases *p, struct rd_check *result)
{
	struct rd_check left;
	int r;

	p->phase++;
	r = rebuild(q, p);
	if (r == -ECANCELED || r == -ENOMEM)
		return r;
	if (r)
		say(p, RD_LOG_ERR, "could not be repaired: %s", strerror(-r));
	else
		say(p, RD_LOG_INFO, "the refcounts were made anew");
	p->phase++;
	r = verify(q, p, &left);
	if (r)
		return r;
	result->errors_fixed = result->errors - MIN(left.errors, result->errors);
	result->leaks_fixed = result->leaks - MIN(left.leaks, result->leaks);
	result->unchecked = left.unchecked;
	result->image_end = left.image_end;
	result->allocated = left.allocated;
	result->compressed = left.compressed;
	result->fragmented = left.fragmented;
	return 0;
}

/* ---- both ---------------------------------------------------------------------------------------------- */

static bool is_clean(const struct rd_check *result)
{
	return result->errors == result->errors_fixed && result->leaks == result->leaks_fixed &&
	       !result->unchecked;
}

static int repair(struct walk *w, uint32_t flags, struct phases *p, struct rd_check *result)
{
	struct qcow2 *q = w->q;
	bool errors = result->errors || w->rebuild;
	int r = 0;

	if (w->tangled || (result->unchecked && !errors)) {
		say(p, RD_LOG_ERR, "%s: nothing is repaired",
		    w->tangled ? "too much contradicts itself" : "not everything could be read");
		return 0;
	}
	if (errors && !(flags & RD_CHECK_REPAIR_ERRORS)) {
		say(p, RD_LOG_WARN,
		    "leaks are not repaired while there are errors: they may be what is lost");
		return 0;
	}
	if (errors || (result->leaks && has_partial_leaks(w)))
		r = repair_errors(q, p, result);
	else if (result->leaks)
		r = repair_leaks(w);
	if (!r && is_clean(result))
		r = clear_bits(q);
	return r;
}

/* As q_check(), but what is in memory of the image stays as it was. */
static int check(struct qcow2 *q, uint32_t flags, const struct rd_progress *progress,
		 struct rd_check *result)
{
	struct phases p;
	struct walk w;
	int r;

	phases_init(&p, progress, flags ? 3 : 1);
	r = look(&w, q, &p, result);
	if (!r && flags)
		r = repair(&w, flags, &p, result);
	if (!r && progress && progress->step)
		progress->step(progress->ctx, p.phases * 1000ull, p.phases * 1000ull);
	walk_end(&w);
	return r;
}

int q_check(void *handle, uint32_t flags, const struct rd_progress *progress,
	    struct rd_check *result)
{
	struct qcow2 *q = handle;
	const struct header before = q->h;
	int r = check(q, flags, progress, result), reloaded;

	if (!flags || r == -ENOMEM)
		return r;
	reloaded = renew_reload(q, &before);
	return r ? r : reloaded;
}

/* ---- an image that was not closed ---------------------------------------------------------------------- */

#define LOG_LINES 20

struct dirty {
	struct qcow2 *q;
	unsigned lines;
	uint64_t quarter;
};

static int dirty_step(void *ctx, uint64_t done, uint64_t total)
{
	struct dirty *d = ctx;
	uint64_t quarter = total ? done / (total / 4 + 1) : 0;

	if (quarter != d->quarter)
		d->q->host->log(d->q->host, RD_LOG_INFO, "%s: repair: %u %% done", d->q->path,
				(unsigned)quarter * 25);
	d->quarter = quarter;
	return 0;
}

static void dirty_note(void *ctx, int severity, const char *text)
{
	struct dirty *d = ctx;

	if (d->lines++ < LOG_LINES)
		d->q->host->log(d->q->host, severity == RD_LOG_ERR ? RD_LOG_WARN : severity,
				"%s: %s", d->q->path, text);
}

int q_repair_dirty(struct qcow2 *q)
{
	struct rd_check result = { .struct_size = sizeof(result) };
	struct dirty d = { .q = q };
	const struct rd_progress progress = { .step = dirty_step, .note = dirty_note, .ctx = &d };
	int r;

	q->host->log(q->host, RD_LOG_WARN,
		     "%s: was not closed: its refcounts are checked and repaired", q->path);
	r = check(q, RD_CHECK_REPAIR_LEAKS | RD_CHECK_REPAIR_ERRORS, &progress, &result);
	if (!r && !is_clean(&result))
		r = -EUCLEAN;
	if (r)
		q->host->log(q->host, RD_LOG_ERR,
			     "%s: was not closed, and could not be repaired: %s", q->path,
			     strerror(-r));
	else
		q->host->log(q->host, RD_LOG_INFO, "%s: repaired: %llu errors, %llu leaks", q->path,
			     (unsigned long long)result.errors, (unsigned long long)result.leaks);
	return r;
}
