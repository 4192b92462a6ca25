/** NATS servers with TLS, and with each kind of credentials that the client library has. */

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { credsAuthenticator, nkeyAuthenticator, nkeys } from "@nats-io/transport-node";
import { Contest, type PortableContest } from "../../src/contest/index.ts";
import { EventBus, Fleet, type PortableEventBus, type PortableFleet, topic } from "../../src/events/index.ts";
import { SlotBus, type SlotbusError, SlotWorker } from "../../src/index.ts";
import { nats, type NatsOptions } from "../../src/nats/index.ts";
import { cert, key } from "../fixtures/certificate.ts";
import { findNatsServer, NatsServer } from "../nats-server.ts";
import { rejection } from "../wait.ts";
import { expect, Lacking, Place, root, until } from "./checks.ts";
import { hear } from "./nats-heard.ts";
import { Proxy } from "./nats-proxy.ts";

async function start(config: string, jetstream = false): Promise<NatsServer> {
  if (!findNatsServer()) throw new Lacking("nats-server is not installed");
  return NatsServer.start({ config, jetstream });
}

/** A body goes from a client to a worker and back. */
async function roundTrip(options: NatsOptions): Promise<void> {
  const via = nats(options);
  await using bus = await SlotBus.connect({ name: "shop", via });
  await using worker = await SlotWorker.open({ name: "shop", via });
  worker.serve((request) => request.body);
  const body = crypto.getRandomValues(new Uint8Array(65_536));
  const back = (await bus.request({ path: "/", body })).bytes();
  expect(Buffer.compare(back, body) === 0, "the body came back changed");
}

/** Expects that the server refuses a client, with one error that says what to do. */
async function refused(who: string, options: NatsOptions, code: string, message: RegExp, hint: RegExp): Promise<void> {
  const error = await rejection<SlotbusError>(SlotBus.connect({ name: "shop", via: nats(options) }));
  const isRight = error.code === code && message.test(error.message) && hint.test(error.hint ?? "");
  expect(isRight, `${who} gets ${error.code}: ${error.message}`);
}

/** Clients with the authority, without it, with a name that the certificate lacks, and with a certificate of their own. */
export async function tls(): Promise<void> {
  using place = new Place();
  const [certificate, secret] = [join(place.folder, "cert.pem"), join(place.folder, "key.pem")];
  writeFileSync(certificate, cert);
  writeFileSync(secret, key);
  const files = `cert_file: ${JSON.stringify(certificate)}, key_file: ${JSON.stringify(secret)}`;
  const hint = /option `tls`/;
  {
    await using server = await start(`tls { ${files} }`);
    const servers = `tls://localhost:${server.port}`;
    await roundTrip({ servers, tls: { ca: cert } });
    await roundTrip({ servers, tls: { caFile: certificate } });
    await refused("without the CA", { servers, tls: {} }, "DISCONNECTED", /certificate/i, hint);
    await refused("without `tls`", { servers: server.url }, "DISCONNECTED", /certificate/i, hint);
    await refused("without the file", { servers, tls: { caFile: "/none.pem" } }, "DISCONNECTED", /none\.pem/, hint);
    await using other = await Proxy.start(server.port, "127.0.0.2");
    const elsewhere = { servers: other.url.replace("127.0.0.1", "127.0.0.2"), tls: { ca: cert } };
    await refused("at another name", elsewhere, "DISCONNECTED", /certificate/i, hint);
  }
  {
    await using server = await start(`tls { ${files}, ca_file: ${JSON.stringify(certificate)}, verify: true }`);
    await roundTrip({ servers: `tls://localhost:${server.port}`, tls: { ca: cert, cert, key } });
  }
  await using plain = await start("");
  await refused("of a server without TLS", { servers: plain.url, tls: { ca: cert } }, "DISCONNECTED", /tls/, hint);
}

