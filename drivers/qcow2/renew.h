/*
 * qcow2/renew.h - new metadata beside the old, and one sector that switches from one to the other
 *
 * For repair and snapshots. The file as it stands is not touched until the header is written: new tables go to
 * clusters that are not in use (USE_PINNED, or a count), all is flushed, then the header names the new L1 table,
 * refcount table and snapshot table at once. Before that moment the image is the old one with leaks, or not
 * even these; after it, the new one. Nothing in between.
 */
#ifndef QCOW2_RENEW_H
#define QCOW2_RENEW_H

#include "walk.h"

/* What is in use now is not for new things, whatever becomes of its count. */
int renew_pin(struct walk *w);
/* w->counts is without the refcount table and its blocks from now on, as renew_finish() wants it. Only after
 * walk_compare() has found nothing wrong. */
int renew_forget_refcounts(struct walk *w);
/*
 * The active L1 table is to be l1 (host byte order, size entries), with COPIED flags that are right for w->counts;
 * L2 tables that must change for that are copied. Writes to new places what has changed, and the L1 table if
 * anything has or if move is set, and says so in h. w->counts follows; the old L1 table's is left to the caller
 * where move is set.
 */
int renew_active(struct walk *w, struct header *h, uint64_t *l1, uint32_t size, bool move);
/* A new snapshot table of w->snapshots; the old one's clusters are not used any more. */
int renew_snapshots(struct walk *w, struct header *h);
/* New refcount table and blocks by w->counts, flush, and the header. q->h is h then, and the old is given back. */
int renew_finish(struct walk *w, struct header *h);
/* Everything in memory is made anew from the file; before: the header when memory was right. If that fails nothing is
 * written any more, and what is not known to be right cannot be read. */
int renew_reload(struct qcow2 *q, const struct header *before);

/* A range of clusters has so many references more (or fewer). */
int renew_count(struct walk *w, uint64_t offset, uint64_t length, int by);

#endif
