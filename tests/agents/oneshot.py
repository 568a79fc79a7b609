"""One task for agents and SDKs of chat completions: a file is made by a tool, then a word is said; or, without tools,
a word is said. First keys are limited, the model is overloaded and the provider fails; then a stream breaks. All of it
through alvus and directly, and a line of the table for it."""

import re
import subprocess
import time

from stage import KEYS, Wire
from upstream import BROKEN, LIMITED, OVERLOADED, Turn

WORD = "PINEAPPLE-7"
TASK = "Make the file made.txt and then say the word."
MADE = "echo made > made.txt"


def turn_of(body):
    """Of requests with tools: whether the tool was called. Others name the session."""
    if not body.get("tools"):
        return Turn("a title")
    said = body.get("messages") or body.get("input")
    return 1 if any(message.get("role") == "tool" for message in said) else 0


def only_turn(body):
    """Of who has no tools."""
    return 0


def script(tool, faults):
    """The turns, the first with `faults`."""
    last = Turn(f"All is done now and {WORD} is the word.")
    if tool is None:
        last.faults += faults
        return [last]
    return [Turn("I make it first.", calls=[tool], faults=faults), last]


def version(agent):
    return re.split("[@=]", (getattr(agent, "NPM", None) or agent.PYPI)[0])[-1]


def attempt(stage, agent, base, key, wire, faults):
    """Whether it was done, and how often it asked again."""
    stage.script = script(agent.TOOL, list(faults))
    stage.afresh()
    seen, asked, begin = len(stage.upstream.seen), len(wire.requests), time.monotonic()
    try:
        code = agent.ask(stage, base, key)
    except subprocess.TimeoutExpired:
        code = "too long"
    took = time.monotonic() - begin
    done = WORD in stage.said and (agent.TOOL is None or "made" in (stage.read("made.txt") or ""))
    turns = [agent.turn_of(request.body) for request in wire.requests[asked:] if request.conversation()]
    again = len([turn for turn in turns if isinstance(turn, int)]) - len(stage.script)
    limits = sum(1 for *_, fault in stage.upstream.seen[seen:] if fault == LIMITED)
    return {"done": done and code == 0, "code": code, "again": max(again, 0), "limits": limits, "took": took}


def words(found, direct):
    done = "done" if found["done"] else f"not done ({found['code']})"
    met = "met" if direct else "absorbed"
    return f"{done}, {found['limits']} 429s {met}, {found['again']} repeats, {found['took']:.0f} s"


def case_of(agent):
    """The case of an agent, for its CASES."""

    def a_task_is_done_whatever_fails(stage):
        direct = Wire(stage.upstream.port)
        kinds = {"limits": [LIMITED, LIMITED, OVERLOADED, BROKEN], "break": ["break in text"]}
        row = [f"| {agent.NAME} | {version(agent)}"]
        for name, faults in kinds.items():
            if name == "break" and not getattr(agent, "STREAMS", True):
                row += ["–", "–"]
                continue
            ours = attempt(stage, agent, stage.base, "unused", stage.wire, faults)
            row += [words(ours, False)]
            if getattr(agent, "DIRECT", True):
                theirs = attempt(stage, agent, f"http://127.0.0.1:{direct.port}", KEYS[0], direct, faults)
                row += [words(theirs, True)]
            else:
                row += ["–"]
            if name == "limits":
                assert ours["done"], (ours, stage.said[-2000:])
                assert ours["again"] == 0 and 429 not in stage.wire.statuses, f"it noticed: {ours}"
        direct.close()
        print(" | ".join(row) + " |", flush=True)

    return a_task_is_done_whatever_fails
