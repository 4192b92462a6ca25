/** Turns of phrase that readers had to read twice do not occur in comments, messages and pages. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";

const root = resolve(import.meta.dir, "..");
const SHOWN = 12;

interface Turn {
  readonly name: string;
  /** A space stands for any space, also for a line break with the comment marker of the next line. */
  readonly pattern: string;
  readonly why: string;
}

const turns: readonly Turn[] = [
  {
    name: "whoever",
    pattern: "[Ww]hoever",
    why: "Name the actor: “Whoever ends a lease wakes it” → “The member that ends a lease wakes the waiter”.",
  },
  {
    name: "whatever",
    pattern: "[Ww]hatever",
    why: "Say what does not matter: “whatever the umask” → “regardless of the umask”, “whatever its size” → “of any size”.",
  },
  {
    name: "is meant",
    pattern: "(?:be|is|are|was|were) meant",
    why: "Say what is wrong: “the command line cannot be meant” → “invalid usage”.",
  },
  {
    name: "be had",
    pattern: "be had",
    why: "Use the field's verb: “memory could not be had” → “Cannot allocate memory”.",
  },
  {
    name: "is no X",
    pattern: "(?<![Tt]here )(?:is|are|was|were) no (?!longer|more|slower|faster|larger|smaller|other|such)[a-z]+",
    why: "“X is no pattern” → “X is not a valid pattern”. “There is no worker” is fine.",
  },
  {
    name: "is to be no more",
    pattern: "to be no more|is no more(?=[.,;:)])",
    why: "“when it is to be no more” → “when it is removed”.",
  },
  {
    name: "know of",
    pattern: "[Kk]nows? of",
    why: "“what a handler knows of its call” → “what a handler knows about its call”, or name the data.",
  },
  {
    name: "hear of, tell of",
    pattern: "(?<!const )(?:[Hh]ears?|heard|[Tt]ells?|told) of",
    why: "“hears of the death” → “is notified of the death”; “tells of” → “reports”.",
  },
  {
    name: "let go of",
    pattern: "[Ll](?:et|ets|etting) go of",
    why: "“lets go of the memory” → “releases the memory”.",
  },
  {
    name: "is so",
    pattern: "(?<!says what )(?:is|are) so(?=[.,;:)]| already| too| many)",
    why: "Repeat the fact: “if it is so already” → “if the hold is already set”.",
  },
  {
    name: "is none",
    pattern: "(?<![Tt]here )(?:is|are|was) none",
    why: "“one that is unknown is none” → “Does nothing if it does not exist”. “There is none” is fine.",
  },
  {
    name: "as many as there are",
    pattern: "as many as (?:there are|ever|is to|are to)",
    why: "Name the number: “or as many as there are errors” → “or one per error”.",
  },
  { name: "such a one", pattern: "such an? one", why: "Repeat the noun." },
  {
    name: "by hand",
    pattern: "by hand",
    why: "“written by hand” → “written manually”, or say who does it.",
  },
  { name: "its like", pattern: "(?:its|their) like", why: "“Write their like” → “Write similar tests”." },
  { name: "beyond that", pattern: "[Bb]eyond that", why: "Name the limit: “beyond `limit`”, “above 450 lines”." },
  {
    name: "of which",
    pattern: "of which",
    why: "Make two sentences: “1 GiB, of which nothing is used” → “1 GiB of address space. No page is allocated until …”.",
  },
  { name: "anew", pattern: "anew", why: "“begins anew” → “starts again”; “stored anew” → “stored again”." },
  {
    name: "is to + verb",
    pattern: "(?:is|are|was|were) to (?!the|a|an|its|their|this|that|each|all|one|[A-Z])[a-z]+",
    why: "“the other side is to be told” → “the other side must be notified”; “is to wait” → “waits”.",
  },
  {
    name: "but for",
    pattern: "but for(?! (?:a|an|the) \\w+ (?:time|while))",
    why: "“all but for `name`” → “all except `name`”.",
  },
  { name: "none but", pattern: "(?:none|nobody|nothing) but", why: "“none but the owner” → “only the owner”." },
  {
    name: "the first to",
    pattern: "the (?:first|next|last) to (?!the)[a-z]+",
    why: "Name the actor: “the next to join replaces it” → “the next member that joins replaces it”.",
  },
  { name: "nothing of it", pattern: "nothing of it", why: "“writes nothing of it” → “does not write it”." },
  {
    name: "that which",
    pattern: "that which",
    why: "Name the thing: “that which replaces it” → “the file that replaces it”.",
  },
  {
    name: "come again",
    pattern: "comes? again",
    why: "“a header that comes again” → “a repeated header”; “the worker reconnects”.",
  },
  {
    name: "be told",
    pattern: "(?:be|is|are|was) told(?! (?:apart|from|by))",
    why: "“nobody is told” → “no event is emitted”; “is told” → “gets”, “receives”.",
  },
  { name: "is at it", pattern: "is at it", why: "“7 is at it” → “7 is already working on it”, “7 holds the lease”." },
  {
    name: "those of",
    pattern: "[Tt]hose of",
    why: "Repeat the noun: “above those of the file” → “above the tokens of the file”.",
  },
  {
    name: "that of",
    pattern: "(?:[Ii]s|to|by|with|as|[Ll]ike|than|from|or|and) that of",
    why: "Repeat the noun: “that of the lease” → “the lease's `ttl`”.",
  },
  {
    name: "so many",
    pattern: "so many",
    why: "“waits for so many bytes” → “waits for that many bytes”, or name the number.",
  },
  {
    name: "of one that",
    pattern: "(?:of|for|to|by|with|from|in) one that",
    why: "Repeat the noun: “the id of one that is open” → “the id of an open request”.",
  },
  {
    name: "to who",
    pattern: "(?:to|of|up|for|by|lets in) who",
    why: "Name the actor: “holds up who publishes” → “delays publishers”.",
  },
  { name: "one's own", pattern: "[Oo]ne's own", why: "“a server of one's own” → “your own server”." },
  { name: "he, him", pattern: "(?:[Hh]e|[Hh]im)(?![-'’])", why: "A process, member or thread is “it”." },
  {
    name: "in its turn",
    pattern: "in (?:its|their) turn",
    why: "“what a worker starts in its turn” → “child processes of the worker”.",
  },
  {
    name: "any more",
    pattern: "any more",
    why: "“reads nothing any more” → “no longer reads”, “has stopped reading”.",
  },
  {
    name: "as it stands",
    pattern: "as it stands",
    why: "“as it stands in the JSON” → “as printed in the JSON”; “unchanged”.",
  },
  {
    name: "the one before",
    pattern: "the one (?:before|after)",
    why: "“twice the one before” → “twice the previous pause”.",
  },
  { name: "in vain", pattern: "in vain", why: "“a spin in vain” → “a spin that found nothing”." },
];

