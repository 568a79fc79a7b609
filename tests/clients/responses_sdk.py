"""OpenAI's own Python SDK and its Agents SDK through the Responses API, against OPENAI_BASE_URL, without retries."""

import asyncio
import base64
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"

import openai
from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool

KEY = "sk-the-clients-own"
client = openai.OpenAI(api_key=KEY, max_retries=0, timeout=60)
TOOLS = [{"type": "function", "name": "note", "description": "notes", "strict": False, "parameters": {
    "type": "object", "properties": {"said": {"type": "string"}}, "required": ["said"]}}]
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(300)).decode()


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: found {found!r}, expected {expected!r}")
    print(f"{what}: ok")


def ask(content, **more):
    return {"model": "test-model", "input": content, **more}


def plain(text):
    return client.responses.create(**ask(text)).output_text


def streamed(text, **more):
    with client.responses.stream(**ask(text, **more)) as stream:
        events = list(stream)
        response = stream.get_final_response()
    words = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    if response.status != "completed" or response.output_text != words:
        sys.exit(f"the stream is not whole: {response}")
    return response


texts = [f"question {n}: ünïcödé ✓" for n in range(12)]
check("12 plain responses in a row", [plain(text) for text in texts], texts)
check("6 streams in a row", [streamed(text).output_text for text in texts[:6]], texts[:6])
with ThreadPoolExecutor(6) as pool:
    found = list(pool.map(streamed, texts))
check("12 streams, 6 at a time", [response.output_text for response in found], texts)
check("ids of responses", len({response.id for response in found}), 12)

call = client.responses.create(**ask("hi", tools=TOOLS)).output[0]
check("a function call", (call.type, call.name, json.loads(call.arguments)), ("function_call", "note", {"said": "hi"}))

answer = streamed("hello again", tools=TOOLS)
call = answer.output[0]
check("a streamed function call", (call.name, json.loads(call.arguments)), ("note", {"said": "hello again"}))

turn = [{"role": "user", "content": "note it"}, *[item.model_dump(exclude_none=True) for item in answer.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "noted"}]
check("its output", client.responses.create(**ask(turn)).output_text, "noted")

custom = [{"type": "custom", "name": "write", "description": "writes"}]
call = streamed("free text", tools=custom).output[0]
check("a streamed custom call", (call.type, call.name, call.input), ("custom_tool_call", "write", "free text"))

image = [{"type": "input_image", "image_url": PIXEL}, {"type": "input_text", "text": "what is it?"}]
check("an image", plain([{"role": "user", "content": image}]), "what is it? [1 images]")

answer = streamed("think aloud")
found = [(item.type, item.summary[0].text if item.type == "reasoning" else item.content[0].text) for item in answer.output]
check("thoughts", found, [("reasoning", "hm, ünïcödé"), ("message", "think aloud")])
check("usage", answer.usage.total_tokens > 0, True)

try:
    client.responses.create(**{**ask("hi"), "model": "no-such-model"})
    sys.exit("an unknown model was answered")
except openai.NotFoundError as error:
    check("an error", error.code, "model_not_found")
try:
    client.responses.create(**ask("hi", previous_response_id="resp_1"))
    sys.exit("a stored response was found")
except openai.BadRequestError as error:
    check("what needs a store", error.param, "previous_response_id")


@function_tool
def note(said: str) -> str:
    """Notes."""
    noted.append(said)
    return "noted"


async def agents():
    model = OpenAIResponsesModel(model="test-model", openai_client=openai.AsyncOpenAI(api_key=KEY, max_retries=0, timeout=60))
    agent = Agent(name="a", instructions="be brief", model=model)
    check("an agent", (await Runner.run(agent, "hi there")).final_output, "hi there")
    stream = Runner.run_streamed(agent, "hi again")
    words = [event.data.delta async for event in stream.stream_events()
             if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"]
    check("a streamed agent", (stream.final_output, "".join(words)), ("hi again", "hi again"))
    settings = ModelSettings(parallel_tool_calls=False)
    agent = Agent(name="b", model=model, tools=[note], model_settings=settings, tool_use_behavior="stop_on_first_tool")
    found = await Runner.run(agent, "note this")
    check("an agent with a tool", (found.final_output, noted), ("noted", ["note this"]))


noted = []
asyncio.run(agents())
