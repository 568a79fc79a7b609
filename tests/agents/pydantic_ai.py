"""pydantic-ai."""

import sys

import oneshot

NAME = "pydantic-ai"
PYPI = ["pydantic-ai-slim[openai]==2.68.0"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
LIGHT = True
TOOL = ("make", {})
STREAMS = False
turn_of = oneshot.turn_of


def ask(stage, base, key):
    code = """
import sys
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
agent = Agent(OpenAIChatModel("m"))
@agent.tool_plain
def make() -> str:
    open("made.txt", "w").write("made")
    return "made"
print(agent.run_sync(sys.argv[1]).output)
"""
    env = {"OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_KEY": key}
    return stage.run([stage.bin("python"), "-c", code, oneshot.TASK], env)


CASES = [oneshot.case_of(sys.modules[__name__])]
