// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver

import (
	"cmp"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/konsil-health/konsil/internal/tour/messenger"
)

var messageOperations = map[string]operation{
	"POST /sendMessage":                               {status: http.StatusOK, signedIn: true, do: sendDirect},
	"GET /rooms/{room}/messages":                      {status: http.StatusOK, signedIn: true, do: listMessages},
	"POST /rooms/{room}/messages":                     {status: http.StatusOK, signedIn: true, do: sendMessage},
	"GET /rooms/{room}/messages/{message}":            {status: http.StatusOK, signedIn: true, do: readMessage},
	"PUT /rooms/{room}/messages/{message}":            {status: http.StatusOK, signedIn: true, do: editMessage},
	"DELETE /rooms/{room}/messages/{message}":         {status: http.StatusNoContent, signedIn: true, do: redactMessage},
	"DELETE /rooms/{room}/messages/{message}/replace": {status: http.StatusNoContent, signedIn: true, do: replaceMessage},
	"POST /media":                     {status: http.StatusCreated, signedIn: true, do: upload},
	"GET /media/authenticated/{file}": {status: http.StatusOK, signedIn: true, do: download},
}

// message is a message as the interface shows it.
type message struct {
	ID      string    `json:"messageId,omitempty"`
	EventID string    `json:"event_id,omitempty"`
	Type    string    `json:"type,omitempty"`
	Author  string    `json:"author"`
	RoomID  string    `json:"room_id,omitempty"`
	Origin  int64     `json:"origin_server_ts,omitempty"`
	Sent    time.Time `json:"timestamp,omitzero"`
	Updated time.Time `json:"lastUpdated,omitzero"`
	content `json:",inline"`
}

// content is what somebody writes.
type content struct {
	Body          string                   `json:"body"`
	MsgType       string                   `json:"msgtype"`
	FileID        string                   `json:"fileId,omitempty"`
	Format        string                   `json:"format,omitempty"`
	FormattedBody string                   `json:"formatted_body,omitempty"`
	FileName      string                   `json:"filename,omitempty"`
	GeoURI        string                   `json:"geo_uri,omitempty"`
	Info          *info                    `json:"info,omitempty"`
	File          *event.EncryptedFileInfo `json:"file,omitempty"`
}

type info struct {
	MIME string `json:"mimetype,omitempty"`
	Size int    `json:"size,omitempty"`
}

// matrix makes the Matrix content; a file must have been uploaded on this device.
func (v *device) matrix(c content) (*event.MessageEventContent, error) {
	m := &event.MessageEventContent{MsgType: event.MessageType(c.MsgType), Body: c.Body, Format: event.Format(c.Format), FormattedBody: c.FormattedBody, FileName: c.FileName, GeoURI: c.GeoURI}
	if c.Info != nil {
		m.Info = &event.FileInfo{MimeType: c.Info.MIME, Size: c.Info.Size}
	}
	if c.FileID == "" {
		return m, nil
	}
	if m.File = v.files[c.FileID]; m.File == nil {
		return nil, fail(http.StatusNotFound, "NOT_FOUND", "there is no file %.100s", c.FileID)
	}
	m.FileName = cmp.Or(c.FileName, c.Body)
	if m.Info == nil {
		m.Info = &event.FileInfo{MimeType: v.kinds[c.FileID]}
	}
	return m, nil
}

// shown makes what the interface shows, and remembers the file so that it can be fetched.
func (v *device) shown(c *event.MessageEventContent) content {
	out := content{Body: c.Body, MsgType: string(c.MsgType), Format: string(c.Format), FormattedBody: c.FormattedBody, FileName: c.FileName, GeoURI: c.GeoURI, File: c.File}
	if c.Info != nil {
		out.Info = &info{c.Info.MimeType, c.Info.Size}
	}
	if c.File != nil {
		out.FileID = fileID(c.File)
		v.files[out.FileID] = c.File
		if c.Info != nil {
			v.kinds[out.FileID] = c.Info.MimeType
		}
	}
	return out
}

