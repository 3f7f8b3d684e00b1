#!/bin/bash
# Malformed VHD images (vhd/corpus.sh): each is refused with a reason, or serves what it can; nothing crashes, takes
# long or much memory, and what is written to one that opens is there afterwards.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

mkdir "$tmp/corpus"
. "$srcdir/vhd/corpus.sh" "$tmp/corpus"
abuse=$top_builddir/tests/vhd/abuse

# Address space is what sanitizers take a lot of.
[ -n "${SANITIZE:-}" ] || ulimit -v 400000
wrong=0
while read -r name ro rw; do
	image=$tmp/corpus/$name
	timeout 20 "$abuse" "vhd:$image" >"$tmp/abuse" 2>"$tmp/err" ||
		fail "$name: status $?: $(tail -3 "$tmp/err")"
	got=$(cut -d' ' -f 2- "$tmp/abuse")
	[ "$got" = "$ro $rw" ] || { echo "$name: expected '$ro $rw', got '$got'"; wrong=$((wrong + 1)); }
	if [ "$ro" = refused ]; then
		"$img" -r "vhd:$image" info >/dev/null 2>"$tmp/err" && fail "$name opens"
		[ -s "$tmp/err" ] || fail "$name is refused without a reason"
	fi
done <"$tmp/corpus/expected"
[ "$wrong" = 0 ] || fail "$wrong images"
[ "$(wc -l <"$tmp/corpus/expected")" -gt 90 ] || fail "the corpus is not whole"
