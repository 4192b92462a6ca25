/**
 * Measures slotbus beside rivals outside of the package: iceoryx2 and another slotbus in Rust, gRPC, Redis and NATS.
 *
 *     npm run rivals -- [--quick | --short] [--json] [--payload 64,64k] [--in-flight 1,32]
 *
 * cargo builds the programs in Rust. Without cargo they are skipped with a note, like servers that are not installed. zeromq (npm)
 * is not measured: Bun 1.4.5 ends when it loads the module, because its native part calls `uv_poll_init_socket`.
 */

import { Command } from "commander";
import { installPackages } from "../../docs/reference/generate.ts";
import { measure, presentation, PRESETS } from "../bus.ts";
import { describeMachine } from "../report.ts";
import { missing } from "../servers.ts";
import { type CommonFlags, inWorkspace, modeOf, present, verifyAnswerer } from "../suite.ts";
import { type Contestant, start, startSlotbus, type Workspace } from "../systems.ts";
import { startGrpc } from "./grpc.ts";
import { startThrough } from "./servers.ts";
import { buildRust, startRust } from "./rust.ts";

const IN_RUST = ["iceoryx2-polling", "iceoryx2-events", "slotbus-rust"] as const;
/** Contestants of the suite `bus` that take part, for the comparison with its results. */
const KNOWN = ["unix-socket", "fetch-unix"] as const;

interface Flags extends CommonFlags {
  payload?: string;
  inFlight?: string;
}

function sizes(text: string): number[] {
  return text.split(",").map((size) => {
    const [, digits = "", unit = ""] = /^(\d+)([km]?)$/.exec(size) ?? [];
    return Number(digits) * { "": 1, k: 1024, m: 1024 ** 2 }[unit]!;
  });
}

async function run(flags: Flags): Promise<void> {
  const mode = modeOf(flags);
  const preset = PRESETS[mode];
  const payloads = sizes(flags.payload ?? preset.payloads);
  const inFlight = (flags.inFlight ?? preset.inFlight).split(",").map(Number);
  const plan = { ...preset, mode, payloads, inFlight };
  const rust = buildRust();
  if ("missing" in rust) console.error(`${IN_RUST.join(", ")}: skipped, because ${rust.missing}.`);
  const servers = (["redis", "nats"] as const).filter((name) => {
    const why = missing(name);
    if (why !== null) console.error(why);
    return why === null;
  });
  const all = (workspace: Workspace): (() => Promise<Contestant>)[] => [
    () => startSlotbus(workspace),
    ...KNOWN.map((name) => () => start(name, workspace)),
    () => startGrpc(workspace),
    ...servers.map((name) => () => startThrough(name, workspace)),
    ...("missing" in rust ? [] : IN_RUST.map((name) => () => startRust(rust.program, name, workspace))),
  ];
  await present(
    flags,
    (say) =>
      inWorkspace(async (workspace, started) => {
        const contestants: Contestant[] = [];
        for (const one of all(workspace)) {
          const contestant = await one();
          contestants.push(contestant);
          started.push(contestant);
          verifyAnswerer(contestant.name, contestant.answerer, false);
        }
        const rows = await measure(contestants, plan, workspace, say);
        return { machine: describeMachine(plan), rows, idle: null, checks: null };
      }),
    presentation,
  );
}

if (installPackages(import.meta.dir)) {
  // Bun does not look again for a module that it has not found.
  const again = Bun.spawnSync([process.execPath, ...process.argv.slice(1)], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  process.exit(again.exitCode);
}
await new Command("rivals")
  .option("--quick", "short rounds")
  .option("--short", "64 B only")
  .option("--json", "print JSON")
  .option("--svg <file>", "write a chart")
  .option("--payload <list>", "sizes of bodies; k and m mean KiB and MiB")
  .option("--in-flight <list>", "requests in flight, at most 32")
  .action(run)
  .parseAsync();
