// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// wanted says of which devices a key of which algorithm is wanted; claimed is what was found.
type (
	wanted  map[id.User]map[id.Device]string
	claimed map[id.User]map[id.Device]map[string]jsontext.Value
)

func (c claimed) add(user id.User, device id.Device, keys map[string]jsontext.Value) {
	if c[user] == nil {
		c[user] = map[id.Device]map[string]jsontext.Value{}
	}
	c[user][device] = keys
}

type claimRequest struct {
	Timeout *int64 `json:"timeout,omitempty"`
	Keys    wanted `json:"one_time_keys"`
}

type claimReply struct {
	Keys     claimed               `json:"one_time_keys"`
	Failures map[id.Server]failure `json:"failures"`
}

// failure tells a client why a server did not answer.
type failure struct {
	Status  int    `json:"status"`
	Code    string `json:"errcode"`
	Message string `json:"error"`
}

func failureOf(err error) failure {
	if e := mxerror.From(err); e != nil {
		return failure{e.Status, e.Code, e.Message}
	}
	return failure{503, "M_UNKNOWN", "the server could not be reached"}
}

// maxClaims bounds the keys of one request.
const maxClaims = 10_000

func (s *Service) claim(ctx context.Context, r *httpapi.Request) (any, error) {
	var q claimRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Keys == nil {
		return nil, mxerror.MissingParam.With("one_time_keys is missing")
	}
	remote, total := map[id.Server]wanted{}, 0
	local := wanted{}
	for user, devices := range q.Keys {
		if _, err := id.ParseUser(string(user)); err != nil {
			return nil, mxerror.InvalidParam.With("%q is no user id", user)
		}
		total += len(devices)
		server := user.Server()
		if server == r.Tenant.Name {
			local[user] = devices
			continue
		}
		if remote[server] == nil {
			remote[server] = wanted{}
		}
		remote[server][user] = devices
	}
	if total > maxClaims {
		return nil, mxerror.TooLarge.With("more than %d keys at once", maxClaims)
	}
	reply := claimReply{Failures: map[id.Server]failure{}}
	var err error
	if reply.Keys, err = s.claimLocal(ctx, r.Tenant.ID, local); err != nil {
		return nil, err
	}
	s.claimRemote(ctx, r.Tenant, q.Timeout, remote, &reply)
	return reply, nil
}

// claimLocal takes one key of each wanted device, oldest first, in one transaction: a key is deleted by whoever takes it, so nobody else can.
// Users are claimed in one order everywhere, so that two claims cannot wait for each other.
func (s *Service) claimLocal(ctx context.Context, t tenant.ID, want wanted) (claimed, error) {
	type item struct {
		user      id.User
		device    id.Device
		algorithm string
	}
	var items []item
	for user, devices := range want {
		for device, algorithm := range devices {
			items = append(items, item{user, device, algorithm})
		}
	}
	slices.SortFunc(items, func(a, b item) int {
		return strings.Compare(string(a.user)+"\x00"+string(a.device), string(b.user)+"\x00"+string(b.device))
	})
	if len(items) == 0 {
		return claimed{}, nil
	}
	var got claimed
	var owners []id.User
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		got, owners = claimed{}, nil
		for _, i := range items {
			name, key, err := claimOne(ctx, tx, t, i.user, i.device, i.algorithm)
			if err != nil {
				return err
			}
			if name == "" {
				continue
			}
			got.add(i.user, i.device, map[string]jsontext.Value{i.algorithm + ":" + name: jsontext.Value(key)})
			owners = append(owners, i.user)
		}
		return nil
	})
	if err == nil && len(owners) > 0 {
		err = s.keysChanged(ctx, t, slices.Compact(owners)...)
	}
	return got, err
}

// keysChanged announces that others took keys of some users' devices, or that these uploaded some: their syncs count anew.
func (s *Service) keysChanged(ctx context.Context, t tenant.ID, users ...id.User) error {
	_, err := s.o.Committer.Commit(ctx, &stream.Plan{Tenant: t, Changes: []stream.Change{{Kind: stream.Keys, Users: users}}})
	return err
}

