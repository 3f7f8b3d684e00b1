#!/bin/bash
# ringdisk metrics is OpenMetrics, as a strict reader of ours says (and prometheus_client, where it is installed), with
# the figures of stats; names with anything in them do no harm.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

truncate -s 4M "$tmp/a.img" "$tmp/b\"\\c.img"
start_daemon
ctl 0 metrics
[ "$(tail -n 1 "$tmp/out")" = "# EOF" ] || fail "no end without disks"

"$bench" --connect="$tmp/hyp" --no-progress -j mix:rw=50:time=600 5/xvda "raw,iops=400:$tmp/a.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" KILL
has_done()
{
	"$ringdisk" -s "$sock" stats 5/xvda --json | grep -q '"p50": [0-9]'
}
wait_for 20 has_done
ctl 0 attach 5 xvdb "raw:$tmp/b\"\\c.img"
ctl 0 pause 5/xvda
ctl 0 stats --json
cp "$tmp/out" "$tmp/stats"
ctl 0 metrics
python3 - "$tmp/out" "$tmp/stats" "$tmp" <<'END' || fail "the text is wrong"
import json, re, sys
text = open(sys.argv[1]).read()
stats = {d["disk"]: d for d in json.load(open(sys.argv[2]))["disks"]}
assert text.endswith("# EOF\n") and text.count("# EOF") == 1
sample = re.compile(r'^([a-z_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\} (\S+)$')
suffixes = {"counter": ("_total",), "gauge": ("",), "info": ("_info",), "stateset": ("",),
            "histogram": ("_bucket", "_count", "_sum")}
family, types, values = None, {}, {}
for line in text.splitlines()[:-1]:
    if line.startswith("# TYPE "):
        family, kind = line.split()[2:]
        assert family not in types, line
        types[family] = kind
    elif line.startswith("# UNIT "):
        assert line.split()[2] == family and family.endswith("_" + line.split()[3]), line
    elif line.startswith("# HELP "):
        assert line.split()[2] == family
    else:
        m = sample.match(line)
        assert m, line
        assert m[1] in [family + s for s in suffixes[types[family]]], line
        labels = dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', m[2]))
        key = (m[1], tuple(sorted(labels.items())))
        assert key not in values, line
        values[key] = float(m[3])
def value(name, **labels):
    return values[name, tuple(sorted(labels.items()))]
for disk, d in stats.items():
    for op in "read", "write", "flush", "discard":
        assert value("ringdisk_requests_total", disk=disk, op=op) == d[op]["done"]
        assert value("ringdisk_data_bytes_total", disk=disk, op=op) == d[op]["bytes"]
        buckets = [(float(dict(k[1])["le"]), v) for k, v in values.items() if k[0].endswith("_bucket")
                   and dict(k[1])["disk"] == disk and dict(k[1])["op"] == op]
        assert [b[0] for b in buckets] == sorted(b[0] for b in buckets) and buckets[-1][0] == float("inf")
        assert [b[1] for b in buckets] == sorted(b[1] for b in buckets) and buckets[-1][1] == d[op]["done"]
assert value("ringdisk_state", disk="5/xvda", ringdisk_state="paused") == 1
assert value("ringdisk_state", disk="5/xvda", ringdisk_state="connected") == 0
assert value("ringdisk_size_bytes", disk="5/xvda") == 4 << 20
params = "raw:" + sys.argv[3] + '/b\\"\\\\c.img'
assert value("ringdisk_disk_info", disk="5/xvdb", domid="5", driver="raw", params=params) == 1
try:
    from prometheus_client.openmetrics import parser
except ImportError:
    sys.exit(0)
names = {f.name for f in parser.text_string_to_metric_families(text)}
assert {"ringdisk_requests", "ringdisk_request_duration_seconds", "ringdisk_state"} <= names, names
END
stop "$guest" KILL
