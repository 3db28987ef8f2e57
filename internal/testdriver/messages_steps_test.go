// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// kinds are the MIME types of the suite's files.
var kinds = map[string]string{"jpg": "image/jpeg", "png": "image/png", "pdf": "application/pdf", "txt": "text/plain", "zip": "application/zip", "mp3": "audio/mpeg", "wav": "audio/wav", "mp4": "video/mp4", "mov": "video/quicktime"}

// attachment makes a file of the suite: what is in it does not matter, but the bytes must come through.
func attachment(name string) file {
	return file{kinds[name[strings.LastIndexByte(name, '.')+1:]], bytes.Repeat([]byte(name+"\n"), 3_000)}
}

// location is what stands behind the suite's name of a place.
const location = "geo:52.5220,13.3760"

// here are the rooms of a step: one by its name, or one's chats with somebody.
func (p *play) here(ctx context.Context, name, with, room string) ([]chatRoom, error) {
	if room != "" {
		r, err := p.place(ctx, name, "Raum", room)
		return []chatRoom{r}, err
	}
	return p.actors[name].chats(ctx, p.actors[with].account.User)
}

// find looks for a message in some rooms; nil when it is not there.
func (p *play) find(ctx context.Context, name, author, room string, is func(note) bool) (*note, error) {
	rooms, err := p.here(ctx, name, author, room)
	if err != nil {
		return nil, err
	}
	all, err := p.actors[name].notesIn(ctx, rooms)
	i := slices.IndexFunc(all, func(n note) bool { return n.Author == p.actors[author].account.User && is(n) })
	if err != nil || i < 0 {
		return nil, err
	}
	return &all[i], nil
}

func text(body, msgtype string) func(note) bool {
	return func(n note) bool { return n.Body == body && (msgtype == "" || n.MsgType == msgtype) }
}

