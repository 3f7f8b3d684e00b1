#!/bin/bash
# Every test that is there is run: its name is in one of the lists of tests/Makefile.am, once.
. "${srcdir:-.}/functions.sh"

cd "$srcdir"
awk '/^(shell|unit)_tests *\+?=/ { on = 1 } on { print } !/\\$/ { on = 0 }' Makefile.am |
	tr -s ' \t\\+=' '\n' | grep / | sort >"$tmp/listed"
find . -name 'test-*.sh' -o -name 'test-*.c' | sed 's,^\./,,; s,\.c$,,' | sort >"$tmp/there"
diff "$tmp/there" "$tmp/listed" >"$tmp/diff" || {
	sed -n 's/^</not run:/p; s/^>/listed, but not there or twice:/p' "$tmp/diff"
	fail "tests/Makefile.am: unit_tests, shell_tests"
}
