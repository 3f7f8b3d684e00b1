/*
 * qcow2/compress.c - compressed clusters: read, and a small cache of what was decompressed lately
 *
 * A guest reads 4 KiB after 4 KiB: each cluster is decompressed once and kept while its neighbours are asked
 * for. The cache holds a few clusters (CACHE_BYTES, at least two); one that is in use stays in memory
 * until it is given back. Freed clusters leave the cache when their place in the file gets another use.
 *
 * The data is hostile. It is read into a private buffer, decompressed into one of exactly a cluster, and
 * must fill it exactly; what follows up to the end of the last sector is ignored, because the format does
 * not say where the data ends. zstd is decoded frame by frame in one step each, so that a frame which
 * asks for a large window gets no memory for it.
 *
 * Threads: any worker. The mutex is a leaf: held for moments, nothing is called under it.
 */
#include <errno.h>
#include <libdeflate.h>
#include <stdlib.h>
#include <zstd.h>

#include "qcow2.h"

#define CACHE_BYTES (1u << 20)
#define CACHE_MAX   64
#define CACHE_MIN   2

struct decompressed {
	struct decompressed *next; /* in the cache, last used first */
	uint64_t host;
	uint32_t csize;
	unsigned users;
	bool cached;
	uint8_t data[];
};

struct decompressed_cache {
	pthread_mutex_t mutex;
	struct decompressed *first;
	unsigned count, max;
};

/* ---- decompression ------------------------------------------------------------------------------------- */

static int inflate_cluster(const uint8_t *in, size_t in_len, void *out, size_t out_len)
{
	struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
	enum libdeflate_result result;
	size_t used;

	if (!d)
		return -ENOMEM;
	/* With no place for the length of the output it must fill out exactly. */
	result = libdeflate_deflate_decompress_ex(d, in, in_len, out, out_len, &used, NULL);
	libdeflate_free_decompressor(d);
	return result == LIBDEFLATE_SUCCESS ? 0 : -EIO;
}

static int unzstd_cluster(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
	ZSTD_DCtx *d = ZSTD_createDCtx();
	int r = d ? 0 : -ENOMEM;

	while (!r && out_len) {
		size_t frame = ZSTD_findFrameCompressedSize(in, in_len), got;

		if (ZSTD_isError(frame) || !frame) {
			r = -EIO;
			break;
		}
		got = ZSTD_decompressDCtx(d, out, out_len, in, frame);
		if (ZSTD_isError(got)) {
			r = -EIO;
			break;
		}
		in += frame;
		in_len -= frame;
		out += got;
		out_len -= got;
	}
	ZSTD_freeDCtx(d);
	return r;
}

int q_decompress(struct qcow2 *q, const struct cluster *c, void *out)
{
	struct iovec iov = { .iov_len = c->csize };
	int r;

	iov.iov_base = q->host->alloc(q->host, c->csize);
	if (!iov.iov_base)
		return -ENOMEM;
	r = q->host->file_readv(q->file, &iov, 1, c->host);
	if (!r && q->h.compression == COMPRESSION_ZSTD)
		r = unzstd_cluster(iov.iov_base, c->csize, out, q->cluster);
	else if (!r)
		r = inflate_cluster(iov.iov_base, c->csize, out, q->cluster);
	q->host->free(q->host, iov.iov_base);
	atomic_fetch_add_explicit(&q->count.decompressed, 1, memory_order_relaxed);
	return r;
}

/* ---- cache --------------------------------------------------------------------------------------------- */

int decompressed_init(struct qcow2 *q)
{
	struct decompressed_cache *cache = calloc(1, sizeof(*cache));

	if (!cache)
		return -ENOMEM;
	pthread_mutex_init(&cache->mutex, NULL);
	cache->max = MIN(MAX(CACHE_BYTES >> q->cluster_bits, CACHE_MIN), CACHE_MAX);
	q->decompressed = cache;
	return 0;
}

/* All that is not in use any more leaves its place to others. */
static void take_out(struct decompressed_cache *cache, struct decompressed **link)
{
	struct decompressed *entry = *link;

	*link = entry->next;
	entry->cached = false;
	cache->count--;
	if (!entry->users)
		free(entry);
}

void decompressed_free(struct qcow2 *q)
{
	struct decompressed_cache *cache = q->decompressed;

	if (!cache)
		return;
	while (cache->first)
		take_out(cache, &cache->first);
	pthread_mutex_destroy(&cache->mutex);
	free(cache);
	q->decompressed = NULL;
}

/* In the cache, moved to its front, with one more user; or NULL. */
static struct decompressed *find_locked(struct decompressed_cache *cache, const struct cluster *c)
{
	struct decompressed **link = &cache->first, *entry;

	while (*link && ((*link)->host != c->host || (*link)->csize != c->csize))
		link = &(*link)->next;
	entry = *link;
	if (!entry)
		return NULL;
	*link = entry->next;
	entry->next = cache->first;
	cache->first = entry;
	entry->users++;
	return entry;
}

static void insert_locked(struct decompressed_cache *cache, struct decompressed *entry)
{
	entry->next = cache->first;
	entry->cached = true;
	cache->first = entry;
	cache->count++;
	while (cache->count > cache->max) {
		struct decompressed **link = &cache->first;

		while ((*link)->next)
			link = &(*link)->next;
		take_out(cache, link);
	}
}

const uint8_t *decompressed_get(struct qcow2 *q, const struct cluster *c,
				struct decompressed **hold, int *r)
{
	struct decompressed_cache *cache = q->decompressed;
	struct decompressed *entry;

	pthread_mutex_lock(&cache->mutex);
	entry = find_locked(cache, c);
	pthread_mutex_unlock(&cache->mutex);
	*r = 0;
	*hold = entry;
	if (entry)
		return entry->data;
	entry = malloc(sizeof(*entry) + q->cluster);
	if (!entry) {
		*r = -ENOMEM;
		return NULL;
	}
	*entry = (struct decompressed){ .host = c->host, .csize = c->csize, .users = 1 };
	*r = q_decompress(q, c, entry->data);
	if (*r) {
		free(entry);
		return NULL;
	}
	/* Two that missed the same cluster both put it in: the older one ages away. */
	pthread_mutex_lock(&cache->mutex);
	insert_locked(cache, entry);
	pthread_mutex_unlock(&cache->mutex);
	*hold = entry;
	return entry->data;
}

void decompressed_put(struct qcow2 *q, struct decompressed *hold)
{
	struct decompressed_cache *cache = q->decompressed;
	bool last;

	pthread_mutex_lock(&cache->mutex);
	last = !--hold->users && !hold->cached;
	pthread_mutex_unlock(&cache->mutex);
	if (last)
		free(hold);
}

void decompressed_forget(struct qcow2 *q, uint64_t host, uint64_t length)
{
	struct decompressed_cache *cache = q->decompressed;
	struct decompressed **link = &cache->first;

	pthread_mutex_lock(&cache->mutex);
	while (*link)
		if (ranges_meet((*link)->host, (*link)->csize, host, length))
			take_out(cache, link);
		else
			link = &(*link)->next;
	pthread_mutex_unlock(&cache->mutex);
}
