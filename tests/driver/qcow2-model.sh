# shellcheck shell=bash
# For tests that change a qcow2 image: source it after functions.sh. A raw file, $model, gets the same changes by
# QEMU's hand, and at the end both must be alike, and QEMU find nothing wrong with the image.
# shellcheck disable=SC2154,SC2034

require qemu-img --version
require qemu-io --version

disk=$tmp/disk.qcow2
model=$tmp/model.raw
base=$tmp/base.raw

# by_qemu FORMAT FILE COMMAND...: qemu-io, each argument a command.
by_qemu()
{
	local format=$1 file=$2 c

	shift 2
	for c; do
		echo "$c"
	done | qemu-io -f "$format" "$file" >"$tmp/io" 2>&1 || fail "qemu-io $format: $(cat "$tmp/io")"
	! grep -qi "pattern\|error\|failed" "$tmp/io" || fail "qemu-io $format: $(cat "$tmp/io")"
}

model_io()
{
	by_qemu raw "$model" "$@"
}

disk_io()
{
	by_qemu qcow2 "$disk" "$@"
}

# both COMMAND...: the same on both.
both()
{
	model_io "$@"
	disk_io "$@"
}

# fresh SIZE BASE_BYTES OPTION...: an empty image, and its model. BASE_BYTES: of a backing file full of 0x11, 0: none.
fresh()
{
	local size=$1 base_size=$2 backing=()
	shift 2

	rm -f "$disk" "$model" "$base"
	truncate -s "$size" "$model"
	if [ "$base_size" != 0 ]; then
		truncate -s "$base_size" "$base"
		by_qemu raw "$base" "write -P 0x11 0 $base_size"
		dd if="$base" of="$model" conv=notrunc bs=1M status=none
		truncate -s "$size" "$model"
		backing=(-b "$base" -F raw)
	fi
	qemu-img create -q -f qcow2 "${backing[@]}" "$@" "$disk" "$size"
}

# alike WHAT: the image is without errors and leaks, and QEMU sees the model's content in it.
alike()
{
	qemu-img check -q "$disk" >"$tmp/check" 2>&1 || fail "$1: $(qemu-img check "$disk" 2>&1 | tail -5)"
	qemu-img compare -q -f raw -F qcow2 "$model" "$disk" >"$tmp/compare" 2>&1 ||
		fail "$1: $(cat "$tmp/compare"; qemu-img compare -f raw -F qcow2 "$model" "$disk" 2>&1)"
}
