"""verb-storm.py CONTROL-SOCKET DIRECTORY SECONDS SEED PID DISK=FORMAT:PATH...: administrators who have lost their minds.

Several of them, each with a connection and a random sequence of its own, pause, snapshot, swap, resize, check, set,
export and trace disks whose guests verify what they read. The image of a disk changes its file and its options, but
never what is in it. What must hold: each request is answered, in time; and what was set stays set, whatever others do
to the disk.
"""
import json
import os
import random
import signal
import socket
import sys
import threading
import time

PATIENCE = 120
OVERLAYS = 12


class Admin:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        self.file = self.socket.makefile("r", encoding="utf-8")
        self.number = 0

    def call(self, method, **params):
        self.number += 1
        request = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        answer = json.loads(self.file.readline())
        assert answer["id"] == self.number, answer
        return answer.get("result"), answer.get("error")


class Disk:
    def __init__(self, name, image, directory):
        self.name = name
        self.directory = directory
        self.format, self.path = image.split(":", 1)
        self.image = threading.Lock()  # of who changes the file
        self.overlays = 0
        self.setting = threading.Lock()
        self.set = {}


class Storm(threading.Thread):
    def __init__(self, number, args, disks):
        super().__init__()
        self.control, self.directory, self.end, seed, self.daemon = args
        self.random = random.Random(seed * 1000 + number)
        self.disks = disks
        self.failure = None
        self.done = {}
        self.doing = None

    def run(self):
        try:
            self.admin = Admin(self.control)
            while time.monotonic() < self.end:
                disk = self.random.choice(self.disks)
                verb = self.random.choice(self.VERBS)
                self.doing = verb.__name__, disk.name
                verb(self, disk)
        except Exception as err:  # told by main
            self.failure = f"{self.doing}: {err!r}"

    def call(self, disk, method, **params):
        result, error = self.admin.call(method, disk=disk.name, **params)
        count = self.done.setdefault(method, [0, 0])
        count[error is not None] += 1
        if error:
            print(method, disk.name, params, error["message"], file=sys.stderr)
        return result, error

    def pause(self, disk):
        self.call(disk, "pause")
        time.sleep(self.random.random() / 50)
        if self.random.random() < 0.3:
            self.random.choice([Storm.check, Storm.flush, Storm.snapshot, Storm.swap, Storm.resize])(self, disk)
        self.call(disk, "unpause")

    def unpause(self, disk):
        self.call(disk, "unpause")

    # Another file, with the same in it. Who has two of these at once could not say which is the one.
    def snapshot(self, disk):
        with disk.image:
            if disk.overlays >= OVERLAYS:
                return
            kinds = ["qcow2", "qcow2,cluster-size=4K"]
            if disk.format in ("raw", "vhd"):
                kinds.append("vhd")
            kind = self.random.choice(kinds)
            path = f"{self.directory}/{disk.name.replace('/', '-')}.{disk.overlays}"
            _, error = self.call(disk, "snapshot", overlay=f"{kind}:{path}")
            if error:
                assert not os.path.exists(path), path
                return
            disk.overlays += 1
            disk.format, disk.path = kind.split(",")[0], path

    def swap(self, disk):
        with disk.image:
            option = ""
            if disk.format == "qcow2":
                option = self.random.choice(["", ",cache-size=64K", ",cache-size=1M"])
            filters = ["", "", "delay,write-ms=1,flush-ms=5:",
                       f"error,op=write,errno=ENOSPC,when={self.directory}/full:",
                       f"error,op=read,errno=EIO,when={self.directory}/full:"]
            self.call(disk, self.random.choice(["swap", "unpause"]),
                      params=f"{self.random.choice(filters)}{disk.format}{option}:{disk.path}")

    def swap_to_nothing(self, disk):
        with disk.image:
            _, error = self.call(disk, "swap", params=f"{disk.format}:{disk.path}.missing")
            assert error
            self.call(disk, "swap", params=f"{disk.format}:{disk.path}")

    def snapshot_to_nothing(self, disk):
        with disk.image:
            _, error = self.call(disk, "snapshot", overlay=f"qcow2:{self.directory}/missing/file")
            assert error

    def resize(self, disk):
        self.call(disk, "resize", size=65536 * self.random.randrange(1, 4), relative=True)

    def resize_too_small(self, disk):
        _, error = self.call(disk, "resize", size=4096)
        assert error

    def look_at_size(self, disk):
        self.call(disk, "resize")

    def cache(self, disk):
        self.call(disk, "set", key="cache", value=self.random.choice(["none", "writeback", "unsafe"]))

    LIVE = {
        "iops": ["0", "2000", "5000"],
        "bps": ["0", "50M"],
        "iops-write": ["0", "3000"],
        "sync": ["on", "off"],
        "error-timeout": ["0", "100"],
        "max-requests": ["1", "4", "0"],
        "poll": ["adaptive", "off"],
        "slow": ["0", "10"],
    }

    # Who sets a key sees it set until he sets another.
    def set(self, disk):
        key = self.random.choice(list(self.LIVE))
        with disk.setting:
            result, error = self.call(disk, "set", key=key, value=self.random.choice(self.LIVE[key]))
            assert not error, error
            disk.set[key] = self.settings(disk)[key]["value"]
        time.sleep(self.random.random() / 50)
        self.look(disk)

    def settings(self, disk):
        result, error = self.call(disk, "list", settings=True)
        assert not error, error
        return result["disks"][0]["settings"]

    def look(self, disk):
        with disk.setting:
            now = self.settings(disk)
            for key, value in disk.set.items():
                assert now[key]["value"] == value, f"{disk.name} {key} is {now[key]}, was set to {value}"

    def check(self, disk):
        result, error = self.call(disk, "check", seconds=self.random.randrange(1, 20))
        if not error:
            assert not result["errors"], result

    def flush(self, disk):
        self.call(disk, "flush")

    def stats(self, disk):
        self.call(disk, "stats", histogram=True)

    def trace(self, disk):
        result, error = self.call(disk, "trace")
        for _ in range(3):
            if error:
                return
            result, error = self.call(disk, "trace", **{"from": result["next"]})

    def export(self, disk):
        _, error = self.call(disk, "export")
        if error:
            return
        time.sleep(self.random.random() / 50)
        self.call(disk, "unexport")

    # Those that stand on the filter that asks for this wait for somebody; others do not care.
    def full(self, disk):
        with self.FULL:
            for other in self.disks:
                self.admin.call("set", disk=other.name, key="on-error", value="pause")
            open(self.directory + "/full", "w").close()
            time.sleep(self.random.random() / 20)
            self.random.choice(self.VERBS[:-1])(self, disk)
            os.unlink(self.directory + "/full")
            for other in self.disks:
                self.call(other, "unpause")

    FULL = threading.Lock()

    def reload(self, disk):
        os.kill(self.daemon, signal.SIGHUP)

    VERBS = [pause, pause, unpause, snapshot, snapshot, swap, swap, swap, swap_to_nothing, snapshot_to_nothing,
             resize, resize_too_small, look_at_size, cache, cache, set, set, set, look, check, flush, stats, trace,
             export, reload, full]


