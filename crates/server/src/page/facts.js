// What is told under an answer: hits, what was computed, speed, cost, savings.
import { dollars, element, number, percent, seconds } from "./dom.js";

/** Causes that nobody would mend. */
const EXPECTED = ["question", "new_text", "cached", "nothing_cached"];

const fact = (title, ...children) => element("span", { title }, ...children);
const strong = (text) => element("b", {}, text);

/** Elements about a finished answer. */
export function facts(report) {
  if (!report?.usage) return [];
  const { usage, timings, cost, cache, metrics } = report;
  const hit = usage.prompt_cache_hit_tokens ?? 0;
  const share = usage.prompt_tokens > 0 ? hit / usage.prompt_tokens : 0;
  const bar = element("div", { class: "prompt-bar", role: "img", "aria-label": `${percent(share)} of the prompt hit` });
  const filled = element("span");
  filled.style.width = `${100 * share}%`;
  bar.append(filled);
  const line = [
    fact("Prompt tokens that a cache supplied", strong(number(hit)), " hit"),
    fact("Prompt tokens that were computed", strong(number(usage.prompt_tokens - hit)), " computed"),
    fact("Tokens of the answer", strong(number(usage.completion_tokens)), " written"),
  ];
  if (cost?.replayed) {
    line.push(fact("This very request was answered before", strong("replayed")));
  } else if (timings?.predicted_per_second > 0) {
    line.push(fact("Tokens of the answer per second", strong(timings.predicted_per_second.toFixed(1)), " tokens/s"));
  }
  const drafting = metrics?.speculative_decoding;
  if (drafting) {
    const kept = `${drafting.num_accepted_draft_tokens} of ${drafting.num_draft_tokens}`;
    line.push(fact("Draft tokens that the model accepted", strong(kept), " drafts kept"));
  }
  if (cost) {
    line.push(fact("By the server's price list", strong(dollars(cost.price)), " cost"));
    if (Number(cost.saved_money) > 0) line.push(fact("By the server's price list", strong(dollars(cost.saved_money)), " saved"));
    if (cost.saved_seconds > 0) line.push(fact("Prefill that hits saved, by measured speed", strong(seconds(cost.saved_seconds)), " saved"));
  }
  if (report.cut) line.push(fact("The answer reached the limit on its length", strong("cut"), " by a limit"));
  const told = [bar, element("div", { class: "facts" }, ...line)];
  if (cache?.message && !EXPECTED.includes(cache.cause)) told.push(element("div", { class: "why" }, cache.message));
  return told;
}
