// The public API: requests with the key, streams of server-sent events. The key stays in memory.
let key = "";
/** The server wrote into the page whether it wants one. */
export const isNeeded = document.documentElement.dataset.key === "needed";
/** Who waits for a key without asking for one. */
const waiting = [];

const dialog = document.getElementById("key-dialog");
const field = document.getElementById("key");
let asking = null;

/** Asks for a key; resolves when there is one. One dialog serves all who wait. */
export function askForKey(note) {
  document.getElementById("key-note").textContent = note ?? "It is kept in memory until the page closes.";
  asking ??= new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      key = field.value.trim() || key;
      field.value = "";
      if (key) for (const resolve of waiting.splice(0)) resolve();
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** Resolves as soon as requests need not ask for a key. */
export const ready = () => new Promise((resolve) => (key || !isNeeded ? resolve() : waiting.push(resolve)));

/** What went wrong, in the server's words. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function failure(response) {
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error?.message ?? message;
  } catch {
    // Not the API's own answer.
  }
  return new ApiError(response.status, message);
}

/** A response that succeeded. Asks for a key if one is needed, and again if it is not one of the server's. */
export async function request(path, options = {}) {
  for (;;) {
    if (isNeeded && !key) await askForKey();
    const headers = { ...options.headers };
    if (key) headers.authorization = `Bearer ${key}`;
    if (options.body) headers["content-type"] = "application/json";
    const used = key;
    const response = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
    if (response.ok) return response;
    const error = await failure(response);
    if (response.status !== 401 || !isNeeded) throw error;
    // Another request may have asked meanwhile.
    if (used === key) await askForKey(error.message);
    if (used === key) throw error;
  }
}

export const json = async (path, options) => (await request(path, options)).json();

/** The events of a streamed answer, parsed. */
export async function* stream(path, body, signal) {
  const response = await request(path, { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError(0, "The connection ended before the answer did.");
    held += value;
    const events = held.split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(0, chunk.error.message);
      yield chunk;
    }
  }
}
