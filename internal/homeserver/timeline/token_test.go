// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"math"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
)

func tokens(t testing.TB) *Tokens {
	t.Helper()
	ring, err := keyring.New(nil, make([]byte, keyring.MasterSize))
	if err != nil {
		t.Fatal(err)
	}
	return NewTokens(ring)
}

func TestTokens(t *testing.T) {
	t.Parallel()
	k := tokens(t)
	const a, b = tenant.ID(1), tenant.ID(2)
	s := StreamToken{Epoch: 3, Position: 1 << 40, ToDevice: 1<<40 - 7, Node: 9, Ephemeral: math.MaxUint64, Device: 77}
	token := k.Stream(a, s)
	if got, err := k.OpenStream(a, token); err != nil || got != s {
		t.Errorf("opened %+v, %v", got, err)
	}
	if k.Stream(a, s) != token {
		t.Error("the same content makes another token")
	}
	if other := tokens(t); other.Stream(a, s) != token {
		t.Error("another node of the cell makes another token")
	}
	p := Place{room.Cursor{Topological: math.MinInt64, Arrival: math.MaxInt64}, -1, math.MaxInt64}
	place := k.Place(a, p)
	kind, raw, ok := k.open(a, place)
	if got, valid := k.openPlace(raw); !ok || !valid || kind != placeToken || got != p {
		t.Errorf("opened %+v", got)
	}
	if n, err := k.OpenMark(a, k.Mark(a, 12)); n != 12 || err != nil {
		t.Errorf("mark %d, %v", n, err)
	}
	for _, bad := range []string{"", "s", place, "s" + place[1:], token[:len(token)-1], token + "A", strings.ToUpper(token), strings.Repeat("s", 300)} {
		if _, err := k.OpenStream(a, bad); err == nil {
			t.Errorf("%q was opened", bad)
		}
	}
	if _, err := k.OpenStream(b, token); err == nil {
		t.Error("another tenant opened a token")
	}
}

func FuzzTokens(f *testing.F) {
	k := tokens(f)
	f.Add(k.Stream(1, StreamToken{}))
	f.Add("s")
	f.Fuzz(func(t *testing.T, token string) {
		if s, err := k.OpenStream(1, token); err == nil && k.Stream(1, s)[1:] != token[1:] {
			t.Errorf("%q opens to %+v", token, s)
		}
	})
}

func TestWildcards(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"m.room.message", "m.room.message", true}, {"m.room.message", "m.room.message2", false}, {"m.room.*", "m.room.name", true}, {"m.room.*", "m.roomX", false},
		{"*", "", true}, {"*.name", "m.room.name", true}, {"m.*.name", "m.room.name", true}, {"m.*.name", "m.name", false}, {"a*a", "a", false}, {"a**b", "ab", true},
	} {
		if wildcard(c.pattern, c.text) != c.want {
			t.Errorf("%q on %q", c.pattern, c.text)
		}
	}
}
