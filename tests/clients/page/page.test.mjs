// The page in a headless Chromium, against a running server; ../run starts one and sets the addresses.
// FORETOKEN_SCREENSHOT=FILE also keeps a picture of the chat.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { launch } from "./browser.mjs";

const base = process.env.FORETOKEN_BASE_URL.replace(/\/v1$/, "/");
const key = process.env.FORETOKEN_KEY;
/** Nothing here should take longer. */
const SOON = { timeout: 60_000 };

let browser, page, complaints;

before(async () => (browser = await launch()));
after(() => browser.close());
beforeEach(async () => {
  page = await browser.newPage({ colorScheme: "light", viewport: { width: 1100, height: 760 } });
  page.setDefaultTimeout(SOON.timeout);
  complaints = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
});
afterEach(async () => {
  await page.close();
  assert.deepEqual(complaints, []);
});

/** Opens the page with settings that make answers short and the same each time. */
async function open(settings = {}) {
  await page.addInitScript((kept) => {
    if (!localStorage.length) localStorage.setItem("foretoken.chat", JSON.stringify(kept));
  }, { turns: [], settings: { temperature: 0, max_tokens: 48, ...settings } });
  await page.goto(base);
}

async function giveKey(text = key) {
  await page.fill("#key", text);
  await page.click("#key-dialog .primary");
}

async function ask(text) {
  await page.fill("#question", text);
  await page.press("#question", "Enter");
}

/** Waits until this many answers are over; returns their texts. */
async function answers(count) {
  await page.waitForFunction((count) => document.querySelectorAll(".assistant.over").length === count, count);
  return page.locator(".assistant .text").allInnerTexts();
}

const question = "Count from one to five in words, then count again from one to five in words.";

test("an answer streams, says what it cost, and is coloured by drafter", async () => {
  // No answer of an earlier run has this seed.
  await open({ temperature: 0.01, seed: Date.now() % 1e9 });
  await ask(question);
  await giveKey();
  const [first] = await answers(1);
  assert.ok(first.length > 20, first);
  const facts = await page.locator(".facts").innerText();
  for (const fact of ["hit", "computed", "written", "tokens/s", "cost"]) assert.ok(facts.includes(fact), facts);
  assert.equal(await page.locator("#model").innerText(), process.env.FORETOKEN_MODEL_NAME);

  // The same request again: the answer is replayed.
  await page.click("text=Retry");
  const [again] = await answers(1);
  assert.equal(again, first);
  assert.ok((await page.locator(".facts").innerText()).includes("replayed"));
  assert.ok((await page.locator(".text .by-cache").count()) > 0);

  // Another limit: what was answered before is drafted from memory, and verified.
  await page.click("#open-settings");
  await page.fill("#max_tokens", "47");
  await page.click("#settings .primary");
  await page.click("text=Retry");
  const [shorter] = await answers(1);
  assert.ok(first.startsWith(shorter.trimEnd()), `${shorter}\n${first}`);
  assert.equal(await page.locator(".text .by-cache").count(), 0);
  const drafted = page.locator(".text .by");
  assert.ok((await drafted.count()) > 0);
  assert.ok((await page.locator(".legend").innerText()).length > 5);
  const colour = () => drafted.first().evaluate((span) => getComputedStyle(span).backgroundColor);
  const painted = await colour();
  await page.uncheck("#colours");
  assert.notEqual(await colour(), painted);
  await page.check("#colours");
  if (process.env.FORETOKEN_SCREENSHOT) await page.screenshot({ path: process.env.FORETOKEN_SCREENSHOT });
});

test("stop keeps what was written, and a question can be edited", async () => {
  await open({ max_tokens: 3000 });
  await ask("Write a very long story about a river.");
  await giveKey();
  await page.waitForFunction(() => document.querySelector(".assistant .text")?.innerText.length > 30);
  assert.equal(await page.locator(".assistant.over").count(), 0);
  assert.ok(await page.locator("#send").isHidden());
  await page.click("#stop");
  const [stopped] = await answers(1);
  assert.ok(stopped.length > 30);
  assert.ok(await page.locator("#send").isVisible());

  await page.click("#open-settings");
  await page.fill("#max_tokens", "12");
  await page.fill("#system", "Be brief.");
  await page.click("#settings .primary");
  await page.click(".user >> text=Edit");
  await page.fill(".user textarea", "Name a river.");
  await page.click('.user button:text-is("Ask")');
  const [edited] = await answers(1);
  assert.ok(!edited.startsWith(stopped.slice(0, 30)));
  assert.equal(await page.locator(".user .text").innerText(), "Name a river.");

  // The conversation outlives the page; the key does not.
  await page.reload();
  assert.deepEqual(await answers(1), [edited]);
  await ask("And another.");
  await giveKey();
  await answers(2);
  await page.click("#new-chat");
  assert.equal(await page.locator(".message").count(), 0);
});

