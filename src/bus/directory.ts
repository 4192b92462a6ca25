export { checkDirectory, fileError, openDirectory } from "../native/directory.ts";
