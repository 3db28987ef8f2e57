// SPDX-License-Identifier: Apache-2.0

// A messenger without a screen: matrix-js-sdk with Rust crypto. Its host (node.mjs, page.mjs) hands it commands as lines of JSON; it answers each with a line
// {"answer": n, ...} or {"answer": n, "error": "..."} and reports what happens as {"news": "...", ...}.

import * as sdk from "matrix-js-sdk";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";
import { identity, secretStorage } from "./crypto.mjs";

let tell;
let client;
const session = { get client() { return client; }, tell: (line) => tell(line), storage: secretStorage() };
const person = identity(session);
const told = new Set();

// message reports a message once: readable, or as one that cannot be read yet.
function message(event) {
  if (event.isEncrypted() && !event.getClearContent() && !event.isDecryptionFailure()) client.decryptEventIfNeeded(event);
  if (event.isDecryptionFailure()) return tell({ news: "unreadable", room: event.getRoomId(), id: event.getId() });
  if (event.getType() !== "m.room.message" || event.status || told.has(event.getId())) return;
  told.add(event.getId());
  tell({
    news: "message", room: event.getRoomId(), id: event.getId(), sender: event.getSender(),
    text: event.getContent().body, encrypted: event.isEncrypted(),
  });
}

// listen reports everything else that a person would see.
function listen() {
  client.on("Room.timeline", message);
  client.on("Event.decrypted", message);
  client.on("Room.myMembership", (room, membership) => tell({ news: "membership", room: room.roomId, membership }));
  client.on("RoomMember.membership", (event, member) =>
    tell({ news: "member", room: member.roomId, user: member.userId, membership: member.membership }));
  client.on("RoomMember.typing", (event, member) => tell({ news: "typing", room: member.roomId, user: member.userId, typing: member.typing }));
  client.on("Room.receipt", (event, room) => {
    for (const [id, kinds] of Object.entries(event.getContent()))
      for (const user of Object.keys(kinds["m.read"] ?? {})) tell({ news: "receipt", room: room.roomId, id, user });
  });
  client.on("accountData", (event) => tell({ news: "accountData", type: event.getType(), note: event.getContent().note }));
  client.on("Room.accountData", (event, room) =>
    tell({ news: "accountData", room: room.roomId, type: event.getType(), note: event.getContent().note }));
}

// slidingSync asks for the twenty latest rooms with all their state; the SDK adds the extensions (MSC4186).
function slidingSync(url) {
  const window = { timeline_limit: 20, required_state: [["*", "*"]] };
  return new SlidingSync(url, new Map([["all", { ranges: [[0, 19]], ...window }]]), window, client, 20_000);
}

const commands = {
  ...person.commands,

  // signIn takes a full Matrix ID at an address that serves many servers.
  async signIn({ url, user, password, sliding }) {
    const login = await sdk.createClient({ baseUrl: url }).loginRequest({
      type: "m.login.password", identifier: { type: "m.id.user", user }, password,
    });
    client = sdk.createClient({
      baseUrl: url, userId: login.user_id, deviceId: login.device_id, accessToken: login.access_token,
      cryptoCallbacks: session.storage.callbacks,
    });
    await client.initRustCrypto({ useIndexedDB: "indexedDB" in globalThis });
    listen();
    person.listen();
    const ready = new Promise((resolve) => client.on("sync", (state) => state === "PREPARED" && resolve()));
    await client.startClient({ initialSyncLimit: 20, slidingSync: sliding ? slidingSync(url) : undefined });
    await ready;
    return { user: login.user_id, device: login.device_id };
  },

  async createRoom({ invite, name }) {
    const { room_id } = await client.createRoom({
      preset: "trusted_private_chat", invite, name,
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

  async typing({ room }) {
    await client.sendTyping(room, true, 20_000);
    return {};
  },

  async read({ room, id }) {
    await client.sendReadReceipt(client.getRoom(room).findEventById(id));
    return {};
  },

  // note keeps something in the account, or in its part for a room.
  async note({ room, type, note }) {
    await (room ? client.setRoomAccountData(room, type, { note }) : client.setAccountData(type, { note }));
    return {};
  },

  // room is what the client knows of a room.
  async room({ room }) {
    const found = client.getRoom(room);
    return {
      name: found.name, encrypted: found.hasEncryptionStateEvent(), membership: found.getMyMembership(),
      members: found.getJoinedMembers().map(({ userId }) => userId).sort(),
    };
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
