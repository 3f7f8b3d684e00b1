#!/bin/bash
# Images that do not open, as on a server that is gone: they are seen, they hold up neither their disk's end nor other
# disks nor the daemon's, and what comes back late leaves the image free.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"
. "$srcdir/nbd/functions.sh"

disks=70 # more than the control pool once had threads
truncate -s 1M "$tmp/a.img" "$tmp/b.img"
start_daemon
start_domain

# hanging NAME: the params of an image that hangs until the file NAME.go is there; then there is NAME.hangs.
hanging()
{
	echo "delay,hang=open,hanging=$tmp/$1.hangs,release=$tmp/$1.go:raw:$tmp/a.img"
}

# begin NAME ARG...: run ringdisk meanwhile.
begin()
{
	timeout 300 "$ringdisk" -s "$sock" "${@:2}" >"$tmp/$1.out" 2>&1 &
	begun=$!
	wait_for 20 test -e "$tmp/$1.hangs"
}

# is_free: nobody has the image.
is_free()
{
	"$rimg" resize --driver-dir "$drivers" "raw:$tmp/a.img" +512 >"$tmp/resize" 2>&1
}

logged()
{
	[ "$(grep -cF -e "$1" "$tmp/daemon.log")" -ge "${2:-1}" ]
}

no_disk()
{
	! "$ringdisk" -s "$sock" list "$1" >/dev/null 2>&1
}

# ---- attached, and seen; detached, which it does not prevent; attached again while it still hangs
for how in plain force; do
	begin "$how" attach 7 xvda "$(hanging $how)"
	ctl 0 list 7/xvda
	if [ $how = plain ]; then
		wait_for 20 logged "7/xvda: warning: the image is still being opened after 5 s; ringdisk detach --force 7/xvda gives up"
		ctl 0 list 7/xvda
		says out "the image is still being opened; ringdisk detach --force 7/xvda gives up"
		ctl 0 detach 7/xvda
	else
		ctl 0 detach --force 7/xvda
	fi
	wait_for 20 no_disk 7/xvda
	wait "$begun" || true # it has waited for ten seconds, or seen the end
	ctl 0 attach 7 xvda "raw:$tmp/a.img"
	ctl 0 detach 7/xvda
done
touch "$tmp/plain.go" "$tmp/force.go"
wait_for 20 logged "7/xvda: warning: the image that was still being opened is closed again" 2
is_free || fail "the image is not free: $(cat "$tmp/resize")"

# ---- exported
begin export export "$(hanging export)"
export=$begun
timeout 60 "$ringdisk" -s "$sock" unexport nbd/0 >"$tmp/unexport" 2>&1 || true # its end may have come before
expect_fail wait "$export"
grep -q "the image is still being opened" "$tmp/export.out" || fail "$(cat "$tmp/export.out")"
wait_for 20 no_disk nbd/0
touch "$tmp/export.go"
wait_for 20 logged "nbd/0: warning: the image that was still being opened is closed again"

# ---- opened for the first client of an export
ctl 0 export --path client "delay,hang=open,hanging=$tmp/client.hangs,when=$tmp/client.when,release=$tmp/client.go:raw:$tmp/a.img"
touch "$tmp/client.when"
PYTHONPATH="$srcdir/nbd" PYTHONDONTWRITEBYTECODE=1 python3 -c 'import sys, nbdclient
nbdclient.Client(sys.argv[1])' "$tmp/nbd/client" >"$tmp/client.out" 2>&1 &
client=$!
cleanup stop "$client" KILL
wait_for 20 test -e "$tmp/client.hangs"
ctl 0 unexport nbd/0
expect_fail wait "$client"
no_disk nbd/0 || fail "nbd/0 is still there"
touch "$tmp/client.go"
wait_for 20 logged "nbd/0: warning: the image that was still being opened is closed again" 2
is_free || fail "the image is not free: $(cat "$tmp/resize")"

# ---- another image for a guest that runs
"$bench" --connect="$tmp/hyp" --no-progress -j read -q 4 -t 600 5/xvda "raw:$tmp/b.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" KILL
wait_for 20 connected 5/xvda
begin swap swap 5/xvda "$(hanging swap)"
kill -KILL "$guest"
wait "$guest" 2>/dev/null || true
expect_fail wait "$begun"
grep -q "the image is still being opened: given up" "$tmp/swap.out" || fail "$(cat "$tmp/swap.out")"
touch "$tmp/swap.go"
wait_for 20 logged "5/xvda: warning: the image that was still being opened is closed again"

# ---- many: nothing of the others is in their way
python3 - "$sock" "$(hanging many)" "$disks" <<'END_OF_PYTHON' &
import json, socket, sys
clients = []
for i in range(int(sys.argv[3])):
    if i % 10 == 0:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(120)
        s.connect(sys.argv[1])
        clients.append(s.makefile("rw", encoding="utf-8"))
    request = {"jsonrpc": "2.0", "id": i, "method": "export", "params": {"params": sys.argv[2], "socket": f"many{i}"}}
    clients[-1].write(json.dumps(request) + "\n")
    clients[-1].flush()
for i in range(int(sys.argv[3])):
    answer = json.loads(clients[i // 10].readline())
    assert "still being opened" in answer["error"]["message"], answer
END_OF_PYTHON
many=$!
opening()
{
	cat /proc/"$daemon"/task/*/comm 2>/dev/null | grep -c rd-open
}
all_open()
{
	[ "$(opening)" = $disks ]
}
wait_for 60 all_open
ctl 0 attach 7 xvdb "raw:$tmp/b.img"
ctl 0 detach 7/xvdb
ctl 0 export --path "$tmp/healthy" "raw:$tmp/b.img"
ctl 0 unexport "nbd/$disks"
for ((i = 0; i < disks; i++)); do
	"$ringdisk" -s "$sock" unexport "nbd/$i" >/dev/null 2>&1 || true # gone already: who wanted it took it along
done
wait "$many" || fail "what hung was not answered"
ctl 0 list
if grep nbd/ "$tmp/out"; then
	fail "some are still there"
fi
touch "$tmp/many.go"
none_open()
{
	[ "$(opening)" = 0 ]
}
wait_for 60 none_open
is_free || fail "the image is not free: $(cat "$tmp/resize")"

# ---- the daemon's end
begin end attach 7 xvda "$(hanging end)"
stop "$daemon"
grep -q "1 device(s) still have calls that do not return" "$tmp/daemon.log" ||
	fail "not how it ends: $(tail -n 60 "$tmp/daemon.log")"
if grep -E "ERROR: |WARNING: Thread|runtime error" "$tmp/daemon.log"; then
	fail "the daemon's log"
fi
