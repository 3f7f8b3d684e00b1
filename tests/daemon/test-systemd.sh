#!/bin/bash
# The unit is one that systemd takes, exposes little, and runs a program with options that exist; the files for
# users and directories are read without complaint.
. "${srcdir:-.}/functions.sh"

require systemd-analyze --version

unit=$tmp/ringdiskd.service
make -s -C "$top_builddir/etc" ringdiskd.service
[ "$(grep -c '^ExecStart=!/' "$top_builddir/etc/ringdiskd.service")" = 1 ] || fail "no ExecStart"

# systemd wants the program at its place: a copy of the unit names the one that was built.
sed "s,^ExecStart=!/[^ ]*,ExecStart=!$(realpath "$ringdiskd")," "$top_builddir/etc/ringdiskd.service" >"$unit"
systemd-analyze verify --man=no "$unit" >"$tmp/out" 2>&1 || fail "systemd-analyze verify: $(cat "$tmp/out")"
! grep -F "$unit" "$tmp/out" || fail "systemd-analyze verify complains"

if systemd-analyze --help | grep -e --offline >/dev/null; then
	# Exposure 3.0 or more is a failure.
	systemd-analyze security --offline=true --no-pager --threshold=29 "$unit" >"$tmp/out" 2>&1 ||
		fail "too much exposure: $(cat "$tmp/out")"
	grep 'Overall exposure' "$tmp/out"
fi

# What the unit starts takes its options.
options=$(sed -n 's,^ExecStart=!/[^ ]*,,p' "$unit")
# The package makes the user.
getent passwd ringdisk >/dev/null || options=${options/--user=ringdisk/}
# shellcheck disable=SC2086
"$ringdiskd" $options --config="$top_srcdir/man/ringdisk.conf.example" --check-config

# What must be in it, whatever else changes; tests/systemd shows why. Without User= all in the runtime directory is given
# to root at each start, and without + the signal is not permitted.
for line in Type=notify User=ringdisk RuntimeDirectory=ringdisk RuntimeDirectoryPreserve=yes KillMode=mixed \
	'ExecReload=+/bin/kill -HUP $MAINPID'; do
	grep -qxF "$line" "$unit" || fail "the unit lacks $line"
done
! grep '^RestrictSUIDSGID' "$unit" || fail "the unit takes openat2() away"
grep '^SystemCallFilter=' "$unit" | grep landlock_create_ruleset | grep landlock_add_rule | grep -q landlock_restrict_self ||
	fail "the unit takes Landlock away"

if systemd-sysusers --version >/dev/null 2>&1; then
	mkdir -p "$tmp/root/etc"
	systemd-sysusers --root="$tmp/root" "$top_srcdir/etc/ringdisk.sysusers" >"$tmp/out" 2>&1 ||
		fail "systemd-sysusers: $(cat "$tmp/out")"
	grep -q '^ringdisk:' "$tmp/root/etc/passwd" || fail "no user ringdisk: $(cat "$tmp/out")"
fi
