# shellcheck shell=dash
# lib.sh - what the guest side of a case may call. Runs in busybox ash, in the guest's initramfs.
#
# What dom0 shall see is printed as lines "RIG ..." on the console. The first thing that is not as expected
# ends the guest with "RIG not ok ...".

# word NAME: value of NAME=value on the kernel's command line.
word() {
	tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p"
}

# shellcheck disable=SC2034 # for guest/init and the cases
RIG_CASE=$(word rig.case)
# shellcheck disable=SC2034
ARG=$(word rig.arg)

say() {
	echo "RIG $*"
}

not_ok() {
	say "not ok $*"
	dmesg | tail -n 20
	poweroff -f
	sleep 60
}

# must COMMAND...: runs it; if it fails, shows its output and ends the guest.
must() {
	local out
	out=$("$@" 2>&1) || {
		echo "$out" | tail -n 20
		not_ok "failed: $*"
	}
}

# must_not COMMAND...: the command has to fail.
must_not() {
	if "$@" >/dev/null 2>&1; then
		not_ok "should have failed: $*"
	fi
}

# same WHAT EXPECTED FOUND
same() {
	[ "$2" = "$3" ] || not_ok "$1: expected $2, found $3"
}

# await SECONDS COMMAND...: until it succeeds.
await() {
	local left=$(($1 * 5))
	shift
	until "$@" >/dev/null 2>&1; do
		left=$((left - 1))
		[ "$left" -gt 0 ] || not_ok "waited in vain for: $*"
		usleep 200000
	done
}

disk_there() {
	[ -b "/dev/$1" ] && [ "$(cat "/sys/block/$1/size")" -gt 0 ]
}

disk_gone() {
	[ ! -e "/sys/block/$1" ]
}

# verify DEV RW BLOCKSIZE DEPTH SIZE: fio puts a checksum into each block that it writes, and checks them after.
verify() {
	say "fio $*"
	must fio --name=v --filename="/dev/$1" --direct=1 --ioengine=libaio --thread --verify=crc32c --verify_fatal=1 \
		--do_verify=1 --rw="$2" --bs="$3" --iodepth="$4" --size="$5" --randseed="$4"
}

sums_agree() {
	(cd /mnt && sha256sum -c "$1" >/dev/null)
}

# more_files DEV: what populate() put into the image is there; more is written, some removed, and all found again.
more_files() {
	say "files on $1"
	must e2fsck -fn "/dev/$1"
	must mount -t ext4 -o discard "/dev/$1" /mnt
	must sums_agree sums
	must cp -a /lib/modules /cases /mnt/
	must rm /mnt/dir/numbers
	(cd /mnt && find modules cases -type f -exec sha256sum {} + >new.sums)
	must umount /mnt
	must e2fsck -fn "/dev/$1"
	echo 3 >/proc/sys/vm/drop_caches
	must mount -t ext4 "/dev/$1" /mnt
	must sums_agree new.sums
	grep -v numbers /mnt/sums >/mnt/rest
	must sums_agree rest
	must umount /mnt
}

# sync_with_dom0 WORD: tells dom0 where we are and waits for its go.
sync_with_dom0() {
	say "$1"
	read -r _
}

# What blkfront, the block layer and ext4 say besides what they always say.
complaints() {
	dmesg | grep -iE 'blkfront|xvd|vbd|grant|EXT4|JBD2|I/O error|segfault|BUG:|WARNING:|Call Trace|blocked for more' |
		grep -vE 'blkfront: xvd[a-z]+: (flush diskcache|barrier)' |
		grep -vE ' xvd[a-z]+:( xvd[a-z]+[0-9]+)*$' |
		grep -vE 'EXT4-fs \(xvd[a-z]+\): (mounted|unmounting) filesystem' |
		grep -vE 'xvd[a-z]+: detected capacity change' |
		grep -vE 'platform_pci_unplug: Blkfront and the Xen platform PCI|from /dev/hd.a-d. to /dev/xvd' |
		grep -vE 'Command line:|grant_table: Grant tables using|Grant table initialized' |
		grep -vE 'xenbus_probe_frontend: Device with no driver: device/vbd/[0-9]+$'
}

finish() {
	local c
	c=$(complaints)
	if [ -n "$c" ]; then
		echo "$c"
		not_ok "the kernel complains"
	fi
	say "done"
	poweroff -f
}
