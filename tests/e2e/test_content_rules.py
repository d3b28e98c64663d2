"""Content rules: what is said to the model and by it is redacted or refused, and the audit log says by which rule."""
import shutil
import subprocess

import openai
import pytest

from commands import audit_records
from conftest import BIN, CHECKPOINTS, Cluster

CONFIG = r"""
router:
  content_rules:
    - {name: mail, pattern: '[a-z0-9.]{1,40}@[a-z0-9.]{1,40}', on: input, with: "[MAIL]"}
    - {name: secret, pattern: 'project x', ignore_case: true, on: input, action: refuse}
    - {name: letters, pattern: '[a-m]', on: output, with: "*"}
    - {name: other, pattern: '[n-z]', on: output, action: refuse, tenants: [somebody-else]}
"""


@pytest.fixture(scope="module")
def ruled(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("ruled"), config=CONFIG)
    yield cluster
    assert cluster.stop() == 0


def chat(cluster, text, **kwargs):
    return cluster.openai().chat.completions.create(model=cluster.model, messages=[{"role": "user", "content": text}], max_tokens=40,
                                                    seed=3, temperature=1, **kwargs)


def records(cluster, phase):
    return audit_records(cluster.state / "audit", "--phase", phase)


def test_input_is_redacted_before_it_is_read(ruled):
    client = ruled.openai()
    ask = lambda prompt: client.completions.create(model=ruled.model, prompt=prompt, max_tokens=1, echo=True).choices[0].text
    assert ask("mail a.b@c.de now").startswith("m")  # echo is of what was read
    raw = client.completions.with_raw_response.create(model=ruled.model, prompt="to a.b@c.de", max_tokens=1)
    assert raw.parse().usage.prompt_tokens == client.completions.create(model=ruled.model, prompt="to [MAIL]", max_tokens=1).usage.prompt_tokens
    receipt = int(raw.headers["x-choir-audit"].split(":")[1])
    intent = next(r for r in records(ruled, "intent") if int(r["seq"]) <= receipt and r["request_id"] == raw.headers["x-request-id"])
    assert intent["content_rules"] == [{"rule": "mail", "count": 1}]


def test_refused_input_names_the_rule(ruled):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(ruled, "tell me of PROJECT X")
    assert caught.value.code == "content_rule" and "'secret'" in str(caught.value) and caught.value.param == "messages"
    assert [r["content_rules"] for r in records(ruled, "refused") if r["code"] == "content_rule"][-1] == [{"rule": "secret", "count": 1}]
    with pytest.raises(openai.BadRequestError) as caught:
        ruled.openai().completions.create(model=ruled.model, prompt="project x")
    assert caught.value.param == "prompt"


def test_rules_see_what_the_model_gets(ruled):
    parts = [{"type": "text", "text": "about proj"}, {"type": "text", "text": "ect x"}]
    for given in {"content": parts}, {"content": "hi", "kwargs": {"model_identity": "project x"}}:
        with pytest.raises(openai.BadRequestError) as caught:
            chat(ruled, given["content"], extra_body={"chat_template_kwargs": given.get("kwargs", {})})
        assert caught.value.code == "content_rule" and caught.value.param == ("chat_template_kwargs" if "kwargs" in given else "messages")


def test_a_template_that_joins_texts_makes_no_match_of_them(tmp_path):
    model = tmp_path / "tiny"
    shutil.copytree(CHECKPOINTS / "tiny_glm4_moe", model)
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    cluster = Cluster(tmp_path, model=model, config=CONFIG)
    try:
        def talk(*texts):
            return cluster.openai().chat.completions.create(model=cluster.model, messages=[{"role": "user", "content": t} for t in texts], max_tokens=2)

        for texts, rule in ((("about proj", "ect x"), "secret"), (("to a.b", "@c.de"), "mail")):
            with pytest.raises(openai.BadRequestError) as caught:
                talk(*texts)
            assert caught.value.code == "content_rule" and f"'{rule}'" in str(caught.value) and caught.value.param == "messages"
            assert records(cluster, "refused")[-1]["content_rules"] == [{"rule": rule, "count": 1}]
        assert talk("about proj", " ect x").usage.prompt_tokens > 0
    finally:
        assert cluster.stop() == 0


def test_output_is_filtered_alike_streamed_or_whole(ruled):
    whole = chat(ruled, "hello").choices[0]
    streamed = "".join(c.choices[0].delta.content or "" for c in chat(ruled, "hello", stream=True) if c.choices)
    assert streamed == whole.message.content and not set(streamed) & set("abcdefghijklm") and "*" in streamed
    assert any("content_rules" in r and r["content_rules"][0]["rule"] == "letters" for r in records(ruled, "outcome"))


def test_logprobs_would_show_what_the_rules_hide(ruled):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(ruled, "hello", logprobs=True)
    assert caught.value.param == "logprobs"


def test_a_refusing_rule_ends_the_answer(tmp_path):
    config = CONFIG.replace("on: output, action: refuse, tenants: [somebody-else]", "on: output, action: refuse")
    cluster = Cluster(tmp_path, config=config)
    try:
        choice = chat(cluster, "hello").choices[0]
        assert choice.finish_reason == "content_filter" and not set(choice.message.content) & set("nopqrstuvwxyz")
    finally:
        assert cluster.stop() == 0


def test_a_broken_rule_is_named_at_start(tmp_path):
    (tmp_path / "c.yaml").write_text("router:\n  content_rules: [{name: long, pattern: 'a+'}]\n")
    out = subprocess.run([BIN / "choir", "up", "--model", "x", "--config", tmp_path / "c.yaml", "--check-config"], capture_output=True, text=True)
    assert out.returncode == 2 and "long: pattern: a match may have any number of bytes" in out.stderr
