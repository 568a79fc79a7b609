"""Anthropic's own Python SDK against ANTHROPIC_BASE_URL, without retries: a 429 would be an exception."""

import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import anthropic

client = anthropic.Anthropic(api_key="sk-the-clients-own", max_retries=0, timeout=60)
TOOLS = [{"name": "note", "description": "notes", "input_schema": {
    "type": "object", "properties": {"said": {"type": "string"}}, "required": ["said"]}}]
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(300)).decode()


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: found {found!r}, expected {expected!r}")
    print(f"{what}: ok")


def ask(content, **more):
    return {"model": "test-model", "max_tokens": 2000,
            "messages": [{"role": "user", "content": content}], **more}


def plain(text):
    return client.messages.create(**ask(text)).content[0].text


def streamed(text):
    with client.messages.stream(**ask(text)) as stream:
        words = "".join(stream.text_stream)
        message = stream.get_final_message()
    if (message.stop_reason, message.content[0].text) != ("end_turn", words):
        sys.exit(f"the stream is not whole: {message}")
    return words


texts = [f"question {n}: ünïcödé ✓" for n in range(12)]
check("12 plain messages in a row", [plain(text) for text in texts], texts)
check("6 streams in a row", [streamed(text) for text in texts[:6]], texts[:6])
with ThreadPoolExecutor(6) as pool:
    check("12 streams, 6 at a time", list(pool.map(streamed, texts)), texts)

answer = client.messages.create(**ask("hi", tools=TOOLS))
call = answer.content[0]
check("a tool call", (answer.stop_reason, call.name, call.input), ("tool_use", "note", {"said": "hi"}))

with client.messages.stream(**ask("hello again", tools=TOOLS)) as stream:
    pieces = [event.partial_json for event in stream if event.type == "input_json"]
    answer = stream.get_final_message()
streamed_call = answer.content[0]
check("a streamed tool call", (streamed_call.input, json.loads("".join(pieces))),
      ({"said": "hello again"}, {"said": "hello again"}))

turn = ask("note it")
turn["messages"] += [
    {"role": "assistant", "content": [block.model_dump() for block in answer.content]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": streamed_call.id, "content": "noted"}]}]
check("a tool result", client.messages.create(**turn).content[0].text, "noted")

image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
found = plain([image, {"type": "text", "text": "what is it?"}])
check("an image", found, "what is it? [1 images]")

thinking = {"type": "enabled", "budget_tokens": 1024}
with client.messages.stream(**ask("think aloud", thinking=thinking)) as stream:
    answer = stream.get_final_message()
check("thoughts", [(block.type, getattr(block, "thinking", None) or block.text) for block in answer.content],
      [("thinking", "hm, ünïcödé"), ("text", "think aloud")])

try:
    client.messages.create(**{**ask("hi"), "model": "no-such-model"})
    sys.exit("an unknown model was answered")
except anthropic.NotFoundError as error:
    check("an error", error.body["error"]["type"], "not_found_error")
try:
    client.messages.create(**{**ask("hi"), "messages": []})
    sys.exit("no message was answered")
except anthropic.BadRequestError as error:
    check("a bad request", error.body["error"]["type"], "invalid_request_error")

tokens = client.messages.count_tokens(model="test-model", messages=ask("a " * 1000)["messages"]).input_tokens
check("a count of tokens", 200 < tokens < 3000, True)
