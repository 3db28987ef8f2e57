// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// filterShape is what is checked of a filter (client-server API, "Filtering"); clientsync reads its meaning.
type filterShape struct {
	EventFields []string         `json:"event_fields"`
	EventFormat string           `json:"event_format"`
	Presence    eventFilterShape `json:"presence"`
	AccountData eventFilterShape `json:"account_data"`
	Room        struct {
		Rooms        []id.Room        `json:"rooms"`
		NotRooms     []id.Room        `json:"not_rooms"`
		IncludeLeave bool             `json:"include_leave"`
		Ephemeral    eventFilterShape `json:"ephemeral"`
		State        eventFilterShape `json:"state"`
		Timeline     eventFilterShape `json:"timeline"`
		AccountData  eventFilterShape `json:"account_data"`
	} `json:"room"`
}

type eventFilterShape struct {
	Limit                   *int64    `json:"limit"`
	Types                   []string  `json:"types"`
	NotTypes                []string  `json:"not_types"`
	Senders                 []id.User `json:"senders"`
	NotSenders              []id.User `json:"not_senders"`
	Rooms                   []id.Room `json:"rooms"`
	NotRooms                []id.Room `json:"not_rooms"`
	LazyLoadMembers         bool      `json:"lazy_load_members"`
	IncludeRedundantMembers bool      `json:"include_redundant_members"`
	ContainsURL             *bool     `json:"contains_url"`
	UnreadThreads           bool      `json:"unread_thread_notifications"`
}

// check refuses ids that are none and negative limits.
func (f *eventFilterShape) check() error {
	if f.Limit != nil && *f.Limit < 0 {
		return mxerror.BadJSON.With("a filter's limit must not be negative")
	}
	for _, users := range [][]id.User{f.Senders, f.NotSenders} {
		for _, u := range users {
			if _, err := id.ParseUser(string(u)); err != nil {
				return mxerror.BadJSON.With("a filter names %q, which is no user id", u)
			}
		}
	}
	return checkRooms(f.Rooms, f.NotRooms)
}

func checkRooms(lists ...[]id.Room) error {
	for _, rooms := range lists {
		for _, room := range rooms {
			if _, err := id.ParseRoom(string(room)); err != nil {
				return mxerror.BadJSON.With("a filter names %q, which is no room id", room)
			}
		}
	}
	return nil
}

// CheckFilter says whether JSON is a filter, for those that come inline with /sync. M_BAD_JSON or M_NOT_JSON otherwise.
func CheckFilter(definition jsontext.Value) error {
	var f filterShape
	if err := httpapi.DecodeJSON(definition, &f); err != nil {
		return err
	}
	switch f.EventFormat {
	case "", "client", "federation":
	default:
		return mxerror.BadJSON.With("event_format must be client or federation")
	}
	for _, e := range []*eventFilterShape{&f.Presence, &f.AccountData, &f.Room.Ephemeral, &f.Room.State, &f.Room.Timeline, &f.Room.AccountData} {
		if err := e.check(); err != nil {
			return err
		}
	}
	return checkRooms(f.Room.Rooms, f.Room.NotRooms)
}

type filterReply struct {
	ID string `json:"filter_id"`
}

func (s *Service) postFilter(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := ownUser(r)
	if err != nil {
		return nil, err
	}
	if err := CheckFilter(r.Body); err != nil {
		return nil, err
	}
	definition, err := objectBody(r)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(definition)
	filter := base64.RawURLEncoding.EncodeToString(sum[:9])
	_, err = s.db.Exec(ctx, "INSERT INTO filter (tenant, user_id, filter_id, definition) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
		int64(r.Tenant.ID), string(user), filter, string(definition))
	return filterReply{filter}, err
}

// Filter returns a stored filter, or M_NOT_FOUND.
func (s *Service) Filter(ctx context.Context, t tenant.ID, user id.User, filter string) (jsontext.Value, error) {
	var definition string
	err := s.db.QueryRow(ctx, "SELECT definition FROM filter WHERE tenant = $1 AND user_id = $2 AND filter_id = $3", int64(t), string(user), filter).Scan(&definition)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, mxerror.NotFound.With("there is no such filter")
	}
	return jsontext.Value(definition), err
}

func (s *Service) getFilter(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := ownUser(r)
	if err != nil {
		return nil, err
	}
	return s.Filter(ctx, r.Tenant.ID, user, r.Var("filterId"))
}
