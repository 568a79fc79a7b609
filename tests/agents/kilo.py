"""Kilo, its command line."""

import sys

import oneshot

NAME = "Kilo CLI"
NPM = ["@kilocode/cli@7.7.7", "node@24.21.0"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
TOOL = ("bash", {"command": oneshot.MADE, "description": "make it"})
turn_of = oneshot.turn_of


def ask(stage, base, key):
    options = {"baseURL": f"{base}/v1", "apiKey": key}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "alvus", "options": options, "models": {"m": {"name": "m"}}}
    stage.config(".config/kilo/kilo.json", {"autoupdate": False, "provider": {"alvus": provider}, "model": "alvus/m"})
    return stage.run([stage.bin("kilo"), "run", "--auto", "-m", "alvus/m", oneshot.TASK], {})


CASES = [oneshot.case_of(sys.modules[__name__])]
