"""OpenAI's Agents SDK for Python."""

import sys

import oneshot

NAME = "OpenAI Agents SDK"
PYPI = ["openai-agents==0.24.0"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
LIGHT = True
TOOL = ("make", {})
STREAMS = False
turn_of = oneshot.turn_of


def ask(stage, base, key):
    code = """
import sys
from agents import Agent, Runner, function_tool, set_default_openai_api, set_tracing_disabled
set_default_openai_api("chat_completions")
set_tracing_disabled(True)
@function_tool
def make() -> str:
    open("made.txt", "w").write("made")
    return "made"
agent = Agent(name="a", model="m", instructions="Be brief.", tools=[make])
print(Runner.run_sync(agent, sys.argv[1]).final_output)
"""
    env = {"OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_KEY": key}
    return stage.run([stage.bin("python"), "-c", code, oneshot.TASK], env)


CASES = [oneshot.case_of(sys.modules[__name__])]
