// Reads Prometheus' text format.
const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** Samples by name: `[{labels, value}]`. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const found = LINE.exec(line);
    if (!found) continue;
    const [, name, inner = "", value] = found;
    const labels = Object.fromEntries([...inner.matchAll(LABEL)].map(([, key, text]) => [key, text]));
    if (!samples.has(name)) samples.set(name, []);
    samples.get(name).push({ labels, value: Number(value) });
  }
  return samples;
}

/** The sum of a metric's samples that have these labels. */
export function sum(samples, name, labels = {}) {
  const matches = (sample) => Object.entries(labels).every(([key, text]) => sample.labels[key] === text);
  return (samples.get(name) ?? []).filter(matches).reduce((sum, { value }) => sum + value, 0);
}

/** Values of a metric by one of its labels. */
export function by(samples, name, label) {
  return new Map((samples.get(name) ?? []).map(({ labels, value }) => [labels[label], value]));
}
