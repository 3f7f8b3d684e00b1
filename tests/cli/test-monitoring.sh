#!/bin/bash
# What tools/monitoring asks Prometheus for is what the daemon has: each metric and label in the alert rules and in the
# dashboard is in the metrics of a daemon with a disk, and each alert is spoken of in its test. With promtool
# (prometheus): it takes the textfile without complaint, and each alert comes when it should and not before.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

start_daemon
truncate -s 4M "$tmp/a.img"
"$bench" --connect="$tmp/hyp" --no-progress -j mix:rw=50:time=600 5/xvda "raw,iops=400:$tmp/a.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" KILL
has_done()
{
	"$ringdisk" -s "$sock" stats 5/xvda --json | grep -q '"p50": [0-9]'
}
wait_for 20 has_done
ctl 0 metrics --textfile "$tmp/metrics.prom"

monitoring=$top_srcdir/tools/monitoring
python3 - "$tmp/metrics.prom" "$monitoring" "$srcdir/cli/alerts.yml" <<'END' || fail "tools/monitoring"
import json, re, sys
# Prometheus adds these to all that it reads; the dashboard and the rules may use them.
OF_TARGET = {"instance", "job"}
FUNCTIONS = {"by", "without", "on", "ignoring", "and", "or", "sum", "rate", "histogram_quantile", "label_values"}
there = {}
for line in open(sys.argv[1]):
    if m := re.match(r"([a-z_]+)\{(.*)\} \S+$", line):
        there.setdefault(m[1], set()).update(re.findall(r'([a-z_]+)="', m[2]))
rules = open(sys.argv[2] + "/alerts.yml").read()
board = json.load(open(sys.argv[2] + "/grafana.json"))
variables = {v["name"] for v in board["templating"]["list"]}
exprs = re.findall(r"^ +expr: (.*)$", rules, re.M)
alerts = re.findall(r"^ +- alert: (.*)$", rules, re.M)
assert len(exprs) == len(alerts) == len(set(alerts)) > 5
legends = []
for panel in board["panels"]:
    for target in panel["targets"]:
        exprs.append(target["expr"])
        legends.append((target["expr"], target["legendFormat"]))
exprs += [v["query"]["query"] for v in board["templating"]["list"]]
for expr in exprs:
    grouped = r"(?:by|without|on|ignoring) \(([^)]*)\)"
    metrics = set(re.findall(r"\bringdisk_\w+", re.sub(r"\{[^}]*\}", "", re.sub(grouped, "", expr))))
    assert metrics and metrics <= there.keys(), (expr, metrics - there.keys())
    known = set().union(*(there[m] for m in metrics)) | OF_TARGET
    for name, selector in re.findall(r"(ringdisk_\w+)\{([^}]*)\}", expr):
        used = set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", selector))
        assert used <= there[name] | OF_TARGET, (expr, name, used)
    for group in re.findall(grouped, expr):
        assert set(group.split(", ")) <= known, (expr, group)
    assert set(re.findall(r"\$(\w+)", expr)) <= variables | {"__rate_interval"}, expr
    words = set(re.findall(r"\b([a-z]\w*) ?\(", expr))
    assert words <= FUNCTIONS, (expr, words - FUNCTIONS)
for expr, legend in legends:
    metrics = set(re.findall(r"\bringdisk_\w+(?=\{)", expr))
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= set().union(*(there[m] for m in metrics)) | OF_TARGET, (expr, legend)
# What one host has must not hide what another of the same disk name has.
assert not [e for e in exprs if re.search(r"\b(by|on) \((?!instance)", e)], "merges hosts"
tested = set(re.findall(r'alertname="(\w+)"', open(sys.argv[3]).read()))
assert tested == set(alerts), tested ^ set(alerts)
END

command -v promtool >/dev/null || {
	echo "no promtool here: the alerts have not been tried"
	exit 0
}
promtool check metrics <"$tmp/metrics.prom" || fail "promtool check metrics"
promtool check rules "$monitoring/alerts.yml" || fail "promtool check rules"
cp "$monitoring/alerts.yml" "$tmp/rules.yml"
cp "$srcdir/cli/alerts.yml" "$tmp/alerts-test.yml"
promtool test rules "$tmp/alerts-test.yml" || fail "promtool test rules"
stop "$guest" KILL
