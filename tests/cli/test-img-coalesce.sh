#!/bin/bash
# A child is merged into its parent, and is killed at any call that changes a file: its disk reads the same at every
# moment, both images are good, and the next run goes on. Not while somebody uses one of them.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/cli/img-functions.sh"

read -ra cc <<<"${CC:-cc}"
"${cc[@]}" -shared -fPIC -o "$tmp/killat.so" "$srcdir/cli/killat.c" -ldl 2>"$tmp/err" ||
	skip "no shim: $(cat "$tmp/err")"
cd "$tmp"

# killed AT VERB ARG...: run it, to be killed at that call. Fails if it was.
killed()
{
	local status=0
	KILL_AT=$1 LD_PRELOAD=$tmp/killat.so ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-} \
		timeout 120 "$rimg" --driver-dir "$drivers" "${@:2}" >"$tmp/out" 2>"$tmp/err" || status=$?
	case $status in
	0) ;;
	137) return 1 ;;
	*) fail "${*:2}: exit status $status: $(cat "$tmp/err")" ;;
	esac
}

# pair FORMAT: a parent of 16M, and on it a child of 24M whose disk is in $tmp/expected.
pair()
{
	rm -f base child
	img 0 convert "raw:$tmp/below" "$1:$tmp/base"
	img 0 create -b base -F "$1" "$1:$tmp/child" 24M
	for at in 0 3001 3000000 5000000 8388608 12345678 16777000 23000000; do
		img 0 write "$1:$tmp/child" -o "$at" <piece
	done
	img 0 read "$1:$tmp/child"
	mv out expected
}

truncate -s 16M below
fill below 0 6000
fill below 9000 3000
fill piece 0 777

for format in vhd qcow2; do
	pair "$format"
	cp base base.0
	cp child child.0
	kills=0
	# Further on at each time, from anywhere; then nothing is left.
	for ((at = 1 + RANDOM % 3; ; at += 1 + RANDOM % 7)); do
		if killed "$at" coalesce --json --part=1M --threads=2 "$format:$tmp/child"; then
			break
		fi
		kills=$((kills + 1))
		[ "$kills" -lt 300 ] || fail "$format: no end"
		# The overlay as a whole, as a guest would find it; then the kill's own state is what goes on.
		img 0 compare --strict "raw:$tmp/expected" "$format:$tmp/child"
		for image in base child; do
			status=0
			"$rimg" --driver-dir "$drivers" -q check "$format:$tmp/$image" >out 2>err || status=$?
			# Between the writing of two footers they differ; whoever opens the image for writing mends that.
			[ "$status" != 2 ] || grep -v "the copy of the footer at the beginning" err >&2 || status=0
			[ "$status" = 0 ] || [ "$status" = 3 ] || fail "$format $image, killed at $at: $(cat out err)"
		done
	done
	[ "$kills" -ge 4 ] || fail "$format: killed only $kills times"
	json "0 <= d['copied'] < 6 << 20"
	img 0 compare --strict "raw:$tmp/expected" "$format:$tmp/base"
	img 0 compare --strict "raw:$tmp/expected" "$format:$tmp/child"
	# What a kill has left behind the last block goes when something changes, and all else by a repair.
	head -c 512 expected >first
	img 0 write "$format:$tmp/child" <first
	img 0 coalesce "$format:$tmp/child"
	img 0 check --repair=leaks "$format:$tmp/child"
	[ "$(stored child)" -lt 1000000 ] || fail "$format: the child still has $(stored child) bytes"

	# In one go: the same bytes. And with --keep the child is what it was.
	mv base.0 base
	mv child.0 child
	sum=$(sha256sum <child)
	img 0 coalesce --keep "$format:$tmp/child"
	[ "$sum" = "$(sha256sum <child)" ] || [ "$format" = qcow2 ] || fail "$format: --keep has changed the child"
	img 0 compare --strict "raw:$tmp/expected" "$format:$tmp/base"
	img 0 coalesce --json "$format:$tmp/child"
	json "d['copied'] > 5 << 20"
	img 0 coalesce --json "$format:$tmp/child"
	json "d['copied'] == 0"
	img 0 check "$format:$tmp/base"

	for used in base child; do
		hold "$format:$tmp/$used"
		img 1 coalesce "$format:$tmp/child"
		says err "is locked"
		release
	done
done
