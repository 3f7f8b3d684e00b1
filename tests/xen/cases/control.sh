# shellcheck shell=dash
# control - ringdisk's own commands on a guest that runs: list, stats, pause, unpause, attach and detach by hand.

dom0_side() {
	local img extra domid before
	only_backend ringdisk
	img=$(image control 32M)
	extra=$(image extra 16M)
	guest_start g "" "$(disk xvda "$img")"
	guest_wait g 120 ready
	domid=$(xl domid g)
	ringdisk list
	ringdisk list --json | grep -q "\"$domid/xvda\"" || fail "ringdisk list has no $domid/xvda"

	ringdisk pause "$domid/xvda" || fail "ringdisk pause"
	before=$(checksum "$img")
	guest_go g
	guest_wait g 60 writing
	# The guest sees its first write held: it says so after looking several times.
	guest_wait g 60 held
	[ "$(checksum "$img")" = "$before" ] || fail "a paused disk has written into its image"
	ringdisk unpause "$domid/xvda" || fail "ringdisk unpause"
	guest_wait g 60 written
	[ "$(checksum "$img")" != "$before" ] || fail "after unpause the image is as it was"
	ringdisk stats "$domid/xvda" || fail "ringdisk stats"

	ringdisk attach "$domid" xvdb "$(format_of "$extra"):$extra" || fail "ringdisk attach"
	guest_wait g 60 "extra used"
	ringdisk detach "$domid/xvdb" || fail "ringdisk detach"
	guest_end g 60
	[ "$(head -c 5 "$(raw_of "$extra")")" = extra ] || fail "what was written to the disk attached by hand is not in its image"
}

guest_side() {
	await 30 disk_there xvda
	sync_with_dom0 ready
	say writing
	dd if=/dev/urandom of=/dev/xvda bs=1M count=1 oflag=direct 2>/dev/null &
	writer=$!
	await 20 in_flight
	must kill -0 "$writer"
	say held
	wait "$writer" || not_ok "the write that was held has failed"
	say written
	await 30 disk_there xvdb
	yes extra | head -c 4096 | dd of=/dev/xvdb bs=4096 oflag=direct 2>/dev/null ||
		not_ok "cannot write to the disk attached by hand"
	say "extra used"
	await 60 disk_gone xvdb
}

# Requests that blkfront has given away and not got back.
in_flight() {
	awk '{ exit !($2 > 0) }' /sys/block/xvda/inflight
}
