// The certified oidc-provider of npm in a process of its own: a client with a secret, PKCE asked of all.
// node oidc_provider.mjs FOLDER_OF_NODE_MODULES REDIRECT_URI; prints its URL.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [folder, redirectUri] = process.argv.slice(2);
const found = createRequire(`${folder}/`).resolve('oidc-provider');
const { default: Provider } = await import(pathToFileURL(found).href);

const claims = (sub) => ({
  sub, email: `${sub}@acme.test`, email_verified: true, name: sub,
  'https://agentcy.dev/org_id': 'default', 'https://agentcy.dev/role': 'member',
});
const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(url, {
    clients: [{
      client_id: 'agentcy', client_secret: 's3cret:with/odd%chars', redirect_uris: [redirectUri],
      grant_types: ['authorization_code'], response_types: ['code'],
    }],
    claims: {
      openid: ['sub', 'https://agentcy.dev/org_id', 'https://agentcy.dev/role'],
      email: ['email', 'email_verified'], profile: ['name'],
    },
    findAccount: (_, sub) => ({ accountId: sub, claims: () => claims(sub) }),
    pkce: { required: () => true },
    cookies: { keys: ['a key of a test'] },
  });
  server.on('request', provider.callback());
  console.log(url);
});
