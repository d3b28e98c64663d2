"""The offline commands, as a user calls them, against the checkpoints' recorded answers."""
import json
import subprocess

import pytest
from conftest import BIN, CHECKPOINTS

MODEL = CHECKPOINTS / "tiny_glm4_moe"
TEXT = json.loads((MODEL / "expected.json").read_text())["text"]


def choir(*args, stdin=None, code=0):
    out = subprocess.run([str(a) for a in (BIN / "choir", *args)], input=stdin, capture_output=True, text=True, timeout=60)
    assert out.returncode == code, out.stderr
    return out


def lines(out):
    return [json.loads(line) for line in out.stdout.split("\n") if line]


def test_tokenize_and_detokenize_match_the_recorded_ids():
    cases = TEXT["tokenize"]
    texts = "".join(json.dumps(c["text"]) + "\n" for c in cases)
    ids = lines(choir("tokenize", "--model", MODEL, "--json", stdin=texts))
    assert ids == [c["ids"] for c in cases]
    assert lines(choir("tokenize", "--model", MODEL, "--json", "--no-special", stdin=texts)) == [c["ids_plain"] for c in cases]
    back = "".join(json.dumps(i) + "\n" for i in ids)
    assert lines(choir("detokenize", "--model", MODEL, "--json", stdin=back)) == [c["decoded"] for c in cases]


def test_template_matches_the_recorded_texts_and_reports_errors_by_line():
    cases = TEXT["templates"]
    requests = "".join(json.dumps({k: v for k, v in c.items() if k != "text"}) + "\n" for c in cases)
    answers = lines(choir("template", "--model", MODEL, "--json", stdin=requests + '{"messages": 3}\n'))
    assert [a["text"] for a in answers[:-1]] == [c["text"] for c in cases]
    assert "error" in answers[-1]


@pytest.mark.parametrize("command", ["tokenize", "detokenize"])
def test_a_bad_line_is_named_with_its_reason(command):
    good = json.dumps("a" if command == "tokenize" else [1])
    error = choir(command, "--model", MODEL, "--json", stdin=f"{good}\n[1,\n", code=1).stderr
    assert f"choir {command}: line 2: not valid JSON: column 4: syntax error" in error and "exception" not in error
    assert "line 1: must be one JSON" in choir(command, "--model", MODEL, "--json", stdin="7\n", code=1).stderr


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_generate_gives_the_recorded_answer_on_any_number_of_ranks(tmp_path, ranks):
    chat = TEXT["chat"]
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps(chat["prompt_ids"]))
    out = json.loads(choir("generate", "--model", MODEL, "--ids", ids, "--max-tokens", len(chat["output_ids"]), "--temperature", 0,
                           "--ignore-eos", "--ranks", ranks, "--json").stdout)
    assert out["prompt_ids"] == chat["prompt_ids"]
    assert out["output_ids"] == chat["output_ids"]
    assert out["text"] == chat["text"]


def test_the_same_seed_gives_the_same_answer():
    def run(seed):
        return choir("generate", "--model", MODEL, "--prompt", "The choir", "--max-tokens", 20, "--temperature", 1.5, "--seed", seed, "--json").stdout

    assert run(5) == run(5)
    assert len({run(s) for s in range(4)}) > 1


def test_logits_file_has_a_row_for_each_position(tmp_path):
    ids, out = tmp_path / "ids.json", tmp_path / "out.npy"
    ids.write_text("[1, 2, 3]")
    choir("logits", "--model", MODEL, "--ids", ids, "--out", out)
    one = out.read_bytes()
    assert one.startswith(b"\x93NUMPY") and b"(3, 302)" in one[:128]
    choir("logits", "--model", MODEL, "--ids", ids, "--out", out, "--ranks", 2, "--prefill-chunk", 1)
    assert out.read_bytes() == one


def test_bench_model_states_floor_and_share():
    out = json.loads(choir("bench", "model", "--model", MODEL, "--prompt", 8, "--tokens", 4, "--batch", "1,2", "--repeat", 1, "--json").stdout)
    assert set(out) >= {"machine", "commit", "figures"}
    assert {(f["name"], f["batch"]) for f in out["figures"]} >= {("decode", 1), ("decode", 2)}
    for f in out["figures"]:
        assert f["tok_s"] > 0 and f["floor_tok_s"] > 0 and len(f["tok_s_all"]) == 1


def test_keys_are_shown_once_and_stored_hashed(tmp_path):
    file = tmp_path / "keys.yaml"
    added = json.loads(choir("keys", "add", "--file", file, "--tenant", "acme", "--json").stdout)
    assert added["tenant"] == "acme" and added["key"].startswith("ck-")
    assert added["key"] not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    listed = json.loads(choir("keys", "list", "--file", file, "--json").stdout)
    assert [k["tenant"] for k in listed] == ["acme"]
    assert added["key"] not in json.dumps(listed)
    for name in ("a b", ""):
        assert "tenant" in choir("keys", "add", "--file", file, "--tenant", name, code=2).stderr
    assert choir("keys", "list", "--file", file).stdout


