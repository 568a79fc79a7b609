// Anthropic's own Node SDK against ANTHROPIC_BASE_URL, without retries: a 429 would be an exception.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ apiKey: "sk-the-clients-own", maxRetries: 0, timeout: 60_000 });
const tools = [{ name: "note", input_schema: { type: "object", properties: { said: { type: "string" } } } }];

function check(what, found, expected) {
  if (JSON.stringify(found) !== JSON.stringify(expected)) {
    console.error(`${what}: found ${JSON.stringify(found)}, expected ${JSON.stringify(expected)}`);
    process.exit(1);
  }
  console.log(`${what}: ok`);
}

const ask = (content, more = {}) => ({
  model: "test-model", max_tokens: 2000, messages: [{ role: "user", content }], ...more,
});
const plain = async (content) => (await client.messages.create(ask(content))).content[0].text;
const streamed = async (content, more) => client.messages.stream(ask(content, more)).finalMessage();

const texts = Array.from({ length: 10 }, (_, n) => `question ${n}: ünïcödé ✓`);
const answers = [];
for (const text of texts) answers.push(await plain(text));
check("10 plain messages in a row", answers, texts);
const one = await streamed(texts[0]);
check("a stream", [one.content[0].text, one.stop_reason, one.model], [texts[0], "end_turn", "test-model"]);
const ten = await Promise.all(texts.map((text) => streamed(text)));
check("10 streams at once", ten.map((message) => message.content[0].text), texts);
check("ids of messages", new Set(ten.map((message) => message.id)).size, 10);

const call = (await streamed("hello", { tools })).content[0];
check("a streamed tool call", [call.type, call.name, call.input], ["tool_use", "note", { said: "hello" }]);
const turn = ask("note it");
turn.messages.push({ role: "assistant", content: [call] },
  { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: [{ type: "text", text: "noted" }] }] });
check("a tool result", (await client.messages.create(turn)).content[0].text, "noted");

const data = Buffer.alloc(300, "\x89PNG").toString("base64");
const image = { type: "image", source: { type: "base64", media_type: "image/png", data } };
check("an image", await plain([image, { type: "text", text: "and?" }]), "and? [1 images]");
const thought = await streamed("think aloud", { thinking: { type: "enabled", budget_tokens: 1024 } });
check("thoughts", thought.content.map((block) => block.thinking ?? block.text), ["hm, ünïcödé", "think aloud"]);

const error = await client.messages.create({ ...ask("hi"), model: "no-such-model" }).catch((e) => e);
check("an error", [error.status, error.error.error.type], [404, "not_found_error"]);
