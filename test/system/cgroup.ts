/** Control groups, for checks: they lack root if there is none. */

import { ControlGroup } from "../../bench/busy/cgroup.ts";
import { needRoot } from "./checks.ts";

export class Group extends ControlGroup {
  constructor(...options: ConstructorParameters<typeof ControlGroup>) {
    needRoot();
    super(...options);
  }
}
