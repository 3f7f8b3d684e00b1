# shellcheck shell=dash
# lib.sh - what the dom0 side of a case may call. Sourced by dom0/main and dom0/case.
#
# A case makes images, starts guests on them, waits for what their consoles say, and looks at the images.
# Every wait has an end; whatever is not as expected calls fail, which says what was expected and ends the
# case. dom0/main collects the logs and cleans up.

RIG=/rig                    # memory
IMAGES=$RIG/images
CONSOLES=$RIG/consoles      # guest-NAME.log, written by xenconsoled
# shellcheck disable=SC2034 # for dom0/main
LOGS=$RIG/logs
PIDFILE=/run/ringdisk/ringdiskd.pid

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/xen-4.17/bin
export PATH LC_ALL=C

# shellcheck disable=SC1091 # written by tests/xen/run
. $RIG/out/job

note() {
	echo "--- $*"
}

# To stderr, so that the case's log has it also when a command substitution fails.
fail() {
	echo "FAIL: $*" >&2
	exit 1
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
	local end what
	end=$(($(date +%s) + $1))
	what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s)" -lt "$end" ] || fail "waited in vain for $what ($*)"
		sleep 0.2
	done
}

# --- images -----------------------------------------------------------------------------------------

# next_format: of the image that is made next; the case's are used in turn.
next_format() {
	local n
	n=$(find "$IMAGES" -maxdepth 1 -type f | wc -l)
	# shellcheck disable=SC2046 # words
	set -- $(echo "${RIG_FORMAT:-raw}" | tr + ' ')
	shift $((n % $#))
	echo "$1"
}

# numbered FILE SIZE: a raw image without a hole, in which each sector has its own content: the same 900,009 bytes
# again and again, but each time elsewhere in their sectors. More lines would take long in the emulator.
numbered() {
	local p=$IMAGES/below/part
	seq 10000000 10100000 >"$p"
	until [ "$(stat -c %s "$1" 2>/dev/null || echo 0)" -ge "$2" ]; do
		cat "$p" "$p" "$p" "$p" "$p" "$p" "$p" "$p" >>"$1" || return
	done
	rm "$p"
	truncate -s "$2" "$1"
}

# In a chain the one in the middle repeats so many bytes after themselves.
MIDDLE=5000192

# content_of FORMAT SIZE FILE: what a new image of that format holds, as a raw image.
content_of() {
	rm -f "$3"
	case $1 in
	*-*) numbered "$3" "$2" ;;
	*) truncate -s "$2" "$3" ;;
	esac || return
	[ "$1" != vhd-chain ] || head -c $MIDDLE "$3" | dd of="$3" bs=4096 seek=$MIDDLE oflag=seek_bytes conv=notrunc iflag=fullblock
}

# image NAME SIZE [RAW]: makes an image in the format that the case is run with, and prints its path. It holds what
# the raw image holds; without one those that --help of tests/xen/run calls empty are, and the others numbered.
# Whatever it stands on is in below/.
image() {
	local format path=$IMAGES/$1 below=$IMAGES/below/$1
	format=$(next_format)
	mkdir -p "$IMAGES/below"
	case $format in
	raw*) path=$path.img ;;
	qcow2*) path=$path.qcow2 ;;
	vhd-chain) path=$path.child.vhd ;;
	vhd*) path=$path.vhd ;;
	esac
	case $format in
	*-*)
		if [ "${3:-}" ]; then cp "$3" "$below.img"; else numbered "$below.img" "$(to_bytes "$2")"; fi
		full_image_of "$format" "$below" "$path" "${3:+$MIDDLE}"
		;;
	*)
		if [ "${3:-}" ]; then
			cp "$3" "$below.img" && full_image_of "$format-full" "$below" "$path"
		else
			empty_image "$format" "$path" "$2"
		fi
		;;
	esac >&2 || fail "cannot make image $1"
	echo "$path"
}

# empty_image FORMAT PATH SIZE
empty_image() {
	case $1 in
	raw) truncate -s "$3" "$2" ;;
	qcow2) qemu-img create -q -f qcow2 "$2" "$3" ;;
	vhd) qemu-img create -q -f vpc -o force_size=on "$2" "$3" ;;
	esac
}

