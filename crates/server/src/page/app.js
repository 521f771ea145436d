// The page: three views over the public API.
import { json, ready } from "./api.js";
import * as chat from "./chat.js";
import * as live from "./live.js";
import * as miss from "./miss.js";

const VIEWS = ["chat", "live", "miss"];

function show() {
  const asked = location.hash.slice(1);
  const view = VIEWS.includes(asked) ? asked : "chat";
  for (const name of VIEWS) document.getElementById(name).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  live.look(view === "live" && !document.hidden);
}

async function nameModel() {
  await ready();
  try {
    const { data } = await json("v1/models");
    document.getElementById("model").textContent = data[0]?.id ?? "";
  } catch {
    // The model is loading; the first answer says so.
  }
}

chat.start();
miss.start();
addEventListener("hashchange", show);
document.addEventListener("visibilitychange", show);
show();
nameModel();
