// SPDX-License-Identifier: Apache-2.0

package roomversion

import "slices"

// StateResolution names the algorithm that merges the states of a fork.
type StateResolution uint8

// The algorithms of the specification.
const (
	StateResolutionV1  StateResolution = 1
	StateResolutionV2  StateResolution = 2
	StateResolutionV21 StateResolution = 21 // v2 from an empty start, with the conflicted state subgraph
)

// EventIDs says where event ids come from.
type EventIDs uint8

// The three forms of event ids.
const (
	EventIDInEvent  EventIDs = 1 // the sender chooses it, it stands in the event (versions 1 and 2)
	EventIDStdHash  EventIDs = 2 // "$" and the reference hash in standard base64 (version 3)
	EventIDSafeHash EventIDs = 3 // "$" and the reference hash in URL-safe base64 (from version 4)
)

// Version is one room version: its name and its traits. Values are shared and never changed.
type Version struct {
	// ID is the room_version of the create event.
	ID string
	// Stable tells whether the specification recommends the version for use.
	Stable bool
	// EventIDs is where event ids come from.
	EventIDs EventIDs
	// StateResolution is the algorithm for forks.
	StateResolution StateResolution
	// StrictJSON refuses events without strict canonical form (from version 6).
	StrictJSON bool
	// KeyValidity makes a signing key's valid_until_ts count when signatures are checked (from version 5).
	KeyValidity bool

	// Redaction is what the redaction algorithm keeps.
	Redaction Redaction
	// RedactsInContent: a redaction names its target in content, not at the top level (from version 11).
	RedactsInContent bool

	// Knock: membership and join rule "knock" exist (from version 7).
	Knock bool
	// RestrictedJoins: join rule "restricted" and join_authorised_via_users_server exist (from version 8).
	RestrictedJoins bool
	// KnockRestricted: join rule "knock_restricted" exists (from version 10).
	KnockRestricted bool
	// IntegerPowerLevels: levels that are not JSON integers are refused; before, strings count (from version 10).
	IntegerPowerLevels bool
	// NotificationLevels: changes of notifications in power levels are checked as those of events (from version 6).
	NotificationLevels bool
	// CreatorIsSender: the creator is the create event's sender, not content.creator (from version 11).
	CreatorIsSender bool

	// RoomIDIsHash: the room id is the create event's id with another sigil; the create event has no room_id and is
	// never among auth_events (from version 12).
	RoomIDIsHash bool
	// PrivilegedCreators: creators, with content.additional_creators, stand above all power levels (from version 12).
	PrivilegedCreators bool
}

// Redaction is what of an event survives its redaction, beside what always does.
type Redaction struct {
	// OldTopLevel keeps origin, membership and prev_state (until version 10).
	OldTopLevel bool
	// CreateAll keeps the whole content of create events; else only creator (from version 11).
	CreateAll bool
	// MemberAuthoriser keeps join_authorised_via_users_server (from version 9).
	MemberAuthoriser bool
	// MemberInviteSigned keeps third_party_invite.signed (from version 11).
	MemberInviteSigned bool
	// JoinRulesAllow keeps allow (from version 8).
	JoinRulesAllow bool
	// PowerLevelsInvite keeps invite (from version 11).
	PowerLevelsInvite bool
	// RedactionTarget keeps redacts of redactions (from version 11).
	RedactionTarget bool
	// Aliases keeps aliases of m.room.aliases (until version 5).
	Aliases bool
}

// Default is the version that the specification recommends for new rooms. What a server creates is its policy.
const Default = "12"

func v9() Version {
	return Version{
		ID: "9", Stable: true, EventIDs: EventIDSafeHash, StateResolution: StateResolutionV2,
		StrictJSON: true, KeyValidity: true, Knock: true, RestrictedJoins: true, NotificationLevels: true,
		Redaction: Redaction{OldTopLevel: true, MemberAuthoriser: true, JoinRulesAllow: true},
	}
}

func v10() Version {
	v := v9()
	v.ID = "10"
	v.KnockRestricted = true
	v.IntegerPowerLevels = true
	return v
}

func v11() Version {
	v := v10()
	v.ID = "11"
	v.CreatorIsSender = true
	v.RedactsInContent = true
	v.Redaction = Redaction{
		CreateAll: true, MemberAuthoriser: true, MemberInviteSigned: true, JoinRulesAllow: true,
		PowerLevelsInvite: true, RedactionTarget: true,
	}
	return v
}

func v12() Version {
	v := v11()
	v.ID = "12"
	v.StateResolution = StateResolutionV21
	v.RoomIDIsHash = true
	v.PrivilegedCreators = true
	return v
}

var versions = []Version{v9(), v10(), v11(), v12()}

// Get finds a version by its name; false when this program does not speak it.
func Get(id string) (*Version, bool) {
	for i := range versions {
		if versions[i].ID == id {
			return &versions[i], true
		}
	}
	return nil, false
}

// Supported lists the names of all versions that Get finds, oldest first.
func Supported() []string {
	ids := make([]string, len(versions))
	for i := range versions {
		ids[i] = versions[i].ID
	}
	return ids
}

// Recognised reports whether the specification knows the version: the authorisation rules let a create event name
// any of these.
func Recognised(id string) bool {
	return slices.Contains([]string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}, id)
}

// String implements fmt.Stringer.
func (v *Version) String() string { return v.ID }
