"""What is refused, row by row: status, field, and what the message must say. And what is accepted at its edges."""
import json

import pytest
from wire import ask, call, chat, complete, error_of, request

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}

# field, value, what the message says; on both routes
BOTH = [
    ("temperature", 2.01, "0..2"), ("temperature", -0.01, "0..2"), ("temperature", "1", "number"), ("temperature", True, "number"),
    ("top_p", 0, "above 0"), ("top_p", 1.01, "at most 1"), ("top_p", -1, "above 0"), ("top_p", [1], "number"),
    ("top_k", 0, "-1"), ("top_k", -2, "-1"), ("top_k", 1.5, "integer"), ("top_k", 2**31, "2147483647"),
    ("min_p", -0.1, "0..1"), ("min_p", 1.1, "0..1"),
    ("n", 0, "1..128"), ("n", 129, "1..128"), ("n", -1, "1..128"), ("n", 1.5, "integer"), ("n", "2", "integer"),
    ("seed", 2**63, "integer"), ("seed", -2**63 - 1, "integer"), ("seed", 0.5, "integer"), ("seed", "7", "integer"),
    ("presence_penalty", 2.1, "-2..2"), ("presence_penalty", -2.1, "-2..2"), ("presence_penalty", "0", "number"),
    ("frequency_penalty", 2.1, "-2..2"), ("frequency_penalty", -2.1, "-2..2"),
    ("max_tokens", 0, "1.."), ("max_tokens", -1, "1.."), ("max_tokens", 2**31, "2147483647"), ("max_tokens", "5", "integer"),
    ("max_tokens", 1.5, "integer"),
    ("stop", "", "empty"), ("stop", ["a", ""], "empty"), ("stop", ["x"] * 17, "16"), ("stop", [1], "string"), ("stop", {"a": 1}, "string"),
    ("stop", "x" * 4097, "4096"),
    ("stop_token_ids", [-1], "0.."), ("stop_token_ids", [302], "301"), ("stop_token_ids", "5", "list"), ("stop_token_ids", [1] * 129, "128"),
    ("logit_bias", {"302": 1}, "301"), ("logit_bias", {"-1": 1}, "token id"), ("logit_bias", {"x": 1}, "token id"),
    ("logit_bias", {"1": 101}, "-100..100"), ("logit_bias", {"1": -100.5}, "-100..100"), ("logit_bias", {"1": "1"}, "number"),
    ("logit_bias", [1], "object"), ("logit_bias", {"99999999999999": 1}, "token id"),
    ("ignore_eos", 1, "true or false"), ("stream", "true", "true or false"), ("stream", 1, "true or false"),
    ("stream_options", {"include_usage": True}, "stream: true"), ("model", 5, "string"), ("model", "", "required"),
    ("user", 5, "string"), ("metadata", [], "object"), ("store", "no", "true or false"), ("parallel_tool_calls", "x", "true or false"),
    ("service_tier", 3, "string"), ("response_format", {"type": "json_object"}, "not supported"),
    ("response_format", {"type": "json_schema", "json_schema": {}}, "not supported"), ("unheard_of", None, "not a known field"),
    ("unheard_of", {"a": 1}, "not a known field"), ("Temperature", 1, "temperature"),
]
CHAT_ONLY = [
    ("messages", [], "at least one"), ("messages", "hi", "list"), ("messages", None, "required"), ("messages", {}, "list"),
    ("top_logprobs", 1, "logprobs"), ("logprobs", 5, "true or false"), ("max_completion_tokens", 0, "1.."),
    ("max_completion_tokens", 99, "max_tokens"), ("reasoning_effort", "extreme", "medium"), ("reasoning_effort", 3, "string"),
    ("thinking", "on", "enabled"), ("chat_template_kwargs", [], "object"), ("chat_template_kwargs", {"messages": []}, "messages"),
    ("tools", [TOOL], "not supported"), ("tools", "x", "not supported"), ("tool_choice", "auto", "not supported"),
    ("functions", [{"name": "f"}], "not supported"), ("function_call", "auto", "not supported"),
    ("prediction", {"type": "content", "content": "x"}, "not supported"), ("audio", {"voice": "a"}, "not supported"),
    ("prompt", "x", "not a known field"), ("echo", True, "not a known field"),
]
COMPLETIONS_ONLY = [
    ("prompt", None, "required"), ("prompt", [], "string"), ("prompt", {}, "string"), ("prompt", [1, -1], "0.."), ("prompt", [1.5], "0.."),
    ("prompt", [302], "301"), ("prompt", [[1], []], "list"), ("prompt", ["a", 5], "string"), ("prompt", ["x"] * 129, "128"),
    ("logprobs", 21, "0..20"), ("logprobs", -1, "0..20"), ("logprobs", True, "0..20"), ("suffix", "end", "not supported"),
    ("best_of", 2, "not supported"), ("echo", 1, "true or false"), ("messages", [], "not a known field"), ("tools", [TOOL], "not a known"),
    ("prompt", "word " * 400, "context length"),
]
# nested fields: where, body, the error's param
NESTED = [
    ({"stream": True, "stream_options": {"include_usge": True}}, "stream_options.include_usge"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": "x"}, "stream_options"),
    ({"thinking": {"type": "maybe"}}, "thinking.type"), ({"thinking": {"type": "enabled", "budget": 1}}, "thinking.budget"),
    ({"messages": [{"role": "user", "content": "x", "foo": 1}]}, "messages[0].foo"),
    ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role"), ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"), ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"), ({"messages": ["x"]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "foo": 1}]}]}, "messages[0].content[0].foo"),
    ({"messages": [{"role": "user", "content": "x", "name": 3}]}, "messages[0].name"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]}]},
     "messages[0].tool_calls[0].function.arguments"),
    ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "content": "x", "audio": {"id": "a"}}]}, "messages[0].audio"),
]
MALFORMED = [
    ("", "too early"), ("{", "too early"), ("[]", "JSON object"), ("5", "JSON object"), ('"x"', "JSON object"), ("null", "JSON object"),
    ("{}{}", "syntax"), ('{"a":1,}', "syntax"), ("{'a':1}", "syntax"), ('{"a":01}', "syntax"), ('{"a":+1}', "syntax"), ('{"a":.5}', "syntax"),
    ('{"model":"m","model":"m"}', "twice"), ('{"metadata":{"a":1,"a":2}}', "twice"), ('{"user":"\\ud800"}', "surrogate"),
    ('{"user":"\\udc00x"}', "surrogate"), (b'{"user":"\xff"}', "UTF-8"), (b'{"user":"\xc3"}', "UTF-8"), (b'{"user":"\xed\xa0\x80"}', "UTF-8"),
    ('{"user":"a\x01b"}', "syntax"), ('{"temperature":NaN}', "NaN"), ('{"temperature":-Infinity}', "NaN"), ('{"temperature":1e999}', "range"),
    ('{"a":' + "9" * 400 + "}", "range"), ('{"a":' * 70 + "1" + "}" * 70, "deeper"), ("{}\x00", "NUL"), ('{"user":"a"}\x00{}', "NUL"),
]


