// What was chosen: folders walked, files left out, safetensors headers checked.

const LARGEST_HEADER = 16 * 2 ** 20;
const TRAINING = /^(optimizer.*|scheduler|rng_state.*|scaler)\.(pt|pth|bin)$|^training_args\.bin$/;

/** All files below a dropped file or folder, as {path, file}. */
export async function filesOf(entry, prefix = "") {
  const path = prefix + entry.name;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ path, file }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // Gives at most 100 entries at a time, and none at the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    for (const child of some) found.push(...(await filesOf(child, path + "/")));
  }
  return found;
}

/** Without the folder that all of them lie in: it is the model's own name. */
export function withoutTopFolder(files) {
  const tops = new Set(files.map(({ path }) => (path.includes("/") ? path.split("/")[0] : "")));
  if (tops.size !== 1 || tops.has("")) return files;
  return files.map(({ path, file }) => ({ path: path.slice(path.indexOf("/") + 1), file }));
}

/** Why a file is not sent, as a key of TEXTS; empty when it is. */
export function reasonToLeaveOut(path, file) {
  if (path.split("/").some((part) => part.startsWith(".") && part !== ".gitattributes")) {
    return "hidden";
  }
  if (TRAINING.test(path.split("/").pop())) return "training";
  return file.size === 0 ? "empty" : "";
}

/** Check a safetensors file by its header; returns null, or [key of TEXTS, values]. */
export async function headerProblem(file) {
  if (file.size < 10) return ["short", {}];
  const start = new DataView(await file.slice(0, 8).arrayBuffer());
  const length = start.getUint32(0, true) + start.getUint32(4, true) * 2 ** 32;
  if (length < 2 || length > LARGEST_HEADER) return ["header", {}];
  if (8 + length > file.size) return ["cut", { have: file.size, want: 8 + length }];
  let header;
  try {
    const bytes = await file.slice(8, 8 + length).arrayBuffer();
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    return ["header", {}];
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) return ["header", {}];
  let end = 0;
  for (const [name, tensor] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const last = tensor?.data_offsets?.[1];
    if (!Number.isInteger(last)) return ["header", {}];
    end = Math.max(end, last);
  }
  const want = 8 + length + end;
  return want === file.size ? null : ["cut", { have: file.size, want }];
}

/** A short name for exactly these files, to find their draft again after a reload. */
export function nameOfChoice(files, vector) {
  const rows = files.map(({ path, file }) => `${path}\t${file.size}\t${file.lastModified}`);
  let hash = 0xcbf29ce484222325n; // FNV-1a
  for (const byte of new TextEncoder().encode([vector, ...rows.sort()].join("\n"))) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return `armory.upload.${hash.toString(16)}`;
}
