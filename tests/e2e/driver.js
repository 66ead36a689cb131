// A browser that tests drive: one JSON command a line on standard input, one JSON answer a line on
// standard output.  {"call": "click", "args": [50, 40, ["Alt"]]} -> {"value": ...} or {"error": ...}
//
// Knows the canvas of Label Studio 1.23.  Positions are percent of the image.
const readline = require('readline');
const { chromium } = require('playwright-core');

const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

const TIMEOUT_MS = 120000;  // Label Studio's development server on a busy machine takes its time

let browser, page, base;
const pageErrors = [];

const commands = {
  // Opens the browser on an empty page, for `show`.
  async open(executable) {
    browser = await start(executable);
    page = await browser.newPage();
  },

  // Draws an image file, base64, as <img> does; the pixels on white, base64 of RGBA rows at the
  // natural size, or null where the browser shows none.
  show: content => page.evaluate(async base64 => {
    const image = new Image();
    const settled = new Promise(done => { image.onload = () => done(true); image.onerror = () => done(false); });
    image.src = `data:image/png;base64,${base64}`;  // the kind is sniffed from the content
    if (!await settled) return null;
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext('2d');
    context.fillStyle = 'white';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    const pixels = new Blob([context.getImageData(0, 0, canvas.width, canvas.height).data]);
    const reader = new FileReader();
    const read = new Promise(done => { reader.onload = done; });
    reader.readAsDataURL(pixels);
    await read;
    return { width: canvas.width, height: canvas.height, pixels: reader.result.split(',')[1] };
  }, content),

  // Opens the browser and logs in.  options: autoAccept, keepLabel (both in the browser's storage)
  async launch(url, email, password, executable, options = {}) {
    base = url;
    browser = await start(executable);
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
    await context.addInitScript(o => {
      localStorage.setItem('autoAnnotation', 'true');
      localStorage.setItem('autoAcceptSuggestions', String(!!o.autoAccept));
      localStorage.setItem('labelStudio:settings', JSON.stringify({ continuousLabeling: !!o.keepLabel }));
    }, options);
    page = await context.newPage();
    page.setDefaultTimeout(TIMEOUT_MS);
    page.on('pageerror', error => pageErrors.push(String(error)));
    await page.goto(`${base}/user/login/`);
    await page.fill('input[name=email]', email);
    await page.fill('input[name=password]', password);
    await Promise.all([page.waitForURL(u => !u.pathname.includes('login'), { timeout: TIMEOUT_MS }),
      page.click('button[type=submit]')]);
  },

  async openTask(project, task) {
    await page.goto(`${base}/projects/${project}/data?task=${task}`);
    await page.waitForSelector('.konvajs-content canvas', { timeout: TIMEOUT_MS });
    await page.waitForFunction(() => {
      const image = imageOf();
      return image && image.stageWidth > 1 && image.naturalWidth > 1;
      function imageOf() {
        const names = window.Htx?.annotationStore?.selected?.names;
        return names && [...names.values()].find(tag => tag.type === 'image');
      }
    }, null, { timeout: TIMEOUT_MS });
    await page.waitForTimeout(500);
  },

  // Chooses a label by its hotkey, which brings the plain tool along, and then the smart tool of its
  // control: M is the first of them, the others unfold from the Auto-Detect button.
  async chooseTool(control, label, tool) {
    const state = () => page.evaluate(([c, value]) => {
      const names = window.Htx.annotationStore.selected.names;
      const found = names.get(c).findLabel(value);
      const chosen = names.get('image').getToolsManager().findSelectedTool() || {};
      return { isSelected: !!found.selected, tool: chosen.fullName, hotkey: found.hotkey };
    }, [control, label]);
    // A busy machine takes its time: a key is pressed again only when its effect has not come, for
    // a second press of a label's key chooses it no longer, and one of M goes to the next tool.
    const settled = async changed => {
      const end = Date.now() + 5000;
      while (!changed(await state()) && Date.now() < end) await page.waitForTimeout(50);
      await page.waitForTimeout(200);
      return state();
    };
    for (let i = 0; i < 6; i++) {
      let now = await state();
      if (!now.isSelected) {
        await page.keyboard.press(now.hotkey);
        now = await settled(s => s.isSelected);
        if (!now.isSelected) continue;
      }
      const before = now.tool;
      if (before === `${tool}-dynamic`) return now;
      if (tool === 'KeyPointTool') await page.keyboard.press('m');
      else {
        await page.locator('.lsf-tool_smart').first().hover();
        await page.waitForTimeout(300);
        await page.locator('.lsf-tool_smart[aria-label="rectangle-tool"]').last().click();
      }
      now = await settled(s => s.tool !== before);
      if (now.isSelected && now.tool === `${tool}-dynamic`) return now;
    }
    return state();
  },

  // Clicks on the image and waits for Strop's answer to be drawn; returns the request's status.
  async click(xPercent, yPercent, modifiers = []) {
    const at = await pixelAt(xPercent, yPercent);
    const answered = page.waitForResponse(r => r.url().includes('/interactive-annotating'));
    for (const key of modifiers) await page.keyboard.down(key);
    await page.mouse.move(at.x - 2, at.y - 2);
    await page.mouse.click(at.x, at.y);
    for (const key of modifiers) await page.keyboard.up(key);
    return finished(await answered);
  },

  async drawBox(x0, y0, x1, y1) {
    const from = await pixelAt(x0, y0), to = await pixelAt(x1, y1);
    const answered = page.waitForResponse(r => r.url().includes('/interactive-annotating'));
    await page.mouse.move(from.x, from.y);
    await page.mouse.down();
    await page.mouse.move((from.x + to.x) / 2, (from.y + to.y) / 2, { steps: 4 });
    await page.mouse.move(to.x, to.y, { steps: 4 });
    await page.mouse.up();
    return finished(await answered);
  },

  // What is on the canvas: regions and suggestions with the masks as they are drawn, in Label
  // Studio's run lengths, at the size of the image.
  async canvas() {
    return page.evaluate(() => {
      const annotation = window.Htx.annotationStore.selected;
      const describe = region => {
        const result = region.serialize();
        return { id: region.cleanId, type: region.type, labels: region.labels, score: region.score,
          width: result?.original_width, height: result?.original_height, value: result?.value };
      };
      return { regions: annotation.regions.map(describe),
        suggestions: [...annotation.suggestions.values()].map(describe) };
    });
  },

  acceptAll: () => settle(page.locator('[data-testid=bottombar-accept-suggestions-button]').click()),
  rejectAll: () => settle(page.locator('[data-testid=bottombar-reject-suggestions-button]').click()),

  async submit() {
    const saved = page.waitForResponse(r => r.url().includes('/annotations') &&
      ['POST', 'PATCH'].includes(r.request().method()) && !r.url().includes('drafts'));
    await page.locator('button[aria-label="submit"], button:has-text("Submit"), ' +
      'button[aria-label="update"], button:has-text("Update")').first().click();
    return (await saved).status();
  },

  async screenshot(path) {
    await page.mouse.move(5, 5);
    await page.waitForTimeout(400);
    await page.screenshot(path.endsWith('.png') ? { path } : { path, type: 'jpeg', quality: 88 });
  },

  // All text that the page shows: to look for messages.
  visibleText: () => page.evaluate(() => document.body.innerText),
  pageErrors: () => pageErrors,
  // Opens a page that asks for a password in a tab of its own and follows the first link that the
  // selector finds: where that leads, and what is read there; null where there is no such link.
  async follow(url, user, password, selector) {
    const tab = await page.context().newPage();
    tab.setDefaultTimeout(TIMEOUT_MS);
    try {
      const secret = Buffer.from(`${user}:${password}`).toString('base64');
      await tab.setExtraHTTPHeaders({ authorization: `Basic ${secret}` });
      await tab.goto(url);
      const link = tab.locator(selector).first();
      if (!await link.count()) return null;
      await tab.setExtraHTTPHeaders({});  // of that page alone
      const { origin } = new URL(url);
      await Promise.all([tab.waitForURL(u => u.origin !== origin), link.click()]);
      await tab.waitForSelector('.konvajs-content canvas');
      return { url: tab.url(), text: await tab.innerText('body') };
    } finally {
      await tab.close();
    }
  },

  async evaluate(source) { return page.evaluate(source); },
  async press(key) { await page.keyboard.press(key); await page.waitForTimeout(200); },
  async close() { if (browser) await browser.close(); },
};

