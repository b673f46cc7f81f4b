// What the programs import, for V8: of WASI what Kotlin's `println` and start need, and MoonBit's `print_char`. Random
// numbers are zeros, and no time passes, so that every run is the same.

/** Return imports that give what is printed, as bytes, to `write`, and a function that takes the instance afterwards. */
export const host = (write) => {
  let memory;
  const view = () => new DataView(memory.buffer);
  const wasi = {
    fd_write: (_descriptor, vectors, count, written) => {
      let total = 0;
      for (let each = 0; each < count; each += 1) {
        const address = view().getUint32(vectors + 8 * each, true);
        const length = view().getUint32(vectors + 8 * each + 4, true);
        write(new Uint8Array(memory.buffer, address, length).slice());
        total += length;
      }
      view().setUint32(written, total, true);
      return 0;
    },
    random_get: (address, length) => {
      new Uint8Array(memory.buffer, address, length).fill(0);
      return 0;
    },
    poll_oneoff: () => 52, // "not supported"
  };
  const spectest = { print_char: (code) => write(new TextEncoder().encode(String.fromCharCode(code))) };
  return {
    imports: { wasi_snapshot_preview1: wasi, spectest },
    attach: (instance) => {
      memory = instance.exports.memory;
    },
  };
};
