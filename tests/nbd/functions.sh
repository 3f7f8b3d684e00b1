# shellcheck shell=bash
# For the tests of the NBD server: source it after ../functions.sh and ../cli/functions.sh.
# shellcheck disable=SC2154

# uri SOCKET [EXPORT]: SOCKET is a name in the daemon's directory.
uri()
{
	echo "nbd+unix:///${2:-}?socket=$tmp/nbd/$1"
}

# qio URI COMMAND...: all must work.
qio()
{
	local uri=$1 args=() command
	shift
	for command in "$@"; do
		args+=(-c "$command")
	done
	timeout 120 qemu-io -f raw "${args[@]}" "$uri" >"$tmp/qio" 2>&1 || fail "qemu-io: $(cat "$tmp/qio")"
	if grep -Eiq 'failed|error|mismatch' "$tmp/qio"; then
		fail "qemu-io $*: $(cat "$tmp/qio")"
	fi
}

# nbd_field DISK KEY: from `ringdisk list`.
nbd_field()
{
	"$ringdisk" -s "$sock" list --json "$1" |
		python3 -c 'import json, sys; print(json.load(sys.stdin)["disks"][0]["nbd"][sys.argv[1]])' "$2"
}

has_clients()
{
	[ "$(nbd_field "$1" clients)" = "$2" ]
}