def refused(shared, path, body, status=400):
    got, headers, text = call(shared, path, body)
    assert got == status, text
    assert headers["x-request-id"] and headers["content-type"] == "application/json"
    error = error_of(text)
    assert error["type"] == "invalid_request_error"
    return error


def base(path):
    return {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2} if "chat" in path else {"prompt": "hi", "max_tokens": 2}


def rows():
    for path, tables in ((CHAT, (BOTH, CHAT_ONLY)), (COMPLETIONS, (BOTH, COMPLETIONS_ONLY))):
        for field, value, says in (row for table in tables for row in table):
            yield pytest.param(path, field, value, says, id=f"{path.split('/')[2]}-{field}-{str(value)[:24]}")


@pytest.mark.parametrize("path,field,value,says", rows())
def test_a_field_out_of_its_range_is_named_with_its_range(shared, path, field, value, says):
    if field == "unheard_of" and value is None:
        says = "not a known field"  # null makes no unknown field known
    error = refused(shared, path, {**base(path), field: value})
    assert field in error["param"] and says in error["message"], error


@pytest.mark.parametrize("body,param", NESTED, ids=[param for _, param in NESTED])
def test_a_nested_field_is_named_by_its_path(shared, body, param):
    assert refused(shared, CHAT, {**base(CHAT), **body})["param"] == param


