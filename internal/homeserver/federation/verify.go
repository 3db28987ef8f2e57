// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

var (
	errWrongSignature = errors.New("the signature does not match")
	errForeignSubject = errors.New("the token is said to belong to a user of another server")
)

// verifiedSize is how many verified signatures are remembered.
const verifiedSize = 200_000

// policyKey signs recommendations of policy servers. It stands in a room's state and proves nothing about who made an event.
const policyKey = keyring.PolicyKeyID

// maxSignatures bounds how many signatures of one server on one event are tried.
const maxSignatures = 4

// verified remembers signatures that were found valid, whichever transport brought them: neighbours in one cell and servers that pass on the
// same event do not verify it again. The key covers the event id, the server, the key id and the signature itself (engine rule 18).
type verified struct {
	cache cache.Cache[[sha256.Size]byte, struct{}]
}

func newVerified() *verified {
	return &verified{cache.New(cache.Options[[sha256.Size]byte, struct{}]{Entries: verifiedSize})}
}

// signatureOf names one signature on an event; ok is false when there is none, or when the event's id does not stand for its content (room
// versions 1 and 2), so that nothing may be remembered.
func signatureOf(e *event.Event, server id.Server, key id.KeyID) (name [sha256.Size]byte, ok bool) {
	signature := canonicaljson.Get(e.JSON(), "signatures", string(server), string(key))
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00", e.ID(), server, key)
	h.Write(signature)
	h.Sum(name[:0])
	return name, len(signature) > 0 && e.Version().EventIDs != roomversion.EventIDInEvent
}

// VerifyEvent checks that an event carries a valid signature of every server that has to sign it. An event whose content does not match its
// hash is returned in its redacted form (server-server API, "Validating hashes and signatures on received events").
func (s *Service) VerifyEvent(ctx context.Context, e *event.Event) (*event.Event, error) {
	for _, server := range e.RequiredSigners() {
		if err := s.verifySigner(ctx, e, server); err != nil {
			if notVerdict(ctx, err) {
				return nil, err
			}
			return nil, fmt.Errorf("%w: %w", mxerror.Forbidden.With("The event %s is not validly signed by %s.", e.ID(), server), err)
		}
	}
	if !e.CheckHash() {
		return e.Redact()
	}
	return e, nil
}

// notVerdict says whether an error of a verification came from our own storage or an ended context, and not from the event.
func notVerdict(ctx context.Context, err error) bool {
	var storage *storageError
	return ctx.Err() != nil || errors.As(err, &storage)
}

// verifySigner looks for one valid signature of a server.
func (s *Service) verifySigner(ctx context.Context, e *event.Event, server id.Server) error {
	keys := e.SignatureKeys(server)
	if len(keys) == 0 {
		return errors.New("it has none")
	}
	var reason error
	tried := 0
	for _, key := range keys {
		if !validKeyID(key) || key == policyKey {
			continue
		}
		if tried++; tried > maxSignatures {
			break
		}
		name, remember := signatureOf(e, server, key)
		if _, known := s.verified.cache.Get(name); known && remember {
			return nil
		}
		public, err := s.keys.find(ctx, keyName{server, key}, e.Timestamp(), e.Version().KeyValidity)
		if err == nil {
			err = e.Verify(server, key, public)
		}
		if err == nil {
			if remember {
				s.verified.cache.Set(name, struct{}{})
			}
			return nil
		}
		reason = err
	}
	if reason == nil {
		reason = errors.New("it has none of a known kind")
	}
	return reason
}

// VerifyEvents is VerifyEvent for many, on all processors. The results stand in the order of the events; where one is not valid its event is
// nil and its error set. The end of the context and failures of our own storage are errors of the whole.
func (s *Service) VerifyEvents(ctx context.Context, events []*event.Event) (valid []*event.Event, reasons []error, err error) {
	valid, reasons = make([]*event.Event, len(events)), make([]error, len(events))
	var g errgroup.Group
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	for i, e := range events {
		g.Go(func() error {
			valid[i], reasons[i] = s.VerifyEvent(ctx, e)
			if reasons[i] != nil && notVerdict(ctx, reasons[i]) {
				return reasons[i]
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	return valid, reasons, ctx.Err()
}
