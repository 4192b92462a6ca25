/** The status page and the event streams of a hub in Debian's Chromium. */

import { createServer, connect, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import { HubClient } from "../../src/hub/client.ts";
import { HubEmitter } from "../../src/hub/index.ts";
import { type Checks, expect, needTool, Place, Program } from "./checks.ts";

const here = import.meta.dir;
/** Admin token of the hub of site.ts. */
const TOKEN = "token-of-the-site";

/** Resolves when `holds` returns true; fails with `what` after `ms`. */
export async function eventually(holds: () => Promise<boolean> | boolean, what: string, ms = 15_000): Promise<void> {
  const deadline = performance.now() + ms;
  while (!(await holds())) {
    expect(performance.now() < deadline, `not within ${ms} ms: ${what}`);
    await Bun.sleep(20);
  }
}

function expectEqual(actual: unknown, wanted: unknown, what: string): void {
  expect(Bun.deepEquals(actual, wanted), `${what}: ${Bun.inspect(actual)}, not ${Bun.inspect(wanted)}`);
}

/** Forwards connections to a hub whose port may change, while the wire is open. */
class Wire implements Disposable {
  target = 0;
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;
  #isOpen = true;

  constructor() {
    this.#server = createServer((socket) => {
      if (!this.#isOpen) return socket.destroy();
      const other = connect(this.target, "127.0.0.1");
      for (const [one, another] of [
        [socket, other],
        [other, socket],
      ] as const) {
        this.#sockets.add(one);
        one.on("error", () => {});
        one.on("close", () => {
          this.#sockets.delete(one);
          another.destroy();
        });
        one.pipe(another);
      }
    });
  }

  async listen(): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.listen(0, "127.0.0.1", resolve);
    await promise;
    return (this.#server.address() as { port: number }).port;
  }

  open(): void {
    this.#isOpen = true;
  }

  /** Closes all connections and refuses new ones. */
  cut(): void {
    this.#isOpen = false;
    for (const socket of this.#sockets) socket.destroy();
  }

  [Symbol.dispose](): void {
    this.cut();
    this.#server.close();
  }
}

/** A hub process, worker processes, and a browser that reaches them by one address. */
export class Site implements AsyncDisposable {
  readonly #place = new Place();
  readonly wire = new Wire();
  readonly programs: Program[] = [];
  hub!: Program;
  url!: string;
  #browser!: Browser;
  #loading: Promise<unknown> | null = null;
  readonly #end = new AbortController();
  /** Every address that a page requested. */
  readonly asked: string[] = [];
  /** Console messages and errors of the pages. */
  readonly complaints: string[] = [];

  static async open(...workers: string[]): Promise<Site> {
    const executablePath = needTool("chromium");
    const site = new Site();
    try {
      site.url = `http://127.0.0.1:${await site.wire.listen()}`;
      await site.startHub();
      await Promise.all(workers.map((name) => site.worker(name)));
      const args = ["--host-resolver-rules=MAP *.example 127.0.0.1"];
      if (process.geteuid?.() === 0) args.push("--no-sandbox");
      site.#browser = await chromium.launch({ executablePath, args });
      return site;
    } catch (error) {
      await site[Symbol.asyncDispose]();
      throw error;
    }
  }

  get directory(): string {
    return this.#place.directory;
  }

  /** An emitter of events for the hub's clients. */
  get emitter(): HubEmitter {
    return new HubEmitter(new HubClient("site", this.#place.directory, true), "check");
  }

  async startHub(): Promise<void> {
    this.hub = this.#start("hub", this.url.replace("127.0.0.1", "pages.example")); // pages of that origin may read
    this.wire.target = Number((await this.hub.expectLine("listens ")).slice(8));
  }

  async killHub(): Promise<void> {
    this.hub.kill("SIGKILL");
    await this.hub.ended();
  }

  /** Starts a worker process that has not connected. */
  async idleWorker(name: string): Promise<Program> {
    const worker = this.#start("worker", name);
    await worker.expectLine("ready");
    return worker;
  }

  async worker(name: string): Promise<Program> {
    const worker = await this.idleWorker(name);
    await worker.tell("go");
    await worker.lineFrom("connected");
    return worker;
  }

  /** Opens a page in a new browser context that sends `password`, if any. */
  async page(address: string, password?: string): Promise<Page> {
    const context = await this.#browser.newContext({
      baseURL: this.url,
      viewport: { width: 1200, height: 900 },
      ...(password === undefined ? {} : { httpCredentials: { username: "", password } }),
    });
    await context.addInitScript({ path: join(here, "probe.js") });
    const page = await context.newPage();
    page.on("request", (request) => this.asked.push(request.url()));
    page.on("websocket", (socket) => this.asked.push(socket.url()));
    page.on("console", (message) => this.complaints.push(message.text()));
    page.on("pageerror", (error) => this.complaints.push(error.message));
    await page.goto(address);
    return page;
  }

  /** Opens the status page and waits for its first picture. */
  async status(): Promise<Page> {
    const page = await this.page("/_slotbus/", TOKEN);
    await eventually(async () => (await text(page, "#state")) === "live", "the page is live");
    return page;
  }

  /** Sends requests to the workers, some slow, some failing, until the site ends. */
  load(workers: string[]): void {
    const { signal } = this.#end;
    const one = async (at: number): Promise<void> => {
      for (let turn = at; !signal.aborted; turn++) {
        const name = workers[turn % workers.length]!;
        const path = turn % 50 === 0 ? "fails" : turn % 5 === 0 ? "work/250" : `work/${turn % 9}`;
        await fetch(`http://127.0.0.1:${this.wire.target}/${name}/${path}`).then((response) => response.bytes());
      }
    };
    this.#loading = Promise.all(Array.from({ length: 12 }, (_, at) => one(at)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await this.#loading;
    await this.#browser?.close();
    this.wire[Symbol.dispose]();
    for (const program of this.programs.reverse()) await program[Symbol.asyncDispose]();
    this.#place[Symbol.dispose]();
  }

  #start(what: string, ...words: string[]): Program {
    const started = new Program([process.execPath, join(here, "site.ts"), what, this.#place.directory, ...words]);
    this.programs.push(started);
    return started;
  }
}

function text(page: Page, selector: string): Promise<string> {
  return page.evaluate(`probe.text(${JSON.stringify(selector)})`);
}

/** Expects enough contrast of every text of the page. */
async function expectContrast(page: Page, when: string): Promise<void> {
  const found: { text: string; ratio: number }[] = await page.evaluate("probe.contrast()");
  expect(found.length > 40, `${when}: only ${found.length} texts were checked`);
  const { text: least, ratio } = found[0]!;
  expect(ratio >= 4.5, `${when}: "${least}" has a contrast of ${ratio.toFixed(2)}`);
}

// ---- the status page ------------------------------------------------------------------------------------------------

async function shows(): Promise<void> {
  await using site = await Site.open("users", "users", "orders");
  const page = await site.status();
  let navigations = 0;
  page.on("framenavigated", () => navigations++);
  const born = await page.evaluate("probe.born");
  site.load(["users", "orders"]);

  const grids = new Set<string>();
  await eventually(async () => {
    grids.add((await page.evaluate<string[]>("probe.cells()")).join());
    return grids.size >= 5 && [...grids].some((grid) => grid.includes("working"));
  }, "the grid of slots changes");
  const cells: string[] = await page.evaluate("probe.cells()");
  expectEqual(cells.length, 3 * 24, "slots of three processes");

  await eventually(async () => Number(await text(page, "#rate")) > 20, "requests per second");
  for (const id of ["p50", "p90", "p99"])
    expect(/^\d+(?:\.\d)? (?:µs|ms)$/.test(await text(page, `#${id}`)), `${id} is ${await text(page, `#${id}`)}`);
  await eventually(async () => Number(await text(page, "#errors.bad")) > 0, "errors are counted");
  for (const line of ["rate", "p50", "p90", "p99"])
    await eventually(async () => (await page.evaluate<number>(`probe.points("${line}")`)) > 3, `${line} is a line`);
  const labels = await page.locator("#latencies svg text").allTextContents();
  expect(labels.includes("now") && labels.includes("−4 min"), `the time axis says ${labels}`);
  expect(labels.filter((label) => /^\d+ (?:µs|ms|s)$/.test(label)).length >= 3, `the axis says ${labels}`);

  const workers = await page.locator("#workers tbody").allTextContents();
  expectEqual(
    workers.map((worker) => worker.match(/^[a-z]+|pid (?=\d)/g)),
    [
      ["orders", "pid "],
      ["users", "pid ", "pid "],
    ],
    "workers",
  );
  expect((await text(page, "#workers .bad")).startsWith("500: "), "the errors of a worker are marked");
  const paths = await page.locator("#routes code").allTextContents();
  expectEqual(paths.length, 14, "routes");
  for (const hostile of ["/users/%3Cimg%20src=x%20onerror=alert(1)%3E", "/users/&lt;img&gt;'onclick='alert(1)"])
    expect(paths.includes(hostile), `${hostile} is shown as it is`);
  expectEqual(await page.locator("main img, main b > *").count(), 0, "elements that came from names");

  const sparks = await page
    .locator("#workers svg.spark path")
    .evaluateAll((all) => all.map((one) => `${one.getAttribute("d")}`));
  expect(
    sparks.length === 2 && sparks.every((path) => path.startsWith("M")),
    `the courses of the workers are ${sparks}`,
  );
  await sorts(page);

  expectEqual([navigations, await page.evaluate("probe.born")], [0, born], "reloads");
  const foreign = site.asked.filter((address) => !address.startsWith(`${site.url}/`) && !address.startsWith("data:"));
  expectEqual(foreign, [], "requests to other origins");
  expectEqual(site.complaints, [], "complaints of the browser");
  expectEqual(await page.evaluate("probe.violations"), [], "violations of the policy");
  await expectPolicy(page, site);
}

/** Sorts the routes by keys. */
async function sorts(page: Page): Promise<void> {
  const head = page.locator("#routes-table th", { hasText: "per s" });
  await head.locator("button").focus();
  for (const [order, at] of [
    ["descending", 0],
    ["ascending", -1],
  ] as const) {
    await page.keyboard.press("Enter");
    expectEqual(await head.getAttribute("aria-sort"), order, "the order of the routes");
    expectEqual(await page.locator("#routes-table [aria-sort]").count(), 1, "columns that are sorted");
    await eventually(async () => {
      const rates = (await page.locator("#routes td:nth-child(4)").allTextContents()).map((rate) =>
        Number(rate.replace(",", "")),
      );
      return rates.at(at)! > 0 && rates.at(at) === Math.max(...rates);
    }, `the busiest route is at ${at}`);
  }
}

/** Expects that the page's content security policy is enforced. */
async function expectPolicy(page: Page, site: Site): Promise<void> {
  const other = `http://127.0.0.1:${site.wire.target}/health`; // another origin, because of its port
  const tried = await page.evaluate<string[]>(`(async () => {
    const fail = (error) => error.constructor.name;
    const outcome = [await fetch(${JSON.stringify(other)}, { mode: "no-cors" }).then(() => "fetched", fail)];
    try { document.body.insertAdjacentHTML("beforeend", "<i>"); outcome.push("inserted"); } catch (error) { outcome.push(fail(error)); }
    const script = document.createElement("script");
    try { script.textContent = "probe.ran = true"; } catch (error) { outcome.push(fail(error)); }
    document.body.append(script);
    return [...outcome, String(probe.ran)];
  })()`);
  expectEqual(tried, ["TypeError", "TypeError", "TypeError", "undefined"], "what a foreign script could do");
}

/** Names cannot contain such characters, but the page does not rely on that. */
async function distrusts(): Promise<void> {
  await using site = await Site.open();
  const page = await site.page("/health", TOKEN);
  const evil = `<img src=x onerror="probe.ran=1"><script>probe.ran=1</script>`;
  const worker = { name: evil, there: false, queued: 1, statuses: { [evil]: 1 }, course: [], processes: [] };
  const picture = {
    hub: evil,
    pid: 1,
    time: 1e12,
    uptime: 1,
    clients: 0,
    statuses: { [evil]: 1 },
    used: {},
    workers: [worker],
  };
  const routes = [{ method: evil, pattern: evil, worker: evil, sse: true, there: false }];
  const body = `event: routes\ndata: ${JSON.stringify(routes)}\n\nevent: picture\ndata: ${JSON.stringify(picture)}\n\n`;
  await page.route("**/stream", (route) => route.fulfill({ contentType: "text/event-stream", body }));
  await page.goto("/_slotbus/");
  await eventually(async () => (await text(page, "#name")) === evil, "the name of the hub is text");
  for (const selector of ["#workers tbody b", "#routes td", "#routes code"])
    expectEqual(await text(page, selector), evil, selector);
  expectEqual(
    await page.evaluate("[probe.ran ?? 0, document.querySelectorAll('img, script').length]"),
    [0, 1],
    "what ran, images and scripts",
  );
}

async function suits(): Promise<void> {
  await using site = await Site.open("users", "a-worker-with-a-name-that-is-rather-long");
  site.load(["users"]);
  const page = await site.status();
  await eventually(async () => (await page.evaluate<number>("probe.points('p99')")) > 2, "a chart");

  const backs = new Set<string>();
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    await expectContrast(page, colorScheme);
    backs.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"));
    for (const width of [320, 360, 800, 1600]) {
      await page.setViewportSize({ width, height: 740 });
      const wide: number = await page.evaluate("document.documentElement.scrollWidth");
      expect(wide <= width, `at a width of ${width} px the page needs ${wide}`);
    }
    await expectKeyboard(page);
  }
  expectEqual(backs.size, 2, "backgrounds of light and dark");

  const duration = () => page.evaluate("getComputedStyle(document.querySelector('.slots i')).transitionDuration");
  await page.emulateMedia({ reducedMotion: "reduce" });
  expectEqual(await duration(), "0s", "motion although reduced motion is wanted");
  await page.emulateMedia({ reducedMotion: "no-preference" });
  expect((await duration()) !== "0s", "there is no motion to reduce, so the check proves nothing");

  const tree = await page.locator("body").ariaSnapshot();
  const wanted = [
    'heading "slotbus hub site" [level=1]',
    "status: live",
    'navigation "Data"',
    'region "Now"',
    'region "Requests per second"',
    'region "Latency"',
    'region "Workers"',
    'table "Workers"',
    'columnheader "in flight"',
    'columnheader "per s"',
    /img "requests per second of the last minute: at most \d+"/,
    'rowheader "users ',
    /img "\d+ of 24 slots in use"/,
    /region "Routes \(\d+\)"/,
    /table "Routes \(\d+\)"/,
    'searchbox "filter"',
  ];
  for (const one of wanted)
    expect(typeof one === "string" ? tree.includes(one) : one.test(tree), `${one} is not in\n${tree}`);
}

/** Expects that Tab reaches every control in order with a visible focus, and that the controls work. */
async function expectKeyboard(page: Page): Promise<void> {
  await page.locator("thead button").last().focus(); // Tab goes to the page after it
  await page.evaluate("document.activeElement.blur()");
  const names: string[] = [];
  for (let steps = 0; steps < 30; steps++) {
    await page.keyboard.press("Tab");
    const focus: { name: string; ring: number; contrast: number } | null = await page.evaluate("probe.focus()");
    if (focus === null && names.length === 0) continue; // the page itself
    if (focus === null || focus.name === names[0]) break;
    expect(focus.ring >= 2 && focus.contrast >= 3, `the focus on ${focus.name}: ${Bun.inspect(focus)}`);
    names.push(focus.name);
  }
  const charts = ["Requests per second, by time", "Latency, by time"];
  const columns = ["method", "path", "worker", "per s", "mean", "5xx"];
  expectEqual(names, ["metrics", "routes", "health", "snapshot", ...charts, "filter", ...columns], "what Tab reaches");

  const slider = page.getByRole("slider", { name: "Latency, by time" });
  await slider.focus();
  const before = await slider.getAttribute("aria-valuetext");
  await page.keyboard.press("ArrowLeft");
  await eventually(async () => Number(await slider.getAttribute("aria-valuenow")) < 0, "an arrow goes back in time");
  const now = await slider.getAttribute("aria-valuetext");
  expect(now !== before && /^\d\d:\d\d:\d\d: p50 .*, p90 .*, p99 /.test(now!), `the slider says ${now}`);
  expect((await text(page, "#latencies-legend")).startsWith(now!.slice(0, 8)), "the legend shows that time");
  await page.keyboard.press("Escape");
  await eventually(async () => !(await text(page, "#latencies-legend")).includes(":"), "Escape goes back to now");

  const filter = page.getByRole("searchbox");
  const all = await page.locator("#routes tr").count();
  await filter.focus();
  await page.keyboard.type("users/feed");
  await eventually(async () => (await page.locator("#routes tr").count()) === 1, "the filter leaves one route");
  await filter.fill("");
  await eventually(async () => (await page.locator("#routes tr").count()) === all, "all routes");
}

async function notices(): Promise<void> {
  await using site = await Site.open("users");
  const page = await site.status();
  const born = await page.evaluate("probe.born");
  const isLive = async () => (await text(page, "#state")) === "live" && !(await page.locator("#notice").isVisible());
  const isGone = async () => (await text(page, "#state")) === "not connected" && page.locator("#notice").isVisible();
  const pid = await text(page, "#about");

  await site.killHub();
  await eventually(isGone, "the page says that the hub is gone");
  expect((await text(page, "#notice")).startsWith("The hub does not respond; this is its state at "), "the notice");
  expect((await page.title()).startsWith("✕ "), `the title is ${await page.title()}`);
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    await expectContrast(page, `gone, ${colorScheme}`);
  }
  await site.startHub();
  await eventually(isLive, "the page is live again");
  await eventually(async () => (await page.locator("#workers tr.process").count()) === 1, "the worker is back");
  expect((await text(page, "#about")) !== pid, "the page still shows the old hub");

  site.hub.kill("SIGSTOP"); // the hub hangs: no connection ends, no byte comes
  await eventually(isGone, "the page says that the hub hangs");
  site.hub.kill("SIGCONT");
  await eventually(isLive, "the page is live after the hang");
  expectEqual(await page.evaluate("probe.born"), born, "a reload");
}

/** A request under a foreign host name comes from another site's page after DNS rebinding, or from a person with the token. */
async function admits(): Promise<void> {
  await using site = await Site.open("users");
  const elsewhere = site.url.replace("127.0.0.1", "hub.example");
  const outcome = (address: string) =>
    `fetch(${JSON.stringify(address)}, { mode: "no-cors", credentials: "omit" }).then(({ type, status }) => type + status, String)`;
  const rebound = await site.page(`${elsewhere}/users/page`); // a page whose host name resolves here later
  for (const path of ["", "snapshot", "metrics", "routes", "health", "stream"])
    expectEqual(await rebound.evaluate(outcome(`/_slotbus/${path}`)), "basic401", `${path} by another name`);

  const answers: string[] = [];
  const other = await site.page("/users/page");
  other.on("response", (response) => answers.push(`${response.status()} ${new URL(response.url()).pathname}`));
  const hub = `http://localhost:${site.wire.target}/_slotbus/`;
  for (const path of ["snapshot", "metrics"])
    expectEqual(await other.evaluate(outcome(hub + path)), "opaque0", `${path} from another origin`);
  expectEqual(answers, ["401 /_slotbus/snapshot", "401 /_slotbus/metrics"], "answers to another origin");
  await other.evaluate(`probe.listen(${JSON.stringify(`${hub}stream`)}, ["picture"])`);
  const closed = `Object.values(probe.streams)[0].source.readyState === EventSource.CLOSED`;
  await eventually(() => other.evaluate(closed), "the stream is refused to another origin");

  const wrong = await site.page(`${elsewhere}/_slotbus/`, "wrong");
  expect((await wrong.content()).includes("UNAUTHORIZED"), "a wrong token is refused");
  const right = await site.page(`${elsewhere}/_slotbus/`, TOKEN);
  await eventually(async () => (await text(right, "#state")) === "live", "the page is live with the right token");
}

// ---- EventSource ------------------------------------------------------------------------------------------------------

interface Heard {
  type: string;
  data: string;
  id: string;
}

/** A page that listens to all events and to one room. */
class Audience {
  static readonly all = "/events";
  static readonly room = "/users/feed/7";
  readonly page: Page;
  readonly #emitter: HubEmitter;
  #number = 0;

  static async open(site: Site): Promise<Audience> {
    const audience = new Audience(await site.page("/users/page"), site.emitter);
    await audience.page.evaluate(`for (const path of ["/events", "/users/feed/7"]) probe.listen(path, ["news"])`);
    await audience.opened(1);
    return audience;
  }

  private constructor(page: Page, emitter: HubEmitter) {
    this.page = page;
    this.#emitter = emitter;
  }

  /** Sends `count` events to both streams, numbered from 1. */
  async tell(count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      const data = String(++this.#number);
      await this.#emitter.emit("news", data);
      await this.#emitter.ssePush(Audience.room, "news", data);
    }
  }

  /** Resolves when both streams have opened `times` times. */
  async opened(times: number): Promise<void> {
    for (const path of [Audience.all, Audience.room])
      await eventually(() => this.is(path, `opened >= ${times}`), `${path} has opened ${times} times`);
  }

  is(path: string, what: string): Promise<boolean> {
    return this.page.evaluate(`probe.streams[${JSON.stringify(path)}].${what}`);
  }

  heard(path: string): Promise<Heard[]> {
    return this.page.evaluate(`probe.streams[${JSON.stringify(path)}].events`);
  }

  /** Expects that both streams received exactly these events in this order; `lost` is a notice of loss. */
  async expectHeard(wanted: (number | "lost")[]): Promise<void> {
    for (const path of [Audience.all, Audience.room]) {
      const end = String(wanted.at(-1));
      const plain = ({ type, data }: Heard): number | string =>
        type === "slotbus-lost" ? "lost" : Number(path === Audience.all ? JSON.parse(data).data : data);
      await eventually(
        async () => String((await this.heard(path)).map(plain).at(-1)) === end,
        `${path} receives ${end}`,
        60_000, // beside other checks the browser may take a long time to connect again
      ).catch(async ({ message }: Error) => {
        const state = await this.page.evaluate(`probe.streams[${JSON.stringify(path)}].source.readyState`);
        throw new Error(`${message}; in state ${state} it has ${(await this.heard(path)).map(plain).join()}`);
      });
      expectEqual((await this.heard(path)).map(plain), wanted, `events of ${path}`);
      const ids = (await this.heard(path)).filter(({ type }) => type === "news").map(({ id }) => id);
      expectEqual(new Set(ids).size, ids.length, "ids");
    }
  }
}

const numbers = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, at) => from + at);