/** A signed JWT of NATS. */
function sign(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, name: string, claims: object): string {
  const encode = (part: object): string => Buffer.from(JSON.stringify(part)).toString("base64url");
  const [iss, sub] = [issuer.getPublicKey(), subject.getPublicKey()];
  const head = encode({ typ: "JWT", alg: "ed25519-nkey" });
  const body = encode({
    jti: crypto.randomUUID(),
    iat: 1_700_000_000,
    iss,
    sub,
    name,
    nats: { version: 2, ...claims },
  });
  return `${head}.${body}.${Buffer.from(issuer.sign(Buffer.from(`${head}.${body}`))).toString("base64url")}`;
}

/** The configuration of a server with an operator and one account, and a file of credentials for a user of the account. */
function operate(): { config: string; credentials: (by?: nkeys.KeyPair) => Uint8Array } {
  const [operator, account, user] = [nkeys.createOperator(), nkeys.createAccount(), nkeys.createUser()];
  const all = { subs: -1, data: -1, payload: -1 };
  const limits = { ...all, conn: -1, leaf: -1, imports: -1, exports: -1, wildcards: true };
  const [operatorJwt, accountJwt] = [
    sign(operator, operator, "operator", { type: "operator" }),
    sign(operator, account, "shop", { type: "account", limits }),
  ];
  const id = account.getPublicKey();
  const config = `operator: ${operatorJwt}\nresolver: MEMORY\nresolver_preload: { ${id}: ${accountJwt} }`;
  const part = (name: string, text: string): string => `-----BEGIN ${name}-----\n${text}\n------END ${name}------\n`;
  const credentials = (by = account): Uint8Array => {
    const jwt = sign(by, user, "asks", { type: "user", ...all });
    return Buffer.from(part("NATS USER JWT", jwt) + part("USER NKEY SEED", Buffer.from(user.getSeed()).toString()));
  };
  return { config, credentials };
}

/** A password, a token, an NKey and a file of credentials: the right one, a wrong one, and none. */
export async function credentials(): Promise<void> {
  const [known, unknown] = [nkeys.createUser(), nkeys.createUser()];
  const operated = operate();
  const stranger = operated.credentials(nkeys.createAccount());
  const kinds: Record<string, { config: string; right: NatsOptions; wrong: NatsOptions }> = {
    password: {
      config: 'authorization { user: "asks", password: "one" }',
      right: { user: "asks", pass: "one" },
      wrong: { user: "asks", pass: "two" },
    },
    token: { config: 'authorization { token: "one" }', right: { token: "one" }, wrong: { token: "two" } },
    NKey: {
      config: `authorization { users = [{ nkey: ${known.getPublicKey()} }] }`,
      right: { authenticator: nkeyAuthenticator(known.getSeed()) },
      wrong: { authenticator: nkeyAuthenticator(unknown.getSeed()) },
    },
    "file of credentials": {
      config: operated.config,
      right: { authenticator: credsAuthenticator(operated.credentials()) },
      wrong: { authenticator: credsAuthenticator(stranger) },
    },
  };
  for (const [kind, { config, right, wrong }] of Object.entries(kinds)) {
    await using server = await start(config);
    const servers = server.url;
    await roundTrip({ servers, ...right });
    const hint = /user, token, credentials or NKey/;
    await refused(`a wrong ${kind}`, { servers, ...wrong }, "PERMISSION_DENIED", /Authorization/, hint);
    await refused(`no ${kind}`, { servers }, "PERMISSION_DENIED", /Authorization/, hint);
    const worker = await rejection<SlotbusError>(SlotWorker.open({ name: "shop", via: nats({ servers, ...wrong }) }));
    expect(worker.code === "PERMISSION_DENIED", `a worker with a wrong ${kind} gets ${worker.code}: ${worker.message}`);
  }
}

