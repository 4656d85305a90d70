// The official TypeScript SDK 2.x as a client, in both eras. Run by tests/clients/run.
// BERTH_ERA: legacy, modern (2026-07-28, no falling back) or auto (the default: ask server/discover first).
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { check, headers, main, recorder, text, until, url } from '../node/scenarios.mjs';

const MODERN = '2026-07-28';
const modes = { legacy: 'legacy', auto: 'auto', modern: { pin: MODERN } };

const sdk = {
  async connect({ capabilities = {}, era = process.env.BERTH_ERA ?? 'auto', fetch, prepare }) {
    const mode = modes[era];
    check(mode, `BERTH_ERA is '${era}'; it may be ${Object.keys(modes).join(', ')}`);
    const client = new Client(
      { name: 'berth-test-ts2', version: '1.0.0' },
      { capabilities, versionNegotiation: { mode } },
    );
    prepare?.(client);
    const transport = new StreamableHTTPClientTransport(url(), { requestInit: { headers: headers() }, fetch });
    await client.connect(transport);
    return { client, transport };
  },
  protocol: (client) => client.getNegotiatedProtocolVersion(),
  call: (client, name, args, options) => client.callTool({ name, arguments: args }, options),
  async pick(client, names) {
    const { tools } = await client.listTools();
    return names.find((name) => tools.some((tool) => tool.name === name)) ?? names[0];
  },
  onRequest: (client, method, handler) => client.setRequestHandler(method, handler),
  onNotification: (client, method, handler) => client.setNotificationHandler(method, handler),
};

const own = {
  // The stateless era: no initialize, no session, and the headers that the revision asks of each request.
  async modern(_, [tool = 'echo', args = '{"message":"hello, stateless"}']) {
    const { seen, fetch } = recorder();
    const { client } = await sdk.connect({ era: 'modern', fetch });
    const { tools } = await client.listTools();
    const answer = text(await sdk.call(client, tool, JSON.parse(args)));
    const server = client.getServerVersion()?.name;
    const protocol = client.getNegotiatedProtocolVersion();
    await client.close();
    const posts = seen.filter((entry) => entry.method === 'POST');
    const methods = posts.map((entry) => JSON.parse(entry.body).method);
    check(methods[0] === 'server/discover', `the first request was ${methods[0]}`);
    check(!methods.includes('initialize'), 'the client fell back to initialize');
    for (const { request, response, body } of posts) {
      check(!request['mcp-session-id'] && !response['mcp-session-id'], 'a session id was used');
      check(request['mcp-protocol-version'] === MODERN, `MCP-Protocol-Version is ${request['mcp-protocol-version']}`);
      check(request['mcp-method'] === JSON.parse(body).method, `Mcp-Method is ${request['mcp-method']}`);
    }
    check(!seen.some(({ method }) => method === 'DELETE' || method === 'GET'), 'the client sent GET or DELETE');
    return { server, protocol, tools: tools.length, answer, methods };
  },

  // subscriptions/listen. The second argument is a tool that makes the change which is listened for.
  async subscribe(_, [filter = '{"toolsListChanged":true}', trigger = '', args = '{}']) {
    const heard = [];
    const { client } = await sdk.connect({
      era: 'modern',
      prepare: (made) => {
        for (const what of ['tools/list_changed', 'prompts/list_changed', 'resources/list_changed', 'resources/updated'])
          made.setNotificationHandler(`notifications/${what}`, ({ params }) => heard.push({ what, uri: params?.uri }));
      },
    });
    const subscription = await client.listen(JSON.parse(filter));
    const honored = subscription.honoredFilter;
    if (trigger) {
      await sdk.call(client, trigger, JSON.parse(args));
      await until(() => heard.length > 0, 'a notification on the subscription');
    }
    await subscription.close();
    const closed = await subscription.closed;
    await client.close();
    return { honored, heard, closed };
  },
};

await main(sdk, own);
