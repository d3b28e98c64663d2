"""A Redis server of a test's own, on a free port, with a password that only this test knows."""
import secrets
import shutil
import signal
import socket
import subprocess

import pytest


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Redis:
    def __init__(self, tmp):
        if shutil.which("redis-server") is None:
            pytest.skip("there is no redis-server here")
        self.tmp, self.password, self.process = tmp, secrets.token_hex(8), None
        for _ in range(20):  # another process may take the port first
            self.port = free_port()
            if self.start():
                return
        raise RuntimeError("redis-server does not start")

    @property
    def url(self):
        return f"redis://:{self.password}@127.0.0.1:{self.port}/1"

    def start(self):
        """Empty; false when the port is taken."""
        self.process = subprocess.Popen(["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                                         "--dir", str(self.tmp), "--requirepass", self.password], stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if "Ready to accept connections" in line:
                return True
        self.process.wait()
        return False

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)
