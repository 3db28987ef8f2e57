// SPDX-License-Identifier: Apache-2.0

package encryption_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/homeserver/encryption"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

type m = map[string]any

const v3 = "/_matrix/client/v3"

// rig is a node with the encryption slice, rooms that are only lists of members, and a wire between its two tenants.
type rig struct {
	*accounttest.Rig
	keys  *encryption.Service
	rooms *rooms
	wire  *wire
}

func each(t *testing.T, f func(t *testing.T, g *rig)) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) { f(t, newRig(t, db)) })
}

func newRig(t *testing.T, db *database.DB) *rig {
	g := &rig{rooms: &rooms{members: map[int64]map[id.User]bool{}}, wire: &wire{}}
	g.Rig = accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
		o.AccountPage = func(_ *httpapi.Request, q url.Values) string { return "https://client.test/account?" + q.Encode() }
		o.DevicesRemoved = func(ctx context.Context, t *tenant.Tenant, user id.User, devices []id.Device, plan *plan) error {
			return g.keys.DevicesRemoved(ctx, t, user, devices, plan)
		}
		o.DeviceRenamed = func(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device, plan *plan) error {
			return g.keys.DeviceRenamed(ctx, t, user, device, plan)
		}
		o.DeviceForbidden = func(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device) (bool, error) {
			return g.keys.DeviceForbidden(ctx, t, user, device)
		}
	}, func(r *accounttest.Rig) []httpapi.Route {
		g.keys = encryption.New(encryption.Options{DB: db, Committer: r.Committer, Feed: r.Feed, Policy: policy.Open{}, Accounts: r.Accounts,
			Rooms: g.rooms, Remote: g.wire, Position: func(_ context.Context, _ *tenant.Tenant, token string) (int64, error) {
				n, err := strconv.ParseInt(token, 10, 64)
				if err != nil {
					return 0, mxerror.InvalidParam
				}
				return n, nil
			}})
		return g.keys.Routes()
	})
	t.Cleanup(g.keys.Close)
	g.wire.g = g
	return g
}

// rooms are sets of members; joined and left are what the next question about changes answers.
type rooms struct {
	mu           sync.Mutex
	members      map[int64]map[id.User]bool
	joined, left map[id.User]struct{}
}

func (r *rooms) put(room int64, users ...id.User) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.members[room] == nil {
		r.members[room] = map[id.User]bool{}
	}
	for _, u := range users {
		r.members[room][u] = true
	}
}

func (r *rooms) remove(room int64, user id.User) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.members[room], user)
}

func (r *rooms) SharedUsers(_ context.Context, _ tenant.ID, user id.User) (map[id.User]struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[id.User]struct{}{user: {}}
	for _, members := range r.members {
		if members[user] {
			for u := range members {
				out[u] = struct{}{}
			}
		}
	}
	return out, nil
}

func (r *rooms) SharingSince(context.Context, tenant.ID, id.User, int64, int64) (joined, left map[id.User]struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.joined), maps.Clone(r.left), nil
}

func (r *rooms) JoinedUsers(_ context.Context, _ tenant.ID, room int64) ([]id.User, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []id.User
	for u := range r.members[room] {
		out = append(out, u)
	}
	return out, nil
}

// wire carries questions between the tenants of the rig, as federation would.
type wire struct {
	g       *rig
	mu      sync.Mutex
	down    bool
	fetches int
}

var errDown = errors.New("the wire is cut")

func (w *wire) cut(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fetches
}

func (w *wire) to(server id.Server) (*tenant.Tenant, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fetches++
	if w.down {
		return nil, errDown
	}
	if server == w.g.A.Name {
		return w.g.A, nil
	}
	if server == w.g.B.Name {
		return w.g.B, nil
	}
	return nil, errDown
}

func (w *wire) QueryKeys(ctx context.Context, t *tenant.Tenant, server id.Server, body any) (jsontext.Value, error) {
	return w.ask(server, func(to *tenant.Tenant) (any, error) {
		raw, _ := json.Marshal(body)
		return w.g.keys.FederationQuery(ctx, to, t.Name, raw)
	})
}

