"""Network namespaces as hosts: each has its own addresses, routes, ports and link to a common switch, which
can be cut. Needs root and iproute2; nothing of it touches the machine's own network."""
import contextlib
import ctypes
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import threading

import pytest

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Net:
    """A switch and hosts around it, 10.77.0.1 and so on, with a DNS server on the first one."""

    def __init__(self, *hosts):
        self.prefix = f"choir{os.getpid()}"
        self.hosts = {host: f"10.77.0.{i + 1}" for i, host in enumerate(hosts)}
        self.names = {}  # of the DNS: name to list of addresses
        self.processes = []
        self.undo = contextlib.ExitStack()
        try:
            self.make()
        except (OSError, subprocess.CalledProcessError) as e:
            self.stop()
            pytest.skip(f"cannot make network namespaces (root and iproute2 are needed): {e}")
        self.dns = threading.Thread(target=self.serve_dns, daemon=True)
        self.dns.start()

    def namespace(self, host):
        return f"{self.prefix}-{host}"

    def make(self):
        switch = self.namespace("switch")
        self.add_namespace(switch)
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for host, address in self.hosts.items():
            namespace = self.namespace(host)
            self.add_namespace(namespace)
            ip("-n", switch, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            ip("-n", switch, "link", "set", host, "master", "br0", "up")
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "link", "set", "eth0", "up")
            etc = pathlib.Path("/etc/netns") / namespace  # what `ip netns exec` shows as /etc
            etc.mkdir(parents=True)
            self.undo.callback(shutil.rmtree, etc)
            first = next(iter(self.hosts.values()))
            (etc / "resolv.conf").write_text(f"nameserver {first}\noptions timeout:1 attempts:1\n")
        self.inside(next(iter(self.hosts)), lambda: self.open_dns())

    def add_namespace(self, namespace):
        ip("netns", "add", namespace)
        self.undo.callback(subprocess.run, ["ip", "netns", "del", namespace], capture_output=True)

    def cut(self, host):
        ip("-n", self.namespace("switch"), "link", "set", host, "down")

    def heal(self, host):
        ip("-n", self.namespace("switch"), "link", "set", host, "up")

    def start(self, host, command, log, env=None):
        """A process on that host; its stdout is a pipe."""
        process = subprocess.Popen(["ip", "netns", "exec", self.namespace(host), *[str(c) for c in command]],
                                   stdout=subprocess.PIPE, stderr=open(log, "ab"), env={**os.environ, **(env or {})})
        self.processes.append(process)
        return process

    def inside(self, host, do):
        """Runs do() on a thread whose new sockets belong to that host."""
        result = {}

        def run():
            try:
                with open(f"/run/netns/{self.namespace(host)}") as f:
                    if libc.setns(f.fileno(), CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                result["value"] = do()
            except BaseException as e:
                result["error"] = e

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if "error" in result:
            raise result["error"]
        return result["value"]

    def open_dns(self):
        self.dns_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.undo.callback(self.dns_socket.close)
        self.dns_socket.bind((next(iter(self.hosts.values())), 53))

    def serve_dns(self):
        """Answers A questions from `names`; any other type of a known name has no records."""
        while True:
            try:
                question, sender = self.dns_socket.recvfrom(512)
                if len(question) < 17:  # the word to end
                    return
            except OSError:
                return
            labels, at = [], 12
            while question[at]:
                labels.append(question[at + 1:at + 1 + question[at]].decode())
                at += 1 + question[at]
            kind = struct.unpack(">H", question[at + 1:at + 3])[0]
            known = self.names.get(".".join(labels).lower())
            addresses = known if known and kind == 1 else []
            header = struct.pack(">HHHHHH", struct.unpack(">H", question[:2])[0], 0x8580 if known else 0x8583, 1,
                                 len(addresses), 0, 0)
            answers = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(a) for a in addresses)
            self.dns_socket.sendto(header + question[12:at + 5] + answers, sender)

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()
        if hasattr(self, "dns"):
            first, address = next(iter(self.hosts.items()))
            self.inside(first, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"end", (address, 53)))
            self.dns.join()
        self.undo.close()
