/*
 * A disk whose one open image is used by its guest and by an NBD client: what a call that hangs leaves possible for
 * the other one; and a pause, whoever comes and goes meanwhile.
 */
#include "test.h"

#include <endian.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "nbd.h"
#include "nbd-proto.h"
#include "vbd.h"

#define SIZE (8u << 20)

static struct vbd vbd;
static char nbd_dir[64], *dir, path[4096], params[18000], hanging[4200], when[4200], release[4200];
static uint32_t gref;
static int client = -1;

/* --- an NBD client, as simple as can be --- */

static void say(const void *data, size_t len)
{
	assert_int_equal(send(client, data, len, MSG_NOSIGNAL), len);
}

static void say64(uint64_t n)
{
	n = htobe64(n);
	say(&n, sizeof(n));
}

static void say32(uint32_t n)
{
	n = htobe32(n);
	say(&n, sizeof(n));
}

static void hear(void *data, size_t len)
{
	struct pollfd fd = {.fd = client, .events = POLLIN};

	assert_int_equal(poll(&fd, 1, VBD_WAIT_MS), 1);
	assert_int_equal(recv(client, data, len, MSG_WAITALL), len);
}

/* Up to transmission: the image is open then. */
static void client_comes(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	uint8_t greeting[18], size_and_flags[10];

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/disk", nbd_dir);
	client = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&addr, sizeof(addr)), 0);
	hear(greeting, sizeof(greeting));
	say32(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	say64(NBD_MAGIC_OPTION);
	say32(NBD_OPT_EXPORT_NAME);
	say32(0);
	hear(size_and_flags, sizeof(size_and_flags));
}

static void client_asks(void)
{
	say32(NBD_MAGIC_REQUEST);
	say32(NBD_CMD_READ);
	say64(7); /* cookie */
	say64(0);
	say32(4096);
}

static void client_gets(void)
{
	uint8_t head[16], bytes[4096];
	uint32_t error;

	hear(head, sizeof(head));
	memcpy(&error, head + 4, sizeof(error));
	assert_int_equal(error, 0);
	hear(bytes, sizeof(bytes));
}

static void client_goes(void)
{
	if (client >= 0)
		close(client);
	client = -1;
}

/* --- the disk --- */

static void make_file(const char *name)
{
	FILE *f = fopen(name, "w");

	assert_non_null(f);
	fclose(f);
}

