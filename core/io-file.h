/*
 * io-file.h - the inside of struct rd_file, shared by io.c, io-open.c, io-lock.c and io-aio.c
 */
#ifndef RD_IO_FILE_H
#define RD_IO_FILE_H

#include <pthread.h>
#include <stdatomic.h>

#include "io-syscalls.h"
#include "io.h"

/* What has been found out about a file by trying; each only ever turns to true. */
struct io_learned {
	_Atomic bool no_nowait_read;
	_Atomic bool no_nowait_write;
	_Atomic bool no_punch;      /* by fallocate */
	_Atomic bool no_discard;    /* by BLKDISCARD */
	_Atomic bool no_zero_range; /* by fallocate or BLKZEROOUT */
};

/*
 * Who may write a direct file whose blocks are larger than a request's: many writers of whole blocks, or
 * one that reads, changes and writes back a block. That one waits for the others, new ones wait for it,
 * and those who waited go before the next one of its kind. Not one of the ranked locks: it is held over
 * I/O, on threads that hold no other lock.
 */
struct io_gate {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	/* under mutex */
	unsigned shared;    /* whole-block writers inside */
	unsigned exclusive; /* read-modify-writers inside or waiting */
	bool busy;          /* one of them is inside */
	unsigned waiting;   /* whole-block writers outside */
	unsigned admitted;  /* of them, to go before the next read-modify-writer */
};

struct rd_file {
	/* set by io_open */
	int fd;
	bool block;  /* a block device */
	bool remote; /* a network file system, or one served by a process: never inline */
	bool direct;
	bool gated;     /* writes go through the gate: direct, and blocks larger than a sector */
	uint32_t flags; /* RD_OPEN_* */
	uint32_t mem_align;  /* direct only */
	uint32_t len_align;  /* direct only */
	struct rd_info info; /* without size and caps */
	char *disk;
	char *path;
	/* any thread */
	struct io_learned learned;
	_Atomic bool flush_failed;
	struct io_gate gate;
};

/* io-lock.c: lock an open file against a second writer, as the flags demand. 0, -EAGAIN when
 * another holds it, or -errno. *what then says what the other does. Closing the file unlocks. */
int io_lock(int fd, uint32_t flags, const char **what);

/* io.c: the gate. try: false instead of waiting. */
void io_gate_init(struct io_gate *gate);
void io_gate_destroy(struct io_gate *gate);
bool io_gate_try_shared(struct io_gate *gate);
void io_gate_leave_shared(struct io_gate *gate);

/* True if all of the vectors, the offset and the length suit a direct file. */
bool io_aligned(const struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset,
		uint64_t length);
/* The sum of the vectors, or -EINVAL: negative, or it and offset pass what off_t holds. */
int io_length(const struct iovec *iov, int iovcnt, uint64_t offset, uint64_t *length);

#endif
