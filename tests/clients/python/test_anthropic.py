"""The official Anthropic client for Python against a running server; ../run starts one and sets the addresses."""

import asyncio
import os
import unittest

import anthropic

# The client adds /v1 itself.
BASE_URL = os.environ["FORETOKEN_BASE_URL"].removesuffix("/v1")
KEY = os.environ["FORETOKEN_KEY"]
MODEL = os.environ["FORETOKEN_MODEL_NAME"]

QUESTION = {
    "model": MODEL,
    "max_tokens": 24,
    # The SDK has left it out of its parameters.
    "extra_body": {"temperature": 0},
    "messages": [{"role": "user", "content": "Name three rivers in Europe."}],
}
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Client(unittest.TestCase):
    def setUp(self):
        self.client = anthropic.Anthropic(base_url=BASE_URL, api_key=KEY, max_retries=0)
        self.addCleanup(self.client.close)

    def ask(self, **more):
        return self.client.messages.create(**QUESTION | more)

    def test_a_message_has_text_usage_and_a_reason(self):
        message = self.ask()
        self.assertEqual((message.type, message.role, message.model), ("message", "assistant", MODEL))
        self.assertEqual([block.type for block in message.content], ["text"])
        self.assertGreater(len(message.content[0].text), 10)
        self.assertIn(message.stop_reason, ["end_turn", "max_tokens"])
        usage = message.usage
        prompt = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
        counted = self.client.messages.count_tokens(model=MODEL, messages=QUESTION["messages"])
        self.assertEqual(prompt, counted.input_tokens)
        self.assertTrue(message._request_id.startswith("req_"))

    def test_a_stream_accumulates_to_the_whole_message(self):
        whole = self.ask()
        with self.client.messages.stream(**QUESTION) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual(text, whole.content[0].text)
        self.assertEqual(final.content[0].text, text)
        self.assertEqual((final.stop_reason, final.usage.output_tokens), (whole.stop_reason, whole.usage.output_tokens))

    def test_a_long_prompt_is_written_to_the_cache_and_read_from_it(self):
        system = [{"type": "text", "text": "A rule of the house. " * 60, "cache_control": {"type": "ephemeral"}}]
        first, second = (self.ask(system=system, max_tokens=2).usage for _ in range(2))
        self.assertGreater(first.cache_creation_input_tokens + first.cache_read_input_tokens, 128)
        self.assertGreaterEqual(second.cache_read_input_tokens, 128)

    def test_a_stop_sequence_is_named(self):
        word = self.ask().content[0].text.split()[2]
        message = self.ask(stop_sequences=[word, "never written"])
        self.assertEqual((message.stop_reason, message.stop_sequence), ("stop_sequence", word))
        self.assertNotIn(word, message.content[0].text)

    def test_a_conversation_with_tools_and_thinking_is_accepted(self):
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "What is the weather in Rome?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "I should look.", "signature": "any"},
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny."}]},
        ]
        for stream in [False, True]:
            answer = self.ask(messages=messages, tools=[WEATHER], tool_choice={"type": "auto"}, stream=stream)
            if stream:
                self.assertEqual([event.type for event in answer][-1], "message_stop")
            else:
                self.assertEqual(answer.role, "assistant")

    def test_the_beta_client_works_too(self):
        message = self.client.beta.messages.create(**QUESTION, betas=["context-1m-2025-08-07"])
        self.assertEqual(message.content[0].text, self.ask().content[0].text)

    def test_errors_have_the_classes_that_the_client_knows(self):
        with self.assertRaises(anthropic.BadRequestError) as caught:
            self.ask(extra_body={"temperature": -1})
        self.assertEqual(caught.exception.body["error"]["type"], "invalid_request_error")
        self.assertIn("temperature", caught.exception.message)
        with self.assertRaises(anthropic.NotFoundError):
            self.ask(model="claude-sonnet-4-5")
        with self.assertRaises(anthropic.BadRequestError) as caught:
            self.ask(messages=[{"role": "user", "content": "word " * 20000}])
        self.assertIn("prompt is too long", caught.exception.message)
        with anthropic.Anthropic(base_url=BASE_URL, api_key="wrong", max_retries=0) as stranger:
            with self.assertRaises(anthropic.AuthenticationError):
                stranger.messages.create(**QUESTION)

    def test_the_async_client_streams(self):
        async def ask():
            async with anthropic.AsyncAnthropic(base_url=BASE_URL, api_key=KEY, max_retries=0) as client:
                async with client.messages.stream(**QUESTION) as stream:
                    return await stream.get_final_text()

        self.assertEqual(asyncio.run(ask()), self.ask().content[0].text)


if __name__ == "__main__":
    unittest.main()
