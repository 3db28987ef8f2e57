// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// This file invites people of whom only an e-mail address or telephone number is known (client-server API, "Third-party invites"). Package
// federation talks with the identity server; it may be switched off, and is by default.

// ThirdParty names somebody by an address that an identity server knows or will come to know.
type ThirdParty struct {
	// Server is the identity server to ask, Token the inviting user's access token there.
	Server string `json:"id_server"`
	Token  string `json:"id_access_token"`
	// Medium is the kind of address, such as "email".
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

func (p ThirdParty) complete() error {
	for name, value := range map[string]string{"id_server": p.Server, "id_access_token": p.Token, "medium": p.Medium, "address": p.Address} {
		if value == "" {
			return mxerror.MissingParam.With("%s is missing.", name)
		}
	}
	return nil
}

// offered checks that an invite names everything that is needed and an identity server that may be asked.
func (s *Service) offered(p ThirdParty) error {
	if s.Identity == nil {
		return errNoIdentity
	}
	if err := p.complete(); err != nil {
		return err
	}
	return s.Identity.Trusted(p.Server)
}

// PendingInvite is what the identity server is told about an invite that it keeps until somebody proves to own the address.
type PendingInvite struct {
	ThirdParty
	Room            PublicRoom
	Sender          id.User
	SenderName      string
	SenderAvatarURL string
}

// StoredInvite is the identity server's answer.
type StoredInvite struct {
	Token       string
	DisplayName string
	// Keys are those that may sign the proof of ownership.
	Keys []InviteKey
}

// InviteKey is a key of an identity server, with the address that tells whether it is still valid.
type InviteKey struct {
	Public      string `json:"public_key"`
	ValidityURL string `json:"key_validity_url,omitzero"`
}

// IdentityServers asks identity servers for a tenant. Package federation implements it.
type IdentityServers interface {
	// Trusted says whether a client may name an identity server: M_FORBIDDEN when none may be named, M_SERVER_NOT_TRUSTED for others.
	Trusted(server string) error
	// FindUser returns who has an address, "" when nobody has.
	FindUser(ctx context.Context, p ThirdParty) (id.User, error)
	// StoreInvite leaves an invite with the identity server.
	StoreInvite(ctx context.Context, p PendingInvite) (*StoredInvite, error)
	// Exchange hands a third-party invite of another server's user to that server, which makes the invite.
	Exchange(ctx context.Context, t *tenant.Tenant, server id.Server, room id.Room, e PartialInvite) error
}

// PartialInvite is the member event of a redeemed third-party invite before anybody has made it a whole one (server-server API, PUT
// /exchange_third_party_invite).
type PartialInvite struct {
	Type     string         `json:"type"`
	Room     id.Room        `json:"room_id"`
	Sender   id.User        `json:"sender"`
	StateKey id.User        `json:"state_key"`
	Content  jsontext.Value `json:"content"`
}

var errNoIdentity = mxerror.Forbidden.With("Invitations by e-mail or telephone number are not offered.")

// InviteThirdParty invites whoever owns an address: the user whom the identity server names, or, when it knows none, whoever will prove to own it.
func (s *Service) InviteThirdParty(ctx context.Context, t *tenant.Tenant, room id.Room, inviter id.User, p ThirdParty) error {
	if err := s.offered(p); err != nil {
		return err
	}
	r, err := s.joinedRoom(ctx, t, room, inviter)
	if err != nil {
		return err
	}
	if err := s.mayInviteHere(ctx, t.ID, r, inviter); err != nil { // before anybody outside learns of it
		return err
	}
	user, err := s.Identity.FindUser(ctx, p)
	if err != nil {
		return err
	}
	if user != "" {
		return s.Invite(ctx, t, room, inviter, user, "", false)
	}
	pending := PendingInvite{ThirdParty: p, Sender: inviter}
	if pending.Room, err = s.Describe(ctx, t.ID, r); err != nil {
		return err
	}
	if s.Profile != nil {
		if pending.SenderName, pending.SenderAvatarURL, err = s.Profile(ctx, t.ID, inviter); err != nil {
			return err
		}
	}
	stored, err := s.Identity.StoreInvite(ctx, pending)
	if err != nil {
		return err
	}
	content := map[string]any{"display_name": stored.DisplayName, "public_key": stored.Keys[0].Public, "key_validity_url": stored.Keys[0].ValidityURL,
		"public_keys": stored.Keys}
	d := stateDraft("m.room.third_party_invite", stored.Token, object(content))
	d.Room, d.Sender = room, inviter
	_, err = s.Send(ctx, t, d)
	return err
}

// mayInviteHere checks the power level for inviting.
func (s *Service) mayInviteHere(ctx context.Context, t tenant.ID, r *Room, inviter id.User) error {
	state, err := s.CurrentState(ctx, t, r)
	if err != nil {
		return err
	}
	levels, err := s.PowerLevels(ctx, t, state)
	if err != nil {
		return err
	}
	if levels.User(inviter) < levels.Invite() {
		return mxerror.Forbidden.With("%s may not invite to the room.", inviter)
	}
	return nil
}

// SignedInvite is the proof of an identity server that a user owns the address that was invited.
type SignedInvite struct {
	Room   id.Room
	Sender id.User
	// Signed is the object that the identity server signed: mxid, token, signatures.
	Signed jsontext.Value
}

// Redeem turns a third-party invite of a local user into an invite. It is made where its sender lives: here, or there on our request.
func (s *Service) Redeem(ctx context.Context, t *tenant.Tenant, user id.User, i SignedInvite) error {
	if canonicaljson.GetString(i.Signed, "mxid") != string(user) {
		return mxerror.InvalidParam.With("The third-party invite is signed for somebody else.")
	}
	name := ""
	if r, err := s.Lookup(ctx, t.ID, i.Room); err == nil {
		if name, err = s.thirdPartyName(ctx, t.ID, r, canonicaljson.GetString(i.Signed, "token")); err != nil {
			return err
		}
	} else if !errors.Is(err, mxerror.NotFound) {
		return err
	}
	e := PartialInvite{Type: "m.room.member", Room: i.Room, Sender: i.Sender, StateKey: user, Content: object(map[string]any{
		"membership": "invite", "third_party_invite": map[string]any{"display_name": name, "signed": i.Signed}})}
	if i.Sender.Server() == t.Name {
		return s.MakeInvite(ctx, t, e)
	}
	if s.Identity == nil {
		return errNoIdentity
	}
	return s.Identity.Exchange(ctx, t, i.Sender.Server(), i.Room, e)
}

// thirdPartyName is how the m.room.third_party_invite event with a token calls the invited; "" when the room's state is not here.
func (s *Service) thirdPartyName(ctx context.Context, t tenant.ID, r *Room, token string) (string, error) {
	state, err := s.CurrentState(ctx, t, r)
	if errors.Is(err, mxerror.NotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	e, err := s.StateEvent(ctx, t, state, event.Key{Type: "m.room.third_party_invite", StateKey: token})
	if err != nil || e == nil {
		return "", err
	}
	return stringField(e.Content(), "display_name"), nil
}

// MakeInvite makes the invite of a redeemed third-party invite whose sender is a local user. The room's auth rules check the identity server's
// signature against the keys that the invite named.
func (s *Service) MakeInvite(ctx context.Context, t *tenant.Tenant, e PartialInvite) error {
	if err := e.check(); err != nil {
		return err
	}
	if e.Sender.Server() != t.Name {
		return mxerror.Forbidden.With("%s is not a user of this server.", e.Sender)
	}
	r, err := s.resident(ctx, t, e.Room)
	if err != nil {
		return err
	}
	token := canonicaljson.GetString(e.Content, "third_party_invite", "signed", "token")
	name, err := s.thirdPartyName(ctx, t.ID, r, token)
	if err != nil {
		return err
	}
	if err := s.mayInvite(ctx, t, policy.Invite{Inviter: e.Sender, Invitee: e.StateKey, Room: e.Room, RoomVersion: r.Version.ID}); err != nil {
		return err
	}
	content := object(map[string]any{"membership": "invite", "third_party_invite": map[string]any{
		"display_name": name, "signed": canonicaljson.Get(e.Content, "third_party_invite", "signed")}})
	d := stateDraft("m.room.member", string(e.StateKey), content)
	d.Room, d.Sender = e.Room, e.Sender
	refuse := func(state State, _ *Draft) error { return s.notMember(ctx, t.ID, state, e.StateKey) }
	if e.StateKey.Server() == t.Name {
		_, err := s.append(ctx, t, r, d, refuse)
		return err
	}
	return s.inviteRemote(ctx, t, r, d, e.StateKey, refuse)
}

func (e PartialInvite) check() error {
	signed := canonicaljson.Get(e.Content, "third_party_invite", "signed")
	if _, err := id.ParseUser(string(e.Sender)); err != nil {
		return mxerror.InvalidParam.With("sender is not a user id.")
	}
	if _, err := id.ParseUser(string(e.StateKey)); err != nil {
		return mxerror.InvalidParam.With("state_key is not a user id.")
	}
	switch {
	case e.Type != "m.room.member" || stringField(e.Content, "membership") != "invite":
		return mxerror.InvalidParam.With("The event is not an invite.")
	case canonicaljson.GetString(signed, "token") == "" || canonicaljson.Get(signed, "signatures").Kind() != '{':
		return mxerror.InvalidParam.With("third_party_invite.signed needs mxid, token and signatures.")
	case canonicaljson.GetString(signed, "mxid") != string(e.StateKey):
		return mxerror.InvalidParam.With("The third-party invite is signed for somebody else.")
	}
	return nil
}

// signedBody is the part of a join's body that redeems a third-party invite.
type signedBody struct {
	Sender     id.User        `json:"sender"`
	MXID       id.User        `json:"mxid"`
	Token      string         `json:"token"`
	Signatures jsontext.Value `json:"signatures"`
}

// redeemFirst turns the third-party invite that a join names into an invite.
func (s *Service) redeemFirst(ctx context.Context, r *httpapi.Request, room id.Room, b *signedBody) error {
	if b == nil {
		return nil
	}
	if _, err := id.ParseUser(string(b.Sender)); err != nil || b.Token == "" || b.Signatures.Kind() != '{' {
		return mxerror.InvalidParam.With("third_party_signed needs sender, mxid, token and signatures.")
	}
	signed, err := json.Marshal(map[string]any{"mxid": b.MXID, "token": b.Token, "signatures": b.Signatures}, json.Deterministic(true))
	if err != nil {
		return err
	}
	return s.Redeem(ctx, r.Tenant, r.Session.User, SignedInvite{Room: room, Sender: b.Sender, Signed: signed})
}
