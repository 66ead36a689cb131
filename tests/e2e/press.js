// Presses a button of a page, as an annotator does, and the one that confirms it.
//   node press.js CHROMIUM URL NAME-OF-THE-BUTTON NAME-OF-THE-CONFIRMATION URL-AFTERWARDS SCREENSHOTS
const { chromium } = require('playwright-core');
const axe = require('axe-core');

const [executablePath, url, button, confirmation, afterwards, screenshots] = process.argv.slice(2);
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

async function examined(page, screenshot) {
  await page.screenshot({ path: screenshot, fullPage: true });
  await page.evaluate(axe.source);
  const found = await page.evaluate(() => window.axe.run());
  return found.violations.filter(v => ['serious', 'critical'].includes(v.impact))
    .map(v => `${v.id}: ${v.nodes[0].html.slice(0, 120)}`);
}

(async () => {
  const browser = await chromium.launch({ executablePath, headless: true, args: FLAGS });
  const context = await browser.newContext({ viewport: { width: 390, height: 800 }, bypassCSP: true });
  const page = await context.newPage();
  page.setDefaultTimeout(120000);
  const errors = [], requests = [], posts = [];
  page.on('pageerror', error => errors.push(String(error)));
  page.on('console', message => message.type() === 'error' && errors.push(message.text()));
  page.on('request', request => requests.push(request.url()));
  page.on('request', request => request.method() === 'POST' && posts.push(request.postData()));
  await page.goto(url, { waitUntil: 'networkidle' });
  for (const closed of await page.locator('summary').all()) {
    await closed.focus();
    await page.keyboard.press('Enter');
  }
  const violations = await examined(page, `${screenshots}/panel.png`);
  await page.getByRole('link', { name: button, exact: true }).click();
  violations.push(...await examined(page, `${screenshots}/confirm.png`));
  const asked = await page.locator('h1').innerText();
  await page.getByRole('button', { name: confirmation, exact: true }).focus();
  await page.keyboard.press('Enter');
  await page.waitForURL(afterwards);
  const text = await page.locator('main').innerText();
  const scrollWidth = await page.evaluate(() => document.documentElement.scrollWidth);
  console.log(JSON.stringify({ asked, errors, requests, posts, violations, scrollWidth, text }));
  await browser.close();
})().catch(error => { console.error(error); process.exit(1); });
