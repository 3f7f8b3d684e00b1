#!/bin/bash
# Every metric that the dashboard and the alert rules use is one that ringdisk metrics prints, with the labels that it
# has; the textfile is what Prometheus' older format allows, and replaced in one step.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

monitoring=$top_srcdir/tools/monitoring
start_daemon
truncate -s 4M "$tmp/a.img"
"$bench" --connect="$tmp/hyp" --no-progress -j mix:rw=50:time=600 5/xvda "raw,iops=400:$tmp/a.img" >"$tmp/bench" 2>&1 &
cleanup stop $! KILL
has_disk()
{
	ctl 0 metrics
	grep -q '^ringdisk_size_bytes{disk="5/xvda"}' "$tmp/out"
}
wait_for 20 has_disk
cp "$tmp/out" "$tmp/metrics"

python3 - "$tmp/metrics" "$monitoring" <<'END' || fail "tools/monitoring"
import json, re, sys
there = {}
for line in open(sys.argv[1]):
    m = re.match(r'(ringdisk_\w+)(?:\{(.*)\})? ', line)
    if m:
        there.setdefault(m[1], set()).update(re.findall(r'(\w+)="', m[2] or ""))
used = []
def take(where, expression):
    rest = expression
    for m in re.finditer(r'\b(ringdisk_\w+)\b(?:\{([^}]*)\})?(?!=)', re.sub(r'(?<=[{,])ringdisk_state=', 'STATE=', expression)):
        used.append(m[1])
        labels = {"ringdisk_state" if l == "STATE" else l for l in re.findall(r'(\w+)=', m[2] or "")}
        assert m[1] in there, f"{where}: {m[1]} does not exist"
        assert labels <= there[m[1]], f"{where}: {m[1]} has no label {labels - there[m[1]]}"
    by = re.findall(r'by \(([^)]*)\)', expression)
    labels = {l.strip() for b in by for l in b.split(",")}
    assert labels <= {"disk", "op", "le"}, f"{where}: {labels}"
board = json.load(open(sys.argv[2] + "/grafana.json"))
ids = [p["id"] for p in board["panels"]]
assert len(ids) == len(set(ids)) >= 10
for panel in board["panels"]:
    assert panel["targets"], panel["title"]
    for target in panel["targets"]:
        take(panel["title"], target["expr"])
for variable in board["templating"]["list"]:
    take(variable["name"], variable["query"]["query"])
rules = open(sys.argv[2] + "/alerts.yml").read()
alerts = re.findall(r'- alert: (\w+)\n +expr: (.*)\n', rules)
assert len(alerts) == rules.count("alert:") >= 5
for name, expression in alerts:
    take(name, expression)
assert len(used) > 20
try:
    import yaml
    parsed = yaml.safe_load(rules)["groups"][0]["rules"]
    assert all(r["annotations"]["summary"] and r["labels"]["severity"] for r in parsed)
except ImportError:
    pass
END
if command -v promtool >/dev/null; then
	promtool check rules "$monitoring/alerts.yml"
fi

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
if command -v promtool >/dev/null; then
	promtool check metrics <"$tmp/a.prom"
fi

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
