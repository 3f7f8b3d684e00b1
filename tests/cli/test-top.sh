#!/bin/bash
# ringdisk top on a terminal of 80 by 24 (a small VT100 in Python): a disk with its rates, sorting, help, another size,
# no disks, a daemon that goes and comes back, and the terminal as it was at the end.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

start()
{
	rm -f "$sock" "$tmp/hyp"
	start_daemon --redo-dir="$tmp/redo"
}

guests()
{
	"$bench" --connect="$tmp/hyp" --no-progress -t 600 -q 4 -j mix:rw=90 5/xvda "qcow2:$tmp/a.qcow2" \
		>"$tmp/bench" 2>&1 &
	cleanup stop $! KILL
	"$bench" --connect="$tmp/hyp" --no-progress -t 600 -j randwrite 12/xvdb "raw,iops=50:$tmp/b.img" \
		>"$tmp/bench2" 2>&1 &
	cleanup stop $! KILL
	wait_for 20 connected 5/xvda
	wait_for 20 connected 12/xvdb
}

"$rimg" create --driver-dir="$drivers" "qcow2:$tmp/a.qcow2" 64M >/dev/null
truncate -s 16M "$tmp/b.img"
start

cat >"$tmp/terminal.py" <<'END'
import fcntl, os, pty, re, select, signal, struct, subprocess, sys, termios, time

PATIENCE = 120 if os.environ.get("SANITIZE") else 30

class Terminal:
    """As much of a VT100 as ncurses uses."""

    def __init__(self, argv, lines=24, columns=80):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ["TERM"] = "vt100"
            os.environ.pop("LINES", None)
            os.environ.pop("COLUMNS", None)
            time.sleep(0.2)
            os.execv(argv[0], argv)
        self.rest, self.text = "", ""
        self.resize(lines, columns)

    def resize(self, lines, columns):
        self.lines, self.columns = lines, columns
        self.cells = [[" "] * columns for _ in range(lines)]
        self.y = self.x = 0
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def put(self, char):
        if self.x >= self.columns:
            self.x, self.y = 0, min(self.y + 1, self.lines - 1)
        self.cells[self.y][self.x] = char
        self.x += 1

    def erase(self, y, start, end):
        self.cells[y][start:end] = [" "] * (end - start)

    def control(self, args, letter):
        n = [int(a) if a.isdigit() else 0 for a in args.split(";")]
        count = max(n[0], 1)
        if letter == "H":
            self.y = min(count, self.lines) - 1
            self.x = min(max(n[1] if len(n) > 1 else 1, 1), self.columns) - 1
        elif letter == "A":
            self.y = max(self.y - count, 0)
        elif letter == "B":
            self.y = min(self.y + count, self.lines - 1)
        elif letter == "C":
            self.x = min(self.x + count, self.columns - 1)
        elif letter == "D":
            self.x = max(min(self.x, self.columns - 1) - count, 0)
        elif letter == "K":
            self.erase(self.y, *((self.x, self.columns), (0, self.x + 1), (0, self.columns))[n[0]])
        elif letter == "J":
            if n[0] == 0:
                self.erase(self.y, self.x, self.columns)
            for y in range(self.lines):
                if n[0] == 2 or (n[0] == 0 and y > self.y) or (n[0] == 1 and y < self.y):
                    self.erase(y, 0, self.columns)
            if n[0] == 1:
                self.erase(self.y, 0, self.x + 1)
        elif letter not in "mhlr":
            raise Exception(f"CSI {args} {letter}")

    def feed(self, text):
        self.text += text
        text = self.rest + text
        self.rest = ""
        at = 0
        while at < len(text):
            char = text[at]
            if char == "\x1b":
                match = re.match(r"\x1b(?:\[([0-9;?]*)([A-Za-z])|[()].|[=>78DM])", text[at:])
                if not match:
                    self.rest = text[at:]
                    return
                if match[2]:
                    self.control(match[1].lstrip("?"), match[2])
                at += match.end()
                continue
            if char == "\r":
                self.x = 0
            elif char == "\n":
                self.y = min(self.y + 1, self.lines - 1)
            elif char == "\b":
                self.x = max(min(self.x, self.columns - 1) - 1, 0)
            elif char >= " ":
                self.put(char)
            at += 1

    def read(self, seconds):
        ready, _, _ = select.select([self.fd], [], [], seconds)
        try:
            data = os.read(self.fd, 65536) if ready else b""
        except OSError:
            return False
        self.feed(data.decode("ascii"))
        return True

    def screen(self):
        return ["".join(line).rstrip() for line in self.cells]

    def wait(self, what, test):
        """Until the screen is as it should be."""
        end = time.monotonic() + PATIENCE
        while not test(self.screen()):
            if time.monotonic() > end or not self.read(0.1):
                sys.exit(f"never: {what}; the screen:\n" + "\n".join(self.screen()))
        print(f"-- {what}")
        print("\n".join(line for line in self.screen() if line))

    def press(self, keys):
        os.write(self.fd, keys.encode())

    def end(self, keys):
        if keys:
            self.press(keys)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.read(0.1):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

