"""What all acts of the slow tier stand on: places, waiting, the fake model, and who is still alive."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "target/tools/agents"
STREAMS = HOME / "streams"
KEY = "REAL_AGENTS_KEY"
KEY_VALUE = "sk-not-a-secret"
BOUND = 180


class Failed(Exception):
    """An expectation that did not hold."""


def expect(holds, what):
    if not holds:
        raise Failed(what)


def until(what, holds, bound=BOUND):
    """Waits until a condition holds, at most `bound` seconds; returns how long it took."""
    begun = time.monotonic()
    while not holds():
        expect(time.monotonic() - begun < bound, f"waited {bound} s in vain until {what}")
        time.sleep(0.02)
    return time.monotonic() - begun


class Model:
    """The fake model, for the length of a `with` block; the n-th conversation gets the n-th command."""

    def __init__(self, folder, commands, expected, scenario="work"):
        self.log = folder / "requests"
        self.port_file = folder / "port"
        self.program = [sys.executable, str(ROOT / "tests/support/fake_model.py"), "--port-file", str(self.port_file)]
        self.program += ["--log", str(self.log), "--scenario", scenario, "--key", KEY_VALUE]
        for command in commands:
            self.program += ["--command", command]
        for text in expected:
            self.program += ["--expect", text]

    def __enter__(self):
        self.server = subprocess.Popen(self.program)
        until("the fake model listens", lambda: self.port_file.exists() or self.server.poll() is not None, 20)
        expect(self.server.poll() is None, "the fake model does not start")
        self.port = int(self.port_file.read_text())
        return self

    def __exit__(self, *_):
        self.server.kill()
        self.server.wait()

    def base(self, kind):
        """The endpoint as the program of this kind wants it."""
        return f"http://127.0.0.1:{self.port}" + ("" if kind == "claude" else "/v1")

    def requests(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


def alive():
    """Everything that runs in this namespace, as {(pid, start time): command line}; the dead but unburied do not count."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if fields[0] not in "ZX":
            found[int(entry.name), fields[19]] = line[:160]
    return found


def be_init():
    """Lets a child of this process be the script, and buries whatever else dies here: this is PID 1 of its namespace."""
    child = os.fork()
    while child:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
