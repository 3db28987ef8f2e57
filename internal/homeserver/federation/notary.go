// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// maxNotary bounds the servers of one question to the notary: each may make us ask another server.
const maxNotary = 20

// maxKeyAnswer bounds another server's answer about its keys.
const maxKeyAnswer = 1 << 20

// askKeys asks a server for its keys. A server in back-off is asked too: whoever needs the key has just heard from it.
func (s *Service) askKeys(ctx context.Context, server id.Server) ([]byte, error) {
	return s.unsigned(ctx, server, "/_matrix/key/v2/server")
}

// askNotary asks a notary for another server's keys.
func (s *Service) askNotary(ctx context.Context, notary, server id.Server) ([]byte, error) {
	return s.unsigned(ctx, notary, pathOf("/_matrix/key/v2/query", string(server)))
}

func (s *Service) unsigned(ctx context.Context, server id.Server, path string) ([]byte, error) {
	reply, err := s.http.round(ctx, nil, server, &call{method: http.MethodGet, path: path, unsigned: true, timeout: s.config.RequestTimeout, limit: maxKeyAnswer})
	if err != nil {
		return nil, err
	}
	defer reply.body.Close()
	if reply.status != http.StatusOK {
		return nil, s.refusal(server, reply)
	}
	if err := jsonAnswer(reply); err != nil {
		return nil, malformed(server, err)
	}
	body, err := io.ReadAll(reply.body)
	if err != nil {
		return nil, unreachable(ctx, server, err)
	}
	return body, nil
}

type publishedKey struct {
	Key     string `json:"key"`
	Expired int64  `json:"expired_ts,omitempty"`
}

// keysOf is the signed answer of a tenant about its own keys.
func (s *Service) keysOf(ctx context.Context, t *tenant.Tenant) ([]byte, error) {
	key, err := s.Keyring.Signing(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	old, err := s.Keyring.Old(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	doc := struct {
		Server     id.Server                 `json:"server_name"`
		ValidUntil int64                     `json:"valid_until_ts"`
		Current    map[id.KeyID]publishedKey `json:"verify_keys"`
		Old        map[id.KeyID]publishedKey `json:"old_verify_keys"`
	}{t.Name, s.now().Add(keyLife).UnixMilli(), map[id.KeyID]publishedKey{key.ID: {Key: signing.Encode(key.Public)}}, map[id.KeyID]publishedKey{}}
	for _, o := range old {
		doc.Old[o.ID] = publishedKey{signing.Encode(o.Public), o.ExpiredTS}
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return signing.SignJSON(raw, string(t.Name), key.ID, key.Private)
}

func (s *Service) ownKeys(ctx context.Context, r *httpapi.Request) (any, error) {
	answer, err := s.keysOf(ctx, r.Tenant)
	if err != nil {
		return nil, err
	}
	return jsontext.Value(answer), nil
}

// notaryAnswer is the answer of both notary endpoints.
type notaryAnswer struct {
	Keys []jsontext.Value `json:"server_keys"`
}

func (s *Service) notaryOne(ctx context.Context, r *httpapi.Request) (any, error) {
	server, err := id.ParseServer(r.Var("serverName"))
	if err != nil {
		return nil, mxerror.InvalidParam.With("serverName is not a server name.")
	}
	until := s.now().UnixMilli()
	if q := r.Query("minimum_valid_until_ts"); q != "" {
		if until, err = strconv.ParseInt(q, 10, 64); err != nil {
			return nil, mxerror.InvalidParam.With("minimum_valid_until_ts is not a number.")
		}
	}
	return s.notary(ctx, r.Tenant, map[id.Server]int64{server: until})
}

func (s *Service) notaryMany(ctx context.Context, r *httpapi.Request) (any, error) {
	var body struct {
		Servers map[string]map[string]struct {
			Until int64 `json:"minimum_valid_until_ts"`
		} `json:"server_keys"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Servers == nil {
		return nil, mxerror.MissingParam.With("server_keys is missing.")
	}
	if len(body.Servers) > maxNotary {
		return nil, mxerror.InvalidParam.With("At most %d servers can be asked about at once.", maxNotary)
	}
	asked := make(map[id.Server]int64, len(body.Servers))
	for name, keys := range body.Servers {
		server, err := id.ParseServer(name)
		if err != nil {
			return nil, mxerror.InvalidParam.With("%q is not a server name.", name)
		}
		asked[server] = 0
		for _, k := range keys {
			asked[server] = max(asked[server], k.Until)
		}
		if asked[server] == 0 {
			asked[server] = s.now().UnixMilli()
		}
	}
	return s.notary(ctx, r.Tenant, asked)
}

// notary answers for other servers' keys with the tenant's signature beside their own. Servers that the tenant may not federate with, and
// those about which nothing is known, are left out.
func (s *Service) notary(ctx context.Context, t *tenant.Tenant, asked map[id.Server]int64) (any, error) {
	key, err := s.Keyring.Signing(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	answer := notaryAnswer{Keys: []jsontext.Value{}}
	names := make([]id.Server, 0, len(asked))
	for server := range asked {
		names = append(names, server)
	}
	slices.Sort(names)
	for _, server := range names {
		raw, err := s.witnessed(ctx, t, server, asked[server])
		if err != nil {
			return nil, err
		}
		if raw == nil {
			continue
		}
		if server != t.Name {
			if raw, err = signing.SignJSON(raw, string(t.Name), key.ID, key.Private); err != nil {
				return nil, err
			}
		}
		answer.Keys = append(answer.Keys, raw)
	}
	return answer, nil
}

// witnessed returns a server's own signed answer: the stored one while it is valid for long enough and not past half of its life, else a new
// one; the stored one again when the server does not answer. nil when there is none.
func (s *Service) witnessed(ctx context.Context, t *tenant.Tenant, server id.Server, until int64) ([]byte, error) {
	if server == t.Name {
		return s.keysOf(ctx, t)
	}
	if err := s.Policy.Federate(ctx, t, server); err != nil {
		if mxerror.From(err) != nil {
			return nil, nil
		}
		return nil, err
	}
	if s.keys.local {
		neighbour, err := s.Tenants.ByName(ctx, server)
		if err == nil {
			return s.keysOf(ctx, neighbour)
		}
		if !errors.Is(err, tenant.ErrUnknown) {
			return nil, err
		}
	}
	stored, err := s.storedAnswer(ctx, server)
	if err != nil {
		return nil, err
	}
	now := s.now().UnixMilli()
	if stored.raw != nil && stored.validUntil >= until && now-stored.fetched < (stored.validUntil-stored.fetched)/2 {
		return stored.raw, nil
	}
	if err := s.keys.refreshDirectly(ctx, server); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return stored.raw, nil
	}
	stored, err = s.storedAnswer(ctx, server)
	return stored.raw, err
}

type storedAnswer struct {
	raw                 []byte
	validUntil, fetched int64
}

func (s *Service) storedAnswer(ctx context.Context, server id.Server) (storedAnswer, error) {
	var a storedAnswer
	var text string
	err := s.DB.QueryRow(ctx, "SELECT answer, valid_until, fetched FROM server_key_answer WHERE server = $1", string(server)).Scan(&text, &a.validUntil, &a.fetched)
	if errors.Is(err, sql.ErrNoRows) {
		return storedAnswer{}, nil
	}
	if err != nil {
		return storedAnswer{}, err
	}
	a.raw = []byte(text)
	return a, nil
}
