"""Server level: start-up, time to first token, and a burst of requests over a shared prompt, over HTTP.

Every measurement starts a fresh server, so no cache outlives a round.
"""

import http.client
import json
import os
import socket
import subprocess
import tempfile
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchlib import text
from benchlib.host import run
from benchlib.report import Metric

CLIENTS, REQUESTS, ANSWER_TOKENS = 8, 16, 96
SHARED_TOKENS, LONG_TOKENS = 870, 1900
START_TIMEOUT_S, REQUEST_TIMEOUT_S = 120, 600

METRICS = [
    Metric("start to first healthy answer", "s", lower=True),
    Metric(f"first token of a {LONG_TOKENS}-token prompt", "s", lower=True),
    Metric(f"{REQUESTS} requests, {CLIENTS} clients", "s", lower=True),
    Metric("answer tokens of the burst", "tokens/s"),
    Metric("resident after start", "MB", lower=True),
    Metric("resident at most", "MB", lower=True),
]


@dataclass(frozen=True)
class Workload:
    """The prompts of a round, cut to their token counts once with llama.cpp's tokenizer."""

    shared: str
    long: str

    @classmethod
    def make(cls, tokenize, model):
        return cls(cut(tokenize, model, 0, SHARED_TOKENS), cut(tokenize, model, 20_000, LONG_TOKENS))

    def chats(self):
        for module in text.MODULES[:REQUESTS]:
            question = f"What is the module {module} for? Give an example of its use."
            yield [{"role": "system", "content": self.shared}, {"role": "user", "content": question}]


def cut(tokenize, model, start, tokens):
    """Prose from word `start` on, as long as it stays within `tokens` tokens."""
    low, high = 1, tokens
    while low < high:
        middle = (low + high + 1) // 2
        command = [tokenize, "-m", model, "-p", text.words(start, middle), "--ids", "--log-disable"]
        low, high = (middle, high) if len(json.loads(run(command))) <= tokens else (low, middle - 1)
    return text.words(start, low)


@dataclass
class Server:
    """A command line that serves, without its port, and what to do with it."""

    command: list
    workload: Workload
    log: Path

    def measure(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        with self.log.open("wb") as log, tempfile.TemporaryDirectory() as data:
            # What a server keeps on disk must not outlive its round either.
            environment = {**os.environ, "XDG_DATA_HOME": data}
            begin = time.perf_counter()
            command = [*map(str, self.command), "--port", str(self.port)]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            try:
                self.wait_until_healthy(process)
                healthy = time.perf_counter() - begin
                return dict(zip([m.name for m in METRICS], [healthy, *self.load(process)], strict=True))
            finally:
                process.terminate()
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def load(self, process):
        resident = memory_mb(process.pid, "VmRSS")
        self.complete([{"role": "user", "content": "Hello!"}], tokens=8)
        first = self.first_token([{"role": "user", "content": self.workload.long}])
        begin = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            answered = sum(clients.map(self.complete, self.workload.chats()))
        total = time.perf_counter() - begin
        return first, total, answered / total, resident, memory_mb(process.pid, "VmHWM")

    def wait_until_healthy(self, process):
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.005)
        raise SystemExit(f"{self.command[0]} did not become healthy; see {self.log}")

    def post(self, messages, tokens, stream):
        body = {
            "messages": messages,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": stream,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_TIMEOUT_S)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"{self.command[0]} answered {answer.status}: {answer.read(500)}")
        return answer

    def complete(self, messages, tokens=ANSWER_TOKENS):
        """Tokens of one whole answer, which must be as many as were asked for."""
        count = json.load(self.post(messages, tokens, stream=False))["usage"]["completion_tokens"]
        if count != tokens:
            raise SystemExit(f"{self.command[0]} answered {count} tokens instead of {tokens}")
        return count

    def first_token(self, messages):
        """Seconds until the first text of a streamed answer."""
        begin, first = time.perf_counter(), None
        for line in self.post(messages, 8, stream=True):
            if first is None and line.startswith(b"data: {"):
                choices = json.loads(line[6:]).get("choices") or [{}]
                if choices[0].get("delta", {}).get("content"):
                    first = time.perf_counter() - begin
        if first is None:
            raise SystemExit(f"{self.command[0]} streamed no text")
        return first


def memory_mb(pid, field):
    """Resident memory of a process now (VmRSS) or at its peak (VmHWM); None where /proc does not tell."""
    if sys.platform != "linux":
        return None
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1000
    return None
