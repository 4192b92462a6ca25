/** Control groups, for checks: a check lacks a tool where there are none, or without root. */

import { ControlGroup } from "../../bench/busy/cgroup.ts";
import { Lacking, needRoot } from "./checks.ts";

export class Group extends ControlGroup {
  constructor(...options: ConstructorParameters<typeof ControlGroup>) {
    needRoot();
    try {
      super(...options);
    } catch (error) {
      throw new Lacking((error as Error).message);
    }
  }
}
