// The little Markdown that models write, as elements: blocks of code, headings, lists, paragraphs; code, bold, italic.
// Text is cut by its position, so that the painter can colour it by drafter. Nothing is ever parsed as HTML.
import { element } from "./dom.js";
import { Painter } from "./drafters.js";

const INLINE = /`([^`\n]+)`|\*\*(?=\S)([^*\n]+?)\*\*|\*(?=\S)([^*\n]+?)\*/g;

/** The elements of a text. */
export function render(stretches) {
  const painter = new Painter(stretches);
  const text = stretches.text;
  const lines = [];
  let start = 0;
  for (const line of text.split("\n")) {
    lines.push({ line, start });
    start += line.length + 1;
  }
  const blocks = [];
  let at = 0;
  while (at < lines.length) at = block(lines, at, blocks, painter);
  return blocks;
}

/** Reads the block at a line; returns the line after it. */
function block(lines, at, blocks, painter) {
  const { line, start } = lines[at];
  if (!line.trim()) return at + 1;
  const fence = /^\s*(`{3,}|~{3,})/.exec(line);
  if (fence) return code(lines, at, fence[1], blocks, painter);
  const heading = /^#{1,6}\s+(?=\S)/.exec(line);
  if (heading) {
    blocks.push(element("h3", {}, ...inline(line, heading[0].length, start, painter)));
    return at + 1;
  }
  if (item(line)) return list(lines, at, blocks, painter);
  let end = at;
  while (end + 1 < lines.length && isParagraph(lines[end + 1].line)) end += 1;
  const whole = lines.slice(at, end + 1).map(({ line }) => line).join("\n");
  blocks.push(element("p", {}, ...inline(whole, 0, start, painter)));
  return end + 1;
}

const item = (line) => /^\s*(?:[-*+]|(\d{1,9})[.)])\s+(?=\S)/.exec(line);
const isParagraph = (line) => line.trim() && !item(line) && !/^\s*(`{3,}|~{3,}|#{1,6}\s)/.test(line);

function code(lines, at, fence, blocks, painter) {
  let end = at + 1;
  while (end < lines.length && !lines[end].line.trim().startsWith(fence)) end += 1;
  const from = lines[at + 1]?.start ?? lines[at].start + lines[at].line.length;
  const last = lines[end - 1];
  const to = end > at + 1 ? last.start + last.line.length : from;
  blocks.push(element("pre", {}, element("code", {}, ...painter.nodes(from, to))));
  return end + 1;
}

function list(lines, at, blocks, painter) {
  const numbered = item(lines[at].line)[1];
  const made = element(numbered ? "ol" : "ul", { start: numbered });
  while (at < lines.length) {
    const { line, start } = lines[at];
    const marker = item(line);
    // A blank line between two items belongs to the list.
    if (!line.trim() && at + 1 < lines.length && sameKind(item(lines[at + 1].line), numbered)) {
      at += 1;
      continue;
    }
    if (!marker || !sameKind(marker, numbered)) break;
    let end = at;
    while (end + 1 < lines.length && isParagraph(lines[end + 1].line)) end += 1;
    const whole = lines.slice(at, end + 1).map(({ line }) => line).join("\n");
    made.append(element("li", {}, ...inline(whole, marker[0].length, start, painter)));
    at = end + 1;
  }
  blocks.push(made);
  return at;
}

const sameKind = (marker, numbered) => marker && Boolean(marker[1]) === Boolean(numbered);

/** Nodes of `text` from `from` on; `start` is where it begins in the answer. */
function inline(text, from, start, painter) {
  const nodes = [];
  INLINE.lastIndex = from;
  for (let found; (found = INLINE.exec(text)); ) {
    nodes.push(...painter.nodes(start + from, start + found.index));
    const [whole, code, bold] = found;
    const name = code ? "code" : bold ? "strong" : "em";
    const marker = bold ? 2 : 1;
    const inner = [start + found.index + marker, start + found.index + whole.length - marker];
    nodes.push(element(name, {}, ...painter.nodes(...inner)));
    from = found.index + whole.length;
  }
  nodes.push(...painter.nodes(start + from, start + text.length));
  return nodes;
}
