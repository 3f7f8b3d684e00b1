#!/bin/bash
# SECURITY.md names what is there: each test, each case of a test, each source file.
. "${srcdir:-.}/functions.sh"

python3 - "$top_srcdir" <<'END' || fail "SECURITY.md names what is not there"
import fnmatch, os, re, sys

top = sys.argv[1]
text = open(os.path.join(top, "SECURITY.md"), encoding="utf-8").read()
wrong = []

def has_case(path, case, before):
    """case may be a glob, or _this: the end of the case before it, exchanged."""
    if case.startswith("_"):
        case = before[:before.rindex("_")] + case
    words = set(re.findall(r"\w+", open(path, encoding="utf-8").read()))
    return case if any(fnmatch.fnmatchcase(w, case) for w in words) else None

named = 0
for name, cases in re.findall(r"`((?:unit|loopback|hostile|fuzz|driver|source|xen)/[^`\s]+)`(?: \(([^)]*)\))?", text):
    path = os.path.join(top, "tests", name)
    named += 1
    if not os.path.exists(path):
        wrong.append(name)
        continue
    before = ""
    for case in re.findall(r"[a-z0-9_*]+(?:_[a-z0-9*]+)+|_[a-z]+(?:_[a-z]+)*", cases):
        found = has_case(path, case, before)
        if not found:
            wrong.append(f"{name}: {case}")
        before = found or before
for name in re.findall(r"`(?:core/)?([a-z0-9-]+\.[ch])`", text):
    named += 1
    if not os.path.exists(os.path.join(top, "core", name)):
        wrong.append(f"core/{name}")
print("\n".join(wrong), file=sys.stderr)
sys.exit(bool(wrong) or named < 40)
END
