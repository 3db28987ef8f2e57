// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package messenger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// Options say whose device it is and where its server answers.
type Options struct {
	// URL is the base address of the client API.
	URL string
	// User, DeviceID and Token are a session that somebody has obtained. With Password instead of Token the device signs in itself; User may then
	// be whatever the server takes as login name.
	User, DeviceID, Token, Password string
	// LoginToken is what single sign-on gave the device, instead of a password.
	LoginToken string
	// Transport carries the requests; nil is one of its own, so that nothing is shared between devices.
	Transport http.RoundTripper
}

// Device is one signed-in device with its own keys. It is not safe for concurrent use.
type Device struct {
	// Client is the plain Matrix client underneath, for what this package has no word for.
	Client *mautrix.Client
	// Machine holds the device's keys.
	Machine *crypto.OlmMachine

	since       string
	rooms       map[id.RoomID]*Room
	invitations map[id.RoomID]id.UserID
	invited     map[id.RoomID][]*event.Event // the state that came with an invitation
	backupKey   *backup.MegolmBackupKey
	backup      id.KeyBackupVersion
}

// longPoll is how long one sync may wait for news.
const longPoll = 20 * time.Second

// Open signs in (or takes over a session), makes the device's keys and publishes them.
func Open(ctx context.Context, o Options) (*Device, error) {
	client, err := mautrix.NewClient(o.URL, id.UserID(o.User), o.Token)
	if err != nil {
		return nil, err
	}
	transport := o.Transport
	if transport == nil {
		transport = &http.Transport{}
	}
	client.Client = &http.Client{Transport: transport}
	client.DeviceID = id.DeviceID(o.DeviceID)
	client.Log = zerolog.Nop()
	state := mautrix.NewMemoryStateStore()
	client.StateStore = state
	if o.Token == "" {
		q := &mautrix.ReqLogin{Type: mautrix.AuthTypeToken, Token: o.LoginToken, StoreCredentials: true, InitialDeviceDisplayName: "Konsil tour"}
		if o.LoginToken == "" {
			q.Type, q.Password, q.Identifier = mautrix.AuthTypePassword, o.Password, mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: o.User}
		}
		if _, err := client.Login(ctx, q); err != nil {
			return nil, fmt.Errorf("sign in %s: %w", o.User, err)
		}
	}
	d := &Device{Client: client, rooms: map[id.RoomID]*Room{}, invitations: map[id.RoomID]id.UserID{}, invited: map[id.RoomID][]*event.Event{}}
	d.Machine = crypto.NewOlmMachine(client, nil, crypto.NewMemoryStore(nil), state.(crypto.StateStore))
	// Whoever is in the room may read: the people of these stories verify each other, but do not shut out who has not been verified yet.
	d.Machine.SendKeysMinTrust = id.TrustStateUnset
	if err := d.Machine.Load(ctx); err != nil {
		return nil, err
	}
	if err := d.Machine.ShareKeys(ctx, -1); err != nil {
		return nil, fmt.Errorf("publish device keys of %s: %w", o.User, err)
	}
	if _, err := d.Machine.FetchKeys(ctx, []id.UserID{client.UserID}, true); err != nil {
		return nil, fmt.Errorf("read own devices: %w", err)
	}
	return d, nil
}

// User is the full Matrix ID.
func (d *Device) User() id.UserID { return d.Client.UserID }

// Close forgets the connections; the session stays signed in.
func (d *Device) Close() {
	d.Machine.Destroy()
	d.Client.Client.CloseIdleConnections()
}

// Sync asks once for what is new, waiting at most wait, and takes it in.
func (d *Device) Sync(ctx context.Context, wait time.Duration) error {
	first := d.since == ""
	if first {
		wait = 0
	}
	answer, err := d.Client.FullSyncRequest(ctx, mautrix.ReqSync{Since: d.since, Timeout: int(wait.Milliseconds())})
	if err != nil {
		return fmt.Errorf("sync of %s: %w", d.User(), err)
	}
	if answer.NextBatch == "" {
		return errors.New("sync answer without next_batch")
	}
	// State comes before keys, so that a change of members or devices invalidates the sessions of the rooms that are known by then.
	for room, joined := range answer.Rooms.Join {
		for _, e := range joined.State.Events {
			d.state(ctx, room, e)
		}
	}
	for room, invited := range answer.Rooms.Invite {
		for _, e := range invited.State.Events {
			if e.Type.Type == event.StateMember.Type && e.GetStateKey() == d.User().String() {
				d.invitations[room], d.invited[room] = e.Sender, invited.State.Events
			}
		}
	}
	for room := range answer.Rooms.Leave {
		delete(d.invitations, room)
		d.room(room).Left, d.room(room).in = true, false
	}
	d.Machine.ProcessSyncResponse(ctx, answer, d.since)
	for room, joined := range answer.Rooms.Join {
		delete(d.invitations, room)
		r := d.room(room)
		r.Left, r.in = false, true
		if joined.Timeline.Limited && !first {
			if err := d.fill(ctx, r, joined.Timeline.PrevBatch); err != nil {
				return err
			}
		}
		if r.start == "" {
			r.start = joined.Timeline.PrevBatch
		}
		for _, e := range joined.Timeline.Events {
			if e.StateKey != nil {
				d.state(ctx, room, e)
			}
			r.add(d.take(ctx, room, e))
		}
	}
	d.decryptWaiting(ctx)
	d.since = answer.NextBatch
	return nil
}

// state notes one state event.
func (d *Device) state(ctx context.Context, room id.RoomID, e *event.Event) {
	e.RoomID = room
	e.Type.Class = event.StateEventType
	if e.Content.Parsed == nil && e.Content.ParseRaw(e.Type) != nil {
		return // a kind of state that mautrix does not know, or malformed: nothing the keys depend on
	}
	mautrix.UpdateStateStore(ctx, d.Client.StateStore, e)
	switch e.Type.Type {
	case event.StateMember.Type:
		d.Machine.HandleMemberEvent(ctx, e)
	case event.StateHistoryVisibility.Type:
		d.Machine.HandleHistoryVisibility(ctx, e)
	}
}

// Until syncs until the condition holds. It is asked before the first sync, too.
func (d *Device) Until(ctx context.Context, what string, holds func() bool) error {
	for !holds() {
		if err := d.Sync(ctx, longPoll); err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
	}
	return nil
}

// Invitation waits for an invitation from somebody and returns its room.
func (d *Device) Invitation(ctx context.Context, from id.UserID) (id.RoomID, error) {
	var found id.RoomID
	err := d.Until(ctx, "an invitation from "+from.String(), func() bool {
		for room, inviter := range d.invitations {
			if inviter == from {
				found = room
			}
		}
		return found != ""
	})
	return found, err
}

// InviteState is the stripped state that came with an open invitation.
func (d *Device) InviteState(room id.RoomID) []*event.Event { return d.invited[room] }

// Rooms returns the rooms that the device has heard of as a member, present or past, in no order.
func (d *Device) Rooms() []*Room { return slices.Collect(maps.Values(d.rooms)) }

// Forget drops what the device remembers of a room, an invitation too: of a room that was forgotten, the server says no more.
func (d *Device) Forget(room id.RoomID) {
	delete(d.rooms, room)
	delete(d.invitations, room)
	delete(d.invited, room)
}

// Invitations returns who has invited this person to which room, as far as synced.
func (d *Device) Invitations() map[id.RoomID]id.UserID { return d.invitations }
