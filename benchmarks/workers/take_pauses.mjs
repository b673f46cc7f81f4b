// How long V8's collector stops a program, as node tells it: the job and the answer are those of take_pauses.py. What V8
// does beside the program, in other threads, is no pause.
import { readFileSync } from "node:fs";
import { PerformanceObserver } from "node:perf_hooks";

const job = JSON.parse(process.argv[2]);
const { exports } = new WebAssembly.Instance(new WebAssembly.Module(readFileSync(job.binary)));
const [[name, arguments_]] = job.timed;

const lengths = [];
const observer = new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) lengths.push(Math.round(entry.duration * 1e6));
});
const told = () => new Promise((resolve) => setTimeout(resolve, 50));

exports[name](...arguments_); // its code is V8's best after that
observer.observe({ entryTypes: ["gc"] });
const results = [];
const seconds = [];
for (let round = 0; round < job.rounds; round += 1) {
  const started = process.hrtime.bigint();
  results.push(String(exports[name](...arguments_)));
  seconds.push(Number(process.hrtime.bigint() - started) * 1e-9);
  await told();
}
observer.disconnect();
const pauses = lengths.sort((one, other) => one - other).map((length) => [length, 1]);
console.log(JSON.stringify({ results, seconds, pauses, longest: lengths.at(-1) ?? 0 }));
