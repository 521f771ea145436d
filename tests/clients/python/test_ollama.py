"""The official Ollama client for Python against a running server; ../run starts one and sets the addresses."""

import asyncio
import os
import unittest

import ollama

BASE_URL = os.environ["FORETOKEN_BASE_URL"].removesuffix("/v1")
KEY = os.environ["FORETOKEN_KEY"]
MODEL = os.environ["FORETOKEN_MODEL_NAME"]
HEADERS = {"Authorization": f"Bearer {KEY}"}

MESSAGES = [{"role": "user", "content": "Name three rivers in Europe."}]
QUESTION = {"model": MODEL, "messages": MESSAGES, "options": {"temperature": 0, "num_predict": 24}}


def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Name of the city
    """
    return f"It is sunny in {city}."


class Client(unittest.TestCase):
    def setUp(self):
        self.client = ollama.Client(host=BASE_URL, headers=HEADERS)
        self.addCleanup(self.client._client.close)

    def test_a_chat_has_text_counts_and_durations(self):
        answer = self.client.chat(**QUESTION)
        self.assertEqual((answer.model, answer.message.role, answer.done), (MODEL, "assistant", True))
        self.assertGreater(len(answer.message.content), 10)
        self.assertIn(answer.done_reason, ["stop", "length"])
        self.assertGreater(answer.prompt_eval_count, 5)
        self.assertGreater(answer.eval_count, 2)
        self.assertGreaterEqual(answer.total_duration, answer.eval_duration)

    def test_a_stream_has_the_same_text(self):
        whole = self.client.chat(**QUESTION)
        parts = list(self.client.chat(**QUESTION, stream=True))
        self.assertEqual("".join(part.message.content for part in parts), whole.message.content)
        self.assertEqual([part.done for part in parts], [False] * (len(parts) - 1) + [True])
        self.assertEqual(parts[-1].eval_count, whole.eval_count)

    def test_generate_answers_and_continues(self):
        asked = {"model": MODEL, "options": {"temperature": 0, "num_predict": 12}}
        answer = self.client.generate(prompt="Name three rivers in Europe.", system="Be brief.", **asked)
        self.assertGreater(len(answer.response), 5)
        raw = self.client.generate(prompt="one two three four", raw=True, **asked)
        streamed = self.client.generate(prompt="one two three four", raw=True, stream=True, **asked)
        self.assertEqual("".join(part.response for part in streamed), raw.response)

    def test_tools_are_offered_and_their_results_read(self):
        messages = MESSAGES + [
            {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]},
            {"role": "tool", "tool_name": "weather", "content": weather("Rome")},
        ]
        for stream in [False, True]:
            answer = self.client.chat(**QUESTION | {"messages": messages}, tools=[weather], stream=stream)
            last = list(answer)[-1] if stream else answer
            self.assertTrue(last.done)

    def test_the_model_is_listed_shown_and_running(self):
        (listed,) = self.client.list().models
        self.assertEqual(listed.model, MODEL)
        self.assertGreater(listed.size, 50_000_000)
        self.assertEqual(listed.details.family, "llama")
        shown = self.client.show(MODEL)
        self.assertIn("completion", shown.capabilities)
        self.assertGreater(shown.modelinfo["llama.context_length"], 1000)
        (running,) = self.client.ps().models
        self.assertEqual((running.model, running.digest), (MODEL, listed.digest))

    def test_log_probabilities_belong_to_the_tokens(self):
        answer = self.client.chat(**QUESTION, logprobs=True, top_logprobs=2)
        self.assertEqual("".join(entry.token for entry in answer.logprobs), answer.message.content)
        self.assertEqual({len(entry.top_logprobs) for entry in answer.logprobs}, {2})

    def test_errors_say_what_is_wrong(self):
        with self.assertRaises(ollama.ResponseError) as caught:
            self.client.chat(**QUESTION | {"model": "llama3.2"})
        self.assertEqual(caught.exception.status_code, 404)
        with self.assertRaises(ollama.ResponseError) as caught:
            self.client.chat(**QUESTION | {"options": {"temperature": -1}})
        self.assertIn("options.temperature", caught.exception.error)
        with self.assertRaises(ollama.ResponseError) as caught:
            next(self.client.chat(**QUESTION | {"messages": [{"role": "user", "content": "word " * 20000}]}, stream=True))
        self.assertIn("shorten the prompt", caught.exception.error)
        stranger = ollama.Client(host=BASE_URL)
        self.addCleanup(stranger._client.close)
        with self.assertRaises(ollama.ResponseError) as caught:
            stranger.list()
        self.assertEqual(caught.exception.status_code, 401)

    def test_the_async_client_streams(self):
        async def ask():
            client = ollama.AsyncClient(host=BASE_URL, headers=HEADERS)
            text = ""
            async for part in await client.chat(**QUESTION, stream=True):
                text += part.message.content
            await client._client.aclose()
            return text

        self.assertEqual(asyncio.run(ask()), self.client.chat(**QUESTION).message.content)


if __name__ == "__main__":
    unittest.main()
