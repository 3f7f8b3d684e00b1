/*
 * request.c - a request in flight
 */
#include "request.h"

#include <errno.h>

#include <xen/xen.h>

#include <xen/io/blkif.h>

int16_t req_status(int err)
{
	switch (err) {
	case 0:
		return BLKIF_RSP_OKAY;
	case -EOPNOTSUPP:
		return BLKIF_RSP_EOPNOTSUPP;
	default:
		return BLKIF_RSP_ERROR;
	}
}
