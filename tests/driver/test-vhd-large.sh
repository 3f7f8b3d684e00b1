#!/bin/bash
# A disk of 2040 GiB with all of its million blocks, in order and in any order: opened in little time and memory, for
# writing, too; one overlap among all of them is found, and places that are free are used.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

require python3 --version
disk=$tmp/a.vhd
# blocks HOW: the file has a place for each block and one more.
blocks()
{
	rm -f "$disk"
	create "vhd:$disk" 2040G
	python3 - "$disk" "$1" <<'END'
import os, random, struct, sys
with open(sys.argv[1], 'r+b') as f:
    f.seek(512 + 16)
    table = struct.unpack('>Q', f.read(8))[0]
    f.seek(512 + 28)
    n = struct.unpack('>I', f.read(4))[0]
    f.seek(0)
    footer = f.read(512)
    first = (table + n * 4 + (1 << 20)) // 4096 * 8 + 7
    entries = [first + i * 4104 for i in range(n + 1)]
    del entries[n // 2]
    if sys.argv[2] == 'shuffled':
        random.Random(1).shuffle(entries)
    if sys.argv[2] == 'overlap':
        entries[1000] = entries[900] + 4096
    f.seek(table)
    f.write(struct.pack('>%dI' % n, *entries))
    end = (first + n * 4104 + 4104) * 512
    os.truncate(sys.argv[1], end + 512)
    f.seek(end)
    f.write(footer)
END
}

# cost ARG...: the least processor time in ms, and the most memory in KiB, of img with these arguments.
cost()
{
	python3 - "$img" "$@" <<'END'
import os, resource, subprocess, sys
best = 1e9
for i in range(5):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
print(int(best * 1000), after.ru_maxrss)
END
}

truncate -s 1M "$tmp/raw"
read -r base_ms base_kib <<<"$(cost "raw:$tmp/raw" info)"
for how in in-order shuffled; do
	blocks "$how"
	for options in "-r vhd" vhd; do
		read -ra words <<<"$options"
		read -r ms kib <<<"$(cost "${words[@]:0:${#words[@]}-1}" "${words[-1]}:$disk" info)"
		echo "$how, ${options}: $((ms - base_ms)) ms, at most $kib KiB"
		# Sanitizers have their own idea of time and memory.
		[ -z "${SANITIZE:-}" ] || continue
		[ "$((ms - base_ms))" -lt 100 ] || fail "opening takes $((ms - base_ms)) ms"
		# The shell of it, python, may have more.
		[ "$kib" -lt 16384 ] || [ "$kib" -lt $((base_kib + 1024)) ] || fail "opening takes $kib KiB"
	done
	# All of them are holes, and no bit is set.
	start=$(date +%s)
	"$img" -r "vhd:$disk" check no | grep "^errors 0 leaks 0 " >/dev/null || fail "$how: check"
	[ -n "${SANITIZE:-}" ] || [ $(($(date +%s) - start)) -le 10 ] || fail "check takes $(($(date +%s) - start)) s"
	# The last block that the guest gives back and takes again, and the place that was free before.
	size=$(stat -c %s "$disk")
	"$img" "vhd:$disk" discard 0 $((2 << 20)) write 0 4096 3 flush read 0 4096 3 read 4096 4096 0
	[ "$(stat -c %s "$disk")" -le "$size" ] || fail "$how: the file has grown"
done
blocks overlap
says "3 entries of the table of blocks are impossible" "$img" "vhd:$disk" info
