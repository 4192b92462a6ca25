/** The judge of memory that the proofs `hub` and `together` use, with a real leak. */

import { expect, test } from "bun:test";
import { count, Course, leakSome } from "./prove/memory.ts";

const POINTS = 10;
/** Requests between two points. */
const REQUESTS = 20_000;

/** What the judge says of this process if each request leaks that many bytes. */
function complaints(bytes: number): string[] {
  const course = new Course("test");
  for (let point = 0; point <= POINTS; point++) {
    course.add(point * REQUESTS, count());
    for (let n = 0; n < REQUESTS; n++) leakSome(bytes);
  }
  const heard: string[] = [];
  course.judge((what) => heard.push(what));
  return heard;
}

test("a leak of 20 bytes per request is found by the slope of the heap, and none where none is", () => {
  expect(complaints(0)).toEqual([]);
  const [found = "", ...more] = complaints(20);
  expect(found).toMatch(/^the heap of the test grows by (19|20|21)\.\d bytes per request$/);
  expect(more).toEqual([]);
});