/** The users of the table for fleets in docs/nats.md, with these permissions and no others. */
function fleetUsers(): string {
  const page = readFileSync(join(root, "docs/nats.md"), "utf8");
  const names: Record<string, string> = {
    FLEET: "shop",
    RING: "events",
    BUCKET: "slotbus-shop",
    STREAM: "KV_slotbus-shop",
  };
  const subjects = (cell: string): string => {
    const all = [...cell.matchAll(/`([^`]+)`/g)].map(([, subject]) =>
      // `STREAM` is also a word of the subjects of the API, where more follows.
      JSON.stringify(subject!.replaceAll(/FLEET|RING|BUCKET|STREAM(?!\.(INFO|CREATE|MSG))/g, (name) => names[name]!)),
    );
    return all.join(", ");
  };
  const users = ["publisher of events", "subscriber to events", "claims"].map((role) => {
    const row = page.split("\n").find((line) => line.startsWith(`| ${role} |`));
    if (row === undefined) throw new Error(`docs/nats.md has no row "${role}"`);
    const [, publish = "", subscribe = ""] = row.split(" |").map((cell) => cell.trim());
    const reads = ['"_INBOX.>"', subjects(subscribe)].filter(Boolean).join(", ");
    const permissions = `{ publish: [${subjects(publish)}], subscribe: [${reads}] }`;
    return `{ user: "${role.split(" ")[0]}", password: one, permissions: ${permissions} }`;
  });
  const reads = '"$JS.API.STREAM.INFO.>", "$JS.API.STREAM.MSG.GET.>"';
  users.push(`{ user: "reader", password: one, permissions: { publish: [${reads}], subscribe: ["_INBOX.>"] } }`);
  return `authorization { users = [${users.join("\n")}] }`;
}

/** Events and claims by users with the permissions of docs/nats.md, and what these users may not do. */
export async function fleetPermissions(): Promise<void> {
  await using server = await start(fleetUsers(), true);
  await using stack = new AsyncDisposableStack();
  const join = async (user: string): Promise<PortableFleet> =>
    stack.use(await Fleet.join({ name: "shop", via: nats({ servers: server.url, user, pass: "one" }) }));
  const open = async (user: string): Promise<PortableEventBus> =>
    EventBus.open({ fleet: await join(user), ring: "events" });
  const [publisher, subscriber] = [await open("publisher"), await open("subscriber")];
  const heard = await hear(subscriber, topic("order.*"));
  await publisher.publish("order.paid", 7);
  await until(() => heard.events.length === 1, "the event came");
  const denied = await hear(publisher, topic("order.*"));
  const error = await rejection<SlotbusError>(denied.done);
  expect(error.code === "PERMISSION_DENIED", `a publisher that subscribes gets ${error.code}: ${error.message}`);
  const contests = [await join("claims"), await join("claims")].map((fleet, n) =>
    Contest.open({ fleet, owner: `${n}` }),
  );
  const [one, other] = (await Promise.all(contests)) as [PortableContest, PortableContest];
  const subject = { kind: "leader", label: "mailer" };
  const watch = await other.watch(subject);
  const first = await one.claim(subject, { ttl: 30_000 });
  expect((await first.renew()) && (await other.list()).length === 1, "it is renewed and listed");
  const waiting = other.claim(subject, { ttl: 30_000, timeout: 10_000 });
  expect(await first.release(), "it is released");
  const second = await waiting;
  expect(second.token > first.token && (await one.holder(subject))?.token === second.token, "the waiting claim has it");
  for await (const { type } of watch) if (type === "claimed") break;
  const closed = await rejection<SlotbusError>(join("publisher").then((to) => Contest.open({ fleet: to })));
  const reader = await Contest.open({ fleet: await join("reader") });
  expect((await reader.holder(subject))?.token === second.token, "a user who may only read sees the holder");
  const began = performance.now();
  const refusals = [closed, await rejection<SlotbusError>(reader.claim(subject, { ttl: 1_000, timeout: 10_000 }))];
  for (const { code, message, mayHaveExecuted } of refusals)
    expect(code === "PERMISSION_DENIED" && !mayHaveExecuted, `a user without the permissions gets ${code}: ${message}`);
  expect(performance.now() - began < 2_000, "the claim does not go on trying");
}