@pytest.mark.parametrize("body,says", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_body_is_400_on_every_surface(shared, body, says):
    for path in (CHAT, "/chat/completions"):
        assert says in refused(shared, path, body)["message"]


@pytest.mark.parametrize("path,body,status", [
    ("/chat/completions", {"temperature": 9}, 422), ("/chat/completions", {"foo": 1}, 422), ("/chat/completions", {"messages": []}, 422),
    ("/chat/completions", {"model": ""}, 422), ("/chat/completions", {"logit_bias": {"302": 1}}, 422), ("/beta/completions", {"suffix": "x"}, 422),
    ("/beta/completions", {"n": 129}, 422), ("/beta/completions", {"prompt": [999]}, 422), ("/chat/completions", {"model": "nope"}, 404),
    ("/beta/completions", {"model": "nope"}, 404), ("/chat/completions", {}, 200), ("/beta/completions", {}, 200)])
def test_deepseeks_paths_answer_422_for_parameters(shared, path, body, status):
    got, _, text = call(shared, path, {**base(path), **body})
    assert got == status, text
    if status != 200:
        error_of(text)


@pytest.mark.parametrize("fields", [
    {"temperature": 0}, {"temperature": 2}, {"temperature": 1e-9}, {"top_p": 1e-9}, {"top_p": 1}, {"top_k": -1}, {"top_k": 1}, {"top_k": 2**31 - 1},
    {"min_p": 0}, {"min_p": 1}, {"n": 2}, {"n": 2.0}, {"seed": -2**63}, {"seed": 2**63 - 1}, {"seed": 0}, {"presence_penalty": -2},
    {"presence_penalty": 2}, {"frequency_penalty": -2}, {"frequency_penalty": 2}, {"stop": []}, {"stop": "x" * 4096}, {"stop": ["q"] * 16},
    {"stop_token_ids": []}, {"stop_token_ids": [0, 301]}, {"logit_bias": {}}, {"logit_bias": {"0": -100, "301": 100}}, {"user": "u"},
    {"metadata": {"a": "b"}}, {"store": False}, {"service_tier": "auto"}, {"parallel_tool_calls": True}, {"response_format": {"type": "text"}},
    {"max_tokens": 2**31 - 1, "stop_token_ids": list(range(128))}, {"stream_options": None}, {"seed": None, "stop": None, "n": None, "logprobs": None}],
    ids=lambda f: ",".join(f"{k}={str(v)[:16]}" for k, v in f.items()))
def test_a_field_at_its_edge_is_accepted(shared, fields):
    for ask_for in (chat, complete):
        answer = ask_for(shared, **{"max_tokens": 2, **fields})
        assert answer["choices"][0]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("fields", [
    {"tools": []}, {"tool_choice": "none"}, {"prediction": None}, {"reasoning_effort": "low"}, {"thinking": {"type": "disabled"}},
    {"chat_template_kwargs": {}}, {"chat_template_kwargs": {"enable_thinking": False}}, {"max_tokens": None, "max_completion_tokens": 3},
    {"max_tokens": 3, "max_completion_tokens": 3}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 20}, {"logprobs": False}],
    ids=str)
def test_a_chat_field_at_its_edge_is_accepted(shared, fields):
    answer = chat(shared, **fields)
    if "max_completion_tokens" in fields:
        assert answer["usage"]["completion_tokens"] <= 3


@pytest.mark.parametrize("raw,status", [
    # path before method before key before size before body before model
    (lambda c: request(c, "/nothing", "{", key=""), 404), (lambda c: request(c, "/v1/messages", {}), 404),
    (lambda c: request(c, CHAT, method="GET", key=""), 405), (lambda c: request(c, "/v1/models", "{", key=""), 405),
    (lambda c: request(c, CHAT, "{", key=""), 401), (lambda c: request(c, CHAT, "{", key="ck-no"), 401),
    (lambda c: request(c, CHAT, None, key="", headers=[("Content-Length", 2**40)]), 401),
    (lambda c: request(c, CHAT, None, headers=[("Content-Length", 2**40), ("X-Request-Id", "a b")]), 413),
    (lambda c: request(c, CHAT, "{", headers=[("X-Request-Id", "a b")]), 400),
    (lambda c: request(c, CHAT, json.dumps({"model": "nope", "messages": [], "max_tokens": 0})), 400),
    (lambda c: request(c, CHAT, json.dumps({"model": "nope", "messages": [{"role": "user", "content": "x" * 9999}]})), 404),
    (lambda c: request(c, "/nothing", None, key="", headers=[("Content-Length", "x")]), 400)], ids=range(12))
def test_the_first_check_that_fails_decides(shared, raw, status):
    got, headers, body = ask(shared, raw(shared))
    assert got == status, body
    error_of(body)
    assert ("allow" in headers) == (status == 405)
    assert ("www-authenticate" in headers) == (status == 401)


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic abc", "Bearer a b", "Bearer \xff\xfe", "x" * 5000, "Bearer " + "k" * 5000])
def test_a_key_that_is_none_is_401_and_harms_nobody(shared, header):
    got, _, body = ask(shared, request(shared, "/v1/models", method="GET", key="", headers=[("Authorization", header)]))
    assert got == 401 and error_of(body)["code"] == "invalid_api_key"
    assert call(shared, "/v1/models", method="GET")[0] == 200


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/chat/completions", "/v1/models"])
@pytest.mark.parametrize("name,value,status", [
    ("X-Request-Timeout", "0", 400), ("X-Request-Timeout", "-1", 400), ("X-Request-Timeout", "abc", 400), ("X-Request-Timeout", "86401", 400),
    ("X-Request-Timeout", "nan", 400), ("X-Request-Timeout", "inf", 400), ("X-Request-Timeout", "1 2", 400), ("X-Request-Timeout", "86400", 200),
    ("X-Request-Timeout", "59.5", 200), ("X-Request-Id", "a b", 400), ("X-Request-Id", "a" * 129, 400), ("X-Request-Id", "\xe9", 400),
    ("X-Request-Id", "a" * 128, 200), ("X-Request-Id", "A.b_c-9", 200)])
def test_headers_out_of_their_range_are_400_on_every_route(shared, path, name, value, status):
    get = path == "/v1/models"
    got, headers, body = call(shared, path, None if get else base(path), method="GET" if get else "POST", headers=[(name, value)])
    assert got == status, body
    if status == 400:
        assert error_of(body)["param"] == name.lower()
    if (name, status) == ("X-Request-Id", 200):
        assert headers["x-request-id"] == value
