// One HTTP server, two workers in two processes; one of them is a Hono app. `bun examples/http-hub.ts`
import { createHub } from "slotbus/hub";

await using hub = await createHub({ name: "site", port: 0 });
const workers = ["users", "pages"].map((name) =>
  Bun.spawn([process.execPath, `${import.meta.dir}/http-${name}.ts`], { stdio: ["ignore", "inherit", "inherit"] }),
);
for (const path of ["/users/7", "/pages/hello"]) {
  let response = await fetch(new URL(path, hub.url!));
  while (!response.ok) {
    await Bun.sleep(10); // its worker has not come yet
    response = await fetch(new URL(path, hub.url!));
  }
  console.log(`${path}: ${response.status} ${await response.text()}`);
}
for (const worker of workers) {
  worker.kill("SIGTERM");
  await worker.exited;
}
