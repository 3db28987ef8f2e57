// SPDX-License-Identifier: Apache-2.0

package account

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	typeTag       = "m.tag"
	typeFullyRead = "m.fully_read"
	typePushRules = "m.push_rules"
)

// AccountDatum is one entry of a user's account data.
type AccountDatum struct {
	Room     id.Room // empty: global
	Type     string
	Content  jsontext.Value
	Position int64
}

// AccountDataSince returns the entries whose last change lies in the positions (from, to]; from 0 returns all up to to.
func (s *Service) AccountDataSince(ctx context.Context, t tenant.ID, user id.User, from, to int64) ([]AccountDatum, error) {
	rows, err := s.db.Query(ctx, `SELECT room, type, content, position FROM account_data
		WHERE tenant = $1 AND user_id = $2 AND position > $3 AND position <= $4 AND (NOT deleted OR $3 > 0) ORDER BY position`, int64(t), string(user), from, to)
	return database.All(rows, err, func(rows *sql.Rows) (AccountDatum, error) {
		var d AccountDatum
		var content string
		err := rows.Scan(&d.Room, &d.Type, &content, &d.Position)
		d.Content = jsontext.Value(content)
		return d, err
	})
}

// AccountDataOfType returns a user's entries of one type in all rooms.
func (s *Service) AccountDataOfType(ctx context.Context, t tenant.ID, user id.User, typ string) ([]AccountDatum, error) {
	rows, err := s.db.Query(ctx, "SELECT room, content, position FROM account_data WHERE tenant = $1 AND user_id = $2 AND type = $3", int64(t), string(user), typ)
	return database.All(rows, err, func(rows *sql.Rows) (AccountDatum, error) {
		d := AccountDatum{Type: typ}
		var content string
		err := rows.Scan(&d.Room, &content, &d.Position)
		d.Content = jsontext.Value(content)
		return d, err
	})
}

// AllAccountData returns all of a user's entries up to a position, and the defaults of what the user has not set.
func (s *Service) AllAccountData(ctx context.Context, t *tenant.Tenant, user id.User, to int64) ([]AccountDatum, error) {
	all, err := s.AccountDataSince(ctx, t.ID, user, 0, to)
	if err != nil {
		return nil, err
	}
	defaults, err := s.o.Policy.AccountDefaults(ctx, t)
	for _, d := range all {
		if d.Room == "" {
			delete(defaults, d.Type)
		}
	}
	for _, typ := range slices.Sorted(maps.Keys(defaults)) {
		all = append(all, AccountDatum{Type: typ, Content: defaults[typ], Position: to + 1}) // newer than what anybody has been told
	}
	return all, err
}

// AccountDatum returns one entry; ok is false where there is none.
func (s *Service) AccountDatum(ctx context.Context, t tenant.ID, user id.User, room id.Room, typ string) (content jsontext.Value, ok bool, err error) {
	content, _, ok, err = s.datum(ctx, t, user, room, typ)
	return content, ok, err
}

func (s *Service) datum(ctx context.Context, t tenant.ID, user id.User, room id.Room, typ string) (jsontext.Value, int64, bool, error) {
	var content string
	var position int64
	var deleted bool
	err := s.db.QueryRow(ctx, "SELECT content, position, deleted FROM account_data WHERE tenant = $1 AND user_id = $2 AND room = $3 AND type = $4",
		int64(t), string(user), string(room), typ).Scan(&content, &position, &deleted)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, 0, false, nil
	}
	if deleted {
		return nil, position, false, err
	}
	return jsontext.Value(content), position, err == nil, err
}

// AddAccountData adds to a plan that an entry gets new content; the change takes the plan's next position. Other slices use it for what they
// keep as account data (push rules, read markers).
func AddAccountData(plan *stream.Plan, user id.User, room id.Room, typ string, content jsontext.Value) {
	plan.Positioned = append(plan.Positioned, stream.Statement{
		SQL: `INSERT INTO account_data (tenant, user_id, room, type, content, position) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (tenant, user_id, room, type) DO UPDATE SET content = excluded.content, position = excluded.position, deleted = FALSE`,
		Args: []any{int64(plan.Tenant), string(user), string(room), typ, string(content), stream.At(len(plan.Changes))},
	})
	plan.Changes = append(plan.Changes, stream.Change{Kind: stream.AccountData, Users: []id.User{user}})
}

// deleteAccountData removes an entry (MSC3391). Other devices see it as empty content, new ones not at all; deleting what is not there is no error.
func (s *Service) deleteAccountData(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := ownUser(r)
	if err != nil {
		return nil, err
	}
	room, err := place(r)
	if err != nil {
		return nil, err
	}
	typ := r.Var("type")
	if typ == typeFullyRead || typ == typePushRules {
		return nil, mxerror.New(405, mxerror.BadJSON.Code, "Cannot delete "+typ+" through this API")
	}
	_, exists, err := s.AccountDatum(ctx, r.Tenant.ID, user, room, typ)
	if err != nil || !exists {
		return nil, err
	}
	plan := &stream.Plan{Tenant: r.Tenant.ID, Changes: []stream.Change{{Kind: stream.AccountData, Users: []id.User{user}}},
		Positioned: []stream.Statement{{SQL: "UPDATE account_data SET content = '{}', deleted = TRUE, position = $5 WHERE tenant = $1 AND user_id = $2 AND room = $3 AND type = $4",
			Args: []any{int64(r.Tenant.ID), string(user), string(room), typ, stream.At(0)}}}}
	_, err = s.o.Committer.Commit(ctx, plan)
	return nil, err
}

