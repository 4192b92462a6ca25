/** Statistics of a stdio bus. */

/** Counters of messages. `In`: to workers; `Out`: from workers. */
export interface Traffic {
  messagesIn: number;
  bytesIn: number;
  messagesOut: number;
  bytesOut: number;
  /** Responses to requests that had been cancelled or had timed out. */
  late: number;
  /** Invalid or unexpected messages of workers. */
  protocolErrors: number;
}

/** Counters since the start of the bus, and current numbers. */
export interface StdioStats extends Traffic {
  /** Number of restarts of workers. */
  workerRestarts: number;
  /** Ids of pools that are paused because their workers end too often. */
  paused: string[];
  /** Calls for a pool that does not exist. */
  routingErrors: number;
  /** Open connections to servers of the bus. */
  clients: number;
  /** Connections opened so far. */
  clientConnects: number;
  /** Connections closed so far. */
  clientDisconnects: number;
  /** Connections that a server closed because they sent invalid messages or no valid token. */
  clientRefusals: number;
  /** Requests that workers are processing. */
  inFlight: number;
  /** Requests that wait for a worker. */
  waiting: number;
  /** Items dropped by subscriptions, and notifications dropped for slow clients. */
  lost: number;
  /** Median time from the call to the response, in ms; 0 without requests. */
  p50: number;
  /** 99th percentile of that time, in ms. */
  p99: number;
  /** Running processes. */
  workers: {
    pool: string;
    worker: number;
    life: number;
    pid: number;
    inFlight: number;
    /** Bytes that wait for the worker's pipe. */
    queuedBytes: number;
  }[];
}

/** @internal Returns counters at 0. */
export function noTraffic(): Traffic {
  return { messagesIn: 0, bytesIn: 0, messagesOut: 0, bytesOut: 0, late: 0, protocolErrors: 0 };
}

/** @internal Adds counters to a sum. */
export function addTraffic(sum: Traffic, more: Traffic): void {
  for (const key of Object.keys(sum) as (keyof Traffic)[]) sum[key] += more[key];
}
