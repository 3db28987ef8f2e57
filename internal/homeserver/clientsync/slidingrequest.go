// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The bounds of a request of sliding sync. Clients of the unstable endpoint keep more subscriptions than the stable one allows.
const (
	maxLists         = 100
	maxSubscriptions = 100
	maxSubscribed    = 1000
	maxOpaque        = 255
	maxRequired      = 200
)

// slidingRequest is the body of simplified sliding sync (MSC4186). The unstable endpoint's older forms are read too: pos and timeout in the
// query, ranges, is_invite, and required_state as pairs of type and state key.
type slidingRequest struct {
	ConnID        string                    `json:"conn_id"`
	Pos           string                    `json:"pos"`
	Timeout       int64                     `json:"timeout"`
	Presence      string                    `json:"set_presence"`
	Lists         map[string]*listRequest   `json:"lists"`
	Subscriptions map[id.Room]*subscription `json:"room_subscriptions"`
	Extensions    extensions                `json:"extensions"`
}

// subscription is what a client wants to have of a room.
type subscription struct {
	Limit    *int64         `json:"timeline_limit"`
	Required jsontext.Value `json:"required_state"`

	config roomConfig
}

type listRequest struct {
	Limit    *int64          `json:"timeline_limit"`
	Required jsontext.Value  `json:"required_state"`
	Range    []int64         `json:"range"`
	Ranges   [][]int64       `json:"ranges"`
	Filters  *slidingFilters `json:"filters"`

	config roomConfig
}

// slidingFilters is SlidingRoomFilter.
type slidingFilters struct {
	DM           *bool     `json:"is_dm"`
	Spaces       []id.Room `json:"spaces"`
	Encrypted    *bool     `json:"is_encrypted"`
	Invite       *bool     `json:"is_invite"`
	Invited      *bool     `json:"is_invited"`
	RoomTypes    []*string `json:"room_types"`
	NotRoomTypes []*string `json:"not_room_types"`
	Tags         []string  `json:"tags"`
	NotTags      []string  `json:"not_tags"`
}

// roomConfig is what to send of a room: the newest events of its timeline, and state by any of several wishes.
type roomConfig struct {
	limit  int
	wishes []wish
}

// wish is RequiredStateRequest, $ME resolved.
type wish struct {
	Include []element `json:"include,omitempty"`
	Exclude []element `json:"exclude,omitempty"`
	Lazy    bool      `json:"lazy_members,omitzero"`
}

// element is RequiredStateElement; what is absent matches all.
type element struct {
	Type *string `json:"type,omitzero"`
	Key  *string `json:"state_key,omitzero"`
}

// read reads a request and checks it.
func readSliding(r *httpapi.Request, stable bool) (*slidingRequest, error) {
	var q slidingRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if err := q.older(r); err != nil {
		return nil, err
	}
	subscriptions := maxSubscribed
	if stable {
		subscriptions = maxSubscriptions
	}
	switch {
	case len(q.ConnID) > maxOpaque || !httpapi.IsText(q.ConnID):
		return nil, mxerror.InvalidParam.With("conn_id must be a text of at most %d bytes", maxOpaque)
	case q.Timeout < 0:
		return nil, mxerror.InvalidParam.With("timeout must not be negative")
	case !slices.Contains([]string{"", "online", "offline", "unavailable"}, q.Presence):
		return nil, mxerror.InvalidParam.With("set_presence must be online, offline or unavailable")
	case len(q.Lists) > maxLists:
		return nil, mxerror.InvalidParam.With("at most %d lists are possible", maxLists)
	case len(q.Subscriptions) > subscriptions:
		return nil, mxerror.InvalidParam.With("at most %d room subscriptions are possible", subscriptions)
	}
	for name, l := range q.Lists {
		if l == nil || name == "" || len(name) > maxOpaque || !httpapi.IsText(name) {
			return nil, mxerror.InvalidParam.With("a list needs a name of at most %d bytes and a description", maxOpaque)
		}
		if err := l.check(r.Session.User); err != nil {
			return nil, err
		}
	}
	for _, s := range q.Subscriptions {
		if s == nil {
			return nil, mxerror.InvalidParam.With("a room subscription needs a description")
		}
		var err error
		if s.config, err = newConfig(s.Limit, s.Required, r.Session.User); err != nil {
			return nil, err
		}
	}
	return &q, q.Extensions.check()
}

