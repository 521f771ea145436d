// Elements without markup in strings: whatever a model writes is text.

/** An element with attributes, properties that begin with "on", and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(count) {
  let unit = 0;
  while (count >= 1024 && unit + 1 < UNITS.length) {
    count /= 1024;
    unit += 1;
  }
  return `${count.toFixed(count >= 100 || unit === 0 ? 0 : 1)} ${UNITS[unit]}`;
}

/** A duration of seconds with two significant digits. */
export function seconds(count) {
  if (count >= 120) return `${(count / 60).toFixed(count >= 600 ? 0 : 1)} min`;
  if (count >= 1) return `${count.toFixed(1)} s`;
  return `${Math.round(count * 1000)} ms`;
}

/** US dollars with at least two significant digits: answers cost very little. */
export function dollars(text) {
  const amount = Number(text);
  if (amount === 0) return "$0";
  const digits = Math.min(9, Math.max(2, 1 - Math.floor(Math.log10(amount))));
  return `$${amount.toFixed(digits)}`;
}

export const number = (count) => Math.round(count).toLocaleString("en");
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
