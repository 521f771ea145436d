// The server, live: reads /metrics every second while it is looked at, and keeps the last minutes.
import { request } from "./api.js";
import { bar, lines } from "./charts.js";
import { bytes, dollars, element, number, percent, seconds } from "./dom.js";
import { NAMES } from "./drafters.js";
import { by, parse, sum } from "./metrics.js";

const EVERY_MS = 1000;
const POINTS = 300;
/** Readings that a chart is wide at least. */
const POINTS_MIN = 60;
/** Seconds that a rate is taken over. */
const WINDOW = 5;

const state = document.getElementById("live-state");
const cards = document.getElementById("cards");
const samples = [];
let looking = false;
let reading = false;

/** Whether the view is looked at. */
export function look(is) {
  const begins = is && !looking;
  looking = is;
  if (begins) tick();
}

async function tick() {
  if (!looking || reading) return;
  reading = true;
  try {
    const metrics = parse(await (await request("metrics")).text());
    if (samples.push(read(metrics)) > POINTS) samples.shift();
    draw(samples.at(-1));
    state.textContent = "";
    state.hidden = true;
  } catch (error) {
    state.hidden = false;
    state.textContent = error.status ? error.message : "The server cannot be reached. Trying again…";
  }
  reading = false;
  setTimeout(tick, EVERY_MS);
}

/** What the charts need of a reading. */
function read(metrics) {
  const value = (name, labels) => sum(metrics, name, labels);
  return {
    time: performance.now() / 1000,
    running: value("vllm:num_requests_running"),
    waiting: value("vllm:num_requests_waiting"),
    kv: value("vllm:kv_cache_usage_perc"),
    generated: value("vllm:generation_tokens_total"),
    queries: value("vllm:prefix_cache_queries_total"),
    hits: value("vllm:prefix_cache_hits_total"),
    prompt: value("vllm:prompt_tokens_total"),
    drafted: by(metrics, "foretoken_spec_decode_draft_tokens_total", "drafter"),
    accepted: by(metrics, "foretoken_spec_decode_accepted_tokens_total", "drafter"),
    blocks: by(metrics, "foretoken_cache_blocks", "tier"),
    bytes: by(metrics, "foretoken_cache_bytes", "tier"),
    most: by(metrics, "foretoken_cache_max_bytes", "tier"),
    store: by(metrics, "foretoken_store_bytes", "kind"),
    replays: value("foretoken_response_store_hits_total"),
    saved: value("foretoken_saved_nanodollars_total") / 1e9,
    price: value("foretoken_price_nanodollars_total") / 1e9,
    savedSeconds: value("foretoken_saved_prefill_seconds_total"),
    requests: value("foretoken_ledger_requests_total"),
  };
}

/** A counter's growth per second, at every reading. */
function rates(count) {
  return samples.map((now, at) => {
    const before = samples[Math.max(0, at - WINDOW)];
    const time = now.time - before.time;
    // A counter that fell is that of another process.
    return time > 0 ? Math.max(0, count(now) - count(before)) / time : 0;
  });
}

function card(name, figure, under, ...more) {
  return element("section", { class: "card", id: `card-${name.toLowerCase().replaceAll(" ", "-")}` },
    element("h2", {}, name), element("div", { class: "figure" }, ...figure), element("div", { class: "under" }, under), ...more);
}

const unit = (text) => element("small", {}, ` ${text}`);

function draw(now) {
  const points = Math.max(POINTS_MIN, samples.length);
  const generated = rates((sample) => sample.generated);
  const computed = rates((sample) => sample.prompt - sample.hits);
  const hitShare = now.queries > 0 ? now.hits / now.queries : 0;
  const shares = samples.map((sample) => (sample.queries > 0 ? sample.hits / sample.queries : 0));
  cards.replaceChildren(
    card("Requests", [String(now.running), unit("running"), ` ${now.waiting}`, unit("waiting")],
      `${number(now.requests)} answered · ${percent(now.kv)} of KV blocks in use`,
      lines([samples.map((sample) => sample.running), samples.map((sample) => sample.waiting)], points, 1)),
    card("Tokens per second", [generated.at(-1).toFixed(1), unit("generated")],
      `${computed.at(-1).toFixed(0)} prompt tokens/s computed · ${number(now.generated)} generated in all`,
      lines([generated, computed], points, 1)),
    card("Hit rate", [percent(hitShare)], `${number(now.hits)} of ${number(now.queries)} prompt tokens · ${number(now.replays)} answers replayed`,
      lines([shares], points, 1)),
    card("Savings", [dollars(now.saved)], `${seconds(now.savedSeconds)} of prefill saved · ${dollars(now.price)} charged`,
      lines([rates((sample) => sample.savedSeconds)], points)),
    drafting(now),
    memory(now),
  );
}

/** Accepted drafts by drafter. */
function drafting(now) {
  const total = (counts) => [...counts.values()].reduce((sum, count) => sum + count, 0);
  const [drafted, accepted] = [total(now.drafted), total(now.accepted)];
  const rows = [...now.drafted].filter(([, count]) => count > 0).flatMap(([drafter, count]) => {
    const share = (now.accepted.get(drafter) ?? 0) / count;
    return [
      element("span", {}, NAMES[drafter] ?? drafter),
      element("div", { class: `meter by-${drafter}` }, bar(share)),
      element("span", {}, percent(share)),
    ];
  });
  const emitted = now.generated > 0 ? accepted / now.generated : 0;
  return card("Acceptance by drafter", [percent(drafted > 0 ? accepted / drafted : 0)],
    `${number(accepted)} of ${number(drafted)} drafts kept · ${percent(emitted)} of all tokens`,
    element("div", { class: "rows" }, ...rows));
}

/** What each tier holds, beside the largest of them. */
function memory(now) {
  const held = [...now.bytes, ...now.store].filter(([, count]) => count > 0);
  const [total, largest] = [held.reduce((sum, [, count]) => sum + count, 0), Math.max(...held.map(([, count]) => count))];
  const rows = held.flatMap(([name, count]) => {
    const most = now.most.get(name);
    return [
      element("span", {}, name),
      element("div", { class: "meter" }, bar(most > 0 ? count / most : count / largest)),
      element("span", {}, most > 0 ? `${bytes(count)} of ${bytes(most)}` : bytes(count)),
    ];
  });
  return card("Memory and disk", [bytes(total)], `${number([...now.blocks.values()].reduce((sum, count) => sum + count, 0))} blocks of 64 tokens`,
    element("div", { class: "rows" }, ...rows));
}
