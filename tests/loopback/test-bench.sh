#!/bin/bash
# ringdisk-bench PARAMS: a daemon of its own, every kind of job, table and JSON, nothing left behind.
. "${srcdir:-.}/functions.sh"

# Its temporary directory is ours, to see that it is empty afterwards.
mkdir "$tmp/t"
export TMPDIR=$tmp/t
# A socket's path has 107 bytes at most: in a deep build tree the directory is elsewhere.
if [ ${#TMPDIR} -gt 60 ]; then
	TMPDIR=$(mktemp -d /tmp/ringdisk-test.XXXXXX) || fail "no temporary directory"
	cleanup rm -rf "$TMPDIR"
fi

truncate -s 64M "$tmp/a.img"
"$bench" --strict --no-progress -c 2000 -b 4k -q 16 \
	-j verify -j verify:jobs=2:bs=16k -j read:bs=128k:qd=4 -j write:bs=512 -j randread -j randwrite:flush=10 \
	-j mix:rw=30 -j flush:qd=2 -j discard:bs=64k "raw:$tmp/a.img" >"$tmp/table" || {
	cat "$tmp/table"
	fail "a job failed"
}
cat "$tmp/table"
same "rows of the table" 10 "$(wc -l <"$tmp/table")"
same "requests of each job" 0 "$(awk 'NR > 1 && $1 != "verify" && !/2000/' "$tmp/table" | wc -l)"

"$bench" --json --no-progress -j randread:count=500 -j mix:count=500:rw=100 null:1G >"$tmp/json"
python3 - "$tmp/json" <<'END'
import json, sys
result = json.load(open(sys.argv[1]))
assert result["bytes"] == 1 << 30, result
assert [job["job"] for job in result["jobs"]] == ["randread", "mix"], result
for job in result["jobs"]:
    assert job["requests"] == job["reads"] == 500, job
    assert job["bytes"] == 500 * 4096, job
    assert 0 < job["latency_us"]["p50"] <= job["latency_us"]["p99"] <= job["latency_us"]["max"], job
END

echo "-- what cannot be"
expect_fail "$bench" -c 10 "raw:$tmp/missing.img"
expect_fail "$bench" -c 10 "nosuchdriver:$tmp/a.img"
expect_fail "$bench" -c 10 -j randwrite --read-only "raw:$tmp/a.img"
expect_fail "$bench" -c 10 -j randread:offset=64M "raw:$tmp/a.img"
expect_fail "$bench" -c 10 --daemon=/nonexistent "raw:$tmp/a.img"
expect_fail "$bench" -c 10 --daemon=/bin/false "raw:$tmp/a.img"
for wrong in "--job=dance" "--job=read:bs=5" "--job=read:legs=2" "--bs=0" "--qd=x" "--nonsense" "--abi=arm"; do
	status=0
	"$bench" "$wrong" "raw:$tmp/a.img" 2>/dev/null || status=$?
	same "exit status of $wrong" 2 "$status"
done

echo "-- interrupted"
"$bench" --no-progress -t 60 -j randread "raw:$tmp/a.img" &
pid=$!
wait_for 20 sh -c "ls $TMPDIR/ringdisk-bench.*/loopback.sock"
stop "$pid" INT
rm -f "$tmp"/table "$tmp"/json "$tmp"/a.img
same "what is left behind" "" "$(find "$TMPDIR" -name 'ringdisk-bench.*')"
