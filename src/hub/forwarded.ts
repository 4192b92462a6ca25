/** What a proxy in front of the hub says of the client. */

import { isIP } from "node:net";

/** Address of a client, as far as headers tell it. */
interface Address {
  readonly address: string;
  readonly family: "IPv4" | "IPv6";
}

/** The address in one entry of `x-forwarded-for`, for which some proxies name the port; `null`: it is something else. */
export function addressIn(entry: string): Address | null {
  const address = entry.trim().replace(/^\[(.*)\](?::\d+)?$|^([\d.]+):\d+$/, "$1$2");
  const version = isIP(address);
  return version === 0 ? null : { address, family: version === 4 ? "IPv4" : "IPv6" };
}

/** The first value of a header that each of several proxies may have added to. */
export function firstOf(value: string): string {
  return value.split(",", 1)[0]!.trim();
}
