"""The official OpenAI client against a cluster of two expert-parallel ranks."""
import concurrent.futures

import openai
import pytest
from conftest import eventually

MESSAGES = [{"role": "user", "content": "Hello there, how are you?"}]


def chat(client, cluster, **kwargs):
    kwargs.setdefault("messages", MESSAGES)
    kwargs.setdefault("max_tokens", 24)
    kwargs.setdefault("seed", 7)
    return client.chat.completions.create(model=cluster.model, **kwargs)


@pytest.fixture
def client(cluster):
    return cluster.openai()


def streamed_text(stream):
    chunks = list(stream)
    return "".join((c.choices[0].delta.content or "") for c in chunks if c.choices), chunks


def test_lists_the_model(client, cluster):
    assert [m.id for m in client.models.list()] == [cluster.model]
    assert client.models.retrieve(cluster.model).id == cluster.model
    with pytest.raises(openai.NotFoundError) as e:
        client.models.retrieve("nope")
    assert e.value.code == "model_not_found"


def test_whole_answer_has_usage_and_a_reason(client, cluster):
    r = chat(client, cluster)
    assert r.choices[0].finish_reason in ("stop", "length")
    assert r.choices[0].message.role == "assistant"
    assert r.usage.completion_tokens <= 24
    assert r.usage.prompt_tokens > 0
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens


def test_streamed_text_is_the_whole_answers_text(client, cluster):
    whole = chat(client, cluster)
    text, chunks = streamed_text(chat(client, cluster, stream=True, stream_options={"include_usage": True}))
    message = whole.choices[0].message
    assert text == message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [whole.choices[0].finish_reason]


def test_same_seed_same_bytes_alone_and_in_a_crowd(client, cluster):
    alone = {seed: chat(client, cluster, seed=seed, temperature=1.5).choices[0].message.content for seed in range(8)}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        crowd = list(pool.map(lambda i: (i % 8, chat(client, cluster, seed=i % 8, temperature=1.5).choices[0].message.content), range(32)))
    assert all(alone[seed] == text for seed, text in crowd)
    assert len(set(alone.values())) > 1


def test_n_choices_begin_with_the_single_answer(client, cluster):
    one = chat(client, cluster, temperature=1.5)
    three = chat(client, cluster, temperature=1.5, n=3)
    assert [c.index for c in three.choices] == [0, 1, 2]
    assert three.choices[0].message.content == one.choices[0].message.content
    assert len({c.message.content for c in three.choices}) > 1


def test_logprobs_cover_every_token(client, cluster):
    r = chat(client, cluster, logprobs=True, top_logprobs=3, temperature=0)
    tokens = r.choices[0].logprobs.content
    assert len(tokens) == r.usage.completion_tokens
    for t in tokens:
        assert len(t.top_logprobs) == 3
        assert t.logprob == max(x.logprob for x in t.top_logprobs)  # greedy
        assert t.bytes is not None


def test_stop_string_ends_the_answer_before_it(client, cluster):
    full = client.completions.create(model=cluster.model, prompt="Once upon", max_tokens=40, temperature=0, extra_body={"ignore_eos": True}).choices[0].text
    stop = full[8:11]
    cut = client.completions.create(model=cluster.model, prompt="Once upon", max_tokens=40, temperature=0, stop=[stop], extra_body={"ignore_eos": True})
    assert cut.choices[0].text == full[:full.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_completion_takes_token_ids(client, cluster):
    r = client.completions.create(model=cluster.model, prompt=[1, 2, 3, 4], max_tokens=5, extra_body={"ignore_eos": True})
    assert r.usage.prompt_tokens == 4 and r.usage.completion_tokens == 5
    assert r.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=cluster.model, prompt=[10_000_000], max_tokens=5)


def test_an_answer_is_accepted_back(client, cluster):
    message = chat(client, cluster).choices[0].message
    again = chat(client, cluster, messages=[*MESSAGES, message, {"role": "user", "content": "And then?"}])
    assert again.choices[0].finish_reason


