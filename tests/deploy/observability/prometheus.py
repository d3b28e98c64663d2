"""A real Prometheus that scrapes a `choir up` cluster each second with the rules of deploy/prometheus."""
import json
import os
import pathlib
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request

from clusters import ROOT, eventually

RULES = ROOT / "deploy" / "prometheus" / "rules"
LISTENING = "0A"  # in /proc/net/tcp


def port_of(pid):
    """Which TCP port the process listens at; 0: none yet."""
    sockets = set()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(fd))
        except FileNotFoundError:  # closed since
            pass
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in sockets:
                return int(fields[1].split(":")[1], 16)
    return 0


class Prometheus:
    def __init__(self, tmp, metrics):
        """`metrics`: of a ready file."""
        # Nothing may depend on these names.
        jobs = {"edge": [metrics["gateway"]], "serving/song-router": metrics["routers"], "pods": metrics["workers"]}
        config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [f"{RULES}/*.yml"],
                  "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [url.split("/")[2] for url in urls]}]}
                                     for job, urls in jobs.items()]}
        self.others = tmp / "others.json"  # targets of a test of its own
        config["scrape_configs"].append({"job_name": "others", "file_sd_configs": [{"files": [str(self.others)], "refresh_interval": "1s"}]})
        self.watch_others()
        (tmp / "prometheus.yml").write_text(json.dumps(config))  # YAML, too
        self.log_file = tmp / "prometheus.log"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(["prometheus", f"--config.file={tmp / 'prometheus.yml'}", f"--storage.tsdb.path={tmp / 'data'}",
                                             "--web.listen-address=127.0.0.1:0"], stderr=log)
        self.port = eventually(lambda: self.process.poll() is not None or port_of(self.process.pid), what="Prometheus's port")
        assert self.process.poll() is None, self.log_file.read_text()
        eventually(self.is_ready, what="a ready Prometheus")

    def watch_others(self, *addresses):
        new = self.others.with_suffix(".new")
        new.write_text(json.dumps([{"targets": addresses}]))
        new.rename(self.others)

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=10).status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def get(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression):
        return self.get("query", query=expression)["result"]

    def query_range(self, expression, start, end):
        return self.get("query_range", query=expression, start=start, end=end, step=1)["result"]

    def names(self):
        return set(self.get("label/__name__/values"))

    def alerts(self):
        """{name: state} of those that are pending or firing."""
        return {a["labels"]["alertname"]: a["state"] for a in self.get("alerts")["alerts"]}

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


METRIC = re.compile(r"\b(?:choir|process|vllm|up)[a-zA-Z0-9_:]*")
STRINGS = re.compile(r'"[^"]*"')


def metrics_of(expression):
    """The names in it. What a histogram is made of ends as its parts do."""
    return set(METRIC.findall(STRINGS.sub('""', expression)))
