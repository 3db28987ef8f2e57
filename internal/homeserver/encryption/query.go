// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// How long clients let other servers take, and how many are asked side by side for one request.
const (
	defaultPatience  = 10 * time.Second
	maxPatience      = 30 * time.Second
	maxServersAtOnce = 16
)

// patience reads a timeout in ms.
func patience(ms *int64) time.Duration {
	if ms == nil || *ms <= 0 {
		return defaultPatience
	}
	return min(time.Duration(*ms)*time.Millisecond, maxPatience)
}

type queryRequest struct {
	Timeout *int64                  `json:"timeout,omitempty"`
	Devices map[id.User][]id.Device `json:"device_keys"`
}

// keysReply is the answer of /keys/query; other servers get it without user-signing keys.
type keysReply struct {
	Devices     map[id.User]map[id.Device]jsontext.Value `json:"device_keys"`
	Master      map[id.User]jsontext.Value               `json:"master_keys"`
	SelfSigning map[id.User]jsontext.Value               `json:"self_signing_keys"`
	UserSigning map[id.User]jsontext.Value               `json:"user_signing_keys,omitempty"`
	Failures    map[id.Server]failure                    `json:"failures,omitempty"`
}

func newKeysReply() *keysReply {
	return &keysReply{
		Devices: map[id.User]map[id.Device]jsontext.Value{}, Master: map[id.User]jsontext.Value{}, SelfSigning: map[id.User]jsontext.Value{},
		UserSigning: map[id.User]jsontext.Value{}, Failures: map[id.Server]failure{},
	}
}

// clientKeysReply always has its failures, as clients expect.
type clientKeysReply struct {
	keysReply
	Failures map[id.Server]failure `json:"failures"`
}

func (s *Service) query(ctx context.Context, r *httpapi.Request) (any, error) {
	var q queryRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Devices == nil {
		return nil, mxerror.MissingParam.With("device_keys is missing")
	}
	reply := newKeysReply()
	remote := map[id.Server]map[id.User][]id.Device{}
	for user, devices := range q.Devices {
		if _, err := id.ParseUser(string(user)); err != nil {
			return nil, mxerror.InvalidParam.With("%q is no user id", user)
		}
		server := user.Server()
		if server == r.Tenant.Name {
			if err := s.storedKeys(ctx, r.Tenant, user, devices, r.Session.User, reply); err != nil {
				return nil, err
			}
			continue
		}
		if remote[server] == nil {
			remote[server] = map[id.User][]id.Device{}
		}
		remote[server][user] = devices
	}
	if len(remote) > 0 {
		if err := s.queryRemote(ctx, r, patience(q.Timeout), remote, reply); err != nil {
			return nil, err
		}
	}
	return clientKeysReply{*reply, reply.Failures}, nil
}

// storedKeys adds what the database has of one user: of a local one, or the copy of another server's. viewer sees its own user-signing key
// and its own signatures on other people's keys; empty for other servers.
func (s *Service) storedKeys(ctx context.Context, t *tenant.Tenant, user id.User, devices []id.Device, viewer id.User, reply *keysReply) error {
	k, err := s.keysOf(ctx, t.ID, user, viewer)
	if err != nil {
		return err
	}
	names := map[id.Device]string{}
	if user.Server() == t.Name && len(k.devices) > 0 {
		if names, err = s.deviceNames(ctx, t.ID, user); err != nil {
			return err
		}
	}
	list := map[id.Device]jsontext.Value{}
	for device, d := range k.devices {
		if len(devices) > 0 && !contains(asStrings(devices), string(device)) {
			continue
		}
		name := d.name
		if user.Server() == t.Name {
			name = names[device]
		}
		list[device] = withDisplayName(d.keys, name)
	}
	if len(list) > 0 || user.Server() == t.Name {
		reply.Devices[user] = list
	}
	if key := k.cross[usageMaster]; key != nil {
		reply.Master[user] = key
	}
	if key := k.cross[usageSelfSigning]; key != nil {
		reply.SelfSigning[user] = key
	}
	if key := k.cross[usageUserSigning]; key != nil && user == viewer {
		reply.UserSigning[user] = key
	}
	return nil
}

func asStrings[S ~string](list []S) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return out
}

func (s *Service) deviceNames(ctx context.Context, t tenant.ID, user id.User) (map[id.Device]string, error) {
	devices, err := s.o.Accounts.Devices(ctx, t, user)
	if err != nil {
		return nil, err
	}
	names := make(map[id.Device]string, len(devices))
	for _, d := range devices {
		names[d.ID] = d.DisplayName
	}
	return names, nil
}