async function resumes(): Promise<void> {
  await using site = await Site.open();
  const worker = await site.worker("users");
  const next = await site.idleWorker("users");
  const audience = await Audience.open(site);
  await audience.tell(3);
  await audience.expectHeard(numbers(1, 3));

  site.wire.cut(); // the browser reconnects after some seconds
  for (const path of [Audience.all, Audience.room])
    await eventually(() => audience.is(path, "source.readyState === EventSource.CONNECTING"), "the loss is noticed");
  await audience.tell(4);
  site.wire.open();
  await audience.opened(2);
  await audience.tell(2);
  await audience.expectHeard(numbers(1, 9));

  worker.kill("SIGKILL"); // the hub ends the streams of a route without workers
  await eventually(() => audience.is(Audience.room, "source.readyState === EventSource.CONNECTING"), "the stream ends");
  await next.tell("go");
  await next.lineFrom("connected");
  await audience.tell(4);
  await eventually(() => audience.is(Audience.room, "opened >= 3"), "the room opens again");
  await audience.tell(1);
  await audience.expectHeard(numbers(1, 14));
}

async function survives(): Promise<void> {
  await using site = await Site.open();
  const worker = await site.worker("users");
  const audience = await Audience.open(site);
  await audience.tell(3);
  await audience.expectHeard(numbers(1, 3));
  const [before] = await audience.heard(Audience.all);

  await site.killHub();
  site.wire.cut(); // until hub and worker are back
  await site.startHub();
  await worker.lineFrom("connected");
  await audience.tell(4); // no client is connected
  site.wire.open();
  await audience.opened(2);
  await audience.tell(2);
  await audience.expectHeard([...numbers(1, 3), "lost", ...numbers(4, 9)]);
  const heard = await audience.heard(Audience.all);
  expectEqual(JSON.parse(heard[3]!.data), { lost: null }, "the notice of loss of the previous hub");
  const epochs = [before!, heard.at(-1)!].map(({ id }) => id.replace(/-\d+$/, ""));
  expect(epochs[0] !== epochs[1] && epochs.every((epoch) => epoch !== ""), `the epochs are ${epochs}`);

  site.wire.cut(); // streams resume by ids of the new hub, too
  await eventually(
    () => audience.is(Audience.room, "source.readyState === EventSource.CONNECTING"),
    "the loss is noticed",
  );
  await audience.tell(3);
  site.wire.open();
  await audience.expectHeard([...numbers(1, 3), "lost", ...numbers(4, 12)]);

  await site.killHub(); // the browser reconnects before the worker does
  await site.startHub();
  await worker.lineFrom("connected");
  await audience.tell(2);
  await audience.expectHeard([...numbers(1, 3), "lost", ...numbers(4, 12), "lost", ...numbers(13, 14)]);
}

