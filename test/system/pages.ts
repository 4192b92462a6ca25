/** The site that `npm run site` builds, in Debian's Chromium. */

import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import { makeSite } from "../../docs/site/build.ts";
import { addressOf, pageFiles } from "../../docs/site/pages.ts";
import { type Checks, expect, needTool, note } from "./checks.ts";

/** Builds the site once for all checks. */
let built: string | undefined;
function folderOfSite(): string {
  needTool("npm");
  built ??= makeSite();
  return built;
}

/** Files of the built site with that ending, by their addresses. */
function filesOf(folder: string, ending: string): string[] {
  return [...new Bun.Glob(`**/*.${ending}`).scanSync({ cwd: folder })].map((file) => `/${file}`).sort();
}

/** Serves the built site to Chromium. */
class Visit implements AsyncDisposable {
  readonly #browser: Browser;
  readonly #server: ReturnType<typeof Bun.serve>;
  /** Console messages, errors, failed requests and requests to other hosts. */
  readonly complaints: string[] = [];

  private constructor(browser: Browser, folder: string) {
    this.#browser = browser;
    this.#server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: async ({ url }) => {
        const file = Bun.file(join(folder, new URL(url).pathname.replace(/\/$/, "/index.html")));
        return (await file.exists()) ? new Response(file) : new Response("not found", { status: 404 });
      },
    });
  }

  static async start(): Promise<Visit> {
    const executablePath = needTool("chromium");
    const folder = folderOfSite();
    const args = process.geteuid?.() === 0 ? ["--no-sandbox"] : [];
    return new Visit(await chromium.launch({ executablePath, args }), folder);
  }

  async page(colorScheme: "light" | "dark", width: number): Promise<Page> {
    const baseURL = this.#server.url.origin;
    const page = await this.#browser.newPage({ baseURL, colorScheme, viewport: { width, height: 740 } });
    await page.addInitScript({ path: join(import.meta.dir, "probe.js") });
    page.on("console", (message) => this.complaints.push(`${page.url()}: ${message.text()}`));
    page.on("pageerror", (error) => this.complaints.push(`${page.url()}: ${error.message}`));
    page.on("request", (request) => {
      const url = request.url();
      if (!url.startsWith(`${baseURL}/`) && !url.startsWith("data:")) this.complaints.push(`request of ${url}`);
    });
    return page;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#browser.close();
    await this.#server.stop(true);
  }
}

/** Addresses of the pages whose text is in the repository, and of the list of examples. */
const written = (): string[] => ["examples", ...pageFiles().map(addressOf)].map((name) => `/${name}.html`);

// ---- links ----------------------------------------------------------------------------------------------------------

interface Html {
  readonly links: readonly string[];
  readonly ids: ReadonlySet<string>;
}

function htmlOf(file: string): Html {
  const text = readFileSync(file, "utf8");
  const values = (name: string): string[] =>
    [...text.matchAll(new RegExp(`<[^>]*?\\s${name}="([^"]*)"`, "g"))].map(([, value]) =>
      value!.replaceAll("&amp;", "&"),
    );
  return { links: [...values("href"), ...values("src")], ids: new Set(values("id")) };
}

/** Links of the pages that lead to no file or to no anchor. */
function broken(pages: ReadonlyMap<string, Html>, exists: (address: string) => boolean): string[] {
  const found: string[] = [];
  for (const [from, { links }] of pages)
    for (const link of links.filter((one) => !/^[a-z]+:/i.test(one))) {
      const [path = "", anchor = ""] = link.split("#");
      const target = path === "" ? from : resolve(from, "..", path.replace(/\/$/, "/index.html"));
      const page = pages.get(target === "/" ? "/index.html" : target);
      const isThere = page ? anchor === "" || page.ids.has(decodeURIComponent(anchor)) : exists(target);
      if (!isThere) found.push(`${from} → ${link}`);
    }
  return found;
}

async function linksLead(): Promise<void> {
  const folder = folderOfSite();
  const pages = new Map(filesOf(folder, "html").map((address) => [address, htmlOf(join(folder, address))]));
  const others = new Set(filesOf(folder, "{js,css,svg,png,json,woff2}"));
  const links = [...pages.values()].reduce((sum, page) => sum + page.links.length, 0);
  note(`${pages.size} pages, ${links} links`);
  expect(pages.size > 200 && links > 10_000, "too few pages or links");
  for (const address of written()) expect(pages.has(address), `there is no page ${address}`);
  const found = broken(pages, (address) => others.has(address));
  expect(found.length === 0, `broken links:\n${found.slice(0, 20).join("\n")}`);
  const hub = pages.get("/hub.html")!;
  pages.set("/hub.html", { ids: hub.ids, links: [...hub.links, "/nowhere.html", "/bus.html#nowhere"] });
  expect(broken(pages, (address) => others.has(address)).length === 2, "a broken link is not found");
}

