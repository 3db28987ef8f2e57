// SPDX-License-Identifier: Apache-2.0

package permission

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Members is the federation list as this package needs it. Package fedlist implements it.
type Members interface {
	// Member says whether a server is on the list and whether it serves insured people (isInsurance). On a miss the list is refreshed once
	// (A_25537). An error means that the list is too old or cannot be had: nobody is a member then (fail closed).
	Member(ctx context.Context, server id.Server) (listed, insurance bool, err error)
}

// AccountData reads a user's global account data of a type; package account implements it.
type AccountData func(ctx context.Context, t tenant.ID, user id.User, typ string) (content jsontext.Value, found bool, err error)

// Options are what the rules stand on.
type Options struct {
	Members     Members
	AccountData AccountData
	Log         *slog.Logger
	// BlockByDefault is the operator's default for users without a configuration of their own: block all instead of allow all.
	BlockByDefault bool
	// Blocks says what an organisation has decided for those of its people; nil, or set as false, leaves it to BlockByDefault.
	Blocks func(ctx context.Context, t tenant.ID) (blocks, set bool, err error)
	// ByClients leaves the permission configuration to the invitees' clients, as Basis 1.0 and 1.1 had it (A_25046), instead of enforcing it here
	// (A_26021-01).
	ByClients bool
	// Contacts says whether a user of an older client has allowed somebody's invites (I_TiMessengerContactManagement); nil without that module.
	Contacts func(ctx context.Context, t tenant.ID, user, inviter id.User) (bool, error)
}

// Rules implement policy.Policy for TI mode.
type Rules struct {
	o Options
	// routes are the rows of the routes that have been asked about.
	mu     sync.RWMutex
	routes map[[2]string]*Feature
}

var _ policy.Policy = (*Rules)(nil)

// New returns the rules of a cell.
func New(o Options) *Rules { return &Rules{o: o, routes: map[[2]string]*Feature{}} }

// Federate is stage 1: both domains are on the federation list (AF_10064-02, A_25534). A tenant that has been struck from the list talks with
// nobody, neighbours included (engine rule 24).
func (r *Rules) Federate(ctx context.Context, t *tenant.Tenant, peer id.Server) error {
	if peer == t.Name {
		return nil
	}
	for _, server := range []id.Server{peer, t.Name} {
		if _, err := r.listed(ctx, server); err != nil {
			return err
		}
	}
	return nil
}

// listed refuses a server that is not on the list and says whether it serves insured people.
func (r *Rules) listed(ctx context.Context, server id.Server) (insurance bool, err error) {
	listed, insurance, err := r.o.Members.Member(ctx, server)
	if err != nil {
		r.o.Log.Error("federation list", "error", err)
		return false, ruleFresh.refuse()
	}
	if !listed {
		return false, ruleListed.refuse(server, server)
	}
	return insurance, nil
}

// Invite is stage 1 for inviter and invitee, the rule that insured people never contact each other (AF_10233), and, for a local invitee, its own
// permission configuration (A_26021-01), unless that is for the clients (A_25046).
func (r *Rules) Invite(ctx context.Context, t *tenant.Tenant, i policy.Invite) error {
	inviter, invitee := i.Inviter.Server(), i.Invitee.Server()
	inviterInsured, inviteeInsured := t.Insurance, t.Insurance
	if inviter != invitee {
		var err error
		if inviterInsured, err = r.listed(ctx, inviter); err != nil {
			return err
		}
		if inviteeInsured, err = r.listed(ctx, invitee); err != nil {
			return err
		}
	}
	if inviterInsured && inviteeInsured {
		return ruleInsured.refuse()
	}
	if invitee != t.Name || r.o.ByClients {
		return nil
	}
	return r.configured(ctx, t, i, inviterInsured)
}

