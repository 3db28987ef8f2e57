// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"sync"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// ReceiveAll is [Service.Receive] for the PDUs of one room in one transaction, in their order. Each begins when the one before has been handed to
// the committer, not when that is durable, so that they share a few commits; all are durable or refused when it returns. The errors stand in the
// order of the events.
func (s *Service) ReceiveAll(ctx context.Context, t *tenant.Tenant, origin id.Server, events []*event.Event) []error {
	ctx = s.lookAhead(ctx, t.ID, events)
	errs := make([]error, len(events))
	first := make(map[id.Event]int, len(events))
	var work sync.WaitGroup
	for i, e := range events {
		if _, twice := first[e.ID()]; twice {
			continue
		}
		first[e.ID()] = i
		next := make(chan struct{})
		over := sync.OnceFunc(func() { close(next) })
		work.Go(func() {
			defer over()
			errs[i] = s.Receive(context.WithValue(ctx, handoverKey{}, handover{over, i+1 < len(events)}), t, origin, e)
		})
		<-next
	}
	work.Wait()
	for i, e := range events {
		errs[i] = errs[first[e.ID()]]
	}
	return errs
}

// handoverKey is the context's key for a [handover].
type handoverKey struct{}

// handover is about a PDU among others.
type handover struct {
	over func() // called when its plan has been handed to the committer
	more bool   // another one follows
}

func handedOver(ctx context.Context) {
	if h, ok := ctx.Value(handoverKey{}).(handover); ok {
		h.over()
	}
}

func moreFollows(ctx context.Context) bool {
	h, _ := ctx.Value(handoverKey{}).(handover)
	return h.more
}

// unseen is the context's key for the ids that nothing was stored under when their transaction began.
type unseen struct{}

// lookAhead asks for all events of a transaction at once whether they are here. Of those that are not nobody asks again one by one; that this still
// holds when they are committed their guard says.
func (s *Service) lookAhead(ctx context.Context, t tenant.ID, events []*event.Event) context.Context {
	ids := make([]id.Event, len(events))
	for i, e := range events {
		ids[i] = e.ID()
	}
	found, err := s.Events(ctx, t, ids)
	if err != nil {
		return ctx // whoever asks for one of them meets the error
	}
	set := make(map[id.Event]bool, len(ids))
	for _, eid := range ids {
		set[eid] = found[eid] == nil
	}
	return context.WithValue(ctx, unseen{}, set)
}

func isUnseen(ctx context.Context, eid id.Event) bool {
	set, _ := ctx.Value(unseen{}).(map[id.Event]bool)
	return set[eid]
}
