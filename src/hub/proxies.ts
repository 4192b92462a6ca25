/** Which peers of a hub are proxies, and the addresses of the clients that these proxies name. */

import { BlockList, isIP } from "node:net";
import { refuse } from "../options.ts";
import { addressIn } from "./forwarded.ts";

/** Entry of a list of proxies that stands for peers without an address: the clients of a unix socket. */
const UNIX = "unix";

/** Which peers are proxies whose `x-forwarded-*` headers are true. */
export class Proxies {
  /** `"all"`, `"none"`, or the peers of the list. */
  readonly #trusted: "all" | "none" | BlockList;
  readonly #hasUnix: boolean;

  /** `option`: the option `trustProxy`. */
  constructor(option: boolean | readonly string[]) {
    this.#trusted = typeof option === "boolean" ? (option ? "all" : "none") : listOf(option);
    this.#hasUnix = typeof option !== "boolean" && option.includes(UNIX);
  }

  /** Whether the headers of this peer are trusted. `null`: a peer without an address. */
  trusts(peer: string | null): boolean {
    if (typeof this.#trusted === "string") return this.#trusted === "all";
    return peer === null ? this.#hasUnix : this.#includes(this.#trusted, peer);
  }

  /**
   * Returns the address of the client behind a peer; `null` if unknown. `forwarded`: the header `x-forwarded-for` of the request.
   * If all peers are trusted, the client is the last address of the header, because only this one was added by the proxy.
   * With a list, it is the last address that is not a proxy of the list.
   */
  clientOf(peer: string | null, forwarded: string | null): string | null {
    if (!forwarded || !this.trusts(peer)) return peer;
    const entries = forwarded.split(",");
    let client: string | null = null;
    for (const entry of entries.reverse()) {
      client = addressIn(entry)?.address ?? null;
      if (client === null || typeof this.#trusted === "string" || !this.#includes(this.#trusted, client)) break;
    }
    return client;
  }

  /**
   * Returns the header `x-forwarded-for` of the worker's request; `null`: none. With a list of proxies it is the client and the
   * peer. Otherwise the peer is appended to the header of a trusted peer. A missing address is `unknown`, because workers count
   * the entries from the end.
   */
  routeOf(peer: string | null, forwarded: string | null): string | null {
    if (!forwarded || !this.trusts(peer)) return peer;
    const before = typeof this.#trusted === "string" ? forwarded : (this.clientOf(peer, forwarded) ?? "unknown");
    return `${before}, ${peer ?? "unknown"}`;
  }

  #includes(list: BlockList, address: string): boolean {
    return list.check(address, isIP(address) === 6 ? "ipv6" : "ipv4");
  }
}

/** Checks the option `trustProxy`. @throws {InvalidConfigError} */
export function checkProxies(given: boolean | readonly string[], name: string): boolean | readonly string[] {
  if (typeof given === "boolean") return given;
  if (!Array.isArray(given) || given.length === 0) refuse(name, given, "true, false or a list of addresses");
  for (const [at, entry] of given.entries())
    if (entry !== UNIX && subnetOf(entry) === null)
      refuse(`${name}[${at}]`, entry, 'an address, a subnet such as "10.0.0.0/8", or "unix"');
  return [...given];
}

interface Subnet {
  readonly address: string;
  readonly family: "ipv4" | "ipv6";
  readonly bits: number;
}

/** Reads `"10.0.0.0/8"` or an address; `null` if it is neither. */
function subnetOf(entry: unknown): Subnet | null {
  const [, address = "", bits] = (typeof entry === "string" && /^([\da-f.:]+)(?:\/(\d{1,3}))?$/i.exec(entry)) || [];
  const version = isIP(address);
  const width = version === 4 ? 32 : 128;
  const length = bits === undefined ? width : Number(bits);
  return version === 0 || length > width ? null : { address, family: version === 4 ? "ipv4" : "ipv6", bits: length };
}

function listOf(entries: readonly string[]): BlockList {
  const list = new BlockList();
  for (const entry of entries) {
    const subnet = subnetOf(entry);
    if (subnet) list.addSubnet(subnet.address, subnet.bits, subnet.family);
  }
  return list;
}
