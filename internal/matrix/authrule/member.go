// SPDX-License-Identifier: Apache-2.0

package authrule

import (
	"crypto/ed25519"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// member is the rule about m.room.member (4 until version 11, 5 in version 12).
func (c *check) member() error {
	if c.e.StateKey() == nil || canonicaljson.Get(c.e.Content(), "membership") == nil {
		return deny("a member event needs a state key and a membership")
	}
	if c.v.RestrictedJoins {
		if via := canonicaljson.Get(c.e.Content(), authorisedVia); via != nil {
			s, _ := canonicaljson.String(via)
			if _, err := id.ParseUser(s); err != nil {
				return deny("%s is not a user id, so nobody can have signed for it", authorisedVia)
			}
		}
	}
	switch c.e.Membership() {
	case "join":
		return c.join()
	case "invite":
		return c.invite()
	case "leave":
		return c.leave()
	case "ban":
		return c.ban()
	case "knock":
		if c.v.Knock {
			return c.knock()
		}
	}
	return deny("unknown membership %s", canonicaljson.Get(c.e.Content(), "membership"))
}

func (c *check) target() id.User { return id.User(*c.e.StateKey()) }

func (c *check) join() error {
	prev := c.e.PrevEvents()
	if len(prev) == 1 && prev[0] == c.create.ID() && c.target() == c.info.creator {
		return nil
	}
	if c.e.Sender() != c.target() {
		return deny("nobody joins for somebody else")
	}
	membership := c.membership(c.target())
	if membership == "ban" {
		return deny("%s is banned", c.target())
	}
	rule := c.joinRule()
	switch {
	case rule == "public":
		return nil
	case rule == "invite", rule == "knock" && c.v.Knock:
		if membership == "invite" || membership == "join" {
			return nil
		}
	case rule == "restricted" && c.v.RestrictedJoins, rule == "knock_restricted" && c.v.KnockRestricted:
		if membership == "invite" || membership == "join" {
			return nil
		}
		return c.restrictedJoin()
	}
	return deny("join rule %q does not let %s in (membership %q)", rule, c.target(), membership)
}

func (c *check) restrictedJoin() error {
	via := id.User(canonicaljson.GetString(c.e.Content(), authorisedVia))
	if via == "" {
		return deny("nobody authorised the join")
	}
	if c.membership(via) != "join" {
		return deny("%s, who authorised the join, is not joined", via)
	}
	levels, err := c.levels()
	if err != nil {
		return err
	}
	if levels.User(via) < levels.Invite() {
		return deny("%s, who authorised the join, may not invite", via)
	}
	return nil
}

func (c *check) invite() error {
	if tpi := canonicaljson.Get(c.e.Content(), "third_party_invite"); tpi != nil {
		return c.thirdPartyInvite(tpi)
	}
	if m := c.membership(c.e.Sender()); m != "join" {
		return deny("inviter %s is not joined (%q)", c.e.Sender(), m)
	}
	if m := c.membership(c.target()); m == "join" || m == "ban" {
		return deny("%s cannot be invited (membership %q)", c.target(), m)
	}
	levels, err := c.levels()
	if err != nil {
		return err
	}
	if have := levels.User(c.e.Sender()); have < levels.Invite() {
		return deny("inviting needs level %d, sender has %d", levels.Invite(), have)
	}
	return nil
}

// maxInviteChecks bounds the signature checks that one event can cause: honest ones need one to four.
const maxInviteChecks = 64

func (c *check) thirdPartyInvite(tpi jsontext.Value) error {
	if c.membership(c.target()) == "ban" {
		return deny("%s is banned", c.target())
	}
	signed := canonicaljson.Get(tpi, "signed")
	mxid, okMxid := canonicaljson.String(canonicaljson.Get(signed, "mxid"))
	token, okToken := canonicaljson.String(canonicaljson.Get(signed, "token"))
	if !okMxid || !okToken {
		return deny("third_party_invite has no signed mxid and token")
	}
	if mxid != string(c.target()) {
		return deny("third-party invite is for %q", mxid)
	}
	inv := c.state.Get(event.Key{Type: event.TypeThirdPartyInvite, StateKey: token})
	if inv == nil {
		return deny("no third-party invite with this token")
	}
	if inv.Sender() != c.e.Sender() {
		return deny("the third-party invite is of another sender")
	}
	keys := inviteKeys(inv.Content())
	payload := signing.Payload(signed)
	checks := 0
	sigs := canonicaljson.Get(signed, "signatures")
	for name, byKey := range canonicaljson.Members(sigs) {
		for k := range canonicaljson.Members(byKey) {
			if id.KeyID(k).Algorithm() != "ed25519" {
				continue
			}
			for _, pub := range keys {
				if checks++; checks > maxInviteChecks {
					return deny("third-party invite with too many signatures")
				}
				if signing.Check(sigs, string(name), id.KeyID(k), pub, payload) == nil {
					return nil
				}
			}
		}
	}
	return deny("no signature of the third-party invite fits")
}

func inviteKeys(content jsontext.Value) []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	add := func(v jsontext.Value) {
		if s, ok := canonicaljson.String(v); ok {
			if pub, err := signing.DecodePublicKey(s); err == nil {
				keys = append(keys, pub)
			}
		}
	}
	add(canonicaljson.Get(content, "public_key"))
	for el := range canonicaljson.Elements(canonicaljson.Get(content, "public_keys")) {
		add(canonicaljson.Get(el, "public_key"))
	}
	return keys
}

func (c *check) leave() error {
	sender, target := c.membership(c.e.Sender()), c.target()
	if c.e.Sender() == target {
		if sender == "invite" || sender == "join" || sender == "knock" && c.v.Knock {
			return nil
		}
		return deny("%s is not in the room (%q)", target, sender)
	}
	if sender != "join" {
		return deny("sender %s is not joined (%q)", c.e.Sender(), sender)
	}
	levels, err := c.levels()
	if err != nil {
		return err
	}
	have := levels.User(c.e.Sender())
	if c.membership(target) == "ban" && have < levels.Ban() {
		return deny("unbanning needs level %d, sender has %d", levels.Ban(), have)
	}
	if have < levels.Kick() || levels.User(target) >= have {
		return deny("kicking %s needs level %d and more than %d, sender has %d", target, levels.Kick(), levels.User(target), have)
	}
	return nil
}

func (c *check) ban() error {
	if m := c.membership(c.e.Sender()); m != "join" {
		return deny("sender %s is not joined (%q)", c.e.Sender(), m)
	}
	levels, err := c.levels()
	if err != nil {
		return err
	}
	have := levels.User(c.e.Sender())
	if have < levels.Ban() || levels.User(c.target()) >= have {
		return deny("banning %s needs level %d and more than %d, sender has %d", c.target(), levels.Ban(), levels.User(c.target()), have)
	}
	return nil
}

func (c *check) knock() error {
	rule := c.joinRule()
	if rule != "knock" && (rule != "knock_restricted" || !c.v.KnockRestricted) {
		return deny("join rule %q knows no knocking", rule)
	}
	if c.e.Sender() != c.target() {
		return deny("nobody knocks for somebody else")
	}
	switch m := c.membership(c.e.Sender()); m {
	case "ban", "invite", "join":
		return deny("%s cannot knock (membership %q)", c.e.Sender(), m)
	}
	return nil
}
