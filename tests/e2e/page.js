// Opens one page as a reader does and tells what it saw, as JSON on standard output.
//   node page.js CHROMIUM URL WIDTH light|dark SCREENSHOT
const { chromium } = require('playwright-core');
const axe = require('axe-core');

const [executablePath, url, width, colorScheme, screenshot] = process.argv.slice(2);
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

(async () => {
  const browser = await chromium.launch({ executablePath, headless: true, args: FLAGS });
  const viewport = { width: Number(width), height: 900 };
  // axe is a script, and the page's policy forbids all of them: it is let in for the test alone.
  const context = await browser.newContext({ viewport, colorScheme, bypassCSP: true });
  const page = await context.newPage();
  page.setDefaultTimeout(120000);
  const errors = [], requests = [];
  page.on('pageerror', error => errors.push(String(error)));
  page.on('console', message => message.type() === 'error' && errors.push(message.text()));
  page.on('request', request => requests.push(request.url()));
  await page.goto(url, { waitUntil: 'networkidle' });
  // Pictures below the fold load when they come into view: here, all of them at once.
  await page.evaluate(() => Promise.all([...document.images].map(image => {
    image.loading = 'eager';
    return image.decode().catch(() => null);
  })));
  await page.screenshot({ path: screenshot, fullPage: true });
  await page.evaluate(axe.source);
  const found = await page.evaluate(() => window.axe.run());
  const seen = await page.evaluate(() => ({
    scrollWidth: document.documentElement.scrollWidth,
    charts: [...document.querySelectorAll('figure svg')].map(svg => {
      const { x, y, width, height } = svg.getBoundingClientRect();
      return { x: x + window.scrollX, y: y + window.scrollY, width, height };
    }),
    pictures: [...document.querySelectorAll('img')].map(image => image.naturalWidth),
    links: [...document.querySelectorAll('.worst a')].map(link => link.href),
  }));
  const violations = found.violations
    .filter(v => ['serious', 'critical'].includes(v.impact))
    .map(v => `${v.id}: ${v.nodes[0].html.slice(0, 120)}`);
  console.log(JSON.stringify({ ...seen, errors, requests, violations }));
  await browser.close();
})().catch(error => { console.error(error); process.exit(1); });
