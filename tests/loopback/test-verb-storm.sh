#!/bin/bash
# Several administrators do at random, all at once, what can be done to a disk whose guest works: the guests see what
# they wrote, what is set stays set, images are good, and the daemon keeps nothing. VERBS_SECONDS=600 is the long version.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

seconds=${VERBS_SECONDS:-8}
seed=${VERBS_SEED:-$RANDOM}
echo "VERBS_SEED=$seed"
printf '[defaults]\nslow = 500\n' >"$tmp/conf"
start_daemon --redo-dir="$tmp/redo" --config="$tmp/conf"

files()
{
	find "/proc/$daemon/fd" -mindepth 1 -maxdepth 1 | wc -l
}

at_most()
{
	[ "$("$1")" -le "$2" ]
}

# guest DOMAIN PARAMS [QUEUES]: one that verifies what it reads.
guests=()
guest()
{
	"$bench" --connect="$tmp/hyp" --no-progress --strict -t 3600 -q 8 -b 16k -j "verify:flush=20:jobs=${3:-1}" "$1/xvda" "$2" \
		>"$tmp/guest.$1" 2>&1 &
	guests+=($!)
	cleanup stop "$!" INT
	wait_for 20 connected "$1/xvda"
	disks+=("$1/xvda=$2")
}

before=$(files)
disks=()
truncate -s 8M "$tmp/a.img"
"$rimg" create --driver-dir="$drivers" "qcow2:$tmp/b.img" 8M >/dev/null
"$rimg" create --driver-dir="$drivers" "vhd:$tmp/c.img" 8M >/dev/null
guest 1 "raw:$tmp/a.img" 2
guest 2 "qcow2:$tmp/b.img"
guest 3 "vhd:$tmp/c.img"

python3 "$srcdir/loopback/verb-storm.py" "$sock" "$tmp" "$seconds" "$seed" "$daemon" "${disks[@]}" \
	>"$tmp/storm" 2>"$tmp/storm.err" || {
	tail -n 20 "$tmp/daemon.log" >&2
	fail "VERBS_SEED=$seed: $(tail -n 5 "$tmp/storm.err")"
}
while read -r disk _; do
	works "$disk"
done <"$tmp/storm"
for i in 1 2 3; do
	kill -INT "${guests[i - 1]}"
	wait "${guests[i - 1]}" || true
	! grep -Eqi 'error|wrong|differ|fail|mismatch' "$tmp/guest.$i" || fail "VERBS_SEED=$seed: guest $i: $(cat "$tmp/guest.$i")"
	grep -q '^verify' "$tmp/guest.$i" || fail "VERBS_SEED=$seed: guest $i did nothing: $(cat "$tmp/guest.$i")"
done
wait_for 30 at_most files "$before"
while read -r _ image; do
	case $image in raw:*) continue ;; esac
	"$rimg" check --driver-dir="$drivers" "$image" >"$tmp/check" 2>&1 || fail "VERBS_SEED=$seed: check $image: $(cat "$tmp/check")"
done <"$tmp/storm"
stop "$daemon"
! grep -E 'Sanitizer|runtime error' "$tmp/daemon.log" || fail "VERBS_SEED=$seed"
