// SPDX-License-Identifier: Apache-2.0

package roomversion

import (
	"slices"
	"testing"
)

func TestTable(t *testing.T) {
	t.Parallel()
	if !slices.Equal(Supported(), []string{"9", "10", "11", "12"}) {
		t.Error(Supported())
	}
	for _, no := range []string{"", "8", "13", "org.example", "012"} {
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
			if got, want := c.trait(v), 9+i >= c.from; got != want {
				t.Errorf("%s in %s: %v", c.name, ver, got)
			}
		}
	}
	for _, ver := range Supported() {
		v, _ := Get(ver)
		if !v.StrictJSON || !v.KeyValidity || !v.Knock || !v.RestrictedJoins || !v.NotificationLevels || v.EventIDs != EventIDSafeHash {
			t.Error(ver)
		}
		if v.KeepsContent("m.room.aliases", "aliases") || v.KeepsContent("m.room.message", "body") || v.KeepsTopLevel("unsigned") {
			t.Error(ver, "keeps too much")
		}
		if !v.KeepsContent("m.room.member", "join_authorised_via_users_server") || !v.KeepsContent("m.room.join_rules", "allow") {
			t.Error(ver, "keeps too little")
		}
	}
}