def slow_reader(control):
    """Follows the events, and takes none."""
    reader = Admin(control)
    reader.socket.sendall(b'{"jsonrpc":"2.0","id":1,"method":"events"}\n')
    return reader


def main():
    control, directory, seconds, seed, daemon = sys.argv[1:6]
    disks = [Disk(*arg.split("=", 1), directory) for arg in sys.argv[6:]]
    args = control, directory, time.monotonic() + float(seconds), int(seed), int(daemon)
    reader = slow_reader(control)
    storms = [Storm(number, args, disks) for number in range(4)]
    for storm in storms:
        storm.start()
    for storm in storms:
        storm.join(float(seconds) + 2 * PATIENCE)
        if storm.is_alive():
            sys.exit(f"does not come back: {storm.doing}")
    failures = [storm.failure for storm in storms if storm.failure]
    if failures:
        sys.exit("\n".join(failures))
    del reader
    admin = Admin(control)
    for disk in disks:
        admin.call("swap", disk=disk.name, params=f"{disk.format}:{disk.path}")
        admin.call("unpause", disk=disk.name)
        # What else there is goes back to what is quick.
        for key, value in {"iops": "0", "bps": "0", "iops-write": "0", "sync": "off", "max-requests": "0"}.items():
            admin.call("set", disk=disk.name, key=key, value=value)
        print(f"{disk.name} {disk.format}:{disk.path}")
    done = {}
    for storm in storms:
        for verb, (good, bad) in storm.done.items():
            have = done.setdefault(verb, [0, 0])
            have[0] += good
            have[1] += bad
    print(done, file=sys.stderr)


main()
