// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/konsil-health/konsil/internal/admin"
	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/observe"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/appservice"
	"github.com/konsil-health/konsil/internal/homeserver/clientsync"
	"github.com/konsil-health/konsil/internal/homeserver/delayed"
	"github.com/konsil-health/konsil/internal/homeserver/encryption"
	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/homeserver/media"
	"github.com/konsil-health/konsil/internal/homeserver/oauth"
	"github.com/konsil-health/konsil/internal/homeserver/push"
	"github.com/konsil-health/konsil/internal/homeserver/retention"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/space"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/contact"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
	"github.com/konsil-health/konsil/internal/telematik/proxy"
	"github.com/konsil-health/konsil/internal/telematik/sweep"
)

// maxBridgePause is the longest pause before an application service is tried again: it is the operator's own and soon back.
const maxBridgePause = 5 * time.Minute

// node is everything behind the listeners.
type node struct {
	db         *database.DB
	metrics    *observe.Metrics
	router     *httpapi.Router
	tenants    *tenant.Store
	feed       *stream.Feed
	committer  *stream.Committer
	federation *federation.Service
	accounts   *account.Service
	rooms      *room.Service
	members    *fedlist.Consumer // nil in plain Matrix mode
	contacts   *contact.Lists    // nil without contact management for older clients
	registry   http.Handler      // nil without role registration
	central    *central          // nil without a central service
	proxy      http.Handler      // nil without role proxy
	outbound   *proxy.Outbound   // nil without it, or without proxy.outbound
	starts     []func()
	// incidents counts what goes wrong with certificates; it is made when it is needed.
	incidents     *prometheus.CounterVec
	incidentsOnce sync.Once
	stopping      func()         // when the stop begins: answers what waits
	closes        []func() error // run in reverse
}

func (n *node) start() {
	for _, f := range n.starts {
		f()
	}
}

func (n *node) close() error {
	var errs []error
	for i := len(n.closes) - 1; i >= 0; i-- {
		errs = append(errs, n.closes[i]())
	}
	return errors.Join(errs...)
}

// ends registers what must end; the last one registered ends first.
func (n *node) ends(f func() error) { n.closes = append(n.closes, f) }

// ping says whether the database answers.
func (n *node) ping(ctx context.Context) error {
	var one int
	return n.db.QueryRow(ctx, "SELECT 1").Scan(&one)
}

