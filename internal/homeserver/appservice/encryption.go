// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"context"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/homeserver/encryption"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// maxInbox bounds the to-device messages of a transaction; messages of one position are never parted.
	maxInbox = 500
	// maxCounted bounds the users whose key counts a transaction tells.
	maxCounted = 100
)

// toDevice reads what waits for devices of the service's users. A service with MSC3202 gets all of it; one that only asked for ephemeral data
// gets what nobody can fetch by /sync, because the device has no token of its own. When there is much the batch ends with what fits.
func (b *batch) toDevice(ctx context.Context) ([]encryption.Waiting, error) {
	if !b.d.Encryption && !b.d.Registration.Ephemeral && !b.d.PushEphemeral || !b.touched(stream.ToDevice) {
		return nil, nil
	}
	if b.known && !slices.ContainsFunc(b.changes, func(c stream.Positioned) bool {
		return c.Kind == stream.ToDevice && slices.ContainsFunc(c.Users, b.d.owns)
	}) {
		return nil, nil
	}
	list, more, err := b.s.o.Keys.ToDeviceOfService(ctx, b.t, b.d.ID, !b.d.Encryption, b.from, b.upTo, maxInbox)
	if err != nil {
		return nil, err
	}
	if more {
		b.upTo = list[len(list)-1].Position
	}
	return list, nil
}

// addToDevice adds the messages within the batch, whose end the events may have brought nearer.
func (b *batch) addToDevice(list []encryption.Waiting) error {
	type box struct {
		user   id.User
		device id.Device
	}
	last := map[box]int64{}
	for _, m := range list {
		if m.Position > b.upTo {
			break
		}
		var message map[string]jsontext.Value
		err := json.Unmarshal(m.JSON, &message, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		if err != nil {
			return err
		}
		if message["to_user_id"], err = json.Marshal(m.User); err != nil {
			return err
		}
		if message["to_device_id"], err = json.Marshal(m.Device); err != nil {
			return err
		}
		raw, err := json.Marshal(message, json.Deterministic(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		if err != nil {
			return err
		}
		b.ToDevice = append(b.ToDevice, raw)
		b.recipients[m.User] = true
		last[box{m.User, m.Device}] = m.Position
	}
	for k, position := range last {
		b.taken = append(b.taken, inbox{k.user, k.device, position})
	}
	return nil
}

// keyCounts tells how many one-time keys the devices concerned have left: those of the sender, of who got messages and whose keys were used.
func (b *batch) keyCounts(ctx context.Context) error {
	if !b.d.Encryption {
		return nil
	}
	users := maps.Clone(b.recipients)
	users[b.d.account.Sender] = true
	for _, c := range b.changes {
		if c.Kind != stream.Keys {
			continue
		}
		for _, u := range c.Users {
			if b.d.owns(u) && len(users) < maxCounted {
				users[u] = true
			}
		}
	}
	counts, fallback := keyCounts{}, fallbackTypes{}
	for u := range users {
		devices, err := b.s.o.Accounts.Devices(ctx, b.t, u)
		if err != nil {
			return err
		}
		for _, device := range devices {
			n, unused, err := b.s.o.Keys.KeyCounts(ctx, b.t, u, device.ID)
			if err != nil {
				return err
			}
			if counts[u] == nil {
				counts[u], fallback[u] = map[id.Device]map[string]int64{}, map[id.Device][]string{}
			}
			if unused == nil {
				unused = []string{}
			}
			counts[u][device.ID], fallback[u][device.ID] = n, unused
		}
	}
	if len(counts) > 0 {
		b.Counts, b.OldCounts, b.Fallback = counts, counts, fallback
	}
	return nil
}
