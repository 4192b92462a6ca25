/**
 * slotbus/otel: OpenTelemetry spans for requests and handlers. Needs the package `@opentelemetry/api`, and an SDK that
 * exports the spans.
 */

import {
  type Context,
  context,
  isSpanContextValid,
  ROOT_CONTEXT,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  trace,
  type Tracer,
  type TracerProvider,
} from "@opentelemetry/api";
import { type HandleTrace, handleTraces, isTraceparent, type RequestTrace, requestTraces } from "./bus/tracing.ts";
import { type Given, Options, optional, refuse, row } from "./options.ts";

export * from "./errors.ts";

/** @internal */
export const instrumentOptions = new Options("instrument", {
  /** Provider of the tracer. Default: the global provider at the time of the call of {@link instrument}. */
  tracerProvider: optional(
    row<TracerProvider>(undefined, "a TracerProvider", (value, name) =>
      typeof (value as TracerProvider | null)?.getTracer === "function"
        ? (value as TracerProvider)
        : refuse(name, value, "a TracerProvider"),
    ),
    "the global provider",
  ),
});

/** Options of {@link instrument}. */
export interface InstrumentOptions extends Given<typeof instrumentOptions.rows> {}

/**
 * Creates a CLIENT span for each request of this process's buses and a SERVER span for each call of a handler, until
 * the result is disposed. The parent of a request's span is the active span, else the request's `traceparent`; the
 * request then carries its own `traceparent` to the worker. A handler runs in the context of its span. The span of a
 * streamed response ends with its head.
 *
 *     using tracing = instrument();
 */
export function instrument(options: InstrumentOptions = {}): Disposable {
  const { tracerProvider } = instrumentOptions.resolve(options);
  const tracer = (tracerProvider ?? trace.getTracerProvider()).getTracer("slotbus");
  const requests = new RequestSpans(tracer);
  const handlers = new HandlerSpans(tracer);
  requestTraces.subscribe(requests.subscribers);
  handleTraces.subscribe(handlers.subscribers);
  return {
    [Symbol.dispose](): void {
      requestTraces.unsubscribe(requests.subscribers);
      handleTraces.unsubscribe(handlers.subscribers);
    },
  };
}

class RequestSpans {
  readonly #tracer: Tracer;
  readonly #spans = new WeakMap<RequestTrace, Span>();
  readonly subscribers = {
    start: (message: RequestTrace): void => this.#start(message),
    error: (message: RequestTrace): void => fail(this.#spans.get(message), message.error),
    asyncStart: (): void => {},
    asyncEnd: (message: RequestTrace): void => this.#end(message),
    end: (message: RequestTrace): void => {
      if (message.kind === "sync") this.#end(message);
    },
  };

  constructor(tracer: Tracer) {
    this.#tracer = tracer;
  }

  #start(message: RequestTrace): void {
    const active = context.active();
    const parent = trace.getSpan(active) ? active : contextOf(message.traceparent, active);
    const span = this.#tracer.startSpan(
      nameOf(message),
      { kind: SpanKind.CLIENT, attributes: attributesOf(message) },
      parent,
    );
    this.#spans.set(message, span);
    const traceparent = traceparentOf(span.spanContext());
    if (traceparent !== null) message.traceparent = traceparent;
  }

  #end(message: RequestTrace): void {
    const span = this.#spans.get(message);
    if (!span) return;
    const { result } = message;
    if (result) {
      span.setAttributes({ "http.response.status_code": result.status, "slotbus.worker.pid": result.workerPid });
      if (result.status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
    }
    span.end();
    this.#spans.delete(message);
  }
}

class HandlerSpans {
  readonly #tracer: Tracer;
  readonly #spans = new WeakMap<HandleTrace, Span>();
  readonly subscribers = {
    start: (message: HandleTrace): void => this.#start(message),
    error: (message: HandleTrace): void => fail(this.#spans.get(message), message.error),
    asyncStart: (): void => {},
    asyncEnd: (message: HandleTrace): void => this.#end(message),
    end: (message: HandleTrace): void => {
      if (message.sync) this.#end(message);
    },
  };

  constructor(tracer: Tracer) {
    this.#tracer = tracer;
  }

  #start(message: HandleTrace): void {
    const parent = contextOf(message.traceparent, ROOT_CONTEXT);
    const span = this.#tracer.startSpan(
      nameOf(message),
      { kind: SpanKind.SERVER, attributes: attributesOf(message) },
      parent,
    );
    this.#spans.set(message, span);
    const inside = trace.setSpan(parent, span);
    message.around = (run) => context.with(inside, run);
  }

  #end(message: HandleTrace): void {
    this.#spans.get(message)?.end();
    this.#spans.delete(message);
  }
}

function fail(span: Span | undefined, error: unknown): void {
  if (!span) return;
  const known = error instanceof Error ? error : new Error(String(error));
  span.recordException(known);
  span.setStatus({ code: SpanStatusCode.ERROR, message: known.message });
  const { code } = known as { code?: unknown };
  if (typeof code === "string") span.setAttribute("error.type", code);
}

/** Returns the name of a span. It has few different values, so it must not contain the path. */
function nameOf({ method, pattern, bus }: RequestTrace | HandleTrace): string {
  return `${method} ${pattern || bus}`;
}

function attributesOf({ bus, id, method, path, pattern }: RequestTrace | HandleTrace): Record<string, string> {
  const route: Record<string, string> = pattern === "" ? {} : { "http.route": pattern };
  return { "slotbus.bus": bus, "slotbus.request.id": id, "http.request.method": method, "url.path": path, ...route };
}

/** Returns `base` with the remote span of a `traceparent`; `base` itself if there is none. */
function contextOf(traceparent: string | null, base: Context): Context {
  if (!isTraceparent(traceparent)) return base;
  const [, traceId, spanId, flags] = traceparent.split("-");
  const remote = { traceId: traceId!, spanId: spanId!, traceFlags: Number.parseInt(flags!, 16), isRemote: true };
  return trace.setSpanContext(base, remote);
}

/** Returns `null` if the span is not valid, which is the case without an SDK. */
function traceparentOf(span: SpanContext): string | null {
  if (!isSpanContextValid(span)) return null;
  return `00-${span.traceId}-${span.spanId}-${span.traceFlags.toString(16).padStart(2, "0")}`;
}
