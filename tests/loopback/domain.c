/*
 * domain SOCKET DOMID: make a domain on the loopback hypervisor, and keep it until stdin ends. For shell
 * tests that want one to attach disks to.
 */
#include <stdio.h>
#include <stdlib.h>

#include "guest.h"

int main(int argc, char **argv)
{
	struct guest *guest;

	if (argc != 3 || guest_open(argv[1], (uint32_t)atoi(argv[2]), 1, 16, &guest))
		return 1;
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	guest_close(guest);
	return 0;
}
