/** Preloaded by the suites over NATS, where no process owns a name: `create` is `connect`. */

import { SlotBus } from "../../src/index.ts";

SlotBus.create = (options) => SlotBus.connect(options);
