// SPDX-License-Identifier: Apache-2.0

package event

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// Draft is an event that is not yet hashed and signed.
type Draft struct {
	Version *roomversion.Version
	// Room is empty for a create event from version 12 on.
	Room     id.Room
	Type     string
	StateKey *string
	Sender   id.User
	// Content may have any JSON form; empty means {}.
	Content jsontext.Value
	// Redacts is the target of a redaction; Build puts it where the version wants it.
	Redacts                id.Event
	PrevEvents, AuthEvents []id.Event
	// Hashes are the reference hashes of PrevEvents and AuthEvents. Only room versions 1 and 2 write them; there each is needed.
	Hashes map[id.Event]string
	// ID is the event's id in room versions 1 and 2; empty for one that Build makes. Other versions ignore it.
	ID               id.Event
	Depth, Timestamp int64
	// Unsigned is optional.
	Unsigned jsontext.Value
}

func tooLarge(n int) error { return mxerror.TooLarge.With("event of %d bytes", n) }

// Build hashes and signs the draft. What it returns would pass Parse; errors are those of Parse.
func (d Draft) Build(s id.Server, k id.KeyID, priv ed25519.PrivateKey) (*Event, error) {
	body, err := d.body()
	if err != nil {
		return nil, err
	}
	if d.Version.EventIDs == roomversion.EventIDInEvent {
		body = d.named(s, body)
	}
	sum := sha256.Sum256(body) // the content hash: nothing that it leaves out is there yet
	hash := make([]byte, 0, sha256.Size*2)
	hash = append(hash, `{"sha256":`...)
	hash = append(canonicaljson.AppendString(hash, signing.Encode(sum[:])), '}')
	raw := signing.Replace(body, "hashes", hash)
	if d.Unsigned != nil {
		u, err := canonical(d.Version, d.Unsigned)
		if err != nil {
			return nil, bad("unsigned: %v", err)
		}
		raw = signing.Replace(raw, "unsigned", u)
	}
	unsigned := &Event{version: d.Version, raw: raw, typ: d.Type}
	covered := unsigned.redacted(false)
	sigs, err := signing.Insert(nil, string(s), k, ed25519.Sign(priv, covered))
	if err != nil {
		return nil, err
	}
	e, err := parseHashed(d.Version, signing.Replace(raw, "signatures", sigs), covered)
	if err == nil && e.oversized != "" { // tolerated of others
		return nil, tooLong(e.oversized)
	}
	return e, err
}

// named adds the id that the draft has, or one made of all that the event says, so that another event never gets it.
func (d Draft) named(s id.Server, body []byte) []byte {
	if d.ID == "" {
		sum := sha256.Sum256(body)
		d.ID = id.Event("$" + signing.EncodeURL(sum[:]) + ":" + string(s))
	}
	return signing.Replace(body, "event_id", canonicaljson.AppendString(nil, string(d.ID)))
}

// Proto is the template that make_join, make_leave and make_knock hand to the other server, which completes,
// hashes and signs it: no hashes, no signatures.
func (d Draft) Proto() ([]byte, error) { return d.body() }

// ParseProto reads the template that another server's make_join, make_leave or make_knock returned. The caller
// overwrites what it does not leave to that server: type, sender, state key, timestamp, membership.
func ParseProto(v *roomversion.Version, raw []byte) (Draft, error) {
	if len(raw) > MaxSize {
		return Draft{}, tooLarge(len(raw))
	}
	c, err := canonicaljson.CanonicalLax(raw)
	if err != nil || !canonicaljson.IsObject(c) {
		return Draft{}, bad("template: %v", err)
	}
	e := &Event{version: v, raw: c}
	var d decoder
	for name, value := range canonicaljson.Members(c) {
		switch string(name) {
		case "hashes", "signatures", "unsigned", "event_id":
		default:
			d.member(e, name, value)
		}
	}
	if d.err != nil {
		return Draft{}, d.err
	}
	return Draft{
		Version: v, Room: e.room, Type: e.typ, StateKey: e.stateKey, Sender: e.sender, Content: e.content,
		PrevEvents: e.prev, AuthEvents: e.auth, Hashes: d.hashes, Depth: e.depth, Timestamp: e.timestamp,
	}, nil
}

// body is the canonical event without hashes, signatures and unsigned.
func (d Draft) body() ([]byte, error) {
	content, err := d.content()
	if err != nil {
		return nil, err
	}
	d.Depth = min(d.Depth, d.Version.MaxDepth())
	b := make([]byte, 0, len(content)+512+64*(len(d.PrevEvents)+len(d.AuthEvents)))
	b = append(b, `{"auth_events":`...)
	if b, err = d.appendReferences(b, d.AuthEvents); err != nil {
		return nil, err
	}
	b = append(b, `,"content":`...)
	b = append(b, content...)
	b = append(b, `,"depth":`...)
	b = strconv.AppendInt(b, d.Depth, 10)
	b = append(b, `,"origin_server_ts":`...)
	b = strconv.AppendInt(b, d.Timestamp, 10)
	b = append(b, `,"prev_events":`...)
	if b, err = d.appendReferences(b, d.PrevEvents); err != nil {
		return nil, err
	}
	if d.Redacts != "" && !d.Version.RedactsInContent {
		b = appendText(b, "redacts", string(d.Redacts))
	}
	if d.Room != "" {
		b = appendText(b, "room_id", string(d.Room))
	}
	b = appendText(b, "sender", string(d.Sender))
	if d.StateKey != nil {
		b = appendText(b, "state_key", *d.StateKey)
	}
	b = appendText(b, "type", d.Type)
	b = append(b, '}')
	// Names and ids come from requests: one look makes sure that they are valid UTF-8 and numbers in range.
	c, err := canonical(d.Version, b)
	if err != nil {
		return nil, bad("%v", err)
	}
	return c, nil
}

func (d Draft) content() ([]byte, error) {
	content := []byte("{}")
	if len(d.Content) > 0 {
		if len(d.Content) > 8*MaxSize {
			return nil, tooLarge(len(d.Content))
		}
		var err error
		if content, err = canonical(d.Version, d.Content); err != nil {
			return nil, bad("content: %v", err)
		}
		if !canonicaljson.IsObject(content) {
			return nil, bad("content is not an object")
		}
	}
	if d.Redacts != "" && d.Version.RedactsInContent {
		content = signing.Replace(content, "redacts", canonicaljson.AppendString(nil, string(d.Redacts)))
	}
	return content, nil
}

// appendReferences writes event ids; in room versions 1 and 2 each with its event's reference hash.
func (d Draft) appendReferences(b []byte, ids []id.Event) ([]byte, error) {
	pairs := d.Version.EventIDs == roomversion.EventIDInEvent
	b = append(b, '[')
	for i, e := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		if !pairs {
			b = canonicaljson.AppendString(b, e)
			continue
		}
		hash, ok := d.Hashes[e]
		if !ok {
			return nil, fmt.Errorf("event: the reference hash of %s is missing", e)
		}
		b = canonicaljson.AppendString(append(b, '['), e)
		b = canonicaljson.AppendString(append(b, `,{"sha256":`...), hash)
		b = append(b, '}', ']')
	}
	return append(b, ']'), nil
}

func appendText(b []byte, name, value string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return canonicaljson.AppendString(b, value)
}
