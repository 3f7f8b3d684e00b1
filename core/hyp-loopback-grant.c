/*
 * Grants of the loopback hypervisor. A grant is an entry in a table inside the guest's own memory: it
 * names a frame, the domain that may use it, and whether only for reading. To use one: count in_use up,
 * read the entry once, check all of it, use the frame, count in_use down. A map keeps the count up until
 * it is gone, so that the guest sees which of its pages are still in someone's hands.
 *
 * A copy is a memcpy to or from the domain's memory, all of which is mapped here. A map is an mmap of the
 * pages of its memfd, at consecutive addresses, with the protection that was asked for.
 *
 * What can go wrong is what goes wrong on Xen, with the same numbers (xen/grant_table.h). in_use lies in the
 * guest's memory and is only ever added to: nothing here believes it.
 *
 * Threads: any. A handle remembers the domain that it is used with, so that a copy takes no lock.
 */
#include "hyp-loopback-int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <xen/xen.h>

#include <xen/grant_table.h>

#define MAP_BUCKETS 256u

struct grant_map {
	struct grant_map *next;
	uint8_t *addr;
	struct lb_dom *dom; /* one of the handle's */
	unsigned int count;
	bool revoked;
	uint32_t gref[];
};

/* A domain that the handle was used with; kept until the handle is closed, since copies hold no lock. */
struct known_dom {
	struct known_dom *next;
	struct lb_dom *dom;
};

struct hyp_gnt {
	struct hyp_loopback *lb;
	_Atomic(struct lb_dom *) dom; /* the one used last */
	struct rd_lock lock;
	/* under lock */
	struct known_dom *known;
	struct grant_map *map[MAP_BUCKETS];
};

int lb_gnt_open(struct hyp *hyp, struct hyp_gnt **out)
{
	struct hyp_gnt *gnt = calloc(1, sizeof(*gnt));

	if (!gnt)
		return -ENOMEM;
	gnt->lb = to_loopback(hyp);
	lock_init(&gnt->lock, RANK_LEAF, "loopback grants");
	*out = gnt;
	return 0;
}

/* Hand the reference to the handle. False: no memory, the reference is still the caller's. */
static bool remember(struct hyp_gnt *gnt, struct lb_dom *dom)
{
	struct known_dom *known;

	LOCK_SCOPE(&gnt->lock);
	for (known = gnt->known; known; known = known->next) {
		if (known->dom == dom) {
			lb_dom_put(dom); /* cannot be the last one */
			atomic_store(&gnt->dom, dom);
			return true;
		}
	}
	known = malloc(sizeof(*known));
	if (!known)
		return false;
	*known = (struct known_dom){ .next = gnt->known, .dom = dom };
	gnt->known = known;
	atomic_store(&gnt->dom, dom);
	return true;
}

static bool usable(const struct lb_dom *dom, uint32_t domid)
{
	return dom && dom->domid == domid &&
	       !atomic_load_explicit(&dom->dead, memory_order_relaxed);
}

/* The domain, valid as long as the handle; NULL: there is none. */
static struct lb_dom *domain(struct hyp_gnt *gnt, uint32_t domid)
{
	struct lb_dom *dom = atomic_load_explicit(&gnt->dom, memory_order_acquire);
	bool attached;

	if (usable(dom, domid))
		return dom;
	dom = lb_dom_get(gnt->lb, domid);
	if (!dom)
		return NULL;
	lock_acquire(&gnt->lb->lock);
	attached = dom->attached;
	lock_release(&gnt->lb->lock);
	if (!attached || !remember(gnt, dom)) {
		lb_dom_put(dom);
		return NULL;
	}
	return dom;
}

/* A fault that a test asked for: the status, or 0. */
static int injected(struct lb_dom *dom)
{
	int left = atomic_load_explicit(&dom->fault_in, memory_order_relaxed);

	while (left > 0) {
		bool last = left == 1;

		if (last && atomic_load(&dom->fault_all))
			return atomic_load(&dom->fault_status);
		if (atomic_compare_exchange_weak(&dom->fault_in, &left, left - 1))
			return last ? atomic_load(&dom->fault_status) : 0;
	}
	return 0;
}

