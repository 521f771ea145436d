"""A served model to talk to over HTTP: started once, asked many times, restarted on the same folder."""

import http.client
import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT_S, REQUEST_TIMEOUT_S = 120, 600


@dataclass
class Answer:
    """One streamed or whole answer."""

    text: str
    first_s: float
    total_s: float
    body: dict

    @property
    def tokens(self):
        return self.body["usage"]["completion_tokens"]

    @property
    def decode_tokens_s(self):
        """Tokens per second after the first one, by the server's own clock."""
        timings = self.body["timings"]
        return (timings["predicted_n"] - 1) / (timings["predicted_ms"] / 1e3)


@dataclass
class Chat:
    """`command` without its port; `data` is the only folder that it may keep anything in."""

    name: str
    command: list
    data: Path
    log: Path
    extra: dict = field(default_factory=dict)
    process: subprocess.Popen | None = None
    # Another name for a server that runs already, asked with other fields.
    of: "Chat | None" = None

    def start(self):
        if self.of:
            return self
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.data.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "XDG_DATA_HOME": str(self.data)}
        log = self.log.open("ab")
        command = [*map(str, self.command), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.005)
        raise SystemExit(f"{self.name} did not become healthy; see {self.log}")

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def restart(self):
        self.stop()
        return self.start()

    def ask(self, messages, tokens, temperature=0, seed=1, **fields):
        """A whole answer, streamed so that the time of its first text is known."""
        body = {
            "messages": messages,
            "max_tokens": tokens,
            "temperature": temperature,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
            **fields,
        }
        begin = time.perf_counter()
        response = self.post("/v1/chat/completions", body)
        first, text, last = None, "", {}
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise SystemExit(f"{self.name} failed: {chunk}")
            for choice in chunk.get("choices", []):
                piece = choice.get("delta", {}).get("content")
                if piece:
                    first = first or time.perf_counter() - begin
                    text += piece
            last |= {key: value for key, value in chunk.items() if value}
        total = time.perf_counter() - begin
        return Answer(text, first or total, total, last)

    def completion(self, body):
        """The text that continues a prompt as it is."""
        return json.load(self.post("/v1/completions", body))["choices"][0]["text"]

    def post(self, path, body):
        port = (self.of or self).port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_TIMEOUT_S)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"{self.name} answered {response.status}: {response.read(500)}")
        return response
