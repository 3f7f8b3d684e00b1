#!/bin/bash
# A guest and NBD clients on one open image at the same time, each in a part of its own, and every byte is verified:
# while the disk is paused, resized, put on an overlay, limited; and what is there when the guest goes, and the disk.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"
. "$srcdir/nbd/functions.sh"

require qemu-io --version
require nbdinfo --version

qemu-img create -q -f qcow2 "$tmp/a.qcow2" 32M
start_daemon

# The guest has the first 8 MiB. The disk is exported by its own setting.
"$bench" --connect="$tmp/hyp" --no-progress -j verify --offset=0 --size=8M -q 8 -t 600 --flush=50 5/xvda \
	"qcow2,nbd=on:$tmp/a.qcow2" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" KILL
wait_for 20 connected 5/xvda
own=$(uri 5-xvda)

# A client that writes, reads back and flushes in the last 8 MiB, until it is told to stop.
cat >"$tmp/client.py" <<'END_PYTHON'
import os, random, struct, sys
sys.path.insert(0, sys.argv[1])
from nbdclient import Client
stop, count, seed = sys.argv[3], sys.argv[4], int(sys.argv[5])
rng, base, blocks = random.Random(seed), (16 << 20) + seed * (4 << 20), 1024
client = Client(sys.argv[2])
model, n = {}, 0
while not os.path.exists(stop):
    n += 1
    block, length = rng.randrange(blocks - 16), rng.randrange(1, 17)
    what = rng.randrange(10)
    offset = base + block * 4096
    if what < 4:
        data = b"".join(struct.pack("<QQ", n, block + i) * 256 for i in range(length))
        client.write(offset, data, fua=what == 0)
        for i in range(length):
            model[block + i] = data[i * 4096:(i + 1) * 4096]
    elif what == 4:
        client.zero(offset, length * 4096, hole=n & 1)
        for i in range(length):
            model[block + i] = bytes(4096)
    elif what == 5:
        client.flush()
    else:
        data = client.read(offset, length * 4096)
        for i in range(length):
            expected = model.get(block + i)
            assert expected is None or data[i * 4096:(i + 1) * 4096] == expected, (n, block + i)
    # Never an empty file, whoever reads it when.
    with open(count + ".new", "w") as f:
        print(n, file=f)
    os.replace(count + ".new", count)
for block, expected in model.items():
    assert client.read(base + block * 4096, 4096) == expected, block
client.disconnect()
print("verified", len(model))
END_PYTHON
for i in 0 1; do
	PYTHONDONTWRITEBYTECODE=1 python3 "$tmp/client.py" "$srcdir/nbd" "$tmp/nbd/5-xvda" "$tmp/stop" "$tmp/count$i" "$i" >"$tmp/client$i" 2>&1 &
	client[i]=$!
	cleanup stop "${client[i]}" KILL
done
count()
{
	cat "$tmp/count0" 2>/dev/null || true
}
moves()
{
	local now
	now=$(count)
	[ -n "$now" ] && [ "$now" -gt $(($1 + ${2:-20})) ]
}
wait_for 30 moves 0
wait_for 10 has_clients 5/xvda 2

# Paused, nobody moves, neither new clients; then both go on.
ctl 0 pause 5/xvda
before=$(count)
same "requests while paused" 0 "$(nbd_field 5/xvda running)"
timeout 120 qemu-io -f raw -c "read -P 0 12M 4k" "$own" >"$tmp/qio" 2>&1 &
waiting=$!
cleanup stop "$waiting"
wait_for 20 has_clients 5/xvda 3
# One write may have been counted between our look and the pause.
! moves "$before" 1 || fail "a client went on while the disk was paused"
ctl 0 unpause 5/xvda
wait "$waiting" || fail "the client that waited: $(cat "$tmp/qio")"
expect_fail grep -Eiq "failed|error" "$tmp/qio"
wait_for 20 moves "$before"

