#!/bin/bash
# Every fuzzer goes through its corpus: nothing that was once found comes back.
. "${srcdir:-.}/functions.sh"

ran=0
for corpus in "$srcdir"/fuzz/corpus/*/; do
	name=$(basename "$corpus")
	fuzzer=$top_builddir/tests/fuzz/fuzz-$name
	[ -x "$fuzzer" ] || fail "corpus/$name has no fuzzer fuzz/fuzz-$name"
	TMPDIR=$tmp "$fuzzer" -runs=0 "$corpus" >"$tmp/$name" 2>&1 || {
		tail -50 "$tmp/$name"
		fail "fuzz-$name"
	}
	ran=$((ran + 1))
done
[ "$ran" -gt 0 ] || fail "no corpus found"
for fuzzer in "$srcdir"/fuzz/fuzz-*.c; do
	name=$(basename "$fuzzer" .c)
	[ -d "$srcdir/fuzz/corpus/${name#fuzz-}" ] || fail "$name has no corpus"
done