func (w *wire) ClaimKeys(ctx context.Context, t *tenant.Tenant, server id.Server, body any) (jsontext.Value, error) {
	return w.ask(server, func(to *tenant.Tenant) (any, error) {
		raw, _ := json.Marshal(body)
		return w.g.keys.FederationClaim(ctx, to, t.Name, raw)
	})
}

func (w *wire) UserDevices(ctx context.Context, t *tenant.Tenant, user id.User) (jsontext.Value, error) {
	return w.ask(user.Server(), func(to *tenant.Tenant) (any, error) { return w.g.keys.FederationDevices(ctx, to, t.Name, user) })
}

func (w *wire) ask(server id.Server, f func(*tenant.Tenant) (any, error)) (jsontext.Value, error) {
	to, err := w.to(server)
	if err != nil {
		return nil, err
	}
	v, err := f(to)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// pump carries the EDUs of one tenant after a position to the other and returns how many there were and the position reached.
func (g *rig) pump(from, to *tenant.Tenant, after int64) (int, int64) {
	g.TB.Helper()
	ctx := context.Background()
	upTo, err := g.Feed.Position(ctx, from.ID)
	if err != nil {
		g.TB.Fatal(err)
	}
	n := 0
	for after < upTo {
		units, complete, err := g.keys.Outgoing(ctx, from, to.Name, after, upTo, 3)
		if err != nil {
			g.TB.Fatal(err)
		}
		for _, e := range units {
			n++
			g.receive(to, from.Name, e)
			g.receive(to, from.Name, e) // a repeated unit changes nothing
		}
		after = complete
	}
	return n, after
}

func (g *rig) receive(t *tenant.Tenant, origin id.Server, e encryption.EDU) {
	g.TB.Helper()
	ctx, err := context.Background(), error(nil)
	switch e.Type {
	case encryption.EDUToDevice:
		err = g.keys.ReceiveToDevice(ctx, t, origin, e.Content)
	case encryption.EDUDeviceListUpdate:
		err = g.keys.ReceiveDeviceListUpdate(ctx, t, origin, e.Content)
	case encryption.EDUSigningKeyUpdate:
		err = g.keys.ReceiveSigningKeyUpdate(ctx, t, origin, e.Content)
	}
	if err != nil {
		g.TB.Fatal(err)
	}
}

// key is a signing key made from its name.
type key struct {
	private ed25519.PrivateKey
	public  string
}

func newKey(name string) key {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	private := ed25519.NewKeyFromSeed(seed)
	return key{private, signing.Encode(private.Public().(ed25519.PublicKey))}
}

func sign(object any, user id.User, name string, k key) jsontext.Value {
	raw, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	signed, err := signing.SignJSON(raw, string(user), id.KeyID("ed25519:"+name), k.private)
	if err != nil {
		panic(err)
	}
	return signed
}

// deviceKey is the signing key of a user's device.
func deviceKey(u *accounttest.User) key { return newKey(string(u.ID) + string(u.Device)) }

// identity are a device's keys, as its client uploads them.
func identity(u *accounttest.User) jsontext.Value {
	return sign(m{"user_id": u.ID, "device_id": u.Device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": m{"curve25519:" + string(u.Device): "c", "ed25519:" + string(u.Device): deviceKey(u).public}}, u.ID, string(u.Device), deviceKey(u))
}

func upload(u *accounttest.User) {
	u.TB.Helper()
	u.Do("POST", v3+"/keys/upload", m{"device_keys": identity(u)}).OK(nil)
}

func oneTimeKeys(from, n int) m {
	keys := m{}
	for i := range n {
		keys[fmt.Sprintf("signed_curve25519:K%04d", from+i)] = m{"key": fmt.Sprintf("value %d", from+i), "signatures": m{}}
	}
	return keys
}

func (g *rig) position(t *tenant.Tenant) int64 {
	g.TB.Helper()
	p, err := g.Feed.Position(context.Background(), t.ID)
	if err != nil {
		g.TB.Fatal(err)
	}
	return p
}
