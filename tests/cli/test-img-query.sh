#!/bin/bash
# query and set: what vhd-util's users ask for and change; hidden images are not written to.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/cli/img-functions.sh"

# asked IMAGE FIELD VALUE
asked()
{
	img 0 query "$1" "$2"
	[ "$(cat "$tmp/out")" = "$3" ] || fail "$2 of $1 is $(cat "$tmp/out"), not $3"
}

cd "$tmp"
img 0 create "vhd:$tmp/a.vhd" 64M
fill data 0 3000
img 0 write "vhd:$tmp/a.vhd" <data
img 0 create -b a.vhd -F vhd "vhd:$tmp/b.vhd"
img 0 create -b b.vhd -F vhd "vhd:$tmp/c.vhd"
asked "vhd:$tmp/c.vhd" depth 3
asked "vhd:$tmp/a.vhd" depth 1
asked "vhd:$tmp/c.vhd" parent b.vhd
asked "vhd:$tmp/a.vhd" parent none
asked "vhd:$tmp/c.vhd" type differencing
asked "vhd:$tmp/a.vhd" type dynamic
asked "vhd:$tmp/a.vhd" virtual-size $((64 << 20))
asked "vhd:$tmp/a.vhd" physical-size "$(stat -c %s a.vhd)"
asked "vhd:$tmp/a.vhd" hidden no
img 0 query --json "vhd:$tmp/c.vhd"
json "d['depth'] == 3 and d['parent'] == 'b.vhd' and d['hidden'] is False and len(d['uuid']) == 36"
img 0 query --json "vhd:$tmp/c.vhd" depth
json "d == {'depth': 3}"
img 2 query "vhd:$tmp/c.vhd" height

# Other formats.
img 0 create "qcow2:$tmp/q" 8M
asked "qcow2:$tmp/q" virtual-size $((8 << 20))
asked "qcow2:$tmp/q" depth 1
img 1 set "qcow2:$tmp/q" hidden=yes
says err "no hidden to set"

# In use, and without its parent.
hold "vhd:$tmp/c.vhd"
asked "vhd:$tmp/c.vhd" depth 3
img 1 set "vhd:$tmp/c.vhd" hidden=yes
says err "is locked"
img 1 info "vhd:$tmp/c.vhd"
says err "ringdisk-img query"
release
img 1 set "vhd:$tmp/c.vhd" hidden=perhaps
says err 'hidden cannot be "perhaps"'
mv a.vhd away
img 1 query "vhd:$tmp/c.vhd"
says out "parent: b.vhd"
img 1 query "vhd:$tmp/c.vhd" depth
asked "vhd:$tmp/c.vhd" parent b.vhd
mv away a.vhd

# Hidden: both footers say so, at the byte where tapdisk looks for it, and are valid.
for type in dynamic fixed; do
	[ "$type" = dynamic ] || img 0 convert -o type=fixed -f "vhd:$tmp/c.vhd" "vhd:$tmp/$type.vhd"
	[ "$type" = fixed ] || cp a.vhd dynamic.vhd
	image=vhd:$tmp/$type.vhd
	img 0 set "$image" hidden=yes
	asked "$image" hidden yes
	[ "$(tail -c 427 "$type.vhd" | head -c 1 | od -An -tu1 | tr -d ' ')" = 1 ] || fail "$type: the byte"
	img 0 check "$image"
	[ "$type" = fixed ] || cmp -n 512 "$type.vhd" <(tail -c 512 "$type.vhd") || fail "the footers differ"
	! command -v qemu-img >/dev/null || qemu-img info -f vpc "$type.vhd" >/dev/null || fail "$type: qemu-img"
	img 0 read "$image" -l 512
	img 1 write "$image" <data
	says err "is hidden"
	img 1 resize "$image" 70M
	says err "is hidden"
	img 0 write "${image/vhd:/vhd,hidden=open:}" <data
	img 0 set "$image" hidden=no
	asked "$image" hidden no
	img 0 write "$image" <data
	img 1 set "$image" hidden=1
	img 1 set "$image" color=red
	img 2 set "$image" hidden
done

# What others stand on is hidden, and is merged into all the same.
img 0 set "vhd:$tmp/a.vhd" hidden=yes
img 0 set "vhd:$tmp/b.vhd" hidden=yes
fill more 0 100
img 0 write "vhd:$tmp/c.vhd" -o 1M <"more"
img 0 read "vhd:$tmp/c.vhd"
mv out expected
img 0 coalesce "vhd:$tmp/c.vhd"
img 0 coalesce "vhd:$tmp/b.vhd"
img 0 check --repair=all "vhd:$tmp/b.vhd"
img 0 compare "raw:$tmp/expected" "vhd:$tmp/a.vhd"
asked "vhd:$tmp/a.vhd" hidden yes

# Another parent: by its path, and not one that is another disk.
mkdir sub
cp b.vhd sub/
cp a.vhd sub/
img 0 set "vhd:$tmp/c.vhd" parent=sub/b.vhd
asked "vhd:$tmp/c.vhd" parent sub/b.vhd
img 0 compare "raw:$tmp/expected" "vhd:$tmp/c.vhd"
img 1 set "vhd:$tmp/c.vhd" parent=missing.vhd
asked "vhd:$tmp/c.vhd" parent sub/b.vhd
img 0 set "vhd:$tmp/c.vhd" parent=a.vhd
asked "vhd:$tmp/c.vhd" depth 2
img 0 compare "raw:$tmp/expected" "vhd:$tmp/c.vhd"

"$rimg" completion zsh >_ringdisk-img
if command -v zsh >/dev/null; then
	zsh -n _ringdisk-img
	cat >try.zsh <<'END'
compadd() { local name=${@[-1]}; print -l -- ${(P)name}; }
_files() { :; }
source $1
shift
words=(ringdisk-img "$@")
CURRENT=$(($# + 1))
_ringdisk_img
END
	zsh -f try.zsh _ringdisk-img "" | sort >zsh.verbs
	"$rimg" --help | sed -n '/^Verbs/,/^$/s/^  \([a-z-]*\) .*/\1/p' | sort >verbs
	diff verbs <(grep . zsh.verbs) || fail "zsh: not the same verbs"
	zsh -f try.zsh _ringdisk-img coalesce --p | grep -qx -e --part= || fail "zsh: no option of coalesce"
fi
