// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package messenger

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/go-json-experiment/json"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// SetUp makes the person's cross-signing identity, signs this device with it and opens a key backup. The recovery key unlocks both on another
// device (see [Device.Recover]).
func (d *Device) SetUp(ctx context.Context, password string) (recoveryKey string, err error) {
	recoveryKey, _, err = d.Machine.GenerateAndUploadCrossSigningKeysWithPassword(ctx, password, "")
	if err != nil {
		return "", fmt.Errorf("cross-signing keys: %w", err)
	}
	if err := d.Machine.SignOwnDevice(ctx, d.Machine.OwnIdentity()); err != nil {
		return "", fmt.Errorf("sign own device: %w", err)
	}
	if err := d.Machine.SignOwnMasterKey(ctx); err != nil {
		return "", fmt.Errorf("sign own master key: %w", err)
	}
	if d.backupKey, err = backup.NewMegolmBackupKey(); err != nil {
		return "", err
	}
	keyID, metadata, err := d.Machine.SSSS.GetDefaultKeyData(ctx)
	if err != nil {
		return "", fmt.Errorf("secret storage: %w", err)
	}
	storage, err := metadata.VerifyRecoveryKey(keyID, recoveryKey)
	if err != nil {
		return "", err
	}
	secret := base64.StdEncoding.EncodeToString(d.backupKey.Bytes())
	if err := d.Machine.SSSS.SetEncryptedAccountData(ctx, event.AccountDataMegolmBackupKey, []byte(secret), storage); err != nil {
		return "", fmt.Errorf("keep the backup key: %w", err)
	}
	auth := backup.MegolmAuthData{PublicKey: id.Ed25519(base64.RawStdEncoding.EncodeToString(d.backupKey.PublicKey().Bytes()))}
	signature, err := d.Machine.CrossSigningKeys.MasterKey.SignJSON(auth)
	if err != nil {
		return "", err
	}
	auth.Signatures = signatures.NewSingleSignature(d.User(), id.KeyAlgorithmEd25519, d.Machine.CrossSigningKeys.MasterKey.PublicKey().String(), signature)
	version, err := d.Client.CreateKeyBackupVersion(ctx, &mautrix.ReqRoomKeysVersionCreate[backup.MegolmAuthData]{
		Algorithm: id.KeyBackupAlgorithmMegolmBackupV1, AuthData: auth})
	if err != nil {
		return "", fmt.Errorf("open a key backup: %w", err)
	}
	d.backup = version.Version
	return recoveryKey, nil
}

// BackUp puts all room keys of this device into the key backup and returns how many the backup then holds.
func (d *Device) BackUp(ctx context.Context) (int, error) {
	sessions, err := d.Machine.CryptoStore.GetAllGroupSessions(ctx).AsList()
	if err != nil {
		return 0, err
	}
	request := mautrix.ReqKeyBackup{Rooms: map[id.RoomID]mautrix.ReqRoomKeyBackup{}}
	for _, s := range sessions {
		first := s.Internal.FirstKnownIndex()
		key, err := s.Internal.Export(first)
		if err != nil {
			return 0, err
		}
		sealed, err := backup.EncryptSessionData(d.backupKey, backup.MegolmSessionData{
			Algorithm: id.AlgorithmMegolmV1, ForwardingKeyChain: []string{}, SenderKey: s.SenderKey, SessionKey: string(key),
			SenderClaimedKeys: backup.SenderClaimedKeys{Ed25519: s.SigningKey},
		})
		if err != nil {
			return 0, err
		}
		data, err := json.Marshal(sealed)
		if err != nil {
			return 0, err
		}
		if request.Rooms[s.RoomID].Sessions == nil {
			request.Rooms[s.RoomID] = mautrix.ReqRoomKeyBackup{Sessions: map[id.SessionID]mautrix.ReqKeyBackupData{}}
		}
		request.Rooms[s.RoomID].Sessions[s.ID()] = mautrix.ReqKeyBackupData{FirstMessageIndex: int(first), SessionData: data}
	}
	answer, err := d.Client.PutKeysInBackup(ctx, d.backup, &request)
	if err != nil {
		return 0, fmt.Errorf("back up %d keys: %w", len(sessions), err)
	}
	return answer.Count, nil
}

// Recover makes this device one of the person's own with the recovery key, and fetches all room keys from the backup.
func (d *Device) Recover(ctx context.Context, recoveryKey string) error {
	if err := d.Machine.VerifyWithRecoveryKey(ctx, recoveryKey); err != nil {
		return fmt.Errorf("recovery key: %w", err)
	}
	keyID, metadata, err := d.Machine.SSSS.GetDefaultKeyData(ctx)
	if err != nil {
		return err
	}
	storage, err := metadata.VerifyRecoveryKey(keyID, recoveryKey)
	if err != nil {
		return err
	}
	secret, err := d.Machine.SSSS.GetDecryptedAccountData(ctx, event.AccountDataMegolmBackupKey, storage)
	if err != nil {
		return fmt.Errorf("the backup's key: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(string(secret))
	if err != nil {
		return err
	}
	if d.backupKey, err = backup.MegolmBackupKeyFromBytes(raw); err != nil {
		return err
	}
	d.backup, err = d.Machine.DownloadAndStoreLatestKeyBackup(ctx, d.backupKey)
	if err != nil {
		return fmt.Errorf("key backup: %w", err)
	}
	d.decryptWaiting(ctx)
	return nil
}

// Fingerprint is the public master key by which others know this person; people compare it face to face or by telephone.
func (d *Device) Fingerprint(ctx context.Context) (id.Ed25519, error) {
	keys, err := d.Machine.GetOwnCrossSigningPublicKeys(ctx)
	if err != nil {
		return "", err
	}
	if keys == nil {
		return "", crypto.ErrCrossSigningPubkeysNotCached
	}
	return keys.MasterKey, nil
}

// Verify compares somebody's master key, as the server gives it, with the fingerprint that person has told, and signs it.
func (d *Device) Verify(ctx context.Context, user id.UserID, fingerprint id.Ed25519) error {
	if _, err := d.Machine.FetchKeys(ctx, []id.UserID{user}, true); err != nil {
		return err
	}
	keys, err := d.Machine.GetCrossSigningPublicKeys(ctx, user)
	if err != nil {
		return err
	}
	if keys == nil {
		return fmt.Errorf("%s has no cross-signing keys", user)
	}
	if keys.MasterKey != fingerprint {
		return fmt.Errorf("%s's master key is %s, but they say it is %s", user, keys.MasterKey, fingerprint)
	}
	return d.Machine.SignUser(ctx, user, keys.MasterKey)
}

// Trusts says whether this person has verified somebody and all of that person's devices are signed by themselves, reading everything from the server.
func (d *Device) Trusts(ctx context.Context, user id.UserID) (bool, error) {
	devices, err := d.Machine.FetchKeys(ctx, []id.UserID{user}, true)
	if err != nil {
		return false, err
	}
	trusted, err := d.Machine.IsUserTrusted(ctx, user)
	if err != nil || !trusted || len(devices[user]) == 0 {
		return false, err
	}
	for _, device := range devices[user] {
		trust, err := d.Machine.ResolveTrustContext(ctx, device)
		if err != nil || trust < id.TrustStateCrossSignedVerified {
			return false, err
		}
	}
	return true, nil
}