// fileID names a file by its address.
func fileID(f *event.EncryptedFileInfo) string {
	return base64.RawURLEncoding.EncodeToString([]byte(f.URL))
}

func sendDirect(ctx context.Context, v *device, r *http.Request) (any, error) {
	var q struct {
		To      id.UserID `json:"toAccount"`
		content `json:",inline"`
	}
	if err := body(r, &q); err != nil {
		return nil, err
	}
	roomID, err := v.chat(ctx, q.To)
	if err != nil {
		return nil, err
	}
	return v.send(ctx, roomID, q.content)
}

// chat finds the room with nobody but the two and without a name, or opens it with an invitation.
func (v *device) chat(ctx context.Context, with id.UserID) (id.RoomID, error) {
	for _, known := range v.client.Rooms() {
		if known.Left {
			continue
		}
		r, err := v.describeRoom(ctx, known.ID)
		if err != nil {
			return "", err
		}
		present := slices.DeleteFunc(slices.Clone(r.Members), func(m member) bool { return m.State != "join" && m.State != "invite" })
		if r.Name == "" && len(present) == 2 && slices.ContainsFunc(present, func(m member) bool { return m.User == with.String() }) {
			return known.ID, nil
		}
	}
	request := newRoom("", "")
	request.Preset, request.IsDirect, request.Invite = "trusted_private_chat", true, []id.UserID{with}
	return v.open(ctx, request)
}

func sendMessage(ctx context.Context, v *device, r *http.Request) (any, error) {
	var c content
	if err := body(r, &c); err != nil {
		return nil, err
	}
	return v.send(ctx, inRoom(r), c)
}

func (v *device) send(ctx context.Context, roomID id.RoomID, c content) (any, error) {
	m, err := v.matrix(c)
	if err != nil {
		return nil, err
	}
	sent, err := v.client.SendContent(ctx, roomID, m)
	if err != nil {
		return nil, err
	}
	return message{ID: sent.String(), EventID: sent.String(), Type: event.EventMessage.Type, Author: v.client.User().String(), RoomID: roomID.String(), content: v.shown(m)}, nil
}

func listMessages(ctx context.Context, v *device, r *http.Request) (any, error) {
	return v.messages(ctx, inRoom(r))
}

// messages shows a room's messages as a person sees them: edits in the place of what they change, nothing of what was deleted.
func (v *device) messages(ctx context.Context, roomID id.RoomID) ([]message, error) {
	timeline, err := v.timeline(ctx, roomID)
	if err != nil {
		return nil, err
	}
	redacted := map[id.EventID]bool{}
	for _, m := range timeline {
		if m.Redacts != "" {
			redacted[m.Redacts] = true
		}
	}
	all, at := []message{}, map[string]int{}
	for _, m := range timeline {
		if m.Content == nil || m.Type != event.EventMessage.Type || redacted[m.ID] {
			continue
		}
		sent := time.UnixMilli(m.Time).UTC()
		original := m.Content.OptionalGetRelatesTo().GetReplaceID()
		if original != "" && m.Content.NewContent != nil {
			i, seen := at[original.String()]
			switch {
			case redacted[original]:
				continue // what changes a deleted message goes with it (A_28355)
			case seen && all[i].Author == m.Sender.String():
				all[i].content, all[i].Updated = v.shown(m.Content.NewContent), sent
				continue
			case seen:
				continue // nobody changes what others write
			}
			at[original.String()] = len(all)
			all = append(all, message{ID: original.String(), EventID: original.String(), Type: m.Type, Author: m.Sender.String(), RoomID: roomID.String(), Origin: m.Time, Sent: sent, Updated: sent, content: v.shown(m.Content.NewContent)})
			continue
		}
		at[m.ID.String()] = len(all)
		all = append(all, message{ID: m.ID.String(), EventID: m.ID.String(), Type: m.Type, Author: m.Sender.String(), RoomID: roomID.String(), Origin: m.Time, Sent: sent, content: v.shown(m.Content)})
	}
	return slices.DeleteFunc(all, func(m message) bool { return m.Body == "" && m.File == nil }), nil // replaced by nothing is deleted
}

