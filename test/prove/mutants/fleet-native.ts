/** The rules that the C library keeps in a fleet, and what is left without each. */

import type { Rule } from "./rule.ts";

export type FleetFile = "fleet_file.c" | "fleet.c" | "lock.c" | "ring.c" | "lease.c";

const fileRules: Rule<FleetFile>[] = [
  {
    rule: "a fleet's file is closed to others",
    file: "fleet_file.c",
    edits: [["(status.st_mode & 07777) != 0600 || status.st_nlink > 1", "status.st_nlink > 1"]],
    test: "a fleet's file that is not ours alone is refused",
  },
  {
    rule: "a fleet's file has one name",
    file: "fleet_file.c",
    edits: [["(status.st_mode & 07777) != 0600 || status.st_nlink > 1", "(status.st_mode & 07777) != 0600"]],
    test: "a fleet's file that is not ours alone is refused",
  },
  {
    rule: "a fleet's file is no symbolic link",
    file: "fleet_file.c",
    edits: [["O_RDONLY) | O_NOFOLLOW |", "O_RDONLY) |"]],
    test: "a fleet's file that is not ours alone is refused",
  },
  {
    rule: "a fleet's file is a file",
    file: "fleet_file.c",
    edits: [["!S_ISREG(status.st_mode) || ", ""]],
    test: "a fleet's file that is not ours alone is refused",
  },
  {
    rule: "a FIFO under a fleet's name holds nobody up",
    file: "fleet_file.c",
    edits: [["O_CLOEXEC | O_NONBLOCK | O_NOCTTY", "O_CLOEXEC | O_NOCTTY"]],
    test: "whoever looks at a FIFO under a fleet's name",
  },
  {
    rule: "a fleet's file is as long as its header says",
    file: "fleet_file.c",
    edits: [["header_is_legal(h) && h->file_bytes == bytes ?", "header_is_legal(h) ?"]],
    test: "a fleet's file that is cut short, or garbage",
  },
  {
    rule: "a fleet's header is what its sizes make, and nothing else",
    file: "fleet_file.c",
    edits: [["header_is_legal(h) && h->file_bytes == bytes ?", "h->file_bytes == bytes ?"]],
    test: "a fleet's file that is cut short, or garbage",
  },
  {
    rule: "two layouts of a fleet refuse each other",
    file: "fleet_file.c",
    edits: [["h->abi != SB_FLEET_ABI || h->fingerprint != SB_FLEET_FINGERPRINT", "h->abi != SB_FLEET_ABI"]],
    test: "a fleet's file that is cut short, or garbage",
  },
  {
    rule: "whoever joins a fleet has the join lock",
    file: "fleet_file.c",
    edits: [['if (error == 0) error = take_join_lock(fleet->fd);\n\t\tSB_POINT("fleet.join.locked");', ""]],
    test: "a fleet that somebody is stopped in the middle of joining says EBUSY",
  },
  {
    rule: "whoever joins a fleet in memory has the join lock",
    file: "fleet_file.c",
    edits: [
      [
        "if (error == 0) error = take_join_lock(fleet->fd);\n\tif (error == 0) error = read_header",
        "if (error == 0) error = read_header",
      ],
    ],
    test: "eight processes that join an orphan in memory at once",
    runs: 5,
  },
  {
    rule: "an orphan is replaced",
    file: "fleet_file.c",
    edits: [["if (!somebody_lives(fleet->fd)) { /* an orphan", "if (false) { /* an orphan"]],
    test: "a fleet whose members were all killed is an orphan",
  },
  {
    rule: "locks alone say that a fleet is an orphan",
    file: "fleet_file.c",
    edits: [["if (!somebody_lives(fleet->fd)) { /* an orphan", "if (true) { /* an orphan"]],
    test: "members of a fleet are listed with what they are",
  },
  {
    rule: "a new fleet is put where none is",
    file: "fleet_file.c",
    edits: [
      [
        "error = os_file_place(fleet->dir, temporary.text, file.text);",
        "error = renameat(fleet->dir, temporary.text, fleet->dir, file.text);",
      ],
    ],
    test: "eight processes that make a fleet at once",
    runs: 5,
  },
  {
    rule: "whoever has waited for a fleet's join lock looks whether the file still has its name",
    file: "fleet_file.c",
    edits: [["if (!file_is_named(fleet->dir, file.text, fleet->fd)) return -SB_EAGAIN;", ""]],
    test: "whoever waited to join a fleet whose file was removed meanwhile",
  },
  {
    rule: "the last of a fleet removes no file but its own",
    file: "fleet_file.c",
    edits: [
      ["!somebody_lives(fleet->fd) && file_is_named(fleet->dir, file.text, fleet->fd)", "!somebody_lives(fleet->fd)"],
    ],
    test: "whoever waited to join a fleet whose file was removed meanwhile",
  },
  {
    rule: "the last of a fleet removes its file, and nobody else does",
    file: "fleet_file.c",
    edits: [["!somebody_lives(fleet->fd) && file_is_named(fleet->dir, file.text, fleet->fd)", "true"]],
    test: "members of a fleet are listed with what they are",
  },
  {
    rule: "whoever judges that it is the last of a fleet has the join lock",
    file: "fleet_file.c",
    edits: [["if (take_join_lock(fleet->fd) != 0) return;", ""]],
    test: "a member that leaves while another one joins",
  },
  {
    rule: "a fleet's temporary file is locked by its maker",
    file: "fleet_file.c",
    edits: [
      [
        "if (error == 0) error = os_bytes_lock(fleet->fd, JOIN_LOCK);\n\tif (error == -SB_EBUSY)",
        "if (error == -SB_EBUSY)",
      ],
    ],
    test: "a fleet's temporary file is not taken for a leftover",
  },
  {
    rule: "what killed makers of a fleet have left is removed",
    file: "fleet_file.c",
    edits: [["if (error == 0) remove_leftovers(fleet->dir, name);", ""]],
    test: "a fleet's temporary file is removed by the next to join",
  },
  {
    rule: "what somebody makes is no leftover",
    file: "fleet_file.c",
    edits: [["os_bytes_lock(fd, JOIN_LOCK) == 0 && file_is_named", "file_is_named"]],
    test: "a fleet's temporary file is removed by the next to join",
  },
  {
    rule: "the next epoch is higher, whatever the clock says",
    file: "fleet_file.c",
    edits: [["if (h->epoch <= old->epoch) h->epoch = old->epoch + 1;", ""]],
    test: "a fleet whose members were all killed is an orphan",
  },
  {
    rule: "tokens go on over the epochs of a fleet",
    file: "fleet_file.c",
    edits: [["if (h->first_token < token) h->first_token = token;", "(void)token;"]],
    test: "a fleet whose members were all killed is an orphan",
  },
  {
    rule: "the memory of a fleet is emptied for the next epoch",
    file: "fleet_file.c",
    edits: [
      [
        "if (!os_memory_discard(fleet->file + SB_PAGE, h->file_bytes - SB_PAGE))\n" +
          "\t\tmemset(fleet->file + SB_PAGE, 0, h->file_bytes - SB_PAGE);",
        "",
      ],
    ],
    test: "a fleet in memory behaves the same",
  },
  {
    rule: "the next epoch is known before the tokens of the old one are gone",
    file: "fleet_file.c",
    edits: [
      [
        'if (pwrite(fleet->fd, h, sizeof *h, 0) != (ssize_t)sizeof *h) return system_failed(errno);\n\tSB_POINT("fleet.renew.begun");',
        "",
      ],
    ],
    test: "a process killed after any single instruction of joining an orphan in memory",
  },
];

