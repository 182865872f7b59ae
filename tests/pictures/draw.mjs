// Draws each dashboard that a network has answered: `node draw.mjs ANSWERS PICTURES`.
//
// Owns the page's server and the browser. Ends with an error if a panel could not be drawn.

import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { basename, join, normalize } from 'node:path';
import { createServer } from 'vite';
import { chromium } from 'playwright-core';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const WIDTH = 1552;
const QUIET = ['--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];
// Chromium has no sandbox of its own for root, which a container's user often is.
if (process.getuid?.() === 0) QUIET.push('--no-sandbox');

const [answers, pictures] = process.argv.slice(2);
const root = import.meta.dirname;
const from = (folder, type) => (request, response) => {
  const path = join(folder, normalize(`/${request.url.split('?')[0]}`));
  if (!existsSync(path)) return response.writeHead(404).end();
  response.writeHead(200, { 'content-type': type(path) }).end(readFileSync(path));
};
const files = {
  name: 'files',
  configureServer({ middlewares }) {
    middlewares.use('/told', from(answers, () => 'application/json'));
    const type = (path) => (path.endsWith('.svg') ? 'image/svg+xml' : 'font/woff2');
    middlewares.use('/public', from(join(root, 'node_modules/@grafana/ui/dist/public'), type));
  },
};
// Grafana's packages import CommonJS in the way that Vite knew before 8.
const legacy = { inconsistentCjsInterop: true };
const server = await createServer({ root, plugins: [files], legacy, server: { port: 0 }, logLevel: 'warn' });
await server.listen();
const browser = await chromium.launch({ executablePath: CHROMIUM, args: QUIET });
const wrong = [];
for (const file of readdirSync(answers).filter((file) => file.endsWith('.json'))) {
  const name = basename(file, '.json');
  const page = await browser.newPage({ viewport: { width: WIDTH, height: 900 } });
  page.on('pageerror', (error) => wrong.push(`${name}: ${error.stack}`));
  await page.goto(`${server.resolvedUrls.local[0]}?of=${name}`);
  const { dashboard } = JSON.parse(readFileSync(join(answers, file)));
  for (const { title } of dashboard.panels) {
    const panel = page.getByText(title, { exact: true }).first();
    await panel.waitFor({ timeout: 60_000 }).catch(() => wrong.push(`${name}: "${title}" was not drawn`));
    if (wrong.length) break;
  }
  // A table draws only what is in sight.
  const height = await page.evaluate(() => document.documentElement.scrollHeight);
  await page.setViewportSize({ width: WIDTH, height });
  await page.waitForLoadState('networkidle');
  await page.screenshot({ path: join(pictures, `${name}.png`) });
  console.log(join(pictures, `${name}.png`));
}
await browser.close();
await server.close();
if (wrong.length) throw new Error(wrong.join('\n'));
