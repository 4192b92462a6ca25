/** Rules of the C library in a fleet. */

import type { Rule } from "./rule.ts";

export type FleetFile = "fleet_file.c" | "fleet.c" | "lock.c" | "ring.c" | "lease.c";

const fileRules: Rule<FleetFile>[] = [
  {
    rule: "a fleet file with a mode other than 0600 is refused",
    file: "fleet_file.c",
    edits: [["(status.st_mode & 07777) != 0600 || status.st_nlink > 1", "status.st_nlink > 1"]],
    test: "a fleet's file that is not ours alone is refused",
  },
  {
    rule: "a fleet file with two names is refused",
    file: "fleet_file.c",
    edits: [["(status.st_mode & 07777) != 0600 || status.st_nlink > 1", "(status.st_mode & 07777) != 0600"]],
    test: "a fleet's file that is not ours alone is refused",
  },
  {
    rule: "a symbolic link in place of a fleet file is refused",
    file: "fleet_file.c",
    edits: [["O_RDONLY) | O_NOFOLLOW |", "O_RDONLY) |"]],
    test: "a fleet's file that is not ours alone is refused",
  },
  {
    rule: "anything but a regular file in place of a fleet file is refused",
    file: "fleet_file.c",
    edits: [["!S_ISREG(status.st_mode) || ", ""]],
    test: "a fleet's file that is not ours alone is refused",
  },
  {
    rule: "a FIFO in place of a fleet file blocks no member",
    file: "fleet_file.c",
    edits: [["O_CLOEXEC | O_NONBLOCK | O_NOCTTY", "O_CLOEXEC | O_NOCTTY"]],
    test: "a FIFO under a fleet's name is refused without",
  },
  {
    rule: "the length of a fleet file matches its header",
    file: "fleet_file.c",
    edits: [["header_is_legal(h) && h->file_bytes == bytes ?", "header_is_legal(h) ?"]],
    test: "a fleet's file that is cut short, or garbage",
  },
  {
    rule: "a fleet file's header matches the layout that its sizes give",
    file: "fleet_file.c",
    edits: [["header_is_legal(h) && h->file_bytes == bytes ?", "h->file_bytes == bytes ?"]],
    test: "a fleet's file that is cut short, or garbage",
  },
  {
    rule: "a member refuses a fleet file of another layout",
    file: "fleet_file.c",
    edits: [["h->abi != SB_FLEET_ABI || h->fingerprint != SB_FLEET_FINGERPRINT", "h->abi != SB_FLEET_ABI"]],
    test: "a fleet's file that is cut short, or garbage",
  },
  {
    rule: "a member holds the join lock while it joins",
    file: "fleet_file.c",
    edits: [
      [
        "if (error == 0) error = take_join_lock(fleet->fd);\n\t\tif (error == 0) error = join_file",
        "if (error == 0) error = join_file",
      ],
    ],
    test: "a fleet that somebody is stopped in the middle of joining says EBUSY",
  },
  {
    rule: "a member holds the join lock while it joins a fleet in memory",
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
    rule: "a fleet file without living members is replaced",
    file: "fleet_file.c",
    edits: [["if (!somebody_lives(fleet->fd)) { /* an orphan", "if (false) { /* an orphan"]],
    test: "a fleet whose members were all killed is an orphan",
  },
  {
    rule: "a fleet file with a living member is not replaced",
    file: "fleet_file.c",
    edits: [["if (!somebody_lives(fleet->fd)) { /* an orphan", "if (true) { /* an orphan"]],
    test: "the list of a fleet's members has the details of",
  },
  {
    rule: "a new fleet file never overwrites an existing one",
    file: "fleet_file.c",
    edits: [
      [
        "error = os_file_place(fleet->dir, temporary.text, file.text);",
        "error = renameat(fleet->dir, temporary.text, fleet->dir, file.text);",
      ],
    ],
    test: "eight processes make one fleet file although a stopped process keeps the turn",
    runs: 5,
  },
  {
    rule: "a member that waited for the join lock checks that the file still has its name",
    file: "fleet_file.c",
    edits: [["if (!file_is_named(fleet->dir, file.text, fleet->fd)) return -SB_EAGAIN;", ""]],
    test: "a process that waits to join a fleet whose file is",
  },
  {
    rule: "the last member removes only its own fleet file",
    file: "fleet_file.c",
    edits: [
      ["!somebody_lives(fleet->fd) && file_is_named(fleet->dir, file.text, fleet->fd)", "!somebody_lives(fleet->fd)"],
    ],
    test: "a process that waits to join a fleet whose file is",
  },
  {
    rule: "a fleet file is removed only by its last member",
    file: "fleet_file.c",
    edits: [["!somebody_lives(fleet->fd) && file_is_named(fleet->dir, file.text, fleet->fd)", "true"]],
    test: "the list of a fleet's members has the details of",
  },
  {
    rule: "a member holds the join lock while it checks whether it is the last",
    file: "fleet_file.c",
    edits: [["if (take_join_lock(fleet->fd) != 0) return;", ""]],
    test: "a member that leaves while another one joins",
  },
  {
    rule: "the maker of a fleet file locks the temporary file",
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
    rule: "temporary files of killed makers are removed",
    file: "fleet_file.c",
    edits: [["if (error == 0) remove_leftovers(fleet->dir, name);", ""]],
    test: "a fleet's temporary file is removed by the next member",
  },
  {
    rule: "a temporary file that another process is making is kept",
    file: "fleet_file.c",
    edits: [["os_bytes_lock(fd, JOIN_LOCK) == 0 && file_is_named", "file_is_named"]],
    test: "a fleet's temporary file is removed by the next member",
  },
  {
    rule: "the next epoch is higher even if the clock went back",
    file: "fleet_file.c",
    edits: [["if (h->epoch <= old->epoch) h->epoch = old->epoch + 1;", ""]],
    test: "a fleet whose members were all killed is an orphan",
  },
  {
    rule: "fencing tokens continue across epochs",
    file: "fleet_file.c",
    edits: [["if (h->first_token < token) h->first_token = token;", "(void)token;"]],
    test: "a fleet whose members were all killed is an orphan",
  },
  {
    rule: "a fleet in memory is zeroed for the next epoch",
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
    rule: "the next epoch's header is written before the old tokens are erased",
    file: "fleet_file.c",
    edits: [["if (pwrite(fleet->fd, h, sizeof *h, 0) != (ssize_t)sizeof *h) return system_failed(errno);", ""]],
    test: "a process killed after any single instruction of joining an orphan in memory",
  },
];

