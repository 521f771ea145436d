// One conversation with its settings, kept in this browser.
const PLACE = "foretoken.chat";

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];

export const conversation = load();

function load() {
  let kept = null;
  try {
    kept = JSON.parse(localStorage.getItem(PLACE));
  } catch {
    // Damaged, or storage is forbidden.
  }
  const turns = Array.isArray(kept?.turns) ? kept.turns.filter(isTurn) : [];
  const settings = kept?.settings && typeof kept.settings === "object" ? kept.settings : {};
  return { turns, settings };
}

function isTurn(turn) {
  return ["user", "assistant"].includes(turn?.role) && typeof turn.content === "string";
}

export function keep() {
  try {
    localStorage.setItem(PLACE, JSON.stringify(conversation));
  } catch {
    // Full or forbidden: the conversation lasts until the page closes.
  }
}

/** The body of the request that the last question is. */
export function body() {
  const { turns, settings } = conversation;
  const asked = turns.slice(0, turns.findLastIndex(({ role }) => role === "user") + 1);
  // An answer that failed before it began says nothing.
  const messages = asked.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
  if (settings.system?.trim()) messages.unshift({ role: "system", content: settings.system });
  const sampling = NUMBERS.filter((name) => Number.isFinite(settings[name]));
  return { messages, ...Object.fromEntries(sampling.map((name) => [name, settings[name]])) };
}

/** Puts the settings into the dialog's fields, and reads them from there. */
export function bindSettings(dialog) {
  const system = dialog.querySelector("#system");
  const fields = NUMBERS.map((name) => dialog.querySelector(`#${name}`));
  return {
    open() {
      system.value = conversation.settings.system ?? "";
      for (const field of fields) field.value = conversation.settings[field.id] ?? "";
      dialog.showModal();
    },
    read() {
      const numbers = fields.map((field) => [field.id, field.value === "" ? undefined : field.valueAsNumber]);
      conversation.settings = { system: system.value, ...Object.fromEntries(numbers) };
      keep();
    },
  };
}
