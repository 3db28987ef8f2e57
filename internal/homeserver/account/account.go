// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Options joins the service with the rest of the house. Hooks may be nil.
type Options struct {
	DB        *database.DB
	Committer *stream.Committer
	Feed      *stream.Feed
	Policy    policy.Policy
	Config    Config
	Log       *slog.Logger
	// Limiter bounds the attempts to guess one account's password, beside what the edge counts by address; nil does not.
	Limiter *limit.Limiter

	// Now is the clock; nil is the system's.
	Now func() time.Time

	// ProfileChanged carries a changed display name or avatar into the user's rooms.
	ProfileChanged func(ctx context.Context, t *tenant.Tenant, user id.User) error
	// DevicesRemoved adds to the plan that removes devices what other slices keep of them (keys, inboxes, the change of the device list).
	DevicesRemoved func(ctx context.Context, t *tenant.Tenant, user id.User, devices []id.Device, plan *stream.Plan) error
	// DeviceRenamed adds to the plan that renames a device the change of the device list, which carries the name to other servers.
	DeviceRenamed func(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device, plan *stream.Plan) error
	// DeviceForbidden says whether a device id may not be used, because it is the public part of one of the user's cross-signing keys.
	DeviceForbidden func(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device) (bool, error)
	// LeaveAll makes a deactivated user leave every room and refuse every invitation.
	LeaveAll func(ctx context.Context, t *tenant.Tenant, user id.User) error
	// Erase keeps what a deactivated user has sent from those who were not there.
	Erase func(ctx context.Context, t *tenant.Tenant, user id.User) error
	// RemoteProfile asks another server for a profile; field is empty for the whole.
	RemoteProfile func(ctx context.Context, t *tenant.Tenant, user id.User, field string) (map[string]jsontext.Value, error)
	// Acquainted returns the users of other servers whom the user may find in the user directory because they share a room.
	Acquainted func(ctx context.Context, t *tenant.Tenant, user id.User) (map[id.User]struct{}, error)
	// SharesRoom says whether two users are in a common room; a policy that hides profiles needs it.
	SharesRoom func(ctx context.Context, t tenant.ID, a, b id.User) (bool, error)
	// SignedOut ends what is not a device when the password changes or all sessions end: browsers on the account pages, codes under way.
	SignedOut func(ctx context.Context, t *tenant.Tenant, user id.User) error
	// IdentityProviders are the ways of single sign-on of a tenant, where there is more than one; nil otherwise.
	IdentityProviders func(t *tenant.Tenant) []IdentityProvider
	// Issuer names the OAuth 2.0 issuer and the account page for discovery in /.well-known/matrix/client; nil without one.
	Issuer func(r *httpapi.Request) (issuer, accountPage string)
	// AccountPage is the address of the server's account page on the host of the request, with a query; nil where there are no pages.
	AccountPage func(r *httpapi.Request, query url.Values) string
	// Keyring seals the secrets of second factors.
	Keyring *keyring.Ring
	// SendMail sends an e-mail; nil: this server sends none, and accounts have no addresses.
	SendMail func(ctx context.Context, to, subject, text string) error
	// AppService finds the application service of the tenant that owns a token.
	AppService func(ctx context.Context, t *tenant.Tenant, token string) (*AppService, bool)
	// ReservedUser says whether a user id belongs to an application service other than the one named (empty: to any) alone.
	ReservedUser func(t *tenant.Tenant, user id.User, except string) bool
	// FindUser asks application services for a user who does not exist and may be made by one now; it says whether to look again.
	FindUser func(ctx context.Context, t *tenant.Tenant, user id.User) (bool, error)
	// AppServiceByID finds the same by the registration's id.
	AppServiceByID func(ctx context.Context, t *tenant.Tenant, registration string) (*AppService, bool)
}

// Registration says who may make an account through the client API.
type Registration string

// The ways of registration. The shared secret's endpoint works beside both when a secret is configured.
const (
	RegistrationClosed Registration = "closed"
	RegistrationOpen   Registration = "open"
	// RegistrationToken wants one of [Config.RegistrationTokens].
	RegistrationToken Registration = "token"
)

// Config is the part of the configuration that account reads.
type Config struct {
	Registration Registration
	// SharedSecret opens /_synapse/admin/v1/register; empty closes it.
	SharedSecret string
	// RegistrationTokens are what people must know in mode [RegistrationToken].
	RegistrationTokens []string
	Guests             bool
	Password           PasswordConfig
	// TURN names the relays for calls.
	TURN TURNConfig
	// TokenLifetime is how long an access token of a client that supports refresh tokens lives (0: 1 h).
	TokenLifetime time.Duration
	// GrantLifetime is after how long without use the session of an OAuth 2.0 client ends (0: 180 days).
	GrantLifetime time.Duration
	// BaseURL is the address of the client API that well-known names; t is nil on a client host shared by all tenants. Empty: 404.
	BaseURL func(t *tenant.Tenant) string
	// FederationHost is the host[:port] that /.well-known/matrix/server delegates to. Empty: 404.
	FederationHost func(t *tenant.Tenant) string
	// MaxVersion is the last version of the client-server API that /versions names; empty: the newest.
	MaxVersion string
	// LiveKit are the addresses of the services that hand out tokens for calls over LiveKit.
	LiveKit []string
	// PasswordLogin turned off hides m.login.password.
	NoPasswordLogin bool
	// SecondFactor wants one beside every password (A_22936); it needs [Options.Keyring].
	SecondFactor bool
}

// Service is the account slice of a node. It is safe for concurrent use and holds nothing but caches.
type Service struct {
	o        Options
	db       *database.DB
	sessions *sessionCache
	hasher   *hasher
}