def test_doctor_and_model_info_describe(tmp_path):
    checks = json.loads(subprocess.run([BIN / "choir", "doctor", "--json"], capture_output=True, text=True).stdout)
    assert {c["level"] for c in checks} <= {"good", "warning", "bad"}
    info = json.loads(choir("model", "info", MODEL, "--json").stdout)
    assert info["family"] == "glm4_moe"


def test_doctor_checks_the_sections_of_all_parts(tmp_path):
    config = tmp_path / "choir.yaml"

    def told():
        out = subprocess.run([BIN / "choir", "doctor", "--json", "--config", config], capture_output=True, text=True)
        return {c["check"].removeprefix("section "): (c["level"], c["text"]) for c in json.loads(out.stdout) if c["check"].startswith("section ")}

    config.write_text("up: {ranks: 2}\nrouter: {retry: {min: 1}, tenants: {acme: {}}}\nworker: {step_tokens: 512}\n")  # flags add the rest
    assert {level for level, _ in told().values()} == {"good"} and len(told()) == 4
    config.write_text("worker: {ranks: 2, leader: '127.0.0.1:1', redundant_experts: 3, device: cuda, cpu_experts: 1}\n")
    placed = told()
    assert "experts that move would have other bits" in placed.pop("worker")[1] and {level for level, _ in placed.values()} == {"good"}
    for text in (None, "up: [\n"):  # no file, no YAML: each part would refuse it
        config.unlink() if text is None else config.write_text(text)
        assert {level for level, _ in told().values()} == {"bad"}, told()
    config.write_text("up: {rank: 2}\nrouter: {retry: {mni: 1}}\nworker: {step_tokens: 0}\ngateway: {listen: [1]}\nrooter: {}\n")
    bad = told()
    assert {level for level, _ in bad.values()} == {"bad"}
    for section, says in (("up", "up.ranks"), ("router", "router.retry.min"), ("worker", "1..65536"), ("gateway", "gateway.listen: must be a single value")):
        assert says in bad[section][1], bad
    assert sum("unknown section 'rooter', did you mean 'router'?" in text for _, text in bad.values()) == 1


def test_a_random_model_is_the_same_for_the_same_seed_and_runs(tmp_path):
    for name in ("a", "b"):
        choir("model", "random", "--family", "deepseek_v3", "--out", tmp_path / name, "--seed", 3, "--hidden", 72, "--layers", 3)
    a, b = (tmp_path / n for n in ("a", "b"))
    for file in a.iterdir():
        assert file.read_bytes() == (b / file.name).read_bytes(), file.name
    assert choir("generate", "--model", a, "--prompt", "hello", "--max-tokens", 3).stdout


@pytest.mark.parametrize("args,code,says", [
    (("bogus",), 2, "no command"), (("chta",), 2, "'chat'"), (("generate", "--modle", "x"), 2, "--model"),
    (("generate", "--model", "/nonexistent", "--prompt", "x"), 1, "/nonexistent"),
    (("generate", "--model", "/tmp", "--prompt", "x"), 1, "/tmp/config.json"),
    (("template", "--model", "/nonexistent"), 1, "no directory /nonexistent"), (("template", "--model", "/tmp"), 1, "/tmp: has no chat template"),
    (("tokenize", "--model", "/nonexistent", "--json"), 1, "no directory /nonexistent"),
    (("up", "--model", "x", "--ranks", "0"), 2, "1..64"), (("up", "--model", "x", "--quant", "q8"), 2, "none"),
    (("logits", "--model", MODEL), 2, "--ids"), (("keys", "list", "--file", "/nonexistent"), 1, "/nonexistent"),
    (("status", "--state", "/nonexistent"), 1, "choir up"), (("chat", "--url", "http://127.0.0.1:9", "--message", "x"), 1, "CHOIR_API_KEY")])
def test_wrong_calls_say_what_is_wrong(args, code, says, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/nonexistent")
    monkeypatch.delenv("CHOIR_API_KEY", raising=False)
    assert says in choir(*args, code=code).stderr


@pytest.mark.parametrize("binary", ["choir-router", "choir-worker", "choir-gateway"])
def test_every_binary_explains_itself_and_checks_its_configuration(tmp_path, binary):
    def run(*args):
        return subprocess.run([BIN / binary, *args], capture_output=True, text=True, timeout=20)

    assert run("--help").returncode == 0 and "--listen" in run("--help").stdout
    assert run("--version").stdout.startswith(binary)
    config = tmp_path / "c.yaml"
    config.write_text(f"{binary.split('-')[1]}: {{listne: x}}\n")
    out = run("--config", config, "--check-config")
    assert out.returncode == 2 and "listen" in out.stderr
