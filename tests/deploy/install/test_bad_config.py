"""Sections of the configuration file in the values: the chart refuses what the programs would refuse at their start, and nothing
that they take."""
import subprocess

import pytest
import yaml

from conftest import BIN, MODEL, merged, needed, refusal

IMPOSSIBLE = [  # values, what the error says
    ({"router": {"config": {"listen": "0.0.0.0:1"}}}, "router.config.listen: the chart sets this itself"),
    ({"worker": {"config": {"kv_bytes": "1GiB"}}}, "worker.config.kv_bytes: the chart sets this itself"),
    ({"router": {"config": {"audit": {"class": "bounded"}}}}, "router.config.audit.class: the chart sets this itself"),
    ({"router": {"config": {"redis": {"url": "redis://r"}}}}, "router.config.redis.url: the chart sets this itself"),
    ({"router": {"config": {"jwt": {"jwks": "/keys.json"}}}}, "router.config.jwt.jwks: the chart sets this itself"),
    ({"router": {"config": {"redis": {"timeout": "20ms"}}}}, "router.config.redis: has no effect, as redis.existingSecret is empty"),
    ({"router": {"config": {"redis": {"ca": "/ca.crt"}}}, "redis": {"existingSecret": "r"}}, "router.config.redis.ca: /ca.crt is not in the pod"),
    ({"router": {"config": {"redis": {"ca": "/etc/choir/../../ca.crt"}}}, "redis": {"existingSecret": "r"}}, "router.config.redis.ca: /etc/choir/../../ca.crt is not in the pod"),
    ({"router": {"config": {"redis": {"ca": "/etc/choir/redis/.."}}}, "redis": {"existingSecret": "r"}}, "router.config.redis.ca: /etc/choir/redis/.. is not"),
    ({"router": {"config": {"redis": {"cert": "/etc/choir/redis/tls.crt"}}}, "redis": {"existingSecret": "r"}}, "one is no use without the other"),
    ({"router": {"config": {"result_cache": {"store": "redis"}}}}, "result_cache.store: redis needs redis.existingSecret"),
    ({"router": {"replicas": 1, "tenants": {"acme": {"budget": 5}}}}, "router.limits.prices: needed, as there is a budget"),
    ({"router": {"tenants": {"acme": {"budget": 5}}, "limits": {"prices": {"output": 1}}}},
     "router.tenants.acme.budget: 2 routers would count it each on its own"),
    ({"router": {"limits": {"global": {"budget": 5}, "prices": {"output": 1}}, "replicas": 3}}, "router.limits.global.budget: 3 routers would count it"),
    ({"router": {"limits": {"models": {"m": {"budget": 5}}, "prices": {"output": 1}}}}, "router.limits.models.m.budget: 2 routers would count it"),
    ({"router": {"config": {"certificates": [{"dns": "a.example", "tenant": "acme"}, {"dns": "b.example", "tenant": "acme", "limits": {"budget": 5}}]},
                 "limits": {"prices": {"output": 1}}}}, "router.config.certificates[1].limits.budget: 2 routers would count it each on its own"),
    ({"router": {"replicas": 1, "config": {"certificates": [{"dns": "a.example", "tenant": "acme", "limits": {"budget": 5}}]}}},
     "router.limits.prices: needed, as there is a budget (router.config.certificates[0].limits.budget)"),
    ({"worker": {"config": {"device": "cuda", "cpu_path": "reference"}, "gpu": {"mode": "devicePlugin"}}}, "worker.config.cpu_path: reference"),
    *(({part: {"config": {"trace": {"ratio": 0.1}}}}, f"{part}.config.trace.ratio: has no effect, as {part}.config.trace.endpoint is empty")
      for part in ("router", "gateway", "worker")),
    ({"router": {"config": {"trace": {"endpoint": "", "queue_max": 5}}}}, "router.config.trace.queue_max: has no effect"),
    ({"router": {"limits": {"models": {"dem": {"concurrency": 5}}}}}, "router.limits.models.dem: has no effect, as the only model is demo"),
    ({"model": {"name": "org/r1"}, "router": {"limits": {"models": {"org/r1": {"concurrency": 5}, "demo": {}}}}},
     "router.limits.models.demo: has no effect, as the only model is org/r1"),
    ({"router": {"jwks": {"existingSecret": "a", "existingConfigMap": "b"}}}, "router.jwks: existingSecret and existingConfigMap"),
    ({"router": {"jwks": {"existingSecret": "a"}}}, "router.config.jwt.issuer: needed, as there is router.jwks"),
    ({"router": {"jwks": {"existingConfigMap": "a"}, "config": {"jwt": {"issuer": "i", "audience": [""]}}}}, "router.config.jwt.audience: needed"),
    ({"router": {"config": {"jwt": {"issuer": "i", "audience": ["a"]}}}}, "have no effect, as neither router.jwks.existingSecret nor"),
    ({"router": {"config": {"certificates": [{"dns": "a.example", "tenant": "acme"}]}}, "tls": {"mode": "off"}},
     "router.config.certificates: clients show them over TLS only, and tls.mode is off"),
    ({"worker": {"ranks": 1, "config": {"redundant_experts": 2}}}, "redundant_experts: 2: with worker.ranks 1 one rank holds all experts"),
    ({"worker": {"ranks": 1, "config": {"redundant_experts": 2}}, "autoscaling": {"hpa": {"enabled": True}}}, "redundant_experts: 2: with worker.ranks 1"),
    ({"worker": {"config": {"cpu_path": "avx1024"}}}, "/worker/config/cpu_path"),
    ({"worker": {"config": {"cuda_kernels": "fast"}}}, "/worker/config/cuda_kernels"),
    ({"worker": {"config": {"cuda_kernels": "tensor"}}}, "worker.config.cuda_kernels: tensor"),
    ({"worker": {"config": {"device_exchange": "nccl"}}}, "worker.config.device_exchange: nccl: goes from GPU to GPU, and worker.config.device is cpu"),
    ({"worker": {"config": {"micro_batch_rows": 16}}}, "worker.config.micro_batch_rows: 16: steps of up to 16 rows (worker.config.slot_rows)"),
    ({"worker": {"config": {"micro_batch_rows": 8, "slot_rows": 8}}}, "worker.config.micro_batch_rows: 8: steps of up to 8 rows"),
    ({"worker": {"config": {"micro_batch_rows": 513}}}, "worker.config.micro_batch_rows: 513: no step has more than 512 rows (worker.config.step_tokens)"),
    ({"worker": {"config": {"f8_rows": True}}}, "worker.config.f8_rows: is for experts on a GPU, and worker.config.device is cpu"),
    ({"worker": {"config": {"cpu_experts": "some"}}}, "/worker/config/cpu_experts"),
    ({"worker": {"config": {"cpu_experts": 3}}}, "cpu_experts: 3: with worker.config.device cpu the CPU computes all experts"),
    ({"worker": {"config": {"cpu_experts": "auto", "redundant_experts": 2, "device": "cuda"}, "gpu": {"mode": "devicePlugin"}}},
     "cpu_experts: auto: experts that move would have other bits"),
    ({"worker": {"config": {"expert_hotness": ["a"]}}}, "expert_hotness: says which experts the CPU computes"),
    ({"worker": {"config": {"expert_hotness": ["/tmp/a.json"]}}}, "worker.config.expert_hotness[0]: /tmp/a.json is in no volume of the pods"),
    ({"worker": {"config": {"expert_hotness": ["/models/demo/../a.json"]}}}, "expert_hotness[0]: /models/demo/../a.json is in no volume"),
    ({"worker": {"config": {"expert_hotness": ["/etc/choir/experts/a.json"]}}}, "expert_hotness[0]: /etc/choir/experts/a.json is in no volume"),
    ({"worker": {"expertFiles": {"claimName": "c"}, "config": {"expert_counts": "/var/lib/choir-experts/",
                                                              "expert_hotness": ["/var/lib/choir-experts/a.json", "/var/lib/choir-experts/g0r1.json"]}}},
     "expert_hotness[1]: /var/lib/choir-experts/g0r1.json is written by ranks that end"),
    ({"worker": {"config": {"expert_counts": "/var/lib/choir-experts"}}}, "worker.config.expert_counts: /var/lib/choir-experts: what a rank leaves there is lost"),
    ({"worker": {"expertFiles": {"claimName": "c"}, "config": {"expert_counts": "/var/lib/choir"}}}, "worker.config.expert_counts: /var/lib/choir: what a rank"),
    ({"worker": {"expertFiles": {"claimName": "c"}, "config": {"expert_counts": "/"}}}, "worker.config.expert_counts: /: what a rank"),
    ({"worker": {"expertFiles": {"claimName": "c"}}}, "worker.expertFiles.claimName: has no effect"),
    ({"worker": {"expertFiles": {"existingConfigMap": "c"}, "config": {"expert_hotness": ["/models/demo/a.json"]}}},
     "worker.expertFiles.existingConfigMap: has no effect"),
    ({"model": {"path": "/var/lib/choir-experts/m"}}, "model.path: /var/lib/choir-experts/m is in the way"),
    ({"worker": {"config": {"expert_cover": True}}}, "worker.config.expert_cover: second copies of experts need room"),
    ({"worker": {"config": {"expert_cover": True, "redundant_experts": 0}}}, "worker.config.expert_cover: second copies"),
    ({"worker": {"ranks": 1, "config": {"expert_cover": True}}}, "second copies of experts need a second rank; leave it out"),
    ({"model": {"experts": 10}, "worker": {"ranks": 4, "config": {"expert_cover": True}}}, "give worker.config.redundant_experts, 2 for all of them"),
    ({"model": {"experts": 8}, "worker": {"ranks": 4, "config": {"redundant_experts": 7}}},
     "redundant_experts: 7 is not in 0..6: of the 8 experts of a layer (model.experts) each of 4 ranks holds 2 already"),
    ({"model": {"experts": 10}, "worker": {"ranks": 4, "config": {"redundant_experts": 8}}}, "8 is not in 0..7"),
    ({"model": {"experts": 2}, "worker": {"ranks": 2, "config": {"redundant_experts": 2}}}, "2 is not in 0..1"),
]


