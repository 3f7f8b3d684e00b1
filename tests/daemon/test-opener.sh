#!/bin/bash
# What a daemon gone bad can ask of the process that opens its images, on its socket: neither a crowd of root's processes,
# nor to write to a device that is in use.
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
truncate -s 8M "$base/images/a.img" "$base/device.img"
loop=$(losetup --find --show "$base/device.img" 2>"$tmp/losetup") || loop=
[ -z "$loop" ] || cleanup losetup -d "$loop"

sock=$base/run/ctl
"$ringdiskd" -f --hyp=loopback --user=nobody --image-directories="$base/images:/dev" --loopback-socket="$base/run/hyp" \
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

if [ -z "$loop" ]; then
	echo "no loop device here: $(cat "$tmp/losetup")"
else
	# Somebody has it, as a mounted file system has; who asks nicely is told, and who does not cannot write.
	mkfifo "$tmp/go"
	python3 -c 'import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_EXCL)
print("held", flush=True)
open(sys.argv[2]).read()' "$loop" "$tmp/go" >"$tmp/holder" 2>&1 &
	holder=$!
	cleanup stop "$holder" KILL
	wait_for 10 grep -q held "$tmp/holder"
	tries "opener=$loop" 'Read-only file system'
	echo >"$tmp/go"
	wait "$holder"
	# For the daemon all works as it did.
	timeout 60 "$ringdisk" export "raw:$loop" --socket "$sock" >/dev/null
	size=$(PYTHONDONTWRITEBYTECODE=1 python3 -c 'import sys
sys.path.insert(0, sys.argv[1])
from nbdclient import Client
c = Client(sys.argv[2], "nbd/0")
c.write(0, b"x" * 4096)
c.flush()
print(c.size)' "$srcdir/nbd" "$base/run/nbd/sock" 2>&1) || fail "writing to $loop: $size"
	same "size of $loop" 8388608 "$size"
fi
stop "$daemon"