function start(executable) {
  return chromium.launch({ executablePath: executable, headless: true, args: FLAGS });
}

async function pixelAt(xPercent, yPercent) {
  const area = await page.evaluate(() => {
    const box = document.querySelector('.konvajs-content').getBoundingClientRect();
    const image = [...window.Htx.annotationStore.selected.names.values()].find(t => t.type === 'image');
    return { x: box.x, y: box.y, width: image.stageWidth, height: image.stageHeight };
  });
  return { x: area.x + area.width * xPercent / 100, y: area.y + area.height * yPercent / 100 };
}

async function finished(response) {
  const body = await response.json();
  await page.waitForTimeout(400);
  await page.evaluate(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))));
  return { status: response.status(), errors: body.errors || [] };
}

async function settle(action) {
  await action;
  await page.waitForTimeout(500);
}

const lines = readline.createInterface({ input: process.stdin });
let last = Promise.resolve();
lines.on('line', line => { last = last.then(() => answer(line)); });
lines.on('close', () => last.then(() => commands.close()).then(() => process.exit(0)));

async function answer(line) {
  const { call, args = [] } = JSON.parse(line);
  try {
    const value = await commands[call](...args);
    console.log(JSON.stringify({ value: value === undefined ? null : value }));
  } catch (error) {
    console.log(JSON.stringify({ error: `${call}: ${error.message || error}` }));
  }
}
