/** Rules of the C library on the bus. */

import type { Edits, Rule } from "./rule.ts";

export type NativeFile =
  | "slot_client.c"
  | "slot_worker.c"
  | "stream.c"
  | "wait.c"
  | "region.c"
  | "attach.c"
  | "directory.c"
  | "name.c"
  | "door.c"
  | "sessions.c"
  | "stop.c"
  | "service.c"
  | "os_linux.c";

/** Group of inputs of `malformed.ts`. */
type Part = "hello" | "refused" | "join" | "client" | "worker";

interface Tested extends Rule<NativeFile> {
  /** Inputs that must also notice the rule's absence. */
  readonly parts?: readonly Part[];
}

/** A rule against hostile peers for which inputs take the place of a test. */
interface Attacked extends Edits<NativeFile> {
  readonly test?: undefined;
  readonly parts: readonly Part[];
}

const rules: (Tested | Attacked)[] = [
  {
    rule: "a client checks for work again after it has set `parked`",
    file: "wait.c",
    edits: [["if (!link_has_work(client->links[i])) continue;", "continue;"]],
    test: "a parked client is rung once for many answers",
  },
  {
    rule: "a worker that waited for a processor once does not seem slow",
    file: "slot_worker.c",
    edits: [["pace->ns == 0 || ns < most ? ns + 1 : most", "ns + 1"]],
    test: "the client learns how long a request takes the worker; a slower measurement counts an eighth",
  },
  {
    rule: "requests that run at once share the time of the worker",
    file: "slot_worker.c",
    edits: [[" / (running + worker->told_elsewhere)", ""]],
    test: "requests that run at once share the time; a streamed response is not measured",
  },
  {
    rule: "a worker checks for work again after it has set `parked`",
    file: "wait.c",
    edits: [["if (!worker_finds(worker, can_take)) return 1;", "(void)can_take; return 1;"]],
    test: "a parked worker is rung once for many requests",
  },
  {
    rule: "`parked` is visible before a worker checks for work (sequential consistency)",
    file: "wait.c",
    edits: [
      [
        "store_seq(&worker->map.region->worker.parked, how);",
        "__atomic_store_n(&worker->map.region->worker.parked, how, __ATOMIC_RELAXED);",
      ],
    ],
    test: "a worker that parks at the moment of a publication sees the request, or is seen and rung",
    runs: 20,
  },
  {
    rule: "each tick of a client shows its workers that it runs",
    file: "slot_client.c",
    edits: [["store_relaxed(ticks, load_relaxed(ticks) % UINT32_MAX + 1);", "(void)ticks;"]],
    test: "a client ticked when it ticked since the last look",
  },
  {
    rule: "a bell that was held for 50 µs rings with the next message",
    file: "wait.c",
    edits: [["return now - bells->due_ns < LONG_NS;", "(void)LONG_NS; return true;"]],
    test: "a bell that was held for long rings with the next request",
  },
  {
    rule: "no bell is held after two late turns",
    file: "wait.c",
    edits: [["if (late && bells->was_late) bells->from_ns", "if (false) bells->from_ns"]],
    test: "a bell that was held for long rings with the next request",
  },
  {
    rule: "a client rings the bells that it holds before it blocks",
    file: "slot_client.c",
    edits: [["	client_rings(client);\n", ""]],
    test: "a client that blocks for a response first rings the bells that it holds",
  },
  {
    rule: "a client that holds its bells rings every worker to which it sent",
    file: "wait.c",
    edits: [["if (wake(&link->map.region->worker, link->fd) == 1)", "if (false)"]],
    test: "a client that holds its bells rings once",
  },
  {
    rule: "a worker rings the bell that it holds",
    file: "wait.c",
    edits: [["	(void)wake(&worker->map.region->client, worker->fd);\n}", "}"]],
    test: "a worker that holds its bells rings once for many answers",
  },
  {
    rule: "the waker clears `parked` before it rings",
    file: "wait.c",
    edits: [
      ["uint32_t how = exchange_seq(&sleeper->parked, SB_PARK_NONE);", "uint32_t how = load_seq(&sleeper->parked);"],
      [
        "int32_t error = sb_control_send(fd, SB_MSG_BELL, NULL, 0);",
        "int32_t error = sb_control_send(fd, SB_MSG_BELL, NULL, 0); usleep(50); store_seq(&sleeper->parked, SB_PARK_NONE);",
      ],
    ],
    test: "a side that hears a bell finds its parked flag already cleared",
  },
  {
    rule: "each use of a slot is a new generation",
    file: "slot_client.c",
    edits: [
      ["word_of(generation + 1, SB_WRITING)", "word_of(generation, SB_WRITING)"],
      ["link->generation[slot] = generation + 1;", "link->generation[slot] = generation;"],
    ],
    test: "a request passes FREE, WRITING, READY, CLAIMED, DONE, FREE",
  },
  {
    rule: "a slot whose handler runs is quarantined",
    file: "slot_client.c",
    edits: [
      [
        "swap_word(&link->map, slot, claimed, abandoned)",
        "swap_word(&link->map, slot, claimed, word_of(generation, SB_FREE))",
      ],
    ],
    test: "a reply after the caller gave up is stale, ends the quarantine",
  },
  {
    rule: "a response that is already written is delivered although the caller gives up",
    file: "slot_client.c",
    edits: [
      [
        "return found == 1 && event->kind != SB_EV_CORRUPT ? SB_DONE : -SB_ECORRUPT;",
        "(void)found; return SB_ABANDONED;",
      ],
    ],
    test: "each verb of the client moves a slot along its arrow of the diagram",
  },
  {
    rule: "the tick reads the status words, not only the hints",
    file: "slot_client.c",
    edits: [
      [
        "int32_t found = slot_event(client, index, slot, now, event);\n\tif (found != 0 ||",
        "int32_t found = 0;\n\tif (",
      ],
    ],
    test: "the tick finds a response whose hint was lost",
  },
  {
    rule: "a response's lengths are checked",
    file: "slot_client.c",
    edits: [["\t\tevent->kind = SB_EV_CORRUPT;\n\t\treturn 1;\n\t}\n\tnote_touched", "\t}\n\tnote_touched"]],
    test: "a response whose head, offset, body or status is out of range is CORRUPT",
    parts: ["client"],
  },
  {
    rule: "a request's lengths are checked",
    file: "slot_worker.c",
    edits: [["worker->generation[slot] = 0; /* nobody gets this request */", "return 1;"]],
    test: "a request whose head, offset or body is out of range is refused",
    parts: ["worker"],
  },
  {
    rule: "a response names the claim that it answers",
    file: "slot_worker.c",
    edits: [["(uint32_t)worker->generation[slot] == token", "(token == token)"]],
    test: "a worker completes only its own running claim",
    parts: ["worker"],
  },
  {
    rule: "a claim is answered once",
    file: "slot_worker.c",
    edits: [["worker->generation[slot] = 0; /* a second reply finds no claim */", ""]],
    test: "a second reply to one request is stale and changes nothing of the first",
  },
  {
    rule: "the state is published before its hint",
    file: "slot_worker.c",
    edits: [
      [
        "\tbool done = swap_word(&worker->map, slot, word_of(generation, from),",
        "\tworker_tells(worker, slot);\n\tbool done = swap_word(&worker->map, slot, word_of(generation, from),",
      ],
      ["\tworker_tells(worker, slot);\n\treturn done", "\treturn done"],
    ],
    test: "a client that polls and parks at the moment of an answer has it, or is rung",
    runs: 20,
  },
  {
    rule: "hints beyond the last slot are ignored",
    file: "wait.c",
    edits: [["load_seq(&hints->bits[i]) & slots_mask(slots, i)", "((void)slots, load_seq(&hints->bits[i]))"]],
    test: "a hint bit beyond the last slot keeps neither the client nor the worker from parking",
    parts: ["client", "worker"],
  },
  {
    rule: "a status word is compared with its generation",
    file: "slot_client.c",
    edits: [["bool ours = word_generation(word) == link->generation[slot];", "bool ours = true;"]],
    test: "a word no legal step leads to is CORRUPT while a request is in flight",
    parts: ["client"],
  },
  {
    rule: "a lost hint of a request is set again",
    file: "slot_client.c",
    edits: [["\t(void)client_tells(client, link, slot);\n\treturn 0;", "\treturn 0;"]],
    test: "the tick finds a response whose hint was lost, and publishes a READY slot's lost hint again",
  },
  {
    rule: "a region that could be resized is refused",
    file: "os_linux.c",
    edits: [["if (seals < 0 || (seals & RESIZE_SEALS) != RESIZE_SEALS) return -SB_ECORRUPT;", "(void)seals;"]],
    test: "a worker takes a sound region and refuses one that is unsealed",
    parts: ["hello"],
  },
  {
    rule: "the client frees a slot only if its status word is unchanged",
    file: "slot_client.c",
    edits: [
      [
        "if (!swap_word(&link->map, slot, word_of(generation, SB_DONE), word_of(generation, SB_FREE)))\n\t\treturn -SB_ECORRUPT;",
        "store_seq(&request_line(&link->map, slot)->status, word_of(generation, SB_FREE));",
      ],
    ],
    test: "the client's own steps find a changed word CORRUPT and do not write over it",
    parts: ["client"],
  },
  {
    rule: "page 0 of a region is read once",
    file: "slot_client.c",
    edits: [
      [
        "\t    !lengths_are_legal(&client->header, event->head_bytes,",
        "\t    !lengths_are_legal(&link->map.region->header, event->head_bytes,",
      ],
    ],
    test: "page 0 is read when the region is mapped and never again",
  },
  {
    rule: "a worker gets no more requests than its concurrency",
    file: "slot_client.c",
    edits: [
      [
        "if (link->used >= link->concurrency || link->free_count == 0) return -SB_EBUSY;",
        "if (link->free_count == 0) return -SB_EBUSY;",
      ],
    ],
    test: "credit is the worker's concurrency less all that is not free, quarantine included",
  },
  {
    rule: "a slot in quarantine counts as used",
    file: "slot_client.c",
    edits: [
      ["\t\tlink->shadow[slot] = IN_QUARANTINE;\n", "\t\tlink->shadow[slot] = IN_QUARANTINE;\n\t\tlink->used--;\n"],
    ],
    test: "credit is the worker's concurrency less all that is not free, quarantine included",
  },
  {
    rule: "a stale event of an earlier link is recognized",
    file: "region.c",
    edits: [["link->life = ++client->life;", "link->life = 1;"]],
    test: "a stale event differs by its life from an event of a new link with the same index",
  },
  {
    rule: "a claimed request is not recalled",
    file: "slot_client.c",
    edits: [
      [
        "\t\treturn -SB_EBUSY;\n\tput_back(link, slot);",
        "\t\t(void)swap_word(&link->map, slot, word_of(generation, SB_CLAIMED), word_of(generation, SB_FREE));\n\tput_back(link, slot);",
      ],
    ],
    test: "each verb of the client moves a slot along its arrow",
  },
  {
    rule: "a parked worker loses no request, because its bell is due",
    file: "slot_client.c",
    edits: [["return sb_link_parked(client, index) == 1 ? 0 : (int32_t)late;", "return (int32_t)late;"]],
    test: "a look finds READY slots",
  },
  {
    rule: "only requests of a minimum age are late",
    file: "slot_client.c",
    edits: [
      [
        "if (elapsed_ns(now, link->changed_ns[slot]) >= (uint64_t)age_us * 1000u) out[++late] = slot;",
        "(void)now;\n\t\tout[++late] = slot;",
      ],
    ],
    test: "a look finds READY slots",
  },
  {
    rule: "a worker that ends a request whose caller gave up advances",
    file: "wait.c",
    edits: [
      [
        "load_relaxed(&counters->completed) +\n\t                 load_relaxed(&counters->stale);",
        "load_relaxed(&counters->completed);",
      ],
    ],
    test: "a worker advances when",
  },
  {
    rule: "a poll looks at the hints of all slots",
    file: "sessions.c",
    edits: [["for (uint32_t i = 1; i < 4; i++) seen |=", "for (uint32_t i = 4; i < 4; i++) seen |="]],
    test: "a poll finds requests in all slots",
  },
  {
    rule: "a process prefaults regions up to one budget",
    file: "region.c",
    edits: [["bytes) + bytes > SB_WARM_BUDGET) {", "bytes) + bytes == 0) {"]],
    test: "a process warms regions up to one budget",
  },
  {
    rule: "bells without work have a limit",
    file: "wait.c",
    edits: [["return flood->bells > flood->work + SB_BELLS_PER_SECOND ? -SB_EPROTO : 0;", "return 0;"]],
    test: "ten thousand bells a second without work are too many, and each answer pays for one",
  },
  {
    rule: "a name has one owner",
    file: "os_linux.c",
    edits: [["return set_lock(fd, bytes_of(F_WRLCK, 0, 0), -SB_EEXISTS);", "(void)fd;\n\treturn 0;"]],
    test: "a second lock is refused with the owner's pid, by the same process too, until the ",
  },
  {
    rule: "a lock on a file that was unlinked does not count",
    file: "name.c",
    edits: [["if (error == 0 && file_is_named(dir, file.text, fd)) return fd;", "if (error == 0) return fd;"]],
    test: "a lock on a file that was unlinked between open and lock is dropped, and the new file ",
  },
  {
    rule: "clients of a shared name have different numbers",
    file: "os_linux.c",
    edits: [["return set_lock(fd, bytes_of(F_WRLCK, start, 1), -SB_EBUSY);", "(void)start;\n\t(void)fd;\n\treturn 0;"]],
    test: "clients of a shared name get the lowest free number, and the last one removes the lock file",
  },
  {
    rule: "a client shares no name that an owner has",
    file: "os_linux.c",
    edits: [["return set_lock(fd, bytes_of(F_RDLCK, 0, 1), -SB_EEXISTS);", "(void)fd;\n\treturn 0;"]],
    test: "an owner and clients that share the name exclude each other, and the error says which it is",
  },
  {
    rule: "a shared name is told from an owned one",
    file: "os_linux.c",
    edits: [["return lock.l_type == F_RDLCK ? SB_NAME_SHARED : SB_NAME_OWNED;", "return SB_NAME_OWNED;"]],
    test: "an owner and clients that share the name exclude each other, and the error says which it is",
  },
  {
    rule: "a shared name has at most 64 clients",
    file: "name.c",
    edits: [
      [
        "for (int32_t client = 0; client < SB_CLIENTS_MAX; client++) {",
        "for (int32_t client = 0; client <= SB_CLIENTS_MAX; client++) {",
      ],
    ],
    test: "64 clients share a name, the next is refused, and each is seen by its bit",
  },
  {
    rule: "only the last client removes the lock file",
    file: "name.c",
    edits: [
      ["if (os_file_lock(fd) == 0 && file_is_named(dir, file.text, fd)) {", "if (file_is_named(dir, file.text, fd)) {"],
    ],
    test: "clients of a shared name get the lowest free number, and the last one removes the lock file",
  },
  {
    rule: "a client drops its locks before it checks whether it is the last",
    file: "name.c",
    edits: [["\tos_bytes_unlock(fd, 0, 0);\n", ""]],
    test: "a client that leaves drops its locks even if its descriptor is still open elsewhere",
  },
  {
    rule: "a client that leaves as the last removes only the lock file that it has locked",
    file: "name.c",
    edits: [["if (os_file_lock(fd) == 0 && file_is_named(dir, file.text, fd)) {", "if (os_file_lock(fd) == 0) {"]],
    test: "a client whose lock file was replaced does not remove the new one",
  },
  {
    rule: "the last client removes the files of killed clients",
    file: "name.c",
    edits: [["\t\tsweep(dir, name, fd, true);\n", ""]],
    test: "a client that leaves removes its own files; the last one also the files of killed clients",
  },
  {
    rule: "a client removes what a killed client with its number left",
    file: "name.c",
    edits: [["\tremove_sockets(dir, name, client);\n\tout[0] = (uint32_t)client;", "\tout[0] = (uint32_t)client;"]],
    test: "the number of a killed client is free at once, and the next client with it removes its files",
  },
  {
    rule: "a client removes what a killed owner left",
    file: "name.c",
    edits: [["\tremove_sockets(dir, name, -1); /* an owner would hold byte 0 */\n", ""]],
    test: "a client that shares the name of a killed owner removes the owner's sockets and its pid",
  },
  {
    rule: "a client of a shared name leaves no pid of a dead owner",
    file: "name.c",
    edits: [["(fchmod(fd, 0600) != 0 || ftruncate(fd, 0) != 0)", "fchmod(fd, 0600) != 0"]],
    test: "a client that shares the name of a killed owner removes the owner's sockets and its pid",
  },
  {
    rule: "the number in an address is below 64",
    file: "directory.c",
    edits: [["return number < SB_CLIENTS_MAX ? number : -1;", "return number;"]],
    test: "an address is a name, or a name with the number of a client: 0 to 63, decimal, without ",
  },
  {
    rule: "the socket of a client is seen by its bit",
    file: "name.c",
    edits: [
      ["out[k / 32] |= 1u << k % 32;\n\tstruct file_name owner", "out[0] |= 1u << k % 32;\n\tstruct file_name owner"],
    ],
    test: "the sockets of a name are seen without its lock file: one bit for each client, and the owner's",
  },
  {
    rule: "a sweep removes no file of a living client",
    file: "door.c",
    edits: [
      [
        "return removes ? os_bytes_lock(lock, byte) == 0 : !os_bytes_locked(lock, byte, 1);",
        "return !removes || os_bytes_lock(lock, byte) <= 0;",
      ],
    ],
    test: "a sweep removes what dead clients left, also beside living ones, and counts it before",
  },
  {
    rule: "a sweep without a lock removes no socket",
    file: "door.c",
    edits: [["if (lock < 0) return !removes;", "if (lock < 0) return true;"]],
    test: "a sweep needs no lock file, makes none, and leaves the files of an owner",
  },
  {
    rule: "a knock removes the door of a dead worker",
    file: "door.c",
    edits: [["else if (errno == ECONNREFUSED) unlinkat(dir, file, 0);", ""]],
    test: "a knock removes the door of a killed worker, and no other",
  },
  {
    rule: "a full door counts as knocked",
    file: "door.c",
    edits: [
      [
        "if (sent >= 0 || errno == EAGAIN) knocked++;",
        "if (sent >= 0) knocked++;\n\t\telse if (errno == EAGAIN) unlinkat(dir, file, 0);",
      ],
    ],
    test: "a door that nobody reads does not block the client, and counts as knocked",
  },
  {
    rule: "only files called like doors get a knock",
    file: "door.c",
    edits: [['if (!is_door(rest, ".door") || address_of', "if (address_of"]],
    test: "a file that is not called like a door gets no knock and stays, even if no process has it open",
  },
  {
    rule: "no door is opened in the directory of another user",
    file: "door.c",
    edits: [["\tif (is_foreign(dir)) return -SB_EPERM;\n", "\t(void)is_foreign;\n"]],
    test: "without descriptors there is no door and no knock, nor in the directory of another user",
  },
  {
    rule: "a door that may be alive is not removed",
    file: "door.c",
    edits: [
      [
        'if (is_door(rest, ".door") || is_door(rest, ".new")) return !socket_is_alive(dir, file);',
        'if (is_door(rest, ".door") || is_door(rest, ".new")) return true;',
      ],
    ],
    test: "a sweep finds out whether a process has the door open, and does not knock",
  },
  {
    rule: "no other user can reopen a region",
    file: "os_linux.c",
    edits: [["if (fchmod(fd, 0600) != 0) return memory_failed(fd, errno);", ""]],
    test: "a holder of a region's descriptor can neither resize nor unseal it, and its mode is 0600",
  },
  {
    rule: "statistics are sealed against other writers",
    file: "os_linux.c",
    edits: [["(readers_only ? F_SEAL_FUTURE_WRITE : 0)", "(readers_only ? 0 : 0)"]],
    test: "an observer can read the client's statistics, sees them change, and can write them in no way",
  },
  {
    rule: "a HELLO of another layout is refused",
    file: "attach.c",
    edits: [["hello.abi != SB_ABI || hello.fingerprint != SB_FINGERPRINT", "hello.abi != SB_ABI"]],
    test: "a HELLO of another version or another layout is EVERSION and tells the client's version",
  },
  {
    rule: "a mapping is not inherited by a fork",
    file: "os_linux.c",
    edits: [["madvise(start, bytes, MADV_DONTFORK);", ""]],
    test: "a forked child does not inherit the mapping, neither the client's nor the worker's",
  },
  {
    rule: "the counts of a stream are checked",
    file: "stream.c",
    edits: [["sent < flow->seen_sent || sent - flow->taken > ring", "sent < flow->seen_sent"]],
    test: "counts that no honest side could have written are CORRUPT",
    parts: ["client"],
  },
  {
    rule: "a reader that claims to have taken more than was sent is detected",
    file: "stream.c",
    edits: [["taken < flow->seen_taken || taken > flow->sent", "taken < flow->seen_taken"]],
    test: "counts that no honest side could have written are CORRUPT",
    parts: ["client"],
  },
  {
    rule: "a worker's stream counts are reset before the claim",
    file: "slot_worker.c",
    edits: [["if (flow->open) flow_reset(flow, &at->worker, false);", ""]],
    test: "a slot streams twice: nothing of the first stream is left",
    parts: ["worker"],
  },
  {
    rule: "the client does not read the worker's stream counts before the claim",
    file: "slot_client.c",
    edits: [["claimed ? &at->worker : NULL", "&at->worker"]],
    test: "a slot streams twice: nothing of the first stream is left",
  },
  {
    rule: "the client's stream counts are reset before its slot is free",
    file: "slot_client.c",
    edits: [["flow_reset(&link->flow[slot], &link->map.region->slot[slot].client, false);", ";"]],
    test: "a response streams through its ring many times over",
  },
  {
    rule: "a streamed response begins once",
    file: "slot_worker.c",
    edits: [
      [
        "worker->flow[slot].begun) return -SB_ESTALE;\n\tconst struct sb_header",
        "0) return -SB_ESTALE;\n\tconst struct sb_header",
      ],
    ],
    test: "more bytes than there is room for, or than were sent",
  },
  {
    rule: "the slot of a stream is quarantined while its worker writes",
    file: "slot_client.c",
    edits: [
      ["swap_word(&link->map, slot, streaming, abandoned)", "swap_word(&link->map, slot, streaming, streaming + 1)"],
    ],
    test: "a stream that its caller gives up ends",
  },
  {
    rule: "a reader that takes bytes wakes a writer that waits for room",
    file: "stream.c",
    edits: [["load_seq(&both->theirs->waiting) != 0", "false"]],
    test: "a request streams: the client sends when the worker has claimed",
  },
  {
    rule: "a writer sends no more than there is room for",
    file: "stream.c",
    edits: [["if (sent > flow_room(both->header, flow) || taken", "if (taken"]],
    test: "more bytes than there is room for, or than were sent",
  },
  {
    rule: "bytes that a worker sent can still be taken after its end",
    file: "slot_client.c",
    edits: [
      [
        "if (shadow != IN_FLIGHT && shadow != IN_STREAM && shadow != IN_QUARANTINE) return 0;",
        "if (shadow != IN_FLIGHT && shadow != IN_QUARANTINE) return 0;",
      ],
    ],
    test: "what a worker had sent before its end can still be taken",
  },
  {
    rule: "a full worker claims no request",
    file: "slot_worker.c",
    edits: [["if (worker->full && is_ready(worker, (uint32_t)slot))", "if (false)"]],
    test: "a full worker serves its streams",
  },
  {
    rule: "a full worker that parks checks its streams",
    file: "wait.c",
    edits: [
      [
        "return can_take ? worker_has_work(worker) : worker_flows_moved(worker);",
        "return can_take && worker_has_work(worker);",
      ],
    ],
    test: "a full worker serves its streams",
  },

  {
    rule: "a wait ends at SIGTERM",
    file: "sessions.c",
    edits: [["{ .fd = stop, .events", "{ .fd = -1, .events"]],
    test: "SIGTERM in any thread ends the wait of another, once",
  },
  {
    rule: "a worker that serves on after SIGTERM does not spin",
    file: "stop.c",
    edits: [["load_seq(&asked) == 0 ? begun[0] : -1", "begun[0]"]],
    test: "SIGTERM in any thread ends the wait of another, once",
  },
  {
    rule: "the last holder ends the process",
    file: "stop.c",
    edits: [["fetch_add_seq(&holders, (uint32_t)-1) != 1 || ", "fetch_add_seq(&holders, (uint32_t)-1), "]],
    test: "SIGTERM is seen at every descriptor, and ends the process when the last holder releases it",
  },
  {
    rule: "SIGTERM ends a process that has been released",
    file: "stop.c",
    edits: [["if (was_default() && left == 0) end_process();", "if (was_default() && left == 0) return;"]],
    test: "a process without a holder ends at SIGTERM, as if nobody had held it",
  },
  {
    rule: "a handler that runs once does not run before the end",
    file: "stop.c",
    edits: [["(previous.sa_flags & (int)SA_RESETHAND) != 0", "false"]],
    test: "a handler that runs once runs at the end, and a process that ignored SIGTERM ends too",
  },
  {
    rule: "the program's handler decides when the process ends",
    file: "stop.c",
    edits: [["if (is_installed() && was_default())", "if (true)"]],
    test: "a handler of the program's own is called too, and decides when the process ends",
  },
  {
    rule: "claims go round the clients",
    file: "sessions.c",
    edits: [["\t\tall->next = index;\n", ""]],
    test: "claims go round the clients",
  },
  {
    rule: "a full worker claims nothing in any session",
    file: "sessions.c",
    edits: [["\t\tworker->full = all->full;\n", ""]],
    test: "a worker without room claims nothing",
  },
  {
    rule: "a session that was removed is not polled",
    file: "sessions.c",
    edits: [["\tall->of[index] = NULL;\n", ""]],
    test: "a session that was removed is not polled",
  },
  {
    rule: "a worker has at most 64 sessions",
    file: "sessions.c",
    edits: [["\treturn -SB_EFULL;\n}\n\nvoid sb_sessions_remove", "\treturn 0;\n}\n\nvoid sb_sessions_remove"]],
    test: "a session gets the lowest free index",
  },
  {
    rule: "each client learns what the worker runs for the others",
    file: "sessions.c",
    edits: [["\t\tstore_relaxed(&worker->map.region->counters.elsewhere, worker->told_elsewhere);\n", ""]],
    test: "each client learns what the worker runs",
  },
  {
    rule: "all clients see that the event loop turns beside a busy client",
    file: "sessions.c",
    edits: [
      ["if (found == 0 || ++all->polls % SOME == 0) turned(all);", "(void)SOME;\n\tif (found == 0) turned(all);"],
    ],
    test: "all clients see that the event loop turns",
  },
  {
    rule: "a worker looks at each region again after it has set `parked` in all",
    file: "sessions.c",
    edits: [
      [
        "\t\tif (all->of[i] == NULL || !worker_finds(all->of[i], can_take)) continue;",
        "\t\tif (i > 0 || all->of[i] == NULL || !worker_finds(all->of[i], can_take)) continue;",
      ],
    ],
    test: "a parked worker is rung by each of its clients",
  },
  {
    rule: "a worker parks in each region",
    file: "sessions.c",
    edits: [
      [
        "\t\tif (all->of[i] != NULL) worker_parks(all->of[i], SB_PARK_SOCKET);",
        "\t\tif (i == 0 && all->of[i] != NULL) worker_parks(all->of[i], SB_PARK_SOCKET);",
      ],
    ],
    test: "a parked worker is rung by each of its clients",
  },
  {
    rule: "the bells of all sessions ring",
    file: "sessions.c",
    edits: [
      [
        "\t\tif (all->of[i] != NULL) sb_worker_ring(all->of[i]);",
        "\t\tif (i == 0 && all->of[i] != NULL) sb_worker_ring(all->of[i]);",
      ],
    ],
    test: "bells of all sessions are held",
  },
  {
    rule: "a wait names the session that has ended",
    file: "sessions.c",
    edits: [
      [
        "\t\tif (fds[i].revents != 0 && worker_drains(all->of[index[i]]) != 0)\n\t\t\treturn in_session(index[i], SB_SESSION_ENDED);",
        "\t\tif (fds[i].revents != 0 && worker_drains(all->of[index[i]]) != 0)\n\t\t\treturn in_session(index[0], SB_SESSION_ENDED);",
      ],
    ],
    test: "a worker that waits is woken by each client",
  },
  {
    rule: "a wait reads all knocks",
    file: "sessions.c",
    edits: [
      [
        "\twhile (os_socket_receive(door, client, sizeof client, NULL) > 0) any = true;",
        "\tif (os_socket_receive(door, client, sizeof client, NULL) > 0) any = true;",
      ],
    ],
    test: "knocks at the door end a wait once",
  },
  {
    rule: "the concurrency of a blocking worker counts the calls of all clients",
    file: "service.c",
    edits: [["open_calls(service) < service->concurrency", "service->attached > 0 || open_calls(service) == 0"]],
    test: "a worker of two clients answers each, and its concurrency counts the calls of both",
  },
  {
    rule: "a session that ended is kept until its last call was answered",
    file: "service.c",
    edits: [["service->left[service->left_count++] = worker;", ""]],
    test: "the body of a call stays readable when its client dies, and its answer is ESTALE",
  },
  {
    rule: "a blocking worker looks for clients again after a session ended",
    file: "service.c",
    edits: [["look(service); /* the client's successor may have come before its end was known */", ""]],
    test: "the successor of a client that died is found without a knock, also if it first hangs up",
  },
  {
    rule: "a blocking worker tries again when a client hangs up during the handshake",
    file: "service.c",
    edits: [["bool again = seat != service->seats && ", "bool again = seat == NULL && "]],
    test: "the successor of a client that died is found without a knock, also if it first hangs up",
  },
  {
    rule: "a handshake of a blocking worker ends after 2 s",
    file: "service.c",
    edits: [["HANDSHAKE_MS = 2000", "HANDSHAKE_MS = 7000"]],
    test: "a handshake that the client does not finish ends after 2 s, with ETIMEDOUT",
  },
  {
    rule: "a blocking worker makes one step of a handshake at a time",
    file: "service.c",
    edits: [
      [
        "if (error == 0) error = sb_worker_step(seat->worker, peer);",
        "for (bool more = error == 0; more; more = error == -SB_EAGAIN && elapsed_ns(os_now_ns(), now) < 200 * NS_PER_MS) error = sb_worker_step(seat->worker, peer);",
      ],
    ],
    test: "a client that never finishes its handshake delays no call of another client",
  },

  // ---- rules against hostile peers that no test misses, but inputs of `malformed.ts` do ----
  {
    rule: "lengths are within their arena",
    file: "region.c",
    edits: [
      ["body_offset >= head_bytes && (uint64_t)body_offset + body_bytes <= h->stride;", "body_offset >= head_bytes;"],
    ],
    parts: ["client"],
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
    parts: ["client"],
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
    parts: ["worker"],
  },
  {
    rule: "a status is one of HTTP, or 0",
    file: "region.c",
    edits: [["status_code == 0 || (status_code >= 200 && status_code <= 599)", "status_code < 0xffffffff"]],
    parts: ["client"],
  },
  {
    rule: "the worker takes a request once",
    file: "slot_worker.c",
    edits: [["if (generation <= worker->claimed[slot] || worker->generation[slot] != 0) return -SB_ECORRUPT;", ""]],
    parts: ["worker"],
  },
  {
    rule: "no request comes to a slot whose handler runs",
    file: "slot_worker.c",
    edits: [
      ["generation <= worker->claimed[slot] || worker->generation[slot] != 0", "generation <= worker->claimed[slot]"],
    ],
    parts: ["worker"],
  },
  {
    rule: "the worker takes no hint beyond the last slot",
    file: "slot_worker.c",
    edits: [
      ["exchange_seq(&ready->bits[i], 0) & slots_mask(slots, i);", "exchange_seq(&ready->bits[i], 0);(void)slots;"],
    ],
    parts: ["worker"],
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
    parts: ["client"],
  },
  {
    rule: "what was sent of a stream does not become less",
    file: "stream.c",
    edits: [["sent < flow->seen_sent || sent - flow->taken > ring", "sent - flow->taken > ring"]],
    parts: ["worker"],
  },
  {
    rule: "an error lies within the ring",
    file: "stream.c",
    edits: [[" || error_bytes > ring - (sent - flow->taken)", ""]],
    parts: ["client"],
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
    parts: ["worker"],
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
    parts: ["client"],
  },
  {
    rule: "memory has the size that its header says",
    file: "region.c",
    edits: [["!header_is_legal(&header) || header.region_bytes != bytes", "!header_is_legal(&header)"]],
    parts: ["hello"],
  },
  {
    rule: "a header's geometry adds up",
    file: "region.c",
    edits: [["if (h->arenas_offset != arenas_offset(h->slots)) return false;", ""]],
    parts: ["hello"],
  },
  {
    rule: "HELLO and header name the same life",
    file: "attach.c",
    edits: [["h->epoch == hello.epoch && ", ""]],
    parts: ["hello"],
  },
  {
    rule: "descriptors that nobody asked for are closed",
    file: "os_linux.c",
    edits: [["for (int i = 0; i < count; i++) close(fds[i]);", ""]],
    parts: ["hello"],
  },
  {
    rule: "a JOIN is read as far as it goes",
    file: "attach.c",
    edits: [["body_bytes < sizeof join ? body_bytes : sizeof join", "sizeof join"]],
    parts: ["join"],
  },
];

/** Rules with a test. */
export const nativeRules: Rule<NativeFile>[] = rules.filter((rule) => rule.test !== undefined);

/** Rules whose absence inputs of `malformed.ts` must notice, once for each part. */
export const attackedRules: (Edits<NativeFile> & { readonly part: Part })[] = rules.flatMap(({ parts = [], ...rule }) =>
  parts.map((part) => ({ ...rule, part })),
);