# full_image_of FORMAT BELOW PATH [FROM]: of the raw image BELOW.img, which goes away unless the format stands on it.
# FROM: where the bytes are that the one in the middle of a chain has; only there then. Default: 0, and again at MIDDLE.
full_image_of() {
	local qcow2="qemu-img convert -q -f raw -O qcow2" vhd="qemu-img convert -q -f raw -O vpc -o force_size=on"
	case $1 in
	raw-full) cp "$2.img" "$3" ;;
	qcow2-full) $qcow2 "$2.img" "$3" ;;
	qcow2-compressed) $qcow2 -c -o compression_type=zstd "$2.img" "$3" ;;
	qcow2-on-raw)
		qemu-img create -q -f qcow2 -b "$2.img" -F raw "$3"
		return
		;;
	qcow2-on-qcow2)
		$qcow2 "$2.img" "$2.qcow2" && qemu-img create -q -f qcow2 -b "$2.qcow2" -F qcow2 "$3"
		;;
	vhd-full) $vhd -o subformat=dynamic "$2.img" "$3" ;;
	vhd-fixed) $vhd -o subformat=fixed "$2.img" "$3" ;;
	vhd-chain)
		# The one in the middle has blocks of its own, among them some that are written in part.
		dd if="$2.img" of="$2.part" bs=4096 skip="${4:-0}" count=$MIDDLE iflag=skip_bytes,count_bytes &&
			{ [ ! "${4:-}" ] || dd if=/dev/zero of="$2.img" bs=4096 seek="$4" count=$MIDDLE oflag=seek_bytes iflag=count_bytes conv=notrunc; } &&
			$vhd -o subformat=dynamic "$2.img" "$2.vhd" &&
			ringdisk-img create -q -b "$2.vhd" -F vhd "vhd:$2.middle.vhd" &&
			ringdisk-img write -q -o $MIDDLE "vhd:$2.middle.vhd" <"$2.part" && rm "$2.part" &&
			ringdisk-img create -q -b "$2.middle.vhd" -F vhd "vhd:$3"
		;;
	esac && rm "$2.img"
}

# to_bytes SIZE: a number, or one with M behind it.
to_bytes() {
	case $1 in
	*M) echo $((${1%M} * 1048576)) ;;
	*) echo "$1" ;;
	esac
}

# check_image IMAGE: its format must be in order, once nobody serves it.
check_image() {
	wait_for 60 "the end of the disks" no_vbds
	case $1 in
	*.qcow2) qemu-img check -q "$1" >&2 || fail "qemu-img check finds errors or leaks in $1" ;;
	*.vhd)
		[ "$RIG_BACKEND" != ringdisk ] || ringdisk-img check "vhd:$1" >&2 ||
			fail "ringdisk-img check finds errors in $1"
		;;
	esac
}

# raw_of IMAGE: the disk as a file of its bytes, once nobody serves it. qemu-img reads what it can read.
raw_of() {
	check_image "$1"
	case $1 in
	*.img)
		echo "$1"
		return
		;;
	esac
	case $1 in
	*.qcow2) qemu-img convert -f qcow2 -O raw "$1" "$1.raw" ;;
	*.child.vhd) ringdisk-img convert -q --force "vhd:$1" "raw:$1.raw" ;;
	*.vhd) qemu-img convert -f vpc -O raw "$1" "$1.raw" ;;
	esac >&2 || fail "cannot read $1"
	echo "$1.raw"
}

# populate IMAGE: an ext4 file system with files in it that guest_side finds again by populated().
populate() {
	mkdir -p "$RIG/populate/dir"
	cp -a /usr/bin/qemu-img /usr/sbin/mke2fs "$RIG/populate/"
	seq 100000 >"$RIG/populate/dir/numbers"
	(cd "$RIG/populate" && find . -type f -exec sha256sum {} + >../sums && mv ../sums .)
	mkfs.ext4 -q -F -d "$RIG/populate" "$1" || fail "cannot make a file system in $1"
	rm -r "$RIG/populate"
}

# Allocated 512-byte blocks.
blocks() {
	stat -c %b "$1"
}

# being_written IMAGE: whether it changes while one looks.
being_written() {
	local before
	before=$(stat -c %y "$1")
	sleep 0.5
	[ "$before" != "$(stat -c %y "$1")" ]
}

checksum() {
	sha256sum <"$1"
}

# The loop device that blkback serves the image from.
loop_of() {
	losetup -n -O NAME -j "$1" | head -n 1
}

# The format of an image, by the end of its name.
format_of() {
	case $1 in
	*.qcow2) echo qcow2 ;;
	*.vhd) echo vhd ;;
	*) echo raw ;;
	esac
}

# Of the disk, in bytes.
size_of() {
	local format
	format=$(format_of "$1")
	[ "$format" != vhd ] || format=vpc
	qemu-img info -f "$format" "$1" | sed -n 's/^virtual size:.*(\([0-9]*\) bytes)$/\1/p'
}

# disk DEV IMAGE [MODE]: xl's specification of a disk served by the backend under test. Mode is w or r.
disk() {
	local mode=${3:-w} loop format
	format=$(format_of "$2")
	case $RIG_BACKEND in
	blkback)
		loop=$(loop_of "$2")
		if [ -z "$loop" ]; then
			loop=$(losetup --show -f "$2") || return 1
		fi
		echo "format=raw,vdev=$1,access=$mode,backendtype=phy,target=$loop"
		;;
	qdisk)
		echo "format=$format,vdev=$1,access=$mode,backendtype=qdisk,target=$2"
		;;
	ringdisk)
		echo "format=raw,vdev=$1,access=$mode,backendtype=qdisk,target=ringdisk:${RIG_DRIVER:-$format}:$2"
		;;
	null)
		echo "format=raw,vdev=$1,access=$mode,backendtype=qdisk,target=ringdisk:null:$(size_of "$2")"
		;;
	esac
}

