"""The official Python client against a running server; ../run starts one and sets the addresses."""

import asyncio
import os
import unittest

import openai

BASE_URL = os.environ["FORETOKEN_BASE_URL"]
KEY = os.environ["FORETOKEN_KEY"]
MODEL = os.environ["FORETOKEN_MODEL_NAME"]

GREEDY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Name three rivers in Europe."}],
    "temperature": 0,
    "max_tokens": 24,
}
COUNTING = {"model": MODEL, "prompt": "one two three four five six", "temperature": 0, "max_tokens": 16}


class Client(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)
        self.addCleanup(self.client.close)

    def chat(self, **more):
        return self.client.chat.completions.create(**GREEDY | more)

    def test_models_are_listed(self):
        self.assertEqual([model.id for model in self.client.models.list()], [MODEL])
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)

    def test_a_chat_answer_has_text_and_usage(self):
        answer = self.chat()
        self.assertGreater(len(answer.choices[0].message.content), 10)
        self.assertEqual(answer.choices[0].message.role, "assistant")
        usage = answer.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertIsInstance(usage.prompt_tokens_details.cached_tokens, int)

    def test_a_stream_has_the_same_text_and_ends_with_usage(self):
        whole = self.chat()
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)

    def test_a_seed_repeats_an_answer(self):
        first, second = (self.chat(temperature=1, seed=5).choices[0].message.content for _ in range(2))
        self.assertEqual(first, second)

    def test_a_stop_text_ends_the_answer_before_itself(self):
        whole = self.client.completions.create(**COUNTING).choices[0].text
        word = whole.split()[2]
        stopped = self.client.completions.create(**COUNTING, stop=[word]).choices[0]
        self.assertEqual(stopped.text, whole[: whole.index(word)])
        self.assertEqual(stopped.finish_reason, "stop")

    def test_a_completion_streams(self):
        whole = self.client.completions.create(**COUNTING).choices[0].text
        chunks = self.client.completions.create(**COUNTING, stream=True)
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks if chunk.choices), whole)

    def test_logprobs_come_with_the_best_alternatives(self):
        answer = self.chat(logprobs=True, top_logprobs=2)
        content = answer.choices[0].logprobs.content
        self.assertEqual(len(content), answer.usage.completion_tokens)
        for token in content:
            self.assertEqual(len(token.top_logprobs), 2)
            self.assertEqual(token.top_logprobs[0].token, token.token)
            self.assertLessEqual(token.logprob, 0)

    def test_n_answers_are_numbered(self):
        answer = self.chat(n=3, temperature=1, seed=3)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1, 2])

    def test_errors_have_the_classes_that_the_client_knows(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(temperature=-1)
        self.assertEqual(caught.exception.param, "temperature")
        with self.assertRaises(openai.NotFoundError):
            self.chat(model="gpt-4")
        with openai.OpenAI(base_url=BASE_URL, api_key="wrong", max_retries=0) as stranger:
            with self.assertRaises(openai.AuthenticationError):
                stranger.models.list()

    def test_parallel_answers_of_the_async_client_are_those_of_one_alone(self):
        alone = self.chat().choices[0].message.content

        async def ask():
            async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as client:
                return await asyncio.gather(*(client.chat.completions.create(**GREEDY) for _ in range(4)))

        for answer in asyncio.run(ask()):
            self.assertEqual(answer.choices[0].message.content, alone)

    def test_a_closed_stream_leaves_the_server_answering(self):
        with self.chat(stream=True, max_tokens=2000) as stream:
            next(iter(stream))
        self.chat()


if __name__ == "__main__":
    unittest.main()
