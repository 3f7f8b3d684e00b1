/* xenbus-state.h: every combination has a move, the moves keep the promises, and they come to rest. */
#include "test.h"

#include "xenbus-state.h"

/* Call check for every combination of a node that is there. */
static void for_all(void (*check)(const struct xb_view *v, enum xb_move move))
{
	struct xb_view v = { .present = true };

	for (int link = 0; link < XB_NLINKS; link++) {
		for (int be = 0; be <= XB_RECONFIGURED; be++) {
			for (int fe = 0; fe < XB_NSTATES; fe++) {
				for (int online = 0; online < 2; online++) {
					v.link = (enum xb_link)link;
					v.be = (enum xb_state)be;
					v.fe = (enum xb_state)fe;
					v.online = online;
					check(&v, xb_next(&v)); /* aborts where there is no row */
				}
			}
		}
	}
}

static bool held(const struct xb_view *v)
{
	return v->link == XB_UP || v->link == XB_BROKEN;
}

static void check_vanished(const struct xb_view *v, enum xb_move move)
{
	struct xb_view gone = *v;

	(void)move;
	gone.present = false;
	assert_int_equal(xb_next(&gone), DO_FORGET);
}

static void vanished_node_is_always_forgotten(void **state)
{
	(void)state;
	for_all(check_vanished);
}

static void check_offline(const struct xb_view *v, enum xb_move move)
{
	if (v->online)
		return;
	assert_int_not_equal(move, DO_PUBLISH);
	assert_int_not_equal(move, DO_CONNECT);
	assert_int_not_equal(move, DO_RECONNECT);
	assert_int_not_equal(move, DO_REPUBLISH);
	/* libxl waits ten seconds for Closed: it comes at once unless the guest still uses the disk. */
	if (!held(v) && v->be != XB_CLOSED && v->be != XB_UNKNOWN)
		assert_int_equal(move, DO_CLOSE);
}

static void disk_to_be_removed_is_not_offered(void **state)
{
	(void)state;
	for_all(check_offline);
}

static void check_connect(const struct xb_view *v, enum xb_move move)
{
	if (move == DO_CONNECT) {
		assert_int_equal(v->link, XB_IDLE);
		assert_int_equal(v->be, XB_INITWAIT);
		assert_true(v->fe == XB_INITIALISED || v->fe == XB_CONNECTED ||
			    v->fe == XB_INITIALISED_ANEW);
	}
	if (move == DO_REPUBLISH || move == DO_RECONNECT || move == DO_DROP)
		assert_true(held(v));
}

static void rings_are_mapped_only_when_the_frontend_is_ready(void **state)
{
	(void)state;
	for_all(check_connect);
}

/* A guest that is gone, closed or begun anew keeps nothing mapped; nor does one whose disk libxl closed. */
static void check_release(const struct xb_view *v, enum xb_move move)
{
	if (!held(v))
		return;
	if (v->be == XB_CLOSED)
		assert_int_equal(move, DO_DROP);
	else if (v->be != XB_INITIALISING && (v->fe == XB_UNKNOWN || v->fe == XB_CLOSED))
		assert_int_equal(move, DO_CLOSE);
	if (v->link == XB_BROKEN && v->be == XB_CONNECTED)
		assert_int_not_equal(move, DO_NONE);
}

static void memory_of_a_dead_guest_is_released(void **state)
{
	(void)state;
	for_all(check_release);
}

/* What the store and we look like after the move; ok: the image and the rings were good. */
static void apply(struct xb_view *v, enum xb_move move, bool ok)
{
	switch (move) {
	case DO_PUBLISH:
		v->link = ok ? XB_IDLE : XB_FAILED;
		v->be = ok ? XB_INITWAIT : XB_CLOSED;
		break;
	case DO_CONNECT:
	case DO_RECONNECT:
		v->link = ok ? XB_UP : XB_IDLE;
		v->be = ok ? XB_CONNECTED : XB_CLOSED;
		if (v->fe == XB_INITIALISED_ANEW)
			v->fe = XB_INITIALISED;
		break;
	case DO_REPUBLISH:
		v->be = XB_CONNECTED;
		break;
	case DO_CLOSING:
		v->be = XB_CLOSING;
		break;
	case DO_CLOSE:
		v->be = XB_CLOSED;
		__attribute__((fallthrough));
	case DO_DROP:
		if (held(v))
			v->link = XB_IDLE;
		break;
	case DO_RENEW:
		v->link = XB_NO_DEVICE;
		break;
	default:
		break;
	}
}

static void check_rest(const struct xb_view *start, enum xb_move move)
{
	for (int ok = 0; ok < 2; ok++) {
		struct xb_view v = *start;
		enum xb_move m = move;
		int steps = 0;

		while (m != DO_NONE && m != DO_FINISH && m != DO_ORPHAN) {
			if (++steps > 6)
				fail_msg("link %d be %d fe %d online %d never rests: %s",
					 start->link, start->be, start->fe, start->online,
					 xb_move_text(m));
			apply(&v, m, ok);
			m = xb_next(&v);
		}
	}
}

