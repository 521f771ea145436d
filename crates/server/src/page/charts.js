// Small charts in SVG.
import { svg } from "./dom.js";

const [WIDTH, HEIGHT] = [300, 64];

/** Lines over time: series of numbers of one length, the first of them filled; `points` is what the width holds. */
export function lines(series, points, top = 0) {
  const highest = Math.max(top, 1e-9, ...series.flat().filter(Number.isFinite));
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  chart.append(svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }));
  series.forEach((values, which) => {
    const x = (at) => (WIDTH * (points - values.length + at)) / (points - 1);
    const y = (value) => HEIGHT - (HEIGHT - 4) * (value / highest);
    const path = values.map((value, at) => `${at ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    if (values.length < 2) return;
    if (which === 0) chart.append(svg("path", { class: "area", d: `${path}L${WIDTH} ${HEIGHT}L${x(0).toFixed(1)} ${HEIGHT}Z` }));
    chart.append(svg("path", { class: which === 0 ? "line" : "line second", d: path }));
  });
  return chart;
}

/** A share as a bar. */
export function bar(share) {
  const width = Math.max(0, Math.min(1, share || 0));
  return svg("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width, height: 1 }));
}
