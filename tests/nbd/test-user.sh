#!/bin/bash
# The line of an HVM guest's disk as xl writes it, and the daemon as user nobody in its sandbox: a client (QEMU, which is
# root's), and the guest's ring, on one image that only root may open. Who is not root, the daemon or of its group is
# not served. A daemon that ran as root leaves nothing behind that stands in the way.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"
. "$srcdir/nbd/functions.sh"

require_root
require getent passwd nobody
require getent passwd daemon
require getent group games
require qemu-io --version
require setpriv --version

# Not below the build tree, which user nobody may be unable to enter.
base=$(mktemp -d /tmp/ringdisk-nbd.XXXXXX)
cleanup rm -rf "$base"
chmod 755 "$base"
mkdir -m 755 "$base/run" "$base/drivers"
mkdir -m 700 "$base/images" "$base/outside"
cp "$drivers"/*.so "$base/drivers/"
image="$base/images/a disk, 100%.qcow2"
qemu-img create -q -f qcow2 "$image" 32M
qemu-img create -q -f qcow2 "$base/outside/b.qcow2" 32M
chmod 600 "$base"/*/*.qcow2

sock=$base/run/ctl
# Where the sandbox cannot be had the rest is tested all the same. A sanitizer has none.
sandbox=on
start_user()
{
	: >"$tmp/daemon.log"
	RUNTIME_DIRECTORY=$base/run "$ringdiskd" -f --hyp=loopback --loopback-socket="$base/run/hyp" --control-socket="$sock" \
		--control-group=games --driver-dir="$base/drivers" --image-directories="$base/images" "$@" 2>"$tmp/daemon.log" &
	daemon=$!
	cleanup stop "$daemon" KILL
	wait_for 20 eval "test -S '$sock' || ! kill -0 $daemon"
	[ -S "$sock" ]
}

# As root, and killed: its sockets stay.
start_user
ctl 0 export --path left "qcow2:$base/outside/b.qcow2"
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null || true
[ -S "$base/run/nbd/left" ] || fail "nothing was left"
rm -f "$sock" # what wait_for looks at

start_user --user=nobody --sandbox=on || {
	grep -E 'sandbox=on, but .*(not supported|not implemented|Not supported)' "$tmp/daemon.log" || fail "$(cat "$tmp/daemon.log")"
	sandbox=off
	start_user --user=nobody --sandbox=off || fail "$(cat "$tmp/daemon.log")"
}
if [ "$sandbox" = on ] && [ -z "${SANITIZE:-}" ]; then
	grep -q '^Seccomp:.*2' "/proc/$daemon/status" || fail "no filter"
fi
same "user" "$(id -u nobody)" "$(awk '/^Uid:/ { print $2 }' "/proc/$daemon/status")"
same "group of the common socket" games "$(stat -c %G "$base/run/nbd/sock")"

# xl takes all behind target= as it stands, and puts a format in front.
target="nbd+unix:///qcow2:$base/images/a%20disk%2C%20100%25.qcow2?socket=$base/run/nbd/sock"
"$bench" --connect "$base/run/hyp" --driver-dir "$base/drivers" --no-progress -j verify --offset=0 --size=8M -q 8 -t 600 8/xvda \
	"aio:$target" >"$tmp/bench" 2>&1 &
guest=$!
cleanup kill -KILL "$guest"
wait_for 30 connected 8/xvda
qio "$target" "write -P 7 16M 1M" "flush" "discard 20M 1M" "write -z 24M 1M" "read -P 7 16M 1M"
works 8/xvda
same "clients" 0 "$(nbd_field 8/xvda clients)"
same "socket of the disk" "$base/run/nbd/sock" "$(nbd_field 8/xvda socket)"

# as USER GROUP COMMAND...
as()
{
	setpriv --reuid="$1" --regid="$2" --clear-groups "${@:3}"
}
# Who may: the daemon's user, and the group. Others do not get into the directory, nor past the daemon if they did.
as nobody nogroup timeout 60 qemu-io -f raw -r -c "read -P 7 16M 4k" "$target" >"$tmp/qio" 2>&1 || fail "$(cat "$tmp/qio")"
as daemon games timeout 60 qemu-io -f raw -r -c "read -P 7 16M 4k" "$target" >"$tmp/qio" 2>&1 || fail "$(cat "$tmp/qio")"
expect_fail as daemon daemon timeout 60 qemu-io -f raw -r -c "read 0 4k" "$target" >"$tmp/qio" 2>&1
chmod 755 "$base/run/nbd"
chmod 666 "$base/run/nbd/sock"
expect_fail as daemon daemon timeout 60 qemu-io -f raw -r -c "read 0 4k" "$target" >"$tmp/qio" 2>&1
grep -q 'a client was refused: Operation not permitted' "$tmp/daemon.log" || fail "$(cat "$tmp/daemon.log")"

# A socket of its own by such a line, made by user nobody in the sandbox.
qemu-img create -q -f qcow2 "$base/images/c.qcow2" 16M
chmod 600 "$base/images/c.qcow2"
own="nbd+unix:///qcow2:$base/images/c.qcow2?socket=$base/run/nbd/own"
"$bench" --connect "$base/run/hyp" --driver-dir "$base/drivers" --no-progress -j verify --size=8M -t 600 9/xvda "aio:$own" \
	>"$tmp/bench2" 2>&1 &
second=$!
cleanup kill -KILL "$second"
wait_for 30 connected 9/xvda
same "owner of the socket" nobody:games:660 "$(stat -c %U:%G:%a "$base/run/nbd/own")"
qio "nbd+unix:///?socket=$base/run/nbd/own" "write -P 3 12M 64k" "read -P 3 12M 64k"
works 9/xvda

# An image outside of the directories is nobody's, by such a line or by hand.
key='is not below one of image-directories'
ctl 1 export "qcow2:$base/outside/b.qcow2"
says err "$key"
if "$bench" --connect "$base/run/hyp" --driver-dir "$base/drivers" --no-progress -c 10 10/xvda \
	"aio:nbd+unix:///qcow2:$base/outside/b.qcow2?socket=$base/run/nbd/sock" >"$tmp/bench3" 2>&1; then
	fail "an image outside was opened"
fi
grep -q "$key" "$tmp/bench3" || fail "$(cat "$tmp/bench3")"

for pid in "$guest" "$second"; do
	kill -TERM "$pid"
	wait "$pid" || true
done
expect_fail grep -Eiq "mismatch|wrong|error" "$tmp/bench" "$tmp/bench2"
gone()
{
	"$ringdisk" -s "$sock" list | grep -q "no disks"
}
wait_for 30 gone
[ ! -e "$base/run/nbd/own" ] || fail "the disk's socket is still there"
qemu-img check -q "$image" || fail "qemu-img check"
qemu-io -f qcow2 -r -c "read -P 7 16M 1M" -c "read -P 0 24M 1M" "$image" >"$tmp/qio"
expect_fail grep -q failed "$tmp/qio"
stop "$daemon"
if grep -E "ERROR: |WARNING: Thread|runtime error" "$tmp/daemon.log"; then
	fail "the daemon's log"
fi
