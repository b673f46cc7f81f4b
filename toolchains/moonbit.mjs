// The MoonBit compiler, which is made for a browser's worker, run in node: compiles what its standard library's packages
// are of, as far as programs need them, then each program. The one argument is a job, in JSON: `editor`, the package
// that has the library in it, `worker`, the compiler, and `programs`, each with `source`, `binary` and `exports`.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import vm from "node:vm";

const TARGET = "wasm-gc";
const BACKEND = "WasmGC";
const LIBRARY = "/lib/core/";
const LIBRARY_SOURCES = "moonbitlang/core:moonbit-core:/lib/core";
const PRELUDE = "moonbitlang/core/prelude";
const PROGRAM = "example/program";

const job = JSON.parse(process.argv[2]);

// A request to the worker, and the answer, are messages of comlink's.
const waiting = new Map();
let receive;
globalThis.require = createRequire(import.meta.url);
globalThis.self = globalThis;
globalThis.addEventListener = (kind, listener) => {
  if (kind === "message") receive = listener;
};
globalThis.postMessage = (answer) => waiting.get(answer.id)(answer);
vm.runInThisContext(readFileSync(job.worker, "utf8"), { filename: "compiler.js" });

const ask = (name, argument) =>
  new Promise((resolve, reject) => {
    const id = String(waiting.size);
    waiting.set(id, (answer) => {
      if (answer.type === "RAW") resolve(answer.value);
      else reject(new Error(`${name}: ${JSON.stringify(answer.value).slice(0, 1000)}`));
    });
    const argumentList = [{ type: "RAW", value: argument }];
    receive({ data: { id, type: "APPLY", path: [name], argumentList }, origin: "" });
  });

// The library's files are base64 strings in the editor's source, each named by a line.
const readLibrary = () => {
  const text = readFileSync(job.editor, "utf8");
  const strings = new Map();
  for (const [, name, value] of text.matchAll(/(?<![\w$])([\w$]+) = d\("([A-Za-z0-9+/=]*)"\)/g)) strings.set(name, value);
  const files = new Map();
  for (const [, name, value] of text.matchAll(/^i\["([^"]+)"\] = ([\w$]+);/gm)) {
    if (name.startsWith(LIBRARY)) files.set(name.slice(LIBRARY.length), Buffer.from(strings.get(value) ?? "", "base64"));
  }
  if (!files.has("_build/packages.json")) throw new Error(`no standard library is found in ${job.editor}`);
  return files;
};

const files = readLibrary();
const library = new Map();
for (const each of JSON.parse(files.get("_build/packages.json").toString()).packages) {
  library.set(each.rel ? `${each.root}/${each.rel}` : each.root, each);
}

const errors = (diagnostics) =>
  diagnostics
    .map((each) => JSON.parse(each))
    .filter((each) => each.level === "error")
    .map((each) => `${each.path}:${each.loc}: ${each.message}`)
    .join("\n");

const compile = async (name, sources, more) => {
  const made = await ask("buildPackage", {
    mbtFiles: sources,
    miFiles: [],
    indirectImportMiFiles: [],
    stdMiFiles: [],
    target: TARGET,
    pkg: name,
    pkgSources: [LIBRARY_SOURCES, `${PROGRAM}:program:/`],
    isMain: false,
    errorFormat: "json",
    enableValueTracing: false,
    noOpt: false,
    ...more,
  });
  const wrong = errors(made.diagnostics);
  if (wrong || !made.core) throw new Error(wrong || `${name} was not compiled`);
  return made;
};

// In the order in which they were compiled, each after those that it needs.
const compiled = new Map();

const needed = (name, found = new Set()) => {
  for (const { path: other } of library.get(name).deps) {
    if (!found.has(other)) needed(other, found.add(other));
  }
  return found;
};

const compileLibrary = async (name) => {
  if (compiled.has(name)) return;
  const { deps, files: sources, rel } = library.get(name);
  for (const each of deps) await compileLibrary(each.path);
  const chosen = Object.entries(sources)
    .filter(([, { backend, optlevel }]) => backend.includes(BACKEND) && optlevel.includes("Release"))
    .map(([file]) => [path.basename(file), files.get(file.split(LIBRARY)[1]).toString()]);
  // All that is needed in the end is imported, as methods of types that come from afar are called, too.
  const aliases = new Map(deps.map(({ path: other, alias }) => [other, alias]));
  const miFiles = [...needed(name)].map((other) => {
    const { file, mi } = compiled.get(other);
    return [`${file}:${aliases.get(other) ?? path.basename(other)}`, mi];
  });
  const { core, mi } = await compile(name, chosen, { miFiles });
  compiled.set(name, { core, mi, file: `${LIBRARY}_build/js/release/bundle/${rel}/${path.basename(rel)}.mi` });
};

const compileProgram = async ({ source, binary, exports }) => {
  const { core } = await compile(PROGRAM, [[path.basename(source), readFileSync(source, "utf8")]], {
    stdMiFiles: [...compiled.values()].map(({ file, mi }) => [file, mi]),
    isMain: true,
  });
  const { result } = await ask("linkCore", {
    coreFiles: [...[...compiled.values()].map((each) => each.core), core],
    main: PROGRAM,
    pkgSources: [LIBRARY_SOURCES, `${PROGRAM}:program:/`],
    target: TARGET,
    exportedFunctions: exports,
    outputFormat: "wasm",
    testMode: false,
    debug: false,
    noOpt: false,
    sourceMap: false,
    sources: {},
    stopOnMain: false,
  });
  writeFileSync(binary, result);
};

// An error in the compiler's one line of megabytes would be told with that line.
try {
  await compileLibrary(PRELUDE);
  for (const each of job.programs) await compileProgram(each);
} catch (error) {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