const memberRules: Rule<FleetFile>[] = [
  {
    rule: "a member's entry has a new incarnation before its byte is locked",
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
    rule: "a joining member is not listed before its entry is complete",
    file: "fleet.c",
    edits: [["\t\tstore_seq(&entry->pid, 0);\n", ""]],
    test: "a process that joins a fleet never looks like the member that was killed at its place",
  },
  {
    rule: "a reader of a member's entry checks the incarnation again after it has copied the entry",
    file: "lock.c",
    edits: [["return load_seq(&entry->incarnation) == out->incarnation;", "return true;"]],
    test: "a dead member of a fleet does not seem to live",
  },
  {
    rule: "a new member releases the locks of the dead member whose entry it took",
    file: "fleet.c",
    edits: [["give_locks_back(fleet);", ""]],
    test: "a fleet's locks that name a dead member are given back",
  },
  {
    rule: "a leaving member clears its entry before it wakes the waiters for its leases",
    file: "fleet_file.c",
    edits: [["store_seq(&fleet_member(fleet, fleet->index)->pid, 0);", ""]],
    test: "a member that leaves a fleet wakes nobody before its leases are free",
  },
  {
    rule: "a leaving member wakes the waiters for its leases",
    file: "fleet_file.c",
    edits: [["lease_wake(fleet);", ""]],
    test: "publishing in a fleet wakes parked members once, also",
  },
  {
    rule: "a leaving member unlocks its byte explicitly, not only by closing the file",
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
    rule: "a short lock is taken over only after its owner has ended",
    file: "lock.c",
    edits: [["return os_bytes_locked(fleet->fd, (uint64_t)SB_FLEET_LOCKS + owner, 1);", "return false;"]],
    test: "a fleet's lock whose owner is stopped is EBUSY",
  },
  {
    rule: "exactly one member takes over a dead owner's short lock",
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
    rule: "a member that takes over a short lock learns that it must repair",
    file: "lock.c",
    edits: [
      ["compare_exchange(word, seen, own) ? 1 : -SB_EAGAIN;", "compare_exchange(word, seen, own) ? 0 : -SB_EAGAIN;"],
    ],
    test: "a fleet's lock whose owner was killed is taken over once",
  },
  {
    rule: "releasing a short lock wakes its waiters",
    file: "lock.c",
    edits: [["if ((seen & SB_LOCK_WAITERS) != 0) os_futex_wake(word);", ""]],
    test: "unlocking a fleet's lock wakes the member that sleeps for it",
  },
  {
    rule: "an owner that is stopped inside a short lock delays others for a bounded time",
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
    rule: "`parked` names the waker until it has woken the sleepers",
    file: "lock.c",
    edits: [["\tstore_seq(parked, waking);\n", "\tstore_seq(parked, waking = 0);\n"]],
    test: "a sleeper of a fleet is woken before its flag is cleared",
  },
  {
    rule: "a waker clears `parked` only while its own mark is there",
    file: "lock.c",
    edits: [["(void)compare_exchange(parked, &waking, 0);", "store_seq(parked, waking = 0);"]],
    test: "a member that parks in a fleet after any single instruction of",
  },
];

