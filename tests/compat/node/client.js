// Runs one snippet against the published JavaScript client and prints its answer as JSON.
//
// The package names a main file that it does not carry, and expects a browser's localStorage and navigator: those are the three shims.
'use strict';

const path = require('path');

const kept = new Map();
globalThis.localStorage = {
  getItem: (key) => kept.get(key) ?? null,
  setItem: (key, value) => kept.set(key, String(value)),
  removeItem: (key) => kept.delete(key),
};
if (globalThis.navigator === undefined) {
  globalThis.navigator = { onLine: true };
}
const { Client, ClientConfig } = require(
  path.join(process.env.JS_CLIENT, 'node_modules/backend.ai-client/backend.ai-client-node.js'),
);

const { BACKEND_ACCESS_KEY, BACKEND_SECRET_KEY, BACKEND_ENDPOINT } = process.env;
const config = new ClientConfig(BACKEND_ACCESS_KEY, BACKEND_SECRET_KEY, BACKEND_ENDPOINT, 'API');
const client = new Client(config, 'compat');

async function execute(id, code, answers = []) {
  const console = [];
  let [runId, mode, sent] = ['run' + Date.now(), 'query', code];
  for (;;) {
    const { result } = await client.execute(id, runId, mode, sent, {});
    console.push(...result.console);
    if (result.status === 'finished') {
      return { console, exitCode: result.exitCode };
    }
    [mode, sent] = result.status === 'waiting-input' ? ['input', answers.shift()] : ['continue', ''];
  }
}

async function ready(id) {
  for (;;) {
    const info = await client.get_info(id);
    if (info.status === 'RUNNING') {
      return info;
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

async function refused(call) {
  try {
    return { answered: await call() };
  } catch (error) {
    return { statusCode: error.statusCode, title: error.title, description: error.description };
  }
}

const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor;
const [script, values] = [process.argv[2], JSON.parse(process.argv[3])];
const names = { client, execute, ready, refused, ...values };
new AsyncFunction(...Object.keys(names), script)(...Object.values(names)).then(
  (answer) => console.log('\n' + JSON.stringify(answer ?? null)),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