static int setup(void **state)
{
	uint8_t *page;

	(void)state;
	log_to_callback(disk_log_catch, NULL);
	disk_log_clear();
	assert_int_equal(drv_load(disk_driver_dir()), 0);
	/* A socket's path must be short. */
	strcpy(nbd_dir, "/tmp/rd-nbd-XXXXXX");
	assert_non_null(mkdtemp(nbd_dir));
	assert_int_equal(nbd_start(nbd_dir, NULL), 0);
	vbd_setup(&vbd);
	dir = disk_dir(false);
	snprintf(path, sizeof(path), "%s", disk_file(dir, "disk", SIZE));
	snprintf(when, sizeof(when), "%s/when", dir);
	snprintf(hanging, sizeof(hanging), "%s/hanging", dir);
	snprintf(release, sizeof(release), "%s/release", dir);
	page = guest_pages(vbd.guest, 1);
	gref = guest_grant(vbd.guest, page, false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	make_file(release); /* also when a test has failed: nothing is to hang any more */
	client_goes();
	vbd_teardown(&vbd);
	vbd.dev = NULL;
	nbd_stop();
	rmdir(nbd_dir);
	disk_remove(dir);
	log_to_callback(NULL, NULL);
	return 0;
}

static int do_export(struct vbd *v)
{
	return dev_export(v->dev, "disk", false);
}

static int do_unexport(struct vbd *v)
{
	return dev_unexport(v->dev);
}

static int do_check(struct vbd *v)
{
	struct rd_check result;

	return dev_check(v->dev, NULL, &result);
}

static int do_shrink(struct vbd *v)
{
	return dev_resize(v->dev, SIZE / 2, true);
}

static void exported_disk(void)
{
	snprintf(params, sizeof(params), "delay,hang=read,when=%s,hanging=%s,release=%s:raw:%s", when, hanging, release,
	         path);
	vbd_create(&vbd, params, "", true);
	assert_int_equal(vbd_strand(&vbd, do_export), 0);
}

static void guest_asks(void)
{
	vbd_put(&vbd, BLKIF_OP_READ, 7, 0, &gref, 1);
	vbd_push(&vbd);
}

/* --- a call that hangs, of one of the two who have the image --- */

/* Until so many calls of the guest's and of the client's run, and one hangs; no other one will. */
static void wait_hanging(unsigned guests, unsigned clients)
{
	struct dev_view view;

	wait_true((dev_look(vbd.dev, &view), view.inflight == guests && view.nbd.running == clients), VBD_WAIT_MS);
	wait_true(!access(hanging, F_OK), VBD_WAIT_MS);
	unlink(when);
}

/* Whoever has the image still: no call may run beside these, and one does. */
static void refused_until_it_returns(void)
{
	char text[512];
	int err;

	assert_int_equal(vbd_strand(&vbd, do_check), -EBUSY);
	assert_non_null(strstr(dev_error(vbd.dev, text, sizeof(text)), "a driver call does not return"));
	assert_int_equal(vbd_strand(&vbd, do_shrink), -EBUSY);
	assert_non_null(strstr(dev_error(vbd.dev, text, sizeof(text)), "a driver call does not return"));
	make_file(release);
	wait_true((err = vbd_strand(&vbd, do_check)) != -EBUSY, VBD_WAIT_MS);
	/* What this driver says. */
	assert_int_equal(err, -EOPNOTSUPP);
	assert_int_equal(vbd_strand(&vbd, do_shrink), -EPERM);
}

static void hanging_client_is_beside_no_check(void **state)
{
	(void)state;
	exported_disk();
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	client_comes();
	make_file(when);
	client_asks();
	wait_hanging(0, 1);
	assert_int_equal(vbd_strand(&vbd, do_unexport), -ETIMEDOUT);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, &gref, 1), 0);
	refused_until_it_returns();
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, &gref, 1), 0);
}

static void hanging_guest_is_beside_no_check(void **state)
{
	(void)state;
	exported_disk();
	client_comes();
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	make_file(when);
	guest_asks();
	wait_hanging(1, 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), -ETIMEDOUT);
	client_asks();
	client_gets();
	refused_until_it_returns();
	client_asks();
	client_gets();
}

/* --- a pause --- */

/* What they ask for waits. */
static void nobody_gets_anything(void)
{
	struct pollfd fd = {.fd = client, .events = POLLIN};

	assert_int_equal(dev_state(vbd.dev), DEV_PAUSED);
	assert_int_equal(poll(&fd, 1, 20), 0);
	assert_false(vbd_answered(&vbd));
}

static void wait_clients(unsigned clients)
{
	struct dev_view view;

	wait_true((dev_look(vbd.dev, &view), view.nbd.clients == clients), VBD_WAIT_MS);
}

static void a_pause_is_ended_by_its_operator_alone(void **state)
{
	(void)state;
	exported_disk();
	client_comes();
	assert_int_equal(vbd_strand(&vbd, vbd_do_pause), 0);
	client_asks();
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	guest_asks();
	nobody_gets_anything();
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	nobody_gets_anything();
	client_goes();
	wait_clients(0);
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	guest_asks();
	client_comes();
	client_asks();
	nobody_gets_anything();
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	assert_int_equal(vbd_answer(&vbd).status, 0);
	client_gets();
}

static void a_pause_can_end_when_nobody_is_there(void **state)
{
	(void)state;
	exported_disk();
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_pause), 0);
	assert_int_equal(vbd_strand(&vbd, vbd_do_disconnect), 0);
	assert_int_equal(dev_state(vbd.dev), DEV_PAUSED);
	assert_int_equal(vbd_strand(&vbd, vbd_do_unpause), 0);
	assert_int_equal(dev_state(vbd.dev), DEV_IDLE);
	client_comes();
	client_asks();
	client_gets();
	assert_int_equal(vbd_connect(&vbd, 0, true), 0);
	assert_int_equal(vbd_do(&vbd, BLKIF_OP_READ, 0, &gref, 1), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(hanging_client_is_beside_no_check),
		CASE(hanging_guest_is_beside_no_check),
		CASE(a_pause_is_ended_by_its_operator_alone),
		CASE(a_pause_can_end_when_nobody_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
