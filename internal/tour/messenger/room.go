// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package messenger

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/attachment"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// Message is one event of a room's timeline, decrypted where the keys are there.
type Message struct {
	ID     id.EventID
	Sender id.UserID
	// Type is the event's type, that of the decrypted event where it was encrypted.
	Type string
	// Text is the body of an m.room.message, Content all of it; nil for other types and for what could not be read.
	Text    string
	Content *event.MessageEventContent
	// Redacts is the event that a redaction takes back.
	Redacts id.EventID
	// Time is when the sender's server took the event, in milliseconds since 1970.
	Time int64
	// File describes an encrypted attachment.
	File *event.EncryptedFileInfo
	// Encrypted says that the event came encrypted; Unreadable why it could not be decrypted, nil when it was.
	Encrypted  bool
	Unreadable error
	// Trust is what the sender's device was known to be when the message was decrypted.
	Trust id.TrustState

	raw *event.Event
}

// Room is what a device has seen of one room.
type Room struct {
	ID id.RoomID
	// Messages is the timeline, oldest first.
	Messages []*Message
	// Doubled lists events that the server brought again although the device had acknowledged them. A correct server never does.
	Doubled []id.EventID
	// Left says that the last the device heard was that it is out.
	Left bool

	in    bool // a sync has said so, and brought the state
	known map[id.EventID]bool
	start string // the token before the oldest message
}

func (d *Device) room(room id.RoomID) *Room {
	r := d.rooms[room]
	if r == nil {
		r = &Room{ID: room, known: map[id.EventID]bool{}}
		d.rooms[room] = r
	}
	return r
}

// Room returns what has been seen of a room so far.
func (d *Device) Room(room id.RoomID) *Room { return d.room(room) }

func (r *Room) add(m *Message) {
	if r.known[m.ID] {
		r.Doubled = append(r.Doubled, m.ID)
		return
	}
	r.known[m.ID] = true
	r.Messages = append(r.Messages, m)
}

// Texts returns the readable text messages of a sender (of everybody when empty) in order.
func (r *Room) Texts(sender id.UserID) []string {
	texts := []string{}
	for _, m := range r.Messages {
		if m.Text != "" && (sender == "" || m.Sender == sender) {
			texts = append(texts, m.Text)
		}
	}
	return texts
}

// Message returns a message by its id, nil when it has not come.
func (r *Room) Message(eventID id.EventID) *Message {
	i := slices.IndexFunc(r.Messages, func(m *Message) bool { return m.ID == eventID })
	if i < 0 {
		return nil
	}
	return r.Messages[i]
}

// take reads one timeline event.
func (d *Device) take(ctx context.Context, room id.RoomID, e *event.Event) *Message {
	e.RoomID = room
	if e.StateKey == nil {
		e.Type.Class = event.MessageEventType
	}
	m := &Message{ID: e.ID, Sender: e.Sender, Type: e.Type.Type, Redacts: e.Redacts, Time: e.Timestamp, raw: e}
	if e.Content.Parsed == nil {
		if err := e.Content.ParseRaw(e.Type); err != nil {
			return m // an unknown type is a message without text
		}
	}
	if e.Type.Type == event.EventEncrypted.Type {
		m.Encrypted = true
		d.decrypt(ctx, m)
		return m
	}
	m.read(e)
	return m
}

func (m *Message) read(e *event.Event) {
	if c, ok := e.Content.Parsed.(*event.MessageEventContent); ok {
		m.Text, m.File, m.Content = c.Body, c.File, c
	}
}

func (d *Device) decrypt(ctx context.Context, m *Message) {
	plain, err := d.Machine.DecryptMegolmEvent(ctx, m.raw)
	if err != nil {
		m.Unreadable = err
		return
	}
	m.Unreadable, m.Type, m.Trust = nil, plain.Type.Type, plain.Mautrix.TrustState
	m.read(plain)
}

