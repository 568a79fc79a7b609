"""Codex, through the Responses API."""

import json
from types import SimpleNamespace

import oneshot
from upstream import BROKEN, LIMITED, OVERLOADED, Turn, too_long

NPM = ["@openai/codex@0.171.0"]
SETTINGS = {"RESPONSES": "translate"}

PATCH = "*** Begin Patch\n*** Update File: hello.txt\n@@\n-hello\n+goodbye\n*** End Patch\n"


def turn_of(body):
    """How many times tools were called. A request without tools is for a summary."""
    if not body.get("tools"):
        return Turn("What matters: COMPACTED.")
    if "COMPACTED" in json.dumps(body["messages"]):
        return -1
    return sum(1 for message in body["messages"] if message.get("tool_calls"))


def ask(stage, *config, model="scripted", task="do the task", idle=4000):
    """One shot, with all permissions. Says how often it had to connect again."""
    with open(stage.path("hello.txt"), "w") as file:
        file.write("hello\n")
    flags = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    provider = f'{{name="alvus",base_url="{stage.base}/v1",wire_api="responses",stream_idle_timeout_ms={idle}}}'
    for line in [f'model="{model}"', 'model_provider="alvus"', f"model_providers.alvus={provider}", 'web_search="disabled"', *config]:
        flags += ["-c", line]
    assert stage.run([stage.bin("codex"), "exec", *flags, task], {}) == 0, stage.said
    return stage.said.count("Reconnecting")


def shell(*commands, say="", **turn):
    return Turn(say, calls=[("exec_command", {"cmd": command}) for command in commands], **turn)


def end(**turn):
    return Turn("All is done.", **turn)


def done(stage):
    assert "All is done." in stage.said, stage.said


def a_file_is_edited_with_a_freeform_patch(stage):
    # For a model that it knows Codex has the tool whose input is no JSON.
    stage.script = [Turn("I edit it. ", "hm", [("apply_patch", {"input": PATCH})]), shell("cat hello.txt > copied.txt"), end()]
    assert ask(stage, model="gpt-5.5") == 0
    done(stage)
    assert stage.read("hello.txt") == stage.read("copied.txt") == "goodbye\n"
    last = stage.upstream.at(2)[0]["messages"]
    call = next(message for message in last if message.get("tool_calls"))
    assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"input": PATCH}, call
    assert call["reasoning_content"] == "hm", call
    stage.heard_no_refusal(repeats=0)


def two_commands_at_once_have_two_results(stage):
    stage.script = [shell("cat hello.txt", "echo second"), end()]
    assert ask(stage) == 0
    done(stage)
    results = [message["content"] for message in stage.upstream.at(1)[0]["messages"] if message["role"] == "tool"]
    assert len(results) == 2 and "hello" in results[0] and "second" in results[1], results


def a_task_is_done_whatever_fails_and_breaks(stage):
    stage.script = [
        shell("echo a > a", say="I do it.", faults=[LIMITED, "break in arguments", BROKEN]),
        shell("echo b > b", say="And that.", faults=["empty", "break in text"]),
        end(faults=["break in text"]),
    ]
    again = ask(stage)
    done(stage)
    assert [stage.read(name) for name in "ab"] == ["a\n", "b\n"]
    assert again == 3, f"connected again {again} times, for three breaks"
    stage.heard_no_refusal(repeats=3)


def limits_of_two_keys_are_not_noticed(stage):
    limited = 429, {"error": {"message": "Rate limit reached. Please try again in 30s."}}
    stage.script = [shell("echo a > a", faults=[limited, limited]), end()]
    assert ask(stage) == 0
    done(stage)
    stage.heard_no_refusal(repeats=0)


def a_wait_longer_than_its_patience_is_one_request(stage):
    # Codex gives up after 4 s without an event here; 300 s as it comes.
    limited = 429, {"error": {"message": "Rate limit reached. Please try again in 9s."}}
    stage.script = [shell("echo a > a", faults=[limited] * 3), end()]
    assert ask(stage) == 0
    done(stage)
    stage.heard_no_refusal(repeats=0)


a_wait_longer_than_its_patience_is_one_request.settings = {"HEARTBEAT_SEC": "1"}


def a_late_refusal_makes_it_ask_again(stage):
    stage.script = [shell("echo a > a", faults=[OVERLOADED] * 3), end()]
    assert ask(stage) > 0
    done(stage)
    assert stage.read("a") == "a\n"
    assert set(stage.wire.statuses) == {200}, stage.wire.statuses


a_late_refusal_makes_it_ask_again.settings = {"HEARTBEAT_SEC": "1", "MAX_WAIT_SEC": "2"}


def the_tokens_that_are_told_make_it_compact_in_time(stage):
    stage.script = [shell("echo a > a", tokens=16000), shell("echo b > b", tokens=16000), end()]
    assert ask(stage, "model_context_window=20000", "model_auto_compact_token_limit=15000") == 0
    done(stage)
    assert "COMPACTED" in json.dumps(stage.upstream.at(-1)[0]["messages"])
    stage.heard_no_refusal(repeats=0)


def a_conversation_that_is_too_long_is_called_so(stage):
    stage.script = [shell("echo a > a"), end(faults=[too_long(140000, 131072)] * 9)]
    try:
        ask(stage)
    except AssertionError:
        assert "ran out of room in the model's context window" in stage.said, stage.said
    else:
        raise AssertionError("it went on")


def ask_once(stage, base, key):
    ask(stage, "model_context_window=131072", task=oneshot.TASK, idle=600000)
    return 0


# The provider speaks chat completions only, so there is no direct way.
a_line_of_the_table = oneshot.case_of(SimpleNamespace(
    NAME="Codex (chat provider)", NPM=NPM, TOOL=("exec_command", {"cmd": oneshot.MADE}),
    turn_of=oneshot.turn_of, ask=ask_once, DIRECT=False,
))
a_line_of_the_table.settings = {"HEARTBEAT_SEC": "1"}

CASES = [
    a_line_of_the_table,
    a_file_is_edited_with_a_freeform_patch,
    two_commands_at_once_have_two_results,
    a_task_is_done_whatever_fails_and_breaks,
    limits_of_two_keys_are_not_noticed,
    a_wait_longer_than_its_patience_is_one_request,
    a_late_refusal_makes_it_ask_again,
    the_tokens_that_are_told_make_it_compact_in_time,
    a_conversation_that_is_too_long_is_called_so,
]