// New returns the service. It subscribes to the feed, so it is called before the first commit.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Config.TokenLifetime == 0 {
		o.Config.TokenLifetime = time.Hour
	}
	if o.Config.GrantLifetime == 0 {
		o.Config.GrantLifetime = 180 * 24 * time.Hour
	}
	s := &Service{o: o, db: o.DB, sessions: newSessionCache(), hasher: newHasher(o.Config.Password)}
	if o.Feed != nil {
		o.Feed.OnCommit(s.committed)
	}
	return s
}

func (s *Service) now() int64 { return s.o.Now().UnixMilli() }

// Account is a user of the tenant as the server knows it.
type Account struct {
	User        id.User
	LoginName   string
	Admin       bool
	Guest       bool
	Deactivated bool
	Locked      bool
	Suspended   bool
	AppService  string
	Created     int64 // ms since the epoch
	password    string
}

const selectAccount = `SELECT user_id, login_name, password, admin, guest, deactivated, locked, suspended, appservice, created FROM account `

func scanAccount(row interface{ Scan(...any) error }) (*Account, error) {
	var a Account
	err := row.Scan(&a.User, &a.LoginName, &a.password, &a.Admin, &a.Guest, &a.Deactivated, &a.Locked, &a.Suspended, &a.AppService, &a.Created)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, mxerror.NotFound.With("no such user")
	}
	if err != nil {
		return nil, err
	}
	return &a, nil
}

// Account returns a user of the tenant, or M_NOT_FOUND.
func (s *Service) Account(ctx context.Context, t tenant.ID, user id.User) (*Account, error) {
	return scanAccount(s.db.QueryRow(ctx, selectAccount+"WHERE tenant = $1 AND user_id = $2", int64(t), string(user)))
}

// Exists says whether the user has or had an account here; a deactivated one still exists, its name is never given again.
func (s *Service) Exists(ctx context.Context, t tenant.ID, user id.User) (bool, error) {
	_, err := s.Account(ctx, t, user)
	if errors.Is(err, mxerror.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// NewUser is what an account begins with.
type NewUser struct {
	// LoginName is what the person types at login; the localpart follows from it by the policy (A_22719), unless Localpart is given.
	LoginName string
	// Localpart overrides the policy, for accounts whose id is decided elsewhere (registration of organisations and insured people).
	Localpart string
	// Password may be empty: then nobody signs in by password.
	Password    string
	DisplayName string
	Admin       bool
	Guest       bool
	AppService  string
	// Email is an address that the person has proven to read; it belongs to the account from then on.
	Email string
}

// Create makes an account and returns its id. Errors: M_USER_IN_USE when the login name or the id is or was taken, M_INVALID_USERNAME.
func (s *Service) Create(ctx context.Context, t *tenant.Tenant, n NewUser) (id.User, error) {
	user, err := s.newID(ctx, t, n)
	if err != nil {
		return "", err
	}
	loginName := foldLogin(n.LoginName)
	if loginName == "" {
		loginName = user.Localpart()
	}
	hash := ""
	if n.Password != "" {
		if hash, err = s.hasher.hash(ctx, n.Password); err != nil {
			return "", err
		}
	}
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		rows, err := tx.Exec(ctx, `INSERT INTO account (tenant, user_id, login_name, password, admin, guest, deactivated, locked, suspended, appservice, created)
			VALUES ($1, $2, $3, $4, $5, $6, FALSE, FALSE, FALSE, $7, $8) ON CONFLICT DO NOTHING`,
			int64(t.ID), string(user), loginName, hash, n.Admin, n.Guest, n.AppService, s.now())
		if err != nil {
			return err
		}
		if rows == 0 {
			return mxerror.UserInUse.With("this user name is taken")
		}
		if n.DisplayName == "" {
			return nil
		}
		return setField(ctx, tx, t.ID, user, "displayname", n.DisplayName)
	})
	if err != nil {
		return "", err
	}
	return user, nil
}

// newID chooses the user id of a new account.
func (s *Service) newID(ctx context.Context, t *tenant.Tenant, n NewUser) (id.User, error) {
	localpart := n.Localpart
	if localpart == "" {
		var err error
		if localpart, err = s.o.Policy.Localpart(ctx, t, foldLogin(n.LoginName)); err != nil {
			return "", err
		}
	}
	if localpart == "" {
		localpart = randomLocalpart()
	}
	user, err := id.NewUser(localpart, t.Name)
	if err != nil {
		return "", mxerror.InvalidUsername.With("the user name %q is not allowed: %v", localpart, err)
	}
	return user, nil
}

// foldLogin brings a login name into the form in which it is stored and compared.
func foldLogin(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

// byLogin finds whom a login name means: @name:server on any host, name on a tenant's own, tried as login name and then as localpart.
func (s *Service) byLogin(ctx context.Context, t *tenant.Tenant, name string) (*Account, error) {
	if rest, ok := strings.CutPrefix(name, "@"); ok {
		local, server, found := strings.Cut(rest, ":")
		if !found || !strings.EqualFold(server, string(t.Name)) {
			return nil, mxerror.NotFound.With("no such user")
		}
		name = local
	}
	a, err := scanAccount(s.db.QueryRow(ctx, selectAccount+"WHERE tenant = $1 AND login_name = $2", int64(t.ID), foldLogin(name)))
	if !errors.Is(err, mxerror.NotFound) {
		return a, err
	}
	for _, localpart := range []string{name, foldLogin(name)} {
		a, err = s.Account(ctx, t.ID, id.User(fmt.Sprintf("@%s:%s", localpart, t.Name)))
		if !errors.Is(err, mxerror.NotFound) {
			return a, err
		}
	}
	return nil, err
}
