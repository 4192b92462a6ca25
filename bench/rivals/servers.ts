/**
 * Requests through Redis and NATS, which servers.ts starts if they are installed. Redis has no requests: the client pushes each
 * body to a list, and the worker pushes it back to another one. As a program this file is the worker: `bun servers.ts NAME ADDRESS`.
 */

import { RedisClient } from "bun";
import type { NatsConnection } from "@nats-io/transport-node";
import { type ServerName, startServer } from "../servers.ts";
import type { Contestant, Introduction, Workspace } from "../systems.ts";

const connect = async (servers: string): Promise<NatsConnection> =>
  (await import("@nats-io/transport-node")).connect({ servers });

/** A client's connection: `call` as in {@link Contestant}. */
async function startClient(
  name: ServerName,
  address: string,
): Promise<Pick<Contestant, "call" | "mostInFlight" | "stop">> {
  if (name === "nats") {
    const connection = await connect(address);
    return {
      call: async (body) => (await connection.request("echo", body, { timeout: 10_000 })).data,
      stop: () => connection.close(),
    };
  }
  const [push, pop] = [new RedisClient(address), new RedisClient(address)]; // a command that waits occupies its connection
  return {
    call: async (body) => {
      const reply = pop.send("BLPOP", ["replies", "10"]);
      await push.send("RPUSH", ["requests", Buffer.from(body).toString("base64")]);
      return Buffer.from(((await reply) as [string, string])[1], "base64");
    },
    mostInFlight: 1,
    stop: async () => [push, pop].forEach((client) => client.close()),
  };
}

/** Starts the server, the worker process and the client. */
export async function startThrough(name: ServerName, workspace: Workspace): Promise<Contestant> {
  const server = await startServer(name, workspace);
  const worker = await workspace.start(name, server.address, { program: import.meta.path });
  const { stop, ...client } = await startClient(name, server.address);
  return {
    name,
    answerer: worker.introduction,
    ...client,
    stop: async () => {
      await stop();
      await worker.stop();
      await server.stop();
    },
  };
}

async function work(name: ServerName, address: string): Promise<void> {
  const introduction: Introduction = { pid: process.pid, isMainThread: true, address: "" };
  process.on("disconnect", () => process.exit());
  if (name === "nats") {
    const connection = await connect(address);
    connection.subscribe("echo", { callback: (_, message) => void message.respond(message.data) });
    await connection.flush();
    process.send!(introduction);
    return;
  }
  const client = new RedisClient(address);
  process.send!(introduction);
  for (;;) {
    const [, body] = (await client.send("BLPOP", ["requests", "0"])) as [string, string];
    await client.send("RPUSH", ["replies", body]);
  }
}

if (import.meta.main) await work(process.argv[2] as ServerName, process.argv[3]!);
