// SPDX-License-Identifier: Apache-2.0

// The messenger in Node: commands come from standard input, answers and news go to standard output, everything else to standard error.

import { createInterface } from "node:readline";

for (const level of ["debug", "log", "info", "warn", "trace"]) console[level] = console.error;

// Node 20 lacks what matrix-js-sdk takes for granted.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new Promise((yes, no) => { resolve = yes; reject = no; });
  return { promise, resolve, reject };
};

const { serve, stop } = await import("./client.mjs");
const handle = serve((line) => process.stdout.write(line + "\n"));
for await (const line of createInterface({ input: process.stdin })) handle(line);
stop();
process.exit(0);
