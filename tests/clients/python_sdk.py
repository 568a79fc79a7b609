"""OpenAI's own Python SDK against OPENAI_BASE_URL, without retries: a 429 would be an exception."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from openai import OpenAI

client = OpenAI(api_key="sk-the-clients-own", max_retries=0, timeout=60)
TOOLS = [{"type": "function", "function": {
    "name": "note", "parameters": {"type": "object", "properties": {"said": {"type": "string"}}}}}]


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: found {found!r}, expected {expected!r}")
    print(f"{what}: ok")


def messages(text):
    return [{"role": "user", "content": text}]


def plain(text):
    answer = client.chat.completions.create(model="test-model", messages=messages(text))
    return answer.choices[0].message.content


def streamed(text):
    chunks = list(client.chat.completions.create(
        model="test-model", messages=messages(text), stream=True))
    if len(chunks) < 3:
        sys.exit(f"a stream of {len(chunks)} chunks is no stream")
    if chunks[-1].choices[0].finish_reason != "stop":
        sys.exit("the stream has no finish_reason")
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


check("models", [model.id for model in client.models.list()], ["test-model"])
texts = [f"question {n}: ünïcödé ✓" for n in range(12)]
check("12 plain chats in a row", [plain(text) for text in texts], texts)
check("6 streams in a row", [streamed(text) for text in texts[:6]], texts[:6])
with ThreadPoolExecutor(6) as pool:
    check("12 streams, 6 at a time", list(pool.map(streamed, texts)), texts)

answer = client.chat.completions.create(model="test-model", messages=messages("hi"), tools=TOOLS)
call = answer.choices[0].message.tool_calls[0].function
check("a tool call", (call.name, json.loads(call.arguments)), ("note", {"said": "hi"}))

name, arguments = "", ""
for chunk in client.chat.completions.create(
        model="test-model", messages=messages("hello again"), tools=TOOLS, stream=True):
    for call in chunk.choices[0].delta.tool_calls or []:
        name += call.function.name or ""
        arguments += call.function.arguments or ""
check("a streamed tool call", (name, json.loads(arguments)), ("note", {"said": "hello again"}))

vectors = client.embeddings.create(model="test-model", input=["a", "b", "c"])
check("embeddings", [e.embedding for e in vectors.data], [[0.5, -1.0, 2.0]] * 3)

data = os.urandom(300_000)
uploaded = client.files.create(file=("upload.bin", data), purpose="assistants")
check("a file upload", (uploaded.bytes, uploaded.sum), (len(data), sum(data)))
