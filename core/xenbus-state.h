/*
 * xenbus-state.h - the table of moves: what the backend does when it sees both ends' states
 *
 * Pure: no store, no device, no threads. xenbus.c looks, asks xb_next(), and does it.
 */
#ifndef RD_XENBUS_STATE_H
#define RD_XENBUS_STATE_H

#include <stdbool.h>

/* The states of both ends; the numbers are those of xen/io/xenbus.h. */
enum xb_state {
	XB_UNKNOWN, /* also: the node, its directory or its domain is gone, or it holds nonsense */
	XB_INITIALISING,
	XB_INITWAIT,
	XB_INITIALISED,
	XB_CONNECTED,
	XB_CLOSING,
	XB_CLOSED,
	XB_RECONFIGURING,
	XB_RECONFIGURED,
	/* Never in the store: the frontend is Initialised, with other rings than those we serve. */
	XB_INITIALISED_ANEW,
	XB_NSTATES
};

/* What we have for the node, whatever the store says. */
enum xb_link {
	XB_NO_DEVICE, /* nothing */
	XB_FAILED,    /* a device that could not be offered, and nothing has changed since */
	XB_IDLE,      /* a device, offered to the frontend; we hold nothing of the guest's */
	XB_UP,        /* rings are mapped */
	XB_BROKEN,    /* rings are mapped, but the guest made them impossible */
	XB_NLINKS
};

enum xb_move {
	DO_NONE,      /* nothing to do until something changes */
	DO_PUBLISH,   /* look at the image, write what we offer, InitWait; UP: disconnect before */
	DO_CONNECT,   /* map the rings, write the geometry, Connected */
	DO_REPUBLISH, /* rings are mapped, but the store missed it: write Connected again */
	DO_RECONNECT, /* disconnect, then as CONNECT */
	DO_CLOSING,   /* write Closing; what is in flight goes on until the frontend has closed */
	DO_CLOSE,     /* by way of Closing if Connected: disconnect, write Closed */
	DO_DROP,      /* disconnect, write nothing: somebody else has written Closed */
	DO_RENEW,     /* the node was written anew: drop the device, then begin again */
	DO_FINISH,    /* removed and Closed: drop the device (a driver domain removes the node) */
	DO_FORGET,    /* the node is gone: drop the device, write nothing */
	DO_ORPHAN,    /* a ring that an earlier daemon left: say so, touch nothing */
	DO_RESIZE,    /* asked for by the device, not by the table: republish what has changed */
	DO_PARAMS,    /* the same: the disk has another image, write its params */
	DO_NMOVES
};

struct xb_view {
	bool present; /* our directory is in the store */
	enum xb_link link;
	enum xb_state
		be; /* our state as the store has it; anybody in the toolstack may have written it */
	enum xb_state fe;
	bool online; /* false: the toolstack wants the disk removed */
};

enum xb_move xb_next(const struct xb_view *view);
const char *xb_move_text(enum xb_move move);
const char *xb_state_text(enum xb_state state);

#endif
