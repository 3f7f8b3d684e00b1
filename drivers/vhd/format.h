/*
 * vhd/format.h - the VHD format as it stands in the file: names for every number of Microsoft's "Virtual Hard
 * Disk Image Format Specification" 1.0 (2006), whose structures are named below, and of tapdisk's batmap.
 * All integers in the file are big-endian.
 *
 *      fixed           data | footer
 *      dynamic,        copy of the footer | header | BAT | batmap | parent locators | blocks | footer
 *      differencing    (the first is at 0, all others where something points to them; our order)
 *      block           bitmap, whole sectors | data
 */
#ifndef VHD_FORMAT_H
#define VHD_FORMAT_H

#include <stdint.h>

#define SECTOR 512u

/* "Hard Disk Footer Format": byte offsets. */
enum {
	FTR_COOKIE = 0,
	FTR_FEATURES = 8,
	FTR_VERSION = 12,
	FTR_DATA_OFFSET = 16,
	FTR_TIMESTAMP = 24,
	FTR_CREATOR = 28,
	FTR_CREATOR_VERSION = 32,
	FTR_CREATOR_OS = 36,
	FTR_ORIGINAL_SIZE = 40,
	FTR_CURRENT_SIZE = 48,
	FTR_GEOMETRY = 56, /* cylinders 2 bytes, heads 1, sectors per track 1 */
	FTR_TYPE = 60,
	FTR_CHECKSUM = 64,
	FTR_UUID = 68,
	FTR_SAVED = 84,
	FTR_HIDDEN = 85, /* tapdisk's */
	FTR_RESERVED = 86,
	FTR_LENGTH = 512,
	FTR_LENGTH_OLD = 511 /* of Virtual PC before 2004 */
};

#define FTR_COOKIE_VALUE  "conectix"
#define FTR_COOKIE_POISON "v_poison" /* tapdisk has disabled the image */
#define FEATURE_TEMPORARY 1u
#define FEATURE_RESERVED  2u /* always set */
#define VERSION_1_0       0x00010000u
#define OFFSET_NONE       0xffffffffffffffffull
#define TIME_BASE         946684800 /* 2000-01-01 00:00:00 UTC, in time_t */

#define TYPE_FIXED        2u
#define TYPE_DYNAMIC      3u
#define TYPE_DIFFERENCING 4u

#define CREATOR_OS_WINDOWS 0x5769326bu /* "Wi2k" */
#define CREATOR_TAP        "tap"       /* and a NUL */
#define TAP_VERSION_0_1    0x00000001u /* bitmaps in another bit order */
#define TAP_VERSION_1_2    0x00010002u /* from here on there always is a batmap */
#define TAP_VERSION_1_3    0x00010003u

/* "Dynamic Disk Header Format". */
enum {
	HDR_COOKIE = 0,
	HDR_DATA_OFFSET = 8,
	HDR_TABLE_OFFSET = 16,
	HDR_VERSION = 24,
	HDR_MAX_ENTRIES = 28,
	HDR_BLOCK_SIZE = 32,
	HDR_CHECKSUM = 36,
	HDR_PARENT_UUID = 40,
	HDR_PARENT_TIMESTAMP = 56,
	HDR_RESERVED1 = 60,
	HDR_PARENT_NAME = 64, /* UTF-16, big-endian */
	HDR_PARENT_NAME_LENGTH = 512,
	HDR_LOCATORS = 576,
	HDR_RESERVED2 = 768,
	HDR_LENGTH = 1024
};

#define HDR_COOKIE_VALUE "cxsparse"

/* "Parent Locator" entries. */
enum {
	LOC_CODE = 0,
	LOC_SPACE = 4, /* sectors by the specification, bytes by everybody: below 512 it is sectors */
	LOC_LENGTH = 8,
	LOC_RESERVED = 12,
	LOC_OFFSET = 16,
	LOC_SIZE = 24,
	LOCATORS = 8
};

#define PLATFORM_NONE 0u
#define PLATFORM_WI2R 0x57693272u /* deprecated */
#define PLATFORM_WI2K 0x5769326bu /* deprecated */
#define PLATFORM_W2RU 0x57327275u /* relative path, UTF-16 little-endian */
#define PLATFORM_W2KU 0x57326b75u /* absolute path, UTF-16 little-endian */
#define PLATFORM_MAC  0x4d616320u /* an alias, opaque */
#define PLATFORM_MACX 0x4d616358u /* file URL, UTF-8 */

/* "Block Allocation Table". */
#define BAT_UNUSED 0xffffffffu
#define BLOCKS_END (BAT_UNUSED * (uint64_t)SECTOR) /* no block can begin behind it */

/* tapdisk's batmap header: in the first whole sector behind the BAT. A bit says: all of the block's bits are set. */
enum {
	BMH_COOKIE = 0,
	BMH_OFFSET = 8,
	BMH_SIZE = 16, /* sectors */
	BMH_VERSION = 20,
	BMH_CHECKSUM = 24, /* of the map */
	BMH_MARKER = 28,
	BMH_KEYHASH = 29, /* its first byte: 1 if the image is encrypted */
	BMH_LENGTH = 512
};

#define BMH_COOKIE_VALUE "tdbatmap"
#define BMH_VERSION_1_1  0x00010001u /* checksum over signed bytes */
#define BMH_VERSION_1_2  0x00010002u

/* Limits (reliability: those of QEMU's block/vpc.c and of blktap's libvhd). */
#define SECTORS_MAX       0xff000000ull /* 2040 GiB */
#define BLOCK_MIN         512u
#define BLOCK_MAX         (1u << 30)
#define BLOCK_DEFAULT     (2u << 20)
#define BAT_BYTES_MAX     (32u << 20) /* of what the disk's size needs */
#define BATMAP_BYTES_MAX  (1u << 20)
#define LOCATOR_BYTES_MAX (64u << 10)
#define GEOMETRY_MAX      (65535ull * 16 * 255) /* sectors; where the geometry stops counting */

#endif
