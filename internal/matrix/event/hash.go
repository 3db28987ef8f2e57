// SPDX-License-Identifier: Apache-2.0

package event

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// CheckHash reports whether hashes.sha256 fits the content. When it does not, the receiver goes on with the
// redacted form: it may be all that the sender was given.
func (e *Event) CheckHash() bool {
	s, ok := canonicaljson.String(canonicaljson.Get(e.hashes, "sha256"))
	if !ok {
		return false
	}
	want, err := signing.Decode(s)
	if err != nil {
		return false
	}
	got := contentHash(e.raw)
	return subtle.ConstantTimeCompare(want, got[:]) == 1
}

// contentHash covers everything but unsigned, signatures and hashes.
func contentHash(canonical []byte) [sha256.Size]byte {
	b := make([]byte, 1, len(canonical))
	b[0] = '{'
	for name, v := range canonicaljson.Members(canonical) {
		switch string(name) {
		case "unsigned", "signatures", "hashes":
		default:
			b = appendMember(b, name, v)
		}
	}
	return sha256.Sum256(append(b, '}'))
}

// eventID is the reference hash, which covers the redacted form without signatures, with its sigil.
func eventID(v *roomversion.Version, e *Event, covered []byte) id.Event {
	if v.EventIDs == roomversion.EventIDInEvent {
		return id.Event(canonicaljson.GetString(e.raw, "event_id"))
	}
	sum := sha256.Sum256(covered)
	if v.EventIDs == roomversion.EventIDStdHash {
		return id.Event("$" + signing.Encode(sum[:]))
	}
	return id.Event("$" + signing.EncodeURL(sum[:]))
}

// ReferenceHash is the event's reference hash in unpadded base64: what events of room versions 1 and 2 write beside
// the ids of others.
func (e *Event) ReferenceHash() string {
	sum := sha256.Sum256(e.redacted(false))
	return signing.Encode(sum[:])
}

// redacted is the canonical redacted form, with signatures or without. Without them it is both what the reference
// hash covers and what signatures cover.
func (e *Event) redacted(signatures bool) []byte {
	b := make([]byte, 1, len(e.raw))
	b[0] = '{'
	for name, v := range canonicaljson.Members(e.raw) {
		n := string(name)
		switch {
		case n == "content":
			if e.version.KeepsAllContent(e.typ) {
				b = appendMember(b, name, v)
			} else {
				b = append(appendMember(b, name, nil), '{')
				b = appendRedactedContent(b, e.version, e.typ, v)
			}
		case n == "signatures" && !signatures:
		case e.version.KeepsTopLevel(n):
			b = appendMember(b, name, v)
		}
	}
	return append(b, '}')
}

