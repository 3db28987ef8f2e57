// SPDX-License-Identifier: Apache-2.0

package permission_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

// list is a federation list: listed servers → isInsurance. stale makes it too old to be used.
type list struct {
	servers map[id.Server]bool
	stale   bool
}

func (l *list) Member(_ context.Context, s id.Server) (bool, bool, error) {
	if l.stale {
		return false, false, errors.New("the list is too old")
	}
	insurance, ok := l.servers[s]
	return ok, insurance, nil
}

// setting is a set of rules with the users' configurations.
type setting struct {
	*permission.Rules
	list    *list
	configs map[id.User]string
}

func newSetting(block bool) *setting {
	return newSettingWith(func(o *permission.Options) { o.BlockByDefault = block })
}

func newSettingWith(change func(*permission.Options)) *setting {
	s := &setting{list: &list{servers: map[id.Server]bool{"praxis.example": false, "klinik.example": false, "kasse.example": true, "andere-kasse.example": true}}, configs: map[id.User]string{}}
	o := permission.Options{Members: s.list, Log: slog.New(slog.DiscardHandler),
		AccountData: func(_ context.Context, _ tenant.ID, u id.User, typ string) (jsontext.Value, bool, error) {
			c, ok := s.configs[u]
			return jsontext.Value(c), ok && strings.HasPrefix(typ, "de.gematik.tim.account.permissionconfig."), nil
		}}
	change(&o)
	s.Rules = permission.New(o)
	return s
}

var (
	praxis = &tenant.Tenant{ID: 1, Name: "praxis.example"}
	klinik = &tenant.Tenant{ID: 2, Name: "klinik.example"}
	kasse  = &tenant.Tenant{ID: 3, Name: "kasse.example", Insurance: true}
)

// TestInvite is the table of stages 1 and 2 (dossier 2.2–2.4).
//
// Requirements: AF_10061, AF_10104, AF_10233, A_25043, A_25044, A_25045-02, A_25258, A_25704, A_25705, A_26021-01.
func TestInvite(t *testing.T) {
	t.Parallel()
	const (
		anna    = id.User("@anna:praxis.example")
		ben     = id.User("@ben:klinik.example")
		max     = id.User("@max:kasse.example")
		moritz  = id.User("@moritz:andere-kasse.example")
		nora    = id.User("@nora:kasse.example")
		nobody  = id.User("@x:fremd.example")
		clara   = id.User("@clara:klinik.example")
		block   = `{"defaultSetting":"block all"`
		allow   = `{"defaultSetting":"allow all"`
		insured = `"groupExceptions":[{"groupName":"isInsuredPerson"}]}`
	)
	for _, c := range []struct {
		name             string
		at               *tenant.Tenant
		inviter, invitee id.User
		incoming         bool
		config           string
		ok               bool
	}{
		{"default allows", klinik, anna, ben, true, "", true},
		{"unlisted inviter", klinik, nobody, ben, true, "", false},
		{"unlisted invitee", praxis, anna, nobody, false, "", false},
		{"outgoing asks no configuration here", praxis, anna, ben, false, block + "}", true},
		{"block all", klinik, anna, ben, true, block + "}", false},
		{"block all but this user", klinik, anna, ben, true, block + `,"userExceptions":{"@anna:praxis.example":{}}}`, true},
		{"block all but this server", klinik, anna, ben, true, block + `,"serverExceptions":{"praxis.example":{}}}`, true},
		{"block all but others", klinik, anna, ben, true, block + `,"userExceptions":{"@eva:praxis.example":{}},"serverExceptions":{"labor.example":{}}}`, false},
		{"allow all but this user", klinik, anna, ben, true, allow + `,"userExceptions":{"@anna:praxis.example":{}}}`, false},
		{"allow all but this server", klinik, anna, ben, true, allow + `,"serverExceptions":{"praxis.example":{}}}`, false},
		{"two exceptions invert once", klinik, anna, ben, true, allow + `,"userExceptions":{"@anna:praxis.example":{}},"serverExceptions":{"praxis.example":{}}}`, false},
		{"within the tenant too", klinik, clara, ben, false, block + "}", false},
		{"insured person, group blocked", klinik, max, ben, true, allow + "," + insured, false},
		{"insured person, group allowed", klinik, max, ben, true, block + "," + insured, true},
		{"group is not for professionals", klinik, anna, ben, true, block + "," + insured, false},
		{"malformed: the default holds", klinik, anna, ben, true, `{"defaultSetting":"perhaps"}`, true},
		{"insured to insured, other insurer", kasse, moritz, max, true, allow + "}", false},
		{"insured to insured, same insurer", kasse, nora, max, false, allow + `,"userExceptions":{}}`, false},
		{"insured to insured, outgoing", kasse, max, moritz, false, "", false},
		{"insured to physician, outgoing", kasse, max, ben, false, "", true},
		{"physician to insured, ePA configuration", kasse, ben, max, true, block + `,"serverExceptions":{"klinik.example":{}}}`, true},
		{"groups mean nothing in the ePA configuration", kasse, ben, max, true, block + "," + insured, false},
		{"unknown members mean nothing", klinik, anna, ben, true, block + `,"comment":"x","userExceptions":{"@eva:praxis.example":{"since":1}}}`, false},
		{"an exception is an object", klinik, anna, ben, true, block + `,"userExceptions":{"@eva:praxis.example":true}}`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSetting(false)
			if c.config != "" {
				s.configs[c.invitee] = c.config
			}
			err := s.Invite(context.Background(), c.at, policy.Invite{Inviter: c.inviter, Invitee: c.invitee, Incoming: c.incoming})
			if (err == nil) != c.ok || (err != nil && !errors.Is(err, mxerror.Forbidden)) {
				t.Errorf("got %v, want allowed %v", err, c.ok)
			}
		})
	}
	if err := newSetting(true).Invite(context.Background(), klinik, policy.Invite{Inviter: anna, Invitee: ben, Incoming: true}); !errors.Is(err, mxerror.Forbidden) {
		t.Errorf("operator's default block all: %v", err)
	}
}

