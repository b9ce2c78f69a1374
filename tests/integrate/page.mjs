// Uses the generated web page in Chromium, as a person would, and prints what was seen as JSON.
// node page.mjs FOLDER PHOTO X Y MASK CHROMIUM; X and Y are shares of the photograph's sides.
import { spawn } from "node:child_process";
import { chromium } from "playwright-core";

const [folder, photo, x, y, file, executablePath] = process.argv.slice(2);
const serving = spawn("node", ["serve.mjs", "0"], { cwd: folder });
const url = await new Promise((resolve) => {
  serving.stdout.once("data", (line) => resolve(String(line).trim()));
});
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const seen = { errors: [], stalls: [] };
try {
  const context = await browser.newContext({
    acceptDownloads: true,
    viewport: { width: 1280, height: 1100 }, // The whole page, so that nothing scrolls.
  });
  const page = await context.newPage();
  page.on("pageerror", (error) => seen.errors.push(error.message));
  await page.addInitScript(() => {
    window.stalls = [];
    const note = (list) => window.stalls.push(...list.getEntries().map((e) => e.duration));
    new PerformanceObserver(note).observe({ entryTypes: ["longtask"] });
  });
  const data = (key) => page.evaluate((name) => document.body.dataset[name] ?? null, key);
  const until = (key, other = null) =>
    page.waitForFunction(
      ([name, before]) => (document.body.dataset[name] ?? null) !== before,
      [key, other],
      { timeout: 60_000 },
    );
  const answered = async (action) => {
    const before = await data("answered");
    await action();
    await until("answered", before);
    return page.textContent("#status");
  };
  const choose = async () => {
    await page.setInputFiles("#file", photo);
    await until("embedded");
    const box = await page.locator("#marks").boundingBox();
    return (fx, fy) => [box.x + fx * box.width, box.y + fy * box.height];
  };

  await page.goto(url);
  await until("device");
  seen.device = await data("device");
  seen.isolated = await page.evaluate(() => crossOriginIsolated);
  let at = await choose();
  await page.evaluate(() => (window.stalls = []));
  const start = Date.now();
  seen.click = await answered(() => page.mouse.click(...at(+x, +y)));
  seen.ms = Date.now() - start;
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
  await download.saveAs(file);
  seen.name = download.suggestedFilename();
  seen.off = await answered(() => page.mouse.click(...at(0.9, 0.9), { button: "right" }));
  seen.undo = await answered(() => page.click("#undo"));
  seen.box = await answered(async () => {
    await page.mouse.move(...at(0.1, 0.1));
    await page.mouse.down();
    await page.mouse.move(...at(0.7, 0.8), { steps: 3 });
    await page.mouse.up();
  });
  seen.stalls = await page.evaluate(() => window.stalls);
  serving.kill();
  await context.setOffline(true);
  await page.goto(url);
  await until("device");
  at = await choose();
  seen.offline = await answered(() => page.mouse.click(...at(+x, +y)));
} finally {
  serving.kill();
  await browser.close();
}
console.log(JSON.stringify(seen));
