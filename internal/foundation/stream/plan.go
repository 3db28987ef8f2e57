// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"errors"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Statement is one SQL statement. In [Plan.Positioned] an argument may be [At].
type Statement = database.Statement

// at is the placeholder for the position of a plan's i-th change.
type at int

// At stands among a statement's arguments for the position that the plan's i-th change gets at commit; i counts from 0.
func At(i int) any { return at(i) }

// Kind says what a change is, so that a sync knows which tables to ask.
type Kind uint8

// The kinds of durable changes (engine rule 6).
const (
	Timeline    Kind = iota + 1 // an event in a room's timeline
	StateDelta                  // the current state changed without a timeline event (resolution)
	Membership                  // a user's own view of a room changed without a timeline event there: invite, rejected invite, forget
	Receipt                     // receipt or read marker
	AccountData                 // global or room account data, push rules, tags, subscriptions to threads
	DeviceList                  // a user's devices or identity keys changed
	ToDevice                    // a message in a device's inbox
	Keys                        // one-time or fallback keys of a device
	Profile                     // a user's profile
	Device                      // the user's own device or session rows
	Other                       // anything else that a client can observe
)

// Change is one durable change that a client or peer can observe. Each takes one position.
type Change struct {
	Kind Kind
	// Room is the nid of the room concerned, 0 for none. Its joined local members are woken.
	Room int64
	// Users are local users concerned beside the members of Room.
	Users []id.User
	// State says that a change of the timeline changed the room's current state too.
	State bool
}

// Positioned is a committed change.
type Positioned struct {
	Position int64
	Change
}

// Plan is all that one request or PDU changes for exactly one tenant. The closure that makes it has read, authorised and signed already: the
// committer only compares and writes (engine rule 2).
type Plan struct {
	Tenant tenant.ID
	// Room orders the plans of one room within a batch; 0 for none.
	Room int64
	// Unique are keys of which a batch takes only one plan each, for example "txn:DEVICE:send:1"; the later plan goes into the next batch,
	// where its guard meets the earlier one's rows.
	Unique []string
	// Guard must touch exactly one row; otherwise the plan is out, has written nothing, and Commit answers [ErrStale].
	Guard *Statement
	// Rows are statements that need no position.
	Rows []Statement
	// Positioned are statements whose arguments may hold [At].
	Positioned []Statement
	// Changes are what the plan announces; the i-th gets the plan's first position plus i.
	Changes []Change
	// Committed, when set, is told the plan's first position once it is durable and before anybody hears of its changes. It runs in the committer and
	// must not wait for anything.
	Committed func(first int64)
	// Trace names in the log the request that the plan comes from.
	Trace string
	// More says that its caller hands over another plan at once, without waiting for this one: it is worth a moment to take both together.
	More bool
	// Outbox are servers that have something to fetch from the plan's first position on (engine rule 20).
	Outbox []id.Server
}

// ErrStale is answered when a plan's guard touched no row: another plan changed what it was built on, or its transaction id exists.
var ErrStale = errors.New("stale plan")

// ErrClosed is answered after the committer has stopped.
var ErrClosed = errors.New("committer is stopped")

// Pending is a plan handed to the committer.
type Pending struct {
	plan  *Plan
	done  chan struct{}
	first int64
	err   error
}

// Wait waits for the commit and returns the plan's first position. When ctx ends first the plan may still be committed.
func (p *Pending) Wait(ctx context.Context) (int64, error) {
	select {
	case <-p.done:
		return p.first, p.err
	default:
	}
	select {
	case <-p.done:
		return p.first, p.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Done is closed when the plan has been committed or refused.
func (p *Pending) Done() <-chan struct{} { return p.done }

// resolve replaces At placeholders by positions.
func resolve(s Statement, first int64) Statement {
	for i, a := range s.Args {
		k, ok := a.(at)
		if !ok {
			continue
		}
		args := append([]any(nil), s.Args...)
		args[i] = first + int64(k)
		for j := i + 1; j < len(args); j++ {
			if k, ok := args[j].(at); ok {
				args[j] = first + int64(k)
			}
		}
		return Statement{SQL: s.SQL, Args: args}
	}
	return s
}
