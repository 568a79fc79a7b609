"""Claude Code, through the Messages API."""

import json
from types import SimpleNamespace

import oneshot
from upstream import BROKEN, LIMITED, OVERLOADED, Turn, too_long

NPM = ["@anthropic-ai/claude-code@2.1.332"]
SETTINGS = {"MESSAGES": "translate"}


def turn_of(body):
    """Of requests with tools: how many times tools were called. Others name the session, and judge in
    auto mode how harmful a call is."""
    if judges(body):
        return Turn("<severity>3</severity>")
    if not body.get("tools"):
        return Turn("a title")
    if "TEXT ONLY" in words(body["messages"][-1]):
        return Turn("<summary>What matters: COMPACTED.</summary>")
    if "COMPACTED" in words(body["messages"]):
        return -1
    return sum(1 for message in body["messages"] if message.get("tool_calls"))


def words(value):
    return json.dumps(value)


def judges(body):
    return not body.get("tools") and "<severity>" in words(body["messages"][-1])


def env(stage, **more):
    return {
        "ANTHROPIC_BASE_URL": stage.base,
        "ANTHROPIC_AUTH_TOKEN": "unused",
        "ANTHROPIC_MODEL": "scripted",
        "CLAUDE_CODE_AUTO_MODE_SERVER": "0",  # since 2.1.278 auto mode asks Anthropic's server first
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "IS_SANDBOX": "1",
        **more,
    }


def ask(stage, *flags, **more):
    """One shot, with all permissions unless `flags` say otherwise."""
    flags = flags or ("--dangerously-skip-permissions",)
    return stage.run([stage.bin("claude"), "-p", "do the task", *flags], env(stage, **more))


def terminal(stage, *flags):
    """At a terminal, where it has been before."""
    known = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    with open(f"{stage.home}/.claude.json", "w") as file:
        json.dump({
            "hasCompletedOnboarding": True, "theme": "dark", "bypassPermissionsModeAccepted": True,
            "projects": {stage.work: known},
        }, file)
    return stage.terminal([stage.bin("claude"), *flags], env(stage))


def write(stage, **turn):
    return Turn("I write it. ", "hm", [("Write", {"file_path": stage.path("made.txt"), "content": "made\n"})], **turn)


def shell(command, say="I run it.", **turn):
    return Turn(say, calls=[("Bash", {"command": command, "description": "run"})], **turn)


def end(**turn):
    return Turn("All is done.", **turn)


def a_task_is_done_whatever_fails_and_breaks(stage):
    stage.picture("red.png")
    look = Turn("I look.", "let me see", [("Read", {"file_path": stage.path("red.png")})])
    stage.script = [write(stage), shell("cat made.txt > copied.txt"), look, end()]
    for turn, faults in zip(stage.script, [
        [LIMITED, OVERLOADED, "break in arguments"],
        ["break in text", BROKEN],
        ["empty", "break in thoughts"],
        ["break in text"],
    ]):
        turn.faults += faults
    code = ask(stage)
    assert code == 0 and "All is done." in stage.said, (code, stage.said)
    assert stage.read("made.txt") == stage.read("copied.txt") == "made\n"
    last = stage.upstream.at(3)[-1]["messages"]
    assert "image_url" in words(last), "it has seen the picture"
    results = [message for message in last if message["role"] == "tool"]
    assert len(results) == 3 and "created successfully" in words(results[0]), results
    stage.heard_no_refusal(repeats=4)


def limits_and_overloads_are_not_noticed(stage):
    limited = 429, {"error": {"message": "Rate limit reached. Please try again in 3s."}}
    stage.script = [
        shell("echo a > a", faults=[limited, limited, limited]),
        shell("echo b > b", faults=[OVERLOADED, OVERLOADED]),
        shell("echo c > c", faults=[BROKEN, "empty"]),
        end(),
    ]
    assert ask(stage) == 0, stage.said
    assert [stage.read(name) for name in "abc"] == ["a\n", "b\n", "c\n"]
    stage.heard_no_refusal(repeats=0)


limits_and_overloads_are_not_noticed.settings = {"HEARTBEAT_SEC": "1"}


