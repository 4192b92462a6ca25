/** A member of a fleet, for the checks: program.ts in the role `member`. */

import { expect, type Place, Program, program } from "./checks.ts";

export const FILE = "system.fleet";

export interface Joined {
  index: number;
  incarnation: number;
  epoch: number;
}

export class Member extends Program {
  /** Starts a member that has not joined. */
  static async start(command: string[], env: Record<string, string> = {}): Promise<Member> {
    const member = new Member(command, env);
    await member.expectLine("waiting");
    return member;
  }

  /** Starts a member that has joined the fleet of the place; `options` is JSON. */
  static async join(place: Place, options = "{}", env: Record<string, string> = {}): Promise<Member> {
    const member = await Member.start(program("member", place.directory), env);
    await member.join(options);
    return member;
  }

  async join(options = "{}"): Promise<Joined> {
    const [, index, incarnation, epoch] = (await this.answer(`join ${options}`, "joined")).split(" ").map(Number);
    return { index: index!, incarnation: incarnation!, epoch: epoch! };
  }

  /** Sends a command that must fail with the error code `error`. Resolves to the line of the error. */
  async refused(error: string, command = "join"): Promise<string> {
    return this.answer(command, `error ${error}: `);
  }

  /** Claims a free lease. Resolves to its token. */
  async claim(label: string, ttl = 3_600_000): Promise<number> {
    return Number((await this.answer(`claim ${label} ${ttl}`, "claimed")).split(" ")[2]);
  }

  /** Claims a lease that another member holds. Resolves to the holder's token. */
  async yields(label: string): Promise<number> {
    return Number((await this.answer(`claim ${label}`, "yields")).split(" ")[2]);
  }

  async release(label: string): Promise<void> {
    const line = await this.answer(`release ${label}`, "released");
    expect(line.endsWith("true"), `the lease was already lost: ${line}`);
  }

  /** Resolves to the pids of the living members. */
  async members(): Promise<number[]> {
    return (await this.answer("members", "members")).split(" ")[1]!.split(",").map(Number);
  }

  /** Sends a command and resolves to the line of its output that starts with `start`. */
  async answer(command: string, start: string): Promise<string> {
    await this.tell(command);
    const others: string[] = [];
    for (let line = await this.line(); ; line = await this.line()) {
      if (line.startsWith(start)) {
        await this.lineFrom(`done ${command}`);
        return line;
      }
      others.push(line);
      const over = line === `done ${command}` || line.startsWith("ended with");
      expect(!over, `${command} did not print "${start}", but: ${others.join("; ")}`);
    }
  }
}

/** Expects that two members see each other's events and leases. */
export async function expectWell(one: Member, other: Member): Promise<void> {
  const label = `well-${one.pid}-${other.pid}`;
  for (const [a, b] of [
    [one, other],
    [other, one],
  ] as const) {
    const token = await a.claim(label);
    expect((await b.yields(label)) === token, "two members see different holders");
    await a.release(label);
  }
  await other.order("listen");
  await one.order("publish 1");
  await other.lineFrom("event");
}
