"""The chart: what it renders is valid, consistent and restricted."""
import re
import time

import helm_python as helm
import pytest
import yaml

from conftest import (CHART, KUBERNETES, argument, check_object, containers_of, examples, needed, of_kind, pod_of, render, the)


def test_lint_finds_nothing(example):
    values, _ = example
    result = helm.lint(str(CHART), values, strict=True)
    found = [m for m in result["messages"] if m["severity"] >= 2]
    assert not found and not result["errors"], result


def test_every_object_is_valid_in_every_version(example):
    values, objects = example
    wanted = values.get("kubeVersion")
    for version in [".".join(wanted.split(".")[:2])] if wanted else KUBERNETES:
        for obj in objects:
            check_object(obj, version)


def test_names_are_unique(example):
    _, objects = example
    names = [(o["kind"], o["metadata"]["name"]) for o in objects]
    assert len(names) == len(set(names)), names


def test_containers_are_restricted(example):
    values, objects = example
    for obj in objects:
        pod = pod_of(obj)
        if pod is None:
            continue
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
        assert not any(spec.get(k) for k in ("hostNetwork", "hostPID", "hostIPC"))
        for container in containers_of(pod):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"] is True
            assert security["capabilities"]["drop"] == ["ALL"]
            rdma = values.get("worker", {}).get("rdma", {}).get("mode", "none") != "none"
            wanted = ["IPC_LOCK"] if rdma and container["name"] == "worker" else None
            assert security["capabilities"].get("add") == wanted
            assert container["resources"]["requests"]["memory"] and container["resources"]["requests"]["cpu"]
            assert not container["image"].endswith((":latest", ":"))
            assert not any("value" in e and "secret" in e["name"].lower() for e in container.get("env", []))
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                port = container[probe]["httpGet"]["port"]
                assert port in [p["name"] for p in container["ports"]], (probe, port)
            assert container["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_grace_covers_notice_and_drain(example):
    _, objects = example
    for obj in objects:
        pod = pod_of(obj)
        if pod is None:
            continue
        grace = pod["spec"]["terminationGracePeriodSeconds"]
        for container in containers_of(pod):
            notice = argument(container, "drain-notice") or ["0s"]
            drain = argument(container, "drain-timeout")
            assert int(notice[0][:-1]) + int(drain[0][:-1]) < grace


def test_what_is_mounted_is_there(example):
    _, objects = example
    for obj in objects:
        pod = pod_of(obj)
        if pod is None:
            continue
        volumes = [v["name"] for v in pod["spec"]["volumes"]]
        volumes += [c["metadata"]["name"] for c in obj["spec"].get("volumeClaimTemplates", [])]
        assert len(volumes) == len(set(volumes))
        mounted = set()
        for container in containers_of(pod):
            paths = [m["mountPath"] for m in container["volumeMounts"]]
            assert len(paths) == len(set(paths))
            mounted |= {m["name"] for m in container["volumeMounts"]}
            for flag in ("tls-cert", "tls-key", "tls-ca", "router-tls-cert", "router-tls-key", "keys", "config"):
                for path in argument(container, flag):
                    assert any(path.startswith(m + "/") for m in paths), path
        assert mounted == set(volumes)
        config_maps = [v["configMap"]["name"] for v in pod["spec"]["volumes"] if "configMap" in v]
        assert all(of_kind(objects, "ConfigMap", name) for name in config_maps)


def selects(selector, labels):
    return all(labels.get(k) == v for k, v in selector.items())


def pods_selected(objects, selector):
    pods = [pod_of(o) for o in objects if pod_of(o)]
    return [p for p in pods if selects(selector, p["metadata"]["labels"])]


def test_services_budgets_and_policies_select_pods(example):
    _, objects = example
    for service in of_kind(objects, "Service"):
        pods = pods_selected(objects, service["spec"]["selector"])
        assert len(pods) == 1, service["metadata"]["name"]
        names = {p["name"] for c in containers_of(pods[0]) for p in c["ports"]}
        assert all(p["targetPort"] in names and p["protocol"] for p in service["spec"]["ports"])
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        for obj in of_kind(objects, kind):
            assert len(pods_selected(objects, obj["spec"]["selector"]["matchLabels"])) == 1
    for monitor in of_kind(objects, "PodMonitor"):
        (pod,) = pods_selected(objects, monitor["spec"]["selector"]["matchLabels"])
        names = {p["name"] for c in containers_of(pod) for p in c["ports"]}
        assert all(e["port"] in names for e in monitor["spec"]["podMetricsEndpoints"])


def test_every_port_of_a_pod_is_named_by_a_policy(example):
    values, objects = example
    policies = of_kind(objects, "NetworkPolicy")
    if values.get("networkPolicy", {}).get("enabled", True) is False:
        assert not policies
        return
    deny = [p for p in policies if not p["spec"].get("ingress") and not p["spec"].get("egress")]
    assert len(deny) == 1
    for obj in objects:
        pod = pod_of(obj)
        if pod is None:
            continue
        labels = pod["metadata"]["labels"]
        assert selects(deny[0]["spec"]["podSelector"]["matchLabels"], labels)
        allowed = {p["port"] for policy in policies if selects(policy["spec"]["podSelector"]["matchLabels"], labels)
                   for rule in policy["spec"].get("ingress", []) for p in rule.get("ports", [])}
        wanted = {p["containerPort"] for c in containers_of(pod) for p in c["ports"]}
        assert wanted == allowed


def test_ranks_find_their_group_by_their_pod_number():
    objects = render(needed(worker={"groups": 3, "ranks": 4}))
    workers = the(objects, "StatefulSet", "choir-worker")
    assert workers["spec"]["replicas"] == 12 and workers["spec"]["podManagementPolicy"] == "Parallel"
    assert workers["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == 4
    (container,) = containers_of(pod_of(workers))
    assert argument(container, "pod") == ["$(POD_NAME).choir-worker"] and argument(container, "ranks") == ["4"]
    assert the(objects, "Service", "choir-worker")["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize("version, seconds", [("1.36.0", 15), ("1.24.9", None)])
def test_the_next_pod_is_replaced_when_the_last_one_has_been_found(version, seconds):
    objects = render(needed(kubeVersion=version, gateway={"mode": "container"}))
    for name in ("choir-router", "choir-worker"):
        assert the(objects, "StatefulSet", name)["spec"].get("minReadySeconds") == seconds


@pytest.mark.parametrize("version, ranks, strategy", [("1.34.0", 2, "OnDelete"), ("1.35.0", 2, "RollingUpdate"),
                                                      ("1.34.0", 1, "RollingUpdate")])
def test_old_clusters_do_not_mix_versions_in_a_group(version, ranks, strategy):
    objects = render(needed(kubeVersion=version, worker={"ranks": ranks}))
    assert the(objects, "StatefulSet", "choir-worker")["spec"]["updateStrategy"]["type"] == strategy


def test_a_leader_worker_set_takes_its_ranks_from_its_environment():
    objects = render(needed(worker={"mode": "leaderWorkerSet", "groups": 3, "ranks": 4}))
    assert not of_kind(objects, "StatefulSet", "choir-worker")
    lws = the(objects, "LeaderWorkerSet")["spec"]
    assert (lws["replicas"], lws["leaderWorkerTemplate"]["size"]) == (3, 4)
    assert lws["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupAfterStart"
    (container,) = containers_of(lws["leaderWorkerTemplate"]["workerTemplate"])
    assert not argument(container, "ranks") and argument(container, "listen") == ["0.0.0.0:7100"]


def test_the_load_budget_is_the_workers_start_up_probe():
    objects = render(needed(model={"loadBudgetSeconds": 7205}))
    (container,) = containers_of(pod_of(the(objects, "StatefulSet", "choir-worker")))
    probe = container["startupProbe"]
    assert probe["httpGet"]["path"] == "/readyz"  # whose text is the progress of loading
    assert probe["periodSeconds"] * probe["failureThreshold"] == 7210


@pytest.mark.parametrize("resources, threads", [
    ({"requests": {"cpu": "6", "memory": "4Gi"}}, "6"), ({"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"cpu": 8, "memory": "4Gi"}}, "8"),
    ({"requests": {"cpu": "384", "memory": "4Gi"}}, "256"), ({"requests": {"cpu": "384000m", "memory": "4Gi"}}, "256"), ({"requests": {"cpu": 256, "memory": "4Gi"}}, "256"),
    ({"requests": {"cpu": "500m", "memory": "4Gi"}}, "1"), ({"requests": {"cpu": "2500m", "memory": "4Gi"}}, "2")])
def test_threads_follow_the_cpus_of_the_container(resources, threads):
    objects = render(needed(worker={"resources": resources}))
    (container,) = containers_of(pod_of(the(objects, "StatefulSet", "choir-worker")))
    assert argument(container, "threads") == [threads]


def test_the_gateway_is_a_native_sidecar_that_knows_all_routers():
    objects = render(needed(router={"replicas": 3}))
    pod = pod_of(the(objects, "StatefulSet", "choir-router"))
    (gateway,) = pod["spec"]["initContainers"]
    assert gateway["restartPolicy"] == "Always" and gateway["startupProbe"]["httpGet"]["path"] == "/livez"
    assert argument(gateway, "router") == ["127.0.0.1:7070"] + [f"choir-router-{i}.choir-router:7070" for i in range(3)]


def test_gateways_of_their_own_share_the_routers():
    objects = render(needed(gateway={"mode": "deployment"}, router={"replicas": 2}))
    (gateway,) = containers_of(pod_of(the(objects, "Deployment", "choir-gateway")))
    assert argument(gateway, "router") == ["choir-router-0.choir-router:7070", "choir-router-1.choir-router:7070"]
    assert "--spread-routers" in gateway["args"]


def test_each_part_says_where_its_pods_run_and_what_is_written_on_them():
    own = {"nodeSelector": {"pool": "p"}, "tolerations": [{"key": "dedicated", "operator": "Exists"}], "priorityClassName": "high",
           "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
               {"weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}}]}}}
    values = {**own, "podAnnotations": {"example.org/a": "1"}, "podLabels": {"example.org/l": "2"}}
    objects = render(needed(gateway={"mode": "deployment", **values}, router=values, worker=values, commonLabels={"team": "t"}))
    workloads = [o for o in objects if pod_of(o)]
    assert {o["metadata"]["name"] for o in workloads} == {"choir-router", "choir-gateway", "choir-worker"}
    for obj in workloads:
        pod = pod_of(obj)
        assert {key: pod["spec"][key] for key in own} == own
        assert pod["metadata"]["annotations"]["example.org/a"] == "1" and pod["metadata"]["annotations"]["choir.dev/config"]
        assert pod["metadata"]["labels"]["example.org/l"] == "2" and pod["metadata"]["labels"]["team"] == "t"
        assert not {"example.org/l", "team"} & set(obj["spec"]["selector"]["matchLabels"])
        for version in KUBERNETES:
            check_object(obj, version)


def egress_ports(objects, name):
    """Ports that pods of the policy may reach, by rule."""
    return [{p["port"] for p in rule.get("ports", [])} for rule in the(objects, "NetworkPolicy", name)["spec"]["egress"]]


@pytest.mark.parametrize("mode, policy, key", [("deployment", "choir-gateway", "gatewayEgress"), ("sidecar", "choir-router", "routerEgress")])
def test_gateways_reach_the_collector_of_their_spans(mode, policy, key):
    rule = {"to": [{"namespaceSelector": {}}], "ports": [{"port": 4317, "protocol": "TCP"}]}
    objects = render(needed(gateway={"mode": mode, "config": {"trace": {"endpoint": "otel.telemetry:4317"}}}, networkPolicy={key: [rule]}))
    assert {4317} in egress_ports(objects, policy)
    for version in KUBERNETES:
        check_object(the(objects, "NetworkPolicy", policy), version)


@pytest.mark.parametrize("mode, jobs", [("sidecar", {"choir-router", "choir-gateway", "choir-worker"}), ("none", {"choir-router", "choir-worker"})])
def test_jobs_are_called_after_their_parts_whatever_the_release_is_called(mode, jobs):
    objects = render(needed(fullnameOverride="song", gateway={"mode": mode}, podMonitor={"enabled": True}))
    endpoints = [e for m in of_kind(objects, "PodMonitor") for e in m["spec"]["podMetricsEndpoints"]]
    assert {r["replacement"] for e in endpoints for r in e["relabelings"] if r["targetLabel"] == "job"} == jobs
    assert all(e["relabelings"][0]["replacement"] == "choir-" + e["port"].split("-")[0] for e in endpoints)


def test_an_ingress_leads_to_the_gateways():
    objects = render(needed(ingress={"enabled": True, "className": "edge", "hostnames": ["a.example.org", "b.example.org"], "tlsSecret": "cert"}))
    ingress = the(objects, "Ingress")
    assert [r["host"] for r in ingress["spec"]["rules"]] == ingress["spec"]["tls"][0]["hosts"] == ["a.example.org", "b.example.org"]
    service = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert service["port"]["name"] in [p["name"] for p in the(objects, "Service", service["name"])["spec"]["ports"]]
    anything = the(render(needed(ingress={"enabled": True})), "Ingress")
    assert "host" not in anything["spec"]["rules"][0] and "tls" not in anything["spec"]
    for version in KUBERNETES:
        check_object(ingress, version)
        check_object(anything, version)


def test_the_digest_of_the_weights_is_the_workers_option():
    digest = "0123456789abcdef" * 4
    (container,) = containers_of(pod_of(the(render(needed(model={"weightsDigest": digest})), "StatefulSet", "choir-worker")))
    assert argument(container, "weights-digest") == [digest]
    (container,) = containers_of(pod_of(the(render(needed()), "StatefulSet", "choir-worker")))
    assert argument(container, "weights-digest") == []


def test_every_part_says_in_its_pod_why_it_cannot_start():
    for mode in ("sidecar", "deployment"):
        for obj in render(needed(gateway={"mode": mode})):
            pod = pod_of(obj)
            for container in containers_of(pod) if pod else []:
                assert argument(container, "retry-start") == ["30s"], container["name"]


def test_options_without_a_value_of_their_own_go_into_the_file():
    objects = render(needed(router={"config": {"audit": {"segment_bytes": "64MiB"}, "redis": {"timeout": "20ms", "lease": "5s"}}},
                            redis={"existingSecret": "redis"}))
    volume = next(v for v in pod_of(the(objects, "StatefulSet", "choir-router"))["spec"]["volumes"] if v["name"] == "redis")
    assert "items" not in volume["secret"]  # what router.config.redis.ca names is there, too
    router = yaml.safe_load(the(objects, "ConfigMap", "choir")["data"]["choir.yaml"])["router"]
    assert router == {"audit": {"segment_bytes": "64MiB"}, "redis": {"timeout": "20ms", "lease": "5s"}}


@pytest.mark.parametrize("source, volume", [({"existingSecret": "idp"}, {"secret": {"secretName": "idp", "defaultMode": 0o440}}),
                                            ({"existingConfigMap": "idp", "key": "keys.json"}, {"configMap": {"name": "idp"}})])
def test_routers_read_the_keys_of_an_identity_provider(source, volume):
    objects = render(needed(router={"jwks": source, "config": {"jwt": {"issuer": "i", "audience": ["choir"]}}}))
    pod = pod_of(the(objects, "StatefulSet", "choir-router"))
    assert {"name": "jwks", **volume} in pod["spec"]["volumes"]
    (router,) = [c for c in containers_of(pod) if c["name"] == "router"]
    # The whole directory: a single file (subPath) would not follow a change.
    assert {"name": "jwks", "mountPath": "/etc/choir/jwks", "readOnly": True} in router["volumeMounts"]
    config = yaml.safe_load(the(objects, "ConfigMap", "choir")["data"]["choir.yaml"])["router"]
    assert config["jwt"] == {"issuer": "i", "audience": ["choir"], "jwks": f"/etc/choir/jwks/{source.get('key', 'jwks.json')}"}
    for version in KUBERNETES:
        check_object(the(objects, "StatefulSet", "choir-router"), version)


def test_without_an_identity_provider_nothing_of_it_is_rendered():
    objects = render(needed())
    pod = pod_of(the(objects, "StatefulSet", "choir-router"))
    assert "jwks" not in yaml.safe_dump([pod, the(objects, "ConfigMap", "choir")])


@pytest.mark.parametrize("values, said", [
    ({"limits": {"global": {"concurrency": 4}}}, "all together give up to 2 times as much; with redis.existingSecret they count together"),
    ({}, "Each router counts limits on its own: with redis.existingSecret they count together"),
    ({"replicas": 1, "limits": {"global": {"concurrency": 4}}}, None)])
def test_the_notes_say_when_routers_count_limits_each_on_its_own(values, said):
    with helm.Chart.load(str(CHART)) as chart:
        notes = chart.render(needed(router=values), name="choir", namespace="serving")["choir/templates/NOTES.txt"]
    assert said in notes if said else "counts limits" not in notes


@pytest.mark.parametrize("worker, said", [({"updateStrategy": "pods"}, True), ({"updateStrategy": "pods", "ranks": 1}, False), ({}, False),
                                          ({"updateStrategy": "onDelete"}, False)])
def test_the_notes_say_what_cannot_be_changed_pod_by_pod(worker, said):
    with helm.Chart.load(str(CHART)) as chart:
        notes = chart.render(needed(worker=worker), name="choir", namespace="serving")["choir/templates/NOTES.txt"]
    assert ("worker.updateStrategy is pods: a change of what the ranks of a group share" in notes) == said


def test_versions_of_providers_are_not_too_old():
    """Kubernetes is called v1.31.5-gke.100, which is before 1.31.5 for a constraint without a suffix of its own."""
    constraint = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert constraint.endswith("-0")
    for template in (CHART / "templates").iterdir():
        for compared in re.findall(r'semverCompare "([^"]*)"', template.read_text()):
            assert compared.endswith("-0"), (template.name, compared)
    objects = render(needed(kubeVersion="v1.35.0-gke.100"))
    assert the(objects, "StatefulSet", "choir-worker")["spec"]["updateStrategy"]["rollingUpdate"]


def test_all_examples_are_rendered_in_ten_seconds():
    begun = time.monotonic()
    for file in examples():
        render(yaml.safe_load(file.read_text()))
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("peer, pods", [({"namespaceSelector": {"matchLabels": {"a": "b"}}}, {"choir.dev/router-client": "true"}),
                                        ({"podSelector": {}}, {"choir.dev/router-client": "true"}), ({"podSelector": {"matchLabels": {"a": "b"}}}, {"a": "b"})])
def test_clients_of_routers_are_known_by_a_label_unless_another_is_given(peer, pods):
    policy = the(render(needed(networkPolicy={"routerClients": [peer]})), "NetworkPolicy", "choir-router")
    (grpc,) = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == 7070]
    assert grpc["from"][-1] == {**peer, "podSelector": {"matchLabels": pods}}
    for version in KUBERNETES:
        check_object(policy, version)


def test_the_chart_is_a_package(tmp_path):
    archive = helm.package(str(CHART), destination=str(tmp_path))
    with helm.Chart.load(archive) as chart:
        assert chart.name == "choir"
        assert not [f["name"] for f in chart.files if f["name"].startswith("ci/")]


def test_live_changes_of_limits_replace_no_pod():
    def annotations(**router):
        pod = pod_of(the(render(needed(router=router)), "StatefulSet", "choir-router"))
        return pod["metadata"]["annotations"]
    assert annotations() == annotations(tenants={"acme": {"requests_per_second": 5}}, limits={"global": {"requests_per_second": 9}})
    assert annotations() != annotations(config={"max_requests": 7})


def test_what_is_read_at_start_replaces_the_pods_that_read_it_and_no_others():
    def checksums(**values):
        pods = {o["metadata"]["name"]: pod_of(o) for o in render(needed(**values)) if pod_of(o)}
        return {name: pod["metadata"]["annotations"]["choir.dev/config"] for name, pod in pods.items()}

    jwt = {"issuer": "i", "audience": ["choir"]}
    before, after = (checksums(router={"config": {"jwt": jwt}, "jwks": {"existingSecret": "idp", "key": key}}) for key in ("a.json", "b.json"))
    assert {name for name in before if before[name] != after[name]} == {"choir-router"}
    for mode, replaced in (("deployment", {"choir-gateway"}), ("sidecar", {"choir-router"}), ("container", {"choir-router"})):
        before, after = (checksums(gateway={"mode": mode, "config": config}) for config in ({}, {"header_timeout": "9s"}))
        assert {name for name in before if before[name] != after[name]} == replaced


def test_autoscaling_leaves_the_number_of_groups_alone():
    objects = render(needed(worker={"mode": "leaderWorkerSet"}, autoscaling={"hpa": {"enabled": True}}))
    assert "replicas" not in the(objects, "LeaderWorkerSet")["spec"]
    target = the(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("LeaderWorkerSet", "choir-worker")


def test_certificates_carry_the_roles():
    objects = render(needed())
    uris = {u for c in of_kind(objects, "Certificate") for u in c["spec"].get("uris", [])}
    assert uris == {"spiffe://choir/router", "spiffe://choir/worker", "spiffe://choir/gateway"}
    issuers = {i["metadata"]["name"] for i in of_kind(objects, "Issuer")}
    assert all(c["spec"]["issuerRef"]["name"] in issuers for c in of_kind(objects, "Certificate"))
