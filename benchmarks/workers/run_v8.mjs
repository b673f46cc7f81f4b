// V8, in node, as a contender; the conversation is that of protocol.py. Needs --expose-gc.
import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { host } from "../../toolchains/host.mjs";

const job = JSON.parse(process.argv[2]);
const module = new WebAssembly.Module(readFileSync(job.binary), { builtins: ["js-string"] });
// Programs in other languages print when they start, which nobody reads.
const { imports, attach } = host(() => {});
const instance = new WebAssembly.Instance(module, { ...imports, host: { next: (value) => (value + 1) | 0 } });
attach(instance);
const { exports } = instance;

const memoryFigure = (name) => {
  const found = readFileSync("/proc/self/status", "ascii").match(new RegExp(`^${name}:\\s*(\\d+)`, "m"));
  return found ? 1024 * Number(found[1]) : 0;
};

const take = (steps) => {
  const results = [];
  for (const step of steps) {
    if (step === null) {
      globalThis.gc();
      continue;
    }
    const result = exports[step[0]](...step[1]);
    if (result !== undefined) results.push(String(result));
  }
  return results;
};

const answer = (message) => console.log(JSON.stringify(message));

take(job.once);
answer({ ready: true, version: process.versions.v8 });
let base = 0;
for await (const _line of createInterface({ input: process.stdin })) {
  if (base === 0) {
    writeFileSync("/proc/self/clear_refs", "5");
    base = memoryFigure("VmRSS");
  }
  const results = take(job.before);
  const started = process.hrtime.bigint();
  results.push(...take(job.timed));
  const seconds = Number(process.hrtime.bigint() - started) * 1e-9;
  answer({ seconds, results, base, resident: memoryFigure("VmHWM") });
}