// older takes the parameters that older clients put into the query.
func (q *slidingRequest) older(r *httpapi.Request) error {
	if pos := r.Query("pos"); pos != "" {
		q.Pos = pos
	}
	if presence := r.Query("set_presence"); presence != "" {
		q.Presence = presence
	}
	if r.Query("timeout") == "" {
		return nil
	}
	n, err := r.QueryInt("timeout", 0, maxWait)
	q.Timeout = int64(n)
	return err
}

func (l *listRequest) check(me id.User) (err error) {
	if l.Range != nil {
		l.Ranges = append(l.Ranges, l.Range)
	}
	for _, r := range l.Ranges {
		if len(r) != 2 || r[0] < 0 || r[1] < r[0] {
			return mxerror.InvalidParam.With("a range is two indexes from 0 on, the smaller one first")
		}
	}
	l.config, err = newConfig(l.Limit, l.Required, me)
	return err
}

// newConfig reads timeline_limit and required_state.
func newConfig(limit *int64, required jsontext.Value, me id.User) (c roomConfig, err error) {
	switch {
	case limit == nil:
		return c, mxerror.MissingParam.With("timeline_limit is missing")
	case *limit < 0:
		return c, mxerror.InvalidParam.With("timeline_limit must not be negative")
	}
	c.limit = int(min(*limit, maxLimit))
	var w wish
	switch required.Kind() {
	case '{':
		err = httpapi.DecodeJSON(required, &w)
	case '[':
		w, err = readPairs(required, me)
	case 0, 'n':
	default:
		err = mxerror.BadJSON.With("required_state has a wrong form")
	}
	if err != nil {
		return c, err
	}
	if len(w.Include) > maxRequired || len(w.Exclude) > maxRequired {
		return c, mxerror.InvalidParam.With("required_state may have at most %d elements", maxRequired)
	}
	c.wishes = []wish{w}
	return c, nil
}

// readPairs reads the older form of required_state.
func readPairs(required jsontext.Value, me id.User) (w wish, err error) {
	var pairs [][]string
	if err := httpapi.DecodeJSON(append(append([]byte(`{"a":`), required...), '}'), &struct {
		A *[][]string `json:"a"`
	}{&pairs}); err != nil {
		return w, err
	}
	for _, p := range pairs {
		if len(p) != 2 {
			return w, mxerror.InvalidParam.With("required_state is a list of pairs of type and state key")
		}
		e := element{&p[0], &p[1]}
		switch {
		case p[1] == "$LAZY":
			w.Lazy = w.Lazy || p[0] == event.TypeMember || p[0] == "*"
			continue
		case p[1] == "$ME":
			own := string(me)
			e.Key = &own
		case p[1] == "*":
			e.Key = nil
		}
		if p[0] == "*" {
			e.Type = nil
		}
		w.Include = append(w.Include, e)
	}
	return w, nil
}

// join makes a config that sends what either sends.
func (c roomConfig) join(o roomConfig) roomConfig {
	return roomConfig{max(c.limit, o.limit), append(slices.Clone(c.wishes), o.wishes...)}
}

// text names what state a config wants; the same text wants the same.
func (c roomConfig) text() string {
	var texts []string
	for _, w := range c.wishes {
		if raw, err := json.Marshal(w); err == nil {
			texts = append(texts, string(raw))
		}
	}
	slices.Sort(texts)
	return "[" + strings.Join(slices.Compact(texts), ",") + "]"
}

// wishesOf reads what text wrote.
func wishesOf(text string) (wishes []wish) {
	if json.Unmarshal([]byte(text), &wishes) != nil {
		return nil
	}
	return wishes
}

// wants says whether a key of the state is wanted, lazily loaded members aside.
func wants(wishes []wish, k event.Key) bool {
	return slices.ContainsFunc(wishes, func(w wish) bool { return w.wants(k) })
}

func (w *wish) wants(k event.Key) bool {
	matches := func(e element) bool {
		return (e.Type == nil || *e.Type == k.Type) && (e.Key == nil || *e.Key == k.StateKey)
	}
	return slices.ContainsFunc(w.Include, func(e element) bool {
		// What means all state means the members only where they are not loaded lazily.
		return matches(e) && (e.Type != nil || e.Key != nil || !w.Lazy || k.Type != event.TypeMember)
	}) && !slices.ContainsFunc(w.Exclude, matches)
}

// lazy says whether members are wanted as they are needed.
func lazy(wishes []wish) bool {
	return slices.ContainsFunc(wishes, func(w wish) bool { return w.Lazy })
}
