#!/bin/bash
# The daemon as another user than root: without any rights, it still serves images that only root may open, as
# far as they lie where the configuration says; and without the process that opens them, what runs goes on.
. "${srcdir:-.}/functions.sh"

require_root
require getent passwd nobody

# Not below the build tree, which user nobody may be unable to enter.
base=$(mktemp -d /tmp/ringdisk-user.XXXXXX)
cleanup rm -rf "$base"
chmod 755 "$base"
mkdir "$base/run" "$base/drivers" "$base/images" "$base/images/sub" "$base/outside" "$base/templates"
cp "$drivers"/*.so "$base/drivers/"
chown nobody "$base/run"
# Root's alone: the daemon cannot even look into it.
for name in images/a images/sub/b images/c outside/d templates/t; do
	truncate -s 8M "$base/$name.img"
	chmod 600 "$base/$name.img"
done
chmod 700 "$base/images" "$base/outside" "$base/templates"
ln -s ../outside/d.img "$base/images/out"
ln -s sub/b.img "$base/images/in"
mkfifo "$base/images/fifo"

sock=$base/run/ctl
"$ringdiskd" -f --hyp=loopback --user=nobody --image-directories="$base/none:$base/images" \
	--backing-dirs="$base/templates" --loopback-socket="$base/run/hyp" --control-socket="$sock" \
	--driver-dir="$base/drivers" 2>"$tmp/err" &
daemon=$!
cleanup stop "$daemon" KILL
wait_for 20 test -S "$sock"

ctl()
{
	timeout 60 "$ringdisk" "$@" --socket "$sock"
}

# Who it is, with all threads.
uid=$(id -u nobody)
for status in /proc/"$daemon"/task/*/status; do
	same "uids in $status" "$uid $uid $uid $uid" "$(awk '/^Uid:/ { print $2, $3, $4, $5 }' "$status")"
	same "capabilities in $status" '' "$(grep -E '^Cap(Prm|Eff|Inh|Amb):' "$status" | grep -v '0000000000000000$' || true)"
done
opener=$(pgrep -P "$daemon")
[ "$(awk '/^Uid:/ { print $2 }' "/proc/$opener/status")" = 0 ] || fail "the opener is not root's"
grep -q '^NoNewPrivs:.*1' "/proc/$opener/status" || fail "the opener may gain rights"

mkfifo "$tmp/stdin"
"$top_builddir/tests/loopback/domain" "$base/run/hyp" 7 <"$tmp/stdin" >"$tmp/domain" &
exec 9>"$tmp/stdin"
wait_for 20 grep -q ready "$tmp/domain"

# refused TARGET TEXT
refused()
{
	if ctl attach 7 xvdz "raw:$1" >"$tmp/out" 2>&1; then fail "$1 was opened"; fi
	grep -qF "$2" "$tmp/out" || fail "$1: the reason is not told: $(cat "$tmp/out")"
}

ctl attach 7 xvda "raw:$base/images/a.img"
ctl attach 7 xvdb "raw:$base/images/in" # a link that stays inside
ctl attach 7 xvdc "raw:$base/templates/t.img" --read-only
ctl detach 7 xvdc 2>/dev/null || ctl detach 7/xvdc
key='is not below one of image-directories'
refused "$base/outside/d.img" "$key"
refused "$base/images/out" "$key"
refused "$base/images/../outside/d.img" "$key"
refused "$base/images/sub/../../outside/d.img" "$key"
refused /etc/passwd "$key"
refused "$base/images/fifo" 'only files and block devices can be used'
refused "$base/images/sub" 'is a directory'
refused "$base/images/none" 'No such file'

# A guest at work, on direct I/O; its image is locked against others, and can be put below an overlay.
"$bench" --connect "$base/run/hyp" --driver-dir "$base/drivers" --no-progress --strict -j verify:time=600 8/xvda \
	"raw,cache=none:$base/images/c.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup kill -KILL "$guest"
connected()
{
	ctl list >"$tmp/list"
	grep -Eq '^8/xvda .*connected' "$tmp/list"
}
wait_for 30 connected
if "$rimg" resize --driver-dir "$base/drivers" "raw:$base/images/c.img" +1M 2>"$tmp/out"; then fail "not locked"; fi
grep -q 'is locked' "$tmp/out" || fail "not locked: $(cat "$tmp/out")"
ctl snapshot --overlay "qcow2:$base/images/c.qcow2" 8/xvda
[ -s "$base/images/c.qcow2" ] || fail "no overlay"
same "owner of the overlay" 0 "$(stat -c %u "$base/images/c.qcow2")"
if ctl snapshot --overlay "qcow2:$base/outside/c.qcow2" 8/xvda 2>"$tmp/out"; then fail "an overlay outside"; fi
grep -qF "$key" "$tmp/out" || fail "overlay outside: $(cat "$tmp/out")"
if ctl snapshot --overlay "vhd:$base/images/c.vhd" 8/xvda 2>"$tmp/out"; then
	fail "a vhd on a qcow2"
fi
[ ! -e "$base/images/c.vhd" ] || fail "an overlay that failed is left"

# Without it: what is there goes on, what comes is refused with the reason.
kill -KILL "$opener"
gone()
{
	! kill -0 "$opener" 2>/dev/null || [ "$(ps -o state= -p "$opener")" = Z ]
}
wait_for 10 gone
refused "$base/images/c.img" 'the process that opens files is gone'
ctl stats 8/xvda >"$tmp/before"
moved()
{
	ctl stats 8/xvda >"$tmp/after"
	! cmp -s "$tmp/before" "$tmp/after"
}
wait_for 20 moved
kill -0 "$guest" || fail "the guest has failed: $(cat "$tmp/bench")"
connected || fail "the guest's disk is not connected any more"
kill -KILL "$guest"
exec 9>&-
stop "$daemon"

# An unknown user, and root under another name, are no way to go on as root.
for user in root no-such-user-at-all; do
	status=0
	timeout 30 "$ringdiskd" -f --hyp=loopback --user=$user --loopback-socket="$base/run/hyp" \
		--control-socket="$sock" --driver-dir="$base/drivers" 2>"$tmp/err" || status=$?
	same "status with user $user" 1 "$status"
	grep -q "$user" "$tmp/err" || fail "no reason: $(cat "$tmp/err")"
done