// wire joins all packages in the order in which data flows: what is made first stands on nothing that is made later.
func wire(ctx context.Context, c *config.Config, master []byte, log *slog.Logger) (_ *node, err error) {
	n := &node{metrics: observe.NewMetrics()}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()

	// The ground: the database, the tenants in it, their keys, the stream of their changes.
	if n.db, err = database.Open(ctx, database.Options{URL: c.Database.URL, Readers: c.Database.Readers}); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	n.ends(n.db.Close)
	n.tenants = tenant.NewStore(n.db)
	n.ends(func() error { n.tenants.Close(); return nil })
	if err := createTenants(ctx, n.tenants, c.Tenants); err != nil {
		return nil, err
	}
	ring, err := keyring.New(n.db, master)
	if err != nil {
		return nil, err
	}
	feed := stream.NewFeed(n.db)
	n.feed = feed
	if n.committer, err = stream.NewCommitter(ctx, n.db, feed, log); err != nil {
		return nil, fmt.Errorf("committer: %w", err)
	}
	n.ends(func() error { n.committer.Close(); return nil })
	n.count()
	if c.HasRole(config.RoleProxy) { // somebody else's homeserver
		return n, n.wireProxy(ctx, c, log)
	}
	if !c.HasRole(config.RoleHomeserver) { // the central services stand alone
		return n, n.wireCentral(ctx, c, ring, log)
	}

	// What may be decided from outside, and the edge that asks it about every request.
	var accounts *account.Service
	rules, err := n.rules(ctx, c, log, func(ctx context.Context, t tenant.ID, user id.User, typ string) (jsontext.Value, bool, error) {
		return accounts.AccountDatum(ctx, t, user, "", typ)
	}, func(ctx context.Context, t *tenant.Tenant, token string) (id.User, error) {
		return accounts.OpenIDUser(ctx, t.ID, token)
	})
	if err != nil {
		return nil, err
	}
	proxies, err := trustedProxies(c)
	if err != nil {
		return nil, err
	}
	limiter := limit.New(limit.Options{Off: !c.RateLimits})
	n.router = httpapi.NewRouter(httpapi.Options{
		Tenants:        n.tenants,
		SharedHosts:    c.SharedClientHosts,
		Sole:           c.SoleTenant(),
		TrustedProxies: proxies,
		Limiter:        limiter,
		Policy:         rules.Route,
		Admit:          rules.Federate,
		Log:            log,
		QuietAccess:    !c.Logging.Access,
		Metrics:        n.metrics.Registerer(),
	})

	// The homeserver's slices. Where data flows back (a name into its rooms, a room to other servers), the earlier one gets a function of the
	// later one, which is there before the first request.
	services, err := appservice.Load(c.AppServices, c.SoleTenant())
	if err != nil {
		return nil, err
	}
	var rooms *room.Service
	var keys *encryption.Service
	var notifications *push.Service
	mails, err := sendMail(c)
	if err != nil {
		return nil, err
	}
	var bridges *appservice.Service
	var later *delayed.Service
	var expiry *retention.Service // nil where messages live for ever
	var sweeper *sweep.Service    // nil without the network's rules
	var issuer *oauth.Service
	var syncs *clientsync.Service
	accounts = account.New(account.Options{
		DB: n.db, Committer: n.committer, Feed: feed, Policy: rules, Log: log, Limiter: limiter, SendMail: mails, Keyring: ring,
		Config: accountConfig(c), AppService: services.ByToken, AppServiceByID: services.ByID, ReservedUser: services.ReservedUser,
		FindUser: func(ctx context.Context, t *tenant.Tenant, user id.User) (bool, error) {
			return bridges.FindUser(ctx, t, user)
		},
		ProfileChanged: func(ctx context.Context, t *tenant.Tenant, user id.User) error {
			return rooms.ProfileChanged(ctx, t, user)
		},
		Erase: func(ctx context.Context, t *tenant.Tenant, user id.User) error { return rooms.Erase(ctx, t.ID, user) },
		LeaveAll: func(ctx context.Context, t *tenant.Tenant, user id.User) error {
			if n.contacts != nil {
				if err := n.contacts.Forget(ctx, t.ID, user); err != nil {
					return err
				}
			}
			return rooms.LeaveAll(ctx, t, user)
		},
		RemoteProfile: func(ctx context.Context, t *tenant.Tenant, user id.User, field string) (map[string]jsontext.Value, error) {
			return n.federation.RemoteProfile(ctx, t, user, field)
		},
		DevicesRemoved: func(ctx context.Context, t *tenant.Tenant, user id.User, devices []id.Device, plan *stream.Plan) error {
			notifications.DevicesRemoved(user, devices, plan)
			syncs.DevicesRemoved(t, user, devices, plan)
			return keys.DevicesRemoved(ctx, t, user, devices, plan)
		},
		DeviceRenamed: func(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device, plan *stream.Plan) error {
			return keys.DeviceRenamed(ctx, t, user, device, plan)
		},
		DeviceForbidden: func(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device) (bool, error) {
			return keys.DeviceForbidden(ctx, t, user, device)
		},
		IdentityProviders: func(t *tenant.Tenant) []account.IdentityProvider { return issuer.IdentityProviders(t) },
		Issuer:            func(r *httpapi.Request) (string, string) { return issuer.Issuer(r) },
		AccountPage:       func(r *httpapi.Request, query url.Values) string { return issuer.AccountPage(r, query) },
		SignedOut: func(ctx context.Context, t *tenant.Tenant, user id.User) error {
			return issuer.EndBrowsers(ctx, t, user)
		},
		Acquainted: func(ctx context.Context, t *tenant.Tenant, user id.User) (map[id.User]struct{}, error) {
			return rooms.SharedUsers(ctx, t.ID, user)
		},
		SharesRoom: func(ctx context.Context, t tenant.ID, a, b id.User) (bool, error) {
			return rooms.SharesRoom(ctx, t, a, b)
		},
	})
	n.accounts = accounts
	oauthOptions, err := oauthConfig(c)
	if err != nil {
		return nil, err
	}
	if oauthOptions.Card, err = n.cardSignIn(ctx, c, log); err != nil {
		return nil, fmt.Errorf("sign-in by card: %w", err)
	}
	issuer = oauth.New(oauth.Options{DB: n.db, Tenants: n.tenants, Accounts: accounts, Policy: rules, Log: log, Limiter: limiter, Keyring: ring, Config: oauthOptions})
	federationOptions, err := federationConfig(c)
	if err != nil {
		return nil, err
	}
	n.federation = federation.New(federation.Options{
		DB: n.db, Tenants: n.tenants, Keyring: ring, Feed: feed, Policy: rules, Log: log,
		Config: federationOptions, Router: n.router, PolicyServer: policyServers(c),
		Profile: func(ctx context.Context, t *tenant.Tenant, user id.User) (map[string]jsontext.Value, error) {
			p, err := accounts.Profile(ctx, t.ID, user)
			return p.Fields, err
		},
		OpenID: func(ctx context.Context, t *tenant.Tenant, token string) (id.User, error) {
			return accounts.OpenIDUser(ctx, t.ID, token)
		},
	})
	rooms = room.New(room.Options{
		DB: n.db, Committer: n.committer, Feed: feed, Keyring: ring, Tenants: n.tenants, Policy: rules, Log: log, Metrics: n.metrics.Registerer(),
		Remote: n.federation, RemoteDirectory: n.federation.RemoteDirectory, RemoteByTime: n.federation.ByTimestamp,
		Identity: n.federation, PolicySign: n.federation.PolicySign, PolicyKey: n.federation.PolicyKey,
		Profile: func(ctx context.Context, t tenant.ID, user id.User) (displayName, avatarURL string, err error) {
			p, err := accounts.Profile(ctx, t, user)
			return text(p.DisplayName), text(p.AvatarURL), err
		},
		Exists:    accounts.Exists,
		MayInvite: accounts.MayInvite,
		Class:     push.Class,
		MayAlias:  services.MayAlias,
		Delay: func(ctx context.Context, r *httpapi.Request, d room.Draft) (string, error) {
			return later.Delay(ctx, r, d)
		},
		FindAlias: func(ctx context.Context, t *tenant.Tenant, alias id.Alias) (bool, error) {
			return bridges.FindAlias(ctx, t, alias)
		},
		FindUser: func(ctx context.Context, t *tenant.Tenant, user id.User) (bool, error) {
			return bridges.FindUser(ctx, t, user)
		},
		Networks: func(ctx context.Context, t tenant.ID, instance string) ([]int64, error) {
			return bridges.Networks(ctx, t, instance)
		},
		Replaced: func(ctx context.Context, t *tenant.Tenant, user id.User, old, replacement id.Room) error {
			return notifications.Follow(ctx, t.ID, user, old, replacement)
		},
		Stored: func(ctx context.Context, t tenant.ID, e *room.Event, state room.State, plan *stream.Plan) error {
			if err := n.federation.Relay(ctx, t, e, state, plan); err != nil { // first: it looks at the room's own destinations
				return err
			}
			if err := later.Stored(ctx, t, e, plan); err != nil {
				return err
			}
			if expiry != nil {
				expiry.Stored(t, e, plan)
			}
			if sweeper != nil {
				if err := sweeper.Stored(ctx, t, e, plan); err != nil {
					return err
				}
			}
			if err := notifications.Highlights(ctx, t, e, state, plan); err != nil {
				return err
			}
			return memberLeft(ctx, n.tenants, keys, t, e, plan)
		},
	})
	n.rooms = rooms
	n.federation.SetRooms(rooms)
	n.ends(func() error { rooms.Close(); return nil })
	n.ends(func() error { n.federation.Close(); return nil })
	later = delayed.New(delayed.Options{DB: n.db, Tenants: n.tenants, Rooms: rooms, Log: log})
	n.ends(func() error { later.Close(); return nil })
	if r := c.Rooms.Retention; r.Enabled {
		expiry = retention.New(retention.Options{DB: n.db, Tenants: n.tenants, Rooms: rooms, Log: log, Default: r.Default, Min: r.Min, Max: r.Max})
		n.starts = append(n.starts, expiry.Start)
		n.ends(func() error { expiry.Close(); return nil })
	}
	if c.Policy != config.PolicyOpen {
		sweeper = sweep.New(sweep.Options{DB: n.db, Tenants: n.tenants, Rooms: rooms, Log: log, Orphaned: c.Telematik.OrphanedRooms, Grace: c.Telematik.InsuredAlone, Insured: n.insured})
		n.starts = append(n.starts, sweeper.Start)
		n.ends(func() error { sweeper.Close(); return nil })
	}
	feed.SetMembers(rooms.WaitingMembers)
	spaces := space.New(space.Options{Rooms: rooms, Remote: n.federation.Hierarchy})
	n.federation.Spaces = spaces
	tokens := timeline.NewTokens(ring)
	history := timeline.New(timeline.Options{Rooms: rooms, Accounts: accounts, Tokens: tokens})
	keys = encryption.New(encryption.Options{
		DB: n.db, Committer: n.committer, Feed: feed, Policy: rules, Log: log,
		Accounts: accounts, Rooms: encryption.OfRooms(rooms), Remote: n.federation, Position: tokens.Position,
		KeysVisible: func(ctx context.Context, t *tenant.Tenant, user id.User, server id.Server) (bool, error) {
			return rooms.SharesRoomWithServer(ctx, t.ID, user, server)
		},
	})
	n.ends(func() error { keys.Close(); return nil })
	passing := ephemeral.New(ephemeral.Options{
		DB: n.db, Committer: n.committer, Feed: feed, Rooms: rooms, Policy: rules, Log: log, Presence: c.Presence,
		Typed:           func(t tenant.ID, roomNID int64) { bridges.Typed(t, roomNID) },
		PresenceChanged: func(t tenant.ID, user id.User) { bridges.PresenceChanged(t, user) },
		Send: func(ctx context.Context, t *tenant.Tenant, destinations []id.Server, kind, key string, content jsontext.Value) {
			n.federation.SendEDU(ctx, t, destinations, federation.EDU{Type: kind, Key: key, Content: content})
		},
	})
	n.ends(func() error { passing.Close(); return nil })
	notifications = push.New(push.Options{DB: n.db, Committer: n.committer, Feed: feed, Rooms: rooms, Accounts: accounts, Ephemeral: passing, Tokens: tokens,
		Log: log, Ignored: history.Ignored, Guard: federation.Guard(c.PrivateAddresses), AllowPrivate: c.PrivateAddresses,
		RetryMin: c.Federation.Retry.First, RetryMax: c.Federation.Retry.Max})
	n.ends(func() error { notifications.Close(); return nil })
	syncs = clientsync.New(clientsync.Options{DB: n.db, Committer: n.committer, Feed: feed, Accounts: accounts, Rooms: rooms, Timeline: history, Tokens: tokens, Encryption: keys,
		Ephemeral: passing, Push: notifications})
	n.stopping = syncs.Close
	files, err := media.New(media.Options{DB: n.db, Policy: rules, Log: log, Config: mediaConfig(c), Remote: n.federation})
	if err != nil {
		return nil, err
	}
	n.ends(func() error { files.Close(); return nil })
	if err := files.Start(ctx); err != nil {
		return nil, err
	}
	administration := admin.New(admin.Options{DB: n.db, Accounts: accounts, Rooms: rooms, Push: notifications, Media: files, Version: "Konsil", Log: log})
	n.ends(func() error { administration.Close(); return nil })
	bridges = appservice.New(appservice.Options{DB: n.db, Feed: feed, Tenants: n.tenants, Registry: services, Accounts: accounts, Rooms: rooms,
		Ephemeral: passing, Keys: keys, Log: log, RetryMin: c.Federation.Retry.First, RetryMax: min(c.Federation.Retry.Max, maxBridgePause)})
	n.ends(func() error { bridges.Close(); return nil })

	// What other servers ask and tell the slices.
	n.federation.Devices = keys
	n.federation.Sources = []federation.Source{deviceUnits{keys}, receiptUnits{passing}}
	n.federation.EDUs = map[string]func(context.Context, *tenant.Tenant, id.Server, jsontext.Value) error{
		encryption.EDUToDevice:         keys.ReceiveToDevice,
		encryption.EDUDeviceListUpdate: keys.ReceiveDeviceListUpdate,
		encryption.EDUSigningKeyUpdate: keys.ReceiveSigningKeyUpdate,
		ephemeral.EDUReceipt:           passing.ReceiveReceipts,
		ephemeral.EDUTyping:            passing.ReceiveTyping,
		ephemeral.EDUPresence:          passing.ReceivePresence,
	}

	n.router.Authenticate(accounts, n.federation)
	n.router.Add(accounts.Routes()...)
	n.router.Add(issuer.Routes()...)
	n.router.Add(rooms.Routes()...)
	n.router.Add(spaces.Routes()...)
	n.router.Add(history.Routes()...)
	n.router.Add(passing.Routes()...)
	n.router.Add(notifications.Routes()...)
	n.router.Add(syncs.Routes()...)
	n.router.Add(keys.Routes()...)
	n.router.Add(files.Routes()...)
	n.router.Add(bridges.Routes()...)
	n.router.Add(administration.Routes()...)
	n.router.Add(later.Routes()...)
	n.router.Add(n.federation.Routes()...)
	if n.contacts != nil {
		n.router.Add(n.contacts.Routes()...)
	}
	if n.members != nil {
		n.router.Add(n.members.InformationRoutes(func(ctx context.Context, t *tenant.Tenant, token string) error {
			_, err := accounts.OpenIDUser(ctx, t.ID, token)
			return err
		})...)
	}
	if c.HasRole(config.RoleRegistry) {
		if n.registry, err = n.registration(ctx, c, ring, mails, log); err != nil {
			return nil, fmt.Errorf("registration: %w", err)
		}
	}

	if c.IsCentral() {
		if err := n.wireCentral(ctx, c, ring, log); err != nil {
			return nil, err
		}
	}

	n.starts = append(n.starts, rooms.Start, n.federation.Start, bridges.Start, notifications.Start, later.Start, func() {
		if err := rooms.Resume(context.WithoutCancel(ctx)); err != nil {
			log.Error("staged events were not taken up", "error", err)
		}
	})
	return n, nil
}

// createTenants makes the configured tenants that are not there yet.
func createTenants(ctx context.Context, store *tenant.Store, wanted []config.Tenant) error {
	for _, w := range wanted {
		_, err := store.ByName(ctx, w.Name)
		if errors.Is(err, tenant.ErrUnknown) {
			_, err = store.Create(ctx, tenant.Spec{Name: w.Name, DisplayName: w.DisplayName, TelematikID: w.TelematikID, Insurance: w.Insurance,
				ClientHosts: w.ClientHosts, FederationHosts: w.FederationHosts})
			if errors.Is(err, tenant.ErrExists) {
				if _, again := store.ByName(ctx, w.Name); again == nil {
					err = nil // another node of the cell was faster
				}
			}
		}
		if err != nil {
			return fmt.Errorf("tenant %s: %w", w.Name, err)
		}
	}
	return nil
}
