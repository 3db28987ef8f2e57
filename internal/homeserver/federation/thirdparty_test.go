// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// identityServer is an identity server of the tests: it knows one address and keeps invites for all others.
type identityServer struct {
	*httptest.Server
	key    ed25519.PrivateKey
	stored map[string]any
}

const identityName = id.Server("id.example")

func newIdentityServer(t *testing.T, ca *authority, known id.User) *identityServer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &identityServer{key: private}
	answer := func(w http.ResponseWriter, body any) {
		if err := json.MarshalWrite(w, body); err != nil {
			t.Error(err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_matrix/identity/v2/hash_details", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(401)
			return
		}
		answer(w, map[string]any{"lookup_pepper": "pepper", "algorithms": []string{"none"}})
	})
	mux.HandleFunc("POST /_matrix/identity/v2/lookup", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{"mappings": map[string]any{"known@example.org email": known}})
	})
	mux.HandleFunc("POST /_matrix/identity/v2/store-invite", func(w http.ResponseWriter, r *http.Request) {
		if err := json.UnmarshalRead(r.Body, &s.stored); err != nil {
			t.Error(err)
		}
		answer(w, map[string]any{"token": "geheim", "display_name": "n...@e...", "public_keys": []any{
			map[string]any{"public_key": base64.RawStdEncoding.EncodeToString(public), "key_validity_url": "https://id.example/valid"}}})
	})
	s.Server = httptest.NewUnstartedServer(mux)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t, string(identityName))}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// proof is what the identity server signs once somebody has proven to own the address.
func (s *identityServer) proof(t *testing.T, user id.User, token string) jsontext.Value {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"mxid": user, "token": token}, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signing.SignJSON(raw, string(identityName), "ed25519:0", s.key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// TestThirdPartyInvite: an address somebody has, one that nobody has yet, the notice of the identity server, false proofs.
func TestThirdPartyInvite(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"10", "12"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ca := newAuthority(t)
			fa, fb := newFront(t, ca, string(nameA)), newFront(t, ca, string(nameB))
			is := newIdentityServer(t, ca, "@known:b.example")
			config := Config{IdentityServers: []id.Server{identityName}, Resolve: map[id.Server]Override{
				nameA: {Address: fa.address(), Roots: ca.pool}, nameB: {Address: fb.address(), Roots: ca.pool},
				identityName: {Address: is.Listener.Addr().String(), Roots: ca.pool}}}
			a := newCell(t, setting{url: databasetest.SQLite(t), config: config, front: fa}, nameA).server(nameA)
			b := newCell(t, setting{url: databasetest.SQLite(t), config: config, front: fb}, nameB).server(nameB)
			ctx, anna := t.Context(), a.user("anna")
			r := a.create(anna, policy.CreateRoom{Preset: "private_chat", Name: "Fall", RoomVersion: version})
			ask := room.ThirdParty{Server: string(identityName), Token: "secret", Medium: "email", Address: "known@example.org"}
			if err := a.rooms.InviteThirdParty(ctx, a.me, r, anna, ask); err != nil {
				t.Fatal(err)
			}
			b.invitedTo(r, "@known:b.example")

			ask.Address = "new@example.org"
			if err := a.rooms.InviteThirdParty(ctx, a.me, r, anna, ask); err != nil {
				t.Fatal(err)
			}
			if is.stored["room_name"] != "Fall" || is.stored["sender"] != string(anna) || is.stored["address"] != "new@example.org" {
				t.Errorf("the identity server was told %v", is.stored)
			}
			bind := func(user id.User, signed jsontext.Value) error {
				_, err := a.ask(b, "PUT", v1+"/3pid/onbind", nil, map[string]any{"medium": "email", "address": "new@example.org", "mxid": user, "invites": []any{
					map[string]any{"medium": "email", "address": "new@example.org", "mxid": user, "room_id": r, "sender": anna, "signed": signed}}})
				return err
			}
			ben := b.user("ben")
			if err := bind(ben, is.proof(t, ben, "geheim")); err != nil {
				t.Fatal(err)
			}
			b.invitedTo(r, ben)
			if err := b.rooms.Join(ctx, b.me, ben, r, []id.Server{nameA}, ""); err != nil {
				t.Fatal(err)
			}
			a.gets(anna, b.say(r, ben, "da bin ich"))

			path := v1 + "/exchange_third_party_invite/" + url.PathEscape(string(r))
			partial := func(user id.User, signed jsontext.Value) map[string]any {
				return map[string]any{"type": "m.room.member", "room_id": r, "sender": anna, "state_key": user, "content": map[string]any{
					"membership": "invite", "third_party_invite": map[string]any{"display_name": "x", "signed": signed}}}
			}
			_, stranger, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			forged := identityServer{key: stranger}
			max := b.user("max")
			for name, c := range map[string]struct {
				body   any
				status int
				code   string
			}{
				"wrong key":     {partial(max, forged.proof(t, max, "geheim")), 403, "M_FORBIDDEN"},
				"wrong token":   {partial(max, is.proof(t, max, "anders")), 403, "M_FORBIDDEN"},
				"somebody else": {partial(max, is.proof(t, ben, "geheim")), 400, "M_INVALID_PARAM"},
				"no signatures": {partial(max, jsontext.Value(`{"mxid":"@max:b.example","token":"geheim"}`)), 400, "M_INVALID_PARAM"},
				"no JSON":       {jsontext.Value(`{}`), 400, "M_INVALID_PARAM"},
			} {
				if _, err := b.ask(a, "PUT", path, nil, c.body); err == nil {
					t.Errorf("%s: accepted", name)
				} else {
					refusedWith(t, err, c.status, c.code)
				}
			}
			_, err = b.ask(a, "PUT", v1+"/exchange_third_party_invite/"+url.PathEscape("!nothing:a.example"), nil, partial(max, is.proof(t, max, "geheim")))
			refusedWith(t, err, 404, "M_NOT_FOUND")

			ask.Server = "other.example"
			hasCode(t, a.rooms.InviteThirdParty(ctx, a.me, r, anna, ask), mxerror.ServerNotTrusted)
			ask.Server, ask.Token = string(identityName), "wrong"
			hasCode(t, a.rooms.InviteThirdParty(ctx, a.me, r, anna, ask), mxerror.Forbidden)
			ask.Token = ""
			hasCode(t, a.rooms.InviteThirdParty(ctx, a.me, r, anna, ask), mxerror.MissingParam)
		})
	}
}

// invitedTo fails unless a user of the server has been invited to a room.
func (s *server) invitedTo(r id.Room, user id.User) {
	s.t.Helper()
	rm, err := s.rooms.Lookup(s.t.Context(), s.me.ID, r)
	if err != nil {
		s.t.Fatal(err)
	}
	if m, err := s.rooms.Membership(s.t.Context(), s.me.ID, rm.NID, user); err != nil || m.Membership != "invite" {
		s.t.Errorf("%s has membership %q, %v", user, m.Membership, err)
	}
}
