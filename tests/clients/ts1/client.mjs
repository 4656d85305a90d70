// The official TypeScript SDK 1.x as a client. Run by tests/clients/run.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { headers, main, url } from '../node/scenarios.mjs';

const schemas = {
  'sampling/createMessage': CreateMessageRequestSchema,
  'elicitation/create': ElicitRequestSchema,
  'roots/list': ListRootsRequestSchema,
  'notifications/message': LoggingMessageNotificationSchema,
  'notifications/resources/updated': ResourceUpdatedNotificationSchema,
  'notifications/tools/list_changed': ToolListChangedNotificationSchema,
};

const sdk = {
  async connect({ capabilities = {}, fetch, prepare }) {
    const client = new Client({ name: 'berth-test-ts1', version: '1.0.0' }, { capabilities });
    prepare?.(client);
    // BERTH_TRANSPORT=sse: that of 2024-11-05.
    const Transport = process.env.BERTH_TRANSPORT === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;
    const transport = new Transport(url(), { requestInit: { headers: headers() }, fetch });
    await client.connect(transport);
    return { client, transport };
  },
  protocol: (client, transport) => transport.protocolVersion,
  call: (client, name, args, options) => client.callTool({ name, arguments: args }, undefined, options),
  async pick(client, names) {
    const { tools } = await client.listTools();
    return names.find((name) => tools.some((tool) => tool.name === name)) ?? names[0];
  },
  onRequest: (client, method, handler) => client.setRequestHandler(schemas[method], handler),
  onNotification: (client, method, handler) => client.setNotificationHandler(schemas[method], handler),
};

await main(sdk);
