"""aider."""

import sys

import oneshot

NAME = "aider"
PYPI = ["aider-chat==0.86.2"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
TOOL = None
turn_of = oneshot.only_turn


def ask(stage, base, key):
    where = ["--openai-api-base", f"{base}/v1", "--openai-api-key", key, "--model", "openai/m"]
    quiet = ["--no-git", "--yes-always", "--no-show-model-warnings", "--no-check-update", "--analytics-disable", "--no-pretty"]
    return stage.run([stage.bin("aider"), *where, *quiet, "-m", oneshot.TASK], {})


CASES = [oneshot.case_of(sys.modules[__name__])]
