// Pictures of the panel for the documentation: `cargo xtask screenshots`. FOLDER is where they go.

import { statSync } from "node:fs";
import { join } from "node:path";
import { launch, visitor, watched } from "./lib.mjs";
import { signIn } from "./door.mjs";

const base = process.env.PANEL_URL;
const folder = process.env.FOLDER;
const BYTES_MAX = 150_000;

const PICTURES = [
  ["overview", "/", false],
  ["users", "/users?sort=rate", false],
  ["user", "/users/alice", false],
  ["phone", "/users?sort=rate", true],
];

const browser = await launch();
const large = [];
for (const [lang, theme] of [["en", "light"], ["zh-CN", "dark"]]) {
  for (const [name, path, phone] of PICTURES) {
    const context = await visitor(browser, { lang, theme, phone });
    const page = await watched(context);
    if (!phone) await page.setViewportSize({ width: 1200, height: 720 });
    await signIn(page, base);
    await page.goto(base + path);
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
