"""OpenClaw."""

import sys

import oneshot

NAME = "OpenClaw"
NPM = ["openclaw@2026.9.6", "node@24.21.0"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
TOOL = ("exec", {"command": oneshot.MADE})
turn_of = oneshot.turn_of


def ask(stage, base, key):
    models = [{"id": "m", "name": "m"}]
    provider = {"baseUrl": f"{base}/v1", "apiKey": key, "api": "openai-completions", "models": models}
    defaults = {"model": {"primary": "alvus/m"}, "workspace": stage.work}
    config = {"models": {"mode": "merge", "providers": {"alvus": provider}}, "agents": {"defaults": defaults}}
    stage.config(".openclaw/openclaw.json", config)
    return stage.run([stage.bin("openclaw"), "agent", "--local", "--agent", "main", "-m", oneshot.TASK], {})


CASES = [oneshot.case_of(sys.modules[__name__])]