// claimOne takes a one-time key or, without any left, the fallback key, which stays and is marked as used.
func claimOne(ctx context.Context, tx *database.Tx, t tenant.ID, user id.User, device id.Device, algorithm string) (name, key string, err error) {
	args := []any{int64(t), string(user), string(device), algorithm}
	for {
		err = tx.QueryRow(ctx, `DELETE FROM one_time_key WHERE tenant = $1 AND user_id = $2 AND device = $3 AND algorithm = $4 AND key_id =
			(SELECT o.key_id FROM one_time_key o WHERE o.tenant = $1 AND o.user_id = $2 AND o.device = $3 AND o.algorithm = $4
			ORDER BY o.serial, o.key_id LIMIT 1) RETURNING key_id, key`, args...).Scan(&name, &key)
		if !errors.Is(err, sql.ErrNoRows) {
			return name, key, err
		}
		// On PostgreSQL another claim may have taken the same key between the look and the deletion: then look again.
		var left int64
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM one_time_key WHERE tenant = $1 AND user_id = $2 AND device = $3 AND algorithm = $4", args...).
			Scan(&left); err != nil {
			return "", "", err
		}
		if left == 0 {
			break
		}
	}
	err = tx.QueryRow(ctx, `UPDATE fallback_key SET used = TRUE WHERE tenant = $1 AND user_id = $2 AND device = $3 AND algorithm = $4
		RETURNING key_id, key`, args...).Scan(&name, &key)
	if errors.Is(err, sql.ErrNoRows) {
		return "", "", nil
	}
	return name, key, err
}

// claimRemote asks other servers side by side and keeps only what was asked for.
func (s *Service) claimRemote(ctx context.Context, t *tenant.Tenant, timeout *int64, remote map[id.Server]wanted, reply *claimReply) {
	ctx, cancel := context.WithTimeout(ctx, patience(timeout))
	defer cancel()
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(maxServersAtOnce)
	for server, want := range remote {
		group.Go(func() error {
			got, err := s.claimAt(ctx, t, server, want)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				reply.Failures[server] = failureOf(err)
				return nil
			}
			for user, devices := range want {
				for device := range devices {
					if keys := got[user][device]; len(keys) > 0 {
						reply.Keys.add(user, device, keys)
					}
				}
			}
			return nil
		})
	}
	_ = group.Wait() // failures are in the answer
}

func (s *Service) claimAt(ctx context.Context, t *tenant.Tenant, server id.Server, want wanted) (claimed, error) {
	if err := s.reachable(ctx, t, server); err != nil {
		return nil, err
	}
	raw, err := s.o.Remote.ClaimKeys(ctx, t, server, claimRequest{Keys: want})
	if err != nil {
		return nil, err
	}
	var reply struct {
		Keys claimed `json:"one_time_keys"`
	}
	if err := json.Unmarshal(raw, &reply); err != nil {
		return nil, mxerror.New(502, "M_UNKNOWN", "the server's answer has the wrong form")
	}
	return reply.Keys, nil
}

// reachable says whether the tenant may talk with a server at all.
func (s *Service) reachable(ctx context.Context, t *tenant.Tenant, server id.Server) error {
	if s.o.Remote == nil {
		return mxerror.ConnectionFailed.With("federation is off")
	}
	if s.o.Policy != nil {
		return s.o.Policy.Federate(ctx, t, server)
	}
	return nil
}

// FederationClaim answers POST /user/keys/claim of another server.
func (s *Service) FederationClaim(ctx context.Context, t *tenant.Tenant, origin id.Server, body []byte) (any, error) {
	var q claimRequest
	if err := httpapi.DecodeJSON(body, &q); err != nil {
		return nil, err
	}
	want, total := wanted{}, 0
	for user, devices := range q.Keys {
		visible, err := s.visible(ctx, t, user, origin)
		if err != nil {
			return nil, err
		}
		if visible {
			want[user] = devices
			total += len(devices)
		}
	}
	if total > maxClaims {
		return nil, mxerror.TooLarge.With("more than %d keys at once", maxClaims)
	}
	keys, err := s.claimLocal(ctx, t.ID, want)
	return struct {
		Keys claimed `json:"one_time_keys"`
	}{keys}, err
}

// visible says whether another server may see a local user's keys.
func (s *Service) visible(ctx context.Context, t *tenant.Tenant, user id.User, origin id.Server) (bool, error) {
	if user.Server() != t.Name {
		return false, nil
	}
	if s.o.KeysVisible == nil {
		return true, nil
	}
	return s.o.KeysVisible(ctx, t, user, origin)
}
