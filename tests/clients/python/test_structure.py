"""Structured answers through the official clients: what they parse is what was asked for; ../run sets the addresses."""

import json
import os
import unittest
from typing import Literal

import anthropic
import ollama
import openai
from pydantic import BaseModel, ConfigDict, Field

BASE_URL = os.environ["FORETOKEN_BASE_URL"]
ROOT_URL = BASE_URL.removesuffix("/v1")
KEY = os.environ["FORETOKEN_KEY"]
MODEL = os.environ["FORETOKEN_MODEL_NAME"]

QUESTION = [{"role": "user", "content": "Write down a river of Europe as JSON: name, length in km, countries, kind."}]


class Country(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=24)
    is_source: bool


class River(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=24)
    length_km: int = Field(ge=1, le=9999)
    kind: Literal["stream", "river"]
    countries: list[Country] = Field(max_length=2)


class Client(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)
        self.addCleanup(self.client.close)

    def test_chat_parses_into_the_type_that_was_asked_for(self):
        for temperature in (0, 1):
            answer = self.client.chat.completions.parse(
                model=MODEL, messages=QUESTION, response_format=River, temperature=temperature, seed=4
            )
            self.assertEqual(answer.choices[0].finish_reason, "stop")
            self.assertIsInstance(answer.choices[0].message.parsed, River)

    def test_what_the_schema_forces_is_drafted(self):
        # Beside other drafters it also continues their drafts, which may be wrong; a replayed answer drafts nothing.
        alone = {"speculation": {"sources": ["grammar"]}, "cache": {"read": False}}
        answer = self.client.chat.completions.parse(
            model=MODEL, messages=QUESTION, response_format=River, temperature=0, extra_body=alone
        )
        grammar = answer.model_extra["speculation"]["sources"]["grammar"]
        self.assertGreater(grammar["accepted"], 5)
        self.assertGreaterEqual(grammar["accepted"] / grammar["proposed"], 0.9)

    def test_a_stream_and_no_speculation_give_the_same_text(self):
        ask = {"model": MODEL, "messages": QUESTION, "temperature": 0}
        whole = self.client.chat.completions.parse(**ask, response_format=River).choices[0].message.content
        with self.client.chat.completions.stream(**ask, response_format=River) as stream:
            streamed = stream.get_final_completion().choices[0].message
        self.assertEqual(streamed.content, whole)
        self.assertIsInstance(streamed.parsed, River)
        plain = self.client.chat.completions.parse(
            **ask, response_format=River, extra_body={"speculation": {"enabled": False}, "cache": {"read": False}}
        )
        self.assertEqual(plain.choices[0].message.content, whole)

    def test_an_answer_that_is_cut_short_says_so(self):
        with self.assertRaises(openai.LengthFinishReasonError):
            self.client.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=River, max_tokens=5)

    def test_responses_parse_too(self):
        answer = self.client.responses.parse(model=MODEL, input=QUESTION, text_format=River)
        self.assertIsInstance(answer.output_parsed, River)

    def test_vllms_fields(self):
        def ask(**more):
            answer = self.client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body=more)
            return answer.choices[0].message.content

        self.assertIn(ask(guided_choice=["Rhine", "Danube"]), ["Rhine", "Danube"])
        self.assertRegex(ask(structured_outputs={"regex": "[A-Z][a-z]{2,9}, [0-9]{1,4} km"}), r"\A[A-Z][a-z]+, \d+ km\Z")
        self.assertLessEqual(set(ask(guided_grammar='root ::= ("a" | "b"){1,9}')), {"a", "b"})

    def test_what_cannot_be_enforced_is_a_bad_request(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            schema = {"name": "x", "schema": {"type": "array", "uniqueItems": True}}
            response_format = {"type": "json_schema", "json_schema": schema}
            self.client.chat.completions.create(model=MODEL, messages=QUESTION, response_format=response_format)
        self.assertEqual(caught.exception.param, "response_format.json_schema.schema")
        self.assertIn("uniqueItems", str(caught.exception))

    def test_a_call_can_be_forced_and_its_arguments_are_valid(self):
        function = {"name": "write_river", "description": "Keeps a river.", "parameters": River.model_json_schema()}
        other = {"name": "ask", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}
        tools = [{"type": "function", "function": function} for function in (function, other)]
        for choice, names in (
            ({"type": "function", "function": {"name": "write_river"}}, ["write_river"]),
            ("required", ["write_river", "ask"]),
        ):
            answer = self.client.chat.completions.create(
                model=MODEL, messages=QUESTION, tools=tools, tool_choice=choice, parallel_tool_calls=False
            )
            [call] = answer.choices[0].message.tool_calls
            self.assertIn(call.function.name, names)
            if call.function.name == "write_river":
                River.model_validate_json(call.function.arguments)
            self.assertFalse(answer.choices[0].message.content)

    def test_anthropics_output_format(self):
        client = anthropic.Anthropic(base_url=ROOT_URL, api_key=KEY, max_retries=0)
        self.addCleanup(client.close)
        config = {"format": {"type": "json_schema", "schema": River.model_json_schema()}}
        message = client.messages.create(model=MODEL, max_tokens=300, messages=QUESTION, output_config=config)
        self.assertEqual(message.stop_reason, "end_turn")
        River.model_validate_json(message.content[0].text)

    def test_anthropics_forced_call(self):
        client = anthropic.Anthropic(base_url=ROOT_URL, api_key=KEY, max_retries=0)
        self.addCleanup(client.close)
        tool = {"name": "write_river", "input_schema": River.model_json_schema()}
        choice = {"type": "tool", "name": "write_river"}
        message = client.messages.create(
            model=MODEL, max_tokens=300, messages=QUESTION, tools=[tool], tool_choice=choice
        )
        [block] = message.content
        self.assertEqual((message.stop_reason, block.type, block.name), ("tool_use", "tool_use", "write_river"))
        River.model_validate(block.input)

    def test_ollamas_format(self):
        client = ollama.Client(host=ROOT_URL, headers={"Authorization": f"Bearer {KEY}"})
        self.addCleanup(client._client.close)
        answer = client.chat(model=MODEL, messages=QUESTION, format=River.model_json_schema())
        River.model_validate_json(answer.message.content)
        answer = client.generate(model=MODEL, prompt="A short JSON object:", format="json", options={"num_predict": 200})
        if answer.done_reason == "stop":
            self.assertIsInstance(json.loads(answer.response), dict)


if __name__ == "__main__":
    unittest.main()
