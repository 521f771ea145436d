"""OpenAI's Responses API through the official Python client; ../run starts a server and sets the addresses."""

import os
import unittest

import openai

BASE_URL = os.environ["FORETOKEN_BASE_URL"]
KEY = os.environ["FORETOKEN_KEY"]
MODEL = os.environ["FORETOKEN_MODEL_NAME"]

QUESTION = {"model": MODEL, "input": "Name three rivers in Europe.", "temperature": 0, "max_output_tokens": 24}
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


class Client(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)
        self.addCleanup(self.client.close)

    def ask(self, **more):
        return self.client.responses.create(**QUESTION | more)

    def test_a_response_has_text_and_usage_and_is_what_chat_answers(self):
        response = self.ask()
        self.assertGreater(len(response.output_text), 10)
        self.assertIn(response.status, ["completed", "incomplete"])
        usage = response.usage
        self.assertEqual(usage.total_tokens, usage.input_tokens + usage.output_tokens)
        self.assertIsInstance(usage.input_tokens_details.cached_tokens, int)
        chat = self.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": QUESTION["input"]}], temperature=0, max_tokens=24
        )
        self.assertEqual(response.output_text, chat.choices[0].message.content)

    def test_a_stream_accumulates_to_the_whole_response(self):
        whole = self.ask()
        with self.client.responses.stream(**QUESTION) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        self.assertEqual(text, whole.output_text)
        events = list(self.ask(stream=True))
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        self.assertEqual(events[0].type, "response.created")
        last = events[-1]
        self.assertEqual(last.type, f"response.{whole.status}")
        self.assertEqual(last.response.output_text, whole.output_text)
        self.assertEqual(last.response.usage.output_tokens, whole.usage.output_tokens)

    def test_every_object_is_what_the_client_declares(self):
        # The client builds its types without checking them; here they are checked.
        response = self.ask(include=["message.output_text.logprobs"], top_logprobs=2)
        type(response).model_validate(response.model_dump(warnings="error"), strict=False)
        self.assertEqual(len(response.output[0].content[0].logprobs), response.usage.output_tokens)
        for event in self.ask(stream=True):
            type(event).model_validate(event.model_dump(warnings="error"), strict=False)

    def test_a_conversation_with_tools_is_accepted(self):
        items = [
            {"role": "user", "content": [{"type": "input_text", "text": "What is the weather in Rome?"}]},
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Rome"}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "Sunny."},
        ]
        response = self.ask(input=items, tools=[WEATHER], instructions="Be brief.")
        self.assertEqual(response.output[-1].type, "message")

    def test_output_can_be_sent_back(self):
        first = self.ask()
        items = [{"role": "user", "content": QUESTION["input"]}, *first.output, {"role": "user", "content": "And in Asia?"}]
        self.assertGreater(self.ask(input=items).usage.input_tokens, first.usage.input_tokens)

    def test_errors_have_the_classes_that_the_client_knows(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask(previous_response_id="resp_1")
        self.assertEqual(caught.exception.param, "previous_response_id")


if __name__ == "__main__":
    unittest.main()
