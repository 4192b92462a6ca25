export { fileError, openDirectory } from "../native/directory.ts";