# --- guests -----------------------------------------------------------------------------------------

console() {
	echo "$CONSOLES/guest-$1.log"
}

# guest_start NAME SETTINGS DISK...: SETTINGS is "vcpus=4 memory=768 arg=word", any of them, or empty.
# The guest runs guest_side of the case.
guest_start() {
	local name=$1 vcpus=1 memory=512 arg='' d list='' s
	for s in $2; do
		case $s in
		vcpus=*) vcpus=${s#*=} ;;
		memory=*) memory=${s#*=} ;;
		arg=*) arg=${s#*=} ;;
		*) fail "guest_start: what is $s" ;;
		esac
	done
	shift 2
	for d in "$@"; do
		[ -n "$d" ] || fail "guest_start: no disk"
		list="$list'$d',"
	done
	: >"$(console "$name")"
	cat >"$RIG/$name.cfg" <<-END
		name = "$name"
		type = "pv"
		kernel = "$RIG/vmlinux"
		ramdisk = "$RIG/guest.cpio"
		memory = $memory
		vcpus = $vcpus
		cmdline = "rdinit=/guest/init console=hvc0 quiet cryptomgr.notests rodata=off panic=-1 rig.case=$RIG_CASE rig.arg=$arg"
		on_poweroff = "destroy"
		on_reboot = "restart"
		on_crash = "destroy"
		disk = [ $list ]
	END
	note "xl create $name with $list"
	xl create "$RIG/$name.cfg" || fail "xl create $name failed"
}

guest_alive() {
	xl domid "$1" >/dev/null 2>&1
}

# guest_says NAME WORDS: whether its console has shown a line "RIG WORDS" since it started.
guest_says() {
	tr -d '\r' <"$(console "$1")" | grep -q "^RIG $2\$"
}

# guest_wait NAME SECONDS WORDS: waits for such a line. A guest that failed or died ends the wait.
guest_wait() {
	local end name=$1 words=$3 n=0
	end=$(($(date +%s) + $2))
	until guest_says "$name" "$words"; do
		if grep -q '^RIG not ok' "$(console "$name")"; then
			fail "guest $name: $(tr -d '\r' <"$(console "$name")" | grep '^RIG not ok')"
		fi
		# Every second: xl takes long to start in the emulator.
		n=$(((n + 1) % 5))
		if [ $n = 0 ] && ! guest_alive "$name"; then
			sleep 1 # the last words may still be on their way through xenconsoled
			guest_says "$name" "$words" && return
			fail "guest $name is gone before it said \"$words\""
		fi
		[ "$(date +%s)" -lt "$end" ] || fail "guest $name did not say \"$words\" within $2 s"
		sleep 0.2
	done
}

# guest_go NAME: answers the "sync" of a guest.
guest_go() {
	echo go >"$(xenstore-read "/local/domain/$(xl domid "$1")/console/tty")" ||
		fail "cannot write to the console of $1"
}

# guest_end NAME SECONDS: it must say that all went well, and be gone completely.
guest_end() {
	guest_wait "$1" "$2" "done"
	wait_for 60 "the end of domain $1" no_domain "$1"
}

no_domain() {
	! guest_alive "$1"
}

# --- backend ----------------------------------------------------------------------------------------

# only_backend NAME: the case is about that one; others skip it.
only_backend() {
	[ "$RIG_BACKEND" = "$1" ] || {
		echo "SKIP: only for $1"
		exit 77
	}
}

# Processes that serve domain NAME, as pids.
backend_pid() {
	case $RIG_BACKEND in
	qdisk) xenstore-read "/local/domain/$(xl domid "$1")/image/device-model-pid" ;;
	*) cat $PIDFILE ;;
	esac
}

# only_dom0: no other domain is left, dying ones included.
only_dom0() {
	[ "$(xl list | tail -n +2 | wc -l)" -eq 1 ]
}

# opened_for_writing PATH: whether ringdiskd has it so.
opened_for_writing() {
	local pid fd flags
	pid=$(cat $PIDFILE)
	for fd in "/proc/$pid/fd/"*; do
		[ "$(readlink "$fd")" = "$1" ] || continue
		flags=$(sed -n 's/^flags:[^0-9]*//p' "/proc/$pid/fdinfo/${fd##*/}")
		[ $((flags & 3)) -eq 0 ] || return 0 # octal, it begins with 0
	done
	return 1
}

# no_vbds: no disk is left in the store.
no_vbds() {
	! xenstore-ls -f /local/domain/0/backend 2>/dev/null | grep -qE '/backend/(vbd|qdisk|vbd3)/[0-9]+/[0-9]+/'
}
