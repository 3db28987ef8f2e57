// SPDX-License-Identifier: Apache-2.0

package event

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// Parse reads an event from outside: it must have canonical form (it need not be sent in it), the required members
// with the right types and lengths, and at most MaxSize bytes. Neither content hash nor signatures are checked
// here. The id is computed. Errors are mxerror.BadJSON and mxerror.TooLarge: such an event is dropped, not rejected.
func Parse(v *roomversion.Version, raw []byte) (*Event, error) {
	// White space and escapes may make it longer than its canonical form; beyond this it cannot be honest.
	if len(raw) > 8*MaxSize {
		return nil, mxerror.TooLarge.With("event of %d bytes", len(raw))
	}
	c, err := canonical(v, raw)
	if err != nil {
		return nil, mxerror.BadJSON.With("event: %v", err)
	}
	return parseCanonical(v, c)
}

// canonical is the canonical form that the room version demands.
func canonical(v *roomversion.Version, raw []byte) ([]byte, error) {
	if v.StrictJSON {
		return canonicaljson.Canonical(raw)
	}
	return canonicaljson.CanonicalLax(raw)
}

func parseCanonical(v *roomversion.Version, c []byte) (*Event, error) { return parseHashed(v, c, nil) }

// parseHashed is parseCanonical for who has the bytes already that the reference hash covers.
func parseHashed(v *roomversion.Version, c, covered []byte) (*Event, error) {
	if len(c) > MaxSize {
		return nil, mxerror.TooLarge.With("event of %d bytes", len(c))
	}
	e := &Event{version: v, raw: c}
	if err := e.decode(); err != nil {
		return nil, err
	}
	if covered == nil {
		covered = e.redacted(false)
	}
	e.setID(eventID(v, e, covered))
	return e, nil
}

// FromStored reads an event from bytes that JSON returned and our database kept, under the id that it had. Nothing
// is hashed or canonicalised again.
func FromStored(v *roomversion.Version, eid id.Event, raw []byte) (*Event, error) {
	e := &Event{version: v, raw: raw}
	if err := e.decode(); err != nil {
		return nil, fmt.Errorf("stored event %s: %w", eid, err)
	}
	e.setID(eid)
	return e, nil
}

func (e *Event) setID(eid id.Event) {
	e.id = eid
	if e.isHashedCreate() {
		e.room = roomOfCreate(eid)
	}
}

func (e *Event) isHashedCreate() bool { return e.version.RoomIDIsHash && e.typ == TypeCreate }

func bad(format string, a ...any) error { return mxerror.BadJSON.With("event: "+format, a...) }

// decode fills the fields from raw, which is canonical.
func (e *Event) decode() error {
	if len(e.raw) == 0 || e.raw[0] != '{' {
		return bad("not an object")
	}
	var d decoder
	for name, value := range canonicaljson.Members(e.raw) {
		d.member(e, name, value)
	}
	return d.finish(e)
}

// decoder collects what decode saw; the first error stays.
type decoder struct {
	err     error
	redacts jsontext.Value
	named   id.Event
	hashes  map[id.Event]string // of prev and auth events, room versions 1 and 2
	seen    struct{ room, typ, sender, depth, ts, prev, auth bool }
}

func (d *decoder) member(e *Event, name []byte, v jsontext.Value) {
	switch string(name) {
	case "type":
		e.typ, d.seen.typ = d.text(e, "type", v), true
	case "event_id":
		if e.version.EventIDs == roomversion.EventIDInEvent {
			d.named = d.eventID(v)
		}
	case "room_id":
		e.room, d.seen.room = id.Room(d.text(e, "room_id", v)), true
	case "sender":
		e.sender, d.seen.sender = id.User(d.text(e, "sender", v)), true
	case "state_key":
		s := d.text(e, "state_key", v)
		e.stateKey = &s
	case "content":
		e.content = d.object("content", v)
	case "hashes":
		e.hashes = d.object("hashes", v)
	case "signatures":
		e.signatures = d.object("signatures", v)
		for server, keys := range canonicaljson.Members(e.signatures) {
			d.object("signatures of "+string(server), keys)
			for _, sig := range canonicaljson.Members(keys) {
				if sig.Kind() != '"' {
					d.fail("signature of %s is not a string", server)
				}
			}
		}
	case "unsigned":
		e.unsigned = d.object("unsigned", v)
	case "depth":
		e.depth, d.seen.depth = d.integer("depth", v), true
		if e.depth < 0 {
			d.fail("negative depth")
		}
	case "origin_server_ts":
		e.timestamp, d.seen.ts = d.integer("origin_server_ts", v), true
	case "prev_events":
		e.prev, d.seen.prev = d.references(e, "prev_events", v, MaxPrevEvents), true
	case "auth_events":
		e.auth, d.seen.auth = d.references(e, "auth_events", v, MaxAuthEvents), true
	case "redacts":
		d.redacts = v
	}
}

func (d *decoder) fail(format string, a ...any) {
	if d.err == nil {
		d.err = bad(format, a...)
	}
}

