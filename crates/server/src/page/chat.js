// The chat: asks, streams, stops, retries, edits.
import { ApiError, askForKey, isNeeded, stream } from "./api.js";
import { bindSettings, body, conversation, keep } from "./conversation.js";
import { element } from "./dom.js";
import { Painter, Stretches, legend } from "./drafters.js";
import { facts } from "./facts.js";
import { render } from "./markdown.js";

const byId = (id) => document.getElementById(id);
const [list, hello, question, send, stop] = ["messages", "hello", "question", "send", "stop"].map(byId);
const view = byId("chat");
let running = null;

/** The request of the last answer, for "Why a miss?". */
export const lastRequest = () => (conversation.turns.length > 0 ? body() : null);

export function start() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(question.value);
  });
  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      ask(question.value);
    }
  });
  question.addEventListener("input", grow);
  stop.addEventListener("click", () => running?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) running?.abort();
  });
  for (const starter of hello.querySelectorAll("button")) {
    starter.addEventListener("click", () => ask(starter.textContent));
  }
  byId("new-chat").addEventListener("click", () => {
    running?.abort();
    conversation.turns = [];
    keep();
    show();
    question.focus();
  });
  const settings = bindSettings(byId("settings"));
  byId("open-settings").addEventListener("click", settings.open);
  byId("settings").addEventListener("close", settings.read);
  byId("change-key").hidden = !isNeeded;
  byId("change-key").addEventListener("click", () => askForKey());
  const colours = byId("colours");
  const paint = () => list.classList.toggle("coloured", colours.checked);
  colours.addEventListener("change", paint);
  paint();
  show();
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

/** Draws the whole conversation. */
function show() {
  hello.hidden = conversation.turns.length > 0;
  list.replaceChildren(...conversation.turns.map((turn, at) => (turn.role === "user" ? userTurn(turn, at) : drawn(turn, at))));
}

function ask(text) {
  if (running || !text.trim()) return;
  question.value = "";
  grow();
  conversation.turns.push({ role: "user", content: text });
  answer();
}

function button(label, onclick) {
  return element("button", { type: "button", class: "quiet", onclick }, label);
}

function copier(text) {
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text());
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Not allowed";
    }
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  return copy;
}

function userTurn(turn, at) {
  const text = element("div", { class: "text" }, turn.content);
  const actions = element("div", { class: "actions" }, copier(() => turn.content), button("Edit", () => edit(made, turn, at)));
  const made = element("li", { class: "message user" }, text, actions);
  return made;
}

/** Asks again from an earlier message; what followed it is dropped. */
function edit(made, turn, at) {
  if (running) return;
  const field = element("textarea", { rows: "3", "aria-label": "Message" });
  field.value = turn.content;
  const ask = () => {
    if (running || !field.value.trim()) return;
    conversation.turns.splice(at, Infinity, { role: "user", content: field.value });
    answer();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      ask();
    }
    if (event.key === "Escape") show();
  });
  made.replaceChildren(field, element("div", { class: "actions" }, button("Cancel", show), button("Ask", ask)));
  field.focus();
}

/** The elements of an answer. */
function shell() {
  const thought = element("div", { class: "thought" });
  const reasoning = element("details", { class: "reasoning", hidden: true }, element("summary", {}, "Reasoning"), thought);
  const text = element("div", { class: "text" });
  const about = element("div", { class: "about" });
  return { thought, reasoning, text, about, item: element("li", { class: "message assistant" }, reasoning, text, about) };
}

/** Shows what there is of an answer. */
function fill(parts, turn) {
  const reasoning = new Stretches(turn.reasoning ?? []);
  parts.reasoning.hidden = !reasoning.text;
  parts.thought.replaceChildren(...new Painter(reasoning).nodes(0, reasoning.text.length));
  parts.text.replaceChildren(...render(new Stretches(turn.stretches ?? [[turn.content, "none"]])));
}

function finish(parts, turn, at) {
  fill(parts, turn);
  parts.item.classList.add("over");
  const actions = element(
    "div",
    { class: "actions" },
    copier(() => turn.content),
    button("Retry", () => {
      if (running) return;
      conversation.turns.splice(at);
      answer();
    }),
  );
  const error = turn.error ? element("div", { class: "error" }, turn.error) : null;
  const note = [error, turn.stretches ? legend(new Stretches(turn.stretches)) : null, ...facts(turn.report), actions];
  parts.about.replaceChildren(...note.filter(Boolean));
}

function drawn(turn, at) {
  const parts = shell();
  finish(parts, turn, at);
  return parts.item;
}

/** Streams the answer to the turns so far. */
async function answer() {
  keep();
  show();
  const at = conversation.turns.length;
  const parts = shell();
  list.append(parts.item);
  const request = {
    ...body(),
    stream: true,
    stream_options: { include_usage: true },
    speculation: { show: true },
    cache: { explain: true },
  };
  const turn = { role: "assistant", content: "", reasoning: [], stretches: [] };
  const [text, thought] = [new Stretches(turn.stretches), new Stretches(turn.reasoning)];
  running = new AbortController();
  busy(true);
  const began = performance.now();
  let drawing = 0;
  const draw = () => {
    drawing = 0;
    fill(parts, turn);
    follow();
  };
  follow(true);
  try {
    for await (const chunk of stream("v1/chat/completions", request, running.signal)) {
      const [choice] = chunk.choices;
      if (choice) {
        text.add(choice.delta.content ?? "", choice.drafted?.content);
        thought.add(choice.delta.reasoning_content ?? "", choice.drafted?.reasoning_content);
        turn.cut = choice.finish_reason === "length" || turn.cut;
      }
      if (chunk.usage) turn.report = report(chunk, began);
      drawing ||= requestAnimationFrame(draw);
    }
  } catch (error) {
    if (error.name !== "AbortError") turn.error = explain(error);
  }
  cancelAnimationFrame(drawing);
  if (turn.report?.cost?.replayed) turn.stretches = text.by("cache").parts;
  turn.content = text.text;
  if (turn.cut && turn.report) turn.report.cut = true;
  running = null;
  busy(false);
  conversation.turns.push(turn);
  keep();
  finish(parts, turn, at);
  follow();
}

function report({ usage, timings, cost, speculation, metrics, cache }, began) {
  return { usage, timings, cost, speculation, metrics, cache, seconds: (performance.now() - began) / 1000 };
}

function explain(error) {
  if (error instanceof ApiError) return error.message;
  return "The server cannot be reached. Is it running?";
}

function busy(is) {
  send.hidden = is;
  stop.hidden = !is;
  if (!is && !view.hidden) question.focus({ preventScroll: true });
}

/** Keeps the end in sight, unless the reader has scrolled away from it. */
function follow(always = false) {
  const distance = view.scrollHeight - view.scrollTop - view.clientHeight;
  if (always || distance < 160) view.scrollTop = view.scrollHeight;
}
