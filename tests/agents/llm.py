"""llm."""

import os
import sys

import oneshot

NAME = "llm"
PYPI = ["llm==0.36"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
LIGHT = True
TOOL = None
turn_of = oneshot.only_turn


def ask(stage, base, key):
    path = os.path.join(stage.home, ".config/io.datasette.llm")
    model = {"model_id": "alvus", "model_name": "m", "api_base": f"{base}/v1", "api_key_name": "alvus"}
    stage.config(".config/io.datasette.llm/extra-openai-models.yaml", [model])
    return stage.run([stage.bin("llm"), "-m", "alvus", "--key", key, oneshot.TASK], {"LLM_USER_PATH": path})


CASES = [oneshot.case_of(sys.modules[__name__])]
