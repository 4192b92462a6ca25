// One HTTP server, two workers in two processes; one of them is a Hono app. `bun examples/http-hub.ts`
import { Hub } from "slotbus/hub";

await using hub = await Hub.start({ name: "site", port: 0 });
let missing = 2;
const joined = new Promise<void>((resolve) => hub.on("joined", () => --missing === 0 && resolve()));
const workers = ["users", "pages"].map((name) =>
  Bun.spawn([process.execPath, `${import.meta.dir}/http-${name}.ts`], { stdio: ["ignore", "inherit", "inherit"] }),
);
await joined;
for (const path of ["/users/7", "/pages/hello"]) {
  const response = await fetch(new URL(path, hub.url!));
  console.log(`${path}: ${response.status} ${await response.text()}`);
}
for (const worker of workers) {
  worker.kill("SIGTERM");
  await worker.exited;
}
