/** What the two processes of `slotbus bench nats` agree on. */

export const NAME = "bench";
export const SUBJECT = { echo: "bench.echo", stream: "bench.stream", inbox: "bench.inbox" } as const;
export const CHUNK_BYTES = 65_536;
/** Chunks of the bare stream that may be without an acknowledgement: 256 KiB. */
export const WINDOW = 4;
