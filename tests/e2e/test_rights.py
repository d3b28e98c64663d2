"""What a key may do: models, source addresses, expiry; and who is believed about a client's address."""
import json

import grpc
import pytest
from commands import audit_records
from conftest import Cluster, eventually
from test_grpc import pb  # noqa: F401  a fixture
from test_keys import keys
from wire import ask, call, error_of, request


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """A gateway that takes this machine for a proxy."""
    c = Cluster(tmp_path_factory.mktemp("proxied"), config="gateway: {trusted_proxies: [127.0.0.0/8]}\n")
    yield c
    assert c.stop() == 0, c.logs()


def add(cluster, tenant, *more):
    key = json.loads(keys("add", "--file", cluster.state / "keys.yaml", "--tenant", tenant, *more, "--json").stdout)
    eventually(lambda: call(cluster, "/v1/models", method="GET", key=key["key"])[0] != 401, 5, "the key is known")
    return key


def audited(cluster, tenant, phase):
    return [r for r in audit_records(cluster.state / "audit", "--phase", phase) if r["tenant"] == tenant]


def complete(cluster, key, headers=(), **fields):
    body = {"prompt": "Hello", "max_tokens": 2, **fields}
    return call(cluster, "/v1/completions", body, key=key["key"], headers=headers)


def test_a_key_may_use_its_models_only(shared):
    mine, other = add(shared, "models", "--model", shared.model, "--expires", "24h"), add(shared, "models", "--model", "other-moe", "--model", "b")
    assert complete(shared, mine)[0] == 200
    before = shared.metric(shared.ready["metrics"]["router"], "choir_rejected_total", reason="permission_denied")
    status, headers, body = complete(shared, other)
    error = error_of(body)
    assert (status, error["type"], error["code"], error["param"]) == (403, "permission_error", "permission_denied", "model")
    assert "retry-after" not in headers
    assert complete(shared, other, model="nope")[0] == 404  # the model is looked for before the right to it
    assert call(shared, "/v1/completions", {"prompt": 5}, key=other["key"])[0] == 400
    assert json.loads(call(shared, "/v1/models", method="GET", key=other["key"])[2])["data"] == []
    assert [m["id"] for m in json.loads(call(shared, "/v1/models", method="GET", key=mine["key"])[2])["data"]] == [shared.model]
    assert call(shared, f"/v1/models/{shared.model}", method="GET", key=other["key"])[0] == 403
    assert call(shared, "/v1/models/nope", method="GET", key=other["key"])[0] == 404
    assert shared.metric(shared.ready["metrics"]["router"], "choir_rejected_total", reason="permission_denied") == before + 2
    refused = [r for r in audited(shared, "models", "refused") if r["status"] == 403]
    assert [(r["principal"], r["auth"], r["model"]) for r in refused] == [(other["id"], "api_key", shared.model)] * 2
    assert headers["x-choir-audit"] == f"{refused[0]['log']}:{refused[0]['seq']}"


def test_a_key_may_come_from_its_networks_only(shared, pb):
    here, elsewhere = add(shared, "nets", "--network", "127.0.0.0/8"), add(shared, "nets", "--network", "10.0.0.0/8", "--network", "2001:db8::/32")
    assert complete(shared, here)[0] == 200
    for headers in ((), (("X-Forwarded-For", "10.0.0.1"),), (("X-Real-IP", "10.0.0.1"),), (("Forwarded", "for=10.0.0.1"),)):
        status, _, body = complete(shared, elsewhere, headers)
        assert (status, error_of(body)["code"]) == (403, "permission_denied"), headers
        assert "127.0.0.1" in error_of(body)["message"]
    for path in ("/v1/models", f"/v1/models/{shared.model}", "/v1/choir/status"):
        assert call(shared, path, method="GET", key=here["key"])[0] == 200
        assert call(shared, path, method="GET", key=elsewhere["key"])[0] == 403
    messages, stubs = pb
    with grpc.insecure_channel(shared.ready["router"]) as channel:
        stub = stubs.InferenceStub(channel)
        asked = messages.GenerateRequest(model=shared.model, prompt="Hello", sampling=messages.Sampling(max_tokens=1))
        for key, meta, code in ((here, (), None), (elsewhere, (), grpc.StatusCode.PERMISSION_DENIED),
                                (elsewhere, (("x-forwarded-for", "10.0.0.1"),), grpc.StatusCode.PERMISSION_DENIED)):
            metadata = (("authorization", "Bearer " + key["key"]), *meta)
            for ask_it in (lambda: list(stub.Generate(asked, metadata=metadata)), lambda: stub.ListModels(messages.ListModelsRequest(), metadata=metadata)):
                if code is None:
                    ask_it()
                    continue
                with pytest.raises(grpc.RpcError) as e:
                    ask_it()
                assert e.value.code() == code
    sources = {r["source"] for r in audited(shared, "nets", "refused")}
    assert "127.0.0.1" in sources and "10.0.0.1" not in sources


