"""LangChain."""

import sys

import oneshot

NAME = "LangChain"
PYPI = ["langchain-openai==1.7.4"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
LIGHT = True
TOOL = None
turn_of = oneshot.only_turn


def ask(stage, base, key):
    code = """
import sys
from langchain_openai import ChatOpenAI
for piece in ChatOpenAI(model="m").stream(sys.argv[1]):
    print(piece.content, end="")
"""
    env = {"OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_KEY": key}
    return stage.run([stage.bin("python"), "-c", code, oneshot.TASK], env)


CASES = [oneshot.case_of(sys.modules[__name__])]
