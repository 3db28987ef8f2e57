// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

// olderContacts switches contact management on.
func olderContacts(c *config.Config) { c.Telematik.ContactManagement = true }

// dataPath is where a user's account data of a type lie.
func dataPath(c caller, typ string) string {
	return "/_matrix/client/v3/user/" + url.PathEscape(string(c.user)) + "/account_data/" + typ
}

// inviting makes a room and says how an invitation into it is answered.
func (c caller) inviting(status int, code string, invitee caller) {
	c.Helper()
	room, _ := c.want(200, "", "POST", "/_matrix/client/v3/createRoom", `{}`)["room_id"].(string)
	c.want(status, code, "POST", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/invite", fmt.Sprintf(`{"user_id":%q}`, invitee.user))
}

// older is the same person at a client of the line 1.x, which holds a Matrix OpenID token.
func (c caller) older() caller {
	c.Helper()
	token := c.want(200, "", "POST", "/_matrix/client/v3/user/"+url.PathEscape(string(c.user))+"/openid/request_token", `{}`)
	return caller{c.T, c.s, c.user, token["access_token"].(string)}
}

// TestContactsOpen: who blocks everybody is invited by the contacts listed in an older client, while they last; insured people never by each other.
//
// Requirements: A_26021-01, AF_10233.
func TestContactsOpen(t *testing.T) {
	t.Parallel()
	const contacts = "/tim-contact-mgmt/v1.0.2/contacts"
	s := ti(t, olderContacts)
	anna, ben := signIn(t, s, "@anna:praxis.test", false), signIn(t, s, "@ben:praxis.test", false)
	entry := func(who caller, start, end time.Time) string {
		return fmt.Sprintf(`{"displayName":"x","mxid":%q,"inviteSettings":{"start":%d,"end":%d}}`, who.user, start.Unix(), end.Unix())
	}
	hour := time.Hour
	now := time.Now()
	anna.want(200, "", "PUT", dataPath(anna, permission.ConfigTypePro), `{"defaultSetting":"block all"}`)
	ben.inviting(403, "M_FORBIDDEN", anna)
	older := anna.older()
	older.want(200, "", "POST", contacts, entry(ben, now.Add(-2*hour), now.Add(-hour)))
	ben.inviting(403, "M_FORBIDDEN", anna)
	older.want(200, "", "PUT", contacts, entry(ben, now.Add(-hour), now.Add(hour)))
	ben.inviting(200, "", anna)
	anna.want(200, "", "PUT", dataPath(anna, permission.ConfigTypePro), `{"defaultSetting":"allow all","userExceptions":{"@ben:praxis.test":{}}}`)
	ben.inviting(403, "M_FORBIDDEN", anna)

	max, nora := signIn(t, s, "@max:kasse.test", false), signIn(t, s, "@nora:kasse.test", false)
	max.older().want(200, "", "POST", contacts, entry(nora, now.Add(-hour), now.Add(hour)))
	nora.inviting(403, "M_FORBIDDEN", max)

	ti(t).asked(t, 404, contacts)
	at := tenantNamed(t, s, "praxis.test")
	if err := s.node.accounts.Deactivate(t.Context(), at, anna.user); err != nil {
		t.Fatal(err)
	}
	if left, err := s.node.contacts.Of(t.Context(), at.ID, anna.user); err != nil || len(left) != 0 {
		t.Errorf("the list of somebody who left: %v, %v", left, err)
	}
}

// asked asks as nobody.
func (s *Server) asked(t *testing.T, status int, path string) {
	t.Helper()
	if got, answer := (caller{t, s, "@nobody:praxis.test", ""}).ask("GET", path, ""); got != status {
		t.Errorf("GET %s: %d %v, want %d", path, got, answer, status)
	}
}

// TestClientsDecide: where clients enforce permission configurations, the server lets an invitation through that the configuration blocks.
//
// Requirements: A_25046.
func TestClientsDecide(t *testing.T) {
	t.Parallel()
	s := ti(t, func(c *config.Config) { c.Telematik.PermissionCheck = config.PermissionClient })
	anna, ben := signIn(t, s, "@anna:praxis.test", false), signIn(t, s, "@ben:praxis.test", false)
	max, nora := signIn(t, s, "@max:kasse.test", false), signIn(t, s, "@nora:kasse.test", false)
	anna.want(200, "", "PUT", dataPath(anna, permission.ConfigTypePro), `{"defaultSetting":"block all"}`)
	ben.inviting(200, "", anna)
	nora.inviting(403, "M_FORBIDDEN", max)
}

// TestDefaultConfiguration: who has set no permission configuration reads the organisation's default, asked for and in the first sync, and the own one after
// it was set.
//
// Requirements: A_25043.
func TestDefaultConfiguration(t *testing.T) {
	t.Parallel()
	s := ti(t)
	anna, max := signIn(t, s, "@anna:praxis.test", false), signIn(t, s, "@max:kasse.test", false)
	reads := func(c caller, typ, want string) {
		t.Helper()
		got := c.want(200, "", "GET", dataPath(c, typ), "")
		if got["defaultSetting"] != want || len(got) != 1 {
			t.Errorf("%s reads %v, want %s", c.user, got, want)
		}
		for path, told := range map[string]any{"/_matrix/client/v3/sync": map[string]any{}, "/_matrix/client/v3/initialSync": nil} {
			answer := c.want(200, "", "GET", path, "")
			events, _ := answer["account_data"].([]any)
			if told != nil {
				events, _ = answer["account_data"].(map[string]any)["events"].([]any)
			}
			found := 0
			for _, e := range events {
				if e := e.(map[string]any); e["type"] == typ {
					found++
					if e["content"].(map[string]any)["defaultSetting"] != want {
						t.Errorf("%s: %s is told %v, want %s", path, c.user, e, want)
					}
				}
			}
			if found != 1 {
				t.Errorf("%s: %s is told %d configurations", path, c.user, found)
			}
		}
	}
	slid := anna.want(200, "", "POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", `{"conn_id":"x","extensions":{"account_data":{"enabled":true}}}`)
	extensions, _ := slid["extensions"].(map[string]any)
	data, _ := extensions["account_data"].(map[string]any)
	global, _ := data["global"].([]any)
	if !slices.ContainsFunc(global, func(e any) bool { return e.(map[string]any)["type"] == permission.ConfigTypePro }) {
		t.Errorf("sliding sync tells %v", slid)
	}
	reads(anna, permission.ConfigTypePro, permission.AllowAll)
	reads(max, permission.ConfigTypeEPA, permission.AllowAll)
	max.want(404, "M_NOT_FOUND", "GET", dataPath(max, permission.ConfigTypePro), "")
	anna.want(404, "M_NOT_FOUND", "GET", dataPath(anna, "org.example"), "")
	if _, err := s.node.db.Exec(t.Context(), "INSERT INTO organisation_setting (tenant, name, value) VALUES ($1, 'invites', $2)", int64(tenantNamed(t, s, "praxis.test").ID), permission.BlockAll); err != nil {
		t.Fatal(err)
	}
	reads(anna, permission.ConfigTypePro, permission.BlockAll)
	reads(max, permission.ConfigTypeEPA, permission.AllowAll)
	anna.want(200, "", "PUT", dataPath(anna, permission.ConfigTypePro), `{"defaultSetting":"allow all"}`)
	reads(anna, permission.ConfigTypePro, permission.AllowAll)
}

func tenantNamed(t *testing.T, s *Server, name id.Server) *tenant.Tenant {
	t.Helper()
	at, err := s.node.tenants.ByName(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return at
}
