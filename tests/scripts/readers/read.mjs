// How Node programs read a line: see tests/src/readers.rs for what comes in and what goes out.

import { readFileSync, writeFileSync } from "node:fs";

const text = (value) => {
  let hex = "s";
  for (let at = 0; at < value.length; at++) hex += value.charCodeAt(at).toString(16).padStart(4, "0");
  return hex;
};

const canonical = (value) => {
  if (value === null || value === undefined) return "N";
  if (value === true) return "T";
  if (value === false) return "F";
  if (typeof value === "string") return text(value);
  if (typeof value === "number") {
    const bytes = Buffer.alloc(8);
    bytes.writeDoubleBE(value === 0 ? 0 : value); // zero has no sign
    return "d" + bytes.toString("hex");
  }
  if (Array.isArray(value)) return "[" + value.map(canonical).join(",") + "]";
  const members = Object.keys(value).map((key) => text(key) + ":" + canonical(value[key]));
  return "{" + members.sort().join(",") + "}";
};

const object = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const own = (value, key) => (Object.hasOwn(value, key) ? value[key] : undefined);
const present = (value) => (value === undefined ? "-" : canonical(value));

const reading = (message) => {
  const [method, params] = [own(message, "method"), own(message, "params")];
  const fields = [canonical(method), present(own(message, "id"))];
  if (method === "tools/call") {
    if (object(params)) fields.push(canonical(own(params, "name")), canonical(own(params, "arguments")));
    else fields.push("-", "-");
  }
  return fields.join(" ");
};

// Where Node's readline ends a line.
const breaks = /\r\n|[\n\r\u2028\u2029]/;

// How the line is made text, and cut; a piece that is no JSON is none of the others' business.
const ways = [
  (line) => [line.toString("utf8")],
  (line) => line.toString("utf8").split(breaks),
  (line) => [new TextDecoder("utf-8").decode(line)], // takes a byte order mark off
];

const NO_MESSAGE = "N -"; // an object that has neither a method nor an id

const readings = (line) => {
  const found = new Set();
  for (const piece of ways.flatMap((cut) => cut(line))) {
    let value;
    try {
      value = JSON.parse(piece);
    } catch {
      continue;
    }
    for (const message of Array.isArray(value) ? value : [value]) if (object(message)) found.add(reading(message));
  }
  found.delete(NO_MESSAGE);
  return [...found].sort();
};

const frames = readFileSync(0);
const out = [];
for (let at = 0; at < frames.length; ) {
  const end = at + 4 + frames.readUInt32BE(at);
  out.push(readings(frames.subarray(at + 4, end)).join("\t") + "\n");
  at = end;
}
writeFileSync(1, out.join(""));
