/** The contestants of the suite `events`. Each delivers events from one publisher to four checking subscribers. */

import { join } from "node:path";
import { EventBus } from "../../src/events/index.ts";
import { Fleet } from "../../src/fleet/fleet.ts";
import { startServer } from "../servers.ts";
import type { Introduction, Peer, Workspace } from "../systems.ts";
import { FLEETS, FRAME_BYTES, FRAMES, type Order, RING, TOPICS } from "./names.ts";
import { bytesOf, type Item, itemOf, type Kind, SUBSCRIBERS, Tallies, textOf } from "./tally.ts";

/** Names in the JSON. */
export const SYSTEMS = ["slotbus", "redis", "nats", "broadcast-channel", "bun-ipc"] as const;

export type SystemName = (typeof SYSTEMS)[number];

/** A contestant whose subscribers are ready. */
export interface Contestant {
  readonly name: SystemName;
  readonly subscribers: readonly Introduction[];
  readonly tallies: Tallies;
  /** Publishes event `n` without waiting. Bytes that cannot be sent now are sent in a later turn of the event loop. */
  publish(kind: Kind, n: number): void;
  stop(): Promise<void>;
}

const program = Bun.resolveSync("./peer", import.meta.dir);

async function subscribe(role: SystemName, address: string, tallies: Tallies, workspace: Workspace): Promise<Peer[]> {
  const start = (_: unknown, subscriber: number): Promise<Peer> => {
    const order: Order = { address, tallies: tallies.path, subscriber };
    return workspace.start(role, JSON.stringify(order), { program });
  };
  return Promise.all(Array.from({ length: SUBSCRIBERS }, start));
}

const introductionsOf = (peers: readonly Peer[]): Introduction[] => peers.map(({ introduction }) => introduction);
const stopAll = async (peers: readonly Peer[]): Promise<void> => {
  await Promise.all(peers.map((peer) => peer.stop()));
};

async function startOwn(workspace: Workspace, tallies: Tallies): Promise<Contestant> {
  const rings = { [RING]: { frames: FRAMES, frameBytes: FRAME_BYTES } };
  const join = (kind: Kind): Promise<Fleet> => Fleet.join({ name: FLEETS[kind], directory: workspace.path, rings });
  const raw = await join("poll");
  const typed = await join("for-await");
  const peers = await subscribe("slotbus", "", tallies, workspace);
  const ring = raw.ring(RING);
  const bus = await EventBus.open<Record<string, Item>>({ fleet: typed, ring: RING });
  return {
    name: "slotbus",
    subscribers: introductionsOf(peers),
    tallies,
    publish: (kind, n) => (kind === "poll" ? ring.publish(bytesOf(n)) : bus.publish(TOPICS["for-await"], itemOf(n))),
    stop: async () => {
      await stopAll(peers);
      await raw.close();
      await typed.close();
    },
  };
}

async function startRedis(workspace: Workspace, tallies: Tallies): Promise<Contestant> {
  const server = await startServer("redis", workspace);
  const peers = await subscribe("redis", server.address, tallies, workspace);
  const client = new Bun.RedisClient(server.address);
  await client.connect();
  const failed = (error: Error): void => workspace.fail(`redis failed: ${error.message}`);
  return {
    name: "redis",
    subscribers: introductionsOf(peers),
    tallies,
    publish: (kind, n) => {
      const message = kind === "poll" ? textOf(n) : JSON.stringify(itemOf(n));
      client.publish(TOPICS[kind], message).catch(failed);
    },
    stop: async () => {
      client.close();
      await stopAll(peers);
      await server.stop();
    },
  };
}

async function startNats(workspace: Workspace, tallies: Tallies): Promise<Contestant> {
  const server = await startServer("nats", workspace);
  const peers = await subscribe("nats", server.address, tallies, workspace);
  const { connect } = await import("@nats-io/transport-node");
  const connection = await connect({ servers: server.address });
  return {
    name: "nats",
    subscribers: introductionsOf(peers),
    tallies,
    // The client keeps the bytes until it sends them, so each event needs its own buffer.
    publish: (kind, n) =>
      connection.publish(TOPICS[kind], kind === "poll" ? bytesOf(n).slice() : JSON.stringify(itemOf(n))),
    stop: async () => {
      await connection.close();
      await stopAll(peers);
      await server.stop();
    },
  };
}

async function startIpc(workspace: Workspace, tallies: Tallies): Promise<Contestant> {
  const peers = await subscribe("bun-ipc", "", tallies, workspace);
  return {
    name: "bun-ipc",
    subscribers: introductionsOf(peers),
    tallies,
    publish: (kind, n) => {
      const message = kind === "poll" ? bytesOf(n) : itemOf(n);
      for (const peer of peers) peer.send(message);
    },
    stop: () => stopAll(peers),
  };
}

async function startBroadcast(workspace: Workspace, tallies: Tallies): Promise<Contestant> {
  const address = `${workspace.path}:`;
  const start = async (_: unknown, subscriber: number): Promise<{ thread: Worker; introduction: Introduction }> => {
    const thread = new Worker(Bun.resolveSync("./thread", import.meta.dir));
    const introduced = Promise.withResolvers<Introduction>();
    thread.onerror = ({ message }) => workspace.fail(`a thread failed:\n${message}`);
    thread.onmessage = ({ data }: MessageEvent<Introduction>) => introduced.resolve(data);
    thread.postMessage({ address, tallies: tallies.path, subscriber } satisfies Order);
    return { thread, introduction: await Promise.race([introduced.promise, workspace.failed]) };
  };
  const threads = await Promise.all(Array.from({ length: SUBSCRIBERS }, start));
  const channels: Record<Kind, BroadcastChannel> = {
    poll: new BroadcastChannel(address + TOPICS.poll),
    "for-await": new BroadcastChannel(address + TOPICS["for-await"]),
  };
  return {
    name: "broadcast-channel",
    subscribers: threads.map(({ introduction }) => introduction),
    tallies,
    publish: (kind, n) => channels[kind].postMessage(kind === "poll" ? bytesOf(n) : itemOf(n)),
    stop: async () => {
      for (const channel of Object.values(channels)) channel.close();
      await Promise.all(threads.map(({ thread }) => thread.terminate()));
    },
  };
}

/** Starts a contestant with its subscribers. */
export function start(name: SystemName, workspace: Workspace): Promise<Contestant> {
  const tallies = new Tallies(join(workspace.path, `tallies-${name}`));
  switch (name) {
    case "slotbus":
      return startOwn(workspace, tallies);
    case "redis":
      return startRedis(workspace, tallies);
    case "nats":
      return startNats(workspace, tallies);
    case "broadcast-channel":
      return startBroadcast(workspace, tallies);
    case "bun-ipc":
      return startIpc(workspace, tallies);
  }
}
