#!/bin/bash
# The daemon has the probes that ringdisk-probes(7) tells of, with seven arguments each; the scripts use no others;
# with all of them switched on, requests pass as before; and where bpftrace can trace, the scripts show what was served.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

[ "${HAVE_SDT:-}" = yes ] || skip "built without sys/sdt.h"
require readelf --version

python3 - "$ringdiskd" "$top_srcdir" >"$tmp/semaphores" <<'END' || fail "probes"
import re, subprocess, sys, glob
notes = subprocess.run(["readelf", "-nW", sys.argv[1]], capture_output=True, text=True, check=True).stdout
probes = re.findall(r"Provider: ringdisk\s+Name: (\w+)\s+Location: \S+ Base: \S+ Semaphore: (0x[0-9a-f]+)\s+Arguments: (.*)", notes)
there = {p[0] for p in probes}
page = open(sys.argv[2] + "/man/ringdisk-probes.7").read()
told = set(re.findall(r"^\.It Li (request_\w+)", page, re.M))
assert there == told and len(there) == 6, (there, told)
for name, semaphore, arguments in probes:
    # SIZE@WHERE; gcc may put blanks into WHERE no more than mandoc would.
    assert len(re.findall(r"-?\d@", arguments)) == 7, (name, arguments)
    assert int(semaphore, 16), name
assert len(re.findall(r"^\.It Li arg\d", page, re.M)) == 7
scripts = glob.glob(sys.argv[2] + "/tools/bpftrace/*.bt")
assert len(scripts) == 2
for script in scripts:
    text = open(script).read()
    used = set(re.findall(r"^usdt:/usr/sbin/ringdiskd:ringdisk:(\w+)$", text, re.M))
    assert used and used <= there, (script, used)
    assert set(re.findall(r"\barg(\d+)", text)) <= set("012345"), script # what bpftrace can read
    assert text.count("{") == text.count("}")
for semaphore in sorted({p[1] for p in probes}):
    print(int(semaphore, 16))
END

# traces: whether a tracer may look at programs of this machine at all.
traces()
{
	[ "$(id -u)" = 0 ] && [ -e /sys/kernel/btf/vmlinux ] && command -v bpftrace &&
		timeout 30 bpftrace -e "usdt:$ringdiskd:ringdisk:request_completed { } BEGIN { exit(); }"
}

# shown SCRIPT COMMAND ARG...: the script, on the daemon, prints what the command finds, within 30 seconds.
shown()
{
	local script=$1 tracer
	shift
	sed "s,/usr/sbin/ringdiskd,$ringdiskd,; s/interval:s:5/interval:s:1/" "$top_srcdir/tools/bpftrace/$script" >"$tmp/$script"
	bpftrace -p "$daemon" "$tmp/$script" >"$tmp/traced" 2>"$tmp/traced.err" &
	tracer=$!
	cleanup stop "$tracer" INT
	wait_for 30 "$@"
	stop "$tracer" INT
}

start_daemon
# As a tracer does: one more in each.
python3 - "$daemon" "$ringdiskd" "$tmp/semaphores" <<'END' || skip "no tracing of own processes here"
import os, sys
program = os.path.realpath(sys.argv[2])
# The first mapping is that of the file's beginning, and the program's addresses start at 0 (it is a PIE).
base = min(int(line.split("-")[0], 16) for line in open(f"/proc/{sys.argv[1]}/maps") if line.rstrip().endswith(program))
with open(f"/proc/{sys.argv[1]}/mem", "r+b", buffering=0) as memory:
    for line in open(sys.argv[3]):
        memory.seek(base + int(line))
        before = memory.read(2)
        assert before == b"\0\0", before
        memory.seek(base + int(line))
        memory.write(b"\1\0")
END
truncate -s 4M "$tmp/a.img"
"$bench" --connect="$tmp/hyp" --no-progress -j verify -c 500 5/xvda "raw:$tmp/a.img" >"$tmp/bench" 2>&1 ||
	fail "$(cat "$tmp/bench")"

traces >/dev/null 2>&1 || {
	echo "not looked at by bpftrace, which is not there or may not trace"
	exit 0
}
stop "$daemon"
"$ringdiskd" --foreground --hyp=loopback --loopback-socket="$tmp/hyp" --control-socket="$sock" \
	--driver-dir="$drivers" >"$tmp/daemon.log" 2>&1 &
daemon=$!
cleanup stop "$daemon"
wait_for 20 "$ringdisk" -s "$sock" version
"$bench" --connect="$tmp/hyp" --no-progress -j mix:rw=50:time=600 5/xvda "delay,write-ms=30:raw:$tmp/a.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" KILL
# Reads in one histogram, writes in another, at 16 to 64 milliseconds.
histograms()
{
	grep -q '^@us\[5, 51712, 0\]:' "$tmp/traced" && grep -q '^@bytes\[5, 51712, 1\]: [1-9]' "$tmp/traced" &&
		sed -n '/^@us.5, 51712, 1/,/^$/p' "$tmp/traced" | grep -qE '^\[(16K, 32K|32K, 64K)\) +[1-9]'
}
shown latency.bt histograms
# The writes, and hardly a read.
slow_ones()
{
	[ "$(grep -cE '^[0-9:]{8} +5 +51712 +1 +[0-9]+ +4096 +[3-9][0-9] +[0-9]+$' "$tmp/traced")" -ge 3 ]
}
shown slow.bt slow_ones
stop "$guest" KILL
