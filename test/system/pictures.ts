/**
 * Pictures for the pages: the status page and `slotbus top` while a hub is busy. They are written to zig-out/pictures, or to
 * docs/pictures by `npm run pictures`.
 */

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { installPackages } from "../../docs/reference/generate.ts";
import { eventually, Site } from "./browser.ts";
import { type Checks, expect, needTool, root, until } from "./checks.ts";

const folder = join(root, process.env["SLOTBUS_PICTURES"] ?? "zig-out/pictures");
const [COLUMNS, ROWS] = [88, 26];

/** Writes the picture of what the page shows without scrolling, in that size. */
async function save(page: Page, name: string, width: number, height: number): Promise<void> {
  mkdirSync(folder, { recursive: true });
  await page.setViewportSize({ width, height });
  await page.screenshot({ path: join(folder, `${name}.png`) });
}

/** A hub with two workers, one of two processes, under load. */
async function busySite(): Promise<Site> {
  const site = await Site.open("users", "users", "orders");
  site.load(["users", "orders"]);
  return site;
}

async function statusPage(): Promise<void> {
  await using site = await busySite();
  const page = await site.status();
  const isDrawn = async (): Promise<boolean> => (await page.evaluate<number>("probe.points('p99')")) > 10;
  await eventually(isDrawn, "the charts have lines", 60_000);
  await save(page, "status", 1000, 630);
}

/** Resolves to what `slotbus top` wrote to its terminal until it had drawn `frames` frames. */
async function recordTop(directory: string, frames: number): Promise<string> {
  let text = "";
  const terminal = new Bun.Terminal({
    cols: COLUMNS,
    rows: ROWS,
    data: (_, bytes) => void (text += Buffer.from(bytes)),
  });
  const command = [process.execPath, join(root, "src/cli/slotbus.ts"), "top", "--interval", "0.5"];
  const env = { ...process.env, CI: undefined, NO_COLOR: undefined, SLOTBUS_DIR: directory, TERM: "xterm-256color" };
  const top = Bun.spawn(command, { terminal, env });
  await until(() => text.split("\u001b[H").length > frames, `${frames} frames`, 60_000);
  top.kill("SIGKILL"); // it would restore the terminal and clear the picture
  await top.exited;
  terminal.close();
  return text.slice(0, text.lastIndexOf("\u001b[H")); // the last frame may not be whole
}

async function topInTerminal(): Promise<void> {
  needTool("npm");
  const generator = join(root, "docs/site"); // it has xterm.js, which draws the pictures of terminals
  installPackages(generator);
  await using site = await busySite();
  const written = await recordTop(site.directory, 12);
  const page = await site.page("/health");
  const xterm = join(generator, "node_modules/@xterm/xterm");
  await page.setContent(
    "<body style='margin: 0; padding: 12px; width: max-content; background: #16181d'><div id=terminal></div>",
  );
  await page.addStyleTag({ path: join(xterm, "css/xterm.css") });
  await page.addScriptTag({ path: join(xterm, "lib/xterm.js") });
  const settings = { cols: COLUMNS, rows: ROWS, fontSize: 14, theme: { background: "#16181d" }, scrollback: 0 };
  const screen: string[] = await page.evaluate(`(async () => {
    const terminal = new Terminal(${JSON.stringify(settings)});
    terminal.open(document.querySelector("#terminal"));
    await new Promise((drawn) => terminal.write(${JSON.stringify(written)}, drawn));
    await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
    const { active } = terminal.buffer;
    return Array.from({ length: terminal.rows }, (_, row) => active.getLine(row).translateToString(true));
  })()`);
  const shown = screen.join("\n");
  expect(/^slotbus top .* \d\d:\d\d:\d\d/.test(shown), `the first line is not the title:\n${shown}`);
  for (const name of ["site", "users", "orders"]) expect(shown.includes(name), `${name} is not in\n${shown}`);
  expect(/\b[1-9]\d*(?:\.\d)? (?:µs|ms)\b/.test(shown), `no latency is in\n${shown}`);
  await save(
    page,
    "top",
    await page.evaluate("document.body.scrollWidth"),
    await page.evaluate("document.body.scrollHeight"),
  );
}

export const checks: Checks = {
  "`slotbus top` draws a busy hub in a terminal, and a picture is made of it": topInTerminal,
  "a picture is made of the status page of a busy hub": statusPage,
};
