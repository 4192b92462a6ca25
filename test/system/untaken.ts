/** Lines of csrc that no test takes, in groups, each with its reason. coverage.ts fails when another line is not taken. */

export const UNTAKEN: { reason: string; lines: Record<string, string[]> }[] = [
  {
    reason: "Another process would have to act between two calls of this one, a hundred times in a row or just once.",
    lines: {
      "name.c": ["return -SB_EAGAIN;"],
      "os_linux.c": ["close(statm);", "statm = -1;"],
    },
  },
  {
    reason:
      "Only when a call fails on a directory that has just worked: no memory, no space, or it is removed meanwhile.",
    lines: {
      "door.c": [
        "return fail_with(-SB_ESYS, errno);",
        "error = fail_with(-SB_ESYS, errno);",
        "unlinkat(dir, made.text, 0);",
        "return error;",
        "return error;",
        "close(fd);",
        "sb_fd_close(fd);",
      ],
      "name.c": ["client = fail_with(-SB_ESYS, errno);"],
    },
  },
  {
    reason: "Only on Linux before 6.5, which has no SO_PEERPIDFD, and if the peer ends between two calls.",
    lines: { "os_linux.c": ["if (pidfd >= 0) close(pidfd);", "return -SB_ECLOSED;"] },
  },
  {
    reason: "Only in a kernel without memory for a signalfd, when the launcher starts.",
    lines: { "launcher/launcher.c": ['say("error", errno);', "return 127;"] },
  },
  {
    reason:
      "Cannot be taken: the loop ends before; the process has killed itself; gcov counts no head of an endless loop.",
    lines: {
      "attach.c": ["case ATTACHED: break;"],
      "launcher/launcher.c": ["return 128 + WTERMSIG(status);", "for (;;) {"],
    },
  },
  {
    reason: "A blocking worker in a directory of another user has no door, and looks for clients each second.",
    lines: { "service.c": ["service->look_ns = now + LOOK_MS * NS_PER_MS;", "look(service);"] },
  },
  {
    reason: "The faults of system calls and allocations do not run the blocking worker.",
    lines: { "service.c": ["free(service);", "sb_sessions_close(sessions);", "return NULL;"] },
  },
];
