// An app built on openid-client, told by JSON lines what to do next: {"do": ..., "app": ..., ...}.
// It answers each with one line, {"ok": ...} or {"failed": ...}. The browser is whoever asks.

import { createInterface } from 'node:readline';
import * as client from 'openid-client';

const AUTHENTICATION = {
  client_secret_basic: ({ secret }) => client.ClientSecretBasic(secret),
  client_secret_post: ({ secret }) => client.ClientSecretPost(secret),
  private_key_jwt: ({ key }) => client.PrivateKeyJwt(keys.get(key)),
  none: () => client.None(),
};

const keys = new Map();
const apps = new Map();

const steps = {
  // A key pair that stays here; what the app registers of it.
  async make_key({ name, alg }) {
    const curve = { ES256: { name: 'ECDSA', namedCurve: 'P-256' } }[alg] ?? {
      name: { RS256: 'RSASSA-PKCS1-v1_5', PS256: 'RSA-PSS' }[alg],
      modulusLength: 2048,
      publicExponent: new Uint8Array([1, 0, 1]),
      hash: 'SHA-256',
    };
    const pair = await crypto.subtle.generateKey(curve, true, ['sign', 'verify']);
    keys.set(name, { key: pair.privateKey, kid: name });
    const jwk = await crypto.subtle.exportKey('jwk', pair.publicKey);
    return { ...jwk, key_ops: undefined, ext: undefined, kid: name, use: 'sig', alg };
  },

  async discover({ app, issuer, client_id, auth, algorithm = 'oidc', bound = false, ...more }) {
    const config = await client.discovery(
      new URL(issuer),
      client_id,
      undefined,
      AUTHENTICATION[auth](more),
      {
        algorithm,
        // Plain http on this machine; and signatures are verified, though the token endpoint is ours.
        execute: [client.allowInsecureRequests, client.enableNonRepudiationChecks],
      },
    );
    const DPoP = bound && client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256'));
    apps.set(app, { config, options: DPoP ? { DPoP } : {} });
    return config.serverMetadata();
  },

  async begin({ app, parameters, pushed = false }) {
    const { config, options } = apps.get(app);
    const pkceCodeVerifier = client.randomPKCECodeVerifier();
    const expectedState = client.randomState();
    const expectedNonce = client.randomNonce();
    const asked = {
      code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier),
      code_challenge_method: 'S256',
      state: expectedState,
      nonce: expectedNonce,
      ...parameters,
    };
    apps.get(app).checks = { pkceCodeVerifier, expectedState, expectedNonce };
    const url = pushed
      ? await client.buildAuthorizationUrlWithPAR(config, asked, options)
      : client.buildAuthorizationUrl(config, asked);
    return url.href;
  },

  async finish({ app, url, checks = {}, parameters }) {
    const { config, options, checks: kept } = apps.get(app);
    const tokens = await client.authorizationCodeGrant(
      config,
      new URL(url),
      { ...kept, idTokenExpected: true, ...checks },
      parameters,
      options,
    );
    return { ...tokens, claims: tokens.claims() };
  },

  async refresh({ app, refresh_token, parameters }) {
    const { config, options } = apps.get(app);
    const tokens = await client.refreshTokenGrant(config, refresh_token, parameters, options);
    return { ...tokens, claims: tokens.claims() };
  },

  async as_itself({ app, parameters }) {
    const { config, options } = apps.get(app);
    return client.clientCredentialsGrant(config, parameters, options);
  },

  async userinfo({ app, access_token, subject }) {
    const { config, options } = apps.get(app);
    return client.fetchUserInfo(config, access_token, subject, options);
  },

  async introspect({ app, token }) {
    return client.tokenIntrospection(apps.get(app).config, token);
  },

  async revoke({ app, token, parameters }) {
    return (await client.tokenRevocation(apps.get(app).config, token, parameters)) ?? null;
  },

  async call({ app, access_token, url, method = 'GET', body, headers = {} }) {
    const { config, options } = apps.get(app);
    const answer = await client.fetchProtectedResource(
      config,
      access_token,
      new URL(url),
      method,
      body === undefined ? undefined : JSON.stringify(body),
      new Headers({ 'content-type': 'application/json', ...headers }),
      options,
    );
    return { status: answer.status, body: await answer.json() };
  },

  async end_session({ app, parameters }) {
    return client.buildEndSessionUrl(apps.get(app).config, parameters).href;
  },
};

function told(error) {
  const { name, message, code, status, error: said } = error;
  const cause = error.cause instanceof Error ? told(error.cause) : undefined;
  return { name, message, code, status, error: said, cause };
}

console.log(JSON.stringify({ ok: process.version }));
for await (const line of createInterface({ input: process.stdin })) {
  const { do: step, ...told_to } = JSON.parse(line);
  let answer;
  try {
    answer = { ok: await steps[step](told_to) };
  } catch (error) {
    answer = { failed: told(error) };
  }
  console.log(JSON.stringify(answer));
}
