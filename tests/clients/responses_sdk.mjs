// OpenAI's own Node SDK through the Responses API, against OPENAI_BASE_URL, without retries.
import OpenAI from "openai";

const client = new OpenAI({ apiKey: "sk-the-clients-own", maxRetries: 0, timeout: 60_000 });
const parameters = { type: "object", properties: { said: { type: "string" } }, required: ["said"], additionalProperties: false };
const tools = [{ type: "function", name: "note", parameters, strict: true }];

function check(what, found, expected) {
  if (JSON.stringify(found) !== JSON.stringify(expected)) {
    console.error(`${what}: found ${JSON.stringify(found)}, expected ${JSON.stringify(expected)}`);
    process.exit(1);
  }
  console.log(`${what}: ok`);
}

const ask = (input, more = {}) => ({ model: "test-model", input, ...more });
const plain = async (input) => (await client.responses.create(ask(input))).output_text;

async function streamed(input, more) {
  const stream = client.responses.stream(ask(input, more));
  let words = "";
  stream.on("response.output_text.delta", (event) => (words += event.delta));
  const response = await stream.finalResponse();
  return { ...response, words };
}

const texts = Array.from({ length: 10 }, (_, n) => `question ${n}: ünïcödé ✓`);
const answers = [];
for (const text of texts) answers.push(await plain(text));
check("10 plain responses in a row", answers, texts);
const one = await streamed(texts[0]);
check("a stream", [one.output[0].content[0].text, one.words, one.status, one.model], [texts[0], texts[0], "completed", "test-model"]);
const ten = await Promise.all(texts.map((text) => streamed(text)));
check("10 streams at once", ten.map((response) => response.words), texts);
check("ids of responses", new Set(ten.map((response) => response.id)).size, 10);

const call = (await streamed("hello", { tools })).output[0];
check("a streamed function call", [call.type, call.name, JSON.parse(call.arguments)], ["function_call", "note", { said: "hello" }]);
const { parsed_arguments, ...item } = call;
const turn = [{ role: "user", content: "note it" }, item, { type: "function_call_output", call_id: call.call_id, output: "noted" }];
check("its output", await plain(turn), "noted");

const image = [{ type: "input_image", image_url: "data:image/png;base64,iVBORw0KGgo=", detail: "auto" }, { type: "input_text", text: "and?" }];
check("an image", await plain([{ role: "user", content: image }]), "and? [1 images]");
const thought = await streamed("think aloud");
check("thoughts", thought.output.map((item) => item.type), ["reasoning", "message"]);

const error = await client.responses.create(ask("hi", { previous_response_id: "resp_1" })).catch((error) => error);
check("what needs a store", [error.status, error.param], [400, "previous_response_id"]);