const memberRules: Rule<FleetFile>[] = [
  {
    rule: "a member's entry is nobody's before its byte is locked",
    file: "fleet.c",
    edits: [
      ["\t\tstore_seq(&entry->pid, 0);\n\t\tstore_seq(&entry->incarnation, incarnation == 0 ? 1 : incarnation);\n", ""],
      [
        "\t\tfleet->index = index;\n",
        "\t\tstore_seq(&entry->pid, 0);\n\t\tstore_seq(&entry->incarnation, incarnation);\n\t\tfleet->index = index;\n",
      ],
    ],
    test: "a process that joins a fleet never looks like the member that was killed at its place",
  },
  {
    rule: "a member that joins is none before it has said who it is",
    file: "fleet.c",
    edits: [["\t\tstore_seq(&entry->pid, 0);\n", ""]],
    test: "a process that joins a fleet never looks like the member that was killed at its place",
  },
  {
    rule: "whoever asks for a member looks at its incarnation again",
    file: "lock.c",
    edits: [["return load_seq(&entry->incarnation) == out->incarnation;", "return true;"]],
    test: "a dead member of a fleet does not seem to live",
  },
  {
    rule: "a member gives back the locks of the dead one whose place it has",
    file: "fleet.c",
    edits: [['give_locks_back(fleet);\n\tSB_POINT("fleet.member.repaired");', ""]],
    test: "a fleet's locks that name a dead member are given back",
  },
  {
    rule: "a member that leaves is none when it wakes those who wait for its leases",
    file: "fleet_file.c",
    edits: [["store_seq(&fleet_member(fleet, fleet->index)->pid, 0);", ""]],
    test: "a member that leaves a fleet wakes nobody before its leases are free",
  },
  {
    rule: "a member that leaves wakes those who wait for its leases",
    file: "fleet_file.c",
    edits: [["lease_wake(fleet);", ""]],
    test: "whoever publishes in a fleet wakes who is parked",
  },
  {
    rule: "a member that leaves unlocks its byte by name",
    file: "fleet_file.c",
    edits: [["os_bytes_unlock(fleet->fd, 0, 0); /* as in let_go */", ""]],
    test: "a member that left its fleet is gone although a child of it still has the open file",
  },
  {
    rule: "a short lock names its owner's incarnation",
    file: "lock.c",
    edits: [["return fleet->incarnation << SB_LOCK_LIFE_SHIFT | (fleet->index + 1);", "return fleet->index + 1;"]],
    test: "a fleet's locks that name a dead member are given back",
  },
  {
    rule: "a short lock is taken from its owner when that has ended, and not before",
    file: "lock.c",
    edits: [["return os_bytes_locked(fleet->fd, (uint64_t)SB_FLEET_LOCKS + owner, 1);", "return false;"]],
    test: "a fleet's lock whose owner is stopped is EBUSY",
  },
  {
    rule: "a dead owner's short lock is taken over by one",
    file: "lock.c",
    edits: [
      [
        "if (!owner_lives(fleet, *seen)) return compare_exchange(word, seen, own) ? 1 : -SB_EAGAIN;",
        "if (!owner_lives(fleet, *seen)) {\n\t\tstore_seq(word, own);\n\t\treturn 1;\n\t}",
      ],
    ],
    test: "a fleet's lock whose owner was killed is taken over by one",
    runs: 5,
  },
  {
    rule: "a dead owner's short lock is taken over with the word to repair",
    file: "lock.c",
    edits: [
      ["compare_exchange(word, seen, own) ? 1 : -SB_EAGAIN;", "compare_exchange(word, seen, own) ? 0 : -SB_EAGAIN;"],
    ],
    test: "a fleet's lock whose owner was killed is taken over once",
  },
  {
    rule: "whoever gives a short lock back wakes those who wait for it",
    file: "lock.c",
    edits: [["if ((seen & SB_LOCK_WAITERS) != 0) os_futex_wake(word);", ""]],
    test: "whoever gives a fleet's lock back wakes who sleeps for it",
  },
  {
    rule: "who is stopped in a short lock holds others up for a bounded time",
    file: "lock.c",
    edits: [
      [
        "if (elapsed_ns(now, moved) >= SB_LOCK_MS * ms) return",
        "if (elapsed_ns(now, moved) >= 4 * SB_LOCK_MS * ms) return",
      ],
    ],
    test: "a fleet's lock whose owner is stopped is EBUSY",
  },
  {
    rule: "whoever wakes is named until it has woken",
    file: "lock.c",
    edits: [["\tstore_seq(parked, waking);\n", "\tstore_seq(parked, waking = 0);\n"]],
    test: "a sleeper of a fleet is woken before its flag is cleared",
  },
  {
    rule: "whoever wakes clears no flag but the one that it has seen",
    file: "lock.c",
    edits: [["(void)compare_exchange(parked, &waking, 0);", "store_seq(parked, waking = 0);"]],
    test: "whoever parks in a fleet after any single instruction of a waking",
  },
];

