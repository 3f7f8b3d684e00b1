#!/bin/bash
# The daemon has the probes that ringdisk-probes(7) tells of, with seven arguments each; the scripts use no others; and
# with all of them switched on, requests pass as before.
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
assert there == told and len(there) == 5, (there, told)
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
    assert set(re.findall(r"\barg(\d+)", text)) <= set("0123456")
    assert text.count("{") == text.count("}")
for semaphore in sorted({p[1] for p in probes}):
    print(int(semaphore, 16))
END
if command -v bpftrace >/dev/null && [ "$(id -u)" = 0 ] && [ -e /sys/kernel/btf/vmlinux ]; then
	for script in "$top_srcdir"/tools/bpftrace/*.bt; do
		sed "s,/usr/sbin/ringdiskd,$ringdiskd," "$script" >"$tmp/script.bt"
		bpftrace -d "$tmp/script.bt" >"$tmp/out" 2>&1 || fail "$script: $(tail -n 5 "$tmp/out")"
	done
fi

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
