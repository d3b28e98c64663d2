"""Values that cannot work are refused with the reason: by the schema what is not a value at all, by the chart what does
not go together."""
import json

import helm_python as helm
import jsonschema
import pytest
import yaml

from conftest import CHART, ROOT, check_object, examples, merged, needed, of_kind, refusal, render, the

TYPOS = [  # values, what the error names
    ({"replica": 3}, "replica"),
    ({"router": {"replica": 3}}, "replica"),
    ({"worker": {"gpu": {"cuont": 1}}}, "cuont"),
    ({"worker": {"resources": {"request": {"cpu": "1"}}}}, "request"),
    ({"router": {"replicas": "2"}}, "/router/replicas"),
    ({"router": {"replicas": 0}}, "/router/replicas"),
    ({"worker": {"ranks": 65}}, "/worker/ranks"),
    ({"worker": {"mode": "deployment"}}, "/worker/mode"),
    ({"worker": {"kvBytes": "lots"}}, "/worker/kvBytes"),
    ({"worker": {"resources": {"limits": {"memory": "4GB"}}}}, "/worker/resources/limits/memory"),
    ({"image": {"digest": "sha256:12"}}, "/image/digest"),
    ({"model": {"path": "models/demo"}}, "/model/path"),
    ({"model": {"loadBudgetSeconds": -1}}, "/model/loadBudgetSeconds"),
    ({"gateway": {"mode": "beside"}}, "/gateway/mode"),
    ({"gateway": {"service": {"port": 70000}}}, "/gateway/service/port"),
    ({"tls": {"mode": False}}, "/tls/mode"),  # `off` without quotes is a boolean in YAML
    ({"drain": {"drainSeconds": "10m"}}, "/drain/drainSeconds"),
    ({"autoscaling": {"keda": {"prometheus": "prometheus:9090"}}}, "/autoscaling/keda/prometheus"),
    ({"networkPolicy": {"clients": [{"namespaceSelectr": {}}]}}, "namespaceSelectr"),
    ({"networkPolicy": {"clients": [{}]}}, "/networkPolicy/clients/0"),
    ({"commonLabels": {"team": 7}}, "/commonLabels/team"),
    ({"commonLabels": {"team": "a b"}}, "/commonLabels/team"),
    ({"router": {"config": {"max_request": 5}}}, "max_request"),
    ({"router": {"config": {"max_requests": 0}}}, "/router/config/max_requests"),
    ({"router": {"config": {"audit": {"segment_byte": "1MiB"}}}}, "segment_byte"),
    ({"router": {"config": {"policy": {"name": "random"}}}}, "/router/config/policy/name"),
    ({"router": {"config": {"retry": {"window": "soon"}}}}, "/router/config/retry/window"),
    ({"router": {"config": {"admission": {"bulk": {"flor": "5%"}}}}}, "flor"),
    ({"router": {"config": {"content_rules": [{"name": "n", "patern": "a"}]}}}, "patern"),
    ({"router": {"tenants": {"acme": {"request_per_second": 5}}}}, "request_per_second"),
    ({"router": {"tenants": {"acme": {"requests_per_second": "many"}}}}, "/router/tenants/acme/requests_per_second"),
    ({"router": {"limits": {"globl": {}}}}, "globl"),
    ({"router": {"limits": {"global": {"concurrency": 0}}}}, "/router/limits/global/concurrency"),
    ({"gateway": {"config": {"cors_origin": ["*"]}}}, "cors_origin"),
    ({"worker": {"config": {"dtype": "fp8"}}}, "/worker/config/dtype"),
    ({"worker": {"config": {"step_token": 512}}}, "step_token"),
    ({"worker": {"resources": {"limits": {"memroy": "4Gi"}}}}, "memroy"),
    ({"router": {"affinity": {"nodeAffinity": {"requiredDuringScheduling": {}}}}}, "requiredDuringScheduling"),
    ({"worker": {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "podAffinityTerm": {"topologykey": "a"}}]}}}}, "topologykey"),
    ({"worker": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "Is"}]}]}}}}}, "operator"),
    ({"networkPolicy": {"clients": [{"podSelector": {"matchExpressions": [{"key": "a", "oprator": "In"}]}}]}}, "oprator"),
    ({"networkPolicy": {"routerEgress": [{"ports": [{"prot": 4317}]}]}}, "prot"),
    ({"worker": {"gpu": {"resourceName": "gpu"}}}, "/worker/gpu/resourceName"),
    ({"model": {"weightsDigest": "sha256:12"}}, "/model/weightsDigest"),
    ({"httpRoute": {"enabled": True, "parentRefs": [{"namespace": "g"}]}}, "name"),
    ({"httpRoute": {"hostnames": ["llm example.org"]}}, "/httpRoute/hostnames/0"),
    ({"ingress": {"hostname": "a.example.org"}}, "hostname"),
    ({"podMonitor": {"labels": {"release": 1}}}, "/podMonitor/labels/release"),
    ({"podMonitor": {"interval": "1h1h"}}, "/podMonitor/interval"),
    ({"podMonitor": {"interval": "1.5s"}}, "/podMonitor/interval"),
    ({"httpRoute": {"requestTimeout": "1d"}}, "/httpRoute/requestTimeout"),
    ({"httpRoute": {"requestTimeout": "100000s"}}, "/httpRoute/requestTimeout"),
    ({"httpRoute": {"hostnames": ["10.0.0.1"]}}, "/httpRoute/hostnames/0"),
    ({"httpRoute": {"hostnames": ["a.example", "a.example"]}}, "/httpRoute/hostnames"),
    ({"httpRoute": {"hostnames": [f"a{i}.example" for i in range(17)]}}, "/httpRoute/hostnames"),
    ({"httpRoute": {"parentRefs": [{"name": f"g{i}"} for i in range(33)]}}, "/httpRoute/parentRefs"),
    ({"httpRoute": {"parentRefs": [{"name": "g", "kind": "My Gateway"}]}}, "/httpRoute/parentRefs/0/kind"),
    ({"ingress": {"hostnames": ["10.0.0.1"]}}, "/ingress/hostnames/0"),
    ({"image": {"tag": "1 2"}}, "/image/tag"),
    ({"image": {"tag": "t" * 129}}, "/image/tag"),
    ({"image": {"digest": "sha256:" + "A" * 64}}, "/image/digest"),
    ({"image": {"pullSecrets": ["My_Registry"]}}, "/image/pullSecrets/0"),
    ({"worker": {"imageDigest": "sha512:" + "0" * 64}}, "/worker/imageDigest"),
    ({"commonLabels": {"a" * 64: "x"}}, "commonLabels"),
    ({"fullnameOverride": "a" * 41}, "/fullnameOverride"),
    ({"kubeVersion": "1.33"}, "/kubeVersion"),
    ({"router": {"spreadOver": ["a b"]}}, "/router/spreadOver/0"),
    ({"worker": {"spreadOver": ["zone", "zone"]}}, "/worker/spreadOver"),
    ({"worker": {"groupTopologyKey": "rack/"}}, "/worker/groupTopologyKey"),
    ({"router": {"tolerations": [{"key": "a", "effect": "NoScheduling"}]}}, "/router/tolerations/0/effect"),
    ({"router": {"tolerations": [{"key": "a b"}]}}, "/router/tolerations/0/key"),
    ({"worker": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}}, "nodeSelectorTerms"),
    ({"worker": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101, "preference": {}}]}}}}, "weight"),
    ({"router": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": ""}]}}}}, "topologyKey"),
    ({"networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"a": "b c"}}}]}}, "/networkPolicy/clients/0/podSelector/matchLabels/a"),
    ({"networkPolicy": {"clients": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b c"]}]}}]}}, "matchExpressions/0/values/0"),
    ({"networkPolicy": {"routerEgress": [{"ports": [{"port": 65536}]}]}}, "/networkPolicy/routerEgress/0/ports/0/port"),
    ({"networkPolicy": {"routerEgress": [{"ports": [{"port": "Otel"}]}]}}, "/networkPolicy/routerEgress/0/ports/0/port"),
    ({"router": {"jwks": {"key": "../jwks.json"}}}, "/router/jwks/key"),
    ({"worker": {"rdma": {"matchAttribute": "pcieRoot"}}}, "/worker/rdma/matchAttribute"),
]

IMPOSSIBLE = [  # values, what the error says
    ({"drain": {"terminationGracePeriodSeconds": 600}}, "600 is shorter than noticeSeconds + drainSeconds + flushSeconds = 625"),
    ({"keysSecret": ""}, "keysSecret: routers serve nobody without API keys"),
    ({"model": {"claimName": ""}}, "model.claimName: needed, as model.source is pvc"),
    ({"model": {"source": "image"}}, "model.imageReference: needed"),
    ({"model": {"hostPath": "/srv"}}, "model.hostPath: has no effect, as model.source is pvc"),
    ({"model": {"experts": 1}}, "2 ranks cannot share the 1 experts"),
    ({"model": {"weightBytes": "689Gi", "sharedWeightBytes": "20Gi"}, "worker": {"ranks": 8}}, "4Gi cannot hold a rank: 103.6Gi of weights"),
    ({"model": {"weightBytes": "689Gi", "sharedWeightBytes": "20Gi", "experts": 256},
      "worker": {"ranks": 8, "resources": {"limits": {"memory": "112Gi"}}, "config": {"redundant_experts": 16}}},
     "112Gi cannot hold a rank: 145.4Gi of weights (model.sharedWeightBytes and 48 of 256 experts of each layer), 1Gi of KV cache, 64Mi of shared memory and 512Mi need "
     "155.7Gi; give more memory, more ranks or fewer redundant_experts"),
    ({"model": {"weightBytes": "10Gi", "experts": 10}, "worker": {"ranks": 4}}, "4Gi cannot hold a rank: 3.0Gi of weights (model.sharedWeightBytes and 3 of 10 experts"),
    ({"model": {"weightBytes": "1Gi"}, "worker": {"config": {"redundant_experts": 1}}}, "model.experts: needed, as model.weightBytes is there to be checked"),
    ({"model": {"weightBytes": "1Gi", "sharedWeightBytes": "2Gi"}}, "sharedWeightBytes: 2Gi is more than model.weightBytes"),
    ({"autoscaling": {"hpa": {"enabled": True}, "keda": {"enabled": True, "prometheus": "http://p:9090"}}}, "two autoscalers"),
    ({"autoscaling": {"hpa": {"enabled": True}}}, "a StatefulSet scales by pods, and a group of 2 ranks only as a whole"),
    ({"worker": {"ranks": 1}, "autoscaling": {"hpa": {"enabled": True}, "minGroups": 5, "maxGroups": 4}}, "minGroups: 5 is more than maxGroups, 4"),
    ({"worker": {"ranks": 1}, "autoscaling": {"keda": {"enabled": True}}}, "keda.prometheus: needed"),
    ({"worker": {"updateStrategy": "groups"}, "kubeVersion": "1.34.2"}, "groups needs maxUnavailable of StatefulSets"),
    ({"worker": {"mode": "leaderWorkerSet", "updateStrategy": "pods"}}, "replaces whole groups by itself"),
    ({"worker": {"groupTopologyKey": "rack"}}, "only a LeaderWorkerSet keeps a group together"),
    ({"worker": {"maxSurge": 1}}, "worker.maxSurge: a StatefulSet has none"),
    ({"kubeVersion": "1.28.9"}, "native sidecars need Kubernetes 1.29"),
    ({"kubeVersion": "1.32.0", "model": {"claimName": "", "source": "image", "imageReference": "r@x"}}, "image volumes need Kubernetes 1.33"),
    ({"kubeVersion": "1.33.0", "worker": {"gpu": {"mode": "dra"}}}, "dra needs resource.k8s.io/v1, Kubernetes 1.34"),
    ({"worker": {"gpu": {"mode": "dra"}, "config": {"device": "cuda"}}}, "worker.imageRepository: needed, as worker.gpu.mode is dra: `image` computes on CPUs"),
    ({"worker": {"gpu": {"mode": "devicePlugin"}, "config": {"device": "auto"}}}, "worker.imageRepository: needed, as worker.gpu.mode is devicePlugin"),
    ({"worker": {"rdma": {"mode": "dra"}}}, "worker.rdma.deviceClassName: needed"),
    ({"worker": {"rdma": {"matchAttribute": "a/b"}}}, "matchAttribute: needs dra for both"),
    ({"worker": {"imageTag": "1"}}, "name worker.imageRepository, too"),
    ({"gateway": {"mode": "none"}, "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}}, "nothing to route to"),
    ({"httpRoute": {"enabled": True}}, "a route that belongs to no Gateway"),
    ({"tls": {"mode": "existing"}}, "tls.existing.workerSecret: needed"),
    ({"tls": {"existing": {"routerSecret": "r"}}}, "tls.existing.routerSecret: has no effect"),
    ({"serviceAccount": {"create": False}}, "serviceAccount.name: needed"),
    ({"router": {"resources": {"requests": {"cpu": "1500m"}, "limits": {"cpu": 1}}}}, "router.resources.requests.cpu: 1500m is more than its limit, 1"),
    ({"gateway": {"resources": {"requests": {"memory": "1Gi"}}}}, "gateway.resources.requests.memory: 1Gi is more than its limit, 512Mi"),
    ({"worker": {"resources": {"requests": {"example.org/nic": 1}}}}, "requests.example.org/nic: 1 has to be given as its limit, too"),
    ({"worker": {"kvBytes": "4Gi"}}, "4Gi cannot hold a rank: 4Gi of KV cache, 64Mi of shared memory and 512Mi need 4.6Gi"),
    ({"worker": {"shmSize": "3Gi"}}, "4Gi cannot hold a rank: 1Gi of KV cache, 3Gi of shared memory"),
    ({"worker": {"shmSize": "4Gi", "gpu": {"mode": "devicePlugin"}, "config": {"device": "cuda"}}}, "4Gi cannot hold a rank: 4Gi of shared memory and 512Mi"),
    ({"worker": {"kvBytes": "0"}}, "worker.kvBytes: 0 is not from 64Ki to 16Ti"),
    ({"worker": {"gpu": {"mode": "devicePlugin", "resourceName": "a.example/b"}, "rdma": {"mode": "devicePlugin", "resourceName": "a.example/b"}}},
     "a.example/b is worker.gpu.resourceName already"),
    ({"worker": {"gpu": {"mode": "devicePlugin"}, "resources": {"limits": {"nvidia.com/gpu": 1}}}}, "worker.gpu and worker.rdma ask for it already"),
    ({"tls": {"certManager": {"duration": "24h", "renewBefore": "1h1380m"}}}, "renewBefore: 1h1380m is not less than duration, 24h"),
    ({"tls": {"certManager": {"duration": "3599s999ms", "renewBefore": "10m"}}}, "duration: 3599s999ms is less than cert-manager's least, 1h"),
    ({"tls": {"certManager": {"renewBefore": "1m"}}}, "renewBefore: 1m is less than cert-manager's least, 5m"),
    ({"autoscaling": {"hpa": {"target": "0m"}}}, "autoscaling.hpa.target: 0m of a metric would always ask for one more group"),
    ({"autoscaling": {"keda": {"target": "0.0"}}}, "autoscaling.keda.target: 0.0 of a metric"),
    ({"fullnameOverride": "song.prod"}, "services would be called song.prod, but their names begin with a letter"),
    ({"fullnameOverride": "1st"}, "services would be called 1st"),
    ({"nameOverride": "Choir"}, "nameOverride: Choir: a name has only a-z"),
    ({"networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0"}}]}}, "networkPolicy.clients[0]: 10.0.0.0: a block of addresses is written with its mask"),
    ({"networkPolicy": {"workerEgress": [{"to": [{"ipBlock": {"cidr": "::/0", "except": ["fe80::"]}}]}]}}, "networkPolicy.workerEgress[0].to[0]: fe80:::"),
    ({"networkPolicy": {"gatewayEgress": [{"ports": [{"port": 4317}]}]}}, "gatewayEgress: has no effect, as gateway.mode is sidecar"),
    ({"worker": {"config": {"trace": {"endpoint": "otel:4317"}}}}, "workerEgress: needed, as worker.config.trace.endpoint is otel:4317"),
    ({"gateway": {"mode": "deployment", "config": {"trace": {"endpoint": "otel:4317"}}}}, "gatewayEgress: needed, as gateway.config.trace.endpoint"),
    ({"gateway": {"mode": "none"}, "ingress": {"enabled": True}}, "ingress.enabled: gateway.mode is none, so there is nothing to route to"),
    ({"ingress": {"enabled": True, "tlsSecret": "s"}}, "ingress.hostnames: needed, as ingress.tlsSecret is for names"),
    ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "commonLabels.app.kubernetes.io/name: is set already"),
    ({"commonLabels": {"app.kubernetes.io/component": "x"}}, "commonLabels.app.kubernetes.io/component: is set already"),
    ({"commonLabels": {"choir.dev/router-client": "true"}}, "commonLabels.choir.dev/router-client: is set already"),
    ({"podMonitor": {"labels": {"app.kubernetes.io/instance": "x"}}}, "podMonitor.labels.app.kubernetes.io/instance: is set already"),
    ({"commonLabels": {"a": "x"}, "podMonitor": {"labels": {"a": "y"}}}, "podMonitor.labels.a: is in commonLabels already"),
    ({"gateway": {"mode": "deployment", "podAnnotations": {"choir.dev/config": "x"}}}, "gateway.podAnnotations.choir.dev/config: is set already"),
    ({"worker": {"podLabels": {"app.kubernetes.io/component": "x"}}}, "worker.podLabels.app.kubernetes.io/component: is set already"),
    ({"router": {"podLabels": {"choir.dev/router-client": "true"}}}, "router.podLabels.choir.dev/router-client: is set already"),
    ({"commonLabels": {"a": "x"}, "router": {"podLabels": {"a": "y"}}}, "router.podLabels.a: is in commonLabels already"),
    ({"gateway": {"mode": "deployment", "tolerations": [{"value": "b"}]}}, "gateway.tolerations[0].key: needed, as operator is Equal"),
    ({"gateway": {"mode": "deployment", "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "In"}]}]}}}}}, "matchExpressions[0].values: needed, as operator is In"),
    ({"worker": {"podAnnotations": {"choir.dev/config": "x"}}}, "worker.podAnnotations.choir.dev/config: is set already"),
    ({"model": {"path": "/tmp"}}, "model.path: /tmp is in the way of /tmp"),
    ({"model": {"path": "/dev/shm"}}, "model.path: /dev/shm is in the way of /dev"),
    ({"model": {"path": "/etc"}}, "model.path: /etc is in the way of /etc"),
    ({"model": {"path": "/etc/choir/config"}}, "model.path: /etc/choir/config is in the way of /etc"),
    ({"model": {"path": "/var"}}, "model.path: /var is in the way of /var/lib/choir"),
    ({"model": {"path": "/var/lib/choir/audit"}}, "is in the way of /var/lib/choir"),
    ({"model": {"path": "/models/../etc"}}, "model.path: /models/../etc is no plain absolute path"),
    ({"model": {"path": "/models//demo"}}, "model.path: /models//demo is no plain absolute path"),
    ({"model": {"subPath": "a/../../b"}}, "model.subPath: a/../../b is no plain relative path"),
    ({"model": {"subPath": "/a"}}, "model.subPath: /a is no plain relative path"),
    ({"model": {"claimName": "", "source": "hostPath", "hostPath": "/"}}, "model.hostPath: / is no plain absolute path"),
    ({"image": {"repository": "registry.example.org/Choir"}}, "image.repository: registry.example.org/Choir is no name of an image"),
    ({"image": {"repository": "my choir"}}, "image.repository: my choir is no name"),
    ({"image": {"repository": "choir:0.1.0"}}, "image.repository: choir:0.1.0 is no name of an image: "),
    ({"worker": {"imageRepository": "-choir"}}, "worker.imageRepository: -choir is no name"),
    ({"model": {"claimName": "", "source": "image", "imageReference": "m@sha256:12"}}, "model.imageReference: m@sha256:12 is no image with its digest or tag"),
    ({"model": {"claimName": "", "source": "image", "imageReference": "m"}}, "model.imageReference: m is no image with its digest or tag"),
    ({"podMonitor": {"interval": "0s"}}, "podMonitor.interval: 0s: between two scrapes is more than nothing"),
    ({"router": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}, "router.tolerations[0].value: b: with operator Exists there is none"),
    ({"worker": {"tolerations": [{"value": "b"}]}}, "worker.tolerations[0].key: needed, as operator is Equal"),
    ({"worker": {"tolerations": [{"key": "a", "operator": "Gt", "value": "b"}]}}, "worker.tolerations[0].value: b: operator Gt compares with a whole number"),
    ({"worker": {"tolerations": [{"key": "a", "tolerationSeconds": 5}]}}, "worker.tolerations[0].tolerationSeconds: only with effect NoExecute"),
    ({"worker": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "Lt", "values": ["1", "2"]}]}]}}}}}, "matchExpressions[0].values: operator Lt compares with one whole number"),
    ({"worker": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "a", "operator": "In", "values": ["1"]}]}]}}}}}, "matchFields[0]: the only field is metadata.name"),
    ({"router": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "a", "labelSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}]}}}},
     "labelSelector.matchExpressions[0].values: with operator Exists there are none"),
    ({"networkPolicy": {"clients": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}},
     "networkPolicy.clients[0].podSelector.matchExpressions[0].values: needed, as operator is In"),
    ({"networkPolicy": {"redis": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}, "redis": {"existingSecret": "r"}},
     "networkPolicy.redis[0]: a peer is an ipBlock or has selectors, not both"),
    ({"networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.256/8"}}]}}, "networkPolicy.clients[0]: 10.0.0.256/8: a block of addresses"),
    ({"networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}}, "networkPolicy.clients[0]: 10.0.0.0/33: a block of addresses"),
    ({"networkPolicy": {"clients": [{"ipBlock": {"cidr": "1:2:3:4:5:6:7:8:9/8"}}]}}, "networkPolicy.clients[0]: 1:2:3:4:5:6:7:8:9/8: a block"),
    ({"networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}}, "11.0.0.0/16: is left out of 10.0.0.0/8, so it has to be a part"),
    ({"networkPolicy": {"clients": [{"ipBlock": {"cidr": "2001:db8::/33", "except": ["2001:db8:8000::/48"]}}]}}, "2001:db8:8000::/48: is left out of 2001:db8::/33"),
    ({"networkPolicy": {"routerEgress": [{"ports": [{"port": 90, "endPort": 80}]}]}}, "routerEgress[0].ports[0].endPort: 80 is less than port, 90"),
    ({"networkPolicy": {"routerEgress": [{"ports": [{"port": "otel", "endPort": 80}]}]}}, "routerEgress[0].ports[0].endPort: 80 needs `port` as a number"),
    ({"kubeVersion": "1.19.16", "gateway": {"mode": "container"}}, "kubeVersion: 1.19.16: the chart needs Kubernetes 1.20"),
    ({"kubeVersion": "v1.28.5-gke.100"}, "native sidecars need Kubernetes 1.29"),
    ({"router": {"resources": {"requests": {"cpu": 0.5}, "limits": {"cpu": "400m"}}}}, "router.resources.requests.cpu: 0.5 is more than its limit, 400m"),
    ({"router": {"audit": {"size": "0"}}}, "router.audit.size: 0 is less than two segments (router.config.audit.segment_bytes, 64MiB)"),
    ({"router": {"audit": {"size": "3Gi"}, "config": {"audit": {"segment_bytes": "2GiB"}}}}, "router.audit.size: 3Gi is less than two segments"),
    ({"serviceAccount": {"name": "default"}}, "serviceAccount.name: default is there in every namespace"),
    ({"worker": {"shmSize": "0"}}, "worker.shmSize: 0: Kubernetes takes that for no limit"),
    ({"worker": {"config": {"device": "cuda"}}}, "worker.config.device: cuda needs a GPU, and worker.gpu.mode is none"),
    ({"worker": {"gpu": {"mode": "devicePlugin"}}}, "worker.config.device: cpu, with worker.gpu.mode devicePlugin: ranks would hold GPUs"),
    ({"worker": {"gpu": {"mode": "dra", "count": 2}, "config": {"device": "cuda"}}}, "worker.gpu.count: 2: a rank computes on one GPU"),
    ({"worker": {"gpu": {"mode": "dra", "deviceClassName": ""}, "config": {"device": "cuda"}}}, "worker.gpu.deviceClassName: needed"),
    ({"networkPolicy": {"routerClients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}}, "networkPolicy.routerClients[0].ipBlock: clients of routers are pods"),
    ({"worker": {"gpu": {"mode": "devicePlugin"}, "config": {"device": "auto"}, "kvBytes": "64Gi"}}, "4Gi cannot hold a rank: 64Gi of KV cache"),
    ({"model": {"weightBytes": "1Gi"}, "worker": {"resources": {"limits": {"memory": None}}}}, "worker.resources.limits.memory: needed, as model.weightBytes"),
    *[(values, f"{path}: has no effect, as {why}") for path, why, values in (
        ("tls.certManager.issuerName", "tls.mode is off", {"tls": {"mode": "off", "certManager": {"issuerName": "i"}}}),
        ("tls.certManager.duration", "tls.mode is off", {"tls": {"mode": "off", "certManager": {"duration": "24h", "renewBefore": "1h"}}}),
        ("tls.certManager.issuerKind", "tls.certManager.issuerName is empty", {"tls": {"certManager": {"issuerKind": "ClusterIssuer"}}}),
        ("tls.trustDomain", "tls.mode is off", {"tls": {"mode": "off", "trustDomain": "d"}}),
        ("tls.existing.gatewaySecret", "gateway.mode is none",
         {"gateway": {"mode": "none"}, "tls": {"mode": "existing", "existing": {"routerSecret": "r", "workerSecret": "w", "gatewaySecret": "g"}}}),
        ("networkPolicy.redis", "redis.existingSecret is empty", {"networkPolicy": {"redis": [{"podSelector": {}}]}}),
        ("networkPolicy.redisPort", "redis.existingSecret is empty", {"networkPolicy": {"redisPort": 6380}}),
        ("networkPolicy.clients", "gateway.mode is none", {"gateway": {"mode": "none"}, "networkPolicy": {"clients": [{"podSelector": {}}]}}),
        ("gateway.config", "gateway.mode is none", {"gateway": {"mode": "none", "config": {"name": "g"}}}),
        ("gateway.tlsSecret", "gateway.mode is none", {"gateway": {"mode": "none", "tlsSecret": "s"}}),
        ("gateway.service.type", "gateway.mode is none", {"gateway": {"mode": "none", "service": {"type": "NodePort"}}}),
        ("gateway.replicas", "gateway.mode is sidecar, not deployment", {"gateway": {"replicas": 3}}),
        *((f"gateway.{key}", "gateway.mode is sidecar, not deployment", {"gateway": {key: value}}) for key, value in (
            ("nodeSelector", {"a": "b"}), ("tolerations", [{"operator": "Exists"}]), ("affinity", {"podAffinity": {}}), ("priorityClassName", "high"),
            ("podAnnotations", {"example.org/a": "b"}), ("podLabels", {"a": "b"}))),
        ("worker.gpu.count", "worker.gpu.mode is none", {"worker": {"gpu": {"count": 2}}}),
        ("worker.gpu.resourceName", "worker.gpu.mode is dra", {"worker": {"gpu": {"mode": "dra", "resourceName": "a.example/b"}}}),
        ("worker.rdma.deviceClassName", "worker.rdma.mode is devicePlugin", {"worker": {"rdma": {"mode": "devicePlugin", "deviceClassName": "d"}}}),
        ("worker.spreadOver", "worker.mode is leaderWorkerSet", {"worker": {"mode": "leaderWorkerSet", "spreadOver": ["zone"]}}),
        ("router.audit.storageClassName", "router.audit.ephemeral is true", {"router": {"audit": {"ephemeral": True, "storageClassName": "s"}}}),
        ("router.config.audit.sync_interval", "router.audit.class is enforced, not bounded", {"router": {"config": {"audit": {"sync_interval": "1s"}}}}),
        ("model.sharedWeightBytes", "model.weightBytes is empty", {"model": {"sharedWeightBytes": "1Gi"}}),
        ("serviceAccount.annotations", "serviceAccount.create is false",
         {"serviceAccount": {"create": False, "name": "a", "annotations": {"a": "b"}}}))],
]


@pytest.mark.parametrize("values, names", TYPOS, ids=lambda v: str(v)[:60])
def test_the_schema_refuses(values, names):
    with pytest.raises(helm.HelmError) as error:
        render(needed(**values))
    assert names in str(error.value)
    with helm.Chart.load(str(CHART)) as chart, pytest.raises(helm.HelmError):
        chart.validate_schema(needed(**values))


@pytest.mark.parametrize("values, reason", IMPOSSIBLE, ids=lambda v: str(v)[:60])
def test_the_chart_refuses_with_the_reason(values, reason):
    assert reason in refusal(needed(**values))


FREE = {"commonLabels", "labels", "matchLabels", "nodeSelector", "annotations", "podAnnotations", "podLabels", "tenants", "models"}  # names are theirs


def misspelt(values, path=()):
    """(path, values) for every key, at any depth, written with a letter too many."""
    if isinstance(values, list):
        for i, item in enumerate(values):
            for where, wrong in misspelt(item, (*path, i)):
                yield where, [*values[:i], wrong, *values[i + 1:]]
    elif isinstance(values, dict):
        for key, value in values.items():
            if (not path or path[-1] not in FREE) and "/" not in key:
                yield (*path, key), {(key + "z" if k == key else k): v for k, v in values.items()}
            for where, wrong in misspelt(value, (*path, key)):
                yield where, {**values, key: wrong}


def test_a_letter_too_many_in_any_key_of_any_example_is_refused():
    schema = jsonschema.Draft202012Validator(json.loads((CHART / "values.schema.json").read_text()))
    sources = [CHART / "values.yaml", *examples()]
    defaults = yaml.safe_load(sources[0].read_text())
    tried = 0
    for source in sources:
        values = yaml.safe_load(source.read_text())
        assert schema.is_valid(merged(defaults, values)), source.name
        for path, wrong in misspelt(values):
            tried += 1
            assert not schema.is_valid(merged(defaults, wrong)), f"{source.name}: {'.'.join(map(str, path))}"
    assert tried > 250


def test_lint_refuses_what_the_chart_refuses():
    for values, reason in (({"model": {"path": "/tmp"}}, "model.path: /tmp is in the way of /tmp"), ({"worker": {"gpu": None}}, "missing property 'gpu'"),
                           ({"router": {"replicas": 0}}, "/router/replicas")):
        assert any(reason in error for error in helm.lint(str(CHART), needed(**values))["errors"])
    assert not helm.lint(str(CHART), needed())["errors"]


def test_all_reasons_are_told_at_once():
    with pytest.raises(helm.HelmError) as error:
        render({"httpRoute": {"enabled": True}})
    assert all(key in str(error.value) for key in ("keysSecret", "model.claimName", "httpRoute.parentRefs"))


def test_what_just_fits_is_taken():
    render(needed(drain={"terminationGracePeriodSeconds": 625}))
    render(needed(model={"experts": 2}))
    render(needed(worker={"ranks": 64}))
    render(needed(worker={"kvBytes": "3519Mi"}))  # + 64Mi + 512Mi: all but one of 4Gi
    render(needed(worker={"kvBytes": "64Gi", "gpu": {"mode": "devicePlugin"}, "config": {"device": "cuda"}, "imageRepository": "choir-cuda"}))  # is on the GPU
    render(needed(router={"resources": {"requests": {"cpu": "1000m"}, "limits": {"cpu": 1}}}))
    render(needed(tls={"certManager": {"duration": "1h", "renewBefore": "59m59s"}}))
    render(needed(networkPolicy={"clients": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"ipBlock": {"cidr": "2001:db8::/32"}}]}))
    render(needed(router={"config": {"trace": {"endpoint": "127.0.0.1:4317", "ratio": 0.5}}}))
    render(needed(router={"limits": {"models": {"demo": {"concurrency": 5}}}}))
    render(needed(router={"config": {"redis": {"ca": "/etc/choir/redis/..data/ca.crt"}}}, redis={"existingSecret": "r"}))
    render(needed(router={"replicas": 1, "tenants": {"acme": {"budget": 5}}, "limits": {"prices": {"output": 1}}}))
    render(needed(router={"tenants": {"acme": {"budget": 5}}, "limits": {"prices": {"output": 1}}}, redis={"existingSecret": "redis"}))
    for path in ("/models", "/srv/models/my-moe", "/var/models/a.b", "/temporary", "/models/..data/demo"):
        render(needed(model={"path": path}))
    for repository in ("choir", "localhost/choir", "registry:5000/a/b-c__d", "Registry.example.org/choir", "[::1]:5000/choir"):
        render(needed(image={"repository": repository, "tag": "v1.0_a-B"}))
    for version in ("v1.31.5-gke.100", "v1.29.0-eks-5fdc723", "1.33.1+k3s1"):
        render(needed(kubeVersion=version))
    render(needed(commonLabels={"app.kubernetes.io/part-of": "chat"}))
    render(needed(router={"tolerations": [{"operator": "Exists"}, {"key": "a", "operator": "Gt", "value": "7"},
                                          {"key": "a", "effect": "NoExecute", "tolerationSeconds": 5}]}))
    render(needed(networkPolicy={"clients": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}},
                                             {"ipBlock": {"cidr": "::/0", "except": ["2001:db8::/32", "::1/128"]}}],
                                 "routerEgress": [{"ports": [{"port": 1, "endPort": 1}]}]}))
    render(needed(router={"audit": {"size": "128Mi"}}))
    render(needed(router={"resources": {"requests": {"cpu": "400m"}, "limits": {"cpu": 0.5}}}))
    fits = {"model": {"weightBytes": "4Gi", "sharedWeightBytes": "1Gi"}, "worker": {"kvBytes": "512Mi"}}  # 2.5 * 1.06 + .5 + .0625 + .5
    render(needed(**fits))
    with pytest.raises(helm.HelmError, match="cannot hold"):
        render(needed(**merged(fits, {"worker": {"kvBytes": "1Gi"}})))
    render(needed(model={"weightBytes": "689Gi", "sharedWeightBytes": "20Gi", "experts": 256}, worker={"ranks": 8, "resources": {"limits": {"memory": "112Gi"}}}))


def test_the_values_of_the_play_in_a_real_cluster_are_taken(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "deploy" / "cluster"))
    import run
    assert not refusal(merged(run.VALUES, {"model": {"hostPath": "/srv/model"}}))


