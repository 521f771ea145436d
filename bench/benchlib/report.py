"""Results of interleaved rounds, as a markdown table and as JSON."""

import json
import re
from dataclasses import dataclass, field
from statistics import median

from benchlib.host import ROOT, say

RECORDS = ROOT / "bench" / "record"


@dataclass(frozen=True)
class Metric:
    """A row of a table. `lower` means that less is better, `compared` that a ratio to a peer says something."""

    name: str
    unit: str
    lower: bool = False
    compared: bool = True

    def text(self, value):
        if value is None:
            return "–"
        digits = 0 if value >= 100 else 1 if value >= 20 else 2 if value >= 1 else 3
        return f"{value:.{digits}f}"

    def times_better(self, ours, theirs):
        """How many times better `ours` is than `theirs`; None where either is missing."""
        if not ours or not theirs or not self.compared:
            return None
        return theirs / ours if self.lower else ours / theirs


@dataclass
class Contender:
    """A column of a table: an engine on a file, and the object whose `measure()` gives its numbers."""

    engine: str
    file: str
    probe: object
    samples: dict = field(default_factory=dict)

    @property
    def name(self):
        return f"{self.engine} {self.file}"

    def measure(self):
        for metric, value in self.probe.measure().items():
            self.samples.setdefault(metric, []).append(value)

    def median(self, metric):
        values = self.samples.get(metric.name)
        return median(values) if values else None


@dataclass
class Section:
    """One table: the first contender is ours and is held against every peer."""

    title: str
    metrics: list
    contenders: list

    def measure(self, rounds):
        """One contender after the other, round by round, so that drift of the machine hits all alike."""
        for number in range(1, rounds + 1):
            for contender in self.contenders:
                say(f"{self.title}: round {number} of {rounds}, {contender.name}")
                contender.measure()

    def ratios(self, metric):
        """Ours against each peer engine: on the same file, and on the file that the engine likes best."""
        ours = self.contenders[0]
        mine = ours.median(metric)
        for engine in dict.fromkeys(c.engine for c in self.contenders if c.engine != ours.engine):
            values = {c.file: c.median(metric) for c in self.contenders if c.engine == engine}
            known = [v for v in values.values() if v is not None]
            best = (min if metric.lower else max)(known) if known else None
            if ours.file in values:
                yield f"× {engine}, same file", metric.times_better(mine, values[ours.file])
            if set(values) != {ours.file}:
                yield f"× {engine}, its best", metric.times_better(mine, best)

    def markdown(self):
        heads = [c.name for c in self.contenders] + [name for name, _ in self.ratios(self.metrics[0])]
        lines = [f"### {self.title}", "", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for metric in self.metrics:
            values = [metric.text(c.median(metric)) for c in self.contenders]
            ratios = ["–" if r is None else f"**{r:.2f}**" for _, r in self.ratios(metric)]
            label = f"{metric.name}, {metric.unit}" if metric.unit else metric.name
            lines.append(f"| {' | '.join([label, *values, *ratios])} |")
        return "\n".join(lines) + "\n"

    def data(self):
        return {
            "title": self.title,
            "units": {metric.name: metric.unit for metric in self.metrics},
            "samples": {c.name: c.samples for c in self.contenders},
            "ceilings": getattr(self.contenders[0].probe, "ceilings", None),
        }


def render(facts, sections):
    lines = ["# Foretoken beside its peers", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += ["", "Medians of interleaved rounds in one run. × says how many times better ours is.", ""]
    return "\n".join(lines + [section.markdown() for section in sections])


def record(facts, sections):
    """Write the run to bench/record; returns the path of the table."""
    cpu = re.sub(r"[^a-z0-9]+", "-", f"{facts['cpu']} {facts['cpu_family']}".lower()).strip("-")
    path = RECORDS / f"{cpu}-{facts['date']}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(render(facts, sections))
    data = {"facts": facts, "sections": [section.data() for section in sections]}
    path.with_suffix(".json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    return path
