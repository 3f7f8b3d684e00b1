#!/bin/bash
# ringdisk(8) has every verb and option that --help has, and no other; ringdisk-protocol(7) has every method,
# parameter and error that the daemon has; and both pages are well-formed.
. "${srcdir:-.}/functions.sh"

page=$top_srcdir/man/ringdisk.8
protocol=$top_srcdir/man/ringdisk-protocol.7

"$ringdisk" --help >"$tmp/help"
sed -n '/^Verbs/,/^$/s/^  \([a-z-]*\) .*/\1/p' "$tmp/help" | sort >"$tmp/verbs.help"
sed -n '/^\.Sh VERBS/,/^\.Sh EXIT/s/^\.It Cm \([a-z-]*\).*/\1/p' "$page" | sort >"$tmp/verbs.page"
[ "$(wc -l <"$tmp/verbs.help")" -gt 5 ] || fail "no verbs in --help"
diff "$tmp/verbs.help" "$tmp/verbs.page" || fail "verbs of --help (<) and of ringdisk(8) (>) differ"

while read -r verb; do
	"$ringdisk" "$verb" --help
done <"$tmp/verbs.help" >>"$tmp/help"
sed -n 's/^  \(-\([a-zA-Z]\),\)\? *--\([a-z-]*\).*/\2 \3/p' "$tmp/help" | sort -u >"$tmp/options.help"
sed -n 's/^\.It Fl \([a-zA-Z]\).*, Fl -\([a-z-]*\).*/\1 \2/p' "$page" | sort -u >"$tmp/options.page"
[ "$(wc -l <"$tmp/options.help")" -gt 5 ] || fail "no options in --help"
diff "$tmp/options.help" "$tmp/options.page" || fail "options of --help (<) and of ringdisk(8) (>) differ"

# Exit statuses: "0 done, 1 failed, ..." and ".It 0".
"$ringdisk" --help | sed -n '/^Exit status/,$p' | tr -cs '0-9' '\n' | grep . | sort -u >"$tmp/status.help"
sed -n '/^\.Sh EXIT/,/^\.El/s/^\.It \([0-9]\)$/\1/p' "$page" | sort -u >"$tmp/status.page"
diff "$tmp/status.help" "$tmp/status.page" || fail "exit statuses of --help (<) and of ringdisk(8) (>) differ"

# What the daemon says of itself.
mkfifo "$tmp/stdin"
"$top_builddir/tests/unit/fake-daemon" "$tmp/sock" <"$tmp/stdin" >"$tmp/out" 2>"$tmp/log" &
cleanup stop $!
exec 9>"$tmp/stdin"
wait_for 10 grep -q ready "$tmp/out"
python3 - "$tmp/sock" "$protocol" <<'END' || fail "ringdisk-protocol(7) differs from rpc.discover"
import json, re, socket, sys

s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
f = s.makefile("rw", encoding="utf-8")
print(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "rpc.discover"}), file=f, flush=True)
said = json.loads(f.readline())["result"]
page = open(sys.argv[2], encoding="utf-8").read()
methods = page.split(".Ss Methods")[1].split(".Ss Errors")[0]
entries = dict(re.findall(r"^\.It Li (\S+)\n(.*?)(?=^\.It Li|^\.El)", methods, re.S | re.M))
wrong = 0

def complain(text):
    global wrong
    wrong = 1
    print(text, file=sys.stderr)

for name in entries.keys() ^ {method["name"] for method in said["methods"]}:
    complain(f"method {name}")
for method in said["methods"]:
    entry = entries.get(method["name"], "")
    if method["privileged"] != entry.startswith("Privileged."):
        complain(f"privilege of {method['name']}")
    takes = entry.split("Result:")[0]
    words = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"^\.Li (.*)", takes, re.M))))
    for param in method["params"]:
        if param["name"] not in words:
            complain(f"parameter {param['name']} of {method['name']}")
    if not method["params"] and "No parameters." not in entry:
        complain(f"{method['name']} has no parameters")
there = set(re.findall(r"^\.It \\-(\d+) Ta (\S+)", page, re.M))
for error in there ^ {(str(-error["code"]), error["what"]) for error in said["errors"]}:
    complain(f"error {error}")
sys.exit(wrong)
END

if command -v mandoc >/dev/null; then
	# What is not installed is no fault of the page.
	mandoc -Tlint "$page" "$protocol" 2>&1 | grep -Ev 'referenced manual not found|mandoc.db' >"$tmp/lint" || true
	[ ! -s "$tmp/lint" ] || {
		cat "$tmp/lint"
		fail "mandoc -Tlint complains"
	}
fi
