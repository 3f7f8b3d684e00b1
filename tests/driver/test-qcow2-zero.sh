#!/bin/bash
# Discard, write-zeroes and zero detection on qcow2: every kind of cluster, every version, with and without backing
# file, with a snapshot, judged by QEMU.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/qcow2-model.sh"

k=1024
m=$((1024 * k))
cluster=65536
options=

# prepare BASE_BYTES: data at 1M and at the end, compressed at 2M, zeroes at 3M.
prepare()
{
	local compressed=() at

	fresh 6M "$1" "${create[@]}"
	both "write -P 0x22 1M 1M" "write -P 0x44 5M 1M"
	for ((at = 2 * m; at < 3 * m; at += cluster)); do
		compressed+=("write -c -P 0x33 $at $cluster")
	done
	disk_io "${compressed[@]}"
	model_io "write -P 0x33 2M 1M"
	[ "$version" = v2 ] || both "write -P 0x77 3M 512k" "write -z 3M 1M"
}

# ours COMMAND...: what our driver does.
ours()
{
	"$img" "qcow2$options:$disk" "$@" || fail "$what: $*"
}

# zeroes_by COMMAND OFFSET LENGTH: afterwards we and QEMU read zeroes there.
zeroes_by()
{
	ours "$1" "$2" "$3" read "$2" "$3" 0
	model_io "write -z $2 $3"
	alike "$what: $*"
}

# discards OFFSET LENGTH [FROM TO]: from FROM to TO it reads as zeroes, the rest stays.
discards()
{
	ours discard "$1" "$2"
	[ $# = 2 ] || model_io "write -z $3 $(($4 - $3))"
	alike "$what: discard $1 $2"
}

blocks()
{
	stat -c %b "$disk"
}

zeroes()
{
	local command range calls=() commands=()

	for command in zero keep; do
		calls=() commands=()
		prepare "$1"
		for range in "0 $cluster" "4096 4096" "69632 131072" "$((m + 512)) 512" "$((m + 4096)) 200704" \
			"$((2 * m - 1024)) 2048" "$((2 * m + cluster)) $cluster" "$((2 * m + 200704)) 512" \
			"$((2 * m + 262656)) 262144" "$((3 * m - 512)) $((m / 2 + 1024))" \
			"$((6 * m - 70144)) 70144"; do
			# shellcheck disable=SC2206 # two words
			calls+=($command $range read $range 0)
			commands+=("write -z $range")
		done
		ours "${calls[@]}"
		model_io "${commands[@]}"
		alike "$what: $command"
		# and all at once
		zeroes_by $command $((m + 300 * k)) $((3 * m))
	done
}

# Whole clusters (subclusters) inside of the range, and those that reach the end of the disk.
discarding()
{
	local before low high

	prepare "$1"
	before=$(blocks)
	low=$((m + cluster + 512)) high=$((m + 5 * cluster + grain + 512))
	discards $low $((high - low)) $(((low + grain - 1) / grain * grain)) $((high / grain * grain))
	[ "$(blocks)" -lt "$before" ] || fail "$what: no space is given back"
	# compressed clusters only whole
	low=$((2 * m + 512)) high=$((2 * m + 5 * cluster + 4096))
	discards $low $((high - low)) $((2 * m + cluster)) $((2 * m + 5 * cluster))
	# nothing left
	discards 0 $((6 * m)) 0 $((6 * m))
	[ "$(blocks)" -lt 1200 ] || fail "$what: $(blocks) blocks are left"
}

# What a discard cannot say it leaves.
leaving()
{
	prepare "$1"
	discards 0 $((6 * m))
}

ignoring()
{
	local before

	options=,discard=ignore
	prepare "$1"
	before=$(blocks)
	ours -discard 0 $((6 * m)) >"$tmp/discard"
	grep -q "not supported" "$tmp/discard" || fail "$what: discard=ignore: $(cat "$tmp/discard")"
	alike "$what: discard=ignore"
	[ "$(blocks)" = "$before" ] || fail "$what: discard=ignore changes space"
	# zeroes are zeroes still
	zeroes_by zero $m $m
	[ "$(blocks)" -ge "$before" ] || [ "$version" != v3 ] || fail "$what: discard=ignore gives space back"
	options=
}

# A snapshot keeps what is thrown away.
with_snapshot()
{
	prepare "$1"
	cp --sparse=always "$model" "$tmp/before.raw"
	qemu-img snapshot -c before "$disk"
	zeroes_by zero $((m + 4096)) $((2 * m))
	zeroes_by keep $((5 * m + 4096)) $((m - 4096))
	[ "$version" = v2 ] || discards 0 $((6 * m)) 0 $((6 * m))
	qemu-img snapshot -a before "$disk"
	cp --sparse=always "$tmp/before.raw" "$model"
	alike "$what: back to the snapshot"
	qemu-img snapshot -d before "$disk"
	alike "$what: without the snapshot"
}

# Zeroes that are written are found, whole clusters of them and the rest of what is zero already.
detecting()
{
	local before

	options=,detect-zeroes=unmap
	prepare "$1"
	before=$(blocks)
	ours write $((m + 512)) $((m / 2)) 0 write $((2 * m)) $m 0 write 512 1024 0 write $((5 * m)) 4096 9
	model_io "write -z $((m + 512)) $((m / 2))" "write -z 2M 1M" "write -z 512 1k" "write -P 9 5M 4k"
	alike "$what: detect-zeroes"
	ours read $((5 * m)) 4096 9 -map w $((5 * m)) 4096 map r $((5 * m)) 4096 >"$tmp/map" # or nobody would look at it
	grep -q "temporarily" "$tmp/map" || fail "$what: $(cat "$tmp/map")"
	[ "$version$1" = v26M ] || [ "$(blocks)" -lt "$before" ] || fail "$what: zeroes use space"
	options=
}

for version in v2 v3 extended; do
	case $version in
	v2) create=(-o "compat=0.10,cluster_size=64k") grain=$cluster ;;
	v3) create=(-o "compat=1.1,cluster_size=64k") grain=$cluster ;;
	*) create=(-o "compat=1.1,cluster_size=64k,extended_l2=on") grain=2048 ;;
	esac
	for backing in 0 6M 2080k; do
		what="$version, backing $backing"
		[ "$backing" != 2080k ] || [ "$version" = v3 ] || continue
		zeroes $backing
		case $version$backing in
		v26M) leaving $backing ;;
		*) discarding $backing ;;
		esac
		ignoring $backing
		with_snapshot $backing
		detecting $backing
	done
