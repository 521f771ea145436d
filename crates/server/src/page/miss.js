// "Why did it miss?" for a request that is pasted.
import { json } from "./api.js";
import { lastRequest } from "./chat.js";
import { element, number, percent } from "./dom.js";

const form = document.getElementById("explain");
const field = document.getElementById("request");
const shown = document.getElementById("explained");

export function start() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    explain();
  });
  document.getElementById("take-chat").addEventListener("click", () => {
    const request = lastRequest();
    if (request) field.value = JSON.stringify(request, null, 2);
    else problem("The chat is empty.");
  });
}

const problem = (text) => shown.replaceChildren(element("p", { class: "error" }, text));

async function explain() {
  let body;
  try {
    body = JSON.stringify(JSON.parse(field.value));
  } catch (error) {
    problem(`This is not JSON: ${error.message}`);
    return;
  }
  try {
    show(await json("v1/cache/explain", { method: "POST", body }));
  } catch (error) {
    problem(error.status ? error.message : "The server cannot be reached. Is it running?");
  }
}

function show(report) {
  const { prompt_tokens: prompt, hit_tokens: hit, agreed_tokens: agreed, divergence } = report;
  const tiers = Object.entries(report.tiers ?? {}).filter(([, count]) => count > 0).map(([tier, count]) => `${number(count)} from ${tier}`);
  const bar = element("div", { class: "prompt-bar" });
  const filled = element("span");
  filled.style.width = `${prompt > 0 ? (100 * hit) / prompt : 0}%`;
  bar.append(filled);
  const where = [`${number(hit)} of ${number(prompt)} prompt tokens would hit (${percent(prompt > 0 ? hit / prompt : 0)})`];
  if (tiers.length > 0) where.push(tiers.join(", "));
  where.push(`${number(agreed)} agree with what is cached`);
  shown.replaceChildren(
    element("p", { class: "verdict" }, report.message),
    bar,
    element("p", { class: "note" }, where.join(" · ")),
    ...(divergence ? [sides(divergence)] : []),
  );
}

function sides({ token, field, offset, before, prompt, cached }) {
  const place = offset === null ? field : `${field}, character ${offset}`;
  const side = (title, text, differs) =>
    element("div", { class: differs ? "side differs" : "side" }, element("h3", {}, title), element("code", {}, text));
  return element("div", { class: "sides" },
    side(`Before token ${number(token)}, in ${place}`, before, false),
    side("This request goes on", prompt, true),
    side("What is cached goes on", cached, true));
}
