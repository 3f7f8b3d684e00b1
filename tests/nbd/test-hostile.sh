#!/bin/bash
# NBD clients that mean harm, or do not know what they do: none of them stops the daemon, another client, or a guest; what
# is refused is refused by the book, and nothing is left of them.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"
. "$srcdir/nbd/functions.sh"

truncate -s 16M "$tmp/raw.img"
truncate -s 1M "$tmp/ro.img"
qemu-img create -q -f qcow2 "$tmp/a.qcow2" 8G
start_daemon
ctl 0 export "raw:$tmp/raw.img" --path a
ctl 0 export "raw:$tmp/ro.img" --path ro --read-only
ctl 0 export "qcow2:$tmp/a.qcow2" --path big

cat >"$tmp/hostile.py" <<'END_PYTHON'
import os, random, socket, struct, sys, time
sys.path.insert(0, sys.argv[1])
from nbdclient import *
path, ro, big, common = (os.path.join(sys.argv[2], n) for n in ("a", "ro", "big", "sock"))
EPERM, EINVAL, ENOSPC = 1, 22, 28
MiB = 1 << 20

def closed(s):
    """The daemon ends the connection, in its own time."""
    try:
        while s.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True

def raw():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(120)
    s.connect(path)
    return s

good = Client(path)
def alive():
    good.write(8192, b"good" * 1024)
    assert good.read(8192, 4096) == b"good" * 1024
    good.flush()

# Requests that make no sense are answered, and what follows them is understood.
c = Client(path)
for command, offset, length, flags, data, expected in [
    (READ, 0, 0, 0, b"", EINVAL), (READ, 1, 512, 0, b"", EINVAL), (READ, 512, 511, 0, b"", EINVAL),
    (READ, 16 * MiB, 512, 0, b"", EINVAL), (READ, 16 * MiB - 512, 1024, 0, b"", EINVAL),
    (READ, 2**64 - 512, 512, 0, b"", EINVAL), (READ, 2**64 - 512, 1024, 0, b"", EINVAL),
    (READ, 0, MiB + 512, 0, b"", EINVAL), (READ, 0, 2**32 - 512, 0, b"", EINVAL), (READ, 0, 512, 0x8000, b"", EINVAL),
    (READ, 0, 512, 4, b"", EINVAL),
    (WRITE, 16 * MiB, 512, 0, b"x" * 512, ENOSPC), (WRITE, 1, 512, 0, b"x" * 512, EINVAL),
    (WRITE, 0, MiB + 512, 0, b"x" * (MiB + 512), EINVAL), (WRITE, 0, 512, 2, b"x" * 512, EINVAL), (WRITE, 0, 0, 0, b"", EINVAL),
    (WRITE, 2**64 - 512, 1024, 0, b"x" * 1024, ENOSPC),
    (TRIM, 0, 2**32 - 512, 0, b"", EINVAL), (TRIM, 3, 512, 0, b"", EINVAL), (ZEROES, 16 * MiB - 512, 1024, 0, b"", ENOSPC),
    (ZEROES, 0, 512, 16, b"", EINVAL), (STATUS, 0, 512, 0, b"", EINVAL), (CACHE, 0, 512, 0, b"", EINVAL),
    (77, 0, 512, 0, b"", EINVAL), (65535, 2**63, 2**32 - 1, 65535, b"", EINVAL),
]:
    assert c.request(command, offset, length, flags, data) == expected, (command, offset, length, flags)
    alive()
assert c.read(0, 512) == bytes(512)
c.disconnect()

# A read-only export does not change by anything.
c = Client(ro)
assert c.flags & 2
for command, data in (WRITE, b"x" * 512), (TRIM, b""), (ZEROES, b""):
    assert c.request(command, 0, 512, 0, data) == EPERM
c.flush()
c.disconnect()

# The same with structured replies: errors are chunks.
c = Client(path, structured=True)
c.send(READ, 1, 512)
head = c.recv(20)
assert struct.unpack(">IHH", head[:8]) == (0x668e33ef, 1, 0x8001) and struct.unpack(">I", head[16:])[0] == 6
assert struct.unpack(">IH", c.recv(6)) == (EINVAL, 0)
c.disconnect()

# Options.
c = Client(path, go=False)
for number, data, kind in [
    (7, b"", 0x80000003), (7, struct.pack(">I", 2**32 - 1), 0x80000003), (7, struct.pack(">I", 5) + b"abc", 0x80000003),
    (7, struct.pack(">IH", 0, 9), 0x80000003), (6, struct.pack(">IHH", 0, 0, 7), 0x80000003), (3, b"x", 0x80000003),
    (8, b"x", 0x80000003), (10, struct.pack(">II", 0, 0), 0x80000003), (5, b"", 0x80000001), (99, b"z" * 8192, 0x80000001),
    (7, struct.pack(">I", 4) + b"none" + struct.pack(">H", 0), 0x80000006),
    (8, b"", 1), (10, struct.pack(">II", 0, 2**32 - 1), 0x80000003), (10, struct.pack(">III", 0, 1, 2**31), 0x80000003),
    (9, struct.pack(">II", 0, 0), 4),
]:
    c.option(number, data)
    assert c.reply()[1] == kind, (number, data[:20])
assert c.reply()[1] == 1
c.option(2)
assert c.reply()[1] == 1 and closed(c.s)
# Too long, too many, not our language.
for data in struct.pack(">8sII", OPTION, 7, 8193), struct.pack(">8sII", b"IHAVENOT", 7, 0), struct.pack(">8sII", OPTION, 99, 0) * 200:
    c = Client(path, go=False)
    try:
        c.s.sendall(data)
    except OSError:
        pass
    assert closed(c.s)
