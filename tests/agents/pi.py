"""pi."""

import sys

import oneshot

NAME = "pi"
NPM = ["@mariozechner/pi-coding-agent@0.73.1", "node@24.21.0"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
TOOL = ("bash", {"command": oneshot.MADE})
turn_of = oneshot.turn_of


def ask(stage, base, key):
    models = [{"id": "m", "contextWindow": 128000}]
    compat = {"supportsDeveloperRole": False, "supportsReasoningEffort": False}
    provider = {"baseUrl": f"{base}/v1", "api": "openai-completions", "apiKey": key, "compat": compat, "models": models}
    stage.config(".pi/agent/models.json", {"providers": {"alvus": provider}})
    return stage.run([stage.bin("pi"), "--provider", "alvus", "--model", "m", "-p", oneshot.TASK], {"PI_OFFLINE": "1"})


CASES = [oneshot.case_of(sys.modules[__name__])]
