#!/usr/bin/env python3
"""A journal: takes what comes to a socket in systemd's native protocol, and writes it down.

Usage: journal.py SOCKET FILE

FILE gets a line of JSON for each message: a list of [NAME, VALUE], in their order. Ends when what comes is no such
message.
"""
import array
import json
import os
import socket
import struct
import sys


def receive(sock):
    data, ancillary, _, _ = sock.recvmsg(1 << 20, socket.CMSG_SPACE(4))
    for level, kind, fds in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fd = array.array("i", fds)[0]
            data = os.pread(fd, 1 << 24, 0)
            os.close(fd)
    return data


def fields(data):
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size, = struct.unpack("<Q", rest[:8])
            value, end, rest = rest[8:8 + size], rest[8 + size:9 + size], rest[9 + size:]
            assert end == b"\n" and len(value) == size, data
        yield name.decode("ascii"), value.decode("utf-8")
        data = rest


def main():
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(sys.argv[1])
    os.chmod(sys.argv[1], 0o666)
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        while True:
            print(json.dumps(list(fields(receive(sock)))), file=out, flush=True)


main()