def test_a_trusted_proxy_names_the_client(proxied):
    key = json.loads(keys("add", "--file", proxied.state / "keys.yaml", "--tenant", "far", "--network", "192.0.2.0/24", "--json").stdout)
    eventually(lambda: complete(proxied, key)[0] == 403, 5, "the key is known")
    for value in ("192.0.2.7", "10.1.1.1, 192.0.2.7", "192.0.2.7, 127.0.0.9"):
        assert complete(proxied, key, (("X-Forwarded-For", value),))[0] == 200, value
    for value in ("192.0.2.7, 203.0.113.1", "203.0.113.1", "192.0.2.7, nonsense", "192.0.2.7,,127.0.0.9"):
        assert complete(proxied, key, (("X-Forwarded-For", value),))[0] == 403, value
    assert complete(proxied, key, (("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-For", "203.0.113.1")))[0] == 403
    assert "192.0.2.7" in {r["source"] for r in audited(proxied, "far", "intent")}


def test_rights_are_listed_and_outlive_a_rotation(tmp_path):
    file = tmp_path / "keys.yaml"
    rights = ("--model", "a", "--model", "b", "--network", "10.0.0.0/8", "--class", "bulk", "--limit", "requests_per_second=2", "--expires", "2261-01-02T03:04:05Z")
    old = json.loads(keys("add", "--file", file, "--tenant", "t", *rights, "--json").stdout)
    new = json.loads(keys("rotate", "--file", file, "--id", old["id"], "--json").stdout)
    listed = {k["id"]: k for k in json.loads(keys("list", "--file", file, "--json").stdout)}
    for key in (old, new):
        entry = listed[key["id"]]
        assert (entry["models"], entry["networks"], entry["class"]) == (["a", "b"], ["10.0.0.0/8"], "bulk")
        assert entry["limits"] == {"requests_per_second": 2, "burst": 2}
    assert listed[old["id"]]["expires"] < "2261"  # by the overlap
    assert listed[new["id"]]["expires"] is None
    assert "class=bulk models=a,b networks=10.0.0.0/8" in keys("list", "--file", file).stdout
    keys("add", "--file", file, "--tenant", "t", "--json")
    assert "rotate one at a time" in keys("rotate", "--file", file, "--tenant", "t", code=1).stderr


@pytest.mark.parametrize("args,says", [
    (("--network", "10.0.0.1/8"), "beyond the prefix"), (("--network", "here"), "10.0.0.0/8"), (("--class", "fast"), "interactive"), (("--model", ""), "models"),
    (("--limit", "burts=1"), "burst"), (("--limit", "5"), "NAME=VALUE"), (("--expires", "soon"), "2026-02-03T04:05:06Z"), (("--expires", "2001-01-01T00:00:00Z"), "is over"),
    (("--expires", "2999-01-01T00:00:00Z"), "2026-02-03T04:05:06Z")])
