#!/bin/bash
# The statistics for xentop: in the place and layout of tapdisk3, the same figures as from ringdisk stats, right at any
# time without anybody waking up, gone with the disk; the store says where. What dead daemons left is taken away.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

mkdir "$tmp/shm"
# Of a process that is gone, with our mark and without; and of one that lives.
sleep 0 &
gone=$!
wait "$gone"
mkdir "$tmp/shm/td3-$gone" "$tmp/shm/td3-$$" "$tmp/shm/other"
touch "$tmp/shm/td3-$gone/"{ringdisk,vbd-1-51712} "$tmp/shm/td3-$$/"{ringdisk,vbd-1-51712}

start_daemon --shm-stats="$tmp/shm"
[ ! -e "$tmp/shm/td3-$gone" ] || fail "the directory of a dead one is still there"
[ -e "$tmp/shm/td3-$$/vbd-1-51712" ] || fail "the directory of one that lives is gone"

truncate -s 4M "$tmp/a.img"
"$bench" --connect="$tmp/hyp" --no-progress -j mix:rw=50:time=600 5/xvda "raw,iops=400:$tmp/a.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" KILL
file=$tmp/shm/td3-$daemon/vbd-5-51712
wait_for 20 test -s "$file"
has_done()
{
	"$ringdisk" -s "$sock" stats 5/xvda --json | grep -q '"p50": [0-9]'
}
wait_for 20 has_done
ctl 0 pause 5/xvda
ctl 0 stats --json
cat >"$tmp/read.py" <<'END'
import json, struct, sys
text = open(sys.argv[1], "rb").read()
version, pad, oo, *figures = struct.unpack_from("=II11Q", text)
stats = json.load(open(sys.argv[2]))["disks"][0]
assert version == 1 and pad == 0, (version, pad)
for name, (submitted, completed, sectors, ticks) in (("read", figures[0:4]), ("write", figures[4:8])):
    told = stats[name]
    assert completed == told["done"] > 0, (name, completed, told)
    # Paused: what the limit holds back is submitted and not completed.
    assert completed <= submitted <= completed + 64, (name, submitted, completed)
    assert sectors * 512 == told["bytes"], name
    assert ticks == told["ns"] // 1000, (name, ticks, told["ns"])
assert figures[8] == sum(stats[op]["errors"] for op in ("read", "write")), figures[8]
assert figures[9] == 0
END
python3 "$tmp/read.py" "$file" "$tmp/out" || fail "the figures differ"
same "mode of the file" 644 "$(stat -c %a "$file")"
same "mode of the directory" 755 "$(stat -c %a "${file%/*}")"

stop "$guest" KILL
ctl 0 detach --force 5/xvda
wait_for 20 test ! -e "$file"
stop "$daemon"
[ ! -e "$tmp/shm/td3-$daemon" ] || fail "the directory is left behind"
[ -d "$tmp/shm/other" ] || fail "something else is gone"

# One that cannot be used does no harm.
start_daemon --shm-stats="$tmp/missing"
says daemon.log "no statistics for xentop"
stop "$daemon"
