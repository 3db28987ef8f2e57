// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

func version(t testing.TB, ver string) *roomversion.Version {
	t.Helper()
	v, ok := roomversion.Get(ver)
	if !ok {
		t.Fatal(ver)
	}
	return v
}

func specKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	seed, err := signing.Decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

// Appendices, "Cryptographic Test Vectors", "Event Signing". The vectors are of old room versions (origin survives
// redaction, one has an event_id and lacks what PDUs have today), so the pieces are checked, with version 9 traits.
func TestSpecificationVectors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, typ, hash, sig string }{
		{`{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,"signatures":{},"hashes":{},"type":"X","content":{},"prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}`,
			"X", "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
			"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"},
		{`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain","origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain","signatures":{},"unsigned":{"age_ts":1000000}}`,
			"m.room.message", "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
			"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"},
	} {
		raw, err := canonicaljson.Canonical([]byte(c.in))
		if err != nil {
			t.Fatal(err)
		}
		sum := contentHash(raw)
		if got := signing.Encode(sum[:]); got != c.hash {
			t.Errorf("content hash %s, want %s", got, c.hash)
		}
		raw = signing.Replace(raw, "hashes", []byte(`{"sha256":"`+c.hash+`"}`))
		e := &Event{version: version(t, "9"), raw: raw, typ: c.typ}
		if got := signing.Encode(ed25519.Sign(specKey(t), e.redacted(false))); got != c.sig {
			t.Errorf("signature %s, want %s", got, c.sig)
		}
	}
	// The first one is a whole PDU of version 9, so the public way must give the same.
	in := `{"auth_events":[],"content":{},"depth":3,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"origin":"domain","origin_server_ts":1000000,"prev_events":[],"room_id":"!x:domain","sender":"@a:domain","signatures":{"domain":{"ed25519:1":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},"type":"X","unsigned":{"age_ts":1000000}}`
	e, err := Parse(version(t, "9"), []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if !e.CheckHash() {
		t.Error("hash")
	}
	if err := e.Verify("domain", "ed25519:1", specKey(t).Public().(ed25519.PublicKey)); err != nil {
		t.Error(err)
	}
}

func draft(t testing.TB, ver, typ string, stateKey *string, content string) Draft {
	return Draft{
		Hashes:  map[id.Event]string{"$p": "aA", "$a": "bB", "$b": "cC", "$target": "dD"},
		Version: version(t, ver), Room: room(ver), Type: typ, StateKey: stateKey, Sender: "@u:x",
		Content: []byte(content), PrevEvents: []id.Event{"$p"}, AuthEvents: []id.Event{"$a", "$b"}, Depth: 7, Timestamp: 1234,
	}
}

func room(ver string) id.Room {
	if ver == "12" {
		return "!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ"
	}
	return "!r:x"
}

