"""Model level: prefill, decode and step times, from each engine's own bench program.

A step of n tokens is what verifying n - 1 drafts costs. The peers' programs time a prompt of n tokens, which
computes logits for the last one only; ours gives all n, so this flatters the peers a little.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchlib.host import run
from benchlib.report import Metric

BANDWIDTH = "decode at 0, of the memory bandwidth"


@dataclass(frozen=True)
class Plan:
    """What to measure: prompt lengths, contexts to decode at, tokens per step."""

    threads: int
    prompts: tuple = (512, 2048)
    depths: tuple = (0, 1024, 4096)
    rows: tuple = (1, 4, 8, 16)
    decode: int = 64
    step_repeats: int = 10

    def quick(self):
        return replace(self, prompts=self.prompts[:1], depths=self.depths[:1], decode=32)

    def metrics(self):
        yield from (Metric(prefill(n), "tokens/s") for n in self.prompts)
        yield from (Metric(decode(n), "tokens/s") for n in self.depths)
        yield Metric(BANDWIDTH, "%", compared=False)
        yield from (Metric(step(n), "ms", lower=True) for n in self.rows)
        yield from (Metric(step_ratio(n), "", compared=False) for n in self.rows if n > 1)


def prefill(tokens):
    return f"prompt of {tokens}"


def decode(depth):
    return f"decode at {depth}"


def step(rows):
    return f"step of {rows}"


def step_ratio(rows):
    return f"step of {rows} ÷ step of 1"


def with_ratios(results):
    ratios = {
        step_ratio(int(name.split()[-1])): value / results[step(1)]
        for name, value in results.items()
        if name.startswith("step of ") and name != step(1)
    }
    return results | ratios


def comma(numbers):
    return ",".join(map(str, numbers))


@dataclass
class Foretoken:
    """`foretoken bench model`; keeps the ceilings it measured for the record."""

    binary: Path
    model: Path
    plan: Plan

    def measure(self):
        plan = self.plan
        command = [self.binary, "bench", "model", "--model", self.model, "--threads", plan.threads]
        command += ["--prompt", comma(plan.prompts), "--depth", comma(plan.depths)]
        command += ["--rows", comma(plan.rows), "--decode", plan.decode, "--reps", 3, "--json"]
        answer = json.loads(run(command))
        results = {prefill(row["tokens"]): row["tokens_per_second"] for row in answer["prefill"]}
        results |= {decode(row["depth"]): row["tokens_per_second"] for row in answer["decode"]}
        results |= {step(row["rows"]): row["ms"] for row in answer["steps"]}
        results[BANDWIDTH] = 100 * answer["decode_of_bandwidth"]
        self.ceilings = answer.get("ceilings")
        return with_ratios(results)


@dataclass
class LlamaBench:
    """`llama-bench` of llama.cpp, or of ik_llama.cpp with its run-time repacking."""

    program: Path
    model: Path
    plan: Plan
    ik: bool = False

    def measure(self):
        plan, results = self.plan, {}
        for row in self.bench("-p", comma(plan.prompts), "-n", plan.decode, "-r", 2):
            if row["n_gen"]:
                results[decode(0)] = speed(row)
            else:
                results[prefill(row["n_prompt"])] = speed(row)
        for depth in plan.depths:
            if depth:
                results[decode(depth)] = speed(self.decode_at(depth))
        # A prompt of one token is no decode step for llama-bench: it starts from an empty context each time.
        results[step(1)] = 1000 / results[decode(0)]
        rows = comma(n for n in plan.rows if n > 1)
        for row in self.bench("-p", rows, "-n", 0, "-r", plan.step_repeats):
            results[step(row["n_prompt"])] = 1000 * row["n_prompt"] / speed(row)
        return with_ratios(results)

    def decode_at(self, depth):
        if self.ik:  # has no -d, but a pair of prompt and generation of which only the latter is timed
            rows = self.bench("-p", 0, "-n", 0, "-gp", f"{depth},{self.plan.decode}", "-r", 1)
        else:
            rows = self.bench("-p", 0, "-n", self.plan.decode, "-d", depth, "-r", 2)
        return rows[-1]

    def bench(self, *arguments):
        command = [self.program, "-m", self.model, "-t", self.plan.threads, "-o", "json", *arguments]
        return json.loads(run([*command, "-rtr", 1] if self.ik else command))


def speed(row):
    """Median tokens per second of one row of llama-bench."""
    return median(row["samples_ts"])
