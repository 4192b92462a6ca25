/** Leases in a key-value bucket: names, values and times. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { checkVersion, entryOf, tokenOf } from "../src/contest/nats/bucket.ts";
import { placeOf } from "../src/contest/nats/follow.ts";
import {
  bucketOf,
  deadlineOf,
  decodeRecord,
  encodeRecord,
  keyOf,
  type LeaseRecord,
  renewedTtl,
  serverSeconds,
  subjectOf,
  timesOf,
} from "../src/contest/nats/record.ts";
import { decodeToken, encodeToken } from "../src/nats/token.ts";

const record: LeaseRecord = { owner: "mailer 3", id: "a".repeat(22), token: 7, ttl: 1_500, held: 40, pid: 12 };

test("any text is one token of a subject and of a key, and comes back from it", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 40 }), (text) => {
      if (!text.isWellFormed()) return;
      const token = encodeToken(text);
      expect(token).toMatch(/^[A-Za-z0-9_=-]+$/);
      expect(decodeToken(token)).toBe(text);
    }),
  );
  expect([encodeToken(""), encodeToken("a.b>*é"), encodeToken("a_b-C9")]).toEqual(["=", "a=2Eb=3E=2A=C3=A9", "a_b-C9"]);
});

test("a token that no text has is not decoded", () => {
  for (const token of ["=4", "=41", "=c3=a9", "=C3", "a.b", "a b", "==", "=FF=", "", "*"])
    expect([token, decodeToken(token)]).toEqual([token, null]);
});

test("the key of a subject has two tokens, and other keys have no subject", () => {
  const subject = { kind: "invoice.eu", label: "2041/é" };
  expect(keyOf(subject)).toBe("invoice=2Eeu.2041=2F=C3=A9");
  expect(subjectOf(keyOf(subject))).toEqual(subject);
  for (const key of ["a", "a.b.c", "a.", ".a", "a.=", "=00.a", `${"k".repeat(65)}.a`, `a.${"l".repeat(193)}`])
    expect([key, subjectOf(key)]).toEqual([key, null]);
});

test("each prefix and fleet has a bucket of its own, with a valid name", () => {
  const all = ["slotbus", "slotbus-a", "slotbus.a", "slotbus_a"].flatMap((prefix) =>
    ["a", "b", "a-b", "a.b", "a_b", "a_2Eb", "2Eb"].map((fleet) => bucketOf(prefix, fleet)),
  );
  expect(new Set(all).size).toBe(all.length);
  for (const bucket of all) expect(bucket).toMatch(/^[A-Za-z0-9_-]+$/);
  expect(bucketOf("slotbus", "shop")).toBe("slotbus-shop");
});

test("a record comes back from its value, and a value that is not a record is refused", () => {
  expect(decodeRecord(encodeRecord(record))).toEqual(record);
  const wrong: Record<string, unknown>[] = [
    { v: 2 },
    { owner: "" },
    { owner: "x".repeat(65) },
    { owner: 1 },
    { id: "short" },
    { id: "a b".repeat(9) },
    { token: -1 },
    { token: 1.5 },
    { token: 2 ** 53 },
    { ttl: 0 },
    { ttl: 2 ** 33 },
    { ttl: "1" },
    { held: -1 },
    { pid: 2 ** 32 },
  ];
  for (const change of wrong) {
    const value = JSON.stringify({ ...JSON.parse(encodeRecord(record)), ...change });
    expect([value, decodeRecord(value)]).toEqual([value, null]);
  }
  for (const value of ["", "null", "[]", "{}", "7", "{"]) expect([value, decodeRecord(value)]).toEqual([value, null]);
});

test("the server keeps a lease for at least its ttl, in whole seconds", () => {
  expect([1, 999, 1_000, 1_001, 1_500, 30_000].map(serverSeconds)).toEqual([1, 1, 1, 2, 2, 30]);
});

test("a holder gives up its lease before the server does, counted from the sending", () => {
  for (const ttl of [1, 1_000, 1_500, 3_600_000]) {
    expect(deadlineOf(100, ttl)).toBeLessThan(100 + ttl);
    expect(deadlineOf(100, ttl)).toBeGreaterThan(100 + ttl * 0.9);
    expect(deadlineOf(100, ttl)).toBeLessThan(100 + serverSeconds(ttl) * 1_000);
  }
});

test("a renewal never shortens a lease", () => {
  const expiresAt = deadlineOf(0, 10_000);
  for (const [ttl, sentAt] of [
    [1_000, 2_000],
    [1_000, 9_899],
    [20_000, 2_000],
  ] as const) {
    const asked = renewedTtl(ttl, sentAt, expiresAt);
    expect(deadlineOf(sentAt, asked)).toBeGreaterThanOrEqual(expiresAt - 1e-6);
    expect(asked).toBeGreaterThanOrEqual(ttl);
  }
  expect(renewedTtl(1_000, 20_000, expiresAt)).toBe(1_000);
});

test("the times of another holder stay within its ttl, however wrong the wall clocks are", () => {
  const now = 50_000;
  expect(timesOf(record, 1_000, 1_500, now)).toEqual([now - 500 - 40, now - 500 + 2_000]);
  for (const wall of [0, 1_000_000]) {
    const [claimedAt, expiresAt] = timesOf(record, 1_000, wall, now);
    expect(expiresAt).toBeGreaterThanOrEqual(now);
    expect(expiresAt).toBeLessThanOrEqual(now + 2_000);
    expect(claimedAt).toBeLessThanOrEqual(now);
  }
});

test("claims need a server whose expired leases leave a marker", () => {
  for (const version of ["2.11.2", "2.11.10", "2.12.0", "2.15.1", "3.0.0", "2.11.2-RC.1"]) checkVersion(version);
  for (const version of ["2.11.1", "2.11.0", "2.10.29", "2.9.10", "1.99.99", "0", ""])
    expect(() => checkVersion(version)).toThrow("Claims need a NATS server of version 2.11.2 or later");
});

test("what a consumer delivers names its place, with and without a domain", () => {
  const place = { revision: 1_795_580_784_860_002, number: 3, written: 1_795_580_786_868, pending: 0 };
  const tail = "w1.1.1795580784860002.3.1795580786868463000.0";
  expect(placeOf(`$JS.ACK.KV_x.${tail}`)).toEqual(place);
  expect(placeOf(`$JS.ACK.hub.AbC.KV_x.${tail}.rnd`)).toEqual(place);
  for (const reply of ["", "_INBOX.a.b", `$JS.NAK.KV_x.${tail}`, "$JS.ACK.KV_x.w1.1.x.3.1.0", `$JS.ACK.a.KV_x.${tail}`])
    expect([reply, placeOf(reply)]).toEqual([reply, null]);
});

test("what is in a key is a lease, its end, or something else", () => {
  const entry = (head: Record<string, string | undefined>, value: string) =>
    entryOf("k.l", 9, Number.NaN, (name) => head[name] ?? "", value);
  expect(entry({}, encodeRecord(record))).toEqual({ key: "k.l", revision: 9, written: 0, record, end: null });
  expect(tokenOf(entry({}, encodeRecord(record)))).toBe(7);
  expect(tokenOf(entry({}, encodeRecord({ ...record, token: 0 })))).toBe(9);
  expect(entry({ "Nats-Marker-Reason": "MaxAge" }, "")).toMatchObject({ record: null, end: "expired" });
  for (const head of [{ "KV-Operation": "PURGE" }, { "KV-Operation": "DEL" }, {}])
    expect(entry(head, "")).toMatchObject({ record: null, end: "released" });
  expect(entry({}, "else")).toMatchObject({ record: null, end: null });
});
