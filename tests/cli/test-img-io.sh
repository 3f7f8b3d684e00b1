#!/bin/bash
# ringdisk-img read, write and resize, and what the verbs say about formats that cannot do something.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/img-functions.sh"

# pipe STATUS IN VERB ARG...: as img, with that file as its stdin.
pipe()
{
	local in=$2
	set -- "$1" "${@:3}"
	img "$@" <"$in"
}

truncate -s 4M "$tmp/a"
fill "$tmp/a" 0 1500
fill "$tmp/a" 3000 1096

# --- read

img 0 read "raw:$tmp/a"
cmp "$tmp/a" "$tmp/out"
img 0 read "raw:$tmp/a" --offset 1000 --length 2345678
cmp -n 2345678 -i 1000:0 "$tmp/a" "$tmp/out"
same "length" 2345678 "$(stat -c %s "$tmp/out")"
img 0 read "raw:$tmp/a" -o 4194303 -l 1
same "length" 1 "$(stat -c %s "$tmp/out")"
img 0 read "raw:$tmp/a" -o 4M
same "length" 0 "$(stat -c %s "$tmp/out")"
img 0 read "raw,sector-size=4096:$tmp/a" -o 5 -l 4096
cmp -n 4096 -i 5:0 "$tmp/a" "$tmp/out"
img 1 read "raw:$tmp/a" -o 5M
says err "behind the end"
img 1 read "raw:$tmp/a" -o 3M -l 2M
says err "there are 1048576, not 2097152"
img 1 read "error,op=read,nth=2:raw:$tmp/a"
says err "reading at byte 262144"
if "$rimg" read "raw:$tmp/a" --driver-dir "$drivers" >/dev/full 2>"$tmp/err"; then
	fail "read to a full disk succeeds"
fi
says err "stdout: No space left"

# --- write, at every alignment, against dd

cp "$tmp/a" "$tmp/b"
dd if=/dev/urandom of="$tmp/bytes" bs=1 count=10000 status=none
fill "$tmp/large" 0 2500
for sector in 512 4096; do
	for at in 0 1 511 512 4095 1048000 1048576 2000001 4184304; do
		for file in bytes large; do
			length=$(stat -c %s "$tmp/$file")
			[ $((at + length)) -le 4194304 ] || continue
			pipe 0 "$tmp/$file" write "raw,sector-size=$sector:$tmp/a" -o "$at"
			dd if="$tmp/$file" of="$tmp/b" bs=64K seek="$at" oflag=seek_bytes conv=notrunc status=none
			cmp "$tmp/a" "$tmp/b"
		done
	done
done
pipe 0 "$tmp/large" write "raw:$tmp/a" -o 7 -l 5 --json
json "d['length'] == 5 and d['offset'] == 7"
dd if="$tmp/large" of="$tmp/b" bs=1 count=5 seek=7 conv=notrunc status=none
cmp "$tmp/a" "$tmp/b"
pipe 1 "$tmp/large" write "raw:$tmp/a" -o 4M
says err "is full, and stdin has more"
cmp "$tmp/a" "$tmp/b"
pipe 1 "$tmp/bytes" write "raw:$tmp/a" -l 20000
says err "stdin ended after 10000 of 20000 bytes"
(cat "$tmp/bytes"; sleep 0.2; cat "$tmp/bytes") >"$tmp/twice"
(cat "$tmp/bytes"; sleep 0.2; cat "$tmp/bytes") | "$rimg" write -q "raw:$tmp/a" -o 100000 --driver-dir "$drivers"
cmp -n 20000 -i 0:100000 "$tmp/twice" "$tmp/a"

# --- resize

cp "$tmp/a" "$tmp/c"

img 0 resize "raw:$tmp/a" 6M
says out "6 MiB, before 4 MiB"
same "size" 6291456 "$(stat -c %s "$tmp/a")"
img 0 resize "raw:$tmp/a" +512K --json
json "d['virtual-size'] == 6815744 and d['before'] == 6291456"
img 1 resize "raw:$tmp/a" 1M
says err "--shrink"
same "size" 6815744 "$(stat -c %s "$tmp/a")"
img 0 resize --shrink "raw:$tmp/a" -- -512K
same "size" 6291456 "$(stat -c %s "$tmp/a")"
img 0 resize --shrink "raw:$tmp/a" 4M
cmp -n 4194304 "$tmp/a" "$tmp/c"
img 1 resize "raw:$tmp/a" 5000000
says err "multiple of 512"
img 1 resize "raw:$tmp/a" 0
img 1 resize --shrink "raw:$tmp/a" -- -4M
img 2 resize "raw:$tmp/a" large
img 1 resize "null:1G" 2G

# --- what a tab brings

PATH=$(dirname "$rimg"):$PATH
"$rimg" completion bash >"$tmp/bash"
# shellcheck disable=SC1091
. "$tmp/bash"
# tab WORD...: what the last word may become.
tab()
{
	COMP_WORDS=(ringdisk-img "$@")
	COMP_CWORD=$#
	COMPREPLY=()
	_ringdisk_img || true
	printf '%s ' "${COMPREPLY[@]}"
}
same "verbs" "coalesce commit compare completion convert" "$(tab co | tr ' ' '\n' | grep . | LC_ALL=C sort | tr '\n' ' ' |
	sed 's/ $//')"
same "an option" "--shrink " "$(tab resize --sh)"
same "what snapshot does" "apply " "$(tab snapshot a)"
same "a path" "$tmp/bytes " "$(tab info raw : "$tmp/byt")"
img 0 completion formats
says out "raw:"

# --- what a format cannot

img 63 check "raw:$tmp/a"
says err "nothing to check"
img 1 check "raw:$tmp/missing"
img 1 check
img 1 check --repair some "raw:$tmp/a"
img 1 snapshot list "raw:$tmp/a"
says err "no snapshots"
img 1 snapshot create "raw:$tmp/a" one
img 2 snapshot create "raw:$tmp/a"
img 2 snapshot show "raw:$tmp/a"
img 1 commit "raw:$tmp/a"
says err "stands on nothing"
img 1 rebase "raw:$tmp/a" --flatten
says err "cannot stand on another image"
img 2 rebase "raw:$tmp/a"
img 2 rebase "raw:$tmp/a" -b other
for verb in check resize snapshot read write commit coalesce rebase; do
	img 0 "$verb" --help
	says out "Usage: ringdisk-img $verb"
done
