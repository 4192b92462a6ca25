/** Fleets of any engine. Use this type if your program may move to another engine later. */

/** A {@link Fleet} of any engine: only what every engine has. */
export interface PortableFleet extends AsyncDisposable {
  readonly name: string;
  readonly closed: boolean;
  close(): Promise<void>;
}
