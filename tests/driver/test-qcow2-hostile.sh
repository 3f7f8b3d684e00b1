#!/bin/bash
# Hostile qcow2 images, each with its expected outcome: refused with a reason, or open with an I/O error where it is
# touched. Never a crash, more than 5 seconds, more memory than such an image needs, a change of the file by
# reading it, or one outside of where data goes by writing. driver/qcow2-corpus makes them.
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

# look PARAMS COMMAND: status and output.
look()
(
	# A sanitizer's own memory does not fit in any limit. A file that gets larger was written to far outside.
	[ -n "${SANITIZE:-}" ] || ulimit -v 300000
	ulimit -f 100000
	status=0
	timeout "$limit" "$img" "$@" >out 2>&1 || status=$?
	[ "$status" -le 1 ] || fail "$*: status $status: $(cat out)"
	exit "$status"
)

bad=0
refused_writing=0
wrong()
{
	echo "$name: expected $expected, but: $(cat out)" >&2
	bad=$((bad + 1))
}

while IFS='|' read -r name expected; do
	sum=$(cksum "corpus/$name.qcow2")
	status=0
	look -r "qcow2:corpus/$name.qcow2" scan || status=$?
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

	# Written to: it may refuse that, or any part of it. Its header stays, and what reads it still does.
	cp --sparse=always "corpus/$name.qcow2" corpus/copy.qcow2
	status=0
	look "qcow2:corpus/copy.qcow2" abuse || status=$?
	same "first bytes of $name" "$(head -c 8 "corpus/$name.qcow2" | od -An -tx1)" \
		"$(head -c 8 corpus/copy.qcow2 | od -An -tx1)"
	[ "$status" = 0 ] || [[ $expected != reads* ]] || [ ! -s out ] || refused_writing=$((refused_writing + 1))
	look -r "qcow2:corpus/copy.qcow2" scan || true
done <list
[ "$refused_writing" -lt 20 ] || fail "$refused_writing images that can be read cannot be opened for writing"
[ "$bad" = 0 ] || fail "$bad of the images"
