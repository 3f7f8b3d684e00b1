#!/bin/bash
# Images on NBD sockets, with the clients that people have: what QEMU, libnbd and fio write is what qemu-img finds in
# the file, and the reverse; read-only is read-only; errors are told; sockets come and go.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"
. "$srcdir/nbd/functions.sh"

require qemu-io --version
require nbdinfo --version
require nbdcopy --version

truncate -s 24M "$tmp/raw.img"
dd if=/dev/urandom of="$tmp/raw.img" bs=1M seek=3 count=5 conv=notrunc status=none
qemu-img create -q -f qcow2 "$tmp/a.qcow2" 24M
qemu-img convert -O qcow2 -c "$tmp/raw.img" "$tmp/compressed.qcow2"
printf '[defaults]\npoll = off\n' >"$tmp/conf"
start_daemon --config="$tmp/conf"

ctl 0 export "qcow2:$tmp/a.qcow2"
says out "nbd/0: nbd+unix:///?socket=$tmp/nbd/nbd-0"
same "mode of the socket" 660 "$(stat -c %a "$tmp/nbd/nbd-0")"
ctl 0 export "raw:$tmp/raw.img" --read-only --path raw
ctl 0 export "qcow2:$tmp/compressed.qcow2" --read-only --path "$tmp/elsewhere"
ctl 7 export nbd/0
says err "exported already, on $tmp/nbd/nbd-0"
ctl 7 export "raw:$tmp/raw.img" -r --path raw
says err "somebody listens there"
ctl 7 export "raw:$tmp/raw.img" -r --path ../raw
ctl 1 export "raw:$tmp/none"
says err "No such file"
ctl 7 export "vhdx:$tmp/raw.img"
ctl 4 export 5/xvda
ctl 0 list
same "disks" 3 "$(grep -c '^nbd/[0-9] ' "$tmp/out")"

# What the clients are told.
nbdinfo --json "$(uri nbd-0)" >"$tmp/info"
python3 - "$tmp/info" <<'END_INFO' || fail "$(cat "$tmp/info")"
import json, sys
info = json.load(open(sys.argv[1]))
assert info["structured"] and info["protocol"] == "newstyle-fixed", info
e = info["exports"][0]
assert e["export-size"] == 24 << 20 and not e["is_read_only"], e
assert e["can_flush"] and e["can_fua"] and e["can_trim"] and e["can_zero"] and e["can_multi_conn"], e
assert not e["can_fast_zero"] and e["contexts"] == ["base:allocation"], e
assert e["block_size_minimum"] == 512 and e["block_size_preferred"] == 65536 and e["block_size_maximum"] == 1 << 20, e
END_INFO
nbdinfo --is readonly "$(uri raw)"
expect_fail nbdinfo --can write "$(uri raw)"
# All are found by their names on the common socket; there, and on their own, nothing else.
same "exports" "nbd/0 nbd/1 nbd/2" "$(nbdinfo --list --json "$(uri sock)" |
	python3 -c 'import json, sys; print(*sorted(e["export-name"] for e in json.load(sys.stdin)["exports"]))')"
same "by name" 25165824 "$(nbdinfo --size "$(uri sock nbd/1)")"
expect_fail nbdinfo --size "$(uri sock nbd/9)" 2>/dev/null
expect_fail nbdinfo --size "$(uri nbd-0 nbd/1)" 2>/dev/null

# A copy in and out, on several connections; holes stay holes.
nbdcopy --connections=4 "$(uri raw)" "$(uri nbd-0)"
qemu-img compare -q -f raw -F raw "$(uri raw)" "$(uri nbd-0)" || fail "not the same after nbdcopy"
nbdcopy "nbd+unix:///?socket=$tmp/elsewhere" "$tmp/out.raw"
cmp "$tmp/out.raw" "$tmp/raw.img"
map()
{
	nbdinfo --map "$1" | awk '{ print $1, $2, $3 }'
}
same "map of raw" "0 3145728 3;3145728 5242880 0;8388608 16777216 3" "$(map "$(uri raw)" | paste -sd ';')"
same "map of qcow2" "0 3145728 3;3145728 5242880 0;8388608 16777216 3" "$(map "$(uri nbd-0)" | paste -sd ';')"
same "map of compressed" "0 3145728 3;3145728 5242880 0;8388608 16777216 3" \
	"$(map "nbd+unix:///?socket=$tmp/elsewhere" | paste -sd ';')"

# Everything that writes.
qio "$(uri nbd-0)" "write -P 1 1M 1M" "write -f -P 2 9M 4k" "write -P 3 10M 3M" "write -z 11M 64k" "write -z -u 12M 64k" \
	"discard 3M 1M" "write -P 4 16776704 512" flush "read -P 1 1M 1M" "read -P 2 9M 4k" "read -P 3 10M 1M" \
	"read -P 0 11M 64k" "read -P 0 12M 64k" "read -P 0 3M 1M" "read -P 4 16776704 512" "read -P 0 9441280 4k"