const leaseRules: Rule<FleetFile>[] = [
  {
    rule: "a lease is over at its time",
    file: "lease.c",
    edits: [["return lease->expires_ns > now && member_lives", "return member_lives"]],
    test: "a lease is over when its deadline is now",
  },
  {
    rule: "a lease ends with its holder",
    file: "lease.c",
    edits: [
      [
        "return lease->expires_ns > now && member_lives(fleet, lease->member, lease->incarnation, NULL);",
        "return lease->expires_ns > now;",
      ],
    ],
    test: "a stopped holder keeps its leases, and those of a dead one are free at once",
  },
  {
    rule: "a lease is of one incarnation",
    file: "lease.c",
    edits: [
      ["member == fleet->index) return incarnation == fleet->incarnation;", "member == fleet->index) return true;"],
    ],
    test: "a member that takes a dead one's place does not revive its leases",
  },
  {
    rule: "a tenure is known by its token",
    file: "lease.c",
    edits: [
      [
        "return copy_entry(entry_at(fleet, entry), out) && (double)out->token == token;",
        "return copy_entry(entry_at(fleet, entry), out) || token < 0;",
      ],
    ],
    test: "a lease that is released is free at once",
  },
  {
    rule: "a renewal never shortens",
    file: "lease.c",
    edits: [["if (expires > lease.expires_ns) lease.expires_ns = expires;", "lease.expires_ns = expires;"]],
    test: "a renewal of a lease keeps its token and never shortens it",
  },
  {
    rule: "an entry of leases is odd while it is written",
    file: "lease.c",
    edits: [["\tstore_relaxed(&entry->seq, seq);\n\tatomic_thread_fence(memory_order_release);\n", ""]],
    test: "an entry of leases has another seq before anything of it changes",
  },
  {
    rule: "a reader of a lease looks again after it has copied",
    file: "lease.c",
    edits: [["if (seq % 2 == 0 && load_relaxed(&entry->seq) == seq) return sound;", "if (seq % 2 == 0) return sound;"]],
    test: "a reader of a lease that changes hands after any single instruction",
  },
  {
    rule: "a repair frees what was being written",
    file: "lease.c",
    edits: [["seq != 0 && (seq % 2 != 0 || !copy_entry", "seq != 0 && (!copy_entry"]],
    test: "nonsense in a table of leases is nobody's",
  },
  {
    rule: "a repair frees what nobody can have written",
    file: "lease.c",
    edits: [["(seq % 2 != 0 || !copy_entry(entry, &lease))", "(seq % 2 != 0)"]],
    test: "nonsense in a table of leases is nobody's",
  },
  {
    rule: "a repair wakes those whom the dead one may not have told",
    file: "lease.c",
    edits: [['SB_POINT("lease.repair.after");\n\tlease_wake(fleet);', ""]],
    test: "nonsense in a table of leases is nobody's",
  },
  {
    rule: "the table of leases is repaired when its lock is taken over",
    file: "lease.c",
    edits: [["if (locked == 1) lease_repair(fleet);", ""]],
    test: "a process killed after any single instruction of ending another's lease",
  },
  {
    rule: "the next token is stored before one is used",
    file: "lease.c",
    edits: [
      ["\tstore_relaxed(&table->next_token, token + 1);\n", ""],
      [
        "\twrite_tenure(fleet, entry, lease, subject->hash);\n",
        "\twrite_tenure(fleet, entry, lease, subject->hash);\n\tstore_relaxed(&fleet_leases(fleet)->next_token, lease->token + 1);\n",
      ],
    ],
    test: "a process killed after any single instruction of a claim",
  },
  {
    rule: "no token is below the first of its epoch",
    file: "lease.c",
    edits: [["if (token < fleet->header.first_token) token = fleet->header.first_token;", ""]],
    test: "a token of a lease is above those of earlier epochs",
  },
  {
    rule: "a full table takes nothing away",
    file: "lease.c",
    edits: [["if (entry == NO_ENTRY) return -SB_EFULL;", "if (entry == NO_ENTRY) entry = 0;"]],
    test: "a full table of leases refuses and takes nothing away",
  },
  {
    rule: "a dead holder's entry is free for others",
    file: "lease.c",
    edits: [["by_death < 2; by_death++", "by_death < 1; by_death++"]],
    test: "a stopped holder keeps its leases, and those of a dead one are free at once",
  },
  {
    rule: "an entry that is free has no hash",
    file: "lease.c",
    edits: [["store_relaxed(&fleet_leases(fleet)->hash[index], 0);", ""]],
    test: "a lease that is released is free at once",
  },
  {
    rule: "nobody resets the leases of others",
    file: "lease.c",
    edits: [
      ["bool alone = sb_fleet_members(fleet, members) <= 1;", "bool alone = sb_fleet_members(fleet, members) > 0;"],
    ],
    test: "a reset ends every lease of a member that is alone",
  },
  {
    rule: "who ends another's lease wakes before",
    file: "lease.c",
    edits: [["if (lease.member != fleet->index) lease_wake(fleet);", ""]],
    test: "a process killed after any single instruction of ending another's lease",
  },
  {
    rule: "the end of a lease wakes",
    file: "lease.c",
    edits: [["if (!ends) return -SB_ESTALE;\n\twake_waiters(fleet);", "if (!ends) return -SB_ESTALE;"]],
    test: "the end of a lease wakes whoever is parked",
  },
  {
    rule: "a claim is told to those who watch",
    file: "lease.c",
    edits: [["if (result == 1) wake_watchers(fleet);", ""]],
    test: "a claim, a renewal and the end of a lease wake whoever watches",
  },
  {
    rule: "the end of another's lease is told to those who watch before it is there",
    file: "lease.c",
    edits: [["if (lease.member != fleet->index) lease_wake(fleet);", ""]],
    test: "a process killed after any single instruction of ending another's lease leaves no watcher asleep",
  },
  {
    rule: "those who watch leases look at the lock of the table",
    file: "lease.c",
    edits: [
      [
        "if ((load_seq(lock) & SB_LOCK_OWNER) == 0) return SB_POLL_WHEN_WOKEN;",
        "if (lock != NULL) return SB_POLL_WHEN_WOKEN;",
      ],
    ],
    test: "who watches leases looks again while somebody changes one",
  },
  {
    rule: "a member that left has not died",
    file: "lease.c",
    edits: [["return left ? SB_END_RELEASED : SB_END_DIED;", "return left ? SB_END_DIED : SB_END_DIED;"]],
    test: "a tenure was released, or its time was over, or its member died",
  },
  {
    rule: "a member that left has not died when another one has its index",
    file: "lease.c",
    edits: [
      [
        "bool left = load_seq(&fleet_member(fleet, member)->left) == incarnation;",
        "bool left = load_seq(&fleet_member(fleet, member)->pid) == 0;",
      ],
    ],
    test: "a tenure was released, or its time was over, or its member died",
  },
  {
    rule: "kinds never compete",
    file: "lease.c",
    edits: [["memcmp(lease->kind, subject->kind, subject->kind_bytes) == 0 &&", ""]],
    test: "leases of subjects that have one hash never compete",
  },
];