/** A page of an origin that the hub allows reads streams and their errors; a page of another origin reads nothing. */
async function crosses(): Promise<void> {
  await using site = await Site.open("users");
  const outcome = (path: string, init = "{}") =>
    `fetch("http://127.0.0.1:${site.wire.target}${path}", ${init}).then(({ status, body }) => (body?.cancel(), status), String)`;
  const asked = [outcome("/events"), outcome("/users/feed/1", '{ headers: { authorization: "x" } }'), outcome("/none")];
  for (const [host, wanted] of [
    ["pages.example", [200, 200, 404]],
    ["others.example", Array.from({ length: 3 }, () => "TypeError: Failed to fetch")],
  ] as const) {
    const page = await site.page(`${site.url.replace("127.0.0.1", host)}/users/page`);
    expectEqual(await page.evaluate(`Promise.all([${asked.join()}])`), wanted, `what a page of ${host} reads`);
    await page.evaluate(`probe.listen("http://127.0.0.1:${site.wire.target}/users/feed/1", ["t"])`);
    const state = `Object.values(probe.streams)[0].source.readyState`;
    const end = host === "pages.example" ? 1 : 2; // open, closed
    await eventually(async () => (await page.evaluate(state)) === end, `an EventSource of ${host} is ${end}`);
  }
}

export const checks: Checks = {
  "in Chromium only a page of an origin that the hub allows can read its streams and their errors": crosses,
  "Chromium shows a busy hub's workers, slots, rates, latencies and errors, without a reload or a request elsewhere":
    shows,
  "Chromium shows names as text on the status page, even names that no hub accepts": distrusts,
  "Chromium opens the status page for a person with the token, and for no page of another site": admits,
  "Chromium's status page works in light and dark, narrow and wide, by keyboard alone and without motion": suits,
  "Chromium's status page says that its hub is gone or hangs, and is live again when the hub is back": notices,
  "Chromium's EventSource gets every event once and in order when its connection breaks or the hub ends the stream":
    resumes,
  "Chromium's EventSource gets a notice of loss when the hub is killed, and every event of the next hub": survives,
};
