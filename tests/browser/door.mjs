// How one gets into the panel.

export async function signIn(page, base, look = async () => {}, code = "") {
  if (!process.env.PANEL_PASSWORD) return;
  await page.goto(base + "/");
  await page.locator("input[type=password]").waitFor();
  await look();
  await page.locator("input[type=password]").fill(process.env.PANEL_PASSWORD);
  if (code) await page.locator("#code").fill(code);
  await page.locator("form:has(input[type=password]) button").click();
  await page.locator("input[type=password]").waitFor({ state: "detached" });
}
