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
    def __init__(self, tmp, tls=None):
        """tls: (certificate, key, authority of the clients), files of one that speaks TLS only and demands certificates."""
        if shutil.which("redis-server") is None:
            pytest.skip("there is no redis-server here")
        self.tmp, self.tls, self.password, self.process = tmp, tls, secrets.token_hex(8), None
        for _ in range(20):  # another process may take the port first
            self.port = free_port()
            if self.start():
                return
        raise RuntimeError("redis-server does not start")

    @property
    def url(self):
        return f"{'rediss' if self.tls else 'redis'}://:{self.password}@127.0.0.1:{self.port}/1"

    def start(self):
        """Empty; false when the port is taken."""
        port = ["--port", self.port]
        if self.tls:
            port = ["--port", 0, "--tls-port", self.port]
            for name, path in zip(("cert", "key", "ca-cert"), self.tls):
                port += [f"--tls-{name}-file", path]
        command = ["redis-server", *port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self.tmp, "--requirepass", self.password]
        self.process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True)
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
