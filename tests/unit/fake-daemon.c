/*
 * fake-daemon SOCKET: the admin socket in front of disks that are not there, for the tests of the command
 * `ringdisk`. The disk 5/xvdb cannot be unpaused, 5/xvdc takes for ever to pause, 5/xvdd has trouble and an
 * evil name. Says "ready", and ends by `ringdisk shutdown` or when its standard input is closed.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "admin.h"
#include "fake-device.h"
#include "pool.h"

static int end_pipe[2];

static void ask_for_end(void)
{
	if (write(end_pipe[1], "", 1) != 1)
		abort();
}

static int attach(uint32_t domid, uint32_t vdev, const char *kind, const char *params, bool writable,
                  bool cdrom, char *err, size_t errlen)
{
	printf("attach %u %u %s %s %s%s\n", domid, vdev, kind, params, writable ? "rw" : "ro",
	       cdrom ? " cdrom" : "");
	fflush(stdout);
	if (strcmp(params, "raw:/missing"))
		return 0;
	snprintf(err, errlen, "raw: /missing: No such file or directory");
	return -ENOENT;
}

static int detach(uint32_t domid, uint32_t vdev, bool force, char *err, size_t errlen)
{
	printf("detach %u %u%s\n", domid, vdev, force ? " force" : "");
	fflush(stdout);
	if (force)
		return 0;
	snprintf(err, errlen, "the guest keeps it open");
	return -ETIMEDOUT;
}

int main(int argc, char **argv)
{
	struct admin_config config = {
		.socket_path = argc > 1 ? argv[1] : "",
		.shutdown = ask_for_end,
		.hyp = "fake",
		.store = {.attach = attach, .detach = detach},
	};
	struct pollfd wait[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.events = POLLIN}};
	struct device *held;

	if (pipe(end_pipe) || pool_create("c", 2, 8, &config.control))
		return EXIT_FAILURE;
	config.workers = config.control;
	fake_devices_init(config.control);
	stats_add(dev_stats(fake_device_add(5, 51712, "5/xvda", "raw:/srv/a.img"))->op[STAT_READ].done, 42);
	fake_device_fail(fake_device_add(5, 51728, "5/xvdb", "raw:/srv/b.img"), -ENOTCONN, "");
	held = fake_device_add(5, 51744, "5/xvdc", "raw:/srv/c.img");
	fake_device_hold(held);
	fake_device_fail(fake_device_add(5, 51760, "5/xvdd", "raw:/srv/\033[31md.img"), -EIO,
	                 "raw: \033[2J cannot be read");
	if (admin_start(&config))
		return EXIT_FAILURE;
	puts("ready");
	fflush(stdout);
	wait[1].fd = end_pipe[0];
	while (poll(wait, 2, -1) < 0 && errno == EINTR)
		;
	admin_stop();
	fake_device_release(held);
	pool_destroy(config.control);
	fake_devices_end();
	return EXIT_SUCCESS;
}
