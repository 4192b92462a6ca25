/** Rules against hostile peers. Each is removed in a copy of the C sources, and the inputs must notice that it is gone. */

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** A rule, its source, the text without the rule, and the part of the inputs that must notice its absence. */
interface Rule {
  rule: string;
  file: "slot_client.c" | "slot_worker.c" | "stream.c" | "wait.c" | "region.c" | "attach.c" | "os_linux.c";
  edits: [text: string, without: string][];
  part: "hello" | "refused" | "join" | "client" | "worker";
}

const rules: Rule[] = [
  {
    rule: "lengths are within their arena",
    file: "region.c",
    edits: [
      ["body_offset >= head_bytes && (uint64_t)body_offset + body_bytes <= h->stride;", "body_offset >= head_bytes;"],
    ],
    part: "client",
  },
  {
    rule: "a response's lengths are checked",
    file: "slot_client.c",
    edits: [["\t\tevent->kind = SB_EV_CORRUPT;\n\t\treturn 1;\n\t}\n\tnote_touched", "\t}\n\tnote_touched"]],
    part: "client",
  },
  {
    rule: "a request's lengths are checked",
    file: "slot_worker.c",
    edits: [
      ["r->body_offset, r->body_bytes))\n\t\treturn -SB_ECORRUPT;", "r->body_offset, r->body_bytes))\n\t\treturn 1;"],
    ],
    part: "worker",
  },
  {
    rule: "a response's length is read once",
    file: "slot_client.c",
    edits: [
      [
        "\tnote_touched(link, slot, 1, touched_end(&client->header, streams",
        "\tevent->body_bytes = load_relaxed(&line->body_bytes);\n" +
          "\tnote_touched(link, slot, 1, touched_end(&client->header, streams",
      ],
    ],
    part: "client",
  },
  {
    rule: "a request's length is read once",
    file: "slot_worker.c",
    edits: [
      [
        "\tif ((worker->map.header.flags & SB_FLAG_TIMING) != 0)\n",
        "\tworker->request.body_bytes = load_relaxed(&at->request.body_bytes);\n" +
          "\tif ((worker->map.header.flags & SB_FLAG_TIMING) != 0)\n",
      ],
    ],
    part: "worker",
  },
  {
    rule: "a status is one of HTTP, or 0",
    file: "region.c",
    edits: [["status_code == 0 || (status_code >= 200 && status_code <= 599)", "status_code < 0xffffffff"]],
    part: "client",
  },
  {
    rule: "the client compares generations",
    file: "slot_client.c",
    edits: [["bool ours = word_generation(word) == link->generation[slot];", "bool ours = true;"]],
    part: "client",
  },
  {
    rule: "the worker takes a request once",
    file: "slot_worker.c",
    edits: [["if (generation <= worker->claimed[slot] || worker->generation[slot] != 0) return -SB_ECORRUPT;", ""]],
    part: "worker",
  },
  {
    rule: "no request comes to a slot whose handler runs",
    file: "slot_worker.c",
    edits: [
      ["generation <= worker->claimed[slot] || worker->generation[slot] != 0", "generation <= worker->claimed[slot]"],
    ],
    part: "worker",
  },
  {
    rule: "a reply names its claim",
    file: "slot_worker.c",
    edits: [["(uint32_t)worker->generation[slot] == token", "(token == token)"]],
    part: "worker",
  },
  {
    rule: "the worker takes no hint beyond the last slot",
    file: "slot_worker.c",
    edits: [
      ["exchange_seq(&ready->bits[i], 0) & slots_mask(slots, i);", "exchange_seq(&ready->bits[i], 0);(void)slots;"],
    ],
    part: "worker",
  },
  {
    rule: "a client parks regardless of bits beyond the last slot",
    file: "wait.c",
    edits: [["load_seq(&hints->bits[i]) & slots_mask(slots, i)", "((void)slots, load_seq(&hints->bits[i]))"]],
    part: "client",
  },
  {
    rule: "a worker parks regardless of bits beyond the last slot",
    file: "wait.c",
    edits: [["load_seq(&hints->bits[i]) & slots_mask(slots, i)", "((void)slots, load_seq(&hints->bits[i]))"]],
    part: "worker",
  },
  {
    rule: "the client does not read the header again",
    file: "slot_client.c",
    edits: [
      [
        "uint64_t stride = link->map.header.stride;",
        "uint64_t stride = load_relaxed(&link->map.region->header.stride);",
      ],
    ],
    part: "client",
  },
  {
    rule: "a slot goes home only from DONE",
    file: "slot_client.c",
    edits: [
      [
        "if (!swap_word(&link->map, slot, word_of(generation, SB_DONE), word_of(generation, SB_FREE)))\n\t\treturn -SB_ECORRUPT;",
        "store_seq(&request_line(&link->map, slot)->status, word_of(generation, SB_FREE));",
      ],
    ],
    part: "client",
  },
  {
    rule: "what was sent of a stream lies within its ring",
    file: "stream.c",
    edits: [["sent < flow->seen_sent || sent - flow->taken > ring", "sent < flow->seen_sent"]],
    part: "client",
  },
  {
    rule: "what was sent of a stream does not become less",
    file: "stream.c",
    edits: [["sent < flow->seen_sent || sent - flow->taken > ring", "sent - flow->taken > ring"]],
    part: "worker",
  },
  {
    rule: "a side never takes more than was sent",
    file: "stream.c",
    edits: [["taken < flow->seen_taken || taken > flow->sent", "taken < flow->seen_taken"]],
    part: "client",
  },
  {
    rule: "an error lies within the ring",
    file: "stream.c",
    edits: [[" || error_bytes > ring - (sent - flow->taken)", ""]],
    part: "client",
  },
  {
    rule: "a stream's counts are those that were checked",
    file: "stream.c",
    edits: [
      [
        "out->unread = (uint32_t)(sent - flow->taken);",
        "out->unread = (uint32_t)(load_relaxed(&both->theirs->sent) - flow->taken);",
      ],
    ],
    part: "worker",
  },
  {
    rule: "a response that streams is what begins one",
    file: "slot_client.c",
    edits: [
      [
        "event->status_code != 0 && event->body_offset == h->head_limit && event->body_bytes == 0",
        "event->status_code != 0 && h != NULL",
      ],
    ],
    part: "client",
  },
  {
    rule: "the counts of an earlier stream are cleared before the claim",
    file: "slot_worker.c",
    edits: [["if (flow->open) flow_reset(flow, &at->worker, false);", ""]],
    part: "worker",
  },
  {
    rule: "memory that could be resized is refused",
    file: "os_linux.c",
    edits: [["if (seals < 0 || (seals & RESIZE_SEALS) != RESIZE_SEALS) return -SB_ECORRUPT;", "(void)seals;"]],
    part: "hello",
  },
  {
    rule: "memory has the size that its header says",
    file: "region.c",
    edits: [["!header_is_legal(&header) || header.region_bytes != bytes", "!header_is_legal(&header)"]],
    part: "hello",
  },
  {
    rule: "a header's geometry adds up",
    file: "region.c",
    edits: [["if (h->arenas_offset != arenas_offset(h->slots)) return false;", ""]],
    part: "hello",
  },
  {
    rule: "HELLO and header name the same life",
    file: "attach.c",
    edits: [["h->epoch == hello.epoch && ", ""]],
    part: "hello",
  },
  {
    rule: "descriptors that nobody asked for are closed",
    file: "os_linux.c",
    edits: [["for (int i = 0; i < count; i++) close(fds[i]);", ""]],
    part: "hello",
  },
  {
    rule: "a JOIN is read as far as it goes",
    file: "attach.c",
    edits: [["body_bytes < sizeof join ? body_bytes : sizeof join", "sizeof join"]],
    part: "join",
  },
];

