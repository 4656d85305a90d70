// RFC 6761: every name under `localhost` is this machine. Not every resolver knows, so the clients say so
// themselves; the address that they connect to changes, the name in TLS and in the Host header does not.
import dns from 'node:dns';

const lookup = dns.lookup;
dns.lookup = (name, options, done) => {
  if (typeof options === 'function') [options, done] = [{}, options];
  if (!/(^|\.)localhost\.?$/i.test(name)) return lookup(name, options, done);
  const found = { address: '127.0.0.1', family: 4 };
  queueMicrotask(() => (options?.all ? done(null, [found]) : done(null, found.address, found.family)));
};