def test_rights_that_are_none_are_refused(tmp_path, args, says):
    out = keys("add", "--file", tmp_path / "keys.yaml", "--tenant", "t", *args, code=2)
    assert says in out.stderr and not (tmp_path / "keys.yaml").exists()


def test_header_tricks_get_nobody_in(shared):
    key = shared.key
    good = request(shared, "/v1/models", method="GET")
    assert ask(shared, good, "GET")[0] == 200
    tricks = {
        "none": (), "another scheme": [("Authorization", f"Basic {key}")], "no scheme": [("Authorization", key)],
        "tab": [("Authorization", f"Bearer\t{key}")], "two keys": [("Authorization", f"Bearer {key}, Bearer {key}")],
        "two schemes": [("Authorization", f"Basic eDp5, Bearer {key}")], "empty": [("Authorization", "Bearer")],
        "upper case key": [("Authorization", "Bearer " + key.upper())], "cut": [("Authorization", "Bearer " + key[:-1])],
        "longer": [("Authorization", f"Bearer {key}=")], "quoted": [("Authorization", f'Bearer "{key}"')],
        "encoded": [("Authorization", "Bearer ck%2D" + key[3:])], "long": [("Authorization", "Bearer ck-" + "A" * 50_000)],
        "not ASCII": [("Authorization", f"Bearer {key}\xe9")], "x-api-key": [("X-Api-Key", key)], "api-key": [("Api-Key", key)],
        "proxy": [("Proxy-Authorization", f"Bearer {key}")], "cookie": [("Cookie", f"authorization=Bearer {key}")],
        "underscore": [("X_Authorization", f"Bearer {key}")], "override": [("X-Original-Authorization", f"Bearer {key}")]}
    for name, headers in tricks.items():
        status, got, body = ask(shared, request(shared, "/v1/models", method="GET", headers=headers, key=""), "GET")
        assert status == 401 and error_of(body)["code"] == "invalid_api_key", name
        assert got["www-authenticate"] == "Bearer", name
    for name, headers in {"twice": [("Authorization", f"Bearer {key}")] * 2, "second": [("Authorization", "Bearer x"), ("authorization", f"Bearer {key}")],
                          "NUL": [("Authorization", f"Bearer {key}\0")], "folded": [("Authorization", f"Bearer\r\n {key}")],
                          "space before the colon": [("Authorization ", f"Bearer {key}")]}.items():
        assert ask(shared, request(shared, "/v1/models", method="GET", headers=headers, key=""), "GET")[0] == 400, name
    for path in (f"/v1/models?key={key}", f"/v1/models?access_token={key}&authorization=Bearer%20{key}"):
        assert ask(shared, request(shared, path, method="GET", key=""), "GET")[0] == 401, path
    for name, headers in {"spaces": [("Authorization", f"Bearer   {key}")], "case": [("AUTHORIZATION", f"bEARER {key}")], "trailing": [("Authorization", f"Bearer {key}  \t")]}.items():
        assert ask(shared, request(shared, "/v1/models", method="GET", headers=headers, key=""), "GET")[0] == 200, name
    log = (shared.state / "log").glob("*.log")
    assert all(key[3:] not in p.read_text() for p in log)


def test_grpc_metadata_tricks_get_nobody_in(shared, pb):
    messages, stubs = pb
    key = shared.key
    with grpc.insecure_channel(shared.ready["router"]) as channel:
        stub = stubs.InferenceStub(channel)
        assert stub.ListModels(messages.ListModelsRequest(), metadata=[("authorization", f"bearer  {key}")]).models
        for metadata in ([("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}")],
                         [("authorization", "Bearer x"), ("authorization", f"Bearer {key}")], [("authorization", key)],
                         [("authorization", f"Basic {key}")], [("authorization", f"Bearer {key}, x")], [("x-api-key", key)],
                         [("authorization-bin", f"Bearer {key}".encode())], [("authorization", "Bearer ck-" + "A" * 5000)]):
            with pytest.raises(grpc.RpcError) as e:
                stub.ListModels(messages.ListModelsRequest(), metadata=metadata)
            assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED, metadata
