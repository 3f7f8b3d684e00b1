/*
 * must.h - what must hold in a test program that is no cmocka test
 */
#ifndef RD_TESTS_MUST_H
#define RD_TESTS_MUST_H

#include <stdio.h>
#include <stdlib.h>

/* Unlike assert() never compiled out. */
#define MUST(condition)                                                                            \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__,          \
				#condition);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

#endif