# On an overlay, a larger image, with limits.
ctl 0 snapshot 5/xvda --overlay "qcow2:$tmp/b.qcow2"
wait_for 20 moves "$(count)"
ctl 0 resize 5/xvda +4M
same "a new client sees the new size" $((36 << 20)) "$(nbdinfo --size "$own")"
ctl 0 set 5/xvda iops=40 burst=10
begin=$(date +%s%N)
timeout 120 qemu-img bench -f raw -c 20 -d 4 -o 9M -s 4096 -S 0 "$own" >/dev/null
# Twenty at forty a second, shared with three others, and a few saved up.
[ $(($(date +%s%N) - begin)) -gt 400000000 ] || fail "the limit does not hold for clients"
ctl 0 set 5/xvda iops=0
wait_for 20 moves "$(count)"
ctl 0 swap 5/xvda "qcow2:$tmp/b.qcow2"
wait_for 20 moves "$(count)"
ctl 0 stats 5/xvda

# The bench ends, and takes the disk with it: the clients lose their connection then; so they end first.
touch "$tmp/stop"
for i in 0 1; do
	wait "${client[i]}" || fail "client $i: $(cat "$tmp/client$i")"
	grep -q verified "$tmp/client$i"
done
connected 5/xvda || fail "the guest is gone: $(cat "$tmp/bench")"
expect_fail grep -Eiq "mismatch|wrong|error" "$tmp/bench"
kill -TERM "$guest"
wait "$guest" || true
gone()
{
	[ ! -e "$tmp/nbd/5-xvda" ] && "$ringdisk" -s "$sock" list | grep -q "no disks"
}
wait_for 30 gone
qemu-img check -q "$tmp/b.qcow2" || fail "qemu-img check"

# A client without any guest.
truncate -s 16M "$tmp/raw.img"
mkfifo "$tmp/commands"
cat >"$tmp/stays.py" <<'END_PYTHON'
import sys
sys.path.insert(0, sys.argv[1])
from nbdclient import Client
client = Client(sys.argv[2])
for line in sys.stdin:
    n = int(line)
    client.write((12 << 20) + n * 4096, bytes([n]) * 4096)
    assert client.read((12 << 20) + n * 4096, 4096) == bytes([n]) * 4096
    print(n, flush=True)
client.disconnect()
END_PYTHON
ctl 0 export "raw:$tmp/raw.img" --path alone
PYTHONDONTWRITEBYTECODE=1 python3 "$tmp/stays.py" "$srcdir/nbd" "$tmp/nbd/alone" <"$tmp/commands" >"$tmp/stays" 2>&1 &
stays=$!
cleanup stop "$stays" KILL
exec 7>"$tmp/commands"
step()
{
	echo "$1" >&7
	wait_for 20 grep -qx "$1" "$tmp/stays"
}
step 1
# Others who want the file find it locked; a pause holds for the client alone, too.
expect_fail qemu-io -f raw -c "write 0 4k" "$tmp/raw.img" >/dev/null 2>&1
ctl 0 pause nbd/0
ctl 0 list nbd/0
says out paused
echo 2 >&7
ctl 0 snapshot nbd/0 --overlay "qcow2:$tmp/c.qcow2"
expect_fail grep -qx 2 "$tmp/stays"
ctl 0 unpause nbd/0
wait_for 20 grep -qx 2 "$tmp/stays"
ctl 0 resize nbd/0 +1M
step 3
ctl 0 flush nbd/0
exec 7>&-
wait "$stays" || fail "$(cat "$tmp/stays")"
wait_for 10 has_clients nbd/0 0
ctl 0 unexport nbd/0
qemu-io -f raw -c "read -P 1 $((12 * 1024 + 4))k 4k" -c "read -P 0 $((12 * 1024 + 8))k 4k" "$tmp/raw.img" >"$tmp/qio"
qemu-io -f qcow2 -c "read -P 1 $((12 * 1024 + 4))k 4k" -c "read -P 2 $((12 * 1024 + 8))k 4k" \
	-c "read -P 3 $((12 * 1024 + 12))k 4k" "$tmp/c.qcow2" >>"$tmp/qio"
expect_fail grep -q failed "$tmp/qio"
qemu-img check -q "$tmp/c.qcow2"

stop "$daemon"
if grep -E "ERROR: |WARNING: Thread|runtime error" "$tmp/daemon.log"; then
	fail "the daemon's log"
fi
