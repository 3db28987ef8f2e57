// SPDX-License-Identifier: Apache-2.0

// A messenger without a screen: matrix-js-sdk with Rust crypto. Its host (node.mjs, page.mjs) hands it commands as lines of JSON; it answers each with a line
// {"answer": n, ...} or {"answer": n, "error": "..."} and reports what happens as {"news": "...", ...}.

import * as sdk from "matrix-js-sdk";

let tell;
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
    await client.initRustCrypto({ useIndexedDB: "indexedDB" in globalThis });
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

// serve connects the commands with a host: say gets each line that goes out, the returned function takes each that comes in.
export function serve(say) {
  tell = (line) => say(JSON.stringify(line));
  return (line) => {
    const { answer, do: name, ...rest } = JSON.parse(line);
    commands[name](rest).then(
      (result) => tell({ answer, ...result }),
      (error) => tell({ answer, error: String(error?.stack ?? error) }),
    );
  };
}

export const stop = () => client?.stopClient();
