// What servers in Node do all day, tried one by one: prints a line `name: result` for each.

import assert from "node:assert";
import child from "node:child_process";
import cluster from "node:cluster";
import crypto from "node:crypto";
import dgram from "node:dgram";
import dns from "node:dns/promises";
import { once } from "node:events";
import fs from "node:fs/promises";
import { watch } from "node:fs";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import util from "node:util";
import vm from "node:vm";
import worker from "node:worker_threads";
import zlib from "node:zlib";
import { setTimeout as sleep } from "node:timers/promises";

const here = new URL(import.meta.url);

async function place(use) {
  const directory = await fs.mkdtemp(path.join(os.tmpdir(), "runtime-"));
  try {
    return await use(directory);
  } finally {
    await fs.rm(directory, { recursive: true });
  }
}

const all = {
  async workers() {
    const each = [1, 2, 3, 4].map(async (n) => {
      const one = new worker.Worker("require('worker_threads').parentPort.postMessage(process.pid > 0)", { eval: true });
      const [said] = await once(one, "message");
      await one.terminate();
      return said ? n : 0;
    });
    return (await Promise.all(each)).join();
  },
  async threadpool() {
    const pbkdf2 = util.promisify(crypto.pbkdf2);
    const keys = await Promise.all([1, 2, 3, 4, 5, 6].map((n) => pbkdf2("x", `${n}`, 100, 8, "sha256")));
    return keys.map((key) => key.toString("hex")).join();
  },
  async shell() {
    const run = util.promisify(child.exec);
    const failed = await run("exit 3").catch((error) => error.code);
    return [(await run("printf 'a\\nb\\n' | wc -l")).stdout.trim(), failed].join();
  },
  async detached() {
    const one = child.spawn("cat", { detached: true, stdio: ["pipe", "pipe", "inherit"] });
    one.stdin.end("through cat");
    const [said] = await once(one.stdout, "data");
    await once(one, "close");
    return said.toString();
  },
  async fork() {
    const one = child.fork(here, ["forked"]);
    one.send("ping");
    const [said] = await once(one, "message");
    await once(one, "exit");
    return said;
  },
  async cluster() {
    // The listening socket is handed to the worker over a Unix socket.
    cluster.setupPrimary({ exec: here.pathname, args: ["clustered"] });
    const one = cluster.fork();
    const [, address] = await once(cluster, "listening");
    const answer = await fetch(`http://127.0.0.1:${address.port}/`);
    const text = await answer.text();
    one.kill();
    await once(one, "exit");
    return text;
  },
  async http() {
    const server = http.createServer((request, response) => response.end(request.url)).listen(0, "localhost");
    await once(server, "listening");
    const answer = await fetch(`http://localhost:${server.address().port}/page`);
    const text = await answer.text();
    server.closeAllConnections();
    server.close();
    return text;
  },
  async udp() {
    const socket = dgram.createSocket("udp4").bind(0, "127.0.0.1");
    await once(socket, "listening");
    socket.send(Buffer.alloc(1000), socket.address().port, "127.0.0.1");
    const [message] = await once(socket, "message");
    socket.close();
    return message.length;
  },
  unix: () => place(async (directory) => {
    const server = net.createServer((socket) => socket.end("hello")).listen(path.join(directory, "s"));
    await once(server, "listening");
    const [said] = await once(net.connect(path.join(directory, "s")), "data");
    server.close();
    return said.toString();
  }),
  async names() {
    const found = await dns.lookup("localhost", { all: true });
    return [found.length > 0, Object.keys(os.networkInterfaces()).join()].join();
  },
  files: () => place(async (directory) => {
    const file = path.join(directory, "f");
    const seen = once(watch(directory), "change");
    await fs.writeFile(file, "x".repeat(100_000));
    await seen;
    return (await fs.stat(file)).size;
  }),
  async signals() {
    const heard = once(process, "SIGUSR2");
    process.kill(process.pid, "SIGUSR2");
    return (await heard)[0];
  },
  async compiler() {
    let sum = 0;
    for (let n = 0; n < 1e6; n++) sum += n % 7;
    // (module (func (export "f") (result i32) i32.const 42))
    const code = "0061736d010000000105016000017f03020100070501016600000a06010400412a0b";
    const wasm = await WebAssembly.instantiate(Buffer.from(code, "hex"));
    return [sum, wasm.instance.exports.f(), vm.runInNewContext("6 * 7")].join();
  },
  async compression() {
    return (await util.promisify(zlib.gunzip)(zlib.gzipSync("x".repeat(10_000)))).length;
  },
  async timers() {
    await Promise.all(Array.from({ length: 200 }, () => sleep(1)));
    return "rang";
  },
};

if (process.argv[2] === "forked") {
  process.once("message", () => process.send("pong", () => process.disconnect()));
} else if (process.argv[2] === "clustered") {
  http.createServer((_, response) => response.end("from a worker")).listen(0, "127.0.0.1");
} else {
  for (const [name, one] of Object.entries(all)) {
    try {
      console.log(`${name}: ${await one()}`);
    } catch (error) {
      console.log(`${name}: failed: ${error}`);
    }
  }
  assert.ok(process.uptime() > 0);
  process.exit();
}
