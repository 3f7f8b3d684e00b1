/*
 * redo-log.h - what stands in a redo log; shared by redo.c, redo-replay.c and their tests
 *
 *	0      struct redo_header   never changed once the log has its name
 *	2048   struct redo_half     of the first half: how much of it counts
 *	2112   struct redo_half     of the second
 *	4096   the first half's records, then the second's
 *
 * All integers are the machine's: the log never leaves it. A record counts from the moment at which the
 * half's `used` includes it, one store of eight bytes: what the dying process left unfinished lies behind
 * it, and is nothing. A record that counts and is not whole means that the log is damaged.
 */
#ifndef RD_REDO_LOG_H
#define RD_REDO_LOG_H

#include <stddef.h>
#include <stdint.h>

#define REDO_MAGIC      "rdredo\0\1"
#define REDO_HALF_AT(i) (2048 + 64 * (i))
#define REDO_DATA       4096
#define REDO_HALF_MIN   4096u
#define REDO_HALF_MAX   (128u << 20)
#define REDO_LEN_MAX    64u
#define REDO_ORDERS     8u
/* Tables of a live image lie at most this far behind the end of what is in the file. */
#define REDO_REACH (64ull << 30)

struct redo_header {
	char magic[8];
	uint32_t crc;        /* of the header, with 0 here */
	uint32_t block;      /* the image is a block device, dev its number and ino 0 */
	uint64_t dev, ino;   /* of the image */
	uint64_t size;       /* of the image when the log was made; for people */
	uint64_t generation; /* 0: the image carries none */
	uint64_t half;       /* bytes of one half */
	char boot[40];       /* the boot id of the machine */
	char path[1024];     /* of the image; for people */
};

struct redo_half {
	uint64_t used;  /* bytes of records; 0: empty */
	uint64_t first; /* sequence number of the first */
};

/* Then len bytes before, len bytes after, and zeroes up to a multiple of eight. */
struct redo_record {
	uint64_t seq;
	uint64_t offset;
	uint32_t crc; /* of the record and its bytes, with 0 here */
	uint8_t order;
	uint8_t len;
	uint16_t zero;
};

static inline size_t redo_record_size(size_t len)
{
	return (sizeof(struct redo_record) + 2 * len + 7) & ~(size_t)7;
}

/* A log in memory, found to be whole. */
struct redo_log {
	struct redo_header header;
	const uint8_t *bytes;    /* the caller's; aligned to 8 */
	const uint8_t **records; /* count of them, by rising sequence number; malloc'd */
	size_t count;
};

struct rd_file;

uint32_t redo_header_crc(const struct redo_header *header);
uint32_t redo_record_crc(const struct redo_record *record, const void *before, const void *after);

/* 0, -EUCLEAN with what is wrong in err, -ENOMEM. */
int redo_parse(const uint8_t *bytes, size_t len, struct redo_log *log, char *err, size_t errlen);
void redo_log_free(struct redo_log *log);

/* May the log be written to this file, whose content is size bytes long? 0, or -EUCLEAN and err; with
 * compare also a look at the file's bytes: each must be one of those that the log knows of its place. */
int redo_fits(const struct redo_log *log, struct rd_file *file, int compare, char *err,
	      size_t errlen);
/* Write it, order by order. May be repeated after a failure or a crash at any point. */
int redo_replay(const struct redo_log *log, struct rd_file *file);

#endif
