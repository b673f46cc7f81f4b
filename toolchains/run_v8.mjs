// A program on V8: prints, as JSON, what it prints when it is started, and what its `bench` returns. The arguments are
// the binary's path and the sizes.
import { readFileSync } from "node:fs";
import { host } from "./host.mjs";

const [path, ...sizes] = process.argv.slice(2);
const printed = [];
const { imports, attach } = host((bytes) => printed.push(bytes));
const instance = new WebAssembly.Instance(new WebAssembly.Module(readFileSync(path)), imports);
attach(instance);
instance.exports._start();
const text = Buffer.concat(printed).toString("utf8");
console.log(JSON.stringify({ printed: text, results: sizes.map((size) => instance.exports.bench(Number(size))) }));
