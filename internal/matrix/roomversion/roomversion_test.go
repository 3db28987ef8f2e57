// SPDX-License-Identifier: Apache-2.0

package roomversion

import (
	"slices"
	"testing"
)

func TestTable(t *testing.T) {
	t.Parallel()
	if !slices.Equal(Supported(), []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}) {
		t.Error(Supported())
	}
	for _, no := range []string{"", "0", "13", "org.example", "012", "01"} {
		if v, ok := Get(no); ok {
			t.Error(v)
		}
	}
	if _, ok := Get(Default); !ok || !Recognised("1") || Recognised("13") {
		t.Error("recognised versions")
	}
	// One row of expectations per trait that changes among the supported versions.
	for _, c := range []struct {
		name  string
		trait func(*Version) bool
		from  int
	}{
		{"state resolution 2", func(v *Version) bool { return v.StateResolution != StateResolutionV1 }, 2},
		{"ids are hashes", func(v *Version) bool { return v.EventIDs != EventIDInEvent }, 3},
		{"no redaction rule", func(v *Version) bool { return !v.RedactionRule }, 3},
		{"URL-safe ids", func(v *Version) bool { return v.EventIDs == EventIDSafeHash }, 4},
		{"key validity", func(v *Version) bool { return v.KeyValidity }, 5},
		{"strict JSON", func(v *Version) bool { return v.StrictJSON && v.MaxDepth() == 1<<53-1 }, 6},
		{"no aliases rule", func(v *Version) bool { return !v.AliasesRule }, 6},
		{"aliases dropped", func(v *Version) bool { return !v.KeepsContent("m.room.aliases", "aliases") }, 6},
		{"notification levels", func(v *Version) bool { return v.NotificationLevels }, 6},
		{"knock", func(v *Version) bool { return v.Knock }, 7},
		{"restricted", func(v *Version) bool { return v.RestrictedJoins }, 8},
		{"allow kept", func(v *Version) bool { return v.KeepsContent("m.room.join_rules", "allow") }, 8},
		{"authoriser kept", func(v *Version) bool {
			return v.KeepsContent("m.room.member", "join_authorised_via_users_server")
		}, 9},
		{"strict fields", func(v *Version) bool { return v.StrictFields }, 11},
		{"knock_restricted", func(v *Version) bool { return v.KnockRestricted }, 10},
		{"integer levels", func(v *Version) bool { return v.IntegerPowerLevels }, 10},
		{"creator is sender", func(v *Version) bool { return v.CreatorIsSender }, 11},
		{"redacts in content", func(v *Version) bool { return v.RedactsInContent }, 11},
		{"create keeps all", func(v *Version) bool {
			return v.KeepsContent("m.room.create", "x") && v.KeepsAllContent("m.room.create")
		}, 11},
		{"invite level kept", func(v *Version) bool { return v.KeepsContent("m.room.power_levels", "invite") }, 11},
		{"redacts kept", func(v *Version) bool { return v.KeepsContent("m.room.redaction", "redacts") }, 11},
		{"signed kept", func(v *Version) bool { return v.KeepsContent("m.room.member", "third_party_invite") }, 11},
		{"origin dropped", func(v *Version) bool { return !v.KeepsTopLevel("origin") }, 11},
		{"state resolution 2.1", func(v *Version) bool { return v.StateResolution == StateResolutionV21 }, 12},
		{"hashed room id", func(v *Version) bool { return v.RoomIDIsHash }, 12},
		{"privileged creators", func(v *Version) bool { return v.PrivilegedCreators }, 12},
	} {
		for i, ver := range Supported() {
			v, _ := Get(ver)
			if got, want := c.trait(v), 1+i >= c.from; got != want {
				t.Errorf("%s in %s: %v", c.name, ver, got)
			}
		}
	}
	for _, ver := range Supported() {
		v, _ := Get(ver)
		if v.ID != ver || !v.Stable || v.KeepsContent("m.room.message", "body") || v.KeepsTopLevel("unsigned") || v.KeepsTopLevel("redacts") {
			t.Error(ver, "keeps too much")
		}
		for _, kept := range []string{"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"} {
			if !v.KeepsContent("m.room.power_levels", kept) {
				t.Error(ver, "does not keep", kept)
			}
		}
		if !v.KeepsContent("m.room.create", "creator") || !v.KeepsContent("m.room.history_visibility", "history_visibility") || v.KeepsContent("m.room.power_levels", "notifications") {
			t.Error(ver)
		}
	}
}
