#!/bin/bash
# verify finds what is wrong: a disk that forgets, and one that answers with errors. And it finds nothing wrong
# in any way of talking to the backend.
. "${srcdir:-.}/functions.sh"
export TMPDIR=$tmp
[ ${#TMPDIR} -le 60 ] || export TMPDIR=/tmp

# null reads as zeroes, whatever was written
status=0
"$bench" -c 500 -q 8 -j verify null:16M >"$tmp/out" || status=$?
cat "$tmp/out"
same "exit status for a disk that forgets" 1 "$status"
grep -q "zeroes instead of generation" "$tmp/out"

truncate -s 32M "$tmp/a.img"
for abi in native x86_32 x86_64 none; do
	for ring in "-r 0" "-r 2 --indirect=0" "-r 4" "--no-persistent -r 1" "--no-persistent --indirect=0"; do
		# shellcheck disable=SC2086
		"$bench" --strict --abi=$abi $ring -c 3000 -q 16 -j verify:bs=12k -j verify:bs=512 \
			"raw:$tmp/a.img" >"$tmp/out" || {
			cat "$tmp/out"
			fail "--abi=$abi $ring"
		}
	done
done