const ringRules: Rule<FleetFile>[] = [
  {
    rule: "a frame is odd while it is written",
    file: "ring.c",
    edits: [["\tstore_relaxed(&frame->seq, 2 * n + 1);\n", ""]],
    test: "a writer of a ring killed after any single instruction has published all of its event",
  },
  {
    rule: "a reader of a frame looks again after it has copied",
    file: "ring.c",
    edits: [
      [
        "atomic_thread_fence(memory_order_acquire);\n\treturn load_relaxed(&frame->seq) == seq_of(n);",
        "return frame != NULL && n < POSITIONS;",
      ],
    ],
    test: "a reader of a ring that is lapped after any single instruction of a poll",
  },
  {
    rule: "the head moves last",
    file: "ring.c",
    edits: [
      ["\tstore_seq(&ring->head, n + parts); /* [head] */\n", ""],
      [
        "\tfor (; head.part < parts; head.part++) {\n",
        "\tstore_seq(&ring->head, n + parts);\n\tfor (; head.part < parts; head.part++) {\n",
      ],
    ],
    test: "a writer of a ring killed after any single instruction has published all of its event",
  },
  {
    rule: "a writer wakes before the head moves",
    file: "ring.c",
    edits: [
      ['int32_t woken = fleet_wake(fleet, &ring->parked); /* [sleep] locked, then "parked" */', ""],
      ["\treturn woken;\n", "\treturn fleet_wake(fleet, &ring->parked);\n"],
    ],
    test: "a writer of a ring killed after any single instruction has woken who slept",
  },
  {
    rule: "a reader that parks looks at the lock",
    file: "ring.c",
    edits: [["bool locked = (load_seq(&ring->lock) & SB_LOCK_OWNER) != 0;", "bool locked = false;"]],
    test: "a reader does not sleep while a writer holds the lock",
  },
  {
    rule: "a reader that parks looks at the lock, then at the head",
    file: "ring.c",
    edits: [
      ["\t\tbool locked = (load_seq(&ring->lock) & SB_LOCK_OWNER) != 0;\n", ""],
      ["\t\tif (!locked) return", "\t\tif ((load_seq(&ring->lock) & SB_LOCK_OWNER) == 0) return"],
    ],
    test: "a reader of a ring that parks does not sleep",
  },
  {
    rule: "a reader that parks looks at the head",
    file: "ring.c",
    edits: [["if (load_seq(&ring->head) != cursor->position) return SB_POLL_NOW;", ""]],
    test: "a publication into a ring wakes whoever is parked once",
  },
  {
    rule: "a reader takes over the lock of a dead writer",
    file: "ring.c",
    edits: [["else if (!take_over(cursor)) return", "else return"]],
    test: "a reader does not sleep while a writer holds the lock",
  },
  {
    rule: "an event begins at its first frame",
    file: "ring.c",
    edits: [
      [
        "if (head.part != 0 || !fits(cursor->geometry, head.bytes)) return TORN;",
        "if (!fits(cursor->geometry, head.bytes)) return TORN;",
      ],
      ["if (load_relaxed(&frame->part) != part || !is_still_there", "if (!is_still_there"],
    ],
    test: "nonsense in the frames of a ring is lost",
  },
  {
    rule: "a number of an event that cannot be is not believed",
    file: "ring.c",
    edits: [
      [
        "if (n + parts > end || !is_believable(cursor, n, head.event)) return TORN;",
        "if (n + parts > end) return TORN;",
      ],
    ],
    test: "nonsense in the frames of a ring is lost",
  },
  {
    rule: "the length of an event is checked before it is used",
    file: "ring.c",
    edits: [
      ["if (head.part != 0 || !fits(cursor->geometry, head.bytes)) return TORN;", "if (head.part != 0) return TORN;"],
      ["if (n + parts > end || !is_believable", "if (!is_believable"],
    ],
    test: "nonsense in the frames of a ring is lost",
  },
  {
    rule: "an event has a quarter of its ring at most",
    file: "ring.c",
    edits: [["bytes > fleet->staging_bytes || !fits(geometry, bytes)", "bytes > fleet->staging_bytes"]],
    test: "the largest event of a ring is a quarter of it",
  },
  {
    rule: "a ring is repaired when its lock is taken over",
    file: "ring.c",
    edits: [["if (locked == 1) ring_repair(fleet, index);", ""]],
    test: "a writer of a ring killed after any single instruction has published all of its event",
  },
  {
    rule: "a repair counts the events anew",
    file: "ring.c",
    edits: [["\t\tstore_relaxed(&ring->events, events);\n", "\t\t;\n"]],
    test: "a writer of a ring killed after any single instruction has published all of its event",
  },
  {
    rule: "what a cursor lost before a record is counted",
    file: "ring.c",
    edits: [["batch->overwritten += (double)(head.event - cursor->event);", ""]],
    test: "what cursors of a ring lose is counted by the numbers of events",
  },
  {
    rule: "what a cursor lost when nothing is left is counted",
    file: "ring.c",
    edits: [["if (believable) cursor->batch->overwritten += (double)(event - cursor->event);", ""]],
    test: "nonsense in the frames of a ring is lost",
  },
  {
    rule: "a loss is told before records, not among them",
    file: "ring.c",
    edits: [["if (result != TORN || cursor->batch->records > 0) break;", "if (result != TORN) break;"]],
    test: "nonsense in the frames of a ring is lost",
  },
  {
    rule: "a cursor that is ahead of its ring stands at the head",
    file: "ring.c",
    edits: [
      [
        "if (cursor->position > end || end > POSITIONS) stand_at_head(cursor);",
        "if (end > POSITIONS) stand_at_head(cursor);",
      ],
    ],
    test: "a head of a ring that cannot be",
  },
];

export const fleetNativeRules: Rule<FleetFile>[] = [...fileRules, ...memberRules, ...ringRules, ...leaseRules];
