// The suite cannot send an Authorization header and knows no CA but the system's. This stands between it and the
// server: plain HTTP on loopback, each request passed on with the bearer token, both ways as it streams.
import '../clients/node/loopback.mjs';
import http from 'node:http';
import https from 'node:https';

const HOP_BY_HOP = ['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'];

/** Gives the URL to use instead of `target`, and a function that ends the forwarding. */
export async function forward(target, { token, ca } = {}) {
  const away = new URL(target);
  const client = away.protocol === 'https:' ? https : http;
  const agent = new client.Agent({ keepAlive: true, maxSockets: 64, ...(ca && { ca }) });
  let own;

  // What names this forwarder becomes what names the target; a foreign Host or Origin stays foreign, since it is
  // the server's to refuse.
  const host = (value) => (value === own || value === `127.0.0.1:${own.split(':')[1]}` ? away.host : value);
  const origin = (value) => (value === `http://${own}` ? away.origin : value);

  const server = http.createServer((request, response) => {
    const headers = { ...request.headers };
    for (const name of HOP_BY_HOP) delete headers[name];
    headers.host = host(headers.host);
    if (headers.origin) headers.origin = origin(headers.origin);
    if (token && !headers.authorization) headers.authorization = `Bearer ${token}`;
    const onward = client.request(
      {
        protocol: away.protocol,
        hostname: away.hostname,
        port: away.port,
        servername: away.hostname,
        path: away.pathname + new URL(request.url, 'http://own').search,
        method: request.method,
        headers,
        agent,
      },
      (answer) => {
        const back = { ...answer.headers };
        for (const name of HOP_BY_HOP) delete back[name];
        response.writeHead(answer.statusCode, back).flushHeaders();
        answer.pipe(response);
        answer.on('error', () => response.destroy());
      },
    );
    onward.setNoDelay(true);
    onward.on('error', (error) => {
      if (response.headersSent) response.destroy();
      else response.writeHead(502, { 'content-type': 'text/plain' }).end(`forwarding failed: ${error.message}`);
    });
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  own = `localhost:${server.address().port}`;
  return {
    url: `http://${own}/mcp`,
    close() {
      server.close();
      server.closeAllConnections();
      agent.destroy();
    },
  };
}
