// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	defaultLimit, maxLimit = 50, 100
	// maxDepth bounds how deep a walk goes, maxWalk how many rooms it meets.
	maxDepth, maxWalk = 50, 20_000
	// pageTime is how long a page goes on asking other servers; the next page takes up where it ended.
	pageTime = 20 * time.Second
)

// walk is a tree being walked depth first.
type walk struct {
	stack []step // the next room is the last one
	seen  map[id.Room]bool
	// shown is how many rooms have been given out.
	shown int
}

// step is a room still to be looked at.
type step struct {
	room  id.Room
	via   []id.Server
	depth int
	// known is what its parent's server said about it, if that is all there is to know: it is no space.
	known *Room
}

type walkKey struct {
	tenant tenant.ID
	user   id.User
	room   id.Room
	token  string
}

func (w *walk) clone() *walk { return &walk{slices.Clone(w.stack), maps.Clone(w.seen), w.shown} }

// request is what a client asks for.
type request struct {
	room             id.Room
	via              []id.Server
	suggested        bool
	depth, limit     int
	from             string
	token            token
	tenant           *tenant.Tenant
	user             id.User
	depthGiven, flag bool // named by the client
}

// token stands for a place in a walk: enough to walk there again when the walk itself is forgotten.
type token struct {
	depth, shown int
	suggested    bool
	nonce        uint32
}

func (k token) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %d %t %d", k.depth, k.shown, k.suggested, k.nonce))
}

func parseToken(s string) (k token, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return k, false
	}
	n, err := fmt.Sscanf(string(b), "%d %d %t %d", &k.depth, &k.shown, &k.suggested, &k.nonce)
	return k, err == nil && n == 4 && k.depth >= 0 && k.depth <= maxDepth && k.shown > 0 && k.shown <= maxWalk && k.String() == s
}

func readRequest(r *httpapi.Request) (q request, err error) {
	q = request{tenant: r.Tenant, user: r.Session.User, from: r.Query("from"), via: servers(r), depthGiven: r.Query("max_depth") != "", flag: r.Query("suggested_only") != ""}
	if q.room, err = r.Room(); err != nil {
		return q, err
	}
	if q.suggested, err = r.QueryBool("suggested_only", false); err != nil {
		return q, err
	}
	if q.depth, err = r.QueryInt("max_depth", maxDepth, maxDepth); err != nil {
		return q, err
	}
	if q.limit, err = r.QueryInt("limit", defaultLimit, maxLimit); err != nil {
		return q, err
	}
	if q.limit == 0 {
		return q, mxerror.InvalidParam.With("limit must be greater than zero.")
	}
	if q.from == "" {
		return q, nil
	}
	var ok bool
	if q.token, ok = parseToken(q.from); !ok {
		return q, mxerror.InvalidParam.With("from is not a token of this endpoint.")
	}
	if q.depthGiven && q.depth != q.token.depth || q.flag && q.suggested != q.token.suggested {
		return q, mxerror.InvalidParam.With("max_depth and suggested_only cannot change between pages.")
	}
	q.depth, q.suggested = q.token.depth, q.token.suggested
	return q, nil
}

// servers reads the via parameters.
func servers(r *httpapi.Request) []id.Server {
	var out []id.Server
	for _, name := range r.Values()["via"] {
		if server, err := id.ParseServer(name); err == nil && !slices.Contains(out, server) {
			out = append(out, server)
		}
	}
	return out
}

type hierarchyReply struct {
	Rooms     []Room `json:"rooms"`
	NextBatch string `json:"next_batch,omitzero"`
}

