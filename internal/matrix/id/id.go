// SPDX-License-Identifier: Apache-2.0

package id

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// User is a full user id, "@localpart:server".
type User string

// Room is a room id: "!opaque:server", or "!" and the create event's hash from room version 12. Treat it as
// opaque: routing, ownership and tenants are never derived from it.
type Room string

// Event is an event id, "$opaque"; from room version 3 it is a hash of the event.
type Event string

// Alias is a room alias, "#localpart:server".
type Alias string

// Device is a device id, opaque.
type Device string

// KeyID names a signing key or a device key: "algorithm:name", e.g. "ed25519:a1".
type KeyID string

// ParseUser checks a user id as it may occur in events: historical localparts are accepted (any characters but
// ':' and NUL, even none), the whole has at most 255 bytes.
func ParseUser(s string) (User, error) {
	if err := parseLocal(s, '@', "user id", true); err != nil {
		return "", err
	}
	return User(s), nil
}

// NewUser makes the id of a new user: a localpart of a-z, 0-9 and . _ = - / + only.
func NewUser(localpart string, s Server) (User, error) {
	if !ValidLocalpart(localpart) {
		return "", fmt.Errorf("localpart %q: only a-z, 0-9 and ._=-/+ are allowed", localpart)
	}
	u := "@" + localpart + ":" + string(s)
	if len(u) > MaxLength {
		return "", fmt.Errorf("user id of %d bytes", len(u))
	}
	return User(u), nil
}

// ValidLocalpart reports whether a localpart follows today's strict grammar.
func ValidLocalpart(localpart string) bool {
	if localpart == "" {
		return false
	}
	for i := range len(localpart) {
		c := localpart[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("._=-/+", c) >= 0) {
			return false
		}
	}
	return true
}

// Localpart is the part between '@' and the first ':'.
func (u User) Localpart() string { return local(string(u)) }

// Server is the user's homeserver.
func (u User) Server() Server { return domain(string(u)) }

// String implements fmt.Stringer.
func (u User) String() string { return string(u) }

// ParseRoom checks a room id in either form: with a server name behind a colon, or without. A room id's
// localpart may hold anything but ':' and NUL.
func ParseRoom(s string) (Room, error) {
	if strings.IndexByte(s, ':') >= 0 {
		if err := parseLocal(s, '!', "room id", false); err != nil {
			return "", err
		}
		return Room(s), nil
	}
	if err := parseOpaque(s, '!', "room id"); err != nil {
		return "", err
	}
	return Room(s), nil
}

// Server is the name behind the colon; false for rooms from version 12, whose ids have none.
func (r Room) Server() (Server, bool) {
	d := domain(string(r))
	return d, d != ""
}

// String implements fmt.Stringer.
func (r Room) String() string { return string(r) }

// ParseEvent checks an event id of any room version.
func ParseEvent(s string) (Event, error) {
	if err := parseOpaque(s, '$', "event id"); err != nil {
		return "", err
	}
	return Event(s), nil
}

// String implements fmt.Stringer.
func (e Event) String() string { return string(e) }

// ParseAlias checks a room alias.
func ParseAlias(s string) (Alias, error) {
	if err := parseLocal(s, '#', "room alias", false); err != nil {
		return "", err
	}
	return Alias(s), nil
}

// Localpart is the part between '#' and the first ':'.
func (a Alias) Localpart() string { return local(string(a)) }

// Server is the server that answers for the alias.
func (a Alias) Server() Server { return domain(string(a)) }

// String implements fmt.Stringer.
func (a Alias) String() string { return string(a) }

// ParseKeyID checks "algorithm:name"; both parts must be there.
func ParseKeyID(s string) (KeyID, error) {
	alg, name, ok := strings.Cut(s, ":")
	if !ok || alg == "" || name == "" || len(s) > MaxLength || !utf8.ValidString(s) {
		return "", fmt.Errorf("key id %q", s)
	}
	return KeyID(s), nil
}

// Algorithm is the part before the colon.
func (k KeyID) Algorithm() string {
	alg, _, _ := strings.Cut(string(k), ":")
	return alg
}

// Name is the part behind the colon.
func (k KeyID) Name() string {
	_, name, _ := strings.Cut(string(k), ":")
	return name
}

func parseLocal(s string, sigil byte, what string, emptyLocal bool) error {
	if err := parseOpaque(s, sigil, what); err != nil {
		return err
	}
	lp, srv, ok := strings.Cut(s[1:], ":")
	if !ok {
		return fmt.Errorf("%s %q: no server name", what, s)
	}
	if lp == "" && !emptyLocal {
		return fmt.Errorf("%s %q: empty localpart", what, s)
	}
	if _, err := ParseServer(srv); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func parseOpaque(s string, sigil byte, what string) error {
	switch {
	case len(s) > MaxLength:
		return fmt.Errorf("%s of %d bytes, at most %d are allowed", what, len(s), MaxLength)
	case len(s) < 2 || s[0] != sigil:
		return fmt.Errorf("%s %q: want %q and more", what, s, sigil)
	case strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s):
		return fmt.Errorf("%s %q: NUL or invalid UTF-8", what, s)
	}
	return nil
}

func local(s string) string {
	if s == "" {
		return ""
	}
	lp, _, _ := strings.Cut(s[1:], ":")
	return lp
}

func domain(s string) Server {
	_, d, _ := strings.Cut(s, ":")
	return Server(d)
}