def a_late_refusal_makes_it_ask_again(stage):
    stage.script = [shell("echo a > a", faults=[OVERLOADED] * 3), end()]
    assert ask(stage) == 0, stage.said
    assert stage.read("a") == "a\n"
    assert all(status == 200 for status in stage.wire.statuses)
    asked = [request.body.get("stream") for request in stage.asked()]
    assert len(asked) > 2 and all(asked), f"for a stream each time: {asked}"


a_late_refusal_makes_it_ask_again.settings = {"HEARTBEAT_SEC": "1", "MAX_WAIT_SEC": "2"}


def another_model_stands_in(stage):
    stage.script = [write(stage, faults=[OVERLOADED]), end()]
    assert ask(stage, ANTHROPIC_MODEL="claude-sonnet-5") == 0, stage.said
    assert stage.read("made.txt") == "made\n"
    models = [body["model"] for place, _, body, _ in stage.upstream.seen if place == 0]
    assert models == ["first", "second"], models
    stage.heard_no_refusal(repeats=0)


another_model_stands_in.settings = {"MODEL_MAP": "claude-*=first|second"}


def a_conversation_that_is_too_long_is_compacted(stage):
    stage.script = [shell("echo a > a"), shell("echo b > b"), end(faults=[too_long(140000, 131072)] * 9), end()]
    assert ask(stage) == 0 and "All is done." in stage.said, stage.said
    afterwards = stage.upstream.at(-1)[-1]["messages"]
    assert "COMPACTED" in words(afterwards) and "echo a" not in words(afterwards)
    assert stage.wire.statuses.count(400) == 1 and set(stage.wire.statuses) == {200, 400}


def the_tokens_that_are_told_make_it_compact_in_time(stage):
    stage.script = [shell("echo a > a", tokens=80000), shell("echo b > b", tokens=80000), end()]
    assert ask(stage, CLAUDE_CODE_AUTO_COMPACT_WINDOW="100000") == 0, stage.said
    assert "COMPACTED" in words(stage.upstream.at(-1)[-1]["messages"])
    stage.heard_no_refusal(repeats=0)


def a_task_is_done_at_a_terminal(stage):
    stage.script = [
        write(stage, faults=[LIMITED, "break in arguments"]),
        shell("cat made.txt > copied.txt", faults=["break in text", OVERLOADED]),
        end(),
    ]
    screen = terminal(stage, "--dangerously-skip-permissions")
    screen.until("bypass permissions on", "it is ready")
    screen.type("do the task")
    screen.until("All is done.", "it is done")
    screen.close()
    assert stage.read("copied.txt") == "made\n"
    stage.heard_no_refusal(repeats=2)


def auto_mode_finds_somebody_to_judge(stage):
    # Not one of the commands that it knows to be harmless.
    odd = "python3 -c \"open('judged.txt', 'w').write('yes')\""
    stage.script = [write(stage), shell(odd), end()]
    screen = terminal(stage, "--permission-mode", "auto")
    screen.until("auto mode on", "it is ready")
    screen.type("do the task")
    screen.until("All is done.", "it is done")
    screen.close()
    assert stage.read("judged.txt") == "yes"
    judged = [body for _, _, body, _ in stage.upstream.seen if judges(body)]
    assert judged and not judged[0].get("stream") and judged[0]["max_tokens"] >= 1024
    stage.heard_no_refusal(repeats=0)


def ask_once(stage, base, key):
    return stage.run([stage.bin("claude"), "-p", oneshot.TASK, "--dangerously-skip-permissions"], env(stage))


# The provider speaks chat completions only, so there is no direct way.
a_line_of_the_table = oneshot.case_of(SimpleNamespace(
    NAME="Claude Code (chat provider)", NPM=NPM, TOOL=("Bash", {"command": oneshot.MADE, "description": "make it"}),
    turn_of=oneshot.turn_of, ask=ask_once, DIRECT=False,
))
a_line_of_the_table.settings = {"HEARTBEAT_SEC": "1"}

CASES = [
    a_line_of_the_table,
    a_task_is_done_whatever_fails_and_breaks,
    limits_and_overloads_are_not_noticed,
    a_late_refusal_makes_it_ask_again,
    another_model_stands_in,
    a_conversation_that_is_too_long_is_compacted,
    the_tokens_that_are_told_make_it_compact_in_time,
    a_task_is_done_at_a_terminal,
    auto_mode_finds_somebody_to_judge,
]