// TestInviteByOlderConcepts: what the switches for older clients change, and what they never do: a contact opens what is blocked by default, no more, and
// where clients enforce the configuration the server asks the federation list and who is insured all the same.
//
// Requirements: A_25046, AF_10061, AF_10233, A_25534.
func TestInviteByOlderConcepts(t *testing.T) {
	t.Parallel()
	const (
		anna   = id.User("@anna:praxis.example")
		ben    = id.User("@ben:klinik.example")
		clara  = id.User("@clara:klinik.example")
		max    = id.User("@max:kasse.example")
		moritz = id.User("@moritz:andere-kasse.example")
		nobody = id.User("@x:fremd.example")
		block  = `{"defaultSetting":"block all"`
		allow  = `{"defaultSetting":"allow all"`
	)
	everybody := func(context.Context, tenant.ID, id.User, id.User) (bool, error) { return true, nil }
	contacts := func(o *permission.Options) {
		o.Contacts = func(_ context.Context, t tenant.ID, user, inviter id.User) (bool, error) {
			return t == klinik.ID && user == ben && inviter == anna, nil
		}
	}
	known := func(o *permission.Options) { o.Contacts = everybody }
	for _, c := range []struct {
		name             string
		change           func(*permission.Options)
		at               *tenant.Tenant
		inviter, invitee id.User
		config           string
		ok               bool
	}{
		{"a contact of who blocks all", contacts, klinik, anna, ben, block + "}", true},
		{"no contact", contacts, klinik, clara, ben, block + "}", false},
		{"somebody else's contact", contacts, klinik, anna, clara, block + "}", false},
		{"a contact where the organisation blocks", func(o *permission.Options) { contacts(o); o.BlockByDefault = true }, klinik, anna, ben, "", true},
		{"no contact where the organisation blocks", func(o *permission.Options) { contacts(o); o.BlockByDefault = true }, klinik, clara, ben, "", false},
		{"a contact that the configuration names", known, klinik, anna, ben, allow + `,"userExceptions":{"@anna:praxis.example":{}}}`, false},
		{"a contact whose server the configuration names", known, klinik, anna, ben, allow + `,"serverExceptions":{"praxis.example":{}}}`, false},
		{"an insured contact, the group blocked", known, klinik, max, ben, allow + `,"groupExceptions":[{"groupName":"isInsuredPerson"}]}`, false},
		{"an insured contact of an insured person", known, kasse, moritz, max, allow + "}", false},
		{"an unlisted contact", known, klinik, nobody, ben, block + "}", false},
		{"clients decide", byClients, klinik, anna, ben, block + "}", true},
		{"clients decide, within the tenant", byClients, klinik, clara, ben, block + "}", true},
		{"clients decide, not who is listed", byClients, klinik, nobody, ben, allow + "}", false},
		{"clients decide, not between insured people", byClients, kasse, moritz, max, allow + "}", false},
	} {
		s := newSettingWith(c.change)
		if c.config != "" {
			s.configs[c.invitee] = c.config
		}
		err := s.Invite(t.Context(), c.at, policy.Invite{Inviter: c.inviter, Invitee: c.invitee, Incoming: c.inviter.Server() != c.at.Name})
		if (err == nil) != c.ok || err != nil && !errors.Is(err, mxerror.Forbidden) {
			t.Errorf("%s: %v, want allowed %v", c.name, err, c.ok)
		}
	}
	broken := errors.New("the database is away")
	s := newSettingWith(func(o *permission.Options) {
		o.BlockByDefault, o.Contacts = true, func(context.Context, tenant.ID, id.User, id.User) (bool, error) { return false, broken }
	})
	if err := s.Invite(t.Context(), klinik, policy.Invite{Inviter: anna, Invitee: ben, Incoming: true}); !errors.Is(err, broken) {
		t.Errorf("contacts that cannot be read: %v", err)
	}
}