// queryRemote answers for users of other servers: from the copy of the device lists that are tracked, and by asking for the others.
func (s *Service) queryRemote(ctx context.Context, r *httpapi.Request, wait time.Duration, remote map[id.Server]map[id.User][]id.Device, reply *keysReply) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(maxServersAtOnce)
	for server, users := range remote {
		group.Go(func() error {
			part := newKeysReply()
			err := s.queryServer(ctx, r, server, users, part)
			mu.Lock()
			defer mu.Unlock()
			part.into(reply)
			if err != nil {
				reply.Failures[server] = failureOf(err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (k *keysReply) into(out *keysReply) {
	for u, v := range k.Devices {
		out.Devices[u] = v
	}
	for u, v := range k.Master {
		out.Master[u] = v
	}
	for u, v := range k.SelfSigning {
		out.SelfSigning[u] = v
	}
}

// queryServer answers for the users of one server. What could be found is in part even when the error says that the server did not answer.
func (s *Service) queryServer(ctx context.Context, r *httpapi.Request, server id.Server, users map[id.User][]id.Device, part *keysReply) error {
	if err := s.reachable(ctx, r.Tenant, server); err != nil {
		return err
	}
	ask := map[id.User][]id.Device{}
	var failed error
	for user, devices := range users {
		tracked, err := s.fresh(ctx, r.Tenant, user)
		if err != nil {
			failed = err // an old copy is better than none; the failure lets the client ask again
		}
		if !tracked && err == nil {
			ask[user] = devices
			continue
		}
		if err := s.storedKeys(ctx, r.Tenant, user, devices, r.Session.User, part); err != nil {
			return err
		}
	}
	if len(ask) == 0 {
		return failed
	}
	raw, err := s.o.Remote.QueryKeys(ctx, r.Tenant, server, queryRequest{Devices: ask})
	if err != nil {
		return err
	}
	var got keysReply
	if err := json.Unmarshal(raw, &got); err != nil {
		return mxerror.New(502, "M_UNKNOWN", "the server's answer has the wrong form")
	}
	for user := range ask {
		if err := s.takeAnswer(ctx, r, user, &got, part); err != nil {
			return err
		}
	}
	return failed
}

// takeAnswer keeps what a server says about one of its users, checked for its form, with the viewer's own signature on the master key.
func (s *Service) takeAnswer(ctx context.Context, r *httpapi.Request, user id.User, got, part *keysReply) error {
	list := map[id.Device]jsontext.Value{}
	for device, raw := range got.Devices[user] {
		keys, _, err := readDeviceKeys(raw, user, device)
		if err != nil {
			continue
		}
		list[device] = withDisplayName(keys, displayName(raw))
	}
	if len(list) > 0 {
		part.Devices[user] = list
	}
	if key, err := readCrossKey(got.Master[user], user, usageMaster); err == nil {
		signed, err := s.mergeSignatures(ctx, r.Tenant.ID, user, r.Session.User, key.public, key.canonical)
		if err != nil {
			return err
		}
		part.Master[user] = signed
	}
	if key, err := readCrossKey(got.SelfSigning[user], user, usageSelfSigning); err == nil {
		part.SelfSigning[user] = key.canonical
	}
	return nil
}

// displayName reads unsigned.device_display_name.
func displayName(raw jsontext.Value) string {
	var v struct {
		Unsigned struct {
			Name string `json:"device_display_name"`
		} `json:"unsigned"`
	}
	if json.Unmarshal(raw, &v) != nil {
		return ""
	}
	return v.Unsigned.Name
}

// FederationQuery answers POST /user/keys/query of another server.
func (s *Service) FederationQuery(ctx context.Context, t *tenant.Tenant, origin id.Server, body []byte) (any, error) {
	var q queryRequest
	if err := httpapi.DecodeJSON(body, &q); err != nil {
		return nil, err
	}
	if q.Devices == nil {
		return nil, mxerror.MissingParam.With("device_keys is missing")
	}
	reply := newKeysReply()
	for user, devices := range q.Devices {
		visible, err := s.visible(ctx, t, user, origin)
		if err != nil {
			return nil, err
		}
		if !visible {
			continue
		}
		if err := s.storedKeys(ctx, t, user, devices, "", reply); err != nil {
			return nil, err
		}
	}
	return reply, nil
}

// userDevices is the answer of GET /user/devices/{userId} (server-server API).
type userDevices struct {
	User        id.User        `json:"user_id"`
	StreamID    int64          `json:"stream_id"`
	Devices     []userDevice   `json:"devices"`
	Master      jsontext.Value `json:"master_key,omitzero"`
	SelfSigning jsontext.Value `json:"self_signing_key,omitzero"`
}

type userDevice struct {
	Device id.Device      `json:"device_id"`
	Name   string         `json:"device_display_name,omitempty"`
	Keys   jsontext.Value `json:"keys"`
}

// FederationDevices answers GET /user/devices/{userId} of another server.
func (s *Service) FederationDevices(ctx context.Context, t *tenant.Tenant, origin id.Server, user id.User) (any, error) {
	exists, err := s.o.Accounts.Exists(ctx, t.ID, user)
	if err != nil {
		return nil, err
	}
	visible, err := s.visible(ctx, t, user, origin)
	if err != nil {
		return nil, err
	}
	if !exists || !visible {
		return nil, mxerror.NotFound.With("no such user")
	}
	// The counter first: a device that changes meanwhile comes again with the next update.
	list, err := s.list(ctx, t.ID, user)
	if err != nil {
		return nil, err
	}
	k, err := s.keysOf(ctx, t.ID, user, "")
	if err != nil {
		return nil, err
	}
	names, err := s.deviceNames(ctx, t.ID, user)
	if err != nil {
		return nil, err
	}
	reply := userDevices{User: user, StreamID: list.streamID, Master: k.cross[usageMaster], SelfSigning: k.cross[usageSelfSigning]}
	for device, d := range k.devices {
		reply.Devices = append(reply.Devices, userDevice{device, names[device], d.keys})
	}
	return reply, nil
}
