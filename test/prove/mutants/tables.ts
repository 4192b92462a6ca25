/** All rules that `mutants.ts` switches off. */

import { contractRules } from "./contract.ts";
import { fleetLibraryRules } from "./fleet-library.ts";
import { fleetNativeRules } from "./fleet-native.ts";
import { hubRules } from "./hub.ts";
import { type LibraryRule, libraryRules } from "./library.ts";
import { nativeRules } from "./native.ts";
import { poolRules } from "./pool.ts";
import { stdioRules } from "./stdio.ts";
import { supervisorRules } from "./supervisor.ts";

/** Rules of `csrc/`, each with a test in `test/native/`. */
export const rulesInC = [...nativeRules, ...fleetNativeRules];

/** Rules of `src/`, each with a test in `test/`. */
export const rulesInTypeScript: LibraryRule[] = [
  ...libraryRules,
  ...fleetLibraryRules,
  ...hubRules,
  ...stdioRules,
  ...supervisorRules,
  ...contractRules,
  ...poolRules,
];