done

# An entry that says that the L1 table is guest data: nothing of it is freed, and nothing written any more.
create=(-o "compat=1.1,cluster_size=64k") what="metadata as data"
fresh 1M 0 "${create[@]}"
disk_io "write -P 1 0 128k"
cp "$disk" "$tmp/good.qcow2"
for command in "discard 0 65536" "zero 0 65536"; do
	cp "$tmp/good.qcow2" "$disk"
	printf '\x80\0\0\0\0\x03\0\0' | dd of="$disk" bs=1 seek=$((0x40000)) conv=notrunc status=none
	# shellcheck disable=SC2086 # words
	"$img" "qcow2:$disk" -$command -write 524288 4096 1 >"$tmp/refused" 2>&1 || fail "$what: $(cat "$tmp/refused")"
	[ "$(grep -c "Input/output error" "$tmp/refused")" = 2 ] ||
		fail "$what: $command: $(cat "$tmp/refused")"
	cmp -n $((0x10000)) -i $((0x30000)) "$disk" "$tmp/good.qcow2" || fail "$what: $command: L1 has changed"
	qemu-img info "$disk" | grep -q "corrupt: true" || fail "$what: $command: it is not marked"
done

# A table that has lost its last entry is given back: by discards in parts, of everything, by zeroes; another one that
# still has an entry stays. A table that a snapshot has, too, is not ours to give.
tables()
{
	python3 - "$disk" <<'END'
import struct, sys
f = open(sys.argv[1], "rb")
head = f.read(64)
size, l1 = struct.unpack(">IQ", head[36:48])
f.seek(l1)
print(sum(1 for e in struct.unpack(">%dQ" % size, f.read(size * 8)) if e))
END
}
span=$((512 * m)) what="empty tables"
for command in discard zero; do
	fresh 2G 0 "${create[@]}"
	ours write 0 131072 1 write $span 65536 2 write $((span + 4 * m)) 65536 3
	[ "$(tables)" = 2 ] || fail "$what: $(tables) at the beginning"
	ours "$command" 0 65536
	[ "$(tables)" = 2 ] || fail "$what: $command: $(tables), with an entry left"
	ours "$command" 65536 65536
	[ "$(tables)" = 1 ] || fail "$what: $command: $(tables) after parts"
	ours write 4096 8192 4 "$command" 0 $((2 * k * m)) read 0 131072 0 write $((span - 4096)) 8192 5 \
		read $((span - 8192)) 4096 0 read $((span - 4096)) 8192 5
	model_io "write -P 5 $((span - 4096)) 8192"
	[ "$(tables)" = 2 ] || fail "$what: $command: $(tables) after all"
	alike "$what: $command"
	ours "$command" 0 $((2 * k * m))
	[ "$(tables)" = 0 ] || fail "$what: $command: $(tables) at the end"
	# Only what was allocated ahead once, and nothing of it is a leak.
	qemu-img check -q "$disk" || fail "$what: $command: leaks"
done
disk_io "write -P 6 0 64k"
qemu-img snapshot -c one "$disk"
ours discard 0 $((2 * k * m))
qemu-img snapshot -a one "$disk"
disk_io "read -P 6 0 64k"
qemu-img check -q "$disk" || fail "$what: with a snapshot"
