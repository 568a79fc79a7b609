// OpenAI's own Node SDK against OPENAI_BASE_URL, without retries: a 429 would be an exception.
import OpenAI from "openai";

const client = new OpenAI({ apiKey: "sk-the-clients-own", maxRetries: 0, timeout: 60_000 });

function check(what, found, expected) {
  if (JSON.stringify(found) !== JSON.stringify(expected)) {
    console.error(`${what}: found ${JSON.stringify(found)}, expected ${JSON.stringify(expected)}`);
    process.exit(1);
  }
  console.log(`${what}: ok`);
}

const ask = (content) => ({ model: "test-model", messages: [{ role: "user", content }] });

async function plain(text) {
  return (await client.chat.completions.create(ask(text))).choices[0].message.content;
}

async function streamed(text) {
  let all = "";
  for await (const chunk of await client.chat.completions.create({ ...ask(text), stream: true })) {
    all += chunk.choices[0].delta.content ?? "";
  }
  return all;
}

const texts = Array.from({ length: 10 }, (_, n) => `question ${n}: ünïcödé ✓`);
const answers = [];
for (const text of texts) answers.push(await plain(text));
check("10 plain chats in a row", answers, texts);
check("a stream", await streamed(texts[0]), texts[0]);
check("10 streams at once", await Promise.all(texts.map(streamed)), texts);