s = raw()
s.sendall(struct.pack(">I", 0xffffffff))
assert closed(s)
# The old way, with and without an export of that name.
c = Client(path, go=False)
c.option(1, b"")
size, flags = struct.unpack(">QH", c.recv(10))
assert size == 16 * MiB and c.read(0, 512) == bytes(512)
c.disconnect()
c = Client(path, go=False)
c.option(1, b"x" * 300)
assert closed(c.s)
alive()

# Noise, at every step.
rng = random.Random(1)
for i in range(200):
    s = raw()
    start = [b"", struct.pack(">I", 3), struct.pack(">I", 3) + struct.pack(">8sIIIH", OPTION, 7, 6, 0, 0)][i % 3]
    noise = bytearray(rng.randbytes(rng.randrange(1, 3000)))
    if i % 3 == 1:
        noise[:8] = OPTION
        noise[8:12] = struct.pack(">I", rng.randrange(2, 12))
        noise[12:16] = struct.pack(">I", rng.randrange(200))
    elif i % 3 == 2:
        for at in range(0, len(noise) - 28, 28):
            noise[at:at + 4] = struct.pack(">I", 0x25609513)
            noise[at + 6:at + 8] = struct.pack(">H", rng.choice([READ, FLUSH, STATUS, 5, 9]))
    try:
        s.sendall(start + bytes(noise))
        if i % 2:
            s.shutdown(socket.SHUT_WR)
            closed(s)
    except OSError:
        pass
    s.close()
alive()

# A request that is cut off, data that never comes, a disconnect in the middle.
held = []
for n in 1, 27, 28, 100:
    c = Client(path)
    c.s.sendall((struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 1, 0, MiB) + bytes(100))[:n])
    held.append(c)
alive()
assert good.read(0, 512) == bytes(512)
for c in held:
    c.s.close()
# A great write that is refused is read to its end only if that is not too far.
c = Client(path)
c.send(WRITE, 0, 65 * MiB)
assert closed(c.s)

# One that asks for much and takes nothing: the others do not notice. Then it takes all.
c = Client(path)
c.s.settimeout(2)
asked = 0
try:
    for i in range(400):
        c.send(READ, 0, MiB)
        asked += 1
except socket.timeout:
    pass
alive()
c.s.settimeout(120)
for i in range(min(asked, 64)):
    assert c.answer()[1] == 0
    c.recv(MiB)
c.s.close()
alive()

# As many as may come, and more.
crowd = []
refused = False
for i in range(40):
    c = Client(path, go=False)
    try:
        c.go()
        crowd.append(c)
    except NbdError as error:
        assert error.args[0] == 2, error.args
        refused = True
assert refused and len(crowd) == 15, len(crowd)
alive()
assert Client(ro).size == MiB
for c in crowd:
    c.disconnect()
time.sleep(0.1)
silent = []
for i in range(150):
    try:
        silent.append(raw())
    except OSError:
        break
alive()
for s in silent:
    s.close()

# Long ones come in pieces; two in turn, and one whose client dies.
c = Client(big)
assert c.size == 8 << 30
c.send(ZEROES, 0, 2**32 - 65536)
c.send(TRIM, 0, 2**32 - 65536)
assert sorted(c.answer() for i in range(2)) == [(1, 0), (2, 0)]
c.send(ZEROES, 0, 2**32 - 65536, 2)
c.s.close()
alive()
good.disconnect()
print("done")
END_PYTHON
PYTHONDONTWRITEBYTECODE=1 timeout 300 python3 "$tmp/hostile.py" "$srcdir/nbd" "$tmp/nbd" >"$tmp/hostile" 2>&1 || fail "$(tail -20 "$tmp/hostile")"
grep -q 'done' "$tmp/hostile"

# Nobody is left, and memory is not either.
for disk in nbd/0 nbd/1 nbd/2; do
	wait_for 40 has_clients "$disk" 0
	ctl 0 unexport "$disk"
done
[ "$(grep -c 'client' "$tmp/daemon.log")" -lt 400 ] || fail "the log has no bounds"
same "the read-only image" "" "$(tr -d '\0' <"$tmp/ro.img")"
qemu-img check -q "$tmp/a.qcow2" || fail "qemu-img check"

# Who is neither root, nor the daemon's user, nor of its group is not served.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	ctl 0 export "raw:$tmp/raw.img" --path open
	chmod 666 "$tmp/nbd/open"
	chmod 755 "$tmp/nbd"
	cat >"$tmp/stranger.py" <<'END_PYTHON'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.settimeout(60)
try:
    sys.exit(1 if s.recv(1) else 0)
except ConnectionResetError:
    pass
END_PYTHON
	# The way to the socket is not open to everybody here: connect from inside its directory.
	python3 - "$tmp/nbd/open" "$tmp/stranger.py" <<'END_PYTHON' || fail "a stranger was served"
import os, socket, sys
os.chdir(os.path.dirname(sys.argv[1]))
code = open(sys.argv[2]).read()
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.argv = ["stranger", os.path.basename(sys.argv[1])]
exec(code)
END_PYTHON
fi
stop "$daemon"
if grep -E "ERROR: |WARNING: Thread|runtime error" "$tmp/daemon.log"; then
	fail "the daemon's log"
fi
