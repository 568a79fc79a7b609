"""nanobot."""

import sys

import oneshot

NAME = "nanobot"
PYPI = ["nanobot-ai==0.3.5"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
TOOL = ("exec", {"command": oneshot.MADE})
turn_of = oneshot.turn_of


def ask(stage, base, key):
    custom = {"apiKey": key, "apiBase": f"{base}/v1"}
    defaults = {"provider": "custom", "model": "m", "workspace": stage.work}
    stage.config(".nanobot/config.json", {"providers": {"custom": custom}, "agents": {"defaults": defaults}})
    return stage.run([stage.bin("nanobot"), "agent", "--no-markdown", "-m", oneshot.TASK], {})


CASES = [oneshot.case_of(sys.modules[__name__])]