def test_wrong_requests_get_the_errors_of_the_table(client, cluster):
    with pytest.raises(openai.AuthenticationError) as e:
        chat(cluster.openai(api_key="ck-wrong"), cluster)
    assert e.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as e:
        client.chat.completions.create(model="nope", messages=MESSAGES)
    assert e.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as e:
        chat(client, cluster, temperature=3)
    assert e.value.param == "temperature" and "0..2" in e.value.message
    with pytest.raises(openai.BadRequestError) as e:
        chat(client, cluster, messages=[{"role": "user", "content": "long " * 20000}])
    assert e.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as e:
        chat(client, cluster, extra_body={"temprature": 1})
    assert "temperature" in e.value.message
    with pytest.raises(openai.BadRequestError) as e:
        chat(client, cluster, logit_bias={"99999999": 1})
    assert "logit_bias" in e.value.param


def test_closing_a_stream_frees_the_engine(client, cluster):
    def cancelled():
        return cluster.metric(cluster.ready["metrics"]["router"], "choir_requests_total", code="499") or 0

    before = cancelled()
    stream = client.completions.create(model=cluster.model, prompt="Go on", max_tokens=200, n=8, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    eventually(lambda: cancelled() == before + 1, what="the end of a request whose client left")
    eventually(cluster.workers_idle, what="idle workers")
    assert cluster.metric(cluster.ready["metrics"]["router"], "choir_ledger_difference") == 0


def test_a_batch_of_prompts_and_echo(client, cluster):
    kwargs = {"max_tokens": 6, "seed": 3, "temperature": 1.2, "extra_body": {"ignore_eos": True}}
    batch = client.completions.create(model=cluster.model, prompt=["One", "Two"], n=2, echo=True, **kwargs)
    assert [c.index for c in batch.choices] == [0, 1, 2, 3]
    assert [c.text[:3] for c in batch.choices] == ["One", "One", "Two", "Two"]
    alone = client.completions.create(model=cluster.model, prompt="Two", n=2, **kwargs)
    assert [c.text[3:] for c in batch.choices[2:]] == [c.text for c in alone.choices]
    assert batch.usage.completion_tokens == 24


def test_completion_logprobs_are_typed(client, cluster):
    got = client.completions.create(model=cluster.model, prompt="Go", max_tokens=5, logprobs=2, temperature=0,
                                    extra_body={"ignore_eos": True}).choices[0].logprobs
    assert len(got.tokens) == len(got.token_logprobs) == len(got.top_logprobs) == len(got.text_offset) == 5
    assert all(max(top.values()) == logprob for top, logprob in zip(got.top_logprobs, got.token_logprobs))


def test_streams_of_several_choices_carry_logprobs_and_usage(client, cluster):
    asked = {"n": 3, "temperature": 1.2, "logprobs": True, "top_logprobs": 1}
    whole = chat(client, cluster, **asked)
    texts, tokens = {}, {}
    for chunk in chat(client, cluster, stream=True, stream_options={"include_usage": True}, **asked):
        for c in chunk.choices:
            texts[c.index] = texts.get(c.index, "") + (c.delta.content or "")
            tokens[c.index] = tokens.get(c.index, []) + (c.logprobs.content if c.logprobs else [])
        usage = chunk.usage
    assert usage == whole.usage
    assert [texts[c.index] for c in whole.choices] == [c.message.content for c in whole.choices]
    assert [tokens[c.index] for c in whole.choices] == [c.logprobs.content for c in whole.choices]


@pytest.mark.parametrize("form", ["object", "dump", "dict"])
def test_an_answer_is_accepted_back_in_every_form(client, cluster, form):
    message = chat(client, cluster).choices[0].message
    back = {"object": message, "dump": message.model_dump(), "dict": message.to_dict()}[form]
    assert chat(client, cluster, messages=[*MESSAGES, back, {"role": "user", "content": "And?"}]).choices[0].finish_reason


def test_headers_and_errors_are_the_sdks(client, cluster):
    raw = client.chat.completions.with_raw_response.create(model=cluster.model, messages=MESSAGES, max_tokens=2,
                                                           extra_headers={"X-Request-Id": "sdk-1"})
    assert raw.headers["x-request-id"] == "sdk-1" and raw.parse().id == "chatcmpl-sdk-1"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/name")
    for bad in ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(openai.BadRequestError) as e:
            chat(client, cluster, **bad)
        assert e.value.code == "unsupported_parameter" and e.value.param == next(iter(bad)) and e.value.request_id