static int check_word(const struct lb_dom *dom, uint64_t word, bool write)
{
	uint32_t flags = LB_GRANT_FLAGS(word);

	/* Xen says general error to both; it logs the difference. */
	if (!(flags & LB_GTF_PERMIT) || LB_GRANT_DOMID(word) != 0)
		return GNTST_general_error;
	if (write && (flags & LB_GTF_READONLY))
		return GNTST_general_error;
	if (LB_GRANT_FRAME(word) >= dom->frames)
		return GNTST_bad_page;
	return GNTST_okay;
}

static void release(struct lb_dom *dom, uint32_t gref)
{
	__atomic_fetch_sub(&dom->grants[gref].in_use, 1, __ATOMIC_SEQ_CST);
}

/* Take hold of a grant: GNTST_okay and the frame, or why not. */
static int acquire(struct lb_dom *dom, uint32_t gref, bool write, uint32_t *frame)
{
	uint64_t word;
	int status = injected(dom);

	if (!status && gref >= dom->nr_grants)
		status = GNTST_bad_gntref;
	if (status) {
		atomic_fetch_add_explicit(&dom->refused, 1, memory_order_relaxed);
		return status;
	}
	__atomic_fetch_add(&dom->grants[gref].in_use, 1, __ATOMIC_SEQ_CST);
	word = __atomic_load_n(&dom->grants[gref].word, __ATOMIC_SEQ_CST);
	status = check_word(dom, word, write);
	if (status) {
		release(dom, gref);
		atomic_fetch_add_explicit(&dom->refused, 1, memory_order_relaxed);
		return status;
	}
	*frame = LB_GRANT_FRAME(word);
	return GNTST_okay;
}

/* ---- copy ------------------------------------------------------------------------------------- */

static int copy_segment(struct lb_dom *dom, struct hyp_copy *seg)
{
	uint32_t frame;
	uint8_t *page;
	int status;

	if ((uint32_t)seg->offset + seg->len > HYP_PAGE_SIZE)
		return GNTST_bad_copy_arg;
	status = acquire(dom, seg->gref, seg->to_guest, &frame);
	if (status)
		return status;
	page = dom->mem + (size_t)frame * HYP_PAGE_SIZE + seg->offset;
	if (seg->to_guest)
		memcpy(page, seg->local, seg->len);
	else
		memcpy(seg->local, page, seg->len);
	release(dom, seg->gref);
	return GNTST_okay;
}

int lb_gnt_copy(struct hyp_gnt *gnt, uint32_t domid, struct hyp_copy *segs, unsigned int count)
{
	struct lb_dom *dom = domain(gnt, domid);

	for (unsigned int i = 0; i < count; i++)
		segs[i].status = (int16_t)(dom ? copy_segment(dom, &segs[i]) : GNTST_bad_domain);
	if (dom)
		atomic_fetch_add_explicit(&dom->copies, count, memory_order_relaxed);
	return 0;
}

/* ---- map -------------------------------------------------------------------------------------- */

static struct grant_map **bucket(struct hyp_gnt *gnt, const void *addr)
{
	uint64_t page = (uintptr_t)addr / HYP_PAGE_SIZE;

	return &gnt->map[(page * 0x9e3779b97f4a7c15ull) >> 56 & (MAP_BUCKETS - 1)];
}

/* One mmap for each run of consecutive frames. */
static int map_frames(struct lb_dom *dom, const uint32_t *frames, unsigned int count, bool writable,
		      uint8_t *addr)
{
	int prot = PROT_READ | (writable ? PROT_WRITE : 0);

	for (unsigned int i = 0, n; i < count; i += n) {
		for (n = 1; i + n < count && frames[i + n] == frames[i] + n; n++)
			;
		if (mmap(addr + (size_t)i * HYP_PAGE_SIZE, (size_t)n * HYP_PAGE_SIZE, prot,
			 MAP_SHARED | MAP_FIXED, dom->memfd,
			 (off_t)frames[i] * HYP_PAGE_SIZE) == MAP_FAILED)
			return -errno;
	}
	return 0;
}

static void release_all(struct lb_dom *dom, const uint32_t *grefs, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		release(dom, grefs[i]);
}