// decryptWaiting tries again what could not be read when it came: its keys may have come meanwhile.
func (d *Device) decryptWaiting(ctx context.Context) {
	for _, r := range d.rooms {
		for _, m := range r.Messages {
			if errors.Is(m.Unreadable, crypto.ErrNoSessionFound) {
				d.decrypt(ctx, m)
			}
		}
	}
}

// page is how many events one request for history asks for.
const page = 50

// fill closes a gap between what the device knows and a limited timeline, by paging backwards.
func (d *Device) fill(ctx context.Context, r *Room, from string) error {
	var missing []*Message
	for from != "" {
		answer, err := d.Client.Messages(ctx, r.ID, from, "", mautrix.DirectionBackward, nil, page)
		if err != nil {
			return fmt.Errorf("messages of %s: %w", r.ID, err)
		}
		met := false
		for _, e := range answer.Chunk {
			if met = met || r.known[e.ID]; met {
				break
			}
			missing = append(missing, d.take(ctx, r.ID, e))
		}
		if met || answer.End == from {
			break
		}
		from = answer.End
	}
	slices.Reverse(missing)
	for _, m := range missing {
		r.add(m)
	}
	return nil
}

// History reads a room back to its beginning, or as far as the server lets this person.
func (d *Device) History(ctx context.Context, room id.RoomID) error {
	r := d.room(room)
	if r.start == "" {
		if err := d.Sync(ctx, 0); err != nil {
			return err
		}
	}
	if r.start == "" {
		return nil // read back already
	}
	newer := r.Messages
	r.Messages = nil
	err := d.fill(ctx, r, r.start)
	r.Messages = append(r.Messages, newer...)
	r.start = ""
	return err
}

// Peek reads a room that this person is not in, as far as the server lets everybody.
func (d *Device) Peek(ctx context.Context, room id.RoomID) ([]*Message, error) {
	answer, err := d.Client.Messages(ctx, room, "", "", mautrix.DirectionBackward, nil, page)
	if err != nil {
		return nil, fmt.Errorf("messages of %s: %w", room, err)
	}
	var all []*Message
	for _, e := range slices.Backward(answer.Chunk) {
		all = append(all, d.take(ctx, room, e))
	}
	return all, nil
}

// CreateRoom makes an encrypted room and invites people.
func (d *Device) CreateRoom(ctx context.Context, name string, invite ...id.UserID) (id.RoomID, error) {
	answer, err := d.Client.CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset: "trusted_private_chat", Name: name, Invite: invite,
		InitialState: []*event.Event{{Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}}},
	})
	if err != nil {
		return "", err
	}
	return answer.RoomID, d.Enter(ctx, answer.RoomID)
}

// Encrypted says whether the device knows a room to be encrypted.
func (d *Device) Encrypted(ctx context.Context, room id.RoomID) bool {
	encrypted, err := d.Client.StateStore.(crypto.StateStore).IsEncrypted(ctx, room)
	return err == nil && encrypted
}

// Invite invites somebody.
func (d *Device) Invite(ctx context.Context, room id.RoomID, user id.UserID) error {
	_, err := d.Client.InviteUser(ctx, room, &mautrix.ReqInviteUser{UserID: user})
	return err
}

// Join joins a room and waits until its state is there.
func (d *Device) Join(ctx context.Context, room id.RoomID, via ...string) error {
	if _, err := d.Client.JoinRoom(ctx, room.String(), &mautrix.ReqJoinRoom{Via: via}); err != nil {
		return fmt.Errorf("join %s: %w", room, err)
	}
	return d.Enter(ctx, room)
}

// Enter waits until a sync brings the room with its state: nothing is sent before its encryption and its members are known.
func (d *Device) Enter(ctx context.Context, room id.RoomID) error {
	r := d.room(room)
	return d.Until(ctx, "the room", func() bool { return r.in })
}

// Send sends a text, encrypted where the room is.
func (d *Device) Send(ctx context.Context, room id.RoomID, text string) (id.EventID, error) {
	return d.send(ctx, room, "", &event.MessageEventContent{MsgType: event.MsgText, Body: text})
}

