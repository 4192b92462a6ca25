// A worker of the bus that started this process, or that SLOTBUS_NAME names. `client.ts` starts it.
import { SlotWorker } from "slotbus";

const worker = await SlotWorker.open();
worker.serve((request) => `hello ${request.text()}, from process ${process.pid}`);