// ---- pages ----------------------------------------------------------------------------------------------------------

/** Pages of the reference, one of each kind; all are made alike. */
const SAMPLES = ["index", "modules/slotbus", "classes/slotbus.SlotBus", "functions/slotbus.contract"];

async function suits(): Promise<void> {
  await using visit = await Visit.start();
  let texts = 0;
  const faults: string[] = [];
  for (const scheme of ["light", "dark"] as const) {
    const page = await visit.page(scheme, 360);
    for (const address of [...written(), ...SAMPLES.map((name) => `/reference/${name}.html`)]) {
      expect((await page.goto(address))?.ok() === true, `there is no page ${address}`);
      const wide: number = await page.evaluate("document.documentElement.scrollWidth");
      if (wide > 360) faults.push(`${address} needs ${wide} px`);
      if (address.startsWith("/reference/")) continue; // TypeDoc's own colours
      const found: { text: string; ratio: number }[] = await page.evaluate("probe.contrast()");
      texts += found.length;
      for (const { text, ratio } of found.filter((one) => one.ratio < 4.5).slice(0, 3))
        faults.push(`${address}, ${scheme}: "${text.slice(0, 40)}" has a contrast of ${ratio.toFixed(2)}`);
    }
    await page.close();
  }
  note(`${texts} texts`);
  expect(faults.length === 0, faults.slice(0, 40).join("\n"));
  expect(texts > 10_000, `only ${texts} texts were checked`);
  expect(visit.complaints.length === 0, `complaints of the browser:\n${visit.complaints.slice(0, 20).join("\n")}`);
}

async function searches(): Promise<void> {
  await using visit = await Visit.start();
  const page = await visit.page("light", 1400);
  await page.goto("/hub.html");
  await page.keyboard.press("Control+k");
  await page.getByRole("searchbox").fill("fencing token");
  await page.locator('#localsearch-list a[href^="/claims.html"]').first().click();
  await page.waitForURL("**/claims.html*");

  const back = (): Promise<string> => page.evaluate("getComputedStyle(document.body).backgroundColor");
  const light = await back();
  await page.getByRole("switch").first().click();
  await page.waitForFunction(`getComputedStyle(document.body).backgroundColor !== ${JSON.stringify(light)}`);
  const dark = await back();
  await page.goto("/bus.html");
  expect((await back()) === dark, "another page forgets that the reader wants dark");
  expect(visit.complaints.length === 0, visit.complaints.join("\n"));
}

async function draws(): Promise<void> {
  await using visit = await Visit.start();
  const page = await visit.page("light", 1200);
  await page.goto("/results.html");
  const charts: { head: string; bars: [string, number, number][]; cells: string[][] }[] = await page.evaluate(`
    [...document.querySelectorAll(".charts")].flatMap((charts) => [...charts.querySelectorAll(".chart")].map((chart) => ({
      head: chart.querySelector("figcaption").firstChild.data.trim(),
      bars: [...chart.querySelectorAll("i")].map((bar) => [bar.previousSibling.textContent,
        Number(bar.nextSibling.textContent.replace(/[ µs]/g, "")), bar.getBoundingClientRect().width]),
      cells: [...charts.nextElementSibling.rows].map((row) => [...row.cells].map((cell) => cell.textContent)),
    })))`);
  expect(charts.length > 25, `only ${charts.length} charts`);
  for (const { head, bars, cells } of charts) {
    const column = cells[0]!.indexOf(head);
    const longest = bars.reduce((most, bar) => (bar[1] > most[1] ? bar : most));
    expect(bars.length > 1, `${head}: the bars are ${bars.map(([name]) => name)}`);
    for (const [name, value, width] of bars) {
      const cell = cells.find(([first]) => first === name)?.[column]?.replaceAll(" ", "");
      expect(Number(cell) === value, `${head} of ${name} is ${value} in the chart, ${cell} in the table`);
      const wanted = Math.max(2, (longest[2] * value) / longest[1]);
      expect(Math.abs(width - wanted) < 1, `${head} of ${name}: a bar of ${width} px, not ${wanted}`);
    }
  }
  const text = await page.locator("main").innerText();
  expect(/Last change of these figures: \d{4}-\d\d-\d\d\./.test(text), "the page has no date");
  expect(/\d processors of .*, Linux [\d.]+.*, Bun [\d.]+/.test(text), "the page does not name the machine");
}

export const checks: Checks = {
  "every link of the site leads to a page and an anchor that are there": linksLead,
  "each page of the site fits into 360 px and has enough contrast in light and dark, without an error in Chromium":
    suits,
  "the site finds a page by words, and stays dark when the reader wants it": searches,
  "the charts of the site have the numbers of their tables, the machine and the date": draws,
};