const leaseRules: Rule<FleetFile>[] = [
  {
    rule: "a lease ends at its deadline",
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
    test: "a stopped holder keeps its leases, and a dead holder's leases are free at once",
  },
  {
    rule: "a lease belongs to one incarnation of its member",
    file: "lease.c",
    edits: [
      ["member == fleet->index) return incarnation == fleet->incarnation;", "member == fleet->index) return true;"],
    ],
    test: "a member that takes a dead one's place does not revive its leases",
  },
  {
    rule: "a tenure is identified by its token",
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
    rule: "a renewal never shortens a lease",
    file: "lease.c",
    edits: [["if (expires > lease.expires_ns) lease.expires_ns = expires;", "lease.expires_ns = expires;"]],
    test: "a renewal of a lease keeps its token and never shortens it",
  },
  {
    rule: "a lease entry's sequence number is odd while the entry is written",
    file: "lease.c",
    edits: [["\tstore_relaxed(&entry->seq, seq);\n\tatomic_thread_fence(memory_order_release);\n", ""]],
    test: "an entry of leases has another seq before anything of it changes",
  },
  {
    rule: "a reader of a lease checks the sequence number again after the copy",
    file: "lease.c",
    edits: [["if (seq % 2 == 0 && load_relaxed(&entry->seq) == seq) return sound;", "if (seq % 2 == 0) return sound;"]],
    test: "a reader of a lease that changes hands after any single instruction",
  },
  {
    rule: "a repair frees an entry that was being written",
    file: "lease.c",
    edits: [["seq != 0 && (seq % 2 != 0 || !copy_entry", "seq != 0 && (!copy_entry"]],
    test: "an impossible entry in a table of leases",
  },
  {
    rule: "a repair frees an impossible entry",
    file: "lease.c",
    edits: [["(seq % 2 != 0 || !copy_entry(entry, &lease))", "(seq % 2 != 0)"]],
    test: "an impossible entry in a table of leases",
  },
  {
    rule: "a repair wakes the waiters that the dead member may not have woken",
    file: "lease.c",
    edits: [["/* step: lease.repair.after */\n\tlease_wake(fleet);", ""]],
    test: "an impossible entry in a table of leases",
  },
  {
    rule: "the lease table is repaired when its lock is taken over",
    file: "lease.c",
    edits: [["if (locked == 1) lease_repair(fleet);", ""]],
    test: "a process killed after any single instruction of ending another's lease",
  },
  {
    rule: "the next token is stored before the current token is used",
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
    test: "a token of a lease is above the tokens of earlier epochs",
  },
  {
    rule: "a claim in a full table ends no lease",
    file: "lease.c",
    edits: [["if (entry == NO_ENTRY) return -SB_EFULL;", "if (entry == NO_ENTRY) entry = 0;"]],
    test: "a full table of leases refuses and takes nothing away",
  },
  {
    rule: "a dead holder's entry can be reused",
    file: "lease.c",
    edits: [["by_death < 2; by_death++", "by_death < 1; by_death++"]],
    test: "a stopped holder keeps its leases, and a dead holder's leases are free at once",
  },
  {
    rule: "a free entry has no hash",
    file: "lease.c",
    edits: [["store_relaxed(&fleet_leases(fleet)->hash[index], 0);", ""]],
    test: "a lease that is released is free at once",
  },
  {
    rule: "a reset is refused while another member lives",
    file: "lease.c",
    edits: [
      ["bool alone = sb_fleet_members(fleet, members) <= 1;", "bool alone = sb_fleet_members(fleet, members) > 0;"],
    ],
    test: "a reset ends every lease of a member that is alone",
  },
  {
    rule: "a member wakes the waiters before it ends another member's lease",
    file: "lease.c",
    edits: [["if (lease.member != fleet->index) lease_wake(fleet);", ""]],
    test: "a process killed after any single instruction of ending another's lease",
  },
  {
    rule: "the end of a lease wakes its waiters",
    file: "lease.c",
    edits: [["if (!ends) return -SB_ESTALE;\n\twake_waiters(fleet);", "if (!ends) return -SB_ESTALE;"]],
    test: "the end of a lease wakes parked members, and",
  },
  {
    rule: "a claim wakes the watchers",
    file: "lease.c",
    edits: [["if (result == 1) wake_watchers(fleet);", ""]],
    test: "a claim, a renewal and the end of a lease wake watchers once,",
  },
  {
    rule: "a member wakes the watchers before it ends another member's lease",
    file: "lease.c",
    edits: [["if (lease.member != fleet->index) lease_wake(fleet);", ""]],
    test: "a process killed after any single instruction of ending another's lease leaves no watcher asleep",
  },
  {
    rule: "a watcher checks the lock of the lease table before it sleeps",
    file: "lease.c",
    edits: [
      [
        "if ((load_seq(lock) & SB_LOCK_OWNER) == 0) return SB_POLL_WHEN_WOKEN;",
        "if (lock != NULL) return SB_POLL_WHEN_WOKEN;",
      ],
    ],
    test: "a watcher of leases reads again while one changes,",
  },
  {
    rule: "the leases of a member that left count as released",
    file: "lease.c",
    edits: [["return left ? SB_END_RELEASED : SB_END_DIED;", "return left ? SB_END_DIED : SB_END_DIED;"]],
    test: "a tenure was released, or it expired, or its member died; a member",
  },
  {
    rule: "the leases of a member that left count as released after its index was reused",
    file: "lease.c",
    edits: [
      [
        "bool left = load_seq(&fleet_member(fleet, member)->left) == incarnation;",
        "bool left = load_seq(&fleet_member(fleet, member)->pid) == 0;",
      ],
    ],
    test: "a tenure was released, or it expired, or its member died; a member",
  },
  {
    rule: "subjects of different kinds never compete",
    file: "lease.c",
    edits: [["memcmp(lease->kind, subject->kind, subject->kind_bytes) == 0 &&", ""]],
    test: "leases of subjects that have one hash never compete",
  },
];

