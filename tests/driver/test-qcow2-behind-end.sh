#!/bin/bash
# A file that ends before its last clusters do: they are the guest's, and what is written to them stays, although the
# allocator did not see the file get longer. And two entries of L1 that name one table, which says that it is alone.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/qcow2-model.sh"

m=$((1 << 20))
create=(-o "compat=1.1,cluster_size=64k")

what="clusters behind the end"
fresh 64M 0 "${create[@]}"
both "write -P 1 0 12M"
length=$(stat -c %s "$disk")
# All but the tables and the first clusters: as a copy without the zeroes at its end.
truncate -s $((length - 11 * m)) "$disk"
model_io "write -z 1M 11M"
ours=(write $((11 * m)) 65536 2 flush write $((32 * m)) 65536 3 write $((40 * m)) $((2 * m)) 4 flush)
"$img" "qcow2:$disk" "${ours[@]}" read $((11 * m)) 65536 2 || fail "$what: lost at once"
model_io "write -P 2 11M 64k" "write -P 3 32M 64k" "write -P 4 40M 2M"
disk_io "read -P 2 11M 64k" "read -P 3 32M 64k" "read -P 4 40M 2M"
qemu-img check -q "$disk" || fail "$what: not sound"

# Where the file ended before its end was cut is nothing to be found: what is written there would go with the next step
# of the allocator.
what="checked while it is open"
fresh 64M 0 "${create[@]}"
"$img" "qcow2:$disk" write 0 $((8 * m)) 1
"$img" "qcow2:$disk" discard $((4 * m)) $((4 * m)) flush check no write $((16 * m)) $((3 * m)) 2 flush \
	write $((20 * m)) $((4 * m)) 3 read $((16 * m)) $((3 * m)) 2 read $((20 * m)) $((4 * m)) 3 >"$tmp/out" 2>&1 ||
	fail "$what: $(cat "$tmp/out")"
disk_io "read -P 1 0 4M" "read -P 2 16M 3M" "read -P 3 20M 4M"
qemu-img check -q "$disk" || fail "$what: not sound"

what="one table, two entries"
fresh 1G 0 "${create[@]}"
disk_io "write -P 1 0 64k"
python3 - "$disk" <<'END'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    l1, = struct.unpack(">Q", f.read(48)[40:])
    f.seek(l1)
    entry = f.read(8)
    assert struct.unpack(">Q", entry)[0] >> 63
    f.write(entry)
END
before=$(sha256sum <"$disk")
"$img" "qcow2:$disk" -write 0 4096 5 -write $((512 * m)) 4096 6 read 0 4096 1 read $((512 * m)) 4096 1 >"$tmp/out" 2>&1 ||
	fail "$what: $(cat "$tmp/out")"
grep -q "another one names that table" "$tmp/out" || fail "$what: $(cat "$tmp/out")"
[ "$(sha256sum <"$disk")" = "$before" ] || fail "$what: the image was changed"
