// SPDX-License-Identifier: Apache-2.0

// A messenger without a screen: matrix-js-sdk with Rust crypto. It reads commands as lines of JSON from standard input, answers each with a line
// {"answer": n, ...} or {"answer": n, "error": "..."} and reports what happens as {"news": "...", ...}. Everything else goes to standard error.

import { createInterface } from "node:readline";

for (const level of ["debug", "log", "info", "warn", "trace"]) console[level] = console.error;

// Node 20 lacks what matrix-js-sdk takes for granted.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new Promise((yes, no) => { resolve = yes; reject = no; });
  return { promise, resolve, reject };
};

const sdk = await import("matrix-js-sdk");

const tell = (line) => process.stdout.write(JSON.stringify(line) + "\n");

let client;
const told = new Set();

// message reports a readable message once.
function message(event) {
  if (event.getType() !== "m.room.message" || event.isDecryptionFailure() || event.status || told.has(event.getId())) return;
  told.add(event.getId());
  tell({
    news: "message", room: event.getRoomId(), id: event.getId(), sender: event.getSender(),
    text: event.getContent().body, encrypted: event.isEncrypted(),
  });
}

const commands = {
  // signIn takes a full Matrix ID at an address that serves many servers.
  async signIn({ url, user, password }) {
    const session = await sdk.createClient({ baseUrl: url }).loginRequest({
      type: "m.login.password", identifier: { type: "m.id.user", user }, password,
    });
    client = sdk.createClient({
      baseUrl: url, userId: session.user_id, deviceId: session.device_id, accessToken: session.access_token,
    });
    await client.initRustCrypto({ useIndexedDB: false });
    client.on("Room.timeline", message);
    client.on("Event.decrypted", message);
    client.on("Room.myMembership", (room, membership) => tell({ news: "membership", room: room.roomId, membership }));
    const ready = new Promise((resolve) => client.on("sync", (state) => state === "PREPARED" && resolve()));
    await client.startClient({ initialSyncLimit: 20 });
    await ready;
    return { user: session.user_id, device: session.device_id };
  },

  // identity makes the person's cross-signing keys.
  async identity({ password }) {
    await client.getCrypto().bootstrapCrossSigning({
      authUploadDeviceSigningKeys: (request) =>
        request({ type: "m.login.password", identifier: { type: "m.id.user", user: client.getUserId() }, password }),
    });
    return { ready: await client.getCrypto().isCrossSigningReady() };
  },

  async createRoom({ invite }) {
    const { room_id } = await client.createRoom({
      preset: "trusted_private_chat", invite,
      initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    });
    return { room: room_id };
  },

  async join({ room, via }) {
    await client.joinRoom(room, { viaServers: via });
    return {};
  },

  async send({ room, text }) {
    const { event_id } = await client.sendTextMessage(room, text);
    return { id: event_id };
  },

  // devices names the devices of a user as this client knows them.
  async devices({ user }) {
    const all = await client.getCrypto().getUserDeviceInfo([user], true);
    return { devices: [...(all.get(user)?.keys() ?? [])] };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { answer, do: name, ...rest } = JSON.parse(line);
  commands[name](rest).then(
    (result) => tell({ answer, ...result }),
    (error) => tell({ answer, error: String(error?.stack ?? error) }),
  );
}
client?.stopClient();
process.exit(0);
