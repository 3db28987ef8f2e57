// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// mayRelate refuses relations that no local user should make: a second annotation of an event with the same key (client-server API, "Avoiding
// duplicate annotations") and a thread under an event that is itself a child ("Validation of m.thread relationships"). What other servers send is
// taken as it comes.
func (s *Service) mayRelate(ctx context.Context, t tenant.ID, r *Room, d Draft) error {
	if d.StateKey != nil {
		return nil
	}
	switch kind, target := relation(d.Content); kind {
	case "m.annotation":
		return s.firstAnnotation(ctx, t, r, d, target)
	case "m.thread":
		parent, err := s.EventOf(ctx, t, r.NID, target)
		if errors.Is(err, mxerror.NotFound) { // it may yet arrive
			return nil
		}
		if err != nil {
			return err
		}
		if of, _ := relation(parent.Content()); of != "" {
			return mxerror.New(400, "M_UNKNOWN", "A thread cannot begin at an event that belongs to another one.")
		}
	}
	return nil
}

// firstAnnotation says whether the sender has not annotated the event with the same key already. Redacted annotations are none.
func (s *Service) firstAnnotation(ctx context.Context, t tenant.ID, r *Room, d Draft, target id.Event) error {
	rows, err := s.DB.Query(ctx, selectEvent+`JOIN event_relation x ON x.tenant = e.tenant AND x.event = e.event
		WHERE e.tenant = $1 AND x.tenant = $1 AND x.target_id = $2 AND x.room = $3 AND x.sender = $4 AND x.type = $5 AND x.rel_type = 'm.annotation'
		AND NOT e.rejected AND NOT e.soft_failed AND NOT e.outlier`, int64(t), string(target), r.NID, string(d.Sender), column(d.Type))
	earlier, err := database.All(rows, err, scanEvent)
	if err != nil {
		return err
	}
	for _, e := range earlier {
		if annotation(e.Content()) == annotation(d.Content) {
			return mxerror.DuplicateAnnotation
		}
	}
	return nil
}

// annotation reads an annotation's key.
func annotation(content jsontext.Value) string {
	return canonicaljson.GetString(canonicaljson.Get(content, "m.relates_to"), "key")
}
