# shellcheck shell=dash
# hotplug - xl attaches a disk to a running guest and detaches it, again and again; what the guest wrote is kept.

ROUNDS=3

dom0_side() {
	local a b i
	a=$(image a 16M)
	b=$(image b 24M)
	guest_start g "" "$(disk xvda "$a")"
	guest_wait g 120 ready
	for i in $(seq $ROUNDS); do
		note "round $i"
		# shellcheck disable=SC2046 # one argument a setting
		xl block-attach g $(disk xvdb "$b" | tr ',' ' ') || fail "xl block-attach in round $i"
		guest_wait g 60 "used $i"
		xl block-list g
		xl block-detach g xvdb || fail "xl block-detach in round $i"
		guest_wait g 60 "gone $i"
	done
	guest_end g 60
	b=$(raw_of "$b")
	for i in $(seq $ROUNDS); do
		[ "$(dd if="$b" bs=1M skip="$i" count=1 2>/dev/null | head -c 8)" = "round $i!" ] ||
			fail "what the guest wrote in round $i is not in the image"
	done
}

# mark ROUND: a megabyte of lines in the disk's megabyte of that number.
mark() {
	yes "round $1!" | head -c 1048576 | dd of=/dev/xvdb bs=1M seek="$1" iflag=fullblock oflag=direct
}

guest_side() {
	local i
	await 30 disk_there xvda
	say ready
	for i in $(seq $ROUNDS); do
		await 60 disk_there xvdb
		same "sectors of xvdb" 49152 "$(cat /sys/block/xvdb/size)"
		must mark "$i"
		[ "$i" = 1 ] || same "what was written before" "round $((i - 1))!" \
			"$(dd if=/dev/xvdb bs=1M skip=$((i - 1)) count=1 2>/dev/null | head -n 1)"
		say "used $i"
		await 60 disk_gone xvdb
		say "gone $i"
	done
}
