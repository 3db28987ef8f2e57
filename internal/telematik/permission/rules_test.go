// SPDX-License-Identifier: Apache-2.0

package permission_test

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

var writeRules = flag.Bool("write-rules", false, "write docs/permission-rules.md instead of comparing it (make docs)")

// attempt is something that a rule allows or refuses. A rewriting rule is shown by what it makes of two requests: changed says whether it did.
type attempt func(ctx context.Context, s *setting) (changed bool, err error)

func inviting(at *tenant.Tenant, inviter, invitee id.User, config string) attempt {
	return func(ctx context.Context, s *setting) (bool, error) {
		if config != "" {
			s.configs[invitee] = config
		}
		return false, s.Invite(ctx, at, policy.Invite{Inviter: inviter, Invitee: invitee, Incoming: inviter.Server() != at.Name})
	}
}

func creating(at *tenant.Tenant, r policy.CreateRoom) attempt {
	return func(ctx context.Context, s *setting) (bool, error) {
		before := len(r.InitialState)
		req := r
		err := s.CreateRoom(ctx, at, "@a:x", &req)
		return string(req.CreationContent["m.federate"]) == "false" || len(req.InitialState) > before, err
	}
}

func sending(at *tenant.Tenant, typ, content string, state, federated bool) attempt {
	return func(ctx context.Context, s *setting) (bool, error) {
		e := policy.Event{Type: typ, Content: jsontext.Value(content), Federated: federated}
		if empty := ""; state {
			e.StateKey = &empty
		}
		return false, s.Event(ctx, at, e)
	}
}

func redacting(age int64) attempt {
	return func(ctx context.Context, s *setting) (bool, error) {
		return false, s.Event(ctx, praxis, policy.Event{Type: "m.room.redaction", Redacts: "$x", RedactsAge: age, Content: jsontext.Value(`{}`)})
	}
}

func routing(at *tenant.Tenant, pattern string) attempt {
	return func(ctx context.Context, s *setting) (bool, error) {
		return false, s.Route(ctx, at, "GET", pattern, nil)
	}
}

func routingOf(at *tenant.Tenant, method, pattern string, session *httpapi.Session) attempt {
	return func(ctx context.Context, s *setting) (bool, error) {
		return false, s.Route(ctx, at, method, pattern, session)
	}
}

func seeing(at *tenant.Tenant, viewer, user id.User, shared bool) attempt {
	return func(ctx context.Context, s *setting) (bool, error) {
		return false, s.Profile(ctx, at, viewer, user, func(context.Context) (bool, error) { return shared, nil })
	}
}

func searching(at *tenant.Tenant) attempt {
	return func(_ context.Context, s *setting) (bool, error) { return !s.UserDirectory(at), nil }
}

func status(n int) attempt {
	return func(_ context.Context, s *setting) (bool, error) {
		return false, s.Presence(praxis, strings.Repeat("ä", n))
	}
}

func federating(at *tenant.Tenant, peer id.Server, stale bool) attempt {
	return func(ctx context.Context, s *setting) (bool, error) {
		s.list.stale = stale
		return false, s.Federate(ctx, at, peer)
	}
}

func naming(at *tenant.Tenant, wished string) attempt {
	return func(ctx context.Context, s *setting) (bool, error) {
		got, err := s.Localpart(ctx, at, wished)
		return err == nil && !strings.Contains(strings.ToLower(got), strings.ToLower(wished)), err
	}
}

