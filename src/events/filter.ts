/** Filters of events: plain data, tested on an event's head before its payload is decoded. */

import { shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import { type AttributeValue, type BusEvent, checkAttribute, checkPattern, type EventDecoder } from "./codec.ts";

/** Text that names several topics. */
type Pattern = `${string}*`;

/**
 * What {@link all}, {@link topic}, {@link equals}, {@link and}, {@link or}, {@link not} and {@link where} make. `Topic`: the
 * topics that a filter which is no more than one topic may name.
 */
// oxlint-disable-next-line typescript/no-explicit-any -- any topic, also where only some may be named
export type Filter<Topic extends string = any> =
  | { readonly all: true }
  | { readonly topic: Topic | Pattern }
  | { readonly equals: readonly [name: string, value: AttributeValue] }
  | { readonly and: readonly Filter[] }
  | { readonly or: readonly Filter[] }
  | { readonly not: Filter }
  // oxlint-disable-next-line typescript/no-explicit-any -- whoever writes the predicate knows which events reach it
  | { readonly where: (event: any) => boolean };

/** Every event. */
export const all = (): Filter => ({ all: true });

/**
 * Events of a topic, or with `"a.*"` of all topics that begin with `a.`. A topic that is known when the program is compiled
 * narrows the type of what is subscribed to.
 */
export const topic = <const T extends string>(pattern: T): { readonly topic: string extends T ? Pattern : T } => ({
  topic: pattern as never,
});

/** Events with that attribute, or with the name `id` that id. An event without it does not match. */
export const equals = (name: string, value: AttributeValue): Filter => ({ equals: [name, value] });

/** Events that match each. */
export const and = (...filters: Filter[]): Filter => ({ and: filters });

/** Events that match one at least. */
export const or = (...filters: Filter[]): Filter => ({ or: filters });

/** Events that do not match. */
export const not = (filter: Filter): Filter => ({ not: filter });

/** Events for which the function returns true. The payload is decoded when the question comes to it. */
// oxlint-disable-next-line typescript/no-explicit-any -- see Filter
export const where = <E = any>(predicate: (event: E) => boolean): Filter => ({ where: predicate });

/** A filter that is ready to be asked. */
export type Test = (event: EventDecoder) => boolean;

const DEPTH_MAX = 64;

/** @throws {InvalidConfigError} unless it is a filter. */
export function compile(filter: Filter, depth = 0): Test {
  const keys = typeof filter === "object" && filter !== null ? Object.keys(filter) : [];
  if (keys.length !== 1 || depth > DEPTH_MAX) throw malformed(filter);
  if ("all" in filter && filter.all === true) return () => true;
  if ("topic" in filter) return compileTopic(filter);
  if ("equals" in filter) return compileEquals(filter);
  if ("where" in filter && typeof filter.where === "function") {
    const { where: predicate } = filter;
    return (event) => ask(predicate, event);
  }
  if ("not" in filter) {
    const test = compile(filter.not, depth + 1);
    return (event) => !test(event);
  }
  const list = "and" in filter ? filter.and : "or" in filter ? filter.or : null;
  if (!Array.isArray(list)) throw malformed(filter);
  const tests = (list as Filter[]).map((one) => compile(one, depth + 1));
  return "and" in filter ? (event) => tests.every((test) => test(event)) : (event) => tests.some((test) => test(event));
}

/** What a predicate threw. */
export class PredicateFailure extends Error {}

function ask(predicate: (event: BusEvent) => boolean, decoder: EventDecoder): boolean {
  const event = decoder.toEvent();
  try {
    return predicate(event) === true;
  } catch (cause) {
    throw new PredicateFailure("a predicate failed", { cause });
  }
}

function compileTopic(filter: { readonly topic: string }): Test {
  const pattern = checkPattern(filter.topic);
  const star = pattern.indexOf("*");
  if (star < 0) return (event) => event.topic === pattern;
  if (star !== pattern.length - 1 || (star > 0 && pattern[star - 1] !== ".")) throw malformed(filter);
  const prefix = pattern.slice(0, star);
  return (event) => event.topic.startsWith(prefix);
}

function compileEquals(filter: { readonly equals: readonly [string, AttributeValue] }): Test {
  const pair: readonly unknown[] = Array.isArray(filter.equals) ? filter.equals : [];
  const [name, value] = pair;
  const isValue = typeof value === "string" || typeof value === "boolean" || Number.isFinite(value);
  if (pair.length !== 2 || !isValue || (name === "id" && typeof value !== "string")) throw malformed(filter);
  if (name === "id") return (event) => event.id === value;
  const attribute = checkAttribute(name);
  return (event) => event.attribute(attribute) === value;
}

function malformed(filter: unknown): InvalidConfigError {
  return new InvalidConfigError(`${shown(filter)} is not a filter.`, {
    hint: 'Make one with all(), topic("a.*"), equals(name, value), and(…), or(…), not(…), where(predicate).',
  });
}