/** What may be between two words of a turn: spaces, or a line break and the comment marker of the next line. */
const GAP = String.raw`(?:[ \t]+|[ \t]*\n[ \t]*(?:\*|//|#|>)?[ \t]*)`;

function expressionOf({ pattern }: Turn): RegExp {
  return new RegExp(String.raw`(?<![\w-])(?:${pattern.replaceAll(" ", GAP)})(?!\w)`, "g");
}

function texts(): [file: string, text: string][] {
  const folders = new Bun.Glob("{src,csrc,docs,examples,bench,test}/**/*.{ts,c,h,md,py,sh,html,pml}");
  const top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "build.zig", "pack.ts"];
  const files = [...folders.scanSync({ cwd: root }), ...top];
  const ours = files.filter((file) => !file.includes("node_modules/") && file !== "test/english.test.ts");
  return ours.sort().map((file) => [file, readFileSync(join(root, file), "utf8")]);
}

const all = texts();

for (const turn of turns) {
  test(`“${turn.name}” does not occur`, () => {
    const expression = expressionOf(turn);
    const places: string[] = [];
    for (const [file, text] of all) {
      for (const match of text.matchAll(expression)) {
        const line = text.slice(0, match.index).split("\n").length;
        places.push(`${file}:${line}: “${match[0].replaceAll(/\s+/g, " ")}”`);
      }
    }
    if (places.length === 0) return;
    const more = places.length > SHOWN ? `\n  and ${places.length - SHOWN} more` : "";
    throw new Error(`${turn.why}\n  ${places.slice(0, SHOWN).join("\n  ")}${more}`);
  });
}

test("a turn is found across a line break inside a comment, and not inside a longer word", () => {
  const turn = turns.find(({ name }) => name === "hear of, tell of")!;
  expect("/* It hears\n * of the end. */").toMatch(expressionOf(turn));
  expect("// It hears\n\t// of the end.").toMatch(expressionOf(turn));
  expect("retells offers").not.toMatch(expressionOf(turn));
});
