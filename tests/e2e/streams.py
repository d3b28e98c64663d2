"""Streams as raw clients see them, for tests that kill what serves them: content over as many connections as it takes,
whatever the framing, and when its events came."""
import concurrent.futures
import http.client
import json
import shutil
import subprocess
import threading
import time
import urllib.parse

from conftest import BIN, CHECKPOINTS, OPEN_THINK, eventually, is_ready

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
STORY = {"prompt": "Tell me a long story", "max_tokens": 150, "temperature": 1.2, "ignore_eos": True}
TALK = {"messages": [{"role": "user", "content": "Tell me a long story"}], "max_tokens": 150, "temperature": 1.2, "ignore_eos": True}


def long_model(tmp):
    """The tiny model with room for long answers, and with a template that can leave <think> open."""
    model = tmp / "tiny"
    shutil.copytree(CHECKPOINTS / "tiny_glm4_moe", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    with open(model / "chat_template.jinja", "a") as template:
        template.write(OPEN_THINK)
    return model


class Gateway:
    """A second gateway of the cluster, to be killed; it prefers the first of `routers`."""

    def __init__(self, cluster, routers=None):
        command = [BIN / "choir-gateway", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        for router in routers or [cluster.ready["router"]]:
            command += ["--router", router]
        self.process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        listening = dict(word.split("=") for word in self.process.stdout.readline().split()[1:])
        self.url = "http://" + listening["http"]
        eventually(lambda: is_ready(listening["admin"]), what="a ready gateway")

    def kill(self):
        self.process.kill()
        self.process.wait()


class Answer:
    """What a client has of one streamed answer, over as many connections as it takes."""

    def __init__(self):
        self.choices, self.usage, self.done, self.error = {}, None, False, None
        self.id = self.last_event_id = self.head = None
        self.events = 0
        self.times = []  # of its events
        self.connections = 0

    def read(self, url, key, method, path, body=None, headers=None, on_event=lambda n: None):
        """Status; reads until the end of the stream or of the connection."""
        self.connections += 1
        place = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"authorization": f"Bearer {key}", **(headers or {})})
            response = connection.getresponse()
            if response.status != 200:
                self.error = json.loads(response.read())["error"]
                return response.status
            self.id = response.headers["x-request-id"]
            fields = {}
            while line := response.readline():
                line = line.decode().rstrip("\n")
                if line and not line.startswith(":"):
                    name, value = line.split(": ", 1)
                    fields[name] = value
                elif not line and fields:
                    self.take(fields)
                    fields = {}
                    on_event(self.events)
            return 200
        except (ConnectionError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def resume(self, url, key, **kwargs):
        headers = {} if self.last_event_id is None else {"last-event-id": self.last_event_id}
        return self.read(url, key, "GET", f"/v1/streams/{self.id}", headers=headers, **kwargs)

    def take(self, fields):
        self.events += 1
        self.times.append(time.monotonic())
        self.last_event_id = fields.get("id", self.last_event_id)
        if fields["data"] == "[DONE]":
            self.done = True
            return
        event = json.loads(fields["data"])
        if fields.get("event") == "error":
            self.error = event["error"]
            return
        head = {k: event[k] for k in ("id", "object", "created", "model")}
        assert self.head in (None, head)
        self.head = head
        self.usage = event.get("usage") or self.usage
        for c in event["choices"]:
            choice = self.choices.setdefault(c["index"], {"text": "", "reasoning": "", "logprobs": [], "finish": []})
            delta = c.get("delta", {})
            choice["text"] += c.get("text", "") + delta.get("content", "")
            choice["reasoning"] += delta.get("reasoning_content", "")
            logprobs = c.get("logprobs") or {}
            choice["logprobs"] += logprobs.get("content", []) or list(zip(logprobs.get("tokens", []), logprobs.get("token_logprobs", []), logprobs.get("text_offset", [])))
            choice["finish"] += [c["finish_reason"]] if c["finish_reason"] else []

    def content(self):
        return self.choices, {k: v for k, v in (self.usage or {}).items() if k != "prompt_tokens_details" and "cache" not in k}


KINDS = [(TEXT, {**STORY, "seed": 1}), (TEXT, {**STORY, "seed": 2, "n": 3}), (TEXT, {**STORY, "seed": 3, "logprobs": 2}),
         (TEXT, {**STORY, "seed": 4, "stop": ["zq", "\n\n\n"], "echo": True}), (CHAT, {**TALK, "seed": 5}),
         (CHAT, {**TALK, "seed": 6, "n": 2, "logprobs": True, "top_logprobs": 3}), (CHAT, {**TALK, "seed": 7, "stream_options": {"include_usage": True}}),
         (TEXT, {**STORY, "seed": 8, "max_tokens": 60, "stream_options": {"include_usage": True}})]


def outlive(cluster, gateway, kinds):
    """Answers of streams through a gateway that is killed once all have begun; their clients go on at the cluster's own."""
    everyone_runs = threading.Barrier(len(kinds), action=gateway.kill)

    def go_on(answer):
        while not answer.done and answer.error is None:
            answer.resume(cluster.url, cluster.key)

    return ask_all(cluster, kinds, gateway.url, go_on, on_event=lambda n: n == 6 and everyone_runs.wait(60))


def body(cluster, kind):
    return {**kind, "model": cluster.model, "stream": True}


def ask_all(cluster, requests, url=None, then=lambda answer: None, **kwargs):
    """The answers to all, each asked and read by a thread of its own, which calls `then` at last; what one of them raises is raised here."""
    answers = [Answer() for _ in requests]

    def client(answer, path, kind):
        answer.read(url or cluster.url, cluster.key, "POST", path, body(cluster, kind), **kwargs)
        then(answer)

    pool = concurrent.futures.ThreadPoolExecutor(len(requests))
    try:
        clients = [pool.submit(client, answer, *request) for answer, request in zip(answers, requests)]
        for ended in concurrent.futures.as_completed(clients, 600):
            ended.result()
    finally:
        pool.shutdown(wait=False)  # after an error nobody waits for the others
    return answers


def ask(cluster, path, kind, **kwargs):
    """All of one answer."""
    answer = Answer()
    assert answer.read(cluster.url, cluster.key, "POST", path, body(cluster, kind), **kwargs) == 200 and answer.done, answer.error
    return answer
