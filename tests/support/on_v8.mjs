// Calls of a module without imports on V8: the arguments are the binary's path, and calls as JSON, each an export's name
// and arguments. Prints a list of what came of each.
import { readFileSync } from "node:fs";

const [path, calls] = process.argv.slice(2);
const { exports } = new WebAssembly.Instance(new WebAssembly.Module(readFileSync(path)));
console.log(JSON.stringify(JSON.parse(calls).map(([name, given]) => exports[name](...given))));
