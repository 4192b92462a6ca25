/** A directory with a fleet, whose members are in this process and in children; and events with provable content. */

import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import { Fleet } from "../src/fleet/fleet.ts";
import type { FleetOptions } from "../src/fleet/options.ts";
import { C, FIELDS } from "../src/native/library.ts";
import { Workspace } from "./support.ts";

export class FleetSpace extends Workspace {
  readonly #fleets: Fleet[] = [];

  constructor() {
    super();
    this.leftovers = [`${this.name}.fleet`]; // of a killed last member
  }

  /** The file of the fleet. */
  get file(): string {
    return join(this.directory, `${this.name}.fleet`);
  }

  async join(options: Partial<FleetOptions> = {}): Promise<Fleet> {
    const fleet = await Fleet.join({ name: this.name, directory: this.directory, ...options });
    this.#fleets.push(fleet);
    return fleet;
  }

  async observe(): Promise<Fleet> {
    const fleet = await Fleet.observe({ name: this.name, directory: this.directory });
    this.#fleets.push(fleet);
    return fleet;
  }

  /** Offset of the first ring in the file. */
  ringOffset(): number {
    const at = FIELDS["sb_fleet_header.ring"][0] + FIELDS["sb_ring_geometry.offset"][0];
    return Number(this.peek(at, 8).readBigUInt64LE());
  }

  /** Offset of frame 0 of the first ring in the file. */
  frameOffset(): number {
    return this.ringOffset() + 3 * C.SB_LINE;
  }

  /** Reads shared memory through the file. */
  peek(at: number, bytes: number): Buffer {
    const fd = openSync(this.file, "r");
    const out = Buffer.alloc(bytes);
    readSync(fd, out, 0, bytes, at);
    closeSync(fd);
    return out;
  }

  /** Writes shared memory through the file. */
  poke(at: number, bytes: Uint8Array): void {
    const fd = openSync(this.file, "r+");
    writeSync(fd, bytes, 0, bytes.length, at);
    closeSync(fd);
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    for (const fleet of this.#fleets) await fleet.close();
    await super[Symbol.asyncDispose]();
  }
}

/** 32-bit words as bytes. */
export function words(...values: number[]): Uint8Array {
  return new Uint8Array(new Uint32Array(values).buffer);
}

/** A payload of `bytes` bytes (8 or more). Writer and number determine every byte. */
export function provable(writer: number, number: number, bytes: number): Buffer {
  const payload = Buffer.alloc(bytes);
  payload.writeUInt32LE(writer, 0);
  payload.writeUInt32LE(number, 4);
  for (let i = 8; i < bytes; i++) payload[i] = writer * 131 + number * 31 + i * 7;
  return payload;
}

/** Whether a payload is one of `provable`. */
export function isProved(payload: Uint8Array): boolean {
  const given = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
  if (given.length < 8) return false;
  return given.equals(provable(given.readUInt32LE(0), given.readUInt32LE(4), given.length));
}
