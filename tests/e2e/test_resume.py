"""A gateway is killed while streams run through it: their clients go on at another one, with the same bytes."""
import http.client
import json
import urllib.parse

import pytest
from commands import add_key, audit_records
from conftest import Cluster, eventually
from streams import KINDS, STORY, TEXT, Answer, Gateway, ask, body, long_model, outlive


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("resume")
    c = Cluster(tmp, model=long_model(tmp), config="router: {resume_grace: 20s}")
    yield c
    assert c.stop() == 0, c.logs()


def test_streams_go_on_at_another_gateway(cluster):
    kinds = [(path, {**kind, "max_tokens": 1000}) for path, kind in KINDS]
    expected = [ask(cluster, path, kind).content() for path, kind in kinds]
    gateway = Gateway(cluster)
    answers = outlive(cluster, gateway, kinds)
    for answer, want in zip(answers, expected):
        assert answer.error is None and answer.content() == want
    eventually(cluster.workers_idle, what="idle workers")
    # What is delivered is kept no longer, each request was on record once, and who took it up is, too.
    again = Answer()
    again.id = answers[0].id
    assert eventually(lambda: again.resume(cluster.url, cluster.key) == 404, what="the end of what is delivered")
    mine = [r for r in audit_records(cluster.state / "audit") if r.get("request_id") == answers[0].id]
    assert [(r["phase"], r.get("status")) for r in mine] == [("intent", None), ("outcome", 200)]
    # Some may have had all of their answer in their socket.
    taken_up = {r["detail"].split()[0] for r in audit_records(cluster.state / "audit") if r["phase"] == "admin" and r["event"] == "resume"}
    assert taken_up == {a.id for a in answers if a.connections > 1} != set()


def test_a_stream_that_ended_meanwhile_is_read_from_any_place(cluster):
    path, kind = KINDS[1]
    want = ask(cluster, path, kind)
    gateway = Gateway(cluster)
    answer = Answer()
    ids = []
    answer.read(gateway.url, cluster.key, "POST", path, body(cluster, kind), on_event=lambda n: (ids.append(answer.last_event_id), n == 20 and gateway.kill()))
    eventually(cluster.workers_idle, what="an end of the computing")
    finished = eventually(lambda: cluster.metric(cluster.ready["metrics"]["router"], "choir_requests_inflight") == 0, what="an end")
    assert finished
    whole = Answer()
    whole.id = answer.id
    assert whole.resume(cluster.url, cluster.key) == 200 and whole.done  # without a Last-Event-ID: all of it
    assert whole.content() == want.content()


@pytest.fixture
def torn(cluster):
    """An answer whose gateway was killed."""
    gateway = Gateway(cluster)
    answer = Answer()
    answer.read(gateway.url, cluster.key, "POST", TEXT, body(cluster, {**STORY, "seed": 9, "max_tokens": 800}), on_event=lambda n: n == 5 and gateway.kill())
    return answer


def test_only_its_tenant_takes_a_stream_up_and_bad_places_change_nothing(cluster, torn):
    key = add_key(cluster.state, "acme")
    stranger = Answer()
    stranger.id = torn.id
    eventually(lambda: stranger.resume(cluster.url, key) != 401, 5, "the new key")
    assert stranger.resume(cluster.url, key) == 404 and stranger.error["code"] == "not_found"
    assert Answer().read(cluster.url, cluster.key, "GET", "/v1/streams/req-unknown") == 404
    assert Answer().read(cluster.url, "ck-wrong", "GET", f"/v1/streams/{torn.id}") == 401
    for place in ("x", "1.1", "999999", "-1"):
        answer = Answer()
        assert answer.read(cluster.url, cluster.key, "GET", f"/v1/streams/{torn.id}", headers={"last-event-id": place}) == 400
        assert answer.error["param"] == "last-event-id"
    post = Answer()
    assert post.read(cluster.url, cluster.key, "POST", f"/v1/streams/{torn.id}", {}) == 405
    assert torn.resume(cluster.url, cluster.key) == 200 and torn.done
    assert torn.content() == ask(cluster, TEXT, {**STORY, "seed": 9, "max_tokens": 800}).content()


def test_what_nobody_takes_up_ends(tmp_path):
    cluster = Cluster(tmp_path, model=long_model(tmp_path), config="router: {resume_grace: 1s}")
    try:
        gateway = Gateway(cluster)
        answer = Answer()
        answer.read(gateway.url, cluster.key, "POST", TEXT, body(cluster, {**STORY, "max_tokens": 6000}), on_event=lambda n: n == 5 and gateway.kill())
        router = cluster.ready["metrics"]["router"]
        eventually(lambda: cluster.metric(router, "choir_requests_total", code="499") == 1, what="its end")
        eventually(cluster.workers_idle, what="idle workers")
        assert answer.resume(cluster.url, cluster.key) == 404
        assert cluster.metric(router, "choir_ledger_difference") == 0
    finally:
        assert cluster.stop() == 0, cluster.logs()


def test_a_client_that_goes_away_itself_takes_its_stream_along(cluster):
    answer = Answer()
    place = urllib.parse.urlsplit(cluster.url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    connection.request("POST", TEXT, json.dumps(body(cluster, {**STORY, "max_tokens": 6000})), {"authorization": f"Bearer {cluster.key}"})
    response = connection.getresponse()
    answer.id = response.headers["x-request-id"]
    response.readline()
    connection.sock.close() if connection.sock else response.close()
    connection.close()
    response.close()
    eventually(cluster.workers_idle, what="idle workers")
    assert eventually(lambda: answer.resume(cluster.url, cluster.key) == 404, what="nothing left of it")
