#!/bin/bash
# The textfile is what Prometheus' older format allows, and replaced in one step; the units for it run what is there. What
# the dashboard and the alerts ask for: cli/test-monitoring.sh.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

monitoring=$top_srcdir/tools/monitoring
start_daemon
truncate -s 4M "$tmp/a.img"
"$bench" --connect="$tmp/hyp" --no-progress -j mix:rw=50:time=600 5/xvda "raw,iops=400:$tmp/a.img" >"$tmp/bench" 2>&1 &
cleanup stop $! KILL
has_requests()
{
	more_requests 5/xvda 0
}
wait_for 20 has_requests
ctl 0 metrics
cp "$tmp/out" "$tmp/metrics"

# The textfile: no type that the collector does not know, each sample below its own family, the file whole at any time.
ctl 0 metrics --textfile "$tmp/a.prom"
[ ! -s "$tmp/out" ] || fail "with --textfile something is printed"
python3 - "$tmp/a.prom" "$tmp/metrics" <<'END' || fail "the textfile is wrong"
import re, sys
family, kinds, names = None, {}, set()
for line in open(sys.argv[1]):
    if line.startswith("# TYPE "):
        family, kind = line.split()[2:]
        assert kind in ("counter", "gauge", "histogram") and family not in kinds, line
        kinds[family] = kind
    elif line.startswith("# HELP "):
        assert line.split()[2] == family
    else:
        name = re.match(r'\w+', line)[0]
        names.add(name)
        ends = ("_bucket", "_count", "_sum") if kinds[family] == "histogram" else ("",)
        assert name in [family + e for e in ends], line
assert names == {re.match(r'\w+', l)[0] for l in open(sys.argv[2]) if l[0] != "#"}
END
same "mode" 644 "$(stat -c %a "$tmp/a.prom")"
inode=$(stat -c %i "$tmp/a.prom")
ctl 0 metrics --textfile "$tmp/a.prom"
[ "$inode" != "$(stat -c %i "$tmp/a.prom")" ] || fail "written in place"
same "files" a.prom "$(cd "$tmp" && ls -d a.prom*)"
ctl 1 metrics --textfile "$tmp/missing/a.prom"
mkdir "$tmp/dir.prom"
ctl 1 metrics --textfile "$tmp/dir.prom"
same "what a failure leaves" dir.prom "$(cd "$tmp" && ls -d dir.prom*)"

# The units run what is there.
for unit in "$monitoring"/*.service; do
	command=$(sed -n 's,^ExecStart=/usr/bin/ringdisk ,,p' "$unit")
	# shellcheck disable=SC2086
	ctl 0 $command --textfile "$tmp/b.prom"
	[ -s "$tmp/b.prom" ] || fail "$unit writes nothing"
done
if command -v systemd-analyze >/dev/null; then
	mkdir -p "$tmp/units"
	sed "s,/usr/bin/ringdisk,$ringdisk," "$monitoring/ringdisk-textfile.service" >"$tmp/units/ringdisk-textfile.service"
	cp "$monitoring/ringdisk-textfile.timer" "$tmp/units"
	systemd-analyze verify --man=no "$tmp"/units/* >"$tmp/verify" 2>&1 || {
		cat "$tmp/verify"
		grep -q 'ringdisk-textfile' "$tmp/verify" && fail "systemd-analyze verify"
	}
fi
