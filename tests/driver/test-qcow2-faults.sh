#!/bin/bash
# System calls that fail while a qcow2 image is written to: the nth of each kind, once or from there on. Whatever fails,
# the guest is told the truth, the tables have leaks at most, and when it works again so does the disk.
# FAULTS_STEP=0 lets each of them fail; else some of the later ones are left out.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/qcow2.sh"
require qemu-img --version

step=${FAULTS_STEP:-3}

# no_errors: leaks are allowed.
no_errors()
{
	local status=0
	qemu-img check -f qcow2 "$tmp/a.qcow2" >"$tmp/check" 2>&1 || status=$?
	[ $status = 0 ] || [ $status = 3 ] || fail "$what: qemu-img check: $(tail -5 "$tmp/check")"
}

# one_fault OPTIONS FAULT: how many calls there were goes to $calls.
one_fault()
{
	what="$1, $2"
	make "$1" 3M
	calls=$("$random" -s 7 -n 2 -k 30 -t 1 -r 9 -m wwwwwrfzd -F "$2" "qcow2:$tmp/a.qcow2" "$tmp/model" \
		2>"$tmp/err") || fail "$what: $(tail -3 "$tmp/err")"
	no_errors
	[ "${2%%:*}" = sync ] || qemu-img compare -q -f qcow2 -F raw "$tmp/a.qcow2" "$tmp/model" ||
		fail "$what: QEMU reads something else"
}

for fault in write:EIO write:ENOSPC read:EIO space:EIO size:ENOSPC sync:EIO; do
	for options in "" cluster_size=512,refcount_bits=64 extended_l2=on; do
		for count in 1 0; do
			calls=1
			for ((n = 1; n <= calls; n += 1 + (step ? n / step : 0))); do
				one_fault "$options" "$fault:$n:$count"
			done
		done
	done
done
