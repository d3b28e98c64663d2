"""Files of what workers counted of their experts: where a pod of the chart finds them, and where it leaves them."""
import pytest

from conftest import KUBERNETES, check_object, needed, pod_of, render


@pytest.mark.parametrize("mode", ["statefulset", "leaderWorkerSet"])
def test_workers_read_and_leave_what_they_counted_of_their_experts(mode):
    def mounts(files, **config):  # place: (volume, whether it is only read)
        worker = {"mode": mode, "expertFiles": files, "config": {"device": "cuda", "cpu_experts": 2, **config}, "gpu": {"mode": "devicePlugin"},
                  "imageRepository": "registry.example.org/choir-cuda", **({"spreadOver": []} if mode == "leaderWorkerSet" else {})}
        obj = next(o for o in render(needed(worker=worker)) if o["kind"].lower() == mode.lower() and o["metadata"]["name"] == "choir-worker")
        for version in KUBERNETES:
            check_object(obj, version)
        spec = pod_of(obj)["spec"]
        volumes = {v["name"]: v for v in spec["volumes"]}
        assert len(volumes) == len(spec["volumes"])
        return {m["mountPath"]: (volumes[m["name"]], m.get("readOnly", False)) for m in spec["containers"][0]["volumeMounts"]}

    kept, hot = "/var/lib/choir-experts", "/etc/choir/experts"
    claim = {"name": "expert-files", "persistentVolumeClaim": {"claimName": "counts"}}
    config_map = {"name": "expert-hotness", "configMap": {"name": "hot-1"}}
    assert not {kept, hot} & mounts({}).keys()
    assert mounts({"claimName": "counts"}, expert_counts=kept)[kept] == (claim, False)
    assert mounts({"claimName": "counts"}, expert_hotness=[f"{kept}/old/g0r0.json"])[kept] == (claim, True)
    both = mounts({"claimName": "counts", "existingConfigMap": "hot-1"}, expert_counts=kept, expert_hotness=[f"{hot}/g0r0.json", "/models/demo/hot.json"])
    assert (both[kept], both[hot]) == ((claim, False), (config_map, True))
