# shellcheck shell=bash
# For tests of power loss: source it after ../functions.sh.
# What that one gives, and what this one gives to the tests:
# shellcheck disable=SC2154,SC2034,SC2016

export RD_DRIVERS=$drivers
crash=$top_builddir/tests/crash/crash
long=${CRASH_LONG:-}
slice=()
[ -z "${CRASH_SLICE:-}" ] || slice=(--slice="$CRASH_SLICE")

# judged ARG...: every state that a crash may leave is good.
judged()
{
	echo "crash ${slice[*]} $*"
	"$crash" "${slice[@]}" "$@" || fail "crash $*: a state is not good"
}

# found ARG...: the harness finds the seeded bug; it did not merely break.
found()
{
	local status=0
	echo "crash $*"
	"$crash" "$@" >"$tmp/found" 2>&1 || status=$?
	[ "$status" = 1 ] || fail "crash $*: the seeded bug is not found (status $status): $(tail -3 "$tmp/found")"
	grep -q 'FAILED$' "$tmp/found" || fail "crash $*: $(cat "$tmp/found")"
}

qcow2_judge='exec qemu-img check -q "$1" >/dev/null 2>&1'

# Arguments of crash for images that qemu-img makes so. The disk has 16 clusters.
# qcow2 CLUSTER [OPTION]; qcow2_compressed and qcow2_overlay, which are full of data: the same.
qcow2()
{
	args=(--block="$1" --size=$((16 * $1)) --judge="$qcow2_judge" --reader=qcow2
		--create="qemu-img create -q -f qcow2 -o cluster_size=$1${2:+,$2} \"\$1\" \$2" qcow2)
}

qcow2_compressed()
{
	args=(--made --block="$1" --size=$((16 * $1)) --judge="$qcow2_judge" --reader=qcow2
		--create="qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=$1${2:+,$2} \"\$1.raw\" \"\$1\"" qcow2)
}

qcow2_overlay()
{
	args=(--made --block="$1" --size=$((16 * $1)) --judge="$qcow2_judge" --reader=qcow2
		--create="qemu-img create -q -f qcow2 -o cluster_size=$1${2:+,$2} -F raw -b \"\$1.raw\" \"\$1\"" qcow2)
}
