/* What every cmocka test includes first: cmocka wants these four before it. */
#ifndef RD_TEST_H
#define RD_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