func (s *Service) hierarchy(ctx context.Context, r *httpapi.Request) (any, error) {
	q, err := readRequest(r)
	if err != nil {
		return nil, err
	}
	reply := hierarchyReply{Rooms: []Room{}}
	bounded, cancel := context.WithTimeout(ctx, pageTime)
	defer cancel()
	w, skip, err := s.resume(bounded, q)
	if err != nil {
		return nil, err
	}
	for len(w.stack) > 0 && len(reply.Rooms) < q.limit {
		last := w.stack[len(w.stack)-1]
		found, err := s.visit(bounded, q, w)
		if err != nil {
			if ctx.Err() == nil && bounded.Err() != nil && len(reply.Rooms) > 0 {
				w.stack = append(w.stack, last) // the next page begins with it
				delete(w.seen, last.room)
				break
			}
			return nil, err
		}
		switch {
		case found == nil && last.depth == 0:
			return nil, errHidden
		case found == nil:
		case skip > 0:
			skip--
		default:
			reply.Rooms = append(reply.Rooms, *found)
			w.shown++
		}
	}
	if len(w.stack) > 0 && w.shown < maxWalk {
		next := token{q.depth, w.shown, q.suggested, rand.Uint32()}
		reply.NextBatch = next.String()
		s.walks.Set(walkKey{q.tenant.ID, q.user, q.room, reply.NextBatch}, w)
	}
	return reply, nil
}

var errHidden = mxerror.Forbidden.With("You are not allowed to view this room.")

// resume takes up the walk that a token stands for: the remembered one, or a new one that passes over what has been shown. Who has lost sight
// of the root gets no more of the tree.
func (s *Service) resume(ctx context.Context, q request) (w *walk, skip int, err error) {
	root := step{room: q.room, via: q.via}
	if q.from != "" {
		if known, ok := s.walks.Get(walkKey{q.tenant.ID, q.user, q.room, q.from}); ok {
			found, _, err := s.look(ctx, q, root)
			if err == nil && found == nil {
				err = errHidden
			}
			return known.clone(), 0, err
		}
	}
	return &walk{stack: []step{root}, seen: map[id.Room]bool{}, shown: q.token.shown}, q.token.shown, nil
}

// visit takes the next room off the walk and puts its children there. It returns nil when the room is not to be shown.
func (s *Service) visit(ctx context.Context, q request, w *walk) (*Room, error) {
	at := w.stack[len(w.stack)-1]
	w.stack = w.stack[:len(w.stack)-1]
	if w.seen[at.room] || len(w.seen) >= maxWalk {
		return nil, nil
	}
	w.seen[at.room] = true
	found, known, err := s.look(ctx, q, at)
	if err != nil || found == nil {
		return nil, err
	}
	for _, hidden := range known.Inaccessible {
		w.seen[hidden] = true
	}
	if at.depth == q.depth {
		return found, nil
	}
	said := make(map[id.Room]*Room, len(known.Children))
	for i := range known.Children {
		if c := &known.Children[i]; c.RoomType != spaceType {
			said[c.RoomID] = c
		}
	}
	for _, c := range slices.Backward(found.Children) {
		content, _ := readChild(c.Content)
		name := id.Room(c.StateKey)
		if !w.seen[name] {
			w.stack = append(w.stack, step{room: name, via: content.via, depth: at.depth + 1, known: said[name]})
		}
	}
	return found, nil
}

// look finds a room that the user may see: here, in what the parent's server said, or at other servers. known is what another server said
// about its children.
func (s *Service) look(ctx context.Context, q request, at step) (found *Room, known Hierarchy, err error) {
	r, err := s.here(ctx, q.tenant, at.room)
	if err != nil {
		return nil, known, err
	}
	switch {
	case r != nil:
		described, err := s.describe(ctx, q.tenant.ID, r, q.suggested)
		if err != nil {
			return nil, known, err
		}
		found = &described
	case at.known != nil:
		found = at.known
	default:
		h, err := s.elsewhere(ctx, q.tenant, q.user, at.room, at.via, q.suggested)
		if err != nil || h == nil {
			return nil, known, err
		}
		return &h.Room, *h, nil
	}
	ok, err := s.userMaySee(ctx, q.tenant, q.user, &found.PublicRoom)
	if err != nil || !ok {
		return nil, known, err
	}
	return found, known, nil
}