// receives waits until some people have a message.
func (p *play) receives(ctx context.Context, readers, author, room string, is func(note) bool) error {
	for _, name := range quoted(readers) {
		err := eventually(ctx, "the message at "+name, func() (bool, error) {
			n, err := p.find(ctx, name, author, room, is)
			return n != nil, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// gone waits until somebody does not see a message any more; who may not read the room sees nothing.
func (p *play) gone(ctx context.Context, name, author, kind, where string, is func(note) bool) error {
	at, err := p.place(ctx, name, kind, where)
	if err != nil {
		return err
	}
	return eventually(ctx, "the message's end", func() (bool, error) {
		all, err := p.actors[name].notes(ctx, at.ID)
		var r *refused
		if errors.As(err, &r) && r.status == http.StatusForbidden {
			return true, nil
		}
		return !slices.ContainsFunc(all, func(n note) bool { return n.Author == p.actors[author].account.User && is(n) }), err
	})
}

func (p *play) writeTo(ctx context.Context, name, user, body, msgtype string) error {
	return p.actors[name].do(ctx, http.MethodPost, "/sendMessage", map[string]any{"toAccount": user, "body": body, "msgtype": msgtype}, nil)
}

func (p *play) writeInto(ctx context.Context, name, room string, content map[string]any) error {
	return p.actors[name].do(ctx, http.MethodPost, "/rooms/"+p.rooms[room]+"/messages", content, &p.media)
}

// own finds one's own message in a place: by its text, or the last one.
func (p *play) own(ctx context.Context, name, kind, where string, is func(note) bool) (path string, err error) {
	at, err := p.place(ctx, name, kind, where)
	if err != nil {
		return "", err
	}
	found := note{}
	err = eventually(ctx, "the own message", func() (bool, error) {
		all, err := p.actors[name].notes(ctx, at.ID)
		for _, n := range slices.Backward(all) {
			if n.Author == p.actors[name].account.User && is(n) {
				found = n
				return true, nil
			}
		}
		return false, err
	})
	return "/rooms/" + at.ID + "/messages/" + found.ID, err
}

func (p *play) remove(ctx context.Context, name, kind, where, how string, is func(note) bool) error {
	path, err := p.own(ctx, name, kind, where, is)
	if err != nil {
		return err
	}
	if how == "replace" {
		path += "/replace"
	}
	return p.actors[name].do(ctx, http.MethodDelete, path, nil, nil)
}

// upload puts a file of the suite onto the driver and makes the message that sends it.
func (p *play) upload(ctx context.Context, name, fileName, msgtype string) (map[string]any, error) {
	data := attachment(fileName)
	var got struct {
		ID string `json:"fileId"`
	}
	err := p.actors[name].do(ctx, http.MethodPost, "/media", data, &got)
	return map[string]any{"body": fileName, "filename": fileName, "msgtype": msgtype, "fileId": got.ID, "info": map[string]any{"mimetype": data.kind, "size": len(data.data)}}, err
}

// downloads waits for an attachment, looks at its form (Matrix, m.room.message with encrypted files) and fetches it.
func (p *play) downloads(ctx context.Context, name, fileName, author, room, msgtype string) error {
	var got *note
	err := eventually(ctx, "the attachment", func() (bool, error) {
		n, err := p.find(ctx, name, author, room, text(fileName, msgtype))
		got = n
		return n != nil, err
	})
	if err != nil {
		return err
	}
	want := attachment(fileName)
	if got.File == nil || got.File.URL == "" || len(got.File.Key) == 0 || got.File.Hashes.SHA256 == "" || got.Info["mimetype"] != want.kind || got.FileID == "" {
		return fmt.Errorf("the message is %+v", *got)
	}
	var data []byte
	if err := p.actors[name].do(ctx, http.MethodGet, "/media/authenticated/"+got.FileID, nil, &data); err != nil {
		return err
	}
	if !bytes.Equal(data, want.data) {
		return errors.New("the file came with other bytes")
	}
	return nil
}

func (p *play) writing() map[string]any {
	const v111 = ` über Matrix-Protokoll v1\.11`
	return map[string]any{
		`"([A-Z])" schreibt "([A-Z])" direkt "([^"]*)"(?: als "([^"]*)")?`: func(ctx context.Context, name, to, body, msgtype string) error {
			return p.writeTo(ctx, name, p.actors[to].account.User, body, orText(msgtype))
		},
		`"([A-Z])" schreibt "([A-Z])" über den Healthcare-Service "([^"]*)" direkt "([^"]*)"`: func(ctx context.Context, name, to, service, body string) error {
			if err := p.finds(ctx, name, to, service, ""); err != nil {
				return err
			}
			return p.writeTo(ctx, name, p.actors[to].account.User, body, "m.text")
		},
		`"([A-Z])" versucht "([A-Z])" direkt "([^"]*)" zu schreiben`: func(ctx context.Context, name, to, body string) error {
			return p.try(p.writeTo(ctx, name, p.actors[to].account.User, body, "m.text"))
		},
		`"([A-Z])" versucht der MXID "([^"]*)" direkt "([^"]*)" zu schreiben`: func(ctx context.Context, name, user, body string) error {
			return p.try(p.writeTo(ctx, name, user, body, "m.text"))
		},
		`"([A-Z])" sendet die Nachricht "([^"]*)"(?: als "([^"]*)")? an den Raum "([^"]*)"`: func(ctx context.Context, name, body, msgtype, room string) error {
			return p.writeInto(ctx, name, room, map[string]any{"body": body, "msgtype": orText(msgtype)})
		},
		names + ` (?:empfängt|empfangen) eine Nachricht "([^"]*)"(?: als "([^"]*)")? von "([A-Z])"(?: im Raum "([^"]*)")?(?: als "([^"]*)")?`: func(ctx context.Context, readers, body, early, author, room, late string) error {
			return p.receives(ctx, readers, author, room, text(body, early+late))
		},
		`"([A-Z])" empfängt seine Nachricht "([^"]*)" im Chat mit "([A-Z])"`: func(ctx context.Context, name, body, with string) error {
			_, err := p.own(ctx, name, "Chat mit", with, text(body, ""))
			return err
		},
		`"([A-Z])" ändert seine letzte Nachricht ` + inPlace + ` in "([^"]*)"`: func(ctx context.Context, name, kind, where, body string) error {
			path, err := p.own(ctx, name, kind, where, func(note) bool { return true })
			if err != nil {
				return err
			}
			return p.actors[name].do(ctx, http.MethodPut, path, map[string]any{"body": body, "msgtype": "m.text"}, nil)
		},
		`"([A-Z])" kann die Nachricht "([^"]*)" von "([A-Z])" ` + inPlace + ` nicht (?:mehr )?sehen` + retry: func(ctx context.Context, name, body, author, kind, where string) error {
			return p.gone(ctx, name, author, kind, where, text(body, ""))
		},
		`"([A-Z])" kann die Nachricht für das Attachment "([^"]*)" von "([A-Z])" ` + inPlace + ` nicht mehr sehen` + retry: func(ctx context.Context, name, fileName, author, kind, where string) error {
			return p.gone(ctx, name, author, kind, where, text(fileName, ""))
		},
		`"([A-Z])" löscht seine Nachricht "([^"]*)" ` + inPlace + ` mit "(redact|replace)"`: func(ctx context.Context, name, body, kind, where, how string) error {
			return p.remove(ctx, name, kind, where, how, text(body, ""))
		},
		`"([A-Z])" löscht mit "(redact|replace)" die Nachricht, die für das Attachment "([^"]*)" ` + inPlace + ` erzeugt wurde`: func(ctx context.Context, name, how, fileName, kind, where string) error {
			return p.remove(ctx, name, kind, where, how, text(fileName, ""))
		},
		`"([A-Z])" sendet ein Attachment "([^"]*)" als "([^"]*)" an den Raum "([^"]*)"`: func(ctx context.Context, name, fileName, msgtype, room string) error {
			content, err := p.upload(ctx, name, fileName, msgtype)
			if err != nil {
				return err
			}
			return p.writeInto(ctx, name, room, content)
		},
		`"([A-Z])" sendet ein Attachment "([^"]*)" direkt an "([A-Z])" als "([^"]*)"`: func(ctx context.Context, name, fileName, to, msgtype string) error {
			content, err := p.upload(ctx, name, fileName, msgtype)
			if err != nil {
				return err
			}
			content["toAccount"] = p.actors[to].account.User
			return p.actors[name].do(ctx, http.MethodPost, "/sendMessage", content, &p.media)
		},
		`"([A-Z])" empfängt das Attachment "([^"]*)" von "([A-Z])"(?: im Raum "([^"]*)")?` + v111 + ` als "([^"]*)"`: p.downloads,
		`"([A-Z])" sendet die Location "([^"]*)" als "m.location" an den Raum "([^"]*)"`: func(ctx context.Context, name, body, room string) error {
			return p.writeInto(ctx, name, room, map[string]any{"body": body, "msgtype": "m.location", "geo_uri": location})
		},
		`"([A-Z])" sendet "([A-Z])" die Location "([^"]*)" als "m.location"`: func(ctx context.Context, name, to, body string) error {
			return p.actors[name].do(ctx, http.MethodPost, "/sendMessage", map[string]any{"toAccount": p.actors[to].account.User, "body": body, "msgtype": "m.location", "geo_uri": location}, nil)
		},
		`"([A-Z])" empfängt die Location "([^"]*)"(?: als "m.location")? von "([A-Z])"(?: im Raum "([^"]*)")?(?: als "m.location")?`: func(ctx context.Context, name, body, author, room string) error {
			return p.receives(ctx, name, author, room, func(n note) bool { return text(body, "m.location")(n) && n.GeoURI == location })
		},
		`"([A-Z])" bekommt beim Abruf der Nachrichten für Raum "([^"]*)" den Responsecode (\d+)`: func(ctx context.Context, name, room string, want int) error {
			_, err := p.actors[name].notes(ctx, p.rooms[room])
			if err := p.try(err); err != nil || p.status != want {
				return fmt.Errorf("%d instead of %d (%w)", p.status, want, err)
			}
			return nil
		},
	}
}

func orText(msgtype string) string {
	if msgtype == "" {
		return "m.text"
	}
	return msgtype
}
