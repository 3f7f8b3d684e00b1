/* What every cmocka test includes first: cmocka wants these four before it. */
#ifndef RD_TEST_H
#define RD_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#include "base/clock.h"

/* Wait, with a deadline, until an expression is true. */
#define wait_true(expression, ms)                                                                  \
	do {                                                                                       \
		long long wait_end = monotonic_ms() + (ms);                                        \
		while (!(expression)) {                                                            \
			if (monotonic_ms() > wait_end)                                             \
				fail_msg("it does not come true: %s", #expression);                \
			usleep(1000);                                                              \
		}                                                                                  \
	} while (0)

#endif
