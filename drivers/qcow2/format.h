/*
 * qcow2/format.h - the qcow2 format as it stands in the file: names for every number of the specification
 * (QEMU's docs/interop/qcow2.txt, whose sections are named below). All integers in the file are big-endian.
 */
#ifndef QCOW2_FORMAT_H
#define QCOW2_FORMAT_H

#include <stdint.h>

#define QCOW2_MAGIC 0x514649fbu /* "QFI\xfb" */

/* Header: byte offsets. Up to 72 it is version 2. */
enum {
	HDR_MAGIC = 0,
	HDR_VERSION = 4,
	HDR_BACKING_OFFSET = 8,
	HDR_BACKING_SIZE = 16,
	HDR_CLUSTER_BITS = 20,
	HDR_SIZE = 24,
	HDR_CRYPT = 32,
	HDR_L1_SIZE = 36,
	HDR_L1_OFFSET = 40,
	HDR_REFTABLE_OFFSET = 48,
	HDR_REFTABLE_CLUSTERS = 56,
	HDR_NB_SNAPSHOTS = 60,
	HDR_SNAPSHOTS_OFFSET = 64,
	HDR_V2_LENGTH = 72,
	HDR_INCOMPATIBLE = 72,
	HDR_COMPATIBLE = 80,
	HDR_AUTOCLEAR = 88,
	HDR_REFCOUNT_ORDER = 96,
	HDR_LENGTH = 100,
	HDR_V3_LENGTH = 104,
	HDR_COMPRESSION = 104, /* one byte; there if the header is longer than 104 */
	HDR_OUR_LENGTH = 112,  /* what we write */
};

#define INCOMPAT_DIRTY       (1ull << 0)
#define INCOMPAT_CORRUPT     (1ull << 1)
#define INCOMPAT_DATA_FILE   (1ull << 2)
#define INCOMPAT_COMPRESSION (1ull << 3)
#define INCOMPAT_EXTENDED_L2 (1ull << 4)
#define INCOMPAT_KNOWN       0x1full
#define COMPAT_LAZY          (1ull << 0)
#define AUTOCLEAR_BITMAPS    (1ull << 0)
#define AUTOCLEAR_RAW        (1ull << 1) /* of external data files */
/* Ours: the image carries the extension EXT_GENERATION. Any other writer clears it, and so tells us that the
 * redo log is not about this image any more. */
#define AUTOCLEAR_GENERATION (1ull << 62)

#define COMPRESSION_DEFLATE 0
#define COMPRESSION_ZSTD    1

/* Header extensions. */
#define EXT_END            0u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_FEATURE_NAMES  0x6803f857u
#define EXT_BITMAPS        0x23852875u
#define EXT_CRYPTO         0x0537be77u
#define EXT_DATA_FILE      0x44415441u
#define EXT_GENERATION     0x7264676eu /* ours, "rdgn": 8 bytes, the generation of the redo log */

/* L1 and L2 entries. */
#define ENTRY_COPIED     (1ull << 63) /* the refcount is exactly one */
#define ENTRY_COMPRESSED (1ull << 62) /* L2 only */
#define ENTRY_ZERO       (1ull << 0)  /* L2 of version 3 without extended L2 */
#define ENTRY_OFFSET     0x00fffffffffffe00ull
#define L1_RESERVED      0x7f000000000001ffull
#define L2_RESERVED      0x3f000000000001feull /* of standard clusters */

/* Limits (those of QEMU's block/qcow2.h, so that what one opens the other does). */
#define CLUSTER_BITS_MIN    9
#define CLUSTER_BITS_MAX    21
#define REFCOUNT_ORDER_MAX  6
#define EXTL2_CLUSTER_BITS  14 /* extended L2 needs at least this */
#define SUBCLUSTERS         32
#define L1_BYTES_MAX        (32u << 20)
#define REFTABLE_BYTES_MAX  (8u << 20)
#define SNAPSHOTS_MAX       65536u
#define SNAPSHOT_TABLE_MAX  (64u << 20)
#define SNAPSHOT_EXTRA_MAX  1024u
#define BACKING_NAME_MAX    1023u
#define BACKING_FORMAT_MAX  15
#define HOST_OFFSET_MAX     (1ull << 56)

#endif