// timeline reads a room back to its beginning; one that the user has never been in as the server shows it to everybody.
func (v *device) timeline(ctx context.Context, roomID id.RoomID) ([]*messenger.Message, error) {
	if _, invited := v.client.Invitations()[roomID]; invited {
		return nil, fail(http.StatusForbidden, "M_FORBIDDEN", "the invitation has not been accepted yet")
	}
	if !slices.ContainsFunc(v.client.Rooms(), func(r *messenger.Room) bool { return r.ID == roomID }) {
		return v.client.Peek(ctx, roomID)
	}
	if r := v.client.Room(roomID); !r.Left {
		if err := v.client.History(ctx, roomID); err != nil {
			return nil, err
		}
	}
	return v.client.Room(roomID).Messages, nil
}

func (v *device) message(ctx context.Context, r *http.Request) (message, error) {
	all, err := v.messages(ctx, inRoom(r))
	if err != nil {
		return message{}, err
	}
	i := slices.IndexFunc(all, func(m message) bool { return m.ID == r.PathValue("message") })
	if i < 0 {
		return message{}, fail(http.StatusNotFound, "NOT_FOUND", "there is no such message")
	}
	return all[i], nil
}

func readMessage(ctx context.Context, v *device, r *http.Request) (any, error) {
	return v.message(ctx, r)
}

func editMessage(ctx context.Context, v *device, r *http.Request) (any, error) {
	var c content
	if err := body(r, &c); err != nil {
		return nil, err
	}
	m, err := v.matrix(c)
	if err != nil {
		return nil, err
	}
	if err := v.replace(ctx, inRoom(r), id.EventID(r.PathValue("message")), m); err != nil {
		return nil, err
	}
	return v.message(ctx, r)
}

func (v *device) replace(ctx context.Context, roomID id.RoomID, original id.EventID, m *event.MessageEventContent) error {
	m.SetEdit(original)
	if _, err := v.client.SendContent(ctx, roomID, m); err != nil {
		return err
	}
	return v.client.Sync(ctx, 0)
}

// redactMessage deletes a message together with what has changed it (A_25575-01, A_28355).
func redactMessage(ctx context.Context, v *device, r *http.Request) (any, error) {
	roomID, original := inRoom(r), id.EventID(r.PathValue("message"))
	timeline, err := v.timeline(ctx, roomID)
	if err != nil {
		return nil, err
	}
	doomed := []id.EventID{original}
	for _, m := range timeline {
		if m.Content != nil && m.Sender == v.client.User() && m.Content.OptionalGetRelatesTo().GetReplaceID() == original {
			doomed = append(doomed, m.ID)
		}
	}
	for _, eventID := range doomed {
		if _, err := v.client.Client.RedactEvent(ctx, roomID, eventID, mautrix.ReqRedact{}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// replaceMessage deletes a message for the eye: by a change that leaves nothing.
func replaceMessage(ctx context.Context, v *device, r *http.Request) (any, error) {
	return nil, v.replace(ctx, inRoom(r), id.EventID(r.PathValue("message")), &event.MessageEventContent{MsgType: event.MsgText})
}

func upload(ctx context.Context, v *device, r *http.Request) (any, error) {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return nil, err
	}
	file, err := v.client.Upload(ctx, data)
	if err != nil {
		return nil, err
	}
	name := fileID(file)
	v.files[name], v.kinds[name] = file, r.Header.Get("Content-Type")
	return map[string]any{"fileId": name}, nil
}

func download(ctx context.Context, v *device, r *http.Request) (any, error) {
	file := v.files[r.PathValue("file")]
	if file == nil {
		return nil, fail(http.StatusNotFound, "NOT_FOUND", "there is no such file")
	}
	data, err := v.client.Fetch(ctx, file)
	if err != nil {
		return nil, err
	}
	return binary{cmp.Or(v.kinds[r.PathValue("file")], "application/octet-stream"), data}, nil
}
