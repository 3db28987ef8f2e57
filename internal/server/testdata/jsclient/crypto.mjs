// SPDX-License-Identifier: Apache-2.0

// What a person does with their identity: secret storage, key backup and verification by emoji.

import { CryptoEvent, VerificationPhase, VerificationRequestEvent, VerifierEvent, decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/index.js";
import { RustBackupManager } from "matrix-js-sdk/lib/rust-crypto/backup.js";

// The SDK spreads the backups of many clients over ten seconds; one test needs no spreading.
RustBackupManager.maxBackupLoopStartDelayMillis = 0;

// secretStorage answers the client's question for the key of its secret storage.
export function secretStorage() {
  let key;
  return {
    open: (bytes) => { key = bytes; },
    callbacks: {
      getSecretStorageKey: async ({ keys }) => (key ? [Object.keys(keys)[0], key] : null),
      cacheSecretStorageKey: (id, info, bytes) => { key = bytes; },
    },
  };
}

// identity are the commands for cross-signing, verification and backup. A verification that somebody else asks for is accepted at once.
export function identity(session) {
  const shown = new Map(); // emoji that wait for their person, by whom they verify
  const followed = new Set(); // the SDK itself holds requests only weakly
  const crypto = () => session.client.getCrypto();

  async function trust({ user, device }) {
    if (device) return (await crypto().getDeviceVerificationStatus(user, device))?.crossSigningVerified ?? false;
    return (await crypto().getUserVerificationStatus(user)).isCrossSigningVerified();
  }

  // follow leads a verification to its end; the side that asked also starts the comparison.
  function follow(request, starts) {
    const user = request.otherUserId;
    let verifier;
    followed.add(request);
    const compare = async (found) => {
      verifier = found;
      verifier.on(VerifierEvent.ShowSas, (sas) => {
        shown.set(user, sas);
        session.tell({ news: "emoji", user, emoji: sas.sas.emoji.map(([symbol]) => symbol).join(" ") });
      });
      await verifier.verify();
      session.tell({ news: "verified", user });
    };
    const step = async () => {
      if (request.phase === VerificationPhase.Cancelled) session.tell({ news: "cancelled", user, code: request.cancellationCode });
      if (request.phase === VerificationPhase.Ready && starts) {
        starts = false;
        await compare(await request.startVerification("m.sas.v1"));
      } else if (request.phase === VerificationPhase.Started && request.verifier && !verifier && !request.initiatedByMe) {
        await compare(request.verifier);
      }
    };
    const run = () => step().catch((error) => session.tell({ news: "failed", user, error: String(error?.stack ?? error) }));
    request.on(VerificationRequestEvent.Change, run);
    run();
  }

  return {
    listen() {
      session.client.on(CryptoEvent.VerificationRequestReceived, async (request) => {
        if (request.initiatedByMe || request.phase !== VerificationPhase.Requested) return;
        follow(request, false);
        await request.accept();
      });
    },
    commands: {
      // identity makes the person's cross-signing keys.
      async identity({ password }) {
        await crypto().bootstrapCrossSigning({
          authUploadDeviceSigningKeys: (request) =>
            request({ type: "m.login.password", identifier: { type: "m.id.user", user: session.client.getUserId() }, password }),
        });
        return { ready: await crypto().isCrossSigningReady() };
      },
      // verify asks a person in a room, or without a user one's own other devices.
      async verify({ user, room }) {
        follow(user ? await crypto().requestVerificationDM(user, room) : await crypto().requestOwnUserVerification(), true);
        return {};
      },
      async emojiMatch({ user }) {
        await shown.get(user).confirm();
        return {};
      },
      // trust says whether the person's own keys vouch for a user, or for one of their devices.
      trust: async (whom) => ({ trust: await trust(whom) }),
      // trusted waits until they do.
      async trusted(whom) {
        await new Promise((resolve, reject) => {
          const look = () => trust(whom).then((holds) => holds && resolve(), reject);
          for (const event of [CryptoEvent.DevicesUpdated, CryptoEvent.UserTrustStatusChanged]) session.client.on(event, look);
          look();
        });
        return {};
      },
      // backUp makes secret storage and a key backup and waits until all keys are in it.
      async backUp() {
        let recovery;
        const done = new Promise((resolve) =>
          session.client.on(CryptoEvent.KeyBackupSessionsRemaining, (left) => left === 0 && resolve()));
        await crypto().bootstrapSecretStorage({
          setupNewKeyBackup: true,
          createSecretStorageKey: async () => (recovery = await crypto().createRecoveryKeyFromPassphrase()),
        });
        await done;
        return { recovery: recovery.encodedPrivateKey, ready: await crypto().isSecretStorageReady() };
      },
      // restore fetches the key backup by what secret storage holds.
      async restore({ recovery }) {
        session.storage.open(decodeRecoveryKey(recovery));
        await crypto().loadSessionBackupPrivateKeyFromSecretStorage();
        const { imported, total } = await crypto().restoreKeyBackup();
        return { imported, total };
      },
    },
  };
}
