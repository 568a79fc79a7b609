"""Qwen Code."""

import sys

import oneshot

NAME = "Qwen Code"
NPM = ["@qwen-code/qwen-code@0.24.4", "node@24.21.0"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
TOOL = ("run_shell_command", {"command": oneshot.MADE, "description": "make it", "is_background": False})
turn_of = oneshot.turn_of


def ask(stage, base, key):
    env = {"OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_KEY": key, "OPENAI_MODEL": "m"}
    return stage.run([stage.bin("qwen"), "--auth-type", "openai", "-y", "-p", oneshot.TASK], env)


CASES = [oneshot.case_of(sys.modules[__name__])]