func version(v string) attempt { return creating(praxis, policy.CreateRoom{RoomVersion: v}) }
func reaction(k string) attempt {
	return sending(praxis, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x","key":"`+k+`"}}`, false, false)
}

var doctor = &httpapi.Session{User: "@a:praxis.example", Device: "D"}

// ruleCases has for each rule what it lets pass and what it refuses, or leaves alone and rewrites.
var ruleCases = map[string]struct{ allowed, refused []attempt }{
	"listed": {[]attempt{federating(praxis, "klinik.example", false), inviting(praxis, "@a:praxis.example", "@b:klinik.example", "")},
		[]attempt{federating(praxis, "fremd.example", false), inviting(praxis, "@a:praxis.example", "@b:fremd.example", ""), inviting(praxis, "@b:fremd.example", "@a:praxis.example", "")}},
	"fresh list": {[]attempt{federating(praxis, "praxis.example", true), federating(praxis, "klinik.example", false)}, []attempt{federating(praxis, "klinik.example", true)}},
	"insured to insured": {[]attempt{inviting(kasse, "@a:klinik.example", "@m:kasse.example", "")},
		[]attempt{inviting(kasse, "@m:kasse.example", "@n:kasse.example", ""), inviting(kasse, "@m:andere-kasse.example", "@n:kasse.example", "")}},
	"permission configuration": {[]attempt{inviting(klinik, "@a:praxis.example", "@b:klinik.example", `{"defaultSetting":"allow all"}`)},
		[]attempt{inviting(klinik, "@a:praxis.example", "@b:klinik.example", `{"defaultSetting":"block all"}`), inviting(kasse, "@a:praxis.example", "@m:kasse.example", `{"defaultSetting":"block all"}`)}},
	"one invitee": {[]attempt{creating(praxis, policy.CreateRoom{Invite: []id.User{"@a:x"}})}, []attempt{creating(praxis, policy.CreateRoom{Invite: []id.User{"@a:x", "@b:x"}}),
		creating(praxis, policy.CreateRoom{Invite: []id.User{"@a:x"}, InitialState: []policy.StateEvent{{Type: "m.room.member", StateKey: "@b:x", Content: jsontext.Value(`{"membership":"invite"}`)}}})}},
	"room version": {[]attempt{version("9"), version("10"), version("")}, []attempt{version("11"), version("12"), version("6")}},
	"room type v2": {[]attempt{creating(praxis, policy.CreateRoom{CreationContent: map[string]jsontext.Value{"type": jsontext.Value(`"de.gematik.tim.roomtype.default.v1"`)}})},
		[]attempt{creating(praxis, policy.CreateRoom{CreationContent: map[string]jsontext.Value{"type": jsontext.Value(`"de.gematik.tim.roomtype.default.v2"`)}})}},
	"no public rooms": {[]attempt{creating(praxis, policy.CreateRoom{Visibility: "public"}), creating(kasse, policy.CreateRoom{})},
		[]attempt{creating(kasse, policy.CreateRoom{Visibility: "public"}), creating(kasse, policy.CreateRoom{Preset: "public_chat"})}},
	"public rooms stay local": {[]attempt{creating(praxis, policy.CreateRoom{InitialState: []policy.StateEvent{{Type: "m.room.history_visibility", Content: jsontext.Value(`{"history_visibility":"joined"}`)}}})},
		[]attempt{creating(praxis, policy.CreateRoom{Visibility: "public"}), creating(praxis, policy.CreateRoom{Preset: "public_chat"})}},
	"history for the invited": {[]attempt{creating(praxis, policy.CreateRoom{InitialState: []policy.StateEvent{{Type: "m.room.history_visibility", Content: jsontext.Value(`{"history_visibility":"shared"}`)}}})},
		[]attempt{creating(praxis, policy.CreateRoom{}), creating(kasse, policy.CreateRoom{})}},
	"invite only": {[]attempt{sending(kasse, "m.room.join_rules", `{"join_rule":"invite"}`, true, true)},
		[]attempt{sending(kasse, "m.room.join_rules", `{"join_rule":"knock"}`, true, true), sending(kasse, "m.room.join_rules", `{"join_rule":"public"}`, true, false)}},
	"no later opening": {[]attempt{sending(praxis, "m.room.join_rules", `{"join_rule":"public"}`, true, false)}, []attempt{sending(praxis, "m.room.join_rules", `{"join_rule":"public"}`, true, true)}},
	"not world readable, insured": {[]attempt{sending(kasse, "m.room.history_visibility", `{"history_visibility":"shared"}`, true, true)},
		[]attempt{sending(kasse, "m.room.history_visibility", `{"history_visibility":"world_readable"}`, true, false)}},
	"not world readable": {[]attempt{sending(praxis, "m.room.history_visibility", `{"history_visibility":"world_readable"}`, true, false)},
		[]attempt{sending(praxis, "m.room.history_visibility", `{"history_visibility":"world_readable"}`, true, true)}},
	"no threads": {[]attempt{sending(praxis, "m.room.message", `{"m.relates_to":{"rel_type":"m.replace","event_id":"$x"}}`, false, true)},
		[]attempt{sending(praxis, "m.room.message", `{"m.relates_to":{"rel_type":"m.thread","event_id":"$x"}}`, false, true)}},
	"one emoji":               {[]attempt{reaction("👍")}, []attempt{reaction("👍👍"), reaction("ja")}},
	"redaction within a day":  {[]attempt{redacting(1000)}, []attempt{redacting(25 * 60 * 60 * 1000)}},
	"no link previews":        {[]attempt{routing(praxis, "/_matrix/client/v1/media/config")}, []attempt{routing(praxis, "/_matrix/client/v1/media/preview_url"), routing(kasse, "/_matrix/media/v3/preview_url")}},
	"no third networks":       {[]attempt{routing(praxis, "/_matrix/client/v3/account/3pid")}, []attempt{routing(praxis, "/_matrix/client/v3/thirdparty/protocols")}},
	"no list of public rooms": {[]attempt{routing(praxis, "/_matrix/client/v3/publicRooms")}, []attempt{routing(kasse, "/_matrix/client/v3/publicRooms")}},
	"no third-party identifiers": {[]attempt{routing(praxis, "/_matrix/client/v3/account/3pid")},
		[]attempt{routingOf(praxis, "POST", "/_matrix/client/v3/account/3pid", doctor), routingOf(praxis, "POST", "/_matrix/client/r0/account/3pid/bind", doctor),
			routingOf(kasse, "POST", "/_matrix/client/v3/account/password/email/requestToken", nil)}},
	"no registration by a secret": {[]attempt{routingOf(praxis, "PUT", "/_synapse/admin/v2/users/{userId}", doctor)}, []attempt{routingOf(praxis, "POST", "/_synapse/admin/v1/register", nil)}},
	"nobody signs in for others":  {[]attempt{routingOf(praxis, "POST", "/_matrix/client/v3/login", nil)}, []attempt{routingOf(praxis, "POST", "/_synapse/admin/v1/users/{userId}/login", doctor)}},
	"profiles need a session": {[]attempt{routingOf(praxis, "GET", "/_matrix/client/v3/profile/{userId}", doctor)},
		[]attempt{routingOf(praxis, "GET", "/_matrix/client/v3/profile/{userId}", nil), routingOf(kasse, "GET", "/_matrix/client/r0/profile/{userId}/{keyName}", nil)}},
	"profiles of insured people": {[]attempt{seeing(praxis, "@a:praxis.example", "@m:kasse.example", true), seeing(kasse, "@m:kasse.example", "@m:kasse.example", false),
		seeing(kasse, "@m:kasse.example", "@a:praxis.example", false), seeing(praxis, "@a:praxis.example", "@b:praxis.example", false)},
		[]attempt{seeing(praxis, "@a:praxis.example", "@m:kasse.example", false), seeing(kasse, "@m:kasse.example", "@n:kasse.example", false)}},
	"insured people are not found": {[]attempt{searching(praxis)}, []attempt{searching(kasse)}},
	"short status":                 {[]attempt{status(250)}, []attempt{status(251)}},
	"nothing unlisted":             {[]attempt{routing(praxis, "/_matrix/client/v3/sync")}, []attempt{routing(praxis, "/_matrix/client/v3/sync/more"), routing(praxis, "/_matrix/client/unstable/org.example/new")}},
	"insured by KVNR":              {[]attempt{naming(kasse, "X110411675")}, []attempt{naming(kasse, "max"), naming(kasse, "")}},
	"no personal data in user ids": {nil, []attempt{naming(praxis, "anna.weber"), naming(kasse, "X110411675")}},
}

// TestRules: every rule of the table lets something pass and refuses or rewrites something, with the status and code that it says.
//
// Requirements: A_26203, A_26227, A_26289, A_26290-01, A_26375, A_26228-01, A_26344, A_28587.
func TestRules(t *testing.T) {
	t.Parallel()
	for _, r := range permission.Table() {
		cases, ok := ruleCases[r.Name]
		if !ok || len(cases.refused) == 0 || len(cases.allowed) == 0 && r.Verdict == permission.Refuse {
			t.Errorf("the rule %q has no allowed or no refused case", r.Name)
			continue
		}
		for i, try := range cases.allowed {
			if changed, err := try(t.Context(), newSetting(false)); err != nil || changed && r.Verdict == permission.Rewrite {
				t.Errorf("%s, allowed case %d: %v, changed %v", r.Name, i, err, changed)
			}
		}
		for i, try := range cases.refused {
			changed, err := try(t.Context(), newSetting(false))
			if r.Verdict == permission.Rewrite {
				if err != nil || !changed {
					t.Errorf("%s, rewritten case %d: %v, changed %v", r.Name, i, err, changed)
				}
				continue
			}
			e := mxerror.From(err)
			if e == nil || e.Status != r.Status || e.Code != r.Code || e.Message == "" || strings.Contains(e.Message, "%!") {
				t.Errorf("%s, refused case %d: %v, want %d %s", r.Name, i, err, r.Status, r.Code)
			}
		}
	}
	if len(ruleCases) != len(permission.Table()) {
		t.Errorf("%d rules, cases of %d", len(permission.Table()), len(ruleCases))
	}
}

// TestRulesDocument holds docs/permission-rules.md equal to the table.
//
// Requirements: A_22810.
func TestRulesDocument(t *testing.T) {
	t.Parallel()
	file := filepath.Join("..", "..", "..", "docs", "permission-rules.md")
	if *writeRules {
		if err := os.WriteFile(file, permission.Markdown(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(text, permission.Markdown()) {
		t.Errorf("docs/permission-rules.md is not current: run make docs (%v)", err)
	}
}
