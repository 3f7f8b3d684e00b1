# shellcheck shell=bash
# For tests that write qcow2 images: source it after functions.sh.
# shellcheck disable=SC2154

# Images go to memory if they can: these tests flush thousands of times, and nothing is said about power loss.
if [ -d /dev/shm ] && [ -w /dev/shm ] && [ "$(df --output=avail -k /dev/shm | tail -1)" -gt 1000000 ]; then
	rm -rf "$tmp"
	tmp=$(mktemp -d "/dev/shm/$test_name.XXXXXX")
fi

random=$top_builddir/tests/qcow2/random

# make OPTIONS SIZE [ARG...]: a new $tmp/a.qcow2 by qemu-img, and the model of its content.
make()
{
	rm -f "$tmp/a.qcow2"
	qemu-img create -q -f qcow2 ${1:+-o "$1"} "${@:3}" "$tmp/a.qcow2" "$2" >"$tmp/qemu-img" 2>&1 ||
		fail "qemu-img create $*: $(cat "$tmp/qemu-img")"
	model
}

# The model of what $tmp/a.qcow2 holds now, as QEMU reads it.
model()
{
	qemu-img convert -f qcow2 -O raw "$tmp/a.qcow2" "$tmp/model"
}

# clean IMAGE: no error and no leak.
clean()
{
	qemu-img check -f qcow2 "$1" >"$tmp/check" 2>&1 ||
		fail "$what: qemu-img check: $(cat "$tmp/check")"
}

# agrees: the image holds what the model says, for QEMU, and its tables are right.
agrees()
{
	clean "$tmp/a.qcow2"
	qemu-img compare -q -f qcow2 -F raw "$tmp/a.qcow2" "$tmp/model" ||
		fail "$what: QEMU reads something else"
}

# attack WHAT ARG...: random operations on $tmp/a.qcow2, and what QEMU thinks of it afterwards.
attack()
{
	what=$1
	"$random" "${@:2}" "qcow2${attack_options:-}:$tmp/a.qcow2" "$tmp/model" || fail "$what"
	agrees
}