// appendRedactedContent appends what is kept of the content, and the closing brace.
func appendRedactedContent(b []byte, v *roomversion.Version, typ string, content jsontext.Value) []byte {
	first := true
	for name, value := range canonicaljson.Members(content) {
		n := string(name)
		if !v.KeepsContent(typ, n) {
			continue
		}
		if part := v.KeepsContentPart(typ, n); part != "" {
			kept := canonicaljson.Get(value, part)
			if kept == nil {
				continue
			}
			value = signing.Replace(nil, part, kept)
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = canonicaljson.AppendString(b, name)
		b = append(b, ':')
		b = append(b, value...)
	}
	return append(b, '}')
}

func appendMember(b, name []byte, value jsontext.Value) []byte {
	if len(b) > 1 {
		b = append(b, ',')
	}
	b = canonicaljson.AppendString(b, name)
	b = append(b, ':')
	return append(b, value...)
}

// Redact returns the event with only what redaction keeps, under the same id, with its signatures and without
// unsigned. Redacting twice changes nothing more.
func (e *Event) Redact() (*Event, error) {
	return FromStored(e.version, e.id, e.redacted(true))
}

// IsRedactedForm reports whether redaction would take nothing away (unsigned does not count).
func (e *Event) IsRedactedForm() bool {
	have := len(e.raw)
	if e.unsigned != nil {
		have = len(signing.Replace(e.raw, "unsigned", nil))
	}
	return len(e.redacted(true)) == have
}

// SignatureServers lists the servers whose names stand among the signatures, valid or not.
func (e *Event) SignatureServers() []id.Server {
	var servers []id.Server
	for name := range canonicaljson.Members(e.signatures) {
		servers = append(servers, id.Server(name))
	}
	return servers
}

// SignatureKeys lists the ed25519 keys under which a server claims to have signed.
func (e *Event) SignatureKeys(s id.Server) []id.KeyID {
	var keys []id.KeyID
	for name := range canonicaljson.Members(canonicaljson.Get(e.signatures, string(s))) {
		if k := id.KeyID(name); k.Algorithm() == "ed25519" {
			keys = append(keys, k)
		}
	}
	return keys
}

// Verify checks one signature over the redacted form, so it holds for the full event and for its redaction alike.
// The error is signing.ErrMissing or signing.ErrInvalid.
func (e *Event) Verify(s id.Server, k id.KeyID, pub ed25519.PublicKey) error {
	return signing.Check(e.signatures, string(s), k, pub, e.redacted(false))
}

// RequiredSigners lists the servers whose signature the event needs: the sender's, in room versions 1 and 2 that in
// the event's id, and that of the user who authorised a restricted join. A third-party invite may be sent by a server other than the sender's, so the
// sender's is not required of it. The list has no duplicates and may be empty.
func (e *Event) RequiredSigners() []id.Server {
	servers := make([]id.Server, 0, 2)
	if e.membership != "invite" || canonicaljson.Get(e.content, "third_party_invite") == nil {
		servers = append(servers, e.sender.Server())
	}
	if _, s, ok := strings.Cut(string(e.id), ":"); ok && e.version.EventIDs == roomversion.EventIDInEvent &&
		!slices.Contains(servers, id.Server(s)) {
		servers = append(servers, id.Server(s))
	}
	if e.typ == TypeMember && e.version.RestrictedJoins {
		s := canonicaljson.GetString(e.content, "join_authorised_via_users_server")
		if u, err := id.ParseUser(s); err == nil && (len(servers) == 0 || servers[0] != u.Server()) {
			servers = append(servers, u.Server())
		}
	}
	return servers
}

// WithSignature returns the event with one more signature, under the same id.
func (e *Event) WithSignature(s id.Server, k id.KeyID, priv ed25519.PrivateKey) (*Event, error) {
	sigs, err := signing.Insert(e.signatures, string(s), k, ed25519.Sign(priv, e.redacted(false)))
	if err != nil {
		return nil, err
	}
	return e.with("signatures", sigs)
}

// WithForeignSignature returns the event with a signature that somebody else made, under the same id. It is not verified here.
func (e *Event) WithForeignSignature(s id.Server, k id.KeyID, signature []byte) (*Event, error) {
	sigs, err := signing.Insert(e.signatures, string(s), k, signature)
	if err != nil {
		return nil, err
	}
	return e.with("signatures", sigs)
}

// WithUnsigned returns the event with another unsigned object, nil for none, under the same id.
func (e *Event) WithUnsigned(u jsontext.Value) (*Event, error) {
	if u == nil {
		if e.unsigned == nil {
			return e, nil
		}
		return e.with("unsigned", nil)
	}
	c, err := canonical(e.version, u)
	if err != nil {
		return nil, bad("unsigned: %v", err)
	}
	return e.with("unsigned", c)
}

func (e *Event) with(member string, value []byte) (*Event, error) {
	raw := signing.Replace(e.raw, member, value)
	if len(raw) > MaxSize {
		return nil, tooLarge(len(raw))
	}
	return FromStored(e.version, e.id, raw)
}