func (d *decoder) text(e *Event, name string, v jsontext.Value) string {
	s, ok := canonicaljson.String(v)
	switch {
	case !ok:
		d.fail("%s is not a string", name)
	case len(s) > MaxField && (e.version.StrictFields || utf8.RuneCountInString(s) > MaxField):
		if d.err == nil {
			d.err = tooLong(name)
		}
	case len(s) > MaxField:
		e.oversized = name
	}
	return s
}

func tooLong(name string) error {
	return mxerror.TooLarge.With("event: %s has more than %d bytes", name, MaxField)
}

// eventID reads the id that the sender chose: "$opaque:server".
func (d *decoder) eventID(v jsontext.Value) id.Event {
	s, ok := canonicaljson.String(v)
	_, server, named := strings.Cut(s, ":")
	eid, err := id.ParseEvent(s)
	if err == nil {
		_, err = id.ParseServer(server)
	}
	if !ok || !named || err != nil {
		d.fail("event_id is not an id of this room version")
	}
	return eid
}

func (d *decoder) object(name string, v jsontext.Value) jsontext.Value {
	if !canonicaljson.IsObject(v) {
		d.fail("%s is not an object", name)
	}
	return v
}

func (d *decoder) integer(name string, v jsontext.Value) int64 {
	n, ok := canonicaljson.Int(v)
	if !ok {
		d.fail("%s is not an integer", name)
	}
	return n
}

func (d *decoder) references(e *Event, name string, v jsontext.Value, limit int) []id.Event {
	if v.Kind() != '[' {
		d.fail("%s is not an array", name)
		return nil
	}
	ids := make([]id.Event, 0, 4)
	for el := range canonicaljson.Elements(v) {
		hash := ""
		if e.version.EventIDs == roomversion.EventIDInEvent {
			if el, hash = pair(el); el == nil {
				d.fail("%s holds something that is not a pair of event id and hashes", name)
				return nil
			}
		}
		s, ok := canonicaljson.String(el)
		if !ok {
			d.fail("%s holds something that is not a string", name)
			return nil
		}
		eid, err := id.ParseEvent(s)
		if err != nil {
			d.fail("%s: %v", name, err)
			return nil
		}
		if len(ids) == limit {
			d.fail("more than %d %s", limit, name)
			return nil
		}
		ids = append(ids, eid)
		if hash != "" {
			d.hash(eid, hash)
		}
	}
	return ids
}

func (d *decoder) hash(eid id.Event, hash string) {
	if d.hashes == nil {
		d.hashes = map[id.Event]string{}
	}
	d.hashes[eid] = hash
}

// pair reads [event id, {"sha256": hash}]; nothing depends on the hash, so that it may be missing.
func pair(v jsontext.Value) (eid jsontext.Value, hash string) {
	if v.Kind() != '[' {
		return nil, ""
	}
	n := 0
	for el := range canonicaljson.Elements(v) {
		switch n {
		case 0:
			eid = el
		case 1:
			if !canonicaljson.IsObject(el) {
				return nil, ""
			}
			hash = canonicaljson.GetString(el, "sha256")
		default:
			return nil, ""
		}
		n++
	}
	if n != 2 {
		return nil, ""
	}
	return eid, hash
}

// finish checks what is there against what must be, and fills the fields that depend on others.
func (d *decoder) finish(e *Event) error {
	if d.err != nil {
		return d.err
	}
	for _, must := range []struct {
		name string
		ok   bool
	}{
		{"type", d.seen.typ}, {"sender", d.seen.sender}, {"content", e.content != nil}, {"hashes", e.hashes != nil},
		{"signatures", e.signatures != nil}, {"depth", d.seen.depth}, {"origin_server_ts", d.seen.ts},
		{"prev_events", d.seen.prev}, {"auth_events", d.seen.auth},
	} {
		if !must.ok {
			return bad("%s is missing", must.name)
		}
	}
	if _, err := id.ParseUser(string(e.sender)); err != nil {
		return bad("sender: %v", err)
	}
	if err := d.finishRoom(e); err != nil {
		return err
	}
	if d.named == "" && e.version.EventIDs == roomversion.EventIDInEvent {
		return bad("event_id is missing")
	}
	d.finishRedacts(e)
	if e.typ == TypeMember {
		e.membership, _ = canonicaljson.String(canonicaljson.Get(e.content, "membership"))
	}
	return d.err
}

func (d *decoder) finishRoom(e *Event) error {
	if e.isHashedCreate() {
		if d.seen.room {
			return bad("a create event of this room version has no room_id")
		}
		return nil
	}
	if !d.seen.room {
		return bad("room_id is missing")
	}
	if _, err := id.ParseRoom(string(e.room)); err != nil {
		return bad("%v", err)
	}
	if _, ok := e.room.Server(); ok == e.version.RoomIDIsHash {
		return bad("room id %q is not of this room version", e.room)
	}
	return nil
}

func (d *decoder) finishRedacts(e *Event) {
	if e.version.RedactsInContent {
		if e.typ == TypeRedaction {
			e.redacts = id.Event(canonicaljson.GetString(e.content, "redacts"))
		}
		return
	}
	if d.redacts == nil {
		return
	}
	s, ok := canonicaljson.String(d.redacts)
	if !ok {
		d.fail("redacts is not a string")
	}
	if e.typ == TypeRedaction {
		e.redacts = id.Event(s)
	}
}