// configured asks the invitee's permission configuration. What it blocks by default, the contacts of an older client may allow; whom it names as an
// exception of "allow all" is blocked whatever they say.
func (r *Rules) configured(ctx context.Context, t *tenant.Tenant, i policy.Invite, inviterInsured bool) error {
	raw, found, err := r.o.AccountData(ctx, t.ID, i.Invitee, ConfigType(t))
	if err != nil {
		return err
	}
	config, err := r.ofOrganisation(ctx, t.ID)
	if err != nil {
		return err
	}
	if found {
		if own, err := ParseConfig(raw, t.Insurance); err == nil {
			config = own
		} else {
			r.o.Log.Warn("a permission configuration is malformed; the default holds", "tenant", int64(t.ID), "error", err)
		}
	}
	if config.Allows(i.Inviter, inviterInsured) {
		return nil
	}
	if r.o.Contacts != nil && config.DefaultSetting == BlockAll {
		allowed, err := r.o.Contacts(ctx, t.ID, i.Invitee, i.Inviter)
		if allowed || err != nil {
			return err
		}
	}
	return ruleConfigured.refuse()
}

// AccountDefaults is the organisation's default as the permission configuration of users who have none.
func (r *Rules) AccountDefaults(ctx context.Context, t *tenant.Tenant) (map[string]jsontext.Value, error) {
	config, err := r.ofOrganisation(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	content, err := json.Marshal(config)
	return map[string]jsontext.Value{ConfigType(t): content}, err
}

// Default is the operator's default configuration.
func (r *Rules) Default() Config {
	if r.o.BlockByDefault {
		return Config{DefaultSetting: BlockAll}
	}
	return Config{DefaultSetting: AllowAll}
}

// ofOrganisation is the default of an organisation: its own decision, else the operator's.
func (r *Rules) ofOrganisation(ctx context.Context, t tenant.ID) (Config, error) {
	if r.o.Blocks == nil {
		return r.Default(), nil
	}
	blocks, set, err := r.o.Blocks(ctx, t)
	switch {
	case err != nil:
		return Config{}, err
	case !set:
		return r.Default(), nil
	case blocks:
		return Config{DefaultSetting: BlockAll}, nil
	}
	return Config{DefaultSetting: AllowAll}, nil
}

// DefaultRoomVersion is 10 (A_26248).
func (r *Rules) DefaultRoomVersion() string { return "10" }

// versions that may be created or upgraded to (A_26202, A_26203); 11 and later may be joined.
var versions = []string{"9", "10"}

// roomTypeV2 may not be created yet (A_28596).
const roomTypeV2 = `"de.gematik.tim.roomtype.default.v2"`

// CreateRoom holds new rooms to the rules and rewrites what the requirements set silently.
func (r *Rules) CreateRoom(_ context.Context, t *tenant.Tenant, _ id.User, req *policy.CreateRoom) error {
	if len(req.Invitees()) > 1 {
		return ruleOneInvitee.refuse()
	}
	if req.RoomVersion != "" && !slices.Contains(versions, req.RoomVersion) {
		return ruleRoomVersion.refuse()
	}
	if string(req.CreationContent["type"]) == roomTypeV2 {
		return ruleRoomType.refuse()
	}
	public := req.Visibility == "public" || req.Preset == "public_chat"
	for _, e := range req.InitialState {
		if e.Type == "m.room.join_rules" && field(e.Content, "join_rule") == "public" {
			public = true
		}
	}
	if public {
		if t.Insurance {
			return ruleNoPublic.refuse()
		}
		if req.CreationContent == nil {
			req.CreationContent = map[string]jsontext.Value{}
		}
		req.CreationContent["m.federate"] = jsontext.Value("false")
	}
	return initialState(t, req, string(req.CreationContent["m.federate"]) != "false")
}

// initialState checks the first state events and sets history_visibility to invited where the client did not say (A_25481).
func initialState(t *tenant.Tenant, req *policy.CreateRoom, federated bool) error {
	given := false
	for _, e := range req.InitialState {
		given = given || e.Type == "m.room.history_visibility"
		public := e.Type == "m.room.join_rules" && !federated
		if err := roomState(t, e.Type, e.Content, federated && !public); err != nil {
			return err
		}
	}
	if !given && req.Preset != "public_chat" && req.Visibility != "public" {
		req.InitialState = append(req.InitialState, policy.StateEvent{Type: "m.room.history_visibility", Content: jsontext.Value(`{"history_visibility":"invited"}`)})
	}
	return nil
}

// roomState checks what a room's access may become.
func roomState(t *tenant.Tenant, typ string, content jsontext.Value, federated bool) error {
	switch typ {
	case "m.room.join_rules":
		rule := field(content, "join_rule")
		if t.Insurance && rule != "invite" && rule != "private" {
			return ruleInviteOnly.refuse()
		}
		if rule == "public" && federated {
			return ruleLaterPublic.refuse()
		}
	case "m.room.history_visibility":
		if field(content, "history_visibility") != "world_readable" {
			return nil
		}
		if t.Insurance {
			return ruleWorldEPA.refuse()
		}
		if federated {
			return ruleWorld.refuse()
		}
	}
	return nil
}

// maxRedactionAge is how old an event may be that is redacted (A_28358): 24 h in ms.
const maxRedactionAge = 24 * 60 * 60 * 1000

// Event checks what a local user wants to send.
func (r *Rules) Event(_ context.Context, t *tenant.Tenant, e policy.Event) error {
	if relType(e.Content) == "m.thread" {
		return ruleThreads.refuse()
	}
	if e.Type == "m.reaction" && !oneEmoji(reactionKey(e.Content)) {
		return ruleEmoji.refuse()
	}
	if e.Redacts != "" && e.RedactsAge > maxRedactionAge {
		return ruleRedaction.refuse()
	}
	if e.StateKey == nil {
		return nil
	}
	return roomState(t, e.Type, e.Content, e.Federated)
}

// Route closes what the network does not have, by the table of features.
func (r *Rules) Route(_ context.Context, t *tenant.Tenant, method, pattern string, s *httpapi.Session) error {
	return r.feature(method, pattern).verdict(t, s)
}

// Path is [Rules.Route] for the path of a request instead of a route's pattern, and says which row it is of. It remembers nothing: a proxy is asked for
// paths, of which there is no end.
func (r *Rules) Path(t *tenant.Tenant, method, path string, s *httpapi.Session) (*Feature, error) {
	f := FeatureOf(method, path)
	return f, f.verdict(t, s)
}

// verdict refuses what a row refuses, and what no row names.
func (f *Feature) verdict(t *tenant.Tenant, s *httpapi.Session) error {
	if f == nil {
		return Unlisted()
	}
	if f.refused == nil {
		return nil
	}
	if rule := f.refused(t, s); rule != nil {
		return rule.refuse()
	}
	return nil
}

// Unlisted refuses what the table of routes does not name.
func Unlisted() error { return ruleUnknown.refuse() }

// Register refuses registration by clients, which a homeserver of ours has closed by its configuration and a proxy closes for somebody else's.
func (r *Rules) Register() error { return ruleSecret.refuse() }

// InviteByAddress refuses invitations by e-mail address or telephone number, which need an identity server; likewise for a proxy.
func (r *Rules) InviteByAddress() error { return ruleIdentity.refuse() }

// Profile shows insured people to those who share a room with them (A_26290-01).
func (r *Rules) Profile(ctx context.Context, t *tenant.Tenant, viewer, user id.User, share func(context.Context) (bool, error)) error {
	if viewer == user {
		return nil
	}
	insured := t.Insurance
	if user.Server() != t.Name {
		var err error
		if insured, err = r.listed(ctx, user.Server()); err != nil {
			return err
		}
	}
	if !insured {
		return nil
	}
	known, err := share(ctx)
	if err == nil && !known {
		err = ruleAcquainted.refuse()
	}
	return err
}

// UserDirectory says that the people of a tenant find each other by a search, unless they are insured (A_26375).
func (r *Rules) UserDirectory(t *tenant.Tenant) bool { return !t.Insurance }

// maxStatus is how many characters a status message may have.
const maxStatus = 250

// Presence bounds status messages.
func (r *Rules) Presence(_ *tenant.Tenant, status string) error {
	if utf8.RuneCountInString(status) > maxStatus {
		return ruleStatus.refuse()
	}
	return nil
}

// RoomVersions are those that may be created (A_26202, A_26203).
func (r *Rules) RoomVersions() []string { return versions }

// Localpart gives new users localparts without personal data (A_22719): random ones, and for insured people the hash of their KVNR, which others
// can compute who know it.
func (r *Rules) Localpart(_ context.Context, t *tenant.Tenant, wished string) (string, error) {
	if !t.Insurance {
		return randomLocalpart(), nil
	}
	wished = strings.ToUpper(wished) // login names are kept in small letters
	if !kvnr.MatchString(wished) {
		return "", ruleKVNR.refuse()
	}
	return InsuredLocalpart(wished), nil
}
