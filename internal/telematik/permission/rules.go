// SPDX-License-Identifier: Apache-2.0

package permission

import (
	"fmt"
	"strings"

	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// What a rule does.
const (
	Refuse  = "refuse"
	Rewrite = "rewrite"
)

// Rule is one row of the table of rules, from which the refusals, the tests' completeness and docs/permission-rules.md are made. What decides whether
// it applies stands in the function of [Rules] that names it.
type Rule struct {
	// Name is how code and tests call it.
	Name string
	// Requirement is gematik's number, or a dash for what follows from the network's rules without one.
	Requirement string
	// On is the route or class of events that it is asked about.
	On string
	// For is whom it binds: Pro, ePA or both.
	For string
	// Verdict is Refuse or Rewrite.
	Verdict string
	// Status and Code answer a refusal.
	Status int
	Code   string
	// Text is what people read of a refusal, in German and English where people cause it by themselves; what a rewriting rule does.
	Text string
}

// refuse makes the refusal.
func (r *Rule) refuse(a ...any) error { return mxerror.New(r.Status, r.Code, "").With(r.Text, a...) }

const (
	both = "Pro, ePA"
	ePA  = "ePA"
	pro  = "Pro"

	onFederation = "every request to or from another server"
	onInvite     = "POST /createRoom (invite), POST /rooms/{roomId}/invite, PUT /_matrix/federation/v2/invite"
	onCreate     = "POST /createRoom, POST /rooms/{roomId}/upgrade"
	onJoinRules  = "m.room.join_rules, at creation and later"
	onVisibility = "m.room.history_visibility, at creation and later"
)

// The rules. Their order is that of the document.
var (
	ruleListed = &Rule{"listed", "AF_10064-02, A_25534, A_25537", onFederation, both, Refuse, 403, "M_FORBIDDEN",
		"%s kann nicht in der Föderation gefunden werden. / %s is not a member of the federation."}
	ruleFresh = &Rule{"fresh list", "UC_Update_Federationlist", onFederation, both, Refuse, 403, "M_FORBIDDEN",
		"Die Föderationsliste ist nicht aktuell; Nachrichten zu anderen Institutionen sind gesperrt. / The federation list is out of date; communication with other institutions is blocked."}
	ruleInsured = &Rule{"insured to insured", "AF_10233", onInvite, ePA, Refuse, 403, "M_FORBIDDEN",
		"Versicherte können einander nicht einladen. / Insured people cannot invite each other."}
	ruleConfigured = &Rule{"permission configuration", "A_25043, A_25046, A_25044, A_25258, A_26021-01", onInvite, both, Refuse, 403, "M_FORBIDDEN",
		"Die eingeladene Person möchte keine Einladung von Ihnen. / The invite was blocked by the invitee's permission configuration."}
	ruleOneInvitee = &Rule{"one invitee", "A_25368-01", onCreate, both, Refuse, 403, "M_FORBIDDEN",
		"Beim Anlegen eines Raums kann höchstens eine Person eingeladen werden. / At most one person can be invited when a room is created."}
	ruleRoomVersion = &Rule{"room version", "A_26202, A_26203", onCreate, both, Refuse, 400, "M_UNSUPPORTED_ROOM_VERSION", "New rooms have version 9 or 10."}
	ruleRoomType    = &Rule{"room type v2", "A_28596", onCreate, both, Refuse, 400, "M_FORBIDDEN", "Rooms of this type cannot be created yet."}
	ruleNoPublic    = &Rule{"no public rooms", "A_26015-02", onCreate, ePA, Refuse, 403, "M_FORBIDDEN",
		"Für Versicherte gibt es keine öffentlichen Räume. / There are no public rooms for insured people."}
	ruleUnfederated = &Rule{"public rooms stay local", "A_26515-01", onCreate, pro, Rewrite, 0, "", "A public room gets m.federate=false."}
	ruleInvited     = &Rule{"history for the invited", "A_25481", onCreate, both, Rewrite, 0, "", "A room that is not public gets history_visibility=invited where the client did not say."}
	ruleInviteOnly  = &Rule{"invite only", "A_26015-02", onJoinRules, ePA, Refuse, 403, "M_FORBIDDEN",
		"Räume von Versicherten stehen nur Eingeladenen offen. / Rooms of insured people are open to invited people only."}
	ruleLaterPublic = &Rule{"no later opening", "A_28271", onJoinRules, pro, Refuse, 400, "M_INVALID_ROOM_STATE", "A room that other servers can join cannot become public."}
	ruleWorldEPA    = &Rule{"not world readable, insured", "A_25481", onVisibility, ePA, Refuse, 403, "M_FORBIDDEN", "Rooms of insured people cannot be world readable."}
	ruleWorld       = &Rule{"not world readable", "A_25481", onVisibility, pro, Refuse, 400, "M_INVALID_ROOM_STATE", "A room that other servers can join cannot be world readable."}
	ruleThreads     = &Rule{"no threads", "A_25395-02", "events with rel_type m.thread", both, Refuse, 400, "M_FORBIDDEN", "Threads are not part of the TI-Messenger."}
	ruleEmoji       = &Rule{"one emoji", "A_26228-01", "m.reaction", both, Refuse, 400, "M_BAD_JSON", "A reaction is exactly one emoji."}
	ruleRedaction   = &Rule{"redaction within a day", "A_28358", "m.room.redaction", both, Refuse, 403, "M_FORBIDDEN",
		"Nachrichten können nur innerhalb von 24 Stunden gelöscht werden. / Messages can be deleted within 24 hours only."}
	rulePreview  = &Rule{"no link previews", "A_26344", "GET …/preview_url", both, Refuse, 404, "M_UNRECOGNIZED", "Unrecognized request"}
	ruleThird    = &Rule{"no third networks", "-", "…/thirdparty/…", both, Refuse, 404, "M_UNRECOGNIZED", "Unrecognized request"}
	ruleNoList   = &Rule{"no list of public rooms", "A_28587", "GET, POST …/publicRooms", ePA, Refuse, 403, "M_FORBIDDEN", "There are no public rooms for insured people."}
	ruleIdentity = &Rule{"no third-party identifiers", "A_22719", "adding e-mail addresses and telephone numbers, identity servers, proofs by mail", both, Refuse, 403, "M_FORBIDDEN",
		"E-Mail-Adressen und Telefonnummern gehören zu keinem Konto. / Accounts have no e-mail addresses or telephone numbers."}
	ruleSecret = &Rule{"no registration by a secret", "-", "…/_synapse/admin/v1/register, tokens of registration", both, Refuse, 403, "M_FORBIDDEN",
		"Konten legt die Organisation an. / Accounts are made by the organisation."}
	ruleForOthers = &Rule{"nobody signs in for others", "AF_10057", "POST /_synapse/admin/v1/users/{userId}/login", both, Refuse, 403, "M_FORBIDDEN",
		"Niemand meldet sich für eine andere Person an. / Nobody signs in for somebody else."}
	ruleSession    = &Rule{"profiles need a session", "A_26289", "GET …/profile/…", both, Refuse, 401, "M_MISSING_TOKEN", "Missing access token"}
	ruleAcquainted = &Rule{"profiles of insured people", "A_26290-01", "GET …/profile/…", both, Refuse, 403, "M_FORBIDDEN",
		"Das Profil ist nur sichtbar, wenn Sie einen gemeinsamen Raum haben. / The profile is visible to those who share a room only."}
	ruleDirectory = &Rule{"insured people are not found", "A_26375", "POST …/user_directory/search", ePA, Rewrite, 0, "", "The answer is empty."}
	ruleStatus    = &Rule{"short status", "-", "PUT …/presence/{userId}/status", both, Refuse, 403, "M_TOO_LARGE", "A status message has at most 250 characters."}
	ruleUnknown   = &Rule{"nothing unlisted", "-", "a route that the table below does not name", both, Refuse, 404, "M_UNRECOGNIZED", "Unrecognized request"}
	ruleKVNR      = &Rule{"insured by KVNR", "A_22719", "new accounts", ePA, Refuse, 400, "M_INVALID_USERNAME", "Insured people are registered by their KVNR: a letter and nine digits."}
	ruleRandom    = &Rule{"no personal data in user ids", "A_22719", "new accounts", both, Rewrite, 0, "",
		"The localpart is random; an insured person's is the hash of the KVNR (Base32 of SHA-256)."}
)

// Table lists all rules.
func Table() []Rule {
	var all []Rule
	for _, r := range []*Rule{ruleListed, ruleFresh, ruleInsured, ruleConfigured, ruleOneInvitee, ruleRoomVersion, ruleRoomType, ruleNoPublic, ruleUnfederated, ruleInvited, ruleInviteOnly,
		ruleLaterPublic, ruleWorldEPA, ruleWorld, ruleThreads, ruleEmoji, ruleRedaction, rulePreview, ruleThird, ruleNoList, ruleIdentity, ruleSecret, ruleForOthers,
		ruleSession, ruleAcquainted, ruleDirectory, ruleStatus, ruleUnknown, ruleKVNR, ruleRandom} {
		all = append(all, *r)
	}
	return all
}

// Markdown writes docs/permission-rules.md.
func Markdown() []byte {
	var b strings.Builder
	b.WriteString(`# Permission rules

<!-- Written from internal/telematik/permission/rules.go by "make docs". Do not edit. -->

What the server enforces under ` + "`policy: ti`" + ` beyond Matrix itself. Each rule has at least one allowed and one refused case in
` + "`internal/telematik/permission/rules_test.go`" + `; a test fails when one is missing.

| rule | requirement | asked at | for | verdict | what it says |
|---|---|---|---|---|---|
`)
	for _, r := range Table() {
		verdict := r.Verdict
		if r.Verdict == Refuse {
			verdict = fmt.Sprintf("%d `%s`", r.Status, r.Code)
		}
		text := strings.ReplaceAll(r.Text, "%s", "…")
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.Name, r.Requirement, r.On, r.For, verdict, text)
	}
	b.WriteString(`
## What is served

Every route of the server belongs to the first row that names it, which a test checks with a running server. ` + "`*`" + ` is one segment of a path,
` + "`/...`" + ` whatever follows, ` + "`~`" + ` stands for any version of the client-server API. Refused rows and limits name their rule above.

| feature | verdict | routes | |
|---|---|---|---|
`)
	for _, f := range features {
		fmt.Fprintf(&b, "| %s | %s | `%s` | %s |\n", f.Name, f.Verdict, strings.Join(f.Routes, "`, `"), f.Why)
	}
	return []byte(b.String())
}
