# shellcheck shell=bash
# For the tests of ringdisk-img: source it after ../functions.sh.
# shellcheck disable=SC2154

. "$srcdir/cli/functions.sh"

# img STATUS VERB ARG...: run it, expect that exit status; its output is in $tmp/out and $tmp/err.
img()
{
	exits "$1" timeout 120 "$rimg" --driver-dir "$drivers" "${@:2}"
}

# fill FILE OFFSET LENGTH: random bytes, in KiB.
fill()
{
	dd if=/dev/urandom of="$1" bs=1024 seek="$2" count="$3" conv=notrunc status=none
}

# json EXPRESSION: of what was printed, as d.
json()
{
	python3 -c 'import json, sys
d = json.load(sys.stdin)
sys.exit(0 if eval(sys.argv[1]) else 1)' "$1" <"$tmp/out" || {
		cat "$tmp/out" >&2
		fail "not true: $1"
	}
}

# stored FILE: how many bytes of it are on the disk.
stored()
{
	echo $(($(stat -c '%b * %B' "$1")))
}