def test_a_release_whose_name_cannot_name_services_is_refused():
    with pytest.raises(helm.HelmError, match="services would be called a.b-choir"):
        render(needed(), name="a.b")


def test_an_object_with_a_misspelt_field_is_found():
    """The check of rendered objects bites, for Kubernetes' kinds and for custom resources."""
    objects = render(yaml.safe_load(next(p for p in examples() if p.stem == "gpu-lws-values").read_text()))
    for kind, spoil in (("StatefulSet", lambda o: o["spec"].update(replicaz=1)),
                        ("NetworkPolicy", lambda o: o["spec"].update(ingres=[])),
                        ("LeaderWorkerSet", lambda o: o["spec"]["leaderWorkerTemplate"].update(sise=1)),
                        ("LeaderWorkerSet", lambda o: o["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"].update(hostnetwork=True)),
                        ("HTTPRoute", lambda o: o["spec"].update(hostname=["a"])),
                        ("ScaledObject", lambda o: o["spec"].update(maxReplicaCount="6")),
                        ("Certificate", lambda o: o["spec"].pop("issuerRef")),
                        ("PodMonitor", lambda o: o["spec"]["podMetricsEndpoints"][0].update(prot="x"))):
        obj = yaml.safe_load(yaml.safe_dump(of_kind(objects, kind)[0]))
        check_object(obj, "1.36")
        spoil(obj)
        with pytest.raises(Exception):
            check_object(obj, "1.36")


def test_a_kind_without_a_schema_is_not_passed_over():
    service = the(render(needed()), "Service", "choir")
    with pytest.raises(Exception):
        check_object({**service, "apiVersion": "example.org/v1", "kind": "Unknown"}, "1.36")
