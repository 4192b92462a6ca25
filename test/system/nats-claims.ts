/** Claims over a real NATS server: tokens, deadlines, faults of the server and of the network, and stopped processes. */

import { connect, type NatsConnection } from "@nats-io/transport-node";
import { Kvm } from "@nats-io/kv";
import { Contest, Fence, Fleet, type PortableContest } from "../../src/contest/index.ts";
import { nats } from "../../src/nats/index.ts";
import { findNatsServer, NatsServer, type NatsServerOptions } from "../nats-server.ts";
import { rejection } from "../wait.ts";
import { Proxy } from "./nats-proxy.ts";
import { contender, read, Tenures } from "./nats-tenures.ts";
import { type Checks, expect, Lacking, note, root, until } from "./checks.ts";

const subject = { kind: "leader", label: "mailer" };
let count = 0;

async function start(options: NatsServerOptions = { jetstream: true }): Promise<NatsServer> {
  if (!findNatsServer()) throw new Lacking("nats-server is not installed");
  return NatsServer.start(options);
}

/** A contest on a fleet of its own connection. */
async function enter(url: string, fleetName: string, owner = `owner ${count++}`): Promise<Entered> {
  const fleet = await Fleet.join({ name: fleetName, via: nats({ servers: url }) });
  try {
    const contest = await Contest.open({ fleet, owner });
    return { contest, close: () => fleet.close(), [Symbol.asyncDispose]: () => fleet.close() };
  } catch (error) {
    await fleet.close();
    throw error;
  }
}

interface Entered extends AsyncDisposable {
  readonly contest: PortableContest;
  close(): Promise<void>;
}

const api = async (connection: NatsConnection, name: string): Promise<unknown> =>
  (await connection.request(`$JS.API.${name}`)).json();

