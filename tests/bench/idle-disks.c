/*
 * Connects many disks and leaves them alone, so that others can look at what an idle daemon costs.
 *
 *	idle-disks SOCKET COUNT RING-ORDER PARAMS
 *
 * SOCKET is that of the loopback hypervisor of a daemon with --claim=all. Prints "ready" when all disks are
 * connected, waits for the end of its input, and lets the domains die. 16 disks for each domain.
 *
 * What can go wrong: a disk does not connect; says which, exit status 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend.h"
#include "toolstack.h"

#define FIRST_DOMAIN 1000u
#define PER_DOMAIN   16u
#define GUEST_PAGES  1024u
#define GUEST_GRANTS 1024u
#define XVD(disk)    (202u << 8 | (disk) << 4)

struct idle {
	struct guest *toolstack, *guest;
	struct frontend *fe;
};

static int connect_disk(struct idle *idle, const char *socket, unsigned int n, unsigned int order,
			const char *params)
{
	const struct ts_vbd vbd = {
		.domid = FIRST_DOMAIN + n / PER_DOMAIN,
		.vdev = XVD(n % PER_DOMAIN),
		.params = params,
		.mode = "r", /* one image for all */
	};
	const struct fe_config config = {
		.vdev = vbd.vdev,
		.ring_order = order,
		.persistent = true,
	};
	int err = 0;

	if (n % PER_DOMAIN == 0)
		err = guest_open(socket, vbd.domid, GUEST_PAGES, GUEST_GRANTS, &idle->guest);
	if (!err)
		err = ts_attach(idle->toolstack, &vbd);
	if (!err)
		err = fe_open(idle->guest, &config, &idle->fe);
	if (err)
		fprintf(stderr, "idle-disks: disk %u: %s\n", n, strerror(-err));
	return err;
}

int main(int argc, char **argv)
{
	struct idle idle = { 0 };
	unsigned long count, order;

	if (argc != 5) {
		fputs("Usage: idle-disks SOCKET COUNT RING-ORDER PARAMS\n", stderr);
		return 2;
	}
	count = strtoul(argv[2], NULL, 10);
	order = strtoul(argv[3], NULL, 10);
	if (guest_toolstack(argv[1], &idle.toolstack)) {
		fprintf(stderr, "idle-disks: %s: no daemon\n", argv[1]);
		return 1;
	}
	for (unsigned int n = 0; n < count; n++)
		if (connect_disk(&idle, argv[1], n, (unsigned int)order, argv[4]))
			return 1;
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0; /* the domains die with us */
}
