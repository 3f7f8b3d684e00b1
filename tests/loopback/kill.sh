# shellcheck shell=bash
# For tests that kill the daemon under a guest that writes: source it after ../functions.sh.
# shellcheck disable=SC2154

rounds=${KILL_ROUNDS:-8}
seed=${KILL_SEED:-$RANDOM}

# killed DIR PARAMS CHECK: rounds of killer.c; CHECK is the command that looks at the image.
killed()
{
	local dir=$1 status=0
	mkdir "$dir/redo"
	"$top_builddir/tests/loopback/killer" "$rounds" "$seed" "$dir" "$2" "$3 >'$dir/check' 2>&1" \
		"$ringdiskd" --foreground --hyp=loopback --loopback-socket="$dir/hyp" \
		--control-socket="$dir/ctl" --redo-dir="$dir/redo" --driver-dir="$drivers" \
		--log-level=warn --pid-file="$dir/pid" >"$dir/out" 2>&1 || status=$?
	[ $status = 0 ] || {
		cat "$dir/out" "$dir/check"
		tail -5 "$dir/log"
		fail "$2"
	}
	same "redo logs after a clean close" "" "$(ls "$dir/redo")"
	cat "$dir/out"
}
