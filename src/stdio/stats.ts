/** What a stdio bus counts. */

/** What was sent. `In` is towards the workers, `Out` from them. */
export interface Traffic {
  messagesIn: number;
  bytesIn: number;
  messagesOut: number;
  bytesOut: number;
  /** Answers that came when their caller had given up. */
  late: number;
  /** What workers wrote that is no message, or none that fits. */
  protocolErrors: number;
}

/** Counters since the bus was made, and how it is now. */
export interface StdioStats extends Traffic {
  /** Times a worker was started again after its process had ended. */
  workerRestarts: number;
  /** Ids of the pools that are paused now, because their workers end too often. */
  paused: string[];
  /** Messages for a pool that there is not. */
  routingErrors: number;
  /** Connections to servers of the bus now. */
  clients: number;
  /** Those that came and went so far. */
  clientConnects: number;
  clientDisconnects: number;
  /** Connections that a server closed: their bytes were not JSON-RPC, or they did not send the token. */
  clientRefusals: number;
  /** Requests that workers have now. */
  inFlight: number;
  /** Requests that wait for one. */
  waiting: number;
  /** Items that subscriptions lost by their policy, and notifications that clients did not take. */
  lost: number;
  /** Of all requests, from the call to the answer, in ms; 0 when there was none. */
  p50: number;
  p99: number;
  /** Processes that run. */
  workers: {
    pool: string;
    worker: number;
    life: number;
    pid: number;
    inFlight: number;
    /** Bytes that its pipe has not taken. */
    queuedBytes: number;
  }[];
}

/** @internal Nothing yet. */
export function noTraffic(): Traffic {
  return { messagesIn: 0, bytesIn: 0, messagesOut: 0, bytesOut: 0, late: 0, protocolErrors: 0 };
}

/** @internal Adds to a sum. */
export function addTraffic(sum: Traffic, more: Traffic): void {
  for (const key of Object.keys(sum) as (keyof Traffic)[]) sum[key] += more[key];
}
