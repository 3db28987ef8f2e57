// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package messenger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

const (
	// dehydration names the form of the pickled device: an Olm account under a key that only the person has.
	dehydration = "m.dehydration.v1.olm"
	// dehydratedKeys is how many others may begin to write to a dehydrated device.
	dehydratedKeys = 50
)

// dehydrated is a device as the server keeps it (MSC3814).
type dehydrated struct {
	DeviceID id.DeviceID `json:"device_id"`
	Data     struct {
		Algorithm string `json:"algorithm"`
		Pickle    string `json:"device_pickle"`
	} `json:"device_data"`
	Name    string                          `json:"initial_device_display_name,omitempty"`
	Keys    *mautrix.DeviceKeys             `json:"device_keys,omitempty"`
	OneTime map[id.KeyID]mautrix.OneTimeKey `json:"one_time_keys,omitempty"`
}

func (d *Device) dehydratedURL(path ...any) string {
	return d.Client.BuildClientURL(append([]any{"unstable", "org.matrix.msc3814.v1", "dehydrated_device"}, path...)...)
}

// Dehydrate leaves a device with the server that takes room keys while the person is signed in nowhere (MSC3814). The key that it returns wakes it
// up; whoever has secret storage keeps it there.
func (d *Device) Dehydrate(ctx context.Context) (key []byte, err error) {
	account := crypto.NewOlmAccount()
	q := dehydrated{DeviceID: id.DeviceID(account.IdentityKey()), Name: "Dehydrated device"}
	if q.Keys, err = d.sleepingKeys(account, q.DeviceID); err != nil {
		return nil, err
	}
	if q.OneTime, err = d.sleepingOneTimeKeys(account, q.DeviceID); err != nil {
		return nil, err
	}
	key = make([]byte, 32)
	rand.Read(key)
	pickle, err := account.Internal.Pickle(key)
	if err != nil {
		return nil, err
	}
	q.Data.Algorithm, q.Data.Pickle = dehydration, string(pickle)
	if _, err := d.Client.MakeRequest(ctx, http.MethodPut, d.dehydratedURL(), &q, nil); err != nil {
		return nil, fmt.Errorf("leave a dehydrated device: %w", err)
	}
	return key, nil
}

// sleepingKeys are a dehydrated device's keys, signed by itself and, where the person has a cross-signing identity, by that.
func (d *Device) sleepingKeys(account *crypto.OlmAccount, device id.DeviceID) (*mautrix.DeviceKeys, error) {
	keys := &mautrix.DeviceKeys{UserID: d.User(), DeviceID: device, Algorithms: []id.Algorithm{id.AlgorithmMegolmV1, id.AlgorithmOlmV1}, Dehydrated: true,
		Keys: mautrix.KeyMap{
			id.NewDeviceKeyID(id.KeyAlgorithmCurve25519, device): string(account.IdentityKey()),
			id.NewDeviceKeyID(id.KeyAlgorithmEd25519, device):    string(account.SigningKey()),
		}}
	signature, err := account.SignJSON(keys)
	if err != nil {
		return nil, err
	}
	keys.Signatures = signatures.NewSingleSignature(d.User(), id.KeyAlgorithmEd25519, device.String(), signature)
	if d.Machine.CrossSigningKeys == nil {
		return keys, nil
	}
	own := d.Machine.CrossSigningKeys.SelfSigningKey
	if signature, err = own.SignJSON(keys); err != nil {
		return nil, err
	}
	keys.Signatures[d.User()][id.NewKeyID(id.KeyAlgorithmEd25519, own.PublicKey().String())] = signature
	return keys, nil
}

func (d *Device) sleepingOneTimeKeys(account *crypto.OlmAccount, device id.DeviceID) (map[id.KeyID]mautrix.OneTimeKey, error) {
	if err := account.Internal.GenOneTimeKeys(dehydratedKeys); err != nil {
		return nil, err
	}
	fresh, err := account.Internal.OneTimeKeys()
	if err != nil {
		return nil, err
	}
	account.Internal.MarkKeysAsPublished()
	all := map[id.KeyID]mautrix.OneTimeKey{}
	for name, public := range fresh {
		k := mautrix.OneTimeKey{Key: public, IsSigned: true}
		signature, err := account.SignJSON(k)
		if err != nil {
			return nil, err
		}
		k.Signatures = signatures.NewSingleSignature(d.User(), id.KeyAlgorithmEd25519, device.String(), signature)
		all[id.NewKeyID(id.KeyAlgorithmSignedCurve25519, name)] = k
	}
	return all, nil
}

// Rehydrate takes over the room keys that a dehydrated device has been sent, and takes that device away. It does nothing when there is none.
func (d *Device) Rehydrate(ctx context.Context, key []byte) error {
	var asleep dehydrated
	_, err := d.Client.MakeRequest(ctx, http.MethodGet, d.dehydratedURL(), nil, &asleep)
	if errors.Is(err, mautrix.MNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("dehydrated device: %w", err)
	}
	if asleep.Data.Algorithm != dehydration {
		return fmt.Errorf("a dehydrated device of the form %q", asleep.Data.Algorithm)
	}
	machine, err := d.wake(ctx, &asleep, key)
	if err != nil {
		return fmt.Errorf("wake the dehydrated device: %w", err)
	}
	defer machine.Destroy()
	if err := d.hear(ctx, asleep.DeviceID, machine); err != nil {
		return err
	}
	sessions, err := machine.CryptoStore.GetAllGroupSessions(ctx).AsList()
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if err := d.Machine.CryptoStore.PutGroupSession(ctx, s); err != nil {
			return err
		}
	}
	d.decryptWaiting(ctx)
	_, err = d.Client.MakeRequest(ctx, http.MethodDelete, d.dehydratedURL(), nil, nil)
	return err
}

// wake makes a machine with the dehydrated device's keys and a store of its own.
func (d *Device) wake(ctx context.Context, asleep *dehydrated, key []byte) (*crypto.OlmMachine, error) {
	account := crypto.NewOlmAccount()
	if err := account.Internal.Unpickle([]byte(asleep.Data.Pickle), key); err != nil {
		return nil, err
	}
	store := crypto.NewMemoryStore(nil)
	if err := store.PutAccount(ctx, account); err != nil {
		return nil, err
	}
	log := zerolog.Nop()
	machine := crypto.NewOlmMachine(d.Client, &log, store, d.Client.StateStore.(crypto.StateStore))
	return machine, machine.Load(ctx)
}

// hear reads all messages to a dehydrated device, page by page.
func (d *Device) hear(ctx context.Context, device id.DeviceID, machine *crypto.OlmMachine) error {
	next := struct {
		Next string `json:"next_batch,omitempty"`
	}{}
	for {
		var page struct {
			Events []*event.Event `json:"events"`
			Next   string         `json:"next_batch"`
		}
		if _, err := d.Client.MakeRequest(ctx, http.MethodPost, d.dehydratedURL(device, "events"), &next, &page); err != nil {
			return fmt.Errorf("messages of the dehydrated device: %w", err)
		}
		if len(page.Events) == 0 || page.Next == next.Next {
			return nil
		}
		for _, e := range page.Events {
			e.Type.Class = event.ToDeviceEventType
			if e.Content.ParseRaw(e.Type) == nil { // what nobody can read is left
				machine.HandleToDeviceEvent(ctx, e)
			}
		}
		next.Next = page.Next
	}
}
