/** Filters of events. Filters are plain data; all except `where` run before the payload is decoded. */

import { shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import { type AttributeValue, type BusEvent, checkAttribute, checkPattern, type EventDecoder } from "./codec.ts";

/** A prefix of topics with `*` at its end. */
type Pattern = `${string}*`;

/**
 * A filter of events, made by {@link all}, {@link topic}, {@link equals}, {@link and}, {@link or}, {@link not} or
 * {@link where}. `Topic` limits the topics that a filter for one topic may name.
 */
// oxlint-disable-next-line typescript/no-explicit-any -- assignable to a filter with any limit of topics
export type Filter<Topic extends string = any> =
  | { readonly all: true }
  | { readonly topic: Topic | Pattern }
  | { readonly equals: readonly [name: string, value: AttributeValue] }
  | { readonly and: readonly Filter[] }
  | { readonly or: readonly Filter[] }
  | { readonly not: Filter }
  // oxlint-disable-next-line typescript/no-explicit-any -- the type of the events depends on the rest of the filter
  | { readonly where: (event: any) => boolean };

/** Matches every event. */
export const all = (): Filter => ({ all: true });

/**
 * Matches events of one topic, or with `"a.*"` events of all topics that start with `a.`. With a literal topic, the
 * subscription has the type of this topic's events.
 */
export const topic = <const T extends string>(pattern: T): { readonly topic: string extends T ? Pattern : T } => ({
  topic: pattern as never,
});

/** Matches events whose attribute `name` has this value. The name `"id"` stands for the id of the event. */
export const equals = (name: string, value: AttributeValue): Filter => ({ equals: [name, value] });

/** Matches events that match all given filters. */
export const and = (...filters: Filter[]): Filter => ({ and: filters });

/** Matches events that match at least one of the given filters. */
export const or = (...filters: Filter[]): Filter => ({ or: filters });

/** Matches events that do not match the given filter. */
export const not = (filter: Filter): Filter => ({ not: filter });

/** Matches events for which the function returns `true`. It gets the event with its decoded payload. */
// oxlint-disable-next-line typescript/no-explicit-any -- see Filter
export const where = <E = any>(predicate: (event: E) => boolean): Filter => ({ where: predicate });

/** A compiled filter. */
export type Test = (event: EventDecoder) => boolean;

const DEPTH_MAX = 64;

/** Compiles a filter. @throws {InvalidConfigError} if it is not a filter. */
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

/** Carries an error of a predicate as its `cause`. */
export class PredicateFailure extends Error {}

function ask(predicate: (event: BusEvent) => boolean, decoder: EventDecoder): boolean {
  const event = decoder.toEvent();
  try {
    return predicate(event) === true;
  } catch (cause) {
    throw new PredicateFailure("the predicate threw", { cause });
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

/**
 * Returns patterns of topics that together have all events of a filter, and none has events of
 * another. A server that knows them sends no other topics, and no event twice. The filter must be valid.
 */
export function patternsOf(filter: Filter): string[] {
  return patternsIn(filter) ?? ["*"];
}

/** `null`: all topics. */
function patternsIn(filter: Filter): string[] | null {
  if ("topic" in filter) return filter.topic === "*" ? null : [filter.topic];
  if ("and" in filter) {
    const lists = filter.and.map(patternsIn).filter((one) => one !== null);
    return lists.sort((a, b) => a.length - b.length)[0] ?? null; // any of them has all events
  }
  if (!("or" in filter)) return null;
  const all: string[] = [];
  for (const one of filter.or) {
    const patterns = patternsIn(one);
    if (patterns === null) return null;
    all.push(...patterns);
  }
  const unique = [...new Set(all)];
  return unique.filter((one) => !unique.some((other) => other !== one && covers(other, one)));
}

/** Whether a pattern has a topic, or all topics of another pattern. */
export function covers(pattern: string, other: string): boolean {
  return pattern === other || (pattern.endsWith("*") && other.startsWith(pattern.slice(0, -1)));
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
    hint: 'Create a filter with all(), topic("a.*"), equals(name, value), and(…), or(…), not(…), where(predicate).',
  });
}
