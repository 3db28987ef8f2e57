// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// filter is Filter of the client-server API.
type filter struct {
	EventFields []string             `json:"event_fields"`
	EventFormat string               `json:"event_format"`
	Presence    timeline.EventFilter `json:"presence"`
	AccountData timeline.EventFilter `json:"account_data"`
	Room        struct {
		Rooms        []id.Room            `json:"rooms"`
		NotRooms     []id.Room            `json:"not_rooms"`
		IncludeLeave bool                 `json:"include_leave"`
		Ephemeral    timeline.EventFilter `json:"ephemeral"`
		State        timeline.EventFilter `json:"state"`
		Timeline     timeline.EventFilter `json:"timeline"`
		AccountData  timeline.EventFilter `json:"account_data"`
	} `json:"room"`
}

// noFilter admits all. Waiting syncs share it; it is never changed.
var noFilter = &filter{}

// room says whether a room may appear at all.
func (f *filter) room(r id.Room) bool {
	return (f.Room.Rooms == nil || slices.Contains(f.Room.Rooms, r)) && !slices.Contains(f.Room.NotRooms, r)
}

// filter reads the filter parameter: a filter's id, or the filter itself when it begins with a brace.
func (s *Service) filter(ctx context.Context, r *httpapi.Request) (*filter, error) {
	text := r.Query("filter")
	if text == "" {
		return noFilter, nil
	}
	f := &filter{}
	definition := jsontext.Value(text)
	if strings.HasPrefix(text, "{") {
		if err := account.CheckFilter(definition); err != nil {
			return nil, err
		}
	} else {
		var err error
		if definition, err = s.o.Accounts.Filter(ctx, r.Tenant.ID, r.Session.User, text); err != nil {
			return nil, err
		}
	}
	if json.Unmarshal(definition, f) != nil {
		return nil, mxerror.InvalidParam.With("this is no filter")
	}
	return f, nil
}
