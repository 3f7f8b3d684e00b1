#!/bin/bash
# Hostile qcow2 images, each with its expected outcome: refused with a reason, or open with an I/O error where it is
# touched. Never a crash, more than 5 seconds, more memory than such an image needs, or a change of the file by
# reading it. driver/qcow2-corpus makes them.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
require qemu-img --version
require qemu-io --version
require python3 --version
cd "$tmp"

mkdir corpus
mkfifo corpus/fifo
echo x >x.raw
truncate -s 1M corpus/other.raw
"$srcdir/driver/qcow2-corpus" corpus >list
[ "$(wc -l <list)" -gt 180 ] || fail "only $(wc -l <list) images"
limit=5
[ -z "${SANITIZE:-}" ] || limit=30

# look NAME: status and output of reading all of it.
look()
(
	# A sanitizer's own memory does not fit in any limit.
	[ -n "${SANITIZE:-}" ] || ulimit -v 200000
	status=0
	timeout "$limit" "$img" -r "qcow2:corpus/$1.qcow2" scan >out 2>&1 || status=$?
	[ "$status" -le 1 ] || fail "$1: status $status: $(cat out)"
	exit "$status"
)

bad=0
wrong()
{
	echo "$name: expected $expected, but: $(cat out)" >&2
	bad=$((bad + 1))
}

while IFS='|' read -r name expected; do
	sum=$(cksum "corpus/$name.qcow2")
	status=0
	look "$name" || status=$?
	case $expected in
	refused*)
		[ "$status" = 1 ] && grep -qF -- "${expected#refused }" out || wrong
		grep -q "$name.qcow2" out || wrong
		;;
	reads*)
		[ "$status" = 0 ] && grep -q "failed ${expected#reads }\$" out || wrong
		;;
	opens)
		[ "$status" = 0 ] || wrong
		;;
	esac
	[ "$sum" = "$(cksum "corpus/$name.qcow2")" ] || fail "$name: changed by reading it"
done <list
[ "$bad" = 0 ] || fail "$bad of the images"
