/** Reads the headers with which a proxy describes its client. */

import { isIP } from "node:net";

/** Address of a client. */
interface Address {
  readonly address: string;
  readonly family: "IPv4" | "IPv6";
}

/** Address in one entry of `x-forwarded-for`, without the port that some proxies add; `null` if the entry is not an address. */
export function addressIn(entry: string): Address | null {
  const address = entry.trim().replace(/^\[(.*)\](?::\d+)?$|^([\d.]+):\d+$/, "$1$2");
  const version = isIP(address);
  return version === 0 ? null : { address, family: version === 4 ? "IPv4" : "IPv6" };
}

/** First value of a header to which several proxies may have added values. */
export function firstOf(value: string): string {
  return value.split(",", 1)[0]!.trim();
}