// SetAccountData stores an entry. content is a JSON object.
func (s *Service) SetAccountData(ctx context.Context, t tenant.ID, user id.User, room id.Room, typ string, content jsontext.Value) error {
	plan := &stream.Plan{Tenant: t}
	AddAccountData(plan, user, room, typ, content)
	_, err := s.o.Committer.Commit(ctx, plan)
	return err
}

// place is the room in the path of an account-data route, empty on the global one.
func place(r *httpapi.Request) (id.Room, error) {
	if r.Var("roomId") == "" {
		return "", nil
	}
	return r.Room()
}

func (s *Service) putAccountData(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := ownUser(r)
	if err != nil {
		return nil, err
	}
	room, err := place(r)
	if err != nil {
		return nil, err
	}
	typ := r.Var("type")
	if typ == typeFullyRead || typ == typePushRules {
		return nil, mxerror.New(405, mxerror.BadJSON.Code, "Cannot set "+typ+" through this API")
	}
	content, err := objectBody(r)
	if err != nil {
		return nil, err
	}
	return nil, s.SetAccountData(ctx, r.Tenant.ID, user, room, typ, content)
}

// objectBody returns the body as a compact JSON object.
func objectBody(r *httpapi.Request) (jsontext.Value, error) {
	var object map[string]jsontext.Value
	if err := r.Decode(&object); err != nil {
		return nil, err
	}
	content := jsontext.Value(bytes.Clone(r.Body))
	if err := content.Compact(); err != nil {
		return nil, mxerror.NotJSON.With("the body is not JSON")
	}
	return content, nil
}

func (s *Service) getAccountData(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := ownUser(r)
	if err != nil {
		return nil, err
	}
	room, err := place(r)
	if err != nil {
		return nil, err
	}
	content, ok, err := s.AccountDatum(ctx, r.Tenant.ID, user, room, r.Var("type"))
	if err == nil && !ok && room == "" {
		var defaults map[string]jsontext.Value
		defaults, err = s.o.Policy.AccountDefaults(ctx, r.Tenant)
		content, ok = defaults[r.Var("type")]
	}
	if err == nil && !ok {
		err = mxerror.NotFound.With("there is no account data of this type")
	}
	return content, err
}

// tagContent is the content of m.tag.
type tagContent struct {
	Tags map[string]jsontext.Value `json:"tags"`
}

func (s *Service) getTags(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := ownUser(r)
	if err != nil {
		return nil, err
	}
	room, err := r.Room()
	if err != nil {
		return nil, err
	}
	content, _, err := s.AccountDatum(ctx, r.Tenant.ID, user, room, typeTag)
	if err != nil {
		return nil, err
	}
	return readTags(content), nil
}

// readTags tolerates what a client stored through the account-data endpoint.
func readTags(content jsontext.Value) tagContent {
	var c tagContent
	if err := json.Unmarshal(content, &c); err != nil || c.Tags == nil {
		return tagContent{map[string]jsontext.Value{}}
	}
	return c
}

func (s *Service) putTag(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Order *float64 `json:"order"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	tag, err := objectBody(r)
	if err != nil {
		return nil, err
	}
	return nil, s.changeTags(ctx, r, func(tags map[string]jsontext.Value) { tags[r.Var("tag")] = tag })
}

func (s *Service) deleteTag(ctx context.Context, r *httpapi.Request) (any, error) {
	return nil, s.changeTags(ctx, r, func(tags map[string]jsontext.Value) { delete(tags, r.Var("tag")) })
}

// changeTags reads, changes and writes the tags of a room.
func (s *Service) changeTags(ctx context.Context, r *httpapi.Request, change func(map[string]jsontext.Value)) error {
	user, err := ownUser(r)
	if err != nil {
		return err
	}
	room, err := r.Room()
	if err != nil {
		return err
	}
	return s.ChangeAccountData(ctx, r.Tenant.ID, user, room, typeTag, func(content jsontext.Value, _ bool) (jsontext.Value, error) {
		c := readTags(content)
		change(c.Tags)
		return json.Marshal(c, json.Deterministic(true))
	})
}

// maxTries bounds how often a change is repeated because another device changed the same entry meanwhile.
const maxTries = 20

// ChangeAccountData reads, changes and writes one entry; a guard makes sure that nobody wrote in between. change may be called again.
func (s *Service) ChangeAccountData(ctx context.Context, t tenant.ID, user id.User, room id.Room, typ string, change func(content jsontext.Value, exists bool) (jsontext.Value, error)) error {
	for range maxTries {
		content, position, exists, err := s.datum(ctx, t, user, room, typ)
		if err != nil {
			return err
		}
		updated, err := change(content, exists)
		if err != nil {
			return err
		}
		plan := &stream.Plan{Tenant: t, Unique: []string{"account_data:" + string(user) + string(room) + typ}}
		key := []any{int64(t), string(user), string(room), typ}
		if exists || position > 0 { // a deleted entry has a row too
			plan.Guard = &stream.Statement{SQL: `UPDATE account_data SET content = content WHERE tenant = $1 AND user_id = $2 AND room = $3 AND type = $4
				AND position = $5`, Args: append(key, position)}
		} else {
			plan.Guard = &stream.Statement{SQL: `INSERT INTO account_data (tenant, user_id, room, type, content, position) VALUES ($1, $2, $3, $4, '{}', 0)
				ON CONFLICT DO NOTHING`, Args: key}
		}
		AddAccountData(plan, user, room, typ, updated)
		if _, err = s.o.Committer.Commit(ctx, plan); !errors.Is(err, stream.ErrStale) {
			return err
		}
	}
	return mxerror.Unknown.With("this is being changed by too many devices at once")
}