test("a wrong key is asked for again", async () => {
  await open({ max_tokens: 4 });
  await ask("Hello");
  await giveKey("wrong");
  await page.waitForSelector("#key-dialog[open]");
  await page.waitForFunction(() => document.getElementById("key-note").textContent.includes("not one of this server's"));
  await giveKey();
  assert.equal((await answers(1)).length, 1);
  // Chromium itself reports every 401.
  complaints = complaints.filter((text) => !text.includes("401"));
});

test("the live view moves", async () => {
  await page.goto(`${base}#live`);
  await giveKey();
  const figures = () => page.locator("#card-tokens-per-second .under").innerText();
  await page.waitForSelector("#card-tokens-per-second");
  const before = await figures();
  const body = JSON.stringify({ messages: [{ role: "user", content: "Name a colour." }], max_tokens: 9, temperature: 1 });
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  assert.equal((await fetch(`${base}v1/chat/completions`, { method: "POST", headers, body })).status, 200);
  await page.waitForFunction((before) => document.querySelector("#card-tokens-per-second .under").innerText !== before, before);
  await page.waitForSelector("#card-hit-rate .chart path");
  assert.match(await page.locator("#card-memory-and-disk").innerText(), /memory[^]*of \d/);
});

test("a request is explained", async () => {
  await open({ max_tokens: 8 });
  await ask("Today is 2026-11-28. What is tomorrow's date, and what is the day after tomorrow, and the day after that?");
  await giveKey();
  await answers(1);
  await page.click("nav >> text=Why a miss?");
  await page.click("#take-chat");
  const request = JSON.parse(await page.inputValue("#request"));
  assert.equal(request.messages.length, 1);
  request.messages[0].content = request.messages[0].content.replace("28", "29");
  await page.fill("#request", JSON.stringify(request));
  await page.click("#explain .primary");
  assert.match(await page.locator(".verdict").innerText(), /date/);
  assert.equal(await page.locator(".side").count(), 3);
  await page.fill("#request", "{");
  await page.click("#explain .primary");
  assert.match(await page.locator("#explained .error").innerText(), /not JSON/);
});

test("markup that a model writes stays text", async () => {
  const text = "<img src=x onerror=alert(1)> **bold** and `code`\n\n```html\n<script>alert(1)</script>\n```\n- one\n- two";
  await page.addInitScript((content) => {
    const turns = [{ role: "user", content: "x" }, { role: "assistant", content }];
    localStorage.setItem("foretoken.chat", JSON.stringify({ turns, settings: {} }));
  }, text);
  await page.goto(base);
  const answer = page.locator(".assistant .text");
  assert.equal(await answer.locator("img, script").count(), 0);
  assert.match(await answer.innerText(), /<img src=x onerror=alert\(1\)> bold and code/);
  assert.equal(await answer.locator("pre code").innerText(), "<script>alert(1)</script>");
  assert.deepEqual(await answer.locator("li").allInnerTexts(), ["one", "two"]);
});

test("every view fits a phone", async () => {
  await page.setViewportSize({ width: 360, height: 640 });
  await page.goto(base);
  for (const view of ["chat", "live", "miss"]) {
    await page.evaluate((view) => (location.hash = view), view);
    if (view === "live") {
      await giveKey();
      await page.waitForSelector(".card");
    }
    const [needs, has] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(needs <= has, `${view}: ${needs} > ${has}`);
  }
});

test("another site can neither frame the page nor read the API", async () => {
  const site = createServer((_, response) => {
    response.setHeader("content-type", "text/html");
    response.end(`<iframe src="${base}"></iframe>`);
  });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  try {
    await page.goto(`http://127.0.0.1:${site.address().port}/`);
    await page.waitForFunction(() => document.querySelector("iframe"));
    await page.waitForTimeout(300);
    const framed = page.frames()[1];
    assert.equal(await framed.locator("#question").count(), 0);
    const read = await page.evaluate(async ([base, key]) => {
      try {
        return (await fetch(`${base}v1/models`, { headers: { authorization: `Bearer ${key}` } })).status;
      } catch {
        return "blocked";
      }
    }, [base, key]);
    assert.equal(read, "blocked");
  } finally {
    site.close();
  }
  // Chromium reports both.
  complaints = [];
});