func byClients(o *permission.Options) { o.ByClients = true }

// TestFederate: both ends are on the list, and an old list blocks (fail closed).
//
// Requirements: AF_10064-02, A_25534.
func TestFederate(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := newSetting(false)
	if err := s.Federate(ctx, praxis, "klinik.example"); err != nil {
		t.Error(err)
	}
	if err := s.Federate(ctx, praxis, "fremd.example"); !errors.Is(err, mxerror.Forbidden) {
		t.Errorf("unlisted peer: %v", err)
	}
	struck := &tenant.Tenant{ID: 9, Name: "gestrichen.example"}
	if err := s.Federate(ctx, struck, "klinik.example"); !errors.Is(err, mxerror.Forbidden) {
		t.Errorf("a tenant that is not listed itself: %v", err)
	}
	if err := s.Federate(ctx, struck, struck.Name); err != nil {
		t.Errorf("its own people: %v", err)
	}
	s.list.stale = true
	if err := s.Federate(ctx, praxis, "klinik.example"); !errors.Is(err, mxerror.Forbidden) {
		t.Errorf("old list: %v", err)
	}
}

// Requirements: A_25368-01, A_25538, A_26015-02, A_26202, A_28596.
func TestCreateRoom(t *testing.T) {
	t.Parallel()
	state := func(typ, content string) policy.StateEvent {
		return policy.StateEvent{Type: typ, Content: jsontext.Value(content)}
	}
	worldReadable := state("m.room.history_visibility", `{"history_visibility":"world_readable"}`)
	for _, c := range []struct {
		name string
		at   *tenant.Tenant
		req  policy.CreateRoom
		code string
	}{
		{"plain", praxis, policy.CreateRoom{}, ""},
		{"two invitees", praxis, policy.CreateRoom{Invite: []id.User{"@a:x", "@b:x"}}, "M_FORBIDDEN"},
		{"version 9", praxis, policy.CreateRoom{RoomVersion: "9"}, ""},
		{"version 11", praxis, policy.CreateRoom{RoomVersion: "11"}, "M_UNSUPPORTED_ROOM_VERSION"},
		{"type v2", praxis, policy.CreateRoom{CreationContent: map[string]jsontext.Value{"type": jsontext.Value(`"de.gematik.tim.roomtype.default.v2"`)}}, "M_FORBIDDEN"},
		{"world readable", praxis, policy.CreateRoom{InitialState: []policy.StateEvent{worldReadable}}, "M_INVALID_ROOM_STATE"},
		{"public and world readable", praxis, policy.CreateRoom{Preset: "public_chat", InitialState: []policy.StateEvent{worldReadable}}, ""},
		{"public for insured", kasse, policy.CreateRoom{Visibility: "public"}, "M_FORBIDDEN"},
		{"knock for insured", kasse, policy.CreateRoom{InitialState: []policy.StateEvent{state("m.room.join_rules", `{"join_rule":"knock"}`)}}, "M_FORBIDDEN"},
	} {
		err := newSetting(false).CreateRoom(context.Background(), c.at, "@a:x", &c.req)
		code := ""
		if e := mxerror.From(err); e != nil {
			code = e.Code
		}
		if code != c.code {
			t.Errorf("%s: %v, want %q", c.name, err, c.code)
		}
	}
}

// TestCreateRoomRewrites: A_26515-01 and A_25481.
//
// Requirements: A_25323-01, A_26248.
func TestCreateRoomRewrites(t *testing.T) {
	t.Parallel()
	s := newSetting(false)
	public := policy.CreateRoom{Visibility: "public"}
	if err := s.CreateRoom(context.Background(), praxis, "@a:x", &public); err != nil || string(public.CreationContent["m.federate"]) != "false" {
		t.Errorf("public room: %s, %v", public.CreationContent, err)
	}
	private := policy.CreateRoom{}
	if err := s.CreateRoom(context.Background(), praxis, "@a:x", &private); err != nil || len(private.InitialState) != 1 || string(private.InitialState[0].Content) != `{"history_visibility":"invited"}` {
		t.Errorf("private room: %v, %v", private.InitialState, err)
	}
	if s.DefaultRoomVersion() != "10" {
		t.Error("default room version")
	}
}

