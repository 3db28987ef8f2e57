// SPDX-License-Identifier: Apache-2.0

package roomversion

// KeepsTopLevel reports whether a member of the event itself survives redaction. content does, stripped by
// KeepsContent.
func (v *Version) KeepsTopLevel(name string) bool {
	switch name {
	case "event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures", "depth",
		"prev_events", "auth_events", "origin_server_ts":
		return true
	case "origin", "membership", "prev_state":
		return v.Redaction.OldTopLevel
	}
	return false
}

// KeepsAllContent reports whether events of the type keep their whole content.
func (v *Version) KeepsAllContent(eventType string) bool {
	return eventType == "m.room.create" && v.Redaction.CreateAll
}

// KeepsContent reports whether a member of the content survives redaction. KeepsContentPart tells what of a kept
// object remains.
func (v *Version) KeepsContent(eventType, name string) bool {
	r := &v.Redaction
	switch eventType {
	case "m.room.member":
		switch name {
		case "membership":
			return true
		case "join_authorised_via_users_server":
			return r.MemberAuthoriser
		case "third_party_invite":
			return r.MemberInviteSigned
		}
	case "m.room.create":
		return r.CreateAll || name == "creator"
	case "m.room.join_rules":
		return name == "join_rule" || name == "allow" && r.JoinRulesAllow
	case "m.room.power_levels":
		switch name {
		case "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default":
			return true
		case "invite":
			return r.PowerLevelsInvite
		}
	case "m.room.history_visibility":
		return name == "history_visibility"
	case "m.room.redaction":
		return name == "redacts" && r.RedactionTarget
	case "m.room.aliases":
		return name == "aliases" && r.Aliases
	}
	return false
}

// KeepsContentPart names the only member that is kept of a content member which is itself stripped; "" when the
// content member is kept as it is.
func (v *Version) KeepsContentPart(eventType, name string) string {
	if eventType == "m.room.member" && name == "third_party_invite" {
		return "signed"
	}
	return ""
}