// SendAs is Send with a transaction id chosen by the caller, so that a retry can be told from a new message.
func (d *Device) SendAs(ctx context.Context, room id.RoomID, txn, text string) (id.EventID, error) {
	return d.send(ctx, room, txn, &event.MessageEventContent{MsgType: event.MsgText, Body: text})
}

func (d *Device) send(ctx context.Context, room id.RoomID, txn string, content *event.MessageEventContent) (id.EventID, error) {
	extra := mautrix.ReqSendEvent{TransactionID: txn, DontEncrypt: true}
	if !d.Encrypted(ctx, room) {
		answer, err := d.Client.SendMessageEvent(ctx, room, event.EventMessage, content, extra)
		if err != nil {
			return "", err
		}
		return answer.EventID, nil
	}
	sealed, err := d.Machine.EncryptMegolmEvent(ctx, room, event.EventMessage, content)
	if errors.Is(err, crypto.ErrSessionExpired) || errors.Is(err, crypto.ErrNoGroupSession) || errors.Is(err, crypto.ErrSessionNotShared) {
		var members []id.UserID
		if members, err = d.Client.StateStore.GetRoomJoinedOrInvitedMembers(ctx, room); err != nil {
			return "", err
		}
		if err = d.Machine.ShareGroupSession(ctx, room, members); err != nil {
			return "", fmt.Errorf("give the room's key to %v: %w", members, err)
		}
		sealed, err = d.Machine.EncryptMegolmEvent(ctx, room, event.EventMessage, content)
	}
	if err != nil {
		return "", fmt.Errorf("encrypt: %w", err)
	}
	answer, err := d.Client.SendMessageEvent(ctx, room, event.EventEncrypted, sealed, extra)
	if err != nil {
		return "", err
	}
	return answer.EventID, nil
}

// SendContent sends any m.room.message, encrypted where the room is.
func (d *Device) SendContent(ctx context.Context, room id.RoomID, content *event.MessageEventContent) (id.EventID, error) {
	return d.send(ctx, room, "", content)
}

// SendFile encrypts a file, uploads it and sends it into a room.
func (d *Device) SendFile(ctx context.Context, room id.RoomID, name, mime string, data []byte) (id.EventID, error) {
	file, err := d.Upload(ctx, data)
	if err != nil {
		return "", err
	}
	return d.send(ctx, room, "", &event.MessageEventContent{
		MsgType: event.MsgFile, Body: name, FileName: name, Info: &event.FileInfo{MimeType: mime, Size: len(data)}, File: file})
}

// Upload encrypts a file and puts it on the server.
func (d *Device) Upload(ctx context.Context, data []byte) (*event.EncryptedFileInfo, error) {
	file := attachment.NewEncryptedFile()
	sealed := slices.Clone(data)
	file.EncryptInPlace(sealed)
	uploaded, err := d.Client.UploadBytes(ctx, sealed, "application/octet-stream")
	if err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	return &event.EncryptedFileInfo{EncryptedFile: *file, URL: uploaded.ContentURI.CUString()}, nil
}

// Download fetches and decrypts a message's attachment.
func (d *Device) Download(ctx context.Context, m *Message) ([]byte, error) {
	if m == nil || m.File == nil {
		return nil, errors.New("the message has no attachment")
	}
	return d.Fetch(ctx, m.File)
}

// Fetch fetches an encrypted file and decrypts it.
func (d *Device) Fetch(ctx context.Context, file *event.EncryptedFileInfo) ([]byte, error) {
	at, err := file.URL.Parse()
	if err != nil {
		return nil, err
	}
	data, err := d.Client.DownloadBytes(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", at, err)
	}
	if err := file.DecryptInPlace(data); err != nil {
		return nil, fmt.Errorf("decrypt %s: %w", at, err)
	}
	return data, nil
}
