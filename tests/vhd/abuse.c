/*
 * abuse IMAGE...: what becomes of each (abuse.h), a line for each: IMAGE, then for reading and for writing
 * "refused", "good", or "errors". Drivers come from $RD_DRIVERS.
 */
#include "abuse.h"

#include "log.h"

static void no_log(void *opaque, enum log_level level, enum log_subsys subsys, const char *line)
{
	(void)opaque, (void)level, (void)subsys, (void)line;
}

static const char *word(int r)
{
	return r < 0 ? "refused" : r ? "errors" : "good";
}

int main(int argc, char **argv)
{
	log_to_callback(no_log, NULL);
	if (!getenv("RD_DRIVERS") || drv_load(getenv("RD_DRIVERS")))
		return 2;
	for (int i = 1; i < argc; i++) {
		int ro = abuse_ro(argv[i]), rw = abuse_rw(argv[i], (uint64_t)i, 60);

		printf("%s %s %s\n", argv[i], word(ro), word(rw));
		fflush(stdout);
	}
	drv_unload();
	return 0;
}
