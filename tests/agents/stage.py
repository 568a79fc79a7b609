"""Where an agent is tried: a scripted provider, alvus before it, and a wire before alvus on which can
be seen what the agent says and hears. A home and a working directory of its own."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import threading
import time
import zlib

from upstream import Upstream

KEYS = [f"sk-scripted-key-number-{n}" for n in range(3)]
LONGEST = 120  # seconds a run may take


class Wire:
    """Passes bytes on, and notes requests and statuses."""

    def __init__(self, to):
        self.to, self.requests, self.statuses = to, [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            alvus = socket.create_connection(("127.0.0.1", self.to))
            threading.Thread(target=self.requests_of, args=(client, alvus), daemon=True).start()
            threading.Thread(target=self.answers_of, args=(alvus, client), daemon=True).start()

    def requests_of(self, client, alvus):
        waiting = b""
        for data in flow(client, alvus):
            waiting += data
            while b"\r\n\r\n" in waiting:
                head, rest = waiting.split(b"\r\n\r\n", 1)
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                length = int(length[1]) if length else 0
                if len(rest) < length:
                    break
                waiting = rest[length:]
                self.requests.append(Request(head.decode("latin-1"), rest[:length]))

    def answers_of(self, alvus, client):
        for data in flow(alvus, client):
            # Heads come in a write of their own, or at the beginning of one.
            found = re.match(rb"HTTP/1\.1 (\d{3})", data)
            if found:
                self.statuses.append(int(found[1]))

    def close(self):
        self.listener.close()


class Request:
    def __init__(self, head, body):
        self.method, self.target = head.split(" ", 2)[:2]
        self.fields = {k.lower(): v for k, v in re.findall(r"\r\n([^:]+): *([^\r]*)", head)}
        self.body = json.loads(body) if body.startswith(b"{") else {}

    def conversation(self):
        """What the model is told; "" of a request for something else."""
        said = self.body.get("messages") or self.body.get("input")
        return json.dumps(said) if said and "count_tokens" not in self.target else ""


def flow(source, sink):
    """What comes, after it was passed on."""
    while True:
        try:
            data = source.recv(65536)
            if data:
                sink.sendall(data)
        except OSError:
            data = b""
        if not data:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            return
        yield data


class Stage:
    """`script` is for the case to fill in."""

    def __init__(self, alvus, programs, turn_of, settings):
        self.programs = programs
        self.root = tempfile.mkdtemp(prefix="alvus-agent-")
        self.home, self.work = (os.path.join(self.root, name) for name in ("home", "work"))
        os.mkdir(self.home)
        os.mkdir(self.work)
        self.upstream = Upstream(KEYS, turn_of)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        env = {
            "API_KEYS": ",".join(KEYS),
            "TARGET_BASE_URL": f"http://127.0.0.1:{self.upstream.port}/v1",
            "PORT": str(port),
            **settings,
        }
        self.log = open(os.path.join(self.root, "alvus.log"), "w+")
        self.alvus = subprocess.Popen([alvus], cwd=self.root, env=env, stdout=self.log, stderr=self.log)
        self.wire = Wire(port)
        wait_for(lambda: is_open(port), "alvus listens")
        self.base = f"http://127.0.0.1:{self.wire.port}"
        self.said = ""

    @property
    def script(self):
        return self.upstream.script

    @script.setter
    def script(self, script):
        self.upstream.script = script

    def bin(self, name):
        return str(self.programs / name)

    def asked(self):
        """The agent's requests to a model."""
        return [request for request in self.wire.requests if request.conversation()]

    def heard_no_refusal(self, repeats):
        """Every answer was a success, and so many requests were made again."""
        assert set(self.wire.statuses) == {200}, self.wire.statuses
        asked = [request.conversation() for request in self.asked()]
        found = len(asked) - len(set(asked))
        assert found == repeats, f"{found} repeated requests, expected {repeats}"

    def story(self):
        """What happened, for who reads of a failure."""
        lines = [f"{r.method} {r.target} stream={r.body.get('stream')} {r.conversation()[-200:]}" for r in self.wire.requests]
        lines += [f"statuses {self.wire.statuses}"]
        lines += [f"turn {place if isinstance(place, int) else '-'} key {key}: {fault}" for place, key, _, fault in self.upstream.seen]
        self.log.seek(0)
        return "\n".join([*lines, "-- alvus", self.log.read(), "-- agent", self.said[-3000:]])

    def picture(self, name):
        """A red square."""
        def part(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        head = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
        rows = zlib.compress((b"\0" + b"\xff\0\0" * 32) * 32)
        with open(self.path(name), "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", rows) + part(b"IEND", b""))

    def path(self, name):
        return os.path.join(self.work, name)

    def read(self, name):
        try:
            with open(self.path(name)) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def afresh(self):
        """The agent has never been here."""
        for path in (self.home, self.work):
            shutil.rmtree(path)
            os.mkdir(path)

    def config(self, name, value):
        """A file of settings below the agent's home; what is JSON is YAML too. Says where it is."""
        path = os.path.join(self.home, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            json.dump(value, file)
        return path

    def env(self, env):
        path = f"{self.programs}:{os.environ['PATH']}"  # a Node of the agent's own
        return {"HOME": self.home, "PATH": path, "TERM": "xterm-256color", "LANG": "C.UTF-8", **env}

    def run(self, command, env):
        """One shot. Says its exit code; what it said is in `said`."""
        done = subprocess.run(
            command, cwd=self.work, env=self.env(env), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LONGEST, text=True, errors="replace",
        )
        self.said = done.stdout
        return done.returncode

    def terminal(self, command, env):
        return Terminal(self, command, self.env(env))

    def close(self):
        self.alvus.terminate()
        self.alvus.wait(20)
        self.log.close()
        self.wire.close()
        self.upstream.close()
        shutil.rmtree(self.root, ignore_errors=True)


class Terminal:
    """An agent at a terminal."""

    def __init__(self, stage, command, env):
        self.stage = stage
        self.child, self.fd = pty.fork()
        if self.child == 0:
            os.chdir(stage.work)
            os.execvpe(command[0], command, env)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        self.seen = ""

    def look(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.fd], [], [], left)[0]:
                return
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return
            self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b.", "", data.decode(errors="replace"))
            self.stage.said = self.seen

    def until(self, condition, what, seconds=60):
        """Looks on until something is seen, or is so."""
        if isinstance(condition, str):
            words = re.sub(r"\s", "", condition)
            condition = lambda: words in re.sub(r"\s", "", self.seen)
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what}: not seen; at last: {self.seen[-1500:]!r}"
            self.look(0.2)

    def type(self, text):
        os.write(self.fd, text.encode())
        self.look(0.5)
        os.write(self.fd, b"\r")

    def close(self):
        try:
            os.kill(self.child, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self.child, 0)
        os.close(self.fd)


def is_open(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def wait_for(condition, what):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"{what}: not so"
        time.sleep(0.02)
