// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	// joinBatch is how many events of a join are verified together.
	joinBatch = 500
	// maxJoinValue bounds one value of a join's answer in bytes: an event, or the list of servers.
	maxJoinValue = 4 << 20
	// keysAtOnce is how many servers are asked for their keys side by side.
	keysAtOnce = 32
	// keyTries and keyTryPause say how often and after which pause servers are asked again whose keys a join could not have.
	keyTries    = 3
	keyTryPause = time.Second
)

// joined sends a join and reads the room's state from the answer as it comes: what has been read of a large room are its verified events, never
// the text of the answer.
func (s *Service) joined(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event, c call) (room.Joined, error) {
	reply, err := s.ask(ctx, t, server, c, always)
	if err != nil {
		return room.Joined{}, err
	}
	defer reply.body.Close()
	if err := jsonAnswer(reply); err != nil {
		return room.Joined{}, malformed(server, err)
	}
	a := &joinAnswer{s: s, server: server, own: e, body: &rationed{r: reply.body}}
	if err := a.read(ctx); err != nil {
		return room.Joined{}, s.joinFailed(ctx, server, a.body, err)
	}
	return a.result(ctx)
}

// joinFailed tells an answer that broke off from one that is wrong and from failures of our own.
func (s *Service) joinFailed(ctx context.Context, server id.Server, body *rationed, err error) error {
	if body.err != nil {
		return s.brokenOff(ctx, server, body.err)
	}
	if mxerror.From(err) != nil || notVerdict(ctx, err) {
		return err
	}
	return malformed(server, err)
}

// rationed gives a decoder only so much until it is given more, so that no single value can fill the memory. It keeps the error of the reader below.
type rationed struct {
	r    io.Reader
	left int
	err  error
}

// errValueTooLarge is the answer's fault, not the connection's.
var errValueTooLarge = errors.New("a value in it is larger than allowed")

func (r *rationed) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, errValueTooLarge
	}
	n, err := r.r.Read(p[:min(len(p), r.left)])
	r.left -= n
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// joinAnswer is the answer to send_join while it is read.
type joinAnswer struct {
	s      *Service
	server id.Server
	own    *event.Event // our join
	body   *rationed
	dec    *jsontext.Decoder

	signed       jsontext.Value // our join as the resident server returned it
	omitted      bool
	servers      []id.Server
	state, chain joinEvents
}

// joinEvents are the events of one list of the answer.
type joinEvents struct {
	good  []*event.Event
	owing []*event.Event // their signers' keys could not be had so far
	count int
}

// read goes through the answer.
func (a *joinAnswer) read(ctx context.Context) error {
	a.body.left = maxJoinValue
	a.dec = jsontext.NewDecoder(a.body, decodeOptions)
	if a.dec.PeekKind() != '{' {
		if _, err := a.dec.ReadToken(); err != nil {
			return err
		}
		return errors.New("it is no object")
	}
	if _, err := a.dec.ReadToken(); err != nil {
		return err
	}
	for a.dec.PeekKind() == '"' {
		a.body.left = maxJoinValue
		name, err := a.dec.ReadToken()
		if err != nil {
			return err
		}
		if err := a.member(ctx, name.String()); err != nil {
			return err
		}
	}
	if _, err := a.dec.ReadToken(); err != nil {
		return err
	}
	if _, err := a.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("something comes after its end")
	}
	if a.state.count == 0 {
		return errors.New("it holds no state") // a room has at least its creation
	}
	return nil
}

// member reads one member of the answer.
func (a *joinAnswer) member(ctx context.Context, name string) error {
	switch name {
	case "state":
		return a.list(ctx, &a.state)
	case "auth_chain":
		return a.list(ctx, &a.chain)
	}
	raw, err := a.dec.ReadValue()
	if err != nil {
		return err
	}
	switch name {
	case "event":
		a.signed = slices.Clone(raw)
	case "members_omitted":
		return json.Unmarshal(raw, &a.omitted)
	case "servers_in_room":
		return json.Unmarshal(raw, &a.servers)
	}
	return nil
}

// list reads a list of events and verifies them in batches.
func (a *joinAnswer) list(ctx context.Context, into *joinEvents) error {
	if kind := a.dec.PeekKind(); kind != '[' {
		if _, err := a.dec.ReadValue(); err != nil {
			return err
		}
		if kind == 'n' {
			return nil
		}
		return errors.New("its events are no list")
	}
	if _, err := a.dec.ReadToken(); err != nil {
		return err
	}
	batch := make([]*event.Event, 0, joinBatch)
	for {
		a.body.left = maxJoinValue
		kind := a.dec.PeekKind()
		if kind == ']' || kind == 0 || len(batch) == joinBatch {
			if err := a.verify(ctx, batch, into); err != nil {
				return err
			}
			batch = batch[:0]
		}
		if kind == ']' || kind == 0 {
			_, err := a.dec.ReadToken()
			return err
		}
		raw, err := a.dec.ReadValue()
		if err != nil {
			return err
		}
		if into.count++; into.count > maxEvents {
			return fmt.Errorf("it has more than %d events", maxEvents)
		}
		e, err := event.Parse(a.own.Version(), slices.Clone(raw))
		if err != nil {
			a.s.Log.InfoContext(ctx, "malformed event left out", "server", string(a.server), "error", err)
			continue
		}
		batch = append(batch, e)
	}
}

