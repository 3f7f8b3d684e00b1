# shellcheck shell=bash
# For tests of VHD images: source it after functions.sh of this directory.
# shellcheck disable=SC2154,SC2034

rdimg=("$top_builddir/tools/ringdisk-img" --driver-dir="$drivers" -q)

# create PARAMS SIZE ARG...
create()
{
	"${rdimg[@]}" create "$@" || fail "create $*"
}

# fact PARAMS KEY: what the driver says about it.
fact()
{
	"${rdimg[@]}" info "$1" | sed -n "s/^  $2: //p"
}

# qio FILE COMMAND...: qemu-io; a pattern that is not there is a failure.
qio()
{
	local file=$1 args=() c
	shift
	for c in "$@"; do
		args+=(-c "$c")
	done
	qemu-io -f vpc "${args[@]}" "$file" >"$tmp/qio" 2>&1 || fail "qemu-io: $(cat "$tmp/qio")"
	! grep -q "Pattern verification failed" "$tmp/qio" || fail "$file: $(cat "$tmp/qio")"
}

# put FILE OFFSET HEX...: bytes into a file.
put()
{
	local file=$1 offset=$2 hex
	shift 2
	hex=$(printf '%s' "$@")
	printf '%b' "$(sed 's/../\\x&/g' <<<"$hex")" |
		dd of="$file" bs=1 seek="$((offset))" conv=notrunc status=none
}

# get FILE OFFSET LENGTH: a number, big-endian
get()
{
	local hex
	hex=$(od -An -tx1 -v -j "$(($2))" -N "$3" "$1" | tr -d ' \n')
	echo $((16#$hex))
}

# seal FILE OFFSET LENGTH AT: the checksum of a footer or header that was changed by put.
seal()
{
	local sum
	put "$1" $(($2 + $4)) 00000000
	sum=$(od -An -tu1 -v -w1 -j "$(($2))" -N "$3" "$1" | awk '{ s += $1 } END { printf "%08x", 4294967295 - s }')
	put "$1" $(($2 + $4)) "$sum"
}

# seal_footers FILE: the footer at the end is a copy of the one at 0, both with their checksum.
seal_footers()
{
	seal "$1" 0 512 64
	dd if="$1" of="$1" bs=512 count=1 seek=$(($(stat -c %s "$1") / 512 - 1)) conv=notrunc status=none
}

# checks FILE: our own check finds no error, and nothing to remark.
checks()
{
	"$img" -r "vhd:$1" check no >"$tmp/check" 2>&1 || fail "check $1: $(cat "$tmp/check")"
	grep -q "^errors 0 " "$tmp/check" && ! grep -q "^remark" "$tmp/check" || fail "check $1: $(cat "$tmp/check")"
}
