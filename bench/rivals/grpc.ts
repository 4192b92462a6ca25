/**
 * gRPC over a unix socket, with @grpc/grpc-js in Bun. Messages are bytes, without protobuf. As a program it is the server:
 * `bun grpc.ts server ADDRESS`.
 */

import { join } from "node:path";
import type { Contestant, Introduction, Workspace } from "../systems.ts";

/** What this file uses of @grpc/grpc-js, which `npm run rivals` installs here. */
interface Grpc {
  Server: new (options: object) => {
    addService(service: object, handlers: object): void;
    bindAsync(address: string, credentials: unknown, done: (error: Error | null) => void): void;
  };
  ServerCredentials: { createInsecure(): unknown };
  credentials: { createInsecure(): unknown };
  makeGenericClientConstructor(
    service: object,
    name: string,
  ): new (
    address: string,
    credentials: unknown,
    options: object,
  ) => { echo(body: Uint8Array, done: (error: Error | null, reply: Uint8Array) => void): void; close(): void };
}

const bytes = (body: Buffer): Buffer => body;
const service = {
  echo: {
    path: "/bench.Echo/Echo",
    requestStream: false,
    responseStream: false,
    requestSerialize: bytes,
    requestDeserialize: bytes,
    responseSerialize: bytes,
    responseDeserialize: bytes,
  },
};
/** Larger messages than 4 MiB would need it; 16 MiB is the limit of the bench. */
const limits = { "grpc.max_receive_message_length": 2 ** 24 + 1024, "grpc.max_send_message_length": 2 ** 24 + 1024 };

async function load(): Promise<Grpc> {
  return import("@grpc/grpc-js" as string) as Promise<Grpc>;
}

export async function startGrpc(workspace: Workspace): Promise<Contestant> {
  const address = `unix:${join(workspace.path, "grpc.sock")}`;
  const { introduction, stop } = await workspace.start("server", address, { program: import.meta.path });
  const { makeGenericClientConstructor, credentials } = await load();
  const Client = makeGenericClientConstructor(service, "Echo");
  const client = new Client(address, credentials.createInsecure(), limits);
  return {
    name: "grpc-unix",
    answerer: introduction,
    call: (body) => {
      const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
      client.echo(Buffer.from(body.buffer, body.byteOffset, body.length), (error, reply) =>
        error ? reject(error) : resolve(reply),
      );
      return promise;
    },
    stop: async () => {
      client.close();
      await stop();
    },
  };
}

if (import.meta.main) {
  const { Server, ServerCredentials } = await load();
  const server = new Server(limits);
  server.addService(service, {
    echo: ({ request }: { request: Buffer }, done: (error: null, reply: Buffer) => void) => done(null, request),
  });
  process.on("disconnect", () => process.exit());
  server.bindAsync(process.argv[3]!, ServerCredentials.createInsecure(), (error) => {
    if (error) throw error;
    process.send!({ pid: process.pid, isMainThread: true, address: "" } satisfies Introduction);
  });
}
