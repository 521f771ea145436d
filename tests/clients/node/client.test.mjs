// The official Node client against a running server; ../run starts one and sets the addresses.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const baseURL = process.env.FORETOKEN_BASE_URL;
const model = process.env.FORETOKEN_MODEL_NAME;
const client = new OpenAI({ baseURL, apiKey: process.env.FORETOKEN_KEY, maxRetries: 0 });

const messages = [{ role: "user", content: "Name three rivers in Europe." }];
const greedy = { model, messages, temperature: 0, max_tokens: 24 };

test("models are listed", async () => {
  const models = await client.models.list();
  assert.deepEqual(models.data.map((entry) => entry.id), [model]);
});

test("a chat answer has text and usage", async () => {
  const answer = await client.chat.completions.create(greedy);
  assert.ok(answer.choices[0].message.content.length > 10);
  const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
  assert.equal(total_tokens, prompt_tokens + completion_tokens);
});

test("a stream has the same text and ends with usage", async () => {
  const whole = await client.chat.completions.create(greedy);
  const stream = await client.chat.completions.create({
    ...greedy,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(usage.completion_tokens, whole.usage.completion_tokens);
});

test("the stream helper collects the same answer", async () => {
  const whole = await client.chat.completions.create(greedy);
  const final = await client.chat.completions.stream(greedy).finalChatCompletion();
  assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
  assert.equal(final.choices[0].finish_reason, whole.choices[0].finish_reason);
});

test("a stop text ends the answer before itself", async () => {
  const request = { model, prompt: "one two three four five six", temperature: 0, max_tokens: 16 };
  const whole = (await client.completions.create(request)).choices[0].text;
  const word = whole.trim().split(/\s+/)[2];
  const stopped = (await client.completions.create({ ...request, stop: word })).choices[0];
  assert.equal(stopped.text, whole.slice(0, whole.indexOf(word)));
  assert.equal(stopped.finish_reason, "stop");
});

test("logprobs come with the best alternatives", async () => {
  const answer = await client.chat.completions.create({ ...greedy, logprobs: true, top_logprobs: 2 });
  const { content } = answer.choices[0].logprobs;
  assert.equal(content.length, answer.usage.completion_tokens);
  for (const token of content) {
    assert.equal(token.top_logprobs.length, 2);
    assert.equal(token.top_logprobs[0].token, token.token);
    assert.ok(token.logprob <= 0);
  }
});

test("n answers are numbered", async () => {
  const answer = await client.chat.completions.create({ ...greedy, temperature: 1, seed: 3, n: 3 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2]);
});

test("errors have the classes that the client knows", async () => {
  await assert.rejects(client.chat.completions.create({ ...greedy, temperature: -1 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
  await assert.rejects(client.chat.completions.create({ ...greedy, model: "gpt-4" }), OpenAI.NotFoundError);
  const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("an aborted stream leaves the server answering", async () => {
  const stream = await client.chat.completions.create({ ...greedy, max_tokens: 2000, stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    break;
  }
  await client.chat.completions.create(greedy);
});
