"""Broken and hostile model directories (the tables in broken/): whoever is pointed at one says what is wrong
in one line that names file, field and remedy, exits with 1, and takes neither long nor much memory."""
import json
import os
import resource
import subprocess
import threading
import time

import pytest
from broken import ALL, Case, Model
from conftest import BIN

CPU_SECONDS_MAX = 10
WALL_SECONDS_MAX = 60  # of a machine that does other things, too
RSS_MAX = 2 << 30
ADDRESS_SPACE_MAX = 8 << 30  # so that a run-away ends before the machine's memory does
MESSAGE_MAX = 700
MESSAGES = {"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": True}
# What root may do that others may not: a file without permissions is unreadable for root, too, without these.
AS_OTHERS = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def command_of(name, model, tmp):
    """(argv, stdin) of one way to use a model directory."""
    ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-level", "error"]
    choir, directory = BIN / "choir", ["--model", model.path]
    if name == "info":
        return [choir, "model", "info", model.path], ""
    if name == "logits":
        (tmp / "ids.json").write_text("[1, 9, 30]")
        return [choir, "logits", *directory, "--ids", tmp / "ids.json", "--out", tmp / "out.npy"], ""
    if name == "generate":
        return [choir, "generate", *directory, "--prompt", "hello", "--max-tokens", 2], ""
    if name == "tokenize":
        return [choir, "tokenize", *directory, "--json"], '"hello world"\n'
    if name == "tokenize_aaa":
        return [choir, "tokenize", *directory, "--json"], json.dumps("a" * 50_000 + "!") + "\n"
    if name == "template":
        return [choir, "template", *directory], json.dumps(MESSAGES) + "\n"
    if name == "router":
        (tmp / "keys.yaml").write_text("keys: []\n")
        return [BIN / "choir-router", *directory, "--keys", tmp / "keys.yaml", "--worker", "127.0.0.1:1", *ports], ""
    assert name == "worker", name
    return [BIN / "choir-worker", *directory, *ports], ""


def run(argv, stdin, tmp):
    """(exit code, stdout, stderr, most resident bytes); kills and fails what takes too long."""
    (tmp / "in").write_text(stdin)
    with open(tmp / "in") as source, open(tmp / "out", "w") as out, open(tmp / "err", "w") as err:
        child = subprocess.Popen(
            [str(a) for a in [*AS_OTHERS, *argv]], stdin=source, stdout=out, stderr=err,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_MAX, ADDRESS_SPACE_MAX)))
        pause, end = threading.Event(), time.monotonic() + WALL_SECONDS_MAX
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid != 0:
                break
            if time.monotonic() > end:
                child.kill()
                _, _, usage = os.wait4(child.pid, 0)
                child.returncode = -9
                pytest.fail(f"still runs after {WALL_SECONDS_MAX} s: {argv[0]} {(tmp / 'err').read_text()}")
            pause.wait(0.003)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert usage.ru_utime + usage.ru_stime < CPU_SECONDS_MAX, argv
    return (child.returncode, (tmp / "out").read_text(errors="replace"), (tmp / "err").read_text(errors="replace"),
            usage.ru_maxrss * 1024)


@pytest.mark.parametrize("case", ALL, ids=lambda c: c.name)
def test_is_refused_with_one_clear_message(case: Case, tmp_path):
    model = Model(tmp_path / "model", case.base)
    case.damage(model)
    for command in case.commands:
        code, _, err, rss = run(*command_of(command, model, tmp_path), tmp_path)
        about = f"{command}: exit {code}, {rss >> 20} MiB, stderr:\n{err[:3000]}"
        assert rss < RSS_MAX, about
        if case.field is None and code == 0:
            continue
        assert code == 1, about
        lines = err.splitlines()
        assert len(lines) == 1, about
        assert case.file in err and (case.field or "") in err, about
        assert len(err) <= MESSAGE_MAX and err.isprintable() or err[:-1].isprintable(), about
        assert case.remedy in err, "no remedy: " + about


@pytest.mark.parametrize("base", sorted({case.base for case in ALL}))
def test_the_undamaged_are_served(base, tmp_path):
    """What is refused above is refused for its damage."""
    model = Model(tmp_path / "model", base)
    for command in ["info", "logits", "tokenize", "generate"]:
        if command not in ("info", "logits") and not (model / "tokenizer.json").exists():
            continue
        code, out, err, _ = run(*command_of(command, model, tmp_path), tmp_path)
        assert code == 0 and len(err.splitlines()) == (command == "generate"), f"{command}: {err}"  # it tells the seed
        assert command == "logits" or out