def row(screen, disk):
    return next((line for line in screen if line.startswith(disk + " ")), "")

def order(screen, *disks):
    at = [next((i for i, line in enumerate(screen) if line.startswith(disk + " ")), -1) for disk in disks]
    return -1 not in at and at == sorted(at)
END

cat >"$tmp/first.py" <<'END'
from terminal import *

ringdisk, sock, wanted = sys.argv[1:4]
t = Terminal([ringdisk, "top", "-s", sock, "--delay", "0.3"])
t.wait("no disks", lambda s: any("no disks are served" in line for line in s))
open(wanted, "w").close()

# DISK STATE R/s W/s READ/s WRITE/s QD 50% 99% CACHE
reader = re.compile(r"5/xvda +connected +([1-9]\d*) +[1-9]\d* +[0-9.]+[KMG] +[0-9.]+[BKMG] +[0-4] +[0-9.]+[mun]?s +[0-9.]+[mun]?s +\d+%$")
writer = re.compile(r"12/xvdb +connected +0 +([1-9]\d*) +0B +[0-9.]+[KM] +\d+ +[0-9.]+[mun]?s +[0-9.]+[mun]?s +-$")
t.wait("both at work", lambda s: reader.match(row(s, "5/xvda")) and writer.match(row(s, "12/xvdb")))
screen = t.screen()
assert screen[0].startswith("ringdisk top") and "2 disks" in screen[0], screen[0]
assert re.match(r"all: \d+ reads/s, .*; \d+ writes/s, .* in flight", screen[1]), screen[1]
assert screen[2].split() == "DISK STATE R/s W/s READ/s WRITE/s QD 50% 99% CACHE".split(), screen[2]
assert screen[23].startswith("q quit"), screen[23]
assert max(map(len, screen)) <= 80
limited = int(writer.match(row(screen, "12/xvdb"))[1])
assert limited <= 200, limited

assert order(screen, "5/xvda", "12/xvdb")
t.press("l")
t.wait("sorted by time", lambda s: order(s, "12/xvdb", "5/xvda"))
t.press("r")
t.wait("sorted by reads", lambda s: order(s, "5/xvda", "12/xvdb"))
t.press("i")
t.wait("the other way round", lambda s: order(s, "12/xvdb", "5/xvda"))
t.press("h")
t.wait("help", lambda s: any("requests in flight" in line for line in s) and not row(s, "5/xvda"))
t.press("hd")
t.wait("no help", lambda s: row(s, "5/xvda"))

# Wide: the image, too. Narrow and low: what fits.
t.resize(24, 140)
t.wait("wide", lambda s: "qcow2:" in row(s, "5/xvda"))
t.resize(6, 40)
t.wait("small", lambda s: row(s, "5/xvda") and max(map(len, s)) <= 40)
t.resize(24, 80)
t.wait("as before", lambda s: reader.match(row(s, "5/xvda")))

# The daemon goes.
open(wanted + ".kill", "w").close()
t.wait("no daemon", lambda s: any("waiting for the daemon" in line for line in s) and not row(s, "5/xvda"))
open(wanted + ".again", "w").close()
t.wait("the daemon is back", lambda s: reader.match(row(s, "5/xvda")))
before = t.text
assert t.end("q") == 0
# Left as it should: the cursor on the last line, no more attributes, keypad off.
assert t.text[len(before) - 200:].rstrip().endswith("\x1b[?1l\x1b>"), repr(t.text[-60:])

# What ^C does; and one disk only.
t = Terminal([ringdisk, "top", "-s", sock, "-d", "0.3", "--sort", "p99", "12/xvdb"])
t.wait("one disk", lambda s: writer.match(row(s, "12/xvdb")) and "1 disk " in s[0] + " ")
assert not row(t.screen(), "5/xvda")
assert t.end("\x03") == 0
t = Terminal([ringdisk, "top", "-s", sock, "-d", "0.3", "--count", "2"])
assert t.end("") == 0
assert row(t.screen(), "5/xvda"), t.screen()
END

python3 "$tmp/first.py" "$ringdisk" "$sock" "$tmp/want" >"$tmp/top.log" 2>&1 &
watcher=$!
cleanup stop "$watcher" KILL

# It has come so far, or has failed.
reached()
{
	[ -e "$tmp/$1" ] || ! kill -0 "$watcher"
}

wait_for 60 reached want
guests
wait_for 150 reached want.kill
stop "$daemon" KILL
wait_for 60 reached want.again
start
guests
wait "$watcher" || fail "on a terminal: $(cat "$tmp/top.log")"
cat "$tmp/top.log"

# Where there is no terminal, it says what to do.
ctl 2 top
says err "stats --watch"
ctl 2 top --json
says err "stats --watch"
ctl 2 top --delay 0
ctl 2 top --sort speed
