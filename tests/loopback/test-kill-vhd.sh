#!/bin/bash
# The daemon is killed (SIGKILL) again and again while a guest writes to VHD images, dynamic and differencing: nothing
# that was answered is missing, and check finds nothing worse than leaks. KILL_ROUNDS=300 is the long version.
. "${srcdir:-.}/functions.sh"
. "$srcdir/loopback/kill.sh"
require python3 --version

rimg=("$rimg" -q --driver-dir "$drivers")

# kill_rounds DIR SIZE ARG...: create with these arguments; with SIZE "" it is that of the parent, which is in DIR.
kill_rounds()
{
	local dir=$tmp/$1 size=$2 image=$tmp/$1/a.vhd
	shift 2
	mkdir -p "$dir"
	(cd "$dir" && "${rimg[@]}" create "$@" "vhd:$image" ${size:+"$size"}) || fail "create $*"
	# As the file was left, and its redo log in another place.
	killed "$dir" "vhd:$image" "${rimg[*]@Q} check 'vhd:$image'"
	"${rimg[@]}" check "vhd:$image" >"$dir/out" 2>&1 || [ $? = 3 ] || fail "$*: $(cat "$dir/out")"
	rm -r "$dir"
}

kill_rounds a 16M
kill_rounds b 16M -o block-size=4096
mkdir "$tmp/c"
# Two blocks in three, of the parent's, have what killer knows to be there, with tags from 1 to 900.
python3 - "$tmp/c/raw" <<'END'
import struct, sys
with open(sys.argv[1], 'wb') as f:
    for s in range(16 * 2048):
        tag = s % 900 + 1 if s // 512 % 3 else 0
        f.write(struct.pack('<QQ', tag << 32 | tag, s if tag else 0) * 32)
END
(cd "$tmp/c" && "${rimg[@]}" convert raw:raw vhd:base.vhd && rm raw)
export KILL_FOUND=1
kill_rounds c "" -o block-size=65536 -b base.vhd -F vhd
