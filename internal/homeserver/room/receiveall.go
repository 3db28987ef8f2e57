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
			errs[i] = s.Receive(context.WithValue(ctx, handover{}, over), t, origin, e)
		})
		<-next
	}
	work.Wait()
	for i, e := range events {
		errs[i] = errs[first[e.ID()]]
	}
	return errs
}

// handover is the context's key for what is called when an event's plan has been handed to the committer.
type handover struct{}

func handedOver(ctx context.Context) {
	if f, ok := ctx.Value(handover{}).(func()); ok {
		f()
	}
}
