"""Cline, its command line."""

import sys

import oneshot

NAME = "Cline CLI"
NPM = ["cline@3.0.65", "node@24.21.0"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
TOOL = ("run_commands", {"commands": [oneshot.MADE]})
turn_of = oneshot.turn_of


def ask(stage, base, key):
    stage.run([stage.bin("cline"), "auth", "-p", "openai-compatible", "-k", key, "-m", "m", "-b", f"{base}/v1"], {})
    return stage.run([stage.bin("cline"), "--auto-approve", "true", oneshot.TASK], {})


CASES = [oneshot.case_of(sys.modules[__name__])]