// verify checks a batch. Each server's keys are asked for once and many servers at a time, before the processors are kept busy.
func (a *joinAnswer) verify(ctx context.Context, batch []*event.Event, into *joinEvents) error {
	a.s.fetchKeys(ctx, batch)
	valid, reasons, err := a.s.VerifyEvents(ctx, batch)
	if err != nil {
		return err
	}
	for i, e := range valid {
		switch {
		case e != nil:
			into.good = append(into.good, e)
		case errors.Is(reasons[i], errNoAnswer):
			into.owing = append(into.owing, batch[i])
		default:
			a.s.Log.InfoContext(ctx, "unverified event left out", "server", string(a.server), "event", string(batch[i].ID()), "error", reasons[i])
		}
	}
	return nil
}

// fetchKeys asks the servers that signed events for those keys that are not known yet. Who does not answer is found out by the verification.
func (s *Service) fetchKeys(ctx context.Context, events []*event.Event) {
	seen := map[id.Server]bool{}
	var g errgroup.Group
	g.SetLimit(keysAtOnce)
	for _, e := range events {
		for _, server := range e.RequiredSigners() {
			keys := e.SignatureKeys(server)
			if seen[server] || len(keys) == 0 || !validKeyID(keys[0]) {
				continue
			}
			seen[server] = true
			g.Go(func() error {
				_, err := s.keys.find(ctx, keyName{server, keys[0]}, e.Timestamp(), e.Version().KeyValidity)
				if err != nil {
					s.Log.DebugContext(ctx, "keys of a server could not be had", "server", string(server), "error", err)
				}
				return nil
			})
		}
	}
	_ = g.Wait() // nothing in it fails
}

// result completes the answer: events whose signers did not answer get a second chance, and our join must be ours.
func (a *joinAnswer) result(ctx context.Context) (room.Joined, error) {
	if a.omitted {
		return room.Joined{}, malformed(a.server, errors.New("members are left out of the state, though that was not asked for"))
	}
	j := room.Joined{Event: a.own, Servers: a.servers}
	if len(a.signed) > 0 {
		if signed, err := event.Parse(a.own.Version(), a.signed); err == nil && signed.ID() == a.own.ID() {
			j.Event = signed
		}
	}
	valid, err := a.s.VerifyEvent(ctx, j.Event)
	if err != nil {
		if notVerdict(ctx, err) {
			return room.Joined{}, err
		}
		return room.Joined{}, malformed(a.server, err)
	}
	j.Event = valid
	for _, list := range []*joinEvents{&a.chain, &a.state} {
		if err := a.secondChance(ctx, list); err != nil {
			return room.Joined{}, err
		}
	}
	j.State, j.AuthChain = a.state.good, a.chain.good
	return j, nil
}

// secondChance verifies once more what could not be verified because a signer did not answer. What is owed at last is left out, as the
// specification says of events without a valid signature: rooms outlive the servers of some of their members. But a room without its creation,
// its rights, its join rules or what our own join rests on would be another room; then the join fails, and can be tried again.
func (a *joinAnswer) secondChance(ctx context.Context, list *joinEvents) error {
	for range keyTries {
		if len(list.owing) == 0 {
			return nil
		}
		select {
		case <-time.After(keyTryPause):
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, e := range list.owing {
			for _, server := range e.RequiredSigners() {
				a.s.keys.askAgain(server)
			}
		}
		owing := list.owing
		list.owing = nil
		if err := a.verify(ctx, owing, list); err != nil {
			return err
		}
	}
	for _, e := range list.owing {
		if a.essential(e) {
			return mxerror.ConnectionFailed.With("The room cannot be entered now: the keys of %s, which signed its %s, could not be had.", e.Sender().Server(), e.Type())
		}
		a.s.Log.WarnContext(ctx, "state of a joined room left out: the keys of its server could not be had", "server", string(a.server),
			"signer", string(e.Sender().Server()), "event", string(e.ID()))
	}
	return nil
}

// essential says whether the room cannot do without an event.
func (a *joinAnswer) essential(e *event.Event) bool {
	switch e.Type() {
	case "m.room.create", "m.room.power_levels", "m.room.join_rules":
		return true
	}
	return slices.Contains(a.own.AuthEvents(), e.ID())
}
