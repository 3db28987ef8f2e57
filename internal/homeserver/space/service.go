// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Options are what the service stands on. Rooms is required.
type Options struct {
	Rooms *room.Service
	// Remote asks another server for a room and its children; nil knows only the tenant's own rooms.
	Remote func(ctx context.Context, t *tenant.Tenant, server id.Server, room id.Room, suggestedOnly bool) (*Hierarchy, error)
}

// Service answers for the rooms of a node. It is safe for concurrent use.
type Service struct {
	Options
	now func() time.Time
	// answers are what other servers said lately, walks the places where pages of a hierarchy ended. Both may be lost at any time.
	answers cache.Cache[answerKey, answer]
	walks   cache.Cache[walkKey, *walk]
}

type answerKey struct {
	tenant    tenant.ID
	server    id.Server // others may tell otherwise of the same room
	room      id.Room
	suggested bool
}

// answer is what another server said.
type answer struct {
	*Hierarchy
	until time.Time
}

const (
	// answerKept is how long another server's answer is used again.
	answerKept = 5 * time.Minute
	// answerEntries and walkEntries bound the caches, in rooms.
	answerEntries, walkEntries = 50_000, 200_000
)

// New returns the service of a node.
func New(o Options) *Service {
	return &Service{
		Options: o,
		now:     time.Now,
		answers: cache.New(cache.Options[answerKey, answer]{Weight: answerEntries, Weigh: func(_ answerKey, a answer) uint32 {
			return uint32(1 + len(a.Room.Children) + len(a.Children) + len(a.Inaccessible))
		}}),
		walks: cache.New(cache.Options[walkKey, *walk]{Weight: walkEntries, Weigh: func(_ walkKey, w *walk) uint32 {
			return uint32(1 + len(w.stack) + len(w.seen))
		}}),
	}
}
