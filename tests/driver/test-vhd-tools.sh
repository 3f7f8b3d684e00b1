#!/bin/bash
# The offline tools on VHD images: a child is merged into its parent (what vhd-util calls coalesce), stands on another
# one or on nothing, is converted from and to other formats, checked and repaired; and images on block devices.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

require qemu-img --version
MiB=1048576

create "vhd:$tmp/p.vhd" 16M
"$img" "vhd:$tmp/p.vhd" write 0 $((8 * MiB)) 1 flush
create "vhd:$tmp/c.vhd" -b p.vhd -F vhd
"$img" "vhd:$tmp/c.vhd" write $MiB 65536 2 zero $((4 * MiB)) $MiB write $((10 * MiB)) 512 3 flush
content=(read 0 "$MiB" 1 read "$MiB" 65536 2 read $((MiB + 65536)) "$MiB" 1 read $((4 * MiB)) "$MiB" 0
	read $((5 * MiB)) $((3 * MiB)) 1 read $((8 * MiB)) $((2 * MiB)) 0 read $((10 * MiB)) 512 3)

# Onto nothing, and onto a copy in another place.
cp "$tmp/c.vhd" "$tmp/flat.vhd"
"${rdimg[@]}" rebase --flatten "vhd:$tmp/flat.vhd" || fail "rebase --flatten"
same "flat" dynamic "$(fact "vhd:$tmp/flat.vhd" type)"
"$img" "vhd:$tmp/flat.vhd" "${content[@]}"
checks "$tmp/flat.vhd"
qio "$tmp/flat.vhd" "read -P 2 1M 64k" "read -P 1 5M 3M" "read -P 0 4M 1M" "read -P 3 10M 512"
mkdir "$tmp/sub"
cp "$tmp/p.vhd" "$tmp/sub/a long name, with a comma and äöü.vhd"
"${rdimg[@]}" rebase -u -b "sub/a long name, with a comma and äöü.vhd" -F vhd "vhd:$tmp/c.vhd" || fail "rebase -u"
mv "$tmp/p.vhd" "$tmp/away.vhd"
"$img" "vhd:$tmp/c.vhd" "${content[@]}"
mv "$tmp/away.vhd" "$tmp/p.vhd"
"${rdimg[@]}" rebase -b p.vhd -F vhd "vhd:$tmp/c.vhd" || fail "rebase"
same "parent" p.vhd "$(fact "vhd:$tmp/c.vhd" backing-file)"
# A dynamic disk that is put on top of another one keeps what it has; its blocks are in nobody's way.
qemu-img create -q -f vpc -o subformat=dynamic,force_size "$tmp/q.vhd" 16M
qio "$tmp/q.vhd" "write -P 4 2M 4M"
"${rdimg[@]}" rebase -u -b p.vhd -F vhd "vhd:$tmp/q.vhd" || fail "rebase of an image of QEMU"
"$img" "vhd:$tmp/q.vhd" read 0 $((2 * MiB)) 1 read $((2 * MiB)) $((4 * MiB)) 4 read $((6 * MiB)) $((2 * MiB)) 1
"$img" -r "vhd:$tmp/q.vhd" check no | grep "^errors 0 " >/dev/null || fail "after rebase: $("$img" -r "vhd:$tmp/q.vhd" check no)"

"${rdimg[@]}" commit "vhd:$tmp/c.vhd" 2>"$tmp/err" || fail "commit: $(cat "$tmp/err")"
"$img" "vhd:$tmp/p.vhd" "${content[@]}"
"$img" "vhd:$tmp/c.vhd" "${content[@]}"
checks "$tmp/p.vhd"

for to in raw:img qcow2:qcow2 vhd,type=fixed:vhd vhd:vhd; do
	"${rdimg[@]}" convert "vhd:$tmp/p.vhd" "${to%:*}:$tmp/to.${to#*:}" || fail "convert to $to"
	"${rdimg[@]}" compare "vhd:$tmp/p.vhd" "${to%%[,:]*}:$tmp/to.${to#*:}" >/dev/null || fail "compare with $to"
	"${rdimg[@]}" convert "${to%%[,:]*}:$tmp/to.${to#*:}" "vhd:$tmp/back.vhd" || fail "convert from $to"
	"$img" "vhd:$tmp/back.vhd" "${content[@]}"
	qemu-img compare -f vpc -F vpc "$tmp/p.vhd" "$tmp/back.vhd" >/dev/null || fail "by qemu-img: $to"
	rm "$tmp/to.${to#*:}" "$tmp/back.vhd"
done

put "$tmp/p.vhd" $(($(get "$tmp/p.vhd" $((512 + 16)) 8) + 4)) 00000002
status=0
"${rdimg[@]}" check "vhd:$tmp/p.vhd" >/dev/null 2>&1 || status=$?
same "check of a damaged image" 2 "$status"
# The second one gives back the block that the first one has found to be nobody's.
"${rdimg[@]}" check --repair=all "vhd:$tmp/p.vhd" >/dev/null 2>&1 || true
"${rdimg[@]}" check --repair=all "vhd:$tmp/p.vhd" >/dev/null 2>&1 || true
"${rdimg[@]}" check "vhd:$tmp/p.vhd" >/dev/null 2>&1 || fail "check after the repair: $?"

# A device: the footer is at its end, and nothing is longer than it.
if [ "$(id -u)" = 0 ] && [ -e /dev/loop-control ]; then
	truncate -s 20M "$tmp/container"
	loop=$(losetup -f --show "$tmp/container" 2>"$tmp/err") || { echo "no loop device: $(cat "$tmp/err")"; exit 0; }
	cleanup losetup -d "$loop"
	# What somebody else has left there must not show.
	head -c 20M /dev/zero | tr '\0' x >"$loop"
	"${rdimg[@]}" create --force "vhd:$loop" 64M || fail "create on a device"
	"$img" "vhd:$loop" write $((3 * MiB)) 4096 5 read $((3 * MiB)) 4096 5 read $((2 * MiB)) $MiB 0 \
		write $((32 * MiB)) $((8 * MiB)) 6 flush read $((32 * MiB)) $((8 * MiB)) 6
	"$img" -r "vhd:$loop" read $((3 * MiB + 4096)) 65536 0 read $((32 * MiB)) $((8 * MiB)) 6 check no >"$tmp/out"
	grep -q "^errors 0 " "$tmp/out" || fail "on a device: $(cat "$tmp/out")"
	"$img" "vhd:$loop" -write 0 $((30 * MiB)) 7 >"$tmp/out"
	grep -q "No space left" "$tmp/out" || fail "a full device: $(cat "$tmp/out")"
	"$img" "vhd:$loop" discard 0 $((64 * MiB)) flush write 0 $((16 * MiB)) 8 flush read 0 $((16 * MiB)) 8 \
		read $((32 * MiB)) $((8 * MiB)) 0 resize $((80 * MiB)) read 0 $((16 * MiB)) 8
	"$img" -r "vhd:$loop" check no >"$tmp/out"
	grep -q "^errors 0 " "$tmp/out" || fail "on a device, resized: $(cat "$tmp/out")"
	qio "$loop" "read -P 8 0 16M" "read -P 0 32M 8M"
fi
