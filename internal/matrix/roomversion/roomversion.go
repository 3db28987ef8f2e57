// SPDX-License-Identifier: Apache-2.0

package roomversion

import (
	"math"
	"strconv"
)

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

	// AliasesRule: m.room.aliases may be sent by whom the server in its state key knows, member or not (until version 5).
	AliasesRule bool
	// RedactionRule: whether a redaction takes effect is an authorisation rule, by the servers in the two event ids
	// (versions 1 and 2).
	RedactionRule bool
	// StrictFields: type, state key, sender and room id of more than 255 bytes drop the event; before, up to 255
	// characters only reject it, because servers counted differently (from version 11).
	StrictFields bool
	// Knock: membership and join rule "knock" exist (from version 7).
	Knock bool
	// RestrictedJoins: join rule "restricted" and join_authorised_via_users_server exist (from version 8).
	RestrictedJoins bool
	// KnockRestricted: join rule "knock_restricted" exists (from version 10).
	KnockRestricted bool
	// IntegerPowerLevels: levels that are not JSON integers are refused; before, strings count, and without StrictJSON
	// floats too (from version 10).
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

// base is version 1; each later row says what it changes.
func base() Version {
	return Version{
		EventIDs: EventIDInEvent, StateResolution: StateResolutionV1, AliasesRule: true, RedactionRule: true,
		Redaction: Redaction{OldTopLevel: true, Aliases: true},
	}
}

// steps are the changes of the specification, from version 1 to the newest.
var steps = []func(v *Version){
	func(v *Version) {},
	func(v *Version) { v.StateResolution = StateResolutionV2 },
	func(v *Version) { v.EventIDs, v.RedactionRule = EventIDStdHash, false },
	func(v *Version) { v.EventIDs = EventIDSafeHash },
	func(v *Version) { v.KeyValidity = true },
	func(v *Version) {
		v.StrictJSON, v.NotificationLevels, v.AliasesRule = true, true, false
		v.Redaction.Aliases = false
	},
	func(v *Version) { v.Knock = true },
	func(v *Version) { v.RestrictedJoins, v.Redaction.JoinRulesAllow = true, true },
	func(v *Version) { v.Redaction.MemberAuthoriser = true },
	func(v *Version) { v.KnockRestricted, v.IntegerPowerLevels = true, true },
	func(v *Version) {
		v.CreatorIsSender, v.RedactsInContent, v.StrictFields = true, true, true
		r := &v.Redaction
		r.OldTopLevel = false
		r.CreateAll, r.MemberInviteSigned, r.PowerLevelsInvite, r.RedactionTarget = true, true, true, true
	},
	func(v *Version) {
		v.StateResolution, v.RoomIDIsHash, v.PrivilegedCreators = StateResolutionV21, true, true
	},
}

var versions = table()

func table() []Version {
	list := make([]Version, len(steps))
	v := base()
	for i, change := range steps {
		change(&v)
		v.ID, v.Stable = strconv.Itoa(i+1), true
		list[i] = v
	}
	return list
}

// MaxDepth is the greatest depth of an event; an event behind one of that depth has it too.
func (v *Version) MaxDepth() int64 {
	if v.StrictJSON {
		return 1<<53 - 1
	}
	return math.MaxInt64
}

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
	_, ok := Get(id)
	return ok
}

// String implements fmt.Stringer.
func (v *Version) String() string { return v.ID }
