# shellcheck shell=bash
# For tests of qcow2: source it after ../functions.sh, and be in $tmp afterwards.
# shellcheck disable=SC2154,SC2034
export RD_DRIVERS=$drivers
poke=$(readlink -f "$top_builddir")/tests/qcow2/poke
srcdir=$(readlink -f "$srcdir")
limit=5
[ -z "${SANITIZE:-}" ] || limit=60
cd "$tmp" || exit 1

# poke ARG...: its output goes to out; status 0 or 1, never another, never too long, never too much memory.
poke()
{
	local status=0
	timeout "$limit" "$poke" "$@" >out 2>&1 || status=$?
	[ "$status" -le 1 ] || fail "poke $*: status $status: $(tail -20 out)"
	if [ -z "${SANITIZE:-}" ] && [ "$status" = 0 ]; then
		[ "$(sed -n 's/^memory //p' out)" -lt 200000 ] || fail "poke $*: $(grep memory out) KiB"
	fi
	return "$status"
}

# numbers: errors, leaks and unchecked of the check whose output is in out.
numbers()
{
	sed -n 's/^errors \([0-9]*\) leaks \([0-9]*\) unchecked \([0-9]*\) .*/\1 \2 \3/p' out
}

# judged FILE: the same by qemu-img, or nothing if it cannot check the file.
judged()
{
	local json
	json=$(timeout 60 qemu-img check -f qcow2 --output=json "$1" 2>/dev/null) || [ -n "$json" ] || return 0
	sed -n 's/.*"corruptions": *\([0-9]*\).*/e \1/p; s/.*"leaks": *\([0-9]*\).*/l \1/p
		s/.*"check-errors": *\([0-9]*\).*/u \1/p' <<<"$json" |
		awk '{ v[$1] = $2 } END { print v["e"] + 0, v["l"] + 0, v["u"] + 0 }'
}

# sound FILE: no errors and no leaks, says qemu-img.
sound()
{
	qemu-img check -q -f qcow2 "$1" >judge 2>&1 || fail "${2:-}: $1: qemu-img: $(tail -5 judge)"
}
