// An issuer that is not Savannah: `node issuer.mjs oidc-provider|oauth2-mock-server`.
// The first line on stdin says {"port": ..., "keys": [...]}, both optional; the first line out
// says where it is and with which keys, so that it can come back. Then it does as told.

import { once } from 'node:events';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

// The people and programs it knows; roles are its own words.
const ROLES = { jane: ['order-desk'], boss: ['owner'], visitor: ['guest'] };
const RESOURCES = {
  'urn:savannah': 'customers:read customers:write orders:read orders:write',
  'urn:somewhere-else': 'orders:read',
};

async function newKey(alg) {
  const pair = await crypto.subtle.generateKey(
    {
      name: 'RSASSA-PKCS1-v1_5',
      modulusLength: 2048,
      publicExponent: new Uint8Array([1, 0, 1]),
      hash: 'SHA-256',
    },
    true,
    ['sign', 'verify'],
  );
  const { key_ops, ext, ...jwk } = await crypto.subtle.exportKey('jwk', pair.privateKey);
  return { ...jwk, alg, use: 'sig', kid: crypto.randomUUID() };
}

const kinds = {
  async 'oidc-provider'({ port = 0, keys }) {
    const { default: Provider } = await import('oidc-provider');
    const jwks = { keys: keys ?? [await newKey('RS256')] };
    const server = createServer().listen(port, '127.0.0.1');
    await once(server, 'listening');
    const issuer = `http://127.0.0.1:${server.address().port}`;
    const provider = new Provider(issuer, {
      jwks,
      clients: [
        {
          client_id: 'till',
          client_secret: 'a-secret-of-the-till',
          redirect_uris: ['http://127.0.0.1:9/back'],
          grant_types: ['authorization_code', 'client_credentials'],
          response_types: ['code'],
        },
      ],
      cookies: { keys: ['a cookie key of a test'] },
      findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
      extraTokenClaims: (_, token) => ({ roles: ROLES[token.accountId] ?? [] }),
      features: {
        clientCredentials: { enabled: true },
        devInteractions: { enabled: true },
        resourceIndicators: {
          enabled: true,
          useGrantedResource: () => true,
          getResourceServerInfo: (_, resource) => ({
            scope: RESOURCES[resource],
            audience: resource,
            accessTokenFormat: 'jwt',
            accessTokenTTL: 300,
          }),
        },
      },
    });
    server.on('request', provider.callback());
    return { issuer, keys: jwks.keys, steps: {} };
  },

  async 'oauth2-mock-server'({ port = 0, keys }) {
    const { OAuth2Server } = await import('oauth2-mock-server');
    const server = new OAuth2Server();
    for (const key of keys ?? [await newKey('RS256')]) await server.issuer.keys.add(key);
    await server.start(port, '127.0.0.1');
    return {
      issuer: server.issuer.url,
      keys: server.issuer.keys.toJSON(true),
      steps: {
        // The next token that somebody fetches says this as well; null takes a claim away.
        next({ claims = {}, header = {}, expires_in: left }) {
          server.service.once('beforeTokenSigning', (token) => {
            Object.assign(token.header, header);
            Object.assign(token.payload, claims);
            if (left != null) token.payload.exp = token.payload.iat + left;
            for (const [name, value] of Object.entries(token.payload)) {
              if (value === null) delete token.payload[name];
            }
          });
          return null;
        },
        // It signs with the new key from then on, and publishes the old one for a while.
        async add_key() {
          const key = await newKey('RS256');
          const older = server.issuer.keys.toJSON(true).map(({ kid }) => kid);
          await server.issuer.keys.add(key);
          for (const kid of older) server.issuer.keys.get(kid);
          return key.kid;
        },
      },
    };
  },
};

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { value: first } = await lines.next();
const { steps, ...ready } = await kinds[process.argv[2]](JSON.parse(first));
console.log(JSON.stringify({ ok: ready }));
for await (const line of lines) {
  const { do: step, ...told } = JSON.parse(line);
  console.log(JSON.stringify({ ok: (await steps[step](told)) ?? null }));
}
process.exit();
