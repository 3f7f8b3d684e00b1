#!/bin/bash
# ringdisk-img on qcow2 that qemu-img has made: info, map, convert and compare agree with it.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/img-functions.sh"
require qemu-img --version
require qemu-io --version

# make FILE OPTIONS COMMAND...: an image, changed by qemu-io.
make()
{
	local file=$1 options=$2 command
	shift 2
	# shellcheck disable=SC2086
	qemu-img create -q -f qcow2 $options "$file" 64M
	for command; do
		qemu-io -f qcow2 -c "$command" "$file" >/dev/null
	done
}

# same_map FILE: ours and qemu-img's, but for what only we tell: holes of the file below clusters.
same_map()
{
	img 0 map --json "qcow2:$1"
	qemu-img map -f qcow2 --output=json "$1" >"$tmp/map.qemu"
	python3 - "$tmp/out" "$tmp/map.qemu" <<'END' || fail "the maps of $1 differ"
import json, sys

def runs(name):
    merged = []
    for run in json.load(open(name, encoding="ascii")):
        run.pop("compressed", None)
        if run["data"]:
            run["zero"] = False
        else:
            run.pop("offset", None)
        if not run["present"]:
            run["depth"] = None
        last = merged[-1] if merged else None
        if last and all(last[k] == run[k] for k in ("depth", "present", "zero", "data")) and \
                ("offset" in last) == ("offset" in run) and \
                ("offset" not in run or last["offset"] + last["length"] == run["offset"]):
            last["length"] += run["length"]
        else:
            merged.append(run)
    return merged

ours, theirs = (runs(name) for name in sys.argv[1:])
if ours != theirs:
    print(*ours, "---", *theirs, sep="\n")
    sys.exit(1)
END
}

# both_ways FILE: what we make of it, qemu-img finds the same; and we say so, too.
both_ways()
{
	rm -f "$tmp/x.raw"
	img 0 convert "qcow2:$1" "raw:$tmp/x.raw"
	qemu-img compare -q -f qcow2 -F raw "$1" "$tmp/x.raw"
	img 0 compare "qcow2:$1" "raw:$tmp/x.raw"
}

cd "$tmp"
commands=("write -P 1 0 1M" "write -P 2 10M 3M" "write -z 20M 1M" "write -P 3 40M 100k" "write -z -u 11M 64k"
	"write -P 4 67108352 512" "discard 12M 128k")
make plain.q "" "${commands[@]}"
make v2.q "-o compat=0.10" "${commands[@]}"
make small.q "-o cluster_size=512" "${commands[@]}"
make large.q "-o cluster_size=2M" "${commands[@]}"
make ext.q "-o extended_l2=on,cluster_size=128k" "${commands[@]}" "write -P 6 5M 4k" "write -z 5124k 4k"
make pre.q "-o preallocation=metadata" "${commands[@]}"
qemu-img create -q -f qcow2 -b plain.q -F qcow2 over.q
for command in "write -P 7 512k 64k" "write -z 10M 64k" "write -P 8 63M 1M"; do
	qemu-io -f qcow2 -c "$command" over.q >/dev/null
done
qemu-img create -q -f qcow2 -b over.q -F qcow2 longer.q 80M
qemu-io -f qcow2 -c "write -P 9 70M 1M" longer.q >/dev/null
qemu-img convert -f qcow2 -O qcow2 -c longer.q packed.q
for image in plain v2 small large ext pre over longer; do
	same_map "$tmp/$image.q"
	both_ways "$tmp/$image.q"
done
both_ways "$tmp/packed.q"

# A difference of one byte, found where it is.
qemu-io -f qcow2 -c "write -P 99 41943552 512" plain.q >/dev/null
img 1 compare "qcow2:$tmp/plain.q" "qcow2:$tmp/pre.q"
says out "Different at byte 41943552."
img 0 compare "qcow2:$tmp/pre.q" "qcow2:$tmp/small.q"

# Facts.
img 0 info --json "qcow2:$tmp/longer.q"
json "d['virtual-size'] == 80 << 20 and d['qcow2']['backing-file'] == 'over.q'"
json "d['qcow2']['version'] == 3 and d['qcow2']['cluster-size'] == 65536"
img 0 info --json --chain "qcow2:$tmp/longer.q"
json "[i['image'].split('/')[-1] for i in d] == ['longer.q', 'over.q', 'plain.q']"
img 0 info --chain "qcow2:$tmp/longer.q"
says out "backing-file: plain.q"
img 1 info "qcow2:$tmp/x.raw"

# A picture: XML, of a bounded size, with every layer in the legend.
img 0 map --svg "$tmp/map.svg" "qcow2:$tmp/longer.q"
python3 - "$tmp/map.svg" <<'END'
import sys, xml.dom.minidom
text = open(sys.argv[1], encoding="utf-8").read()
xml.dom.minidom.parseString(text)
assert len(text) < 1 << 20, len(text)
for word in ("longer.q", "over.q", "plain.q", "80 MiB"):
    assert word in text, word
END
img 0 map --svg - "qcow2:$tmp/plain.q"
says out "<svg"