const INPUTS = 200_000;

/** What `malformed.ts` lends. */
interface Tools {
  compile(source: string, object: string): Promise<string>;
  link(objects: Iterable<string>, program: string): Promise<string>;
  run(command: string[], minutes?: number): Promise<{ ok: boolean; output: string }>;
}

/** The text with each edit made; an edit that does not fit exactly once is an error, not a survivor. */
function without(text: string, { rule, edits }: Rule): string {
  let result = text;
  for (const [from, to] of edits) {
    if (result.split(from).length !== 2) throw new Error(`"${rule}": its text stands not exactly once: ${from}`);
    result = result.replace(from, () => to);
  }
  return result;
}

/** Removes one rule at a time. `objects`: all object files of the program, by name of their source. */
export async function removeRules(
  root: string,
  folder: string,
  objects: ReadonlyMap<string, string>,
  tools: Tools,
  say: (text: string) => void,
): Promise<{ missed: number; survived: string[] }> {
  const survived: string[] = [];
  let missed = 0;
  const judge = async (rule: Rule, index: number): Promise<void> => {
    const source = join(folder, `rule-${index}.c`);
    writeFileSync(source, without(readFileSync(join(root, "csrc", rule.file), "utf8"), rule));
    const object = await tools.compile(source, `${source}.o`);
    const inputs = [...objects].map(([name, path]) => (name === `csrc/${rule.file}` ? object : path));
    const program = await tools.link(inputs, join(folder, `rule-${index}`));
    const { ok, output } = await tools.run([program, "1", `${rule.part}:${INPUTS}`]);
    const how = /broken: (.*)|ERROR: (AddressSanitizer: \S+)|runtime error: (.*)/.exec(output);
    const found = !ok && how !== null && !output.includes("it hung");
    if (found) missed++;
    else survived.push(rule.rule);
    const input = /^replay \w+:(\d+)/m.exec(output)?.[1];
    const text = how?.slice(1).find((part) => part !== undefined) ?? output.slice(-300);
    say(`${found ? "missed  " : "SURVIVED"} ${rule.rule} (${rule.part}, input ${input}: ${text})`);
  };
  const queue = rules.entries();
  const judgeAll = async (): Promise<void> => {
    for (const [index, rule] of queue) await judge(rule, index);
  };
  await Promise.all([judgeAll(), judgeAll()]);
  return { missed, survived };
}
