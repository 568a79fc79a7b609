"""Continue, its command line."""

import sys

import oneshot

NAME = "Continue (cn)"
NPM = ["@continuedev/cli@1.5.47", "node@24.21.0"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
TOOL = ("Bash", {"command": oneshot.MADE})
turn_of = oneshot.turn_of


def ask(stage, base, key):
    model = {"name": "m", "provider": "openai", "model": "m", "apiBase": f"{base}/v1", "apiKey": key, "roles": ["chat"]}
    path = stage.config(".continue/config.yaml", {"name": "alvus", "version": "1.0.0", "schema": "v1", "models": [model]})
    return stage.run([stage.bin("cn"), "--config", path, "--auto", "-p", oneshot.TASK], {"CONTINUE_TELEMETRY_ENABLED": "0"})


CASES = [oneshot.case_of(sys.modules[__name__])]