export const checks: Checks = {
  "over NATS, one of two claims a lease, and the other gets it after its release, its ttl, or by force": async () => {
    await using server = await start();
    await using a = await enter(server.url, "shop", "a");
    await using b = await enter(server.url, "shop", "b");
    const first = await a.contest.tryClaim(subject, { ttl: 30_000 });
    expect(first.claimed, "a has it");
    const second = await b.contest.tryClaim(subject, { ttl: 30_000 });
    expect(!second.claimed && second.holder.owner === "a" && second.holder.pid === process.pid, "b sees a");
    if (!first.claimed) return;
    const changes: string[] = [];
    const watch = await b.contest.watch(subject);
    const watching = (async () => {
      for await (const { type, holder } of watch) changes.push(`${type} ${holder.owner}`);
    })();
    const waiting = b.contest.claim(subject, { ttl: 1_000 });
    await until(() => changes.includes("claimed a"), "the watch begins with the holder");
    const released = performance.now();
    expect((await first.guard.release()) === true, "a releases it");
    const next = await waiting;
    note(`released to owned: ${(performance.now() - released).toFixed(1)} ms`);
    expect(next.token > first.guard.token, "its token is higher");
    expect((await first.guard.release()) === false && (await first.guard.renew()) === false, "a has it no longer");
    const began = performance.now();
    const third = await a.contest.claim(subject, { ttl: 30_000, renew: true });
    const took = performance.now() - began;
    note(`expired to owned: ${Math.round(took)} ms of a ttl of 1000 ms`);
    expect(took > 500 && took < 4_000, `the ttl of 1 s is over after ${took} ms`);
    expect((await next.renew()) === false && next.signal.aborted, "b has lost it");
    const { signal } = third;
    expect((await b.contest.release(third.holder, { force: true })) === true, "b releases it by force");
    await until(() => signal.aborted, "a notices it");
    expect((await b.contest.release(third.holder)) === false, "it has ended");
    expect((await b.contest.holder(subject)) === null && (await b.contest.list()).length === 0, "nobody has it");
    await until(() => changes.length >= 6, `six changes: ${changes}`);
    await watch.close();
    await watching;
    const wanted = "claimed a,released a,claimed b,expired b,claimed a,released a";
    expect(changes.filter((one) => !one.startsWith("renewed")).join() === wanted, `changes: ${changes}`);
  },

  "over NATS, a lease that is renewed is held beyond its ttl, and another contest can adopt and release it":
    async () => {
      await using server = await start();
      await using a = await enter(server.url, "shop", "a");
      await using b = await enter(server.url, "shop", "b");
      const guard = await a.contest.claim(subject, { ttl: 1_000, renew: true });
      const before = guard.expiresAt;
      const over = performance.now() + 2_500;
      while (performance.now() < over) {
        const attempt = await b.contest.tryClaim(subject, { ttl: 1_000 });
        expect(!attempt.claimed && attempt.holder.token === guard.token, "a holds it all the time");
        await Bun.sleep(20);
      }
      expect(guard.expiresAt > before + 1_000 && !guard.signal.aborted, "its deadline moves");
      const [holder] = await b.contest.list();
      const wrong = await rejection(Promise.resolve(b.contest.adopt(holder!)));
      expect((wrong as { code?: string }).code === "LEASE_OWNER", `another owner cannot adopt: ${wrong.message}`);
      const adopted = (await b.contest.adopt(holder!, { owner: "a" }))!;
      expect(adopted.token === guard.token, "the adopted guard has the same token");
      expect((await guard.renew()) && (await adopted.renew()) && (await guard.renew()), "both guards can renew");
      expect((await adopted.release()) === true, "the adopted guard releases it");
      await until(() => guard.signal.aborted, "the first guard has lost it");
      expect((await b.contest.adopt(holder!, { owner: "a" })) === null, "an ended tenure cannot be adopted");
    },

  "over NATS, tokens rise over a purged stream and over a new stream, and no guard of an old stream is renewed":
    async () => {
      await using server = await start();
      await using a = await enter(server.url, "shop.eu");
      await using b = await enter(server.url, "shop.eu");
      const admin = await connect({ servers: server.url });
      const stream = "KV_slotbus-shop_2Eeu";
      try {
        const one = await a.contest.claim(subject, { ttl: 30_000 });
        await api(admin, `STREAM.PURGE.${stream}`);
        const two = await b.contest.claim(subject, { ttl: 30_000, timeout: 6_000 });
        expect(two.token > one.token, `${two.token} after a purge is above ${one.token}`);
        expect((await one.renew()) === false && (await two.renew()) === true, "only the later guard is renewed");
        const deleted = (await api(admin, `STREAM.DELETE.${stream}`)) as { success?: boolean };
        expect(deleted.success === true, "the stream is deleted");
        const three = await a.contest.claim(subject, { ttl: 30_000 });
        expect(three.token > two.token, `${three.token} of a new stream is above ${two.token}`);
        expect(
          (await two.renew()) === false && (await three.renew()) === true,
          "only the guard of the new stream is renewed",
        );
      } finally {
        await admin.close();
      }
    },

  "over NATS, a claim, a renewal and a release whose answer is lost are found out, and happen once": async () => {
    await using server = await start();
    await using proxy = await Proxy.start(server.port);
    await using a = await enter(proxy.url, "shop", "a");
    await using b = await enter(server.url, "shop", "b");
    const watch = await b.contest.watchAll();
    const changes: string[] = [];
    const watching = (async () => {
      for await (const { type, holder } of watch) changes.push(`${type} ${holder.owner} ${holder.token}`);
    })();
    const tokens: string[] = [];
    for (let n = 0; n < 5; n++) {
      proxy.deafen();
      const attempt = await a.contest.tryClaim(subject, { ttl: 10_000 });
      if (!attempt.claimed) throw new Error(`the lost claim counts as one of ${attempt.holder.owner}`);
      const { guard } = attempt;
      proxy.deafen();
      const lost = await Promise.resolve(guard.renew()).then(String, (error: { code?: string }) => error.code);
      expect(lost === "CLAIM_UNCONFIRMED", `the renewal without an answer: ${lost}`);
      expect(!guard.signal.aborted, "it is held until its own deadline");
      await until(() => proxy.lost === 3 * n + 2, "the connection was cut");
      let isRenewed = false;
      for (const over = performance.now() + 5_000; !isRenewed && performance.now() < over; await Bun.sleep(10))
        isRenewed = await Promise.resolve(guard.renew()).catch(() => false);
      expect(isRenewed, "the next renewal succeeds");
      proxy.deafen();
      const how = await Promise.resolve(guard.release()).then(String, (error: { code?: string }) => error.code);
      expect(how === "true" || how === "DISCONNECTED", `the release without an answer: ${how}`);
      for (const over = performance.now() + 5_000; performance.now() < over; await Bun.sleep(10))
        if ((await Promise.resolve(guard.release()).then(String, () => "again")) !== "again") break;
      tokens.push(`claimed a ${guard.token}`, `released a ${guard.token}`);
    }
    await until(() => changes.length > 0 && changes.at(-1) === tokens.at(-1), `the watch has all: ${changes}`);
    await watch.close();
    await watching;
    const seen = changes.filter((one) => !one.startsWith("renewed"));
    expect(seen.join() === tokens.join(), `each claim and each release happened once: ${seen}; ${tokens}`);
    note(`${proxy.lost} answers lost`);
  },

  "over NATS, a claim without a server is refused at once, a waiting one goes on, and a guard ends by its own clock":
    async () => {
      await using server = await start();
      await using a = await enter(server.url, "shop", "a");
      const guard = await a.contest.claim(subject, { ttl: 1_000, renew: true });
      const kept = await a.contest.claim({ ...subject, label: "kept" }, { ttl: 20_000, renew: true });
      const { signal } = guard;
      await server.kill();
      const killed = performance.now();
      await until(() => signal.aborted, "the guard ends");
      const took = performance.now() - killed;
      note(`the guard of 1000 ms ended ${Math.round(took)} ms after the server`);
      expect(took < 1_200, `the guard ended after ${took} ms, with a ttl of 1000 ms`);
      const refused = await rejection<Error & { code?: string; mayHaveExecuted?: boolean }>(
        Promise.resolve(a.contest.tryClaim(subject, { ttl: 1_000 })),
      );
      expect(refused.code === "DISCONNECTED" && refused.mayHaveExecuted === false, `refused: ${refused.message}`);
      const impatient = await rejection<Error & { code?: string }>(
        a.contest.claim(subject, { ttl: 1_000, timeout: 200 }),
      );
      expect(impatient.code === "DISCONNECTED", `the reason of the timeout: ${impatient.message}`);
      const waiting = a.contest.claim(subject, { ttl: 1_000, timeout: 20_000 });
      await server.startAgain();
      const again = await waiting;
      expect(again.token > guard.token, "the waiting claim has a higher token");
      expect((await kept.renew()) === true && !kept.signal.aborted, "a lease with time left survives the server");
    },

  "over NATS, the lease of a process that is stopped beyond its ttl goes to another, and a fence admits no stale token":
    async () => {
      await using server = await start();
      await using b = await enter(server.url, "shop", "b");
      const child = contender(server.url, "shop", "stale", "job");
      const fence = new Fence();
      let [isClaimed, isLost, stale, refused] = [false, false, 0, 0];
      let successor = Infinity;
      const reading = read(child, ([what, token = ""]) => {
        if (what === "claimed") isClaimed = true;
        if (what === "lost") isLost = true;
        if (what !== "write") return;
        const isAdmitted = fence.admit(Number(token));
        if (Number(token) >= successor || successor === Infinity) return;
        stale++;
        if (!isAdmitted) refused++;
      });
      try {
        await until(() => isClaimed, "the process holds the lease");
        await Bun.sleep(1_500); // it renews
        expect(
          (await b.contest.tryClaim({ kind: "system", label: "job" }, { ttl: 30_000 })).claimed === false,
          "it is held",
        );
        child.kill("SIGSTOP");
        const guard = await b.contest.claim({ kind: "system", label: "job" }, { ttl: 30_000, timeout: 10_000 });
        await Bun.sleep(50); // what it had written before is read
        successor = guard.token;
        expect(fence.admit(guard.token), "the token of the successor is higher");
        child.kill("SIGCONT");
        await until(() => isLost, "the process notices that it has lost the lease");
        await child.exited;
        await reading;
        expect(stale > 0, "it wrote with its old token after it continued");
        expect(refused === stale, `${stale - refused} of ${stale} stale writes were admitted`);
        expect((await guard.renew()) === true, "the successor holds it");
        note(`${stale} stale writes refused`);
      } finally {
        child.kill("SIGKILL");
        await child.exited;
      }
    },

  "over NATS, never two hold one lease, while the server is killed and stopped and processes are stopped": async () => {
    await using server = await start();
    await using tenures = new Tenures(server.url, "crew", ["one", "two", "three"], 4);
    let faults = 0;
    await tenures.more(20, "they hold leases", 20_000);
    for (let round = 0; round < 4; round++) {
      const victim = tenures.processes[round % tenures.processes.length]!;
      victim.kill("SIGSTOP");
      await Bun.sleep(1_700);
      victim.kill("SIGCONT");
      server.signal("SIGSTOP");
      await Bun.sleep(round % 2 === 0 ? 300 : 1_800);
      server.signal("SIGCONT");
      await tenures.more(5, "they hold leases again");
      await server.kill();
      await Bun.sleep(round % 2 === 0 ? 50 : 1_300);
      await server.startAgain();
      faults += 3;
      await tenures.more(5, "they hold leases after the server is back");
    }
    await tenures.end();
    tenures.audit(7);
    note(`${tenures.held.length} tenures, ${faults} faults`);
  },

  "over NATS, `slotbus claims` lists, follows and releases leases": async () => {
    await using server = await start();
    await using a = await enter(server.url, "crew", "boss");
    const cli = async (...args: string[]): Promise<{ out: string; code: number }> => {
      const child = Bun.spawn(["bun", "src/cli/slotbus.ts", "claims", ...args, "--nats", server.url], {
        cwd: root,
        stdio: ["ignore", "pipe", "pipe"],
      });
      const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
      return { out: out + err, code };
    };
    expect((await cli("ls", "crew")).out.startsWith("Nobody holds a lease of fleet crew."), "an empty list");
    const guard = await a.contest.claim(subject, { ttl: 30_000 });
    const listed = await cli("ls", "crew", "--json");
    const { leases } = JSON.parse(listed.out) as { leases: Record<string, unknown>[] };
    const [lease] = leases;
    const isRight =
      lease!["owner"] === "boss" && lease!["token"] === guard.token && (lease!["left_ms"] as number) > 20_000;
    expect(leases.length === 1 && isRight, listed.out);
    const follower = Bun.spawn(
      ["bun", "src/cli/slotbus.ts", "claims", "ls", "crew", "--follow", "--json", "--nats", server.url],
      {
        cwd: root,
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    const types: string[] = [];
    const reading = read(follower, ([line]) => void types.push((JSON.parse(line!) as { type: string }).type));
    await until(() => types.join() === "claimed", "it follows");
    expect((await cli("release", "leader", "mailer", "--fleet", "crew")).code === 2, "a release needs --force");
    const released = await cli("release", "leader", "mailer", "--fleet", "crew", "--force");
    expect(released.code === 0 && released.out.includes("Released; boss"), released.out);
    await until(() => types.join() === "claimed,released", "it follows the release");
    follower.kill("SIGINT");
    expect((await follower.exited) === 0, "it ends");
    await reading;
    expect((await guard.renew()) === false, "the lease is released");
    expect(
      (await cli("ls")).code === 2 && (await cli("release", "a", "b", "--fleet", "crew")).code === 3,
      "exit codes",
    );
    await server.kill();
    expect((await cli("ls", "crew")).code === 4, "no answer");
  },

  "over NATS, a server without JetStream and a bucket with other settings are one clear error each": async () => {
    {
      await using plain = await start({});
      const error = await rejection<Error & { code?: string }>(enter(plain.url, "shop"));
      expect(error.code === "UNSUPPORTED" && error.message.includes("JetStream"), error.message);
    }
    await using server = await start();
    const admin = await connect({ servers: server.url });
    try {
      await new Kvm(admin).create("slotbus-shop", { history: 5 });
      const error = await rejection<Error & { code?: string }>(enter(server.url, "shop"));
      expect(error.code === "CLAIM_BUCKET", error.message);
      for (const part of ["KV_slotbus-shop", "max_msgs_per_subject is 5", "allow_msg_ttl"])
        expect(error.message.includes(part), `${error.message} names ${part}`);
      await using a = await enter(server.url, "else");
      admin.publish("$KV.slotbus-else.leader.mailer", "not a lease");
      await admin.flush();
      const foreign = await rejection<Error & { code?: string }>(
        Promise.resolve(a.contest.tryClaim(subject, { ttl: 1_000 })),
      );
      expect(foreign.code === "CLAIM_BUCKET" && foreign.message.includes("leader.mailer"), foreign.message);
      expect(
        (await a.contest.list()).length === 0 && (await a.contest.holder(subject)) === null,
        "it is not in the list",
      );
    } finally {
      await admin.close();
    }
  },
};