static void moves_come_to_rest(void **state)
{
	(void)state;
	for_all(check_rest);
}

static struct xb_view view(enum xb_link link, enum xb_state be, enum xb_state fe)
{
	return (struct xb_view){
		.present = true, .link = link, .be = be, .fe = fe, .online = true
	};
}

static void expect(enum xb_link link, enum xb_state be, enum xb_state fe, enum xb_move move)
{
	struct xb_view v = view(link, be, fe);

	if (xb_next(&v) != move)
		fail_msg("link %d be %d fe %d: %s, not %s", link, be, fe, xb_move_text(xb_next(&v)),
			 xb_move_text(move));
}

static void normal_life(void **state)
{
	(void)state;
	expect(XB_NO_DEVICE, XB_INITIALISING, XB_INITIALISING, DO_PUBLISH);
	expect(XB_IDLE, XB_INITWAIT, XB_INITIALISING, DO_NONE);
	expect(XB_IDLE, XB_INITWAIT, XB_INITIALISED, DO_CONNECT);
	expect(XB_UP, XB_CONNECTED, XB_INITIALISED, DO_NONE);
	expect(XB_UP, XB_CONNECTED, XB_CONNECTED, DO_NONE);
	expect(XB_UP, XB_CONNECTED, XB_CLOSING, DO_CLOSING);
	expect(XB_UP, XB_CLOSING, XB_CLOSING, DO_NONE);
	expect(XB_UP, XB_CLOSING, XB_CLOSED, DO_CLOSE);
	expect(XB_IDLE, XB_CLOSED, XB_CLOSED, DO_NONE);
}

/* The next kernel walks the backend through Closing, Closed and InitWait, and waits 5 s for each. */
static void kexec_sees_every_state(void **state)
{
	(void)state;
	expect(XB_UP, XB_CONNECTED, XB_CLOSING, DO_CLOSING);
	expect(XB_UP, XB_CLOSING, XB_CLOSED, DO_CLOSE);
	expect(XB_IDLE, XB_CLOSED, XB_INITIALISING, DO_PUBLISH);
	/* and from InitWait, when the first kernel never connected */
	expect(XB_IDLE, XB_INITWAIT, XB_CLOSING, DO_CLOSING);
	expect(XB_IDLE, XB_CLOSING, XB_CLOSING, DO_NONE);
	expect(XB_IDLE, XB_CLOSING, XB_CLOSED, DO_CLOSE);
	/* and with a ring that died with an earlier daemon */
	expect(XB_NO_DEVICE, XB_CONNECTED, XB_CLOSING, DO_CLOSING);
	expect(XB_NO_DEVICE, XB_CLOSING, XB_CLOSED, DO_CLOSE);
}

static void resume_in_place_goes_straight_to_initwait(void **state)
{
	(void)state;
	expect(XB_UP, XB_CONNECTED, XB_INITIALISING, DO_PUBLISH);
	expect(XB_IDLE, XB_CLOSED, XB_INITIALISING, DO_PUBLISH);
	expect(XB_UP, XB_CONNECTED, XB_INITIALISED_ANEW, DO_RECONNECT);
}

static void failed_attach_is_not_tried_for_ever(void **state)
{
	(void)state;
	expect(XB_FAILED, XB_CLOSED, XB_INITIALISING, DO_NONE);
	expect(XB_FAILED, XB_INITIALISING, XB_INITIALISING,
	       DO_RENEW); /* the toolstack asks again */
}

static void ring_of_an_earlier_daemon_is_left_alone(void **state)
{
	(void)state;
	expect(XB_NO_DEVICE, XB_CONNECTED, XB_CONNECTED, DO_ORPHAN);
	expect(XB_NO_DEVICE, XB_CONNECTED, XB_INITIALISED, DO_ORPHAN);
	expect(XB_NO_DEVICE, XB_CONNECTED, XB_INITIALISING, DO_PUBLISH);
}

static void names(void **state)
{
	(void)state;
	for (int i = 0; i < DO_NMOVES; i++)
		assert_non_null(xb_move_text((enum xb_move)i));
	for (int i = 0; i < XB_NSTATES; i++)
		assert_non_null(xb_state_text((enum xb_state)i));
	assert_string_equal(xb_state_text(XB_CLOSED), "Closed");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vanished_node_is_always_forgotten),
		cmocka_unit_test(disk_to_be_removed_is_not_offered),
		cmocka_unit_test(rings_are_mapped_only_when_the_frontend_is_ready),
		cmocka_unit_test(memory_of_a_dead_guest_is_released),
		cmocka_unit_test(moves_come_to_rest),
		cmocka_unit_test(normal_life),
		cmocka_unit_test(kexec_sees_every_state),
		cmocka_unit_test(resume_in_place_goes_straight_to_initwait),
		cmocka_unit_test(failed_attach_is_not_tried_for_ever),
		cmocka_unit_test(ring_of_an_earlier_daemon_is_left_alone),
		cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