/* All the grants or none. */
static int acquire_all(struct lb_dom *dom, const uint32_t *grefs, unsigned int count, bool writable,
		       uint32_t *frames)
{
	for (unsigned int i = 0; i < count; i++) {
		if (acquire(dom, grefs[i], writable, &frames[i])) {
			release_all(dom, grefs, i);
			return -EINVAL;
		}
	}
	return 0;
}

static int make_map(struct hyp_gnt *gnt, struct grant_map *map, const uint32_t *frames,
		    bool writable)
{
	size_t len = (size_t)map->count * HYP_PAGE_SIZE;
	int rc;

	map->addr = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map->addr == MAP_FAILED)
		return -errno;
	rc = map_frames(map->dom, frames, map->count, writable, map->addr);
	if (rc) {
		munmap(map->addr, len);
		return rc;
	}
	LOCK_SCOPE(&gnt->lock);
	map->next = *bucket(gnt, map->addr);
	*bucket(gnt, map->addr) = map;
	return 0;
}

int lb_gnt_map(struct hyp_gnt *gnt, uint32_t domid, const uint32_t *grefs, unsigned int count,
	       bool writable, void **addr)
{
	struct lb_dom *dom = domain(gnt, domid);
	struct grant_map *map;
	uint32_t *frames;
	int rc;

	if (!dom || !count)
		return -EINVAL;
	map = malloc(sizeof(*map) + 2 * count * sizeof(map->gref[0]));
	if (!map)
		return -ENOMEM;
	frames = map->gref + count;
	*map = (struct grant_map){ .dom = dom, .count = count };
	memcpy(map->gref, grefs, count * sizeof(map->gref[0]));
	rc = acquire_all(dom, map->gref, count, writable, frames);
	if (rc)
		goto err_free;
	rc = make_map(gnt, map, frames, writable);
	if (rc)
		goto err_release;
	atomic_fetch_add_explicit(&dom->mapped, count, memory_order_relaxed);
	atomic_fetch_add_explicit(&dom->maps, count, memory_order_relaxed);
	*addr = map->addr;
	return 0;

err_release:
	release_all(dom, map->gref, count);
err_free:
	free(map);
	return rc;
}

/* The map of exactly these pages, taken off the table if take. */
static struct grant_map *find_map(struct hyp_gnt *gnt, void *addr, unsigned int count, bool take)
{
	struct grant_map **at, *map;

	LOCK_SCOPE(&gnt->lock);
	for (at = bucket(gnt, addr); (map = *at); at = &map->next) {
		if (map->addr != addr || map->count != count)
			continue;
		if (take)
			*at = map->next;
		return map;
	}
	return NULL;
}

/* Only once the pages are out of our reach does the guest see them free. */
static void let_go(struct grant_map *map)
{
	if (map->revoked)
		return;
	map->revoked = true;
	release_all(map->dom, map->gref, map->count);
	atomic_fetch_sub_explicit(&map->dom->mapped, map->count, memory_order_relaxed);
}

int lb_gnt_unmap(struct hyp_gnt *gnt, void *addr, unsigned int count)
{
	struct grant_map *map = find_map(gnt, addr, count, true);

	if (!map)
		return -EINVAL;
	munmap(map->addr, (size_t)count * HYP_PAGE_SIZE);
	let_go(map);
	free(map);
	return 0;
}

int lb_gnt_revoke(struct hyp_gnt *gnt, void *addr, unsigned int count)
{
	struct grant_map *map = find_map(gnt, addr, count, false);
	int rc;

	if (!map)
		return -EINVAL;
	rc = hyp_replace_pages(map->addr, count);
	if (!rc)
		let_go(map);
	return rc;
}

void lb_gnt_close(struct hyp_gnt *gnt)
{
	if (!gnt)
		return;
	for (unsigned int i = 0; i < MAP_BUCKETS; i++)
		while (gnt->map[i])
			lb_gnt_unmap(gnt, gnt->map[i]->addr, gnt->map[i]->count);
	while (gnt->known) {
		struct known_dom *known = gnt->known;

		gnt->known = known->next;
		lb_dom_put(known->dom);
		free(known);
	}
	lock_destroy(&gnt->lock);
	free(gnt);
}