const ringRules: Rule<FleetFile>[] = [
  {
    rule: "a frame's sequence number is odd while the frame is written",
    file: "ring.c",
    edits: [["\tstore_relaxed(&frame->seq, 2 * n + 1);\n", ""]],
    test: "a writer of a ring killed after any single instruction has published all of its event",
  },
  {
    rule: "a reader of a frame checks the sequence number again after the copy",
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
    rule: "the head moves after all frames are written",
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
    rule: "a writer wakes the readers before the head moves",
    file: "ring.c",
    edits: [
      ['int32_t woken = fleet_wake(fleet, &ring->parked); /* [sleep] locked, then "parked" */', ""],
      ["\treturn woken;\n", "\treturn fleet_wake(fleet, &ring->parked);\n"],
    ],
    test: "a writer of a ring killed after any single instruction has woken the readers",
  },
  {
    rule: "a reader that parks checks the ring's lock",
    file: "ring.c",
    edits: [["bool locked = (load_seq(&ring->lock) & SB_LOCK_OWNER) != 0;", "bool locked = false;"]],
    test: "a reader does not sleep while a writer holds the lock",
  },
  {
    rule: "a reader that parks checks the lock before it checks the head",
    file: "ring.c",
    edits: [
      ["\t\tbool locked = (load_seq(&ring->lock) & SB_LOCK_OWNER) != 0;\n", ""],
      ["\t\tif (!locked) return", "\t\tif ((load_seq(&ring->lock) & SB_LOCK_OWNER) == 0) return"],
    ],
    test: "a reader of a ring that parks does not sleep",
  },
  {
    rule: "a reader that parks checks the head",
    file: "ring.c",
    edits: [["if (load_seq(&ring->head) != cursor->position) return SB_POLL_NOW;", ""]],
    test: "a publication into a ring wakes parked readers once, and",
  },
  {
    rule: "a reader takes over the lock of a dead writer",
    file: "ring.c",
    edits: [["else if (!take_over(cursor)) return", "else return"]],
    test: "a reader does not sleep while a writer holds the lock",
  },
  {
    rule: "an event is read from its first frame on",
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
    rule: "an impossible event number is rejected",
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
    rule: "an event occupies at most a quarter of its ring",
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
    rule: "a repair recounts the events",
    file: "ring.c",
    edits: [["\t\tstore_relaxed(&ring->events, events);\n", "\t\t;\n"]],
    test: "a writer of a ring killed after any single instruction has published all of its event",
  },
  {
    rule: "events that a cursor lost before a record are counted",
    file: "ring.c",
    edits: [["batch->overwritten += (double)(head.event - cursor->event);", ""]],
    test: "what cursors of a ring lose is counted by the numbers of events",
  },
  {
    rule: "events that a cursor lost are counted when none is left to read",
    file: "ring.c",
    edits: [["if (believable) cursor->batch->overwritten += (double)(event - cursor->event);", ""]],
    test: "nonsense in the frames of a ring is lost",
  },
  {
    rule: "a loss is reported before the records of a batch, never between them",
    file: "ring.c",
    edits: [["if (result != TORN || cursor->batch->records > 0) break;", "if (result != TORN) break;"]],
    test: "nonsense in the frames of a ring is lost",
  },
  {
    rule: "a cursor ahead of its ring moves to the head",
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
