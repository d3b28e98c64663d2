"""grpcio against the router's public service."""
import importlib
import sys

import grpc
import pytest
from commands import audit_records, by_receipt
from conftest import ROOT
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_tools import protoc


@pytest.fixture(scope="module")
def pb(tmp_path_factory):
    out = tmp_path_factory.mktemp("pb")
    assert protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}", f"--grpc_python_out={out}", "choir/v1/inference.proto"]) == 0
    sys.path.insert(0, str(out))
    return importlib.import_module("choir.v1.inference_pb2"), importlib.import_module("choir.v1.inference_pb2_grpc")


@pytest.fixture(scope="module")
def channel(cluster):
    with grpc.insecure_channel(cluster.ready["router"]) as c:
        yield c


def metadata(cluster):
    return [("authorization", f"Bearer {cluster.key}")]


def test_generate_streams_text_ids_and_usage(cluster, channel, pb):
    messages, stubs = pb
    stub = stubs.InferenceStub(channel)
    request = messages.GenerateRequest(model=cluster.model, prompt="Hello",
                                       sampling=messages.Sampling(max_tokens=12, temperature=0, ignore_eos=True))
    events = list(stub.Generate(request, metadata=metadata(cluster)))
    ids = [i for e in events for i in e.token_ids]
    assert len(ids) == 12
    assert events[-1].usage.output_tokens == 12
    assert [e.finish_reason for e in events if e.finish_reason] == ["length"]
    again = messages.GenerateRequest(model=cluster.model, sampling=request.sampling, prompt="Hello")
    assert [i for e in stub.Generate(again, metadata=metadata(cluster)) for i in e.token_ids] == ids


def test_chat_uses_the_template(cluster, channel, pb):
    messages, stubs = pb
    request = messages.ChatRequest(model=cluster.model, messages_json='[{"role":"user","content":"hi"}]',
                                   sampling=messages.Sampling(max_tokens=4))
    events = list(stubs.InferenceStub(channel).Chat(request, metadata=metadata(cluster)))
    assert events[-1].usage.prompt_tokens > 0


def test_errors_carry_the_tables_codes(cluster, channel, pb):
    messages, stubs = pb
    stub = stubs.InferenceStub(channel)
    good = messages.GenerateRequest(model=cluster.model, prompt="x", sampling=messages.Sampling(max_tokens=1))
    for meta in (None, [("authorization", "Bearer ck-no")]):
        with pytest.raises(grpc.RpcError) as e:
            list(stub.Generate(good, metadata=meta))
        assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED
    for request, code in ((messages.GenerateRequest(model="nope", prompt="x"), grpc.StatusCode.NOT_FOUND),
                          (messages.GenerateRequest(model=cluster.model, prompt="x", sampling=messages.Sampling(temperature=9)), grpc.StatusCode.INVALID_ARGUMENT),
                          (messages.GenerateRequest(model=cluster.model), grpc.StatusCode.INVALID_ARGUMENT)):
        with pytest.raises(grpc.RpcError) as e:
            list(stub.Generate(request, metadata=metadata(cluster)))
        assert e.value.code() == code, e.value.details()


def test_receipts_name_the_records_of_accepted_and_of_refused_calls(cluster, channel, pb):
    messages, stubs = pb
    stub = stubs.InferenceStub(channel)
    good = messages.GenerateRequest(model=cluster.model, prompt="x", sampling=messages.Sampling(max_tokens=1))
    call = stub.Generate(good, metadata=metadata(cluster))
    names = dict(call.initial_metadata())
    assert [e.request_id for e in call][0] == names["x-request-id"]
    seen = {names["x-choir-audit"]: ("intent", names["x-request-id"])}
    for request, meta in ((good, [("authorization", "Bearer ck-no")]), (messages.GenerateRequest(model="nope", prompt="x"), metadata(cluster))):
        refused = stub.Generate(request, metadata=meta)
        with pytest.raises(grpc.RpcError):
            list(refused)
        names = dict(refused.trailing_metadata())
        seen[names["x-choir-audit"]] = ("refused", names["x-request-id"])
    with pytest.raises(grpc.RpcError) as e:
        stub.ListModels(messages.ListModelsRequest(), metadata=[("authorization", "Bearer ck-no")])
    listed = dict(e.value.trailing_metadata())["x-choir-audit"]
    records = by_receipt(audit_records(cluster.state / "audit"))
    assert {receipt: (records[receipt]["phase"], records[receipt]["request_id"]) for receipt in seen} == seen
    assert records[listed]["phase"] == "refused" and records[listed]["status"] == 401


def test_models_health_and_reflection(cluster, channel, pb):
    messages, stubs = pb
    models = stubs.InferenceStub(channel).ListModels(messages.ListModelsRequest(), metadata=metadata(cluster)).models
    assert [m.id for m in models] == [cluster.model]
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
    assert "choir.v1.Inference" in ProtoReflectionDescriptorDatabase(channel).get_services()
