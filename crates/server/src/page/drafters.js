// Who drafted a token: names, and an answer's text as stretches by drafter.
import { element } from "./dom.js";

export const NAMES = {
  cache: "from the response cache",
  prediction: "your prediction",
  own_text: "its own text",
  memory: "memory of past answers",
  successors: "likely next tokens",
  draft_model: "draft model",
  mtp: "prediction head",
  grammar: "grammar",
  none: "not drafted",
};

const isKnown = (by) => Object.hasOwn(NAMES, by);

/** Text by drafter, in order, neighbours of one drafter joined. */
export class Stretches {
  constructor(parts = []) {
    this.parts = parts;
  }

  /** Adds text; `drafted` says who drafted its pieces, if that is known. */
  add(text, drafted) {
    const pieces = drafted?.map(({ text, by }) => text).join("") === text ? drafted : [{ text, by: null }];
    for (const { text, by } of pieces) {
      const last = this.parts.at(-1);
      const name = isKnown(by) ? by : "none";
      if (last && last[1] === name) last[0] += text;
      else if (text) this.parts.push([text, name]);
    }
  }

  get text() {
    return this.parts.map(([text]) => text).join("");
  }

  /** All of it by one drafter. */
  by(name) {
    return new Stretches(this.text ? [[this.text, name]] : []);
  }

  drafters() {
    return Object.keys(NAMES).filter((name) => this.parts.some(([, by]) => by === name));
  }
}

/** Cuts ranges of the text into nodes, coloured by drafter. Ranges must rise. */
export class Painter {
  constructor(stretches) {
    this.parts = stretches.parts;
    this.part = 0;
    this.start = 0;
  }

  /** Nodes of the text from `from` to `to`. */
  nodes(from, to) {
    const nodes = [];
    while (from < to && this.part < this.parts.length) {
      const [text, by] = this.parts[this.part];
      const end = this.start + text.length;
      if (end <= from) {
        this.part += 1;
        this.start = end;
        continue;
      }
      const piece = text.slice(from - this.start, Math.min(to, end) - this.start);
      nodes.push(by === "none" ? document.createTextNode(piece) : element("span", { class: `by by-${by}` }, piece));
      from += piece.length;
    }
    return nodes;
  }
}

export function legend(stretches) {
  const drafters = stretches.drafters();
  if (drafters.every((name) => name === "none")) return null;
  const entry = (name) => element("span", { class: `by-${name}` }, element("i"), NAMES[name]);
  return element("div", { class: "legend" }, ...drafters.map(entry));
}
