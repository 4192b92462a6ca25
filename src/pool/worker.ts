/** The program of a pool's processes. */

import { servePool } from "./serve.ts";

await servePool();
