/*
 * nbd-proto.h - the numbers of the NBD protocol
 *
 * Names and values as in doc/proto.md of the NetworkBlockDevice project.  All fields are big-endian.
 */
#ifndef RD_NBD_PROTO_H
#define RD_NBD_PROTO_H

#define NBD_MAGIC_INIT     0x4e42444d41474943ull /* "NBDMAGIC" */
#define NBD_MAGIC_OPTION   0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_MAGIC_REPLY    0x0003e889045565a9ull /* to an option */
#define NBD_MAGIC_REQUEST  0x25609513u
#define NBD_MAGIC_SIMPLE   0x67446698u
#define NBD_MAGIC_CHUNK    0x668e33efu

/* Of the greeting, and what the client answers with. */
#define NBD_FLAG_FIXED_NEWSTYLE (1u << 0)
#define NBD_FLAG_NO_ZEROES      (1u << 1)

enum nbd_option {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ACK             1u
#define NBD_REP_SERVER          2u
#define NBD_REP_INFO            3u
#define NBD_REP_META_CONTEXT    4u
#define NBD_REP_ERR_UNSUP       0x80000001u
#define NBD_REP_ERR_POLICY      0x80000002u
#define NBD_REP_ERR_INVALID     0x80000003u
#define NBD_REP_ERR_UNKNOWN     0x80000006u
#define NBD_REP_ERR_TOO_BIG     0x80000009u

#define NBD_INFO_EXPORT     0u
#define NBD_INFO_BLOCK_SIZE 3u

/* Of an export. */
#define NBD_TFLAG_HAS_FLAGS    (1u << 0)
#define NBD_TFLAG_READ_ONLY    (1u << 1)
#define NBD_TFLAG_FLUSH        (1u << 2)
#define NBD_TFLAG_FUA          (1u << 3)
#define NBD_TFLAG_TRIM         (1u << 5)
#define NBD_TFLAG_WRITE_ZEROES (1u << 6)
#define NBD_TFLAG_DF           (1u << 7)
#define NBD_TFLAG_MULTI_CONN   (1u << 8)

enum nbd_command {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

/* Of a request. */
#define NBD_CFLAG_FUA       (1u << 0)
#define NBD_CFLAG_NO_HOLE   (1u << 1)
#define NBD_CFLAG_DF        (1u << 2)
#define NBD_CFLAG_REQ_ONE   (1u << 3)

/* Of a chunk. */
#define NBD_CHUNK_DONE         1u /* flag */
#define NBD_CHUNK_NONE         0u
#define NBD_CHUNK_OFFSET_DATA  1u
#define NBD_CHUNK_BLOCK_STATUS 5u
#define NBD_CHUNK_ERROR        0x8001u

#define NBD_STATE_HOLE 1u
#define NBD_STATE_ZERO 2u

#define NBD_HEADER_OPTION  16u
#define NBD_HEADER_REQUEST 28u

#endif
