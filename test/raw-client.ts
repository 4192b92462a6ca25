/** A client of a shared bus, made from the library's own parts, without a bus: it may send and write anything. */

import { resolveBusOptions, type ResolvedBusOptions } from "../src/bus/options.ts";
import { systemClock } from "../src/clock.ts";
import { C, FIELDS } from "../src/native/abi.ts";
import { ClientHandle } from "../src/native/client.ts";
import { view } from "../src/native/library.ts";
import { NameLock } from "../src/native/name.ts";
import type { Attachment } from "../src/wires/memory/attachment.ts";
import { Listener } from "../src/wires/memory/listener.ts";
import type { Workspace } from "./support.ts";

const SLOT_BYTES = FIELDS["sb_slot.worker"][0] + FIELDS["sb_slot.worker"][1];

export class RawClient implements AsyncDisposable {
  /** `performance.now()` of each attachment, past and present. */
  readonly joined: number[] = [];
  /** The present attachments. */
  readonly workers: Attachment[] = [];
  readonly #options: ResolvedBusOptions;
  readonly #client: ClientHandle;
  readonly #name: NameLock;
  readonly #listener: Listener;

  /** `onJoin` is called with each worker that attaches. */
  static async open(space: Workspace, onJoin?: (client: RawClient) => void): Promise<RawClient> {
    const options = resolveBusOptions({ name: space.name, directory: space.directory });
    return new RawClient(options, await NameLock.share(space.directory, space.name, false), onJoin);
  }

  private constructor(options: ResolvedBusOptions, name: NameLock, onJoin?: (client: RawClient) => void) {
    this.#options = options;
    this.#name = name;
    this.#client = new ClientHandle({ ...options, tag: 1 });
    this.#listener = new Listener(this.#client, systemClock, name, options, 1, {
      attached: (attachment) => {
        attachment.link!.start(attachment.peer.pid, attachment.peer.uid);
        this.joined.push(performance.now());
        this.workers.push(attachment);
        onJoin?.(this);
      },
      framed: () => {},
      bytes: () => {},
      message: () => {},
      closed: (attachment) => {
        this.#drop(attachment);
        name.knock(); // as if it had just come
      },
      refused: () => {},
    });
  }

  /** Writes bytes to the control socket of each worker. */
  write(bytes: Uint8Array): void {
    for (const { socket } of this.workers) socket.write(bytes);
  }

  /** Publishes a request whose head is longer than its arena. */
  lie(): void {
    for (const { link } of this.workers) {
      const slot = link!.reserve();
      const lines = this.#options.slots * SLOT_BYTES;
      const start = FIELDS["sb_region.pad5"][0] + FIELDS["sb_region.pad5"][1];
      const before = Math.ceil((start + lines) / C.SB_PAGE) * C.SB_PAGE;
      link!.publish(slot, 1, false, 8, 8, 8, 1_000, 1);
      const region = new DataView(view(link!.arenas - before, before));
      region.setUint32(start + slot * SLOT_BYTES + FIELDS["sb_request_line.head_bytes"][0], 0xffff_ffff, true);
    }
  }

  #drop(attachment: Attachment): void {
    this.workers.splice(this.workers.indexOf(attachment), 1);
    attachment.state = "ended";
    attachment.link!.stop();
    attachment.cut();
    attachment.peer.forget();
    attachment.link!.drop(true, true);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    while (this.workers.length > 0) this.#drop(this.workers[0]!);
    this.#listener.close();
    this.#client.detach();
    this.#client.close();
    this.#name.release();
  }
}
