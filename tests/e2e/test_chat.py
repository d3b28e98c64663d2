"""`choir chat` in a real terminal: streaming, editing, history, commands, Ctrl-C."""
import fcntl
import os
import pty
import re
import signal
import stat
import subprocess
import termios

import pytest

from conftest import BIN, eventually


class Terminal:
    """`choir chat` on a pseudo terminal; what it printed is in `text` without escape sequences."""

    def __init__(self, cluster, *args):
        self.master, slave = pty.openpty()
        env = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            [str(a) for a in (BIN / "choir", "chat", "--state", cluster.state, *args)], stdin=slave, stdout=slave, stderr=slave,
            env=env, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        os.set_blocking(self.master, False)
        self.raw = b""

    @property
    def text(self):
        try:
            while data := os.read(self.master, 65536):
                self.raw += data
        except (BlockingIOError, OSError):
            pass
        plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", self.raw)
        return plain.replace(b"\r", b"").decode("utf-8", "replace")

    def type(self, keys):
        os.write(self.master, keys.encode())

    def wait(self, pattern, start=0):
        return eventually(lambda: re.search(pattern, self.text[start:], re.S), what=f"{pattern!r} in {self.text!r}")

    def prompt(self):
        """Waits until a line can be typed: an end of input typed before that is lost on the way to raw mode."""
        return eventually(lambda: self.text.rstrip(" ").endswith("\n>"), what=f"a prompt after {self.text!r}")

    def end(self):
        self.prompt()
        self.type("\x04")
        code = self.process.wait(20)
        os.close(self.master)
        return code


FIGURES = r"\d+ tokens, [\d.]+ tok/s, first after [\d.]+ s"


@pytest.fixture
def terminal(cluster):
    t = Terminal(cluster, "--max-tokens", 12, "--temperature", 0)
    t.wait(r"Ctrl-D ends")
    t.prompt()
    yield t
    if t.process.poll() is None:
        t.process.kill()
        t.process.wait()


def test_answers_and_says_what_it_took(terminal):
    terminal.type("hello\n")
    terminal.wait(FIGURES)
    assert terminal.end() == 0


def test_edits_a_line_and_recalls_it(terminal, cluster):
    terminal.type("/modelx")
    terminal.type("\x7f\n")  # backspace
    terminal.wait(cluster.model)
    terminal.prompt()
    seen = len(terminal.text)
    terminal.type("\x1b[A\n")  # arrow up: the same again
    terminal.wait(cluster.model, seen)
    assert terminal.end() == 0
    history = cluster.state / "chat_history"
    assert "/model" in history.read_text().replace("\\", "")
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_interrupt_drops_the_line_not_the_program(terminal):
    terminal.type("never asked\x03/help\n")
    terminal.wait("/retry")
    assert "tok/s" not in terminal.text
    assert terminal.end() == 0


def test_interrupt_cancels_the_answer_not_the_program(cluster):
    t = Terminal(cluster, "--max-tokens", 100000, "--no-history")
    t.wait(r"Ctrl-D ends")
    t.prompt()
    t.type("/tokens 4000\n")
    t.type("go\n")
    eventually(lambda: not cluster.workers_idle(), what="a running request")
    os.kill(t.process.pid, signal.SIGINT)
    t.wait("cancelled")
    eventually(cluster.workers_idle, what="freed blocks")
    assert t.end() == 0


def test_commands_answer_bad_input(terminal):
    terminal.type("/tokens many\n")
    terminal.wait("'many' is no number from 1 to 1048576")
    terminal.type("/tokenz\n")
    terminal.wait("there is no command /tokenz")
    terminal.type("/retry\n")
    terminal.wait("nothing was asked yet")
    assert terminal.end() == 0


def test_plain_lines_where_there_is_no_terminal(cluster):
    out = subprocess.run([BIN / "choir", "chat", "--state", cluster.state, "--max-tokens", "4", "--temperature", "0"],
                         input="one\\\nmore\n/quit\n", capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("\n") >= 1 and re.search(r"4 tokens", out.stderr)
