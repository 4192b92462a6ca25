export { fileError, openDirectory } from "../runtime-directory.ts";