@pytest.mark.parametrize("values, reason", IMPOSSIBLE, ids=lambda v: str(v)[:60])
def test_the_chart_refuses_with_the_reason(values, reason):
    assert reason in refusal(needed(**values))


def worker_says(*flags):
    done = subprocess.run([BIN / "choir-worker", "--model", MODEL, "--check-config", *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 2), done.stderr
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("flags", [("--redundant-experts", "2"), ("--expert-cover",), ("--cpu-experts", "3"), ("--expert-hotness", "a"),
                                   ("--device-exchange", "nccl"), ("--f8-rows",), ("--micro-batch-rows", "16"),
                                   ("--redundant-experts", "2", "--device", "cuda", "--ranks", "2", "--cpu-experts", "auto")], ids=" ".join)
def test_the_worker_refuses_such_experts_too(flags):
    assert worker_says(*flags)


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_ways_of_rows_between_gpus_are_taken_with_gpus(device):
    config = {"device": device, "device_exchange": "nccl", "f8_rows": True, "micro_batch_rows": 17}
    assert not refusal(needed(worker={"config": config, "gpu": {"mode": "devicePlugin"}, "imageRepository": "registry.example.org/choir-cuda"}))
    assert not worker_says("--device", device, "--device-exchange", "nccl", "--f8-rows", "--micro-batch-rows", "17")


@pytest.mark.parametrize("experts, ranks, redundant", [(8, 4, 6), (10, 4, 7), (2, 2, 1), (0, 64, 4096), (8, 1, 0)])
def test_a_placement_that_fits_is_taken(experts, ranks, redundant):
    config = {"redundant_experts": redundant, "expert_cover": redundant > 0, "placement_steps": 64}
    assert not refusal(needed(model={"experts": experts}, worker={"ranks": ranks, "config": config}))
    assert not worker_says("--ranks", str(ranks), "--redundant-experts", str(redundant), *(["--expert-cover"] if redundant else []))


def classes(**rules):
    return {"admission": rules}


def certificate(**more):
    return {"certificates": [{"dns": "a.example", "tenant": "acme", **more}]}


BAD = {  # of a part: its section, what the chart's error says
    "router": [
        (classes(bulk={"floor": "91%"}), "router.config.admission: the floors of all classes together are 101%"),
        (classes(bulk={"floor": "50%"}, system={"floor": "50.5%"}, default={"floor": 0}, interactive={"floor": "0%"}), "together are 100.5%"),
        (classes(bulk={"floor": "20%", "ceiling": "10%"}), "router.config.admission.bulk.floor: 20% is above the ceiling, 10%"),
        (classes(interactive={"ceiling": "3%"}), "router.config.admission.interactive.floor: 5% is above the ceiling, 3%"),
        (classes(default={"floor": 9, "ceiling": 8}), "router.config.admission.default.floor: 9 is above the ceiling, 8"),
        (classes(system={"ceiling": "0%"}), "router.config.admission.system.ceiling: 0%: must be above 0"),
        (classes(system={"ceiling": 0}), "router.config.admission.system.ceiling: 0: must be above 0"),
        (classes(bulk={"floor": "101%"}), "router.config.admission.bulk.floor: 101% is neither"),
        (classes(bulk={"ageing": "0s"}), "router.config.admission.bulk.ageing: \"0s\" is not from 1ms to 24h"),
        (classes(bulk={"queue_timeout": "25h"}), "router.config.admission.bulk.queue_timeout: \"25h\" is not from 1ms to 24h"),
        (classes(bulk={"queue_timeout": 0}), "/router/config/admission/bulk/queue_timeout"),
        ({"retry": {"window": "0s"}}, "router.config.retry.window: \"0s\" is not from 100ms to 1h"),
        ({"request_timeout": "999ms"}, "router.config.request_timeout: \"999ms\" is not from 1s to 24h"),
        ({"dns_interval": "1 h 1"}, "/router/config/dns_interval"),
        ({"stream_bytes_max": "1MB"}, "router.config.stream_bytes_max: \"1MB\" is not from 1MiB to 4GiB"),
        ({"audit": {"segment_bytes": "17 GiB"}}, "router.config.audit.segment_bytes: \"17 GiB\" is not from 64KiB to 16GiB"),
        ({"trace": {"endpoint": "otel"}}, "router.config.trace.endpoint: otel is not host:port"),
        ({"trace": {"endpoint": "otel:0"}}, "router.config.trace.endpoint: otel:0 is not host:port with a port from 1 to 65535"),
        ({"trace": {"endpoint": "otel:65536"}}, "router.config.trace.endpoint: otel:65536 is not host:port"),
        ({"trace": {"endpoint": "http://otel:4317"}}, "router.config.trace.endpoint: http://otel:4317 is not host:port"),
        (certificate(networks=["10.0.0.1/8"]), "router.config.certificates[0].networks[0]: 10.0.0.1/8: the address has bits beyond the prefix"),
        (certificate(networks=["2001:db8::/129"]), "router.config.certificates[0].networks[0]: 2001:db8::/129: it is no network"),
        (certificate(networks=[]), "/router/config/certificates/0/networks"),
        (certificate(tenant="a b"), "/router/config/certificates/0/tenant"),
        ({"certificates": [{"spiffe": "spiffe://corp", "tenant": "acme"}]}, "/router/config/certificates/0/spiffe"),
        ({"certificates": [{"spiffe": "spiffe://corp/a*", "tenant": "acme"}]}, "/router/config/certificates/0/spiffe"),
        ({"content_rules": [{"name": "a", "pattern": "x"}, {"name": "a", "pattern": "y"}]}, "router.config.content_rules[1].name: a is given twice"),
        ({"content_rules": [{"name": "a", "pattern": "x", "tenants": ["t"]}, {"name": "a", "pattern": "y", "on": "input"}]}, "a is given twice"),
        ({"jwt": {"issuer": "i"}}, "router.config.jwt.audience: needed"),
        ({"jwt": {"issuer": "i", "audience": ["a"], "tenant_claim": ""}}, "router.config.jwt.tenant_claim: a name is needed"),
        ({"jwt": {"issuer": "i", "audience": ["a"], "models_claim": "/a~2"}}, "router.config.jwt.models_claim: /a~2 is no JSON pointer"),
        ({"tenants": {"acme": {"budget": 5}}, "limits": {"prices": {"output": 0}}}, "router.limits.prices: needed, as there is a budget"),
    ],
    "gateway": [
        ({"trusted_proxies": ["10.0.0.0/8", "10.0.0.0/33"]}, "gateway.config.trusted_proxies[1]: 10.0.0.0/33: it is no network"),
        ({"trusted_proxies": ["proxy.example.org"]}, "gateway.config.trusted_proxies[0]: proxy.example.org: it is no network"),
        ({"trusted_proxies": ["10.1.0.0/8"]}, "gateway.config.trusted_proxies[0]: 10.1.0.0/8: the address has bits beyond the prefix"),
        ({"trusted_proxies": ["2001:db8::1/32"]}, "trusted_proxies[0]: 2001:db8::1/32: the address has bits beyond"),
        ({"trusted_proxies": ["1::2::3"]}, "trusted_proxies[0]: 1::2::3: it is no network"),
        ({"trusted_proxies": ["300.0.0.0/8"]}, "trusted_proxies[0]: 300.0.0.0/8: it is no network"),
        ({"trusted_proxies": ["10.0.0.0/8/8"]}, "trusted_proxies[0]: 10.0.0.0/8/8: it is no network"),
        ({"cors_origins": ["app.example.org"]}, "gateway.config.cors_origins[0]: app.example.org is no origin"),
        ({"cors_origins": ["https://app.example.org/"]}, "gateway.config.cors_origins[0]"),
        ({"header_timeout": "0s"}, "gateway.config.header_timeout: \"0s\" is not from 1s to 59s"),
        ({"header_timeout": "60s"}, "gateway.config.header_timeout: \"60s\" is not from 1s to 59s"),
        ({"body_bytes_max": "1KB"}, "gateway.config.body_bytes_max: \"1KB\" is not from 1KiB to 4GiB"),
        ({"trace": {"endpoint": "otel:4317/v1"}}, "gateway.config.trace.endpoint"),
    ],
    "worker": [
        ({"heartbeat_timeout": "0s"}, "worker.config.heartbeat_timeout: \"0s\" is not from 500ms to 10m"),
        ({"ring_bytes": "2GiB"}, "worker.config.ring_bytes: \"2GiB\" is not from 4KiB to 1GiB"),
        ({"step_timeout": "0.5s"}, "worker.config.step_timeout: \"0.5s\" is not from 1s to 24h"),
        ({"trace": {"timeout": "0ms"}}, "worker.config.trace.timeout: \"0ms\" is not from 10ms to 1m"),
    ],
}
GOOD = {
    "router": [
        classes(bulk={"floor": "90%"}), classes(bulk={"floor": 1000000}), classes(bulk={"floor": 8, "ceiling": "1%"}),
        classes(interactive={"floor": 0, "ceiling": "3%"}), classes(bulk={"floor": "33.3%", "ceiling": "33.3%"}),
        classes(bulk={"ageing": "1ms", "queue_timeout": "24h"}), {"retry": {"window": "0.1s"}, "request_timeout": "1 m", "dns_interval": 0.1},
        {"stream_bytes_max": "1024 KiB", "audit": {"segment_bytes": "16GiB"}, "resume_grace": "0s"},
        {"trace": {"endpoint": "127.0.0.1:65535"}}, {"trace": {"endpoint": "[::1]:1"}}, {"trace": {"endpoint": "localhost:04317"}}, {"trace": {"endpoint": ""}},
        certificate(networks=["10.0.0.0/8", "10.0.0.1", "2001:db8::/32", "::/0", "::1", "1:2:3:4:5:6:7:8", "::ffff:10.0.0.0/104", "0.0.0.0/0",
                              "128.0.0.0/1", "10.1.2.3/32", "2001:db8:8000::/33"]),
        {"certificates": [{"spiffe": "spiffe://corp/*", "tenant": "acme"}, {"spiffe": "spiffe://corp/a/b", "tenant": "acme", "models": ["m"]}]},
        {"content_rules": [{"name": "a", "pattern": "x", "on": "input"}, {"name": "a", "pattern": "y", "on": "output"},
                           {"name": "b", "pattern": "x", "tenants": ["t"]}, {"name": "b", "pattern": "y", "tenants": ["u"]}]},
        {"jwt": {"issuer": "i", "audience": ["a"], "tenant_claim": "/realm/a~1b", "cache_time": "0s"}},
    ],
    "gateway": [{"trusted_proxies": ["10.0.0.0/8", "fd00::/8", "192.0.2.7"]}, {"cors_origins": ["*", "http://localhost:8080", "https://[::1]:1"]},
                {"header_timeout": "59s", "key_known_for": "0s", "body_bytes_max": "1 KiB"}],
    "worker": [{"heartbeat_timeout": "500ms", "ring_bytes": "1GiB", "step_timeout": "24h"}],
}
FLAGS = {"router": ("--model", MODEL, "--keys", "none", "--worker", "127.0.0.1:1"), "gateway": ("--router", "127.0.0.1:1"), "worker": ("--model", MODEL)}


def values_of(part, section):
    """The chart's values that make a section of that part's."""
    section = dict(section)
    own = {key: section.pop(key) for key in ("tenants", "limits") if key in section}
    if part == "router":
        own |= {"replicas": 1, "audit": {"size": "64Gi"}, "jwks": {"existingSecret": "idp" if "jwt" in section else ""}}
    return needed(**{part: {**own, "config": section}, "networkPolicy": {"workerEgress" if part == "worker" else "routerEgress": [{}]}})


def refused_by(part, section, files, tmp_path):
    """What the program says of a section; empty: it takes it."""
    if "jwt" in section:
        section = merged(section, {"jwt": {"jwks": "/etc/choir/jwks/jwks.json"}})
    config = tmp_path / "choir.yaml"
    config.write_text(yaml.safe_dump({part: section}))
    flags = [f"--tls-{flag}={files / name}" for flag, name in (("cert", "router.pem"), ("key", "router-key.pem"), ("ca", "ca.pem"))] if part == "router" else []
    done = subprocess.run([BIN / f"choir-{part}", "--config", config, "--check-config", *FLAGS[part], *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 2), done.stderr
    return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates") / "tls"
    subprocess.run([BIN / "choir", "tls", "init", "--dir", folder, "--host", "choir"], check=True, capture_output=True, timeout=60)
    return folder


def rows(table):
    return [pytest.param(part, row, id=f"{part} {str(row)[:60]}") for part, listed in table.items() for row in listed]


@pytest.mark.parametrize("part, row", rows(BAD))
def test_what_the_program_refuses_the_chart_refuses(part, row, certificates, tmp_path):
    section, reason = row
    assert reason in refusal(values_of(part, section))
    assert refused_by(part, section, certificates, tmp_path)


@pytest.mark.parametrize("part, section", rows(GOOD))
def test_what_the_program_takes_the_chart_takes(part, section, certificates, tmp_path):
    assert not refusal(values_of(part, section))
    assert not refused_by(part, section, certificates, tmp_path)
