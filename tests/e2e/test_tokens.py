"""Tokens of an identity provider (JWT, RFC 7519) at the gateway and at the router's gRPC."""
import base64
import hashlib
import hmac
import json
import os
import subprocess
import time

import grpc
import jwt
import pytest
from commands import audit_records
from conftest import BIN, Cluster, eventually
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from test_grpc import pb  # noqa: F401  a fixture
from wire import call, error_of

ISSUER, AUDIENCE = "https://id.example", "choir"


class Provider:
    """Signs tokens and publishes its keys as a file that a router follows."""

    def __init__(self, file):
        self.file = file
        self.keys = {"rs": ("RS256", rsa.generate_private_key(65537, 2048)), "es": ("ES256", ec.generate_private_key(ec.SECP256R1())),
                     "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate())}
        self.publish(*self.keys)

    def publish(self, *kids):
        jwks = []
        for kid in kids:
            algorithm, key = self.keys[kid]
            jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
            jwks.append({**jwk, "kid": kid, "use": "sig"})
        self.write(json.dumps({"keys": jwks}))

    def write(self, text):
        new = self.file.with_suffix(".new")
        new.write_text(text)
        os.rename(new, self.file)

    def token(self, kid="es", headers=None, key=None, algorithm=None, **claims):
        own = self.keys.get(kid, (None, None))
        payload = {"iss": ISSUER, "aud": AUDIENCE, "sub": "app-7", "tenant": "acme", "models": ["tiny_glm4_moe"], "exp": int(time.time()) + 600, **claims}
        payload = {k: v for k, v in payload.items() if v is not None}
        return jwt.encode(payload, key or own[1], algorithm=algorithm or own[0], headers={"kid": kid, **(headers or {})})


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    return Provider(tmp_path_factory.mktemp("provider") / "jwks.json")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, provider):
    config = (f"router: {{jwt: {{jwks: {provider.file}, issuer: '{ISSUER}', audience: [{AUDIENCE}], models_claim: models, leeway: 1s}}}}\n")
    c = Cluster(tmp_path_factory.mktemp("tokens"), config=config)
    yield c
    code = c.stop()
    assert code == 0, c.logs()


def complete(cluster, token, **fields):
    return call(cluster, "/v1/completions", {"prompt": "Hello", "max_tokens": 2, **fields}, key=token)


def test_each_algorithm_is_served_and_recorded(cluster, provider, pb):
    messages, stubs = pb
    for kid in provider.keys:
        status, _, body = complete(cluster, provider.token(kid))
        assert status == 200, body
    api = cluster.openai(api_key=provider.token("ed"))
    assert api.models.list().data[0].id == cluster.model
    with grpc.insecure_channel(cluster.ready["router"]) as channel:
        stub = stubs.InferenceStub(channel)
        request = messages.GenerateRequest(model=cluster.model, prompt="Hello", sampling=messages.Sampling(max_tokens=2))
        assert list(stub.Generate(request, metadata=[("authorization", "Bearer " + provider.token("rs"))]))
        with pytest.raises(grpc.RpcError) as e:
            list(stub.Generate(request, metadata=[("authorization", "Bearer " + provider.token("rs", exp=5))]))
        assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED
    records = audit_records(cluster.state / "audit", "--phase", "intent")
    assert [(r["auth"], r["tenant"], r["principal"]) for r in records] == [("jwt", "acme", "app-7")] * 4
    assert [r["key_fp"] for r in records] == ["rs", "es", "ed", "rs"]


def test_claims_say_which_models(cluster, provider):
    token = provider.token(models=["other"])
    status, _, body = complete(cluster, token)
    assert (status, error_of(body)["code"]) == (403, "permission_denied")
    assert json.loads(call(cluster, "/v1/models", method="GET", key=token)[2])["data"] == []


def unsigned(header, payload, signature=""):
    parts = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in (header, payload)]
    return ".".join([*parts, signature])


