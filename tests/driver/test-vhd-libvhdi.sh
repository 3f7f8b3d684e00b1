#!/bin/bash
# libvhdi reads what we have made and changed: types, ids, parents, and every byte. In differencing images all that is
# written is whole 4 KiB here: it takes the rest of a byte of a bitmap for set after the first bit that is.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

python=
for p in /usr/bin/python3 python3; do
	[ -n "$python" ] || ! "$p" -c 'import pyvhdi' 2>/dev/null || python=$p
done
[ -n "$python" ] || skip "no python3-libvhdi"
MiB=1048576

cat >"$tmp/judge.py" <<'END'
import sys
import pyvhdi

files = []
for path in sys.argv[2:]:
    f = pyvhdi.file()
    f.open(path)
    if files:
        # Its parent, by its unique id.
        assert files[-1].parent_identifier == f.identifier, path
        files[-1].set_parent(f)
    files.append(f)
top = files[0]
with open(sys.argv[1], 'rb') as expected:
    expected.seek(0, 2)
    # Its size is the original one.
    assert 0 < top.media_size <= expected.tell(), (top.media_size, expected.tell())
    expected.seek(0)
    at = 0
    while at < top.media_size:
        n = min(1 << 20, top.media_size - at)
        assert top.read_buffer_at_offset(n, at) == expected.read(n), at
        at += n
print(top.disk_type, top.identifier)
END

# reads TYPE FILE PARENT...: in $tmp, from the top
reads()
{
	local type=$1 files=()
	shift
	for f in "$@"; do
		files+=("$tmp/$f")
	done
	rm -f "$tmp/expected"
	"${rdimg[@]}" convert "vhd:$tmp/$1" "raw:$tmp/expected"
	"$python" "$tmp/judge.py" "$tmp/expected" "${files[@]}" >"$tmp/judged" 2>&1 || fail "libvhdi, $*: $(cat "$tmp/judged")"
	same "type and id of $1" "$type $("${rdimg[@]}" query "vhd:$tmp/$1" uuid)" "$(tr 'A-F' 'a-f' <"$tmp/judged")"
}

# 2 fixed, 3 dynamic, 4 differencing
for options in "2 type=fixed" "3 creator=tap" "3 creator=win" "3 block-size=512K"; do
	rm -f "$tmp/a.vhd"
	create "vhd,${options#* }:$tmp/a.vhd" 11M
	"$img" "vhd:$tmp/a.vhd" write 0 512 1 write 512 $((3 * MiB)) 2 write $((7 * MiB - 512)) 1536 3 flush \
		zero $((1 * MiB)) $MiB discard $((2 * MiB)) $((2 * MiB)) flush
	reads "${options% *}" a.vhd
	"$img" "vhd:$tmp/a.vhd" resize $((3000 * MiB)) resize $((13 * MiB)) write $((12 * MiB)) 4096 4 flush
	reads "${options% *}" a.vhd
	"${rdimg[@]}" set "vhd:$tmp/a.vhd" hidden=yes
	reads "${options% *}" a.vhd
done

create "vhd:$tmp/base.vhd" 12M
"$img" "vhd:$tmp/base.vhd" write 0 $((9 * MiB)) 1 flush
create "vhd:$tmp/middle.vhd" -b base.vhd -F vhd
"$img" "vhd:$tmp/middle.vhd" write $MiB $MiB 2 write $((5 * MiB + 4096)) 8192 3 flush
create "vhd:$tmp/top.vhd" -b middle.vhd -F vhd
"$img" "vhd:$tmp/top.vhd" write $((MiB + 65536)) 4096 4 zero $((6 * MiB)) 65536 write $((11 * MiB)) 4096 5 flush
reads 4 top.vhd middle.vhd base.vhd
# Grown, put on another one and back, and merged.
"$img" "vhd:$tmp/top.vhd" resize $((3000 * MiB)) resize $((12 * MiB)) flush
cp "$tmp/middle.vhd" "$tmp/moved.vhd"
"${rdimg[@]}" set "vhd:$tmp/top.vhd" parent=moved.vhd
reads 4 top.vhd moved.vhd base.vhd
"${rdimg[@]}" set "vhd:$tmp/top.vhd" parent=middle.vhd
"${rdimg[@]}" coalesce "vhd:$tmp/top.vhd"
reads 4 middle.vhd base.vhd
"${rdimg[@]}" coalesce "vhd:$tmp/middle.vhd"
reads 3 base.vhd
