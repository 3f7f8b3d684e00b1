#!/bin/bash
# Whichever allocation fails: no crash, a message, and the image below is as it was or as it was told.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"

read -ra cc <<<"${CC:-cc}"
"${cc[@]}" -shared -fPIC -o "$tmp/failmalloc.so" "$srcdir/driver/failmalloc.c" 2>"$tmp/err" ||
	skip "no shim for malloc: $(cat "$tmp/err")"

truncate -s 64K "$tmp/disk"
# run NTH ARG...: img, whose nth allocation fails.
run()
{
	local status=0
	FAIL_NTH=$1 LD_PRELOAD=$tmp/failmalloc.so "$img" "${@:2}" >"$tmp/out" 2>&1 || status=$?
	return "$status"
}

# sweep ARG...: fail each allocation once, until there are no more.
sweep()
{
	local nth failed=0 clean=0

	for ((nth = 0; nth < 400; nth++)); do
		if run "$nth" "$@"; then
			clean=$((clean + 1))
			# Some failures are survived; five good runs in a row are the end.
			[ "$clean" -lt 5 ] || break
		else
			status=$?
			[ "$status" = 1 ] || fail "$*: status $status at allocation $nth: $(cat "$tmp/out")"
			[ -s "$tmp/out" ] || fail "$*: no message at allocation $nth"
			failed=$((failed + 1))
			clean=0
		fi
	done
	[ "$nth" -lt 400 ] || fail "$*: no end"
	[ "$failed" -ge 3 ] || fail "$*: only $failed allocations failed: is the shim at work?"
}

sweep "raw,sector-size=4096:$tmp/disk" write 4096 4096 7 read 4096 4096 7 flush zero 8192 4096
sweep "error,op=discard,when=$tmp/x:delay,read-ms=1,release=$tmp/x:raw:$tmp/disk" write 0 4096 7 read 0 4096 7
sweep -d "raw:$tmp/disk" write 512 512 7 read 512 512 7 write 0 65536 1
sweep drivers
"$img" "raw:$tmp/disk" read 0 4096 1