def test_what_is_no_token_of_ours_is_refused_in_one_voice(cluster, provider):
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "app-7", "tenant": "acme", "models": ["tiny_glm4_moe"], "exp": now + 600}
    public = json.loads(provider.file.read_text())["keys"][0]
    stranger = ec.generate_private_key(ec.SECP256R1())
    good = provider.token()
    head, body, signature = good.split(".")
    raised = base64.urlsafe_b64encode(json.dumps({**claims, "tenant": "root"}).encode()).rstrip(b"=").decode()
    text = unsigned({"alg": "HS256", "kid": "rs"}, claims)[:-1]
    mac = base64.urlsafe_b64encode(hmac.new(json.dumps(public).encode(), text.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    refused = {
        "expired": provider.token(exp=now - 60), "no end": provider.token(exp=None), "not yet": provider.token(nbf=now + 600), "issued later": provider.token(iat=now + 600),
        "issuer": provider.token(iss="https://evil.example"), "audience": provider.token(aud="other"), "no audience": provider.token(aud=None),
        "tenant": provider.token(tenant="a b"), "no tenant": provider.token(tenant=None), "no models": provider.token(models=None), "no subject": provider.token(sub=None),
        "none": unsigned({"alg": "none", "kid": "es"}, claims), "none with a signature": unsigned({"alg": "none", "kid": "es"}, claims, signature), "HS256": f"{text}.{mac}",
        "another's key": provider.token(key=stranger), "another kid": provider.token("x", key=stranger, algorithm="ES256"), "key of another kind": provider.token("rs", key=stranger, algorithm="ES256"),
        "key brought along": provider.token(key=stranger, headers={"jwk": jwt.get_algorithm_by_name("ES256").to_jwk(stranger.public_key(), as_dict=True)}),
        "wrong curve": provider.token("es", key=ec.generate_private_key(ec.SECP384R1()), algorithm="ES384"), "weak": provider.token("weak", key=rsa.generate_private_key(65537, 1024), algorithm="RS256"),
        "crit": provider.token(headers={"crit": ["x"], "x": 1}), "typ": provider.token(headers={"typ": "dpop+jwt"}), "changed claims": ".".join([head, raised, signature]),
        "cut": good[:-8], "longer": good + "AAAA", "padded": good + "==", "four parts": good + ".AAAA", "huge": provider.token(padding="x" * 40_000)}
    bodies = set()
    for name, token in refused.items():
        status, headers, body = complete(cluster, token)
        assert status == 401, (name, body)
        assert headers["www-authenticate"] == "Bearer"
        bodies.add(body)
    assert len(bodies) == 1 and error_of(bodies.pop())["code"] == "invalid_api_key"
    assert complete(cluster, good)[0] == 200
    assert all(good not in p.read_text() and signature not in p.read_text() for p in (cluster.state / "log").glob("*.log"))


def test_the_set_of_keys_is_followed_and_a_broken_one_is_not(cluster, provider):
    metrics = cluster.ready["metrics"]["router"]
    old, new = provider.token("es"), provider.token("ed")
    assert complete(cluster, old)[0] == complete(cluster, new)[0] == 200
    provider.publish("ed")
    eventually(lambda: complete(cluster, old)[0] == 401, 10, "the key is taken out")
    assert complete(cluster, new)[0] == 200
    provider.write('{"keys": [')
    eventually(lambda: cluster.metric(metrics, "choir_config_reload_success") == 0, 10, "the broken set is seen")
    assert complete(cluster, new)[0] == 200
    assert "jwks.json" in cluster.logs() and "stays in force" in cluster.logs()
    os.remove(provider.file)
    assert complete(cluster, new)[0] == 200
    provider.publish(*provider.keys)
    eventually(lambda: cluster.metric(metrics, "choir_config_reload_success") == 1, 10, "the whole set is back")
    eventually(lambda: complete(cluster, old)[0] == 200, 10, "the key is back")


@pytest.mark.parametrize("config,says", [
    ("jwt: {issuer: a, audience: [b]}", "jwt.jwks"), ("jwt: {jwks: x.json, audience: [b]}", "jwt.issuer"), ("jwt: {jwks: x.json, issuer: a}", "jwt.audience"),
    ("jwt: {jwks: x.json, issuer: a, audience: [b], leeway: 1h}", "jwt.leeway"), ("jwt: {jwks: x.json, isuer: a}", "issuer"),
    ("certificates: [{spiffe: 'spiffe://a/b', tenant: t}]", "--tls-cert"), ("certificates: [{spiffe: 'spiffe://a/b'}]", "tenant is needed")])
def test_half_a_configuration_is_refused_by_name(tmp_path, config, says):
    (tmp_path / "c.yaml").write_text(f"router: {{model: /x, keys: /x, workers: ['127.0.0.1:1'], {config}}}\n")
    out = subprocess.run([BIN / "choir-router", "--config", tmp_path / "c.yaml", "--check-config"], capture_output=True, text=True, timeout=60)
    assert out.returncode == 2 and says in out.stderr, out.stderr