// Requirements: A_25395-03, A_25481, A_25575-01, A_25996, A_26015-02, A_26228-01, A_28271, A_28358.
func TestEvent(t *testing.T) {
	t.Parallel()
	reaction := func(key string) policy.Event {
		return policy.Event{Type: "m.reaction", Content: jsontext.Value(`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x","key":"` + key + `"}}`)}
	}
	empty := ""
	for _, c := range []struct {
		name string
		at   *tenant.Tenant
		e    policy.Event
		code string
	}{
		{"message", praxis, policy.Event{Type: "m.room.message", Content: jsontext.Value(`{"body":"x"}`)}, ""},
		{"thread", praxis, policy.Event{Type: "m.room.encrypted", Content: jsontext.Value(`{"m.relates_to":{"rel_type":"m.thread","event_id":"$x"}}`)}, "M_FORBIDDEN"},
		{"thumb", praxis, reaction("👍🏽"), ""},
		{"heart with selector", praxis, reaction("❤️"), ""},
		{"family", praxis, reaction("👩‍👩‍👧"), ""},
		{"flag", praxis, reaction("🇩🇪"), ""},
		{"keycap", praxis, reaction("1️⃣"), ""},
		{"two", praxis, reaction("👍👍"), "M_BAD_JSON"},
		{"text", praxis, reaction("ok"), "M_BAD_JSON"},
		{"digit", praxis, reaction("1"), "M_BAD_JSON"},
		{"fresh redaction", praxis, policy.Event{Type: "m.room.redaction", Redacts: "$x", RedactsAge: 1000, Content: jsontext.Value(`{}`)}, ""},
		{"old redaction", praxis, policy.Event{Type: "m.room.redaction", Redacts: "$x", RedactsAge: 25 * 3600 * 1000, Content: jsontext.Value(`{}`)}, "M_FORBIDDEN"},
		{"later public", praxis, policy.Event{Type: "m.room.join_rules", StateKey: &empty, Content: jsontext.Value(`{"join_rule":"public"}`), Federated: true}, "M_INVALID_ROOM_STATE"},
		{"public, own server only", praxis, policy.Event{Type: "m.room.join_rules", StateKey: &empty, Content: jsontext.Value(`{"join_rule":"public"}`)}, ""},
		{"insured, restricted", kasse, policy.Event{Type: "m.room.join_rules", StateKey: &empty, Content: jsontext.Value(`{"join_rule":"restricted"}`), Federated: true}, "M_FORBIDDEN"},
	} {
		err := newSetting(false).Event(context.Background(), c.at, c.e)
		code := ""
		if e := mxerror.From(err); e != nil {
			code = e.Code
		}
		if code != c.code {
			t.Errorf("%s: %v, want %q", c.name, err, c.code)
		}
	}
}

// Requirements: A_22719.
func TestLocalpart(t *testing.T) {
	t.Parallel()
	s := newSetting(false)
	ctx := context.Background()
	a, err := s.Localpart(ctx, praxis, "anna.weber")
	b, err2 := s.Localpart(ctx, praxis, "anna.weber")
	if err != nil || err2 != nil || a == b || strings.Contains(a, "anna") || len(a) != 16 {
		t.Errorf("localparts %q, %q, %v, %v", a, b, err, err2)
	}
	c, err := s.Localpart(ctx, kasse, "X110411675")
	if err != nil || c != permission.InsuredLocalpart("X110411675") || len(c) != 52 {
		t.Errorf("insured person: %q, %v", c, err)
	}
	if _, err := s.Localpart(ctx, kasse, "max"); !errors.Is(err, mxerror.InvalidUsername) {
		t.Errorf("no KVNR: %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(`{"defaultSetting":"allow all","userExceptions":{"@a:b":{}}}`, true)
	f.Add(`{"defaultSetting":"block all","groupExceptions":[{"groupName":"isInsuredPerson"}]}`, false)
	f.Fuzz(func(t *testing.T, raw string, insurance bool) {
		c, err := permission.ParseConfig(jsontext.Value(raw), insurance)
		if err == nil && c.DefaultSetting == "" {
			t.Error("a configuration without a default was accepted")
		}
	})
}
