"""An NBD client for tests: correct by default, and raw where a test wants to be wrong."""
import socket
import struct

MAGIC = b"NBDMAGIC"
OPTION = b"IHAVEOPT"
REPLY = 0x3e889045565a9
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)


class NbdError(Exception):
    pass


class Client:
    def __init__(self, path, name="", go=True, structured=False, timeout=120):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(timeout)
        self.s.connect(path)
        self.cookie = 0
        self.structured = structured
        hello = self.recv(18)
        assert hello[:16] == MAGIC + OPTION, hello
        self.s.sendall(struct.pack(">I", 3))
        if structured:
            self.option(8)
            assert self.reply()[1] == 1
        if go:
            self.go(name)

    def recv(self, n):
        data = b""
        while len(data) < n:
            part = self.s.recv(n - len(data))
            if not part:
                raise ConnectionError("closed")
            data += part
        return data

    def option(self, number, data=b""):
        self.s.sendall(OPTION + struct.pack(">II", number, len(data)) + data)

    def reply(self):
        magic, option, kind, length = struct.unpack(">QIII", self.recv(20))
        assert magic == REPLY, hex(magic)
        return option, kind, self.recv(length)

    def go(self, name=""):
        name = name.encode()
        self.option(7, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
        while True:
            _, kind, data = self.reply()
            if kind == 1:
                return
            if kind >> 31:
                raise NbdError(kind & 0xff, data)
            if kind == 3 and data[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", data[2:])

    def send(self, command, offset=0, length=0, flags=0, data=b"", cookie=None):
        self.cookie += 1
        if cookie is None:
            cookie = self.cookie
        self.s.sendall(struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + data)
        return cookie

    def answer(self):
        """(cookie, error) of a simple reply."""
        magic, error, cookie = struct.unpack(">IIQ", self.recv(16))
        assert magic == 0x67446698, hex(magic)
        return cookie, error

    def request(self, *args, **keys):
        cookie = self.send(*args, **keys)
        got, error = self.answer()
        assert got == cookie
        return error

    def must(self, *args, **keys):
        error = self.request(*args, **keys)
        if error:
            raise NbdError(error)

    def read(self, offset, length):
        self.must(READ, offset, length)
        return self.recv(length)

    def write(self, offset, data, fua=False):
        self.must(WRITE, offset, len(data), int(fua), data)

    def zero(self, offset, length, hole=True):
        self.must(ZEROES, offset, length, 0 if hole else 2)

    def flush(self):
        self.must(FLUSH)

    def disconnect(self):
        self.send(DISC)
        self.s.close()