same "zeroes kept, and given back" "11534336 65536 2;12582912 65536 3" \
	"$(map "$(uri nbd-0)" | awk '$1 == 11534336 || $1 == 12582912' | paste -sd ';')"
if timeout 60 qemu-io -f raw -c "write -P 1 0 4k" "$(uri raw)" >"$tmp/qio" 2>&1; then
	grep -Eiq "read-only|not permitted|failed" "$tmp/qio" || fail "wrote to a read-only export: $(cat "$tmp/qio")"
fi
cmp -n 4096 "$tmp/raw.img" /dev/zero

has_engine()
{
	fio --enghelp | grep -qw nbd
}
if has_engine; then
	fio --name=v --ioengine=nbd --uri="$(uri nbd-0)" --rw=randwrite --bs=4k-64k --iodepth=16 --offset=16M --size=6M \
		--verify=crc32c --do_verify=1 --verify_state_save=0 --fsync=16 >"$tmp/fio" 2>&1 || fail "fio: $(cat "$tmp/fio")"
fi

wait_for 10 has_clients nbd/0 0
ctl 0 stats nbd/0
ctl 1 detach nbd/0
says err "use unexport"
ctl 0 unexport nbd/0
[ ! -e "$tmp/nbd/nbd-0" ] || fail "the socket is still there"
ctl 4 unexport nbd/0
qemu-img check -q "$tmp/a.qcow2" || fail "qemu-img check"
timeout 60 qemu-io -f qcow2 -c "read -P 1 1M 1M" -c "read -P 4 16776704 512" -c "read -P 0 11M 64k" "$tmp/a.qcow2" >"$tmp/qio"
expect_fail grep -q "failed" "$tmp/qio"

# A client that is there when its export goes loses its connection, and the image is free again.
ctl 0 export "qcow2:$tmp/a.qcow2" --path again
mkfifo "$tmp/commands"
timeout 120 qemu-io -f raw "$(uri again)" <"$tmp/commands" >"$tmp/qio" 2>&1 &
client=$!
cleanup stop "$client"
exec 8>"$tmp/commands"
wait_for 20 has_clients nbd/0 1
ctl 0 unexport nbd/0
echo "read 0 4k" >&8
exec 8>&-
wait "$client" || true
grep -q "failed" "$tmp/qio" || fail "the client has not noticed: $(cat "$tmp/qio")"
qemu-io -f qcow2 -c "write 0 4k" "$tmp/a.qcow2" >/dev/null || fail "the image is still locked"

# Who follows events hears of clients; and the disk has what the file says of all disks.
"$ringdisk" -s "$sock" events >"$tmp/events" &
follower=$!
cleanup stop "$follower"
heard()
{
	grep -Eq "nbd/0 .*$1" "$tmp/events"
}
# Again, if the follower was not there yet.
exported()
{
	ctl 0 export "qcow2:$tmp/a.qcow2" --path told
	heard attach || {
		ctl 0 unexport nbd/0
		return 1
	}
}
wait_for 20 exported
nbdinfo --size "$(uri told)" >/dev/null
wait_for 20 heard 'client .*pid [0-9]+, uid [0-9]+'
wait_for 20 heard 'client-gone'
setting nbd/0 poll off config
ctl 0 unexport nbd/0

# Two more that could not be opened when the client came: it is told why.
ctl 0 export "qcow2:$tmp/a.qcow2" --path late
mv "$tmp/a.qcow2" "$tmp/gone.qcow2"
expect_fail nbdinfo "$(uri late)" 2>"$tmp/err"
grep -q "No such file" "$tmp/err" || fail "the client is not told why: $(cat "$tmp/err")"
mv "$tmp/gone.qcow2" "$tmp/a.qcow2"
nbdinfo --size "$(uri late)" >/dev/null

stop "$daemon"
[ ! -e "$tmp/nbd/late" ] && [ ! -e "$tmp/nbd/sock" ] || fail "sockets are left: $(ls "$tmp/nbd")"
if grep -E "ERROR|WARNING: ThreadS|runtime error" "$tmp/daemon.log"; then
	fail "the daemon's log"
fi

# Where the directory's name leaves no room for those of sockets, the rings are served all the same.
deep=$tmp/$(printf '%*s' $((95 - ${#tmp})) "" | tr ' ' d)
mkdir "$deep"
sock=$deep/c
start_daemon
grep -q "nbd: too long for sockets in it" "$tmp/daemon.log" || fail "the log: $(cat "$tmp/daemon.log")"
ctl 0 list
ctl 1 export "qcow2:$tmp/a.qcow2"
says err "this daemon has no NBD server"
stop "$daemon"
