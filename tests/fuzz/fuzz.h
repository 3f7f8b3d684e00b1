/*
 * A fuzzer is one function that takes bytes. With --enable-fuzz libFuzzer calls it; in every other build
 * replay.c does, for the files of its corpus, so that make check runs what was once found.
 */
#ifndef RD_FUZZ_H
#define RD_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "../must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
