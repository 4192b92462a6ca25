/**
 * Finds lost events. Each publisher numbers the events of each topic from 1. `base` is the number of events that it had published, of any
 * topic, when it began to count this topic: it starts again when it has forgotten the topic. A topic that began after this reader has heard
 * the publisher was received from its first event on; an older one from the first event that arrives.
 */

/** Largest number of publishers, and of topics of one publisher. The least recently used one is forgotten. */
const PUBLISHERS_MAX = 4_096;
const TOPICS_MAX = 4_096;

/** What a publisher has published to a topic so far. */
export type Progress = readonly [topic: string, base: number, seq: number];

interface Topic {
  base: number;
  seq: number;
}

interface Publisher {
  /** Number of events that it had published when this reader first heard how many. */
  since: number;
  readonly topics: Map<string, Topic>;
}

export class Sequences {
  readonly #publishers = new Map<string, Publisher>();

  /** Notes `count` events, the first one with the number `seq`. Returns the number of events that were lost before them. */
  events(publisher: string, topic: string, base: number, seq: number, count: number): number {
    return this.#note(this.#find(publisher), topic, base, seq + count - 1, count);
  }

  /**
   * Notes what a publisher says about its topics, and that it has published `count` events. Returns the number of events that were lost.
   */
  beat(publisher: string, count: number, topics: Iterable<Progress>): number {
    const known = this.#find(publisher);
    let lost = 0;
    for (const [topic, base, seq] of topics) lost += this.#note(known, topic, base, seq, 0);
    known.since = Math.min(known.since, count);
    return lost;
  }

  /** Forgets everything: an unknown number of events may have been lost. */
  clear(): void {
    this.#publishers.clear();
  }

  /** `seq`: number of the last event. `own`: number of events up to it that are at hand; 0 if it was only told. */
  #note(publisher: Publisher, name: string, base: number, seq: number, own: number): number {
    const { topics, since } = publisher;
    const topic = topics.get(name);
    if (topic?.base === base) {
      const lost = Math.max(0, seq - topic.seq - own);
      topic.seq = Math.max(topic.seq, seq);
      return lost;
    }
    if (topic && topic.base > base) return 0; // an event from before the publisher forgot the topic
    if (topic) topics.delete(name);
    bound(topics, TOPICS_MAX).set(name, { base, seq });
    return topic || base >= since ? seq - own : 0;
  }

  #find(name: string): Publisher {
    const known = this.#publishers.get(name);
    if (known) {
      if (this.#publishers.size > PUBLISHERS_MAX / 2) {
        this.#publishers.delete(name);
        this.#publishers.set(name, known); // now the most recently used
      }
      return known;
    }
    const publisher = { since: Infinity, topics: new Map<string, Topic>() };
    bound(this.#publishers, PUBLISHERS_MAX).set(name, publisher);
    return publisher;
  }
}

/** Removes the oldest entry of a full map. */
export function bound<T>(map: Map<string, T>, max: number): Map<string, T> {
  if (map.size >= max) map.delete(map.keys().next().value!);
  return map;
}
