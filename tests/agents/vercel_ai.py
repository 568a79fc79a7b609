"""Vercel's AI SDK."""

import sys

import oneshot

NAME = "Vercel AI SDK"
NPM = ["ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92", "zod@4.6.7", "node@24.21.0"]
SETTINGS = {"HEARTBEAT_SEC": "1"}
LIGHT = True
TOOL = ("make", {})
turn_of = oneshot.turn_of


def ask(stage, base, key):
    code = """
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { stepCountIs, streamText, tool } from "ai";
import { writeFileSync } from "fs";
import { z } from "zod";
const alvus = createOpenAICompatible({ name: "alvus", baseURL: process.env.BASE, apiKey: process.env.KEY });
const make = tool({ inputSchema: z.object({}), execute: () => { writeFileSync("made.txt", "made"); return "made"; } });
const answer = streamText({ model: alvus("m"), prompt: process.env.TASK, tools: { make }, stopWhen: stepCountIs(3) });
for await (const piece of answer.textStream) process.stdout.write(piece);
"""
    script = stage.bin("../../ask.mjs")  # beside the packages, where Node looks for them
    with open(script, "w") as file:
        file.write(code)
    return stage.run(["node", script], {"BASE": f"{base}/v1", "KEY": key, "TASK": oneshot.TASK})


CASES = [oneshot.case_of(sys.modules[__name__])]
