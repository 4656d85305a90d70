// What the TypeScript clients do, said once for both SDKs. Each scenario gets an adapter:
//   connect({ capabilities, era, fetch, prepare }) -> { client, transport }   call(client, name, args, options)
//   onRequest(client, method, handler)                               onNotification(client, method, handler)
// and gives an object, which is printed as one JSON line. A scenario that is not content throws.
import { createInterface } from 'node:readline';
import './loopback.mjs';

export const url = () => new URL(needed('BERTH_URL'));
export const headers = () =>
  process.env.BERTH_TOKEN ? { Authorization: `Bearer ${process.env.BERTH_TOKEN}` } : {};

function needed(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

export function check(condition, words) {
  if (!condition) throw new Error(words);
}

/** Waits until `condition` holds; asked again every 20 ms. */
export async function until(condition, words, ms = 15_000) {
  const end = Date.now() + ms;
  while (!(await condition())) {
    check(Date.now() < end, `waited ${ms} ms in vain: ${words}`);
    await sleep(20);
  }
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The text of a tool's answer. */
export const text = (result) => result.content.map((part) => part.text ?? '').join('\n');

/** A fetch that keeps what was asked and answered, headers in lower case, secrets left out. */
export function recorder(cut) {
  const seen = [];
  const fetch = async (input, init = {}) => {
    const asked = new Headers(init.headers);
    asked.delete('authorization');
    const entry = { method: init.method ?? 'GET', request: Object.fromEntries(asked), body: init.body };
    seen.push(entry);
    const response = await globalThis.fetch(input, init);
    entry.status = response.status;
    entry.response = Object.fromEntries(response.headers);
    return cut ? cut(entry, response) : response;
  };
  return { seen, fetch };
}

async function echo(sdk, client, message) {
  const answer = text(await sdk.call(client, 'echo', { message }));
  check(answer.includes(message), `echo of '${message}' answered '${answer}'`);
  return answer;
}

/** Ends the session as a well-behaved client does: DELETE first. */
async function leave({ client, transport }) {
  if (transport.sessionId) await transport.terminateSession();
  await client.close();
}

export const scenarios = {
  async 'list-call'(sdk) {
    const { seen, fetch } = recorder();
    const connection = await sdk.connect({ fetch });
    const { client, transport } = connection;
    const session = transport.sessionId !== undefined;
    const server = client.getServerVersion()?.name;
    const protocol = sdk.protocol(client, transport);
    const { tools } = await client.listTools();
    check(tools.some((tool) => tool.name === 'echo'), 'no tool is called echo');
    const answer = await echo(sdk, client, 'hello from the outside');
    await leave(connection);
    const deleted = seen.find((entry) => entry.method === 'DELETE')?.status;
    check(!session || deleted === 200 || deleted === 204 || deleted === 202, `DELETE answered ${deleted}`);
    return { server, protocol, tools: tools.length, answer, session, deleted };
  },

  // Calls any tools: the argument is a JSON array of [name, arguments]. What a tool refuses is its answer.
  async use(sdk, [calls = '[]']) {
    const connection = await sdk.connect({});
    const { client } = connection;
    const { tools } = await client.listTools();
    const answers = [];
    for (const [name, args] of JSON.parse(calls)) {
      try {
        const answer = await sdk.call(client, name, args);
        answers.push({ error: answer.isError === true, text: text(answer) });
      } catch (problem) {
        answers.push({ error: true, text: String(problem.message) });
      }
    }
    await leave(connection);
    return { server: client.getServerVersion()?.name, tools: tools.map((tool) => tool.name), answers };
  },

  async many(sdk, [count = '200', width = '16']) {
    const connection = await sdk.connect({});
    let next = 0;
    const started = performance.now();
    const lane = async () => {
      while (next < Number(count)) await echo(sdk, connection.client, `call ${next++} ${Math.random()}`);
    };
    await Promise.all(Array.from({ length: Number(width) }, lane));
    const seconds = (performance.now() - started) / 1000;
    await leave(connection);
    return { calls: Number(count), width: Number(width), per_second: Math.round(Number(count) / seconds) };
  },

  async progress(sdk) {
    const connection = await sdk.connect({});
    const seen = [];
    const result = await sdk.call(
      connection.client,
      'trigger-long-running-operation',
      { duration: 1, steps: 5 },
      { onprogress: ({ progress, total }) => seen.push({ progress, total }) },
    );
    const before = seen.length;
    await sleep(200);
    await leave(connection);
    // The last step's note and the result leave the server together; all but it must come before the result.
    check(before >= 4, `only ${before} progress notifications came before the result`);
    check(seen.every(({ progress }, at) => progress === at + 1), `progress came as ${JSON.stringify(seen)}`);
    return { progress: seen.length, before_result: before, answer: text(result) };
  },

  async sampling(sdk) {
    const connection = await sdk.connect({
      capabilities: { sampling: {} },
      prepare: (client) =>
        sdk.onRequest(client, 'sampling/createMessage', ({ params }) => ({
          role: 'assistant',
          model: 'test-model',
          content: { type: 'text', text: `sampled: ${params.messages[0].content.text ?? ''}` },
        })),
    });
    const name = await sdk.pick(connection.client, ['trigger-sampling-request', 'test_sampling']);
    const answer = text(await sdk.call(connection.client, name, { prompt: 'plums' }));
    await leave(connection);
    check(answer.includes('sampled:'), `the answer does not hold what the client sampled: ${answer}`);
    return { tool: name, answer };
  },

  async elicitation(sdk) {
    const connection = await sdk.connect({
      capabilities: { elicitation: { form: {} } },
      prepare: (client) =>
        sdk.onRequest(client, 'elicitation/create', () => ({
          action: 'accept',
          content: { name: 'Ada', check: true, integer: 7, username: 'ada', email: 'ada@example.org', response: 'Ada' },
        })),
    });
    const name = await sdk.pick(connection.client, ['trigger-elicitation-request', 'test_elicitation']);
    const answer = text(await sdk.call(connection.client, name, { message: 'Who?' }));
    await leave(connection);
    check(/ada/i.test(answer), `the answer does not hold what the client gave: ${answer}`);
    return { tool: name, answer: answer.slice(0, 200) };
  },

  async roots(sdk) {
    const connection = await sdk.connect({
      capabilities: { roots: { listChanged: true } },
      prepare: (client) =>
        sdk.onRequest(client, 'roots/list', () => ({ roots: [{ uri: 'file:///home/plum', name: 'plum' }] })),
    });
    const answer = text(await sdk.call(connection.client, 'get-roots-list', {}));
    await leave(connection);
    check(answer.includes('file:///home/plum'), `the answer does not name the client's root: ${answer}`);
    return { answer: answer.slice(0, 200) };
  },

  async logging(sdk) {
    const messages = [];
    const connection = await sdk.connect({
      prepare: (client) => sdk.onNotification(client, 'notifications/message', ({ params }) => messages.push(params)),
    });
    await connection.client.setLoggingLevel('debug');
    await sdk.call(connection.client, 'toggle-simulated-logging', {});
    await until(() => messages.length > 0, 'a log message');
    await sdk.call(connection.client, 'toggle-simulated-logging', {});
    await leave(connection);
    return { messages: messages.length, first: messages[0] };
  },

  // The stream of a running call is cut after its first progress; the SDK comes back with Last-Event-ID.
  // (server-everything's own HTTP server replays what was missed but loses what comes after: give it a duration
  // that is over before the client is back.)
  async resume(sdk, [duration = '4']) {
    let cuts = 0;
    const { seen, fetch } = recorder((entry, response) => {
      const call = entry.method === 'POST' && String(entry.body).includes('trigger-long-running-operation');
      if (!call || cuts > 0 || !response.body) return response;
      cuts += 1;
      let begun = '';
      const decoder = new TextDecoder();
      const body = response.body.pipeThrough(
        new TransformStream({
          transform(chunk, controller) {
            controller.enqueue(chunk);
            begun += decoder.decode(chunk, { stream: true });
            if (/notifications\/progress[^\n]*\n\n/.test(begun)) controller.terminate();
          },
        }),
      );
      return new Response(body, { status: response.status, headers: response.headers });
    });
    const connection = await sdk.connect({ era: 'legacy', fetch });
    const progress = [];
    const result = await sdk.call(
      connection.client,
      'trigger-long-running-operation',
      { duration: Number(duration), steps: 4 },
      { onprogress: (note) => progress.push(note.progress), timeout: 30_000 },
    );
    await leave(connection);
    const again = seen.find((entry) => entry.method === 'GET' && entry.request['last-event-id']);
    check(cuts === 1, 'the stream was never cut: the call was not answered as an event stream with progress');
    check(again, 'the client never came back with Last-Event-ID');
    check(again.status === 200, `the resumption was answered ${again.status}`);
    check(progress.join() === '1,2,3,4', `progress came as ${progress.join()}`);
    return { progress, resumed_with: again.request['last-event-id'] !== '', answer: text(result) };
  },

  async cancel(sdk) {
    const { seen, fetch } = recorder();
    const connection = await sdk.connect({ fetch });
    const stop = new AbortController();
    const started = performance.now();
    let refused;
    try {
      await sdk.call(
        connection.client,
        'trigger-long-running-operation',
        { duration: 60, steps: 120 },
        { signal: stop.signal, onprogress: () => stop.abort('changed my mind') },
      );
    } catch (error) {
      refused = String(error?.message ?? error);
    }
    check(refused !== undefined, 'the cancelled call gave a result');
    const ms = Math.round(performance.now() - started);
    check(ms < 20_000, `the cancelled call took ${ms} ms to end`);
    // The notification is on its way when the call ends; it must be taken well, and the session stay usable.
    const note = () => seen.find((entry) => String(entry.body).includes('notifications/cancelled'));
    if (connection.transport.sessionId) {
      await until(() => note()?.status !== undefined, 'the answer to notifications/cancelled', 5000);
      check(note().status === 202, `notifications/cancelled was answered ${note().status}`);
    }
    await echo(sdk, connection.client, 'still here');
    await leave(connection);
    return { refused, ms };
  },

  // A session that is never ended: prints its id, so that a test can look what becomes of it.
  async abandon(sdk) {
    const connection = await sdk.connect({});
    await echo(sdk, connection.client, 'never said goodbye');
    return { session: connection.transport.sessionId ?? null };
  },

  async call(sdk, [name, args = '{}']) {
    check(name, 'usage: call TOOL [JSON]');
    const connection = await sdk.connect({});
    const result = await sdk.call(connection.client, name, JSON.parse(args));
    await leave(connection);
    return { result };
  },

  // Several questions in one call, and several rounds of them (the fixture `modern`).
  async rounds(sdk) {
    const asked = [];
    const connection = await sdk.connect({
      capabilities: { sampling: {}, elicitation: {} },
      prepare: (client) => {
        sdk.onRequest(client, 'elicitation/create', () => {
          asked.push('who');
          return { action: 'accept', content: { name: 'Ada' } };
        });
        sdk.onRequest(client, 'sampling/createMessage', ({ params }) => {
          const fruit = params.messages[0].content.text;
          asked.push(fruit);
          return { role: 'assistant', model: 'test-model', content: { type: 'text', text: fruit.toUpperCase() } };
        });
      },
    });
    const answer = text(await sdk.call(connection.client, 'rounds', {}));
    await leave(connection);
    check(answer === 'Ada:PLUMS:FIGS', `the rounds ended with '${answer}'`);
    check([...asked].sort().join() === 'figs,plums,who', `asked was ${asked}`);
    return { answer };
  },

  // Lists that change while somebody listens (the fixture `modern`).
  async changed(sdk) {
    let heard = 0;
    const connection = await sdk.connect({
      prepare: (client) => sdk.onNotification(client, 'notifications/tools/list_changed', () => (heard += 1)),
    });
    await until(async () => {
      await sdk.call(connection.client, 'change-tools', {});
      return heard > 0;
    }, 'notifications/tools/list_changed');
    await leave(connection);
    return { heard };
  },

  /** One session, many calls: a JSON line {tool, arguments} each on stdin, its result as a JSON line each. */
  async calls(sdk) {
    const connection = await sdk.connect({});
    let count = 0;
    for await (const line of createInterface({ input: process.stdin })) {
      const { tool, arguments: args } = JSON.parse(line);
      const progress = [];
      let answer;
      try {
        const result = await sdk.call(connection.client, tool, args, {
          timeout: 300_000,
          onprogress: ({ message }) => progress.push(message),
        });
        answer = { text: text(result), error: result.isError === true, data: result.structuredContent, progress };
      } catch (error) {
        answer = { failed: String(error), progress };
      }
      console.log(JSON.stringify(answer));
      count += 1;
    }
    await leave(connection);
    return { calls: count };
  },

  // Legacy subscriptions, with server-everything's simulated updates.
  async 'subscribe-legacy'(sdk) {
    const updated = [];
    const connection = await sdk.connect({
      era: 'legacy',
      prepare: (client) =>
        sdk.onNotification(client, 'notifications/resources/updated', ({ params }) => updated.push(params.uri)),
    });
    const uri = 'demo://resource/dynamic/text/1';
    await connection.client.subscribeResource({ uri });
    await sdk.call(connection.client, 'toggle-subscriber-updates', {});
    await until(() => updated.length > 0, 'notifications/resources/updated');
    await connection.client.unsubscribeResource({ uri });
    await leave(connection);
    check(updated.every((each) => each === uri), `updates came for ${updated}`);
    return { updated: updated.length };
  },
};

/** Runs the scenarios that the command line names, one after the other, each with a client of its own. */
export async function main(sdk, own = {}) {
  const all = { ...scenarios, ...own };
  const [named = '', ...rest] = process.argv.slice(2);
  const names = named.split(',');
  if (!names.every((name) => all[name])) {
    console.error(`usage: SCENARIO[,SCENARIO…] [ARGUMENT…], with BERTH_URL and BERTH_TOKEN set; scenarios: ${Object.keys(all).join(' ')}`);
    process.exit(2);
  }
  for (const name of names) {
    try {
      const result = await all[name](sdk, rest);
      console.log(JSON.stringify({ scenario: name, ok: true, ...result }));
    } catch (error) {
      const causes = [];
      for (let at = error; at && causes.length < 5; at = at.cause) causes.push(at.message ?? String(at));
      console.error(`${name}: ${causes.join(': caused by: ')}`);
      process.exit(1);
    }
  }
  process.exit(0);
}