func build(t testing.TB, d Draft) *Event {
	t.Helper()
	e, err := d.Build("x", "ed25519:1", specKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestBuildAndParse(t *testing.T) {
	t.Parallel()
	pub := specKey(t).Public().(ed25519.PublicKey)
	for _, ver := range roomversion.Supported() {
		key := "@u:x"
		d := draft(t, ver, TypeMember, &key, ` { "membership" : "join", "displayname":"\u00dc" } `)
		d.Unsigned = []byte(`{"age":1}`)
		e := build(t, d)
		p, err := Parse(d.Version, e.JSON())
		if err != nil {
			t.Fatal(err)
		}
		if p.ID() != e.ID() || !bytes.Equal(p.JSON(), e.JSON()) || !e.CheckHash() || e.Verify("x", "ed25519:1", pub) != nil {
			t.Error(ver, "does not survive Parse")
		}
		if p.Room() != d.Room || p.Type() != TypeMember || !p.StateKeyIs(key) || !p.IsState() || p.Key() != (Key{TypeMember, key}) ||
			p.Sender() != "@u:x" || p.Depth() != 7 || p.Timestamp() != 1234 || p.Membership() != "join" || p.Redacts() != "" ||
			string(p.Content()) != `{"displayname":"Ü","membership":"join"}` || string(p.Unsigned()) != `{"age":1}` ||
			!slices.Equal(p.PrevEvents(), d.PrevEvents) || !slices.Equal(p.AuthEvents(), d.AuthEvents) || p.Version() != d.Version {
			t.Errorf("%s: %s", ver, p.JSON())
		}
		stored, err := FromStored(d.Version, e.ID(), e.JSON())
		if err != nil || stored.ID() != e.ID() || stored.Membership() != "join" {
			t.Error(err)
		}
		// The id covers what redaction keeps, nothing else.
		u, err := e.WithUnsigned(nil)
		if err != nil || u.ID() != e.ID() || u.Unsigned() != nil || mustParse(t, u).ID() != e.ID() {
			t.Error(err)
		}
		two, err := e.WithSignature("y", "ed25519:k", specKey(t))
		if err != nil || mustParse(t, two).ID() != e.ID() || two.Verify("y", "ed25519:k", pub) != nil || two.Verify("x", "ed25519:1", pub) != nil {
			t.Error(err)
		}
		if !slices.Equal(two.SignatureServers(), []id.Server{"x", "y"}) || !slices.Equal(two.SignatureKeys("y"), []id.KeyID{"ed25519:k"}) {
			t.Error(two.SignatureServers(), two.SignatureKeys("y"))
		}
		if err := e.Verify("y", "ed25519:k", pub); !errors.Is(err, signing.ErrMissing) {
			t.Error(err)
		}
		if _, err := e.WithUnsigned([]byte(`[]`)); !errors.Is(err, mxerror.BadJSON) {
			t.Error(err)
		}
	}
}

func mustParse(t testing.TB, e *Event) *Event {
	t.Helper()
	p, err := Parse(e.Version(), e.JSON())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCreateOfVersion12(t *testing.T) {
	t.Parallel()
	empty := ""
	d := draft(t, "12", TypeCreate, &empty, `{"room_version":"12"}`)
	d.Room, d.PrevEvents, d.AuthEvents = "", nil, nil
	e := build(t, d)
	if e.Room() != id.Room("!"+string(e.ID()[1:])) || CreateRoomID(e) != e.Room() || bytes.Contains(e.JSON(), []byte("room_id")) {
		t.Errorf("%s %s", e.Room(), e.JSON())
	}
	if eid, ok := CreateEventID(e.Version(), e.Room()); !ok || eid != e.ID() {
		t.Error(eid)
	}
	if _, err := Parse(e.Version(), signing.Replace(e.JSON(), "room_id", []byte(`"!abc"`))); !errors.Is(err, mxerror.BadJSON) {
		t.Error(err)
	}
	if _, err := Parse(version(t, "11"), e.JSON()); !errors.Is(err, mxerror.BadJSON) {
		t.Error("version 11 needs a room_id", err)
	}
	stored, err := FromStored(e.Version(), e.ID(), e.JSON())
	if err != nil || stored.Room() != e.Room() {
		t.Error(err)
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	empty, user := "", "@u:x"
	for _, c := range []struct {
		typ     string
		key     *string
		content string
		want    map[string]string // room version → content
	}{
		{"m.room.message", nil, `{"body":"x"}`, all(`{}`)},
		{TypeMember, &user, `{"membership":"join","displayname":"x","join_authorised_via_users_server":"@a:y","third_party_invite":{"display_name":"n","signed":{"token":"t"}}}`,
			since(`{"membership":"join"}`, 9, `{"join_authorised_via_users_server":"@a:y","membership":"join"}`, 11, `{"join_authorised_via_users_server":"@a:y","membership":"join","third_party_invite":{"signed":{"token":"t"}}}`)},
		{TypeMember, &user, `{"membership":"join","third_party_invite":{"display_name":"n"}}`, all(`{"membership":"join"}`)},
		{TypeMember, &user, `{"membership":"join","third_party_invite":7}`, all(`{"membership":"join"}`)},
		{TypeCreate, &empty, `{"creator":"@u:x","m.federate":true,"room_version":"9"}`, since(`{"creator":"@u:x"}`, 11, `{"creator":"@u:x","m.federate":true,"room_version":"9"}`)},
		{TypeJoinRules, &empty, `{"join_rule":"restricted","allow":[{"a":1}],"x":1}`, since(`{"join_rule":"restricted"}`, 8, `{"allow":[{"a":1}],"join_rule":"restricted"}`)},
		{TypePowerLevels, &empty, `{"ban":1,"events":{},"events_default":2,"invite":3,"kick":4,"notifications":{"room":5},"redact":6,"state_default":7,"users":{},"users_default":8}`,
			since(`{"ban":1,"events":{},"events_default":2,"kick":4,"redact":6,"state_default":7,"users":{},"users_default":8}`, 11, `{"ban":1,"events":{},"events_default":2,"invite":3,"kick":4,"redact":6,"state_default":7,"users":{},"users_default":8}`)},
		{"m.room.history_visibility", &empty, `{"history_visibility":"shared","x":1}`, all(`{"history_visibility":"shared"}`)},
		{"m.room.aliases", &empty, `{"aliases":["#a:x"],"more":1}`, since(`{"aliases":["#a:x"]}`, 6, `{}`)},
		{TypeRedaction, nil, `{"redacts":"$x:y","reason":"r"}`, since(`{}`, 11, `{"redacts":"$x:y"}`)},
	} {
		for _, ver := range roomversion.Supported() {
			d := draft(t, ver, c.typ, c.key, c.content)
			if c.typ == TypeCreate && ver == "12" {
				d.Room = ""
			}
			e := build(t, d)
			r, err := e.Redact()
			if err != nil {
				t.Fatal(err)
			}
			if string(r.Content()) != c.want[ver] {
				t.Errorf("%s in %s: %s, want %s", c.typ, ver, r.Content(), c.want[ver])
			}
			if r.ID() != e.ID() || mustParse(t, r).ID() != e.ID() || !r.IsRedactedForm() || r.Verify("x", "ed25519:1", specKey(t).Public().(ed25519.PublicKey)) != nil {
				t.Error("redaction changed what it must not")
			}
			if again, err := r.Redact(); err != nil || !bytes.Equal(again.JSON(), r.JSON()) {
				t.Error("redacting twice")
			}
			if e.IsRedactedForm() != (string(e.Content()) == c.want[ver]) {
				t.Errorf("%s in %s: IsRedactedForm %v", c.typ, ver, e.IsRedactedForm())
			}
		}
	}
}

func all(content string) map[string]string { return since(content) }

// since maps each room version to a content: the first one, until a later pair of version and content.
func since(first string, later ...any) map[string]string {
	m := map[string]string{}
	for i, ver := range roomversion.Supported() {
		for len(later) > 0 && i+1 >= later[0].(int) {
			first, later = later[1].(string), later[2:]
		}
		m[ver] = first
	}
	return m
}

func TestRedactTopLevel(t *testing.T) {
	t.Parallel()
	for _, ver := range roomversion.Supported() {
		e := build(t, draft(t, ver, "m.room.message", nil, `{"body":"x"}`))
		raw := e.JSON()
		for name, value := range map[string]string{"origin": `"x"`, "membership": `"join"`, "prev_state": `[]`, "more": `1`, "unsigned": `{"a":1}`, "age_ts": `1`} {
			raw = signing.Replace(raw, name, []byte(value))
		}
		p, err := Parse(e.Version(), raw)
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.Redact()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"origin", "membership", "prev_state"} {
			if kept := canonicaljson.Get(r.JSON(), name) != nil; kept != (ver != "11" && ver != "12") {
				t.Errorf("%s in %s: kept %v", name, ver, kept)
			}
		}
		for _, name := range []string{"more", "unsigned", "age_ts"} {
			if canonicaljson.Get(r.JSON(), name) != nil {
				t.Errorf("%s survives in %s", name, ver)
			}
		}
	}
}

func TestRedactsOfVersions(t *testing.T) {
	t.Parallel()
	for _, ver := range roomversion.Supported() {
		d := draft(t, ver, TypeRedaction, nil, `{"reason":"x"}`)
		d.Redacts = "$target"
		e := build(t, d)
		if e.Redacts() != "$target" {
			t.Error(ver, e.Redacts())
		}
		inContent := canonicaljson.Get(e.Content(), "redacts") != nil
		if inContent != (ver == "11" || ver == "12") || inContent == (canonicaljson.Get(e.JSON(), "redacts") != nil) {
			t.Errorf("%s: %s", ver, e.JSON())
		}
		r, err := e.Redact()
		if err != nil || (r.Redacts() == "$target") != inContent {
			t.Error(ver, "redacted redaction", r.Redacts(), err)
		}
	}
}

func TestContentHash(t *testing.T) {
	t.Parallel()
	e := build(t, draft(t, "11", "m.room.message", nil, `{"body":"x"}`))
	forged, err := Parse(e.Version(), bytes.Replace(e.JSON(), []byte(`"body":"x"`), []byte(`"body":"y"`), 1))
	if err != nil {
		t.Fatal(err)
	}
	// The id and the signature do not cover the body, the content hash does.
	if forged.CheckHash() || forged.ID() != e.ID() || forged.Verify("x", "ed25519:1", specKey(t).Public().(ed25519.PublicKey)) != nil {
		t.Error("a changed body must fail the hash alone")
	}
	for _, hashes := range []string{`{}`, `{"sha256":1}`, `{"sha256":"*"}`, `{"sha256":""}`} {
		p, err := Parse(e.Version(), signing.Replace(e.JSON(), "hashes", []byte(hashes)))
		if err != nil || p.CheckHash() {
			t.Error(hashes, err)
		}
	}
}

func TestRequiredSigners(t *testing.T) {
	t.Parallel()
	key := "@u:x"
	for _, c := range []struct {
		content string
		want    []id.Server
	}{
		{`{"membership":"join"}`, []id.Server{"x"}},
		{`{"membership":"join","join_authorised_via_users_server":"@a:y"}`, []id.Server{"x", "y"}},
		{`{"membership":"join","join_authorised_via_users_server":"@a:x"}`, []id.Server{"x"}},
		{`{"membership":"join","join_authorised_via_users_server":7}`, []id.Server{"x"}},
		{`{"membership":"invite","third_party_invite":{}}`, []id.Server{}},
		{`{"membership":"join","third_party_invite":{}}`, []id.Server{"x"}},
	} {
		if got := build(t, draft(t, "10", TypeMember, &key, c.content)).RequiredSigners(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", c.content, got)
		}
	}
	if got := build(t, draft(t, "10", "m.room.message", nil, `{"membership":"invite","third_party_invite":{}}`)).RequiredSigners(); !slices.Equal(got, []id.Server{"x"}) {
		t.Error(got)
	}
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 256)
	for name, change := range map[string]func(*Draft){
		"content":   func(d *Draft) { d.Content = []byte(`[]`) },
		"float":     func(d *Draft) { d.Content = []byte(`{"a":1.5}`) },
		"not JSON":  func(d *Draft) { d.Content = []byte(`{`) },
		"type":      func(d *Draft) { d.Type = long },
		"state key": func(d *Draft) { d.StateKey = &long },
		"UTF-8":     func(d *Draft) { d.Type = "\xff" },
		"sender":    func(d *Draft) { d.Sender = "u" },
		"room":      func(d *Draft) { d.Room = "r" },
		"prev":      func(d *Draft) { d.PrevEvents = make([]id.Event, 21) },
		"unsigned":  func(d *Draft) { d.Unsigned = []byte(`1`) },
	} {
		d := draft(t, "11", "m.room.message", nil, `{}`)
		change(&d)
		want := mxerror.BadJSON
		if d.Type == long || d.StateKey == &long {
			want = mxerror.TooLarge
		}
		if _, err := d.Build("x", "ed25519:1", specKey(t)); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestProto(t *testing.T) {
	t.Parallel()
	for _, ver := range roomversion.Supported() {
		key := "@u:x"
		d := draft(t, ver, TypeMember, &key, `{"membership":"join"}`)
		raw, err := d.Proto()
		if err != nil {
			t.Fatal(err)
		}
		if canonicaljson.Get(raw, "hashes") != nil || canonicaljson.Get(raw, "signatures") != nil {
			t.Errorf("%s", raw)
		}
		back, err := ParseProto(d.Version, signing.Replace(raw, "origin", []byte(`"x"`)))
		if err != nil {
			t.Fatal(err)
		}
		if a, b := build(t, d), build(t, back); a.ID() != b.ID() {
			t.Errorf("%s\n%s", a.JSON(), b.JSON())
		}
		for _, bad := range []string{``, `[]`, `{"type":1}`, `{"prev_events":1}`} {
			if _, err := ParseProto(d.Version, []byte(bad)); err == nil {
				t.Errorf("took %q", bad)
			}
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	e := build(t, draft(t, "12", "m.room.message", nil, `{"body":"x"}`))
	var wg sync.WaitGroup
	results := make([]any, 8)
	for i := range results {
		wg.Go(func() {
			results[i] = e.Memo(func() any { return new(int) })
			if !e.CheckHash() {
				t.Error("hash")
			}
			if _, err := e.Redact(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, r := range results {
		if r != results[0] {
			t.Error("Memo gave two values")
		}
	}
}

// FuzzParse: nothing panics, and what Parse takes is stable: parsing its bytes again, redacting and verifying agree.
func FuzzParse(f *testing.F) {
	for _, ver := range roomversion.Supported() {
		key := "@u:x"
		f.Add(ver, build(f, draft(f, ver, TypeMember, &key, `{"membership":"join","third_party_invite":{"signed":{}}}`)).JSON())
		f.Add(ver, build(f, draft(f, ver, "m.room.message", nil, `{"body":"\u00e9"}`)).JSON())
	}
	f.Fuzz(func(t *testing.T, ver string, raw []byte) {
		v, ok := roomversion.Get(ver)
		if !ok {
			return
		}
		e, err := Parse(v, raw)
		if err != nil {
			if mxerror.From(err) == nil {
				t.Fatal(err)
			}
			return
		}
		again, err := Parse(v, e.JSON())
		if err != nil || again.ID() != e.ID() || !bytes.Equal(again.JSON(), e.JSON()) {
			t.Fatalf("%s: %v", e.JSON(), err)
		}
		r, err := e.Redact()
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(v, r.JSON())
		if err != nil || p.ID() != e.ID() || !p.IsRedactedForm() {
			t.Fatalf("redacted %s: %v", r.JSON(), err)
		}
		e.CheckHash()
		e.RequiredSigners()
		for _, s := range e.SignatureServers() {
			for _, k := range e.SignatureKeys(s) {
				_ = e.Verify(s, k, make([]byte, 32))
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	raw := build(b, draft(b, "10", "m.room.message", nil, `{"msgtype":"m.text","body":"Guten Tag, können Sie mich zurückrufen?"}`)).JSON()
	v := version(b, "10")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(v, raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFromStored(b *testing.B) {
	e := build(b, draft(b, "10", "m.room.message", nil, `{"msgtype":"m.text","body":"Guten Tag, können Sie mich zurückrufen?"}`))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := FromStored(e.Version(), e.ID(), e.JSON()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	d := draft(b, "10", "m.room.message", nil, `{"msgtype":"m.text","body":"Guten Tag, können Sie mich zurückrufen?"}`)
	priv := specKey(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Build("x", "ed25519:1", priv); err != nil {
			b.Fatal(err)
		}
	}
}
