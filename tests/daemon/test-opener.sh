#!/bin/bash
# What a daemon gone bad can ask of the process that opens its images, on its socket: no crowd of root's processes.
. "${srcdir:-.}/functions.sh"

require_root
require getent passwd nobody
read -ra cc <<<"${CC:-cc}"
"${cc[@]}" --version >/dev/null 2>&1 || skip "no compiler"

# Not below the build tree, which user nobody may be unable to enter.
base=$(mktemp -d /tmp/ringdisk-opener.XXXXXX)
cleanup rm -rf "$base"
chmod 755 "$base"
mkdir "$base/run" "$base/drivers" "$base/images"
cp "$drivers"/*.so "$base/drivers/"
"${cc[@]}" -shared -fPIC -o "$base/drivers/escape.so" -I "$top_srcdir/core/include" "$srcdir/daemon/escape.c"
chown nobody "$base/run"
truncate -s 8M "$base/images/a.img"

sock=$base/run/ctl
"$ringdiskd" -f --hyp=loopback --user=nobody --image-directories="$base/images" --loopback-socket="$base/run/hyp" \
	--control-socket="$sock" --driver-dir="$base/drivers" 2>"$tmp/err" &
daemon=$!
cleanup stop "$daemon" KILL
wait_for 20 test -S "$sock"
opener=$(pgrep -P "$daemon" -x rd-opener)

# tries WHAT RESULT
tries()
{
	if timeout 60 "$ringdisk" export "escape:$1" --read-only --socket "$sock" >"$tmp/out" 2>&1; then
		fail "escape:$1 was exported"
	fi
	cat "$tmp/err" >>"$tmp/out"
	grep -qF "$1: $2" "$tmp/out" || fail "$1 did not end with '$2': $(tail -5 "$tmp/out")"
}

# Each request has a process, which ends whether or not somebody takes the answer.
tries flood 'went through'
tries "opener=$base/images/a.img" 'went through'
nobody_left()
{
	! pgrep -P "$opener" >/dev/null
}
wait_for 10 nobody_left

stop "$daemon"
