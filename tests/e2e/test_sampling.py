"""What the parameters do, seen from outside: the same request with and without one of them."""
import collections

import pytest
from wire import call, chat, complete, error_of, stream

GREEDY = {"temperature": 0, "max_tokens": 24}


def text(answer, choice=0):
    return answer["choices"][choice]["text"]


def test_choice_0_of_n_is_the_answer_of_n_1_and_usage_sums(shared):
    one = complete(shared, seed=5, temperature=1.3, max_tokens=10)
    many = complete(shared, seed=5, temperature=1.3, max_tokens=10, n=8)
    assert [c["index"] for c in many["choices"]] == list(range(8))
    assert many["choices"][0] == one["choices"][0]
    assert len({c["text"] for c in many["choices"]}) > 1
    assert many["usage"]["completion_tokens"] == 80 and many["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert many["usage"]["total_tokens"] == many["usage"]["prompt_tokens"] + 80


def test_each_choice_ends_for_its_own_reason(shared):
    plain = complete(shared, seed=3, temperature=1.5, n=6, max_tokens=12)
    stop = text(plain, 2)[4:6]
    cut = complete(shared, seed=3, temperature=1.5, n=6, max_tokens=12, stop=stop)
    for whole, part in zip(plain["choices"], cut["choices"]):
        at = whole["text"].find(stop)
        assert part["finish_reason"] == ("stop" if at >= 0 else "length")
        assert part["text"] == (whole["text"][:at] if at >= 0 else whole["text"])
    assert cut["choices"][2]["finish_reason"] == "stop"


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_a_stream_carries_every_choice_as_the_whole_answer_has_it(shared, n, kind):
    fields = {"n": n, "seed": 9, "temperature": 1.2, "max_tokens": 16, "logprobs": 2, "stream_options": {"include_usage": True}}
    path = "/v1/completions"
    if kind == "chat":
        fields |= {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 2}
        path = "/v1/chat/completions"
    chunks = stream(shared, path, **fields)
    del fields["stream_options"]
    whole = chat(shared, ignore_eos=True, **fields) if kind == "chat" else complete(shared, **fields)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    assert all(c["usage"] is None for c in chunks[:-1])
    assert len({c["id"] for c in chunks}) == 1
    texts, ends, logprobs = collections.defaultdict(str), collections.defaultdict(list), collections.defaultdict(list)
    for choice in (c for chunk in chunks for c in chunk["choices"]):
        texts[choice["index"]] += choice["text"] if kind == "completions" else choice["delta"].get("content") or ""
        if choice["finish_reason"]:
            ends[choice["index"]].append(choice["finish_reason"])
        if choice["logprobs"]:
            logprobs[choice["index"]] += choice["logprobs"]["token_logprobs"] if kind == "completions" else choice["logprobs"]["content"]
    for choice in whole["choices"]:
        i = choice["index"]
        assert texts[i] == (choice["text"] if kind == "completions" else choice["message"]["content"])
        assert ends[i] == [choice["finish_reason"]]
        assert logprobs[i] == choice["logprobs"]["token_logprobs" if kind == "completions" else "content"]


def test_chat_logprobs_are_bytes_that_join_to_the_text(shared):
    answer = chat(shared, logprobs=True, top_logprobs=5, max_tokens=30, seed=2, ignore_eos=True)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"] == 30
    for t in content:
        assert len(t["top_logprobs"]) == 5 and t["logprob"] <= 0
        assert [x["logprob"] for x in t["top_logprobs"]] == sorted((x["logprob"] for x in t["top_logprobs"]), reverse=True)
        assert bytes(t["bytes"]).decode(errors="replace") == t["token"]
    special = {"<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>"}
    joined = b"".join(bytes(t["bytes"]) for t in content if t["token"] not in special).decode(errors="replace")
    assert joined == answer["choices"][0]["message"]["content"]


def test_completion_logprobs_are_parallel_lists_with_offsets_in_characters(shared):
    answer = complete(shared, logprobs=3, max_tokens=40, seed=4, temperature=1.4)
    got = answer["choices"][0]["logprobs"]
    assert {len(got[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset", "bytes")} == {40}
    assert got["text_offset"][0] == 0 and got["text_offset"] == sorted(got["text_offset"])
    assert all(len(top) == 3 for top in got["top_logprobs"])
    for token, offset in zip(got["tokens"], got["text_offset"]):
        if not token.startswith(("bytes:", "<")):
            assert text(answer)[offset:offset + len(token)] == token


@pytest.mark.parametrize("fields,width", [({"logprobs": 0}, 0), ({"logprobs": 20}, 20)])
def test_completion_logprobs_have_as_many_alternatives_as_asked_for(shared, fields, width):
    got = complete(shared, **fields)["choices"][0]["logprobs"]
    assert all(len(top) == width for top in got["top_logprobs"])


def test_logprobs_are_of_the_raw_logits(shared):
    plain = complete(shared, logprobs=2, **{**GREEDY, "max_tokens": 1})["choices"][0]["logprobs"]
    for fields in ({"temperature": 1.7, "seed": 1}, {"logit_bias": {"40": 5}}, {"top_p": 0.1, "temperature": 1}):
        again = complete(shared, logprobs=2, **{**GREEDY, "max_tokens": 1, **fields})["choices"][0]["logprobs"]
        assert again["top_logprobs"] == plain["top_logprobs"], fields


def test_logprobs_cover_the_reasoning(shared):
    answer = chat(shared, logprobs=True, max_tokens=20, ignore_eos=True, chat_template_kwargs={"open_think": True})
    message, usage = answer["choices"][0]["message"], answer["usage"]
    assert message["reasoning_content"] and message["content"] == ""
    assert len(answer["choices"][0]["logprobs"]["content"]) == 20
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 20


@pytest.mark.parametrize("open_think,field", [(True, "reasoning_content"), (False, "content")])
@pytest.mark.parametrize("as_list", [False, True])
def test_stop_strings_act_in_reasoning_and_content(shared, open_think, field, as_list):
    fields = {"seed": 6, "temperature": 1.1, "max_tokens": 40, "ignore_eos": True, "chat_template_kwargs": {"open_think": open_think}}
    whole = chat(shared, **fields)["choices"][0]["message"][field]
    stop = whole[9:12]
    cut = chat(shared, **fields, stop=["never comes", stop] if as_list else stop)
    assert cut["choices"][0]["message"].get(field, "") == whole[:whole.index(stop)]
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert cut["usage"]["completion_tokens"] < 40
    pieces = stream(shared, "/v1/chat/completions", messages=[{"role": "user", "content": "hi"}], stop=stop, **fields)
    assert "".join(c["choices"][0]["delta"].get(field) or "" for c in pieces) == whole[:whole.index(stop)]


def test_a_closing_tag_ends_the_reasoning(shared):
    message = chat(shared, logit_bias={"5": 100}, temperature=0, max_tokens=3, ignore_eos=True,
                   chat_template_kwargs={"open_think": True})["choices"][0]["message"]
    assert message["content"] == "</think></think>" and "reasoning_content" not in message
    assert chat(shared, logit_bias={"5": 100}, temperature=0, max_tokens=3, stop="</think></think>", ignore_eos=True,
                chat_template_kwargs={"open_think": True})["usage"]["completion_tokens"] == 2


def test_stop_token_ids_end_the_answer_and_ignore_eos_does_not_lift_them(shared):
    ids = complete(shared, logit_bias={"77": 100}, stop_token_ids=[77], **GREEDY)
    assert ids["usage"]["completion_tokens"] == 1 and text(ids) == "" and ids["choices"][0]["finish_reason"] == "stop"
    eos = complete(shared, logit_bias={"1": 100}, ignore_eos=False, **GREEDY)
    assert eos["usage"]["completion_tokens"] == 1 and eos["choices"][0]["finish_reason"] == "stop"
    on = complete(shared, logit_bias={"1": 100}, ignore_eos=True, **GREEDY)
    assert on["usage"]["completion_tokens"] == 24 and on["choices"][0]["finish_reason"] == "length"


def ids_of(answer):
    return answer["choices"][0]["logprobs"]["tokens"]


def test_logit_bias_forces_and_forbids(shared):
    forced = ids_of(complete(shared, logit_bias={"60": 100}, logprobs=0, **GREEDY))
    assert len(set(forced)) == 1
    first = ids_of(complete(shared, logprobs=0, **GREEDY))[0]
    best = complete(shared, logprobs=1, prompt=[3, 9, 30], **{**GREEDY, "max_tokens": 1})
    forbidden = complete(shared, logprobs=1, logit_bias={str(i): -100 for i in range(302) if i not in (50, 51)}, seed=1, temperature=2, max_tokens=40)
    assert len(set(ids_of(forbidden))) == 2 and first and best


def test_penalties_spread_and_rewards_gather(shared):
    bias = {str(40 + i): 100 - i / 8 for i in range(8)}  # eight tokens far above the rest and close to each other

    def distinct(**penalty):
        return len(set(ids_of(complete(shared, logit_bias=bias, logprobs=0, **penalty, **GREEDY))))

    plain = distinct()
    assert distinct(presence_penalty=0, frequency_penalty=0) == plain < 8
    assert distinct(frequency_penalty=2) == 8 and distinct(frequency_penalty=-2) == 1
    assert distinct(presence_penalty=-2) < plain < distinct(presence_penalty=2)


def test_the_narrowest_choice_is_greedy(shared):
    greedy = text(complete(shared, **GREEDY))
    for narrow in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1}):
        assert text(complete(shared, temperature=2, seed=8, max_tokens=24, **narrow)) == greedy, narrow


@pytest.mark.parametrize("seed", [0, -1, 1, 2**63 - 1, -2**63, 1e3])
def test_a_seed_repeats_its_answer(shared, seed):
    fields = {"temperature": 1.5, "max_tokens": 16, "seed": seed}
    assert text(complete(shared, **fields)) == text(complete(shared, **fields))


def test_seeds_differ_and_none_is_drawn(shared):
    assert len({text(complete(shared, temperature=1.5, max_tokens=16, seed=s)) for s in (0, 1, -1, 2**63 - 1)}) == 4
    assert len({text(complete(shared, temperature=1.5, max_tokens=16)) for _ in range(4)}) > 1


def test_a_batch_is_each_of_its_prompts(shared):
    prompts = ["Once upon a time", [5, 6, 7], "Ünïcode ☃", "x"]
    fields = {"n": 2, "seed": 12, "temperature": 1.2, "max_tokens": 6, "logprobs": 1}
    batch = complete(shared, prompt=prompts, **fields)
    alone = [complete(shared, prompt=p, **fields) for p in prompts]
    assert [c["index"] for c in batch["choices"]] == list(range(8))
    expected = [c for answer in alone for c in answer["choices"]]
    assert [{**c, "index": i} for i, c in enumerate(expected)] == batch["choices"]
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert batch["usage"][key] == sum(a["usage"][key] for a in alone)
    chunks = stream(shared, prompt=prompts, stream_options={"include_usage": True}, **fields)
    texts = collections.defaultdict(str)
    for choice in (c for chunk in chunks for c in chunk["choices"]):
        texts[choice["index"]] += choice["text"]
    assert [texts[i] for i in range(8)] == [c["text"] for c in batch["choices"]]
    assert chunks[-1]["usage"] == batch["usage"]
    assert text(complete(shared, prompt=[["x"][0]], max_tokens=3, seed=1)) == text(complete(shared, prompt="x", max_tokens=3, seed=1))
    assert complete(shared, prompt=[[5, 6, 7], [8]], max_tokens=1)["usage"]["prompt_tokens"] == 4


def test_a_batch_fails_as_a_whole_and_under_one_name(shared):
    for streaming in (False, True):
        status, headers, body = call(shared, "/v1/completions", {"prompt": ["a", [999]], "stream": streaming}, headers=[("X-Request-Id", "batch-7")])
        assert status == 400 and error_of(body)["param"] == "prompt" and headers["x-request-id"] == "batch-7"
    status, headers, _ = call(shared, "/v1/completions", {"prompt": ["a", "b"], "max_tokens": 1}, headers=[("X-Request-Id", "batch-8")])
    assert status == 200 and headers["x-request-id"] == "batch-8"


def test_an_echo_is_the_prompt_and_then_the_answer(shared):
    plain = complete(shared, seed=1, n=2)
    echoed = complete(shared, seed=1, n=2, echo=True)
    assert [c["text"] for c in echoed["choices"]] == ["Once upon a time" + c["text"] for c in plain["choices"]]
    assert echoed["usage"] == plain["usage"]
    chunks = stream(shared, seed=1, echo=True)
    assert "".join(c["choices"][0]["text"] for c in chunks) == text(echoed)
    only = complete(shared, echo=True, max_tokens=0, prompt=["a é", "b"])
    assert [c["text"] for c in only["choices"]] == ["a é", "b"]
    assert only["usage"]["completion_tokens"] == 0 and only["choices"][0]["finish_reason"] == "length"
    back = complete(shared, echo=True, max_tokens=0, prompt=[3, 40, 41])
    assert text(back).startswith("<|assistant|>")
    stop = complete(shared, echo=True, stop="upon", seed=1)
    assert text(stop).startswith("Once upon a time")  # stop strings act in the answer
    assert "echo" in error_of(call(shared, "/v1/completions", {"prompt": "a", "echo": True, "logprobs": 1})[2])["param"]


def test_max_tokens_beyond_the_context_ends_with_length(shared):
    answer = complete(shared, prompt=[9] * 250, max_tokens=2**31 - 1)
    assert answer["usage"]["completion_tokens"] == 6 and answer["choices"][0]["finish_reason"] == "length"
    assert complete(shared, prompt=[9] * 255, max_tokens=9)["usage"]["completion_tokens"] == 1
    error = error_of(call(shared, "/v1/completions", {"prompt": [9] * 256})[2])
    assert error["code"] == "context_length_exceeded" and "256" in error["message"]


def test_an_answer_is_accepted_back_as_it_came(shared):
    first = chat(shared, chat_template_kwargs={"open_think": True})["choices"][0]["message"]
    assert first["reasoning_content"]
    turns = [{"role": "user", "content": "hi"}, first, {"role": "user", "content": "And?"}]
    extras = {"annotations": [], "audio": None, "function_call": None, "tool_calls": None, "refusal": None, "name": "me"}
    assert chat(shared, messages=turns)["usage"] == chat(shared, messages=[turns[0], {**extras, **first}, turns[2]])["usage"]


@pytest.mark.parametrize("messages", [
    [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    [{"role": "user", "content": ""}], [{"role": "assistant", "content": "a"}], [{"role": "user", "content": "é☃𝄞\u0000"}],
    [{"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
     {"role": "tool", "tool_call_id": "c", "content": "4"}, {"role": "user", "content": "x"}]], ids=range(6))
def test_messages_of_every_shape_are_rendered(shared, messages):
    assert chat(shared, messages=messages)["usage"]["prompt_tokens"] > 0


def test_arguments_of_tool_calls_reach_the_template_as_an_object(shared):
    def prompt_tokens(arguments):
        called = {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]}
        turns = [{"role": "user", "content": "hi"}, called, {"role": "tool", "tool_call_id": "c", "content": "4"}]
        return chat(shared, messages=turns)["usage"]["prompt_tokens"]

    assert prompt_tokens('{"a":[1,2]}') == prompt_tokens('{ "a" :\t[1, 2] }')      # shown as JSON, spaced its own way
    assert prompt_tokens("") == prompt_tokens("{}")
    assert prompt_tokens('{"a":[1,2]') > prompt_tokens('{"a":[1,2]}')               # what is no object is shown as a string


def test_text_parts_are_their_text(shared):
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert chat(shared, messages=parts, seed=1)["usage"] == chat(shared, messages=[{"role": "user", "content": "hi"}], seed=1)["usage"]


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_a_part_of_a_character_is_the_same_in_stream_and_whole_answer(shared, max_tokens):
    fields = {"logit_bias": {"135": 100}, "temperature": 0, "max_tokens": max_tokens, "logprobs": 1}  # the byte C3, which begins a character
    whole = complete(shared, **fields)
    assert text(whole) == "\ufffd" * max_tokens
    assert "".join(c["choices"][0]["text"] for c in stream(shared, **fields)) == text(whole)
    got = whole["choices"][0]["logprobs"]
    assert got["tokens"] == ["bytes:\\xc3"] * max_tokens and got["bytes"] == [[0xc3]] * max_tokens
    assert chat(shared, **{**fields, "logprobs": True})["choices"][0]["logprobs"]["content"][0]["bytes"] == [0xc3]
