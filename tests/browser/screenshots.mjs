// Pictures of the panel for the documentation: `cargo xtask screenshots`. FOLDER is where they go.

import { statSync } from "node:fs";
import { join } from "node:path";
import { launch, visitor, watched } from "./lib.mjs";
import { signIn } from "./door.mjs";

const base = process.env.PANEL_URL;
const folder = process.env.FOLDER;
const BYTES_MAX = 150_000;

/// A user who was just added.
async function added(page, lang) {
  await page.goto(`${base}/add-user`);
  await page.locator("#name").fill(lang === "en" ? "new-phone" : "新手机");
  await page.locator("#policy").selectOption("basic");
  await page.locator("main form .actions button").click();
  await page.locator(".qr svg").first().waitFor();
}

/// What a user sees at the address of the subscription.
async function own(page) {
  await page.goto(`${base}/users/alice/connect`);
  const path = await page.locator("a[href*='/s/']").getAttribute("href");
  await page.goto(base + path);
}

const PICTURES = [
  ["overview", "/", false],
  ["users", "/users?sort=rate", false],
  ["user", "/users/alice", false],
  ["phone", "/users?sort=rate", true],
  ["added", added, true],
  ["page", own, true],
];

const browser = await launch();
const large = [];
for (const [lang, theme] of [["en", "light"], ["zh-CN", "dark"]]) {
  for (const [name, path, phone] of PICTURES) {
    const context = await visitor(browser, { lang, theme, phone });
    const page = await watched(context);
    if (!phone) await page.setViewportSize({ width: 1200, height: 720 });
    await signIn(page, base);
    await (typeof path === "string" ? page.goto(base + path) : path(page, lang));
    // Charts are drawn by the script, and the live one has something to show after a few seconds.
    await page.locator("canvas").first().waitFor({ timeout: 3_000 }).catch(() => {});
    await page.waitForTimeout(name === "user" ? 5_000 : 1_000);
    const file = join(folder, `${name}.${lang}.png`);
    await page.screenshot({ path: file });
    if (statSync(file).size > BYTES_MAX) large.push(`${file}: ${statSync(file).size} bytes`);
    await context.close();
  }
}
await browser.close();
if (large.length) throw new Error(`larger than ${BYTES_MAX} bytes: ${large.join(", ")}`);
