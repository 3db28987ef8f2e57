// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/database"
)

// logLife is how long changes are remembered (dossier §4.6).
const logLife = 183 * 24 * time.Hour

// maxLogged is the most that one answer of the log holds (I_FHIR_VZD_Fachliches_Log).
const maxLogged = 200

// The operations of the log.
const (
	opCreate = "create"
	opUpdate = "update"
	opDelete = "delete"
)

// note remembers a change for the log, to be written with it. by is the owner who made it, empty for the directory itself.
func (w *writer) note(operation, reference, telematikID, by string) {
	kind, id, _ := strings.Cut(reference, "/")
	w.notes = append(w.notes, database.NewID(), w.now.UnixMilli(), operation, kind, id, telematikID, by)
}

// forget drops what is older than the log keeps.
func (w *writer) forget(ctx context.Context) error {
	if len(w.notes) == 0 {
		return nil
	}
	_, err := w.tx.Exec(ctx, "DELETE FROM directory_log WHERE time < $1", w.now.Add(-logLife).UnixMilli())
	return err
}

// Change is one entry of the log.
type Change struct {
	Editor      string `json:"editorId,omitempty"`
	EditorType  string `json:"editorIdType"`
	ResourceID  string `json:"resourceId"`
	TelematikID string `json:"telematikId,omitempty"`
	Operation   string `json:"operation"`
	Type        string `json:"resourceType"`
	Time        string `json:"logTime"`
}

// changes lists what the log knows of a Telematik-ID, newest first, with further conditions in SQL.
func (s *Store) changes(ctx context.Context, where []string, args []any) (all []Change, more bool, err error) {
	rows, err := s.db.Query(ctx, "SELECT time, operation, type, id, telematik_id, editor FROM directory_log WHERE "+strings.Join(where, " AND ")+
		" ORDER BY time DESC, nid LIMIT "+strconv.Itoa(maxLogged+1), args...)
	all, err = database.All(rows, err, func(rows *sql.Rows) (c Change, err error) {
		var at int64
		err = rows.Scan(&at, &c.Operation, &c.Type, &c.ResourceID, &c.TelematikID, &c.Editor)
		c.Time, c.EditorType = time.UnixMilli(at).UTC().Format(time.RFC3339Nano), "System"
		if c.Editor != "" {
			c.EditorType = "Owner"
		}
		return c, err
	})
	if err != nil {
		return nil, false, fmt.Errorf("directory: log: %w", err)
	}
	return all[:min(len(all), maxLogged)], len(all) > maxLogged, nil
}

// logParameters are those of the log; at most one of the first four leads.
var logLeading = []string{"editorId", "resourceId", "telematikId", "ldapUid", "clientID"}

var logParameters = append([]string{"editorIdType", "operation", "resourceType", "logTimeFrom", "logTimeTo"}, logLeading...)

// readLog answers an owner the changes of its own entries (I_FHIR_VZD_Fachliches_Log, readLog).
func (s *Service) readLog(w http.ResponseWriter, r *http.Request) {
	access, err := s.allowed(bearer(r), ownerPath)
	if err != nil {
		tokenRefused(w, http.StatusUnauthorized, "the access token is missing, wrong, for another interface or expired")
		return
	}
	where, args, refused := logConditions(r.URL.Query(), access.Subject)
	if refused != "" {
		tokenRefused(w, http.StatusBadRequest, refused)
		return
	}
	if q := r.URL.Query(); q.Has("telematikId") && q.Get("telematikId") != access.Subject {
		tokenRefused(w, http.StatusForbidden, "owners read the log of their own entries")
		return
	}
	all, more, err := s.o.Store.changes(r.Context(), where, args)
	if err != nil {
		s.o.Log.Error("directory", "error", err)
		tokenRefused(w, http.StatusServiceUnavailable, "the log cannot be read now")
		return
	}
	if all == nil {
		all = []Change{}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.MarshalWrite(w, map[string]any{"moreAvailable": more, "logEntries": all}, json.Deterministic(true)) // the caller is gone if this fails
}

// logConditions turns the parameters into SQL, or says which combination is not allowed.
func logConditions(q url.Values, owner string) (where []string, args []any, refused string) {
	add := func(condition string, v any) {
		args = append(args, v)
		where = append(where, condition+"$"+strconv.Itoa(len(args)))
	}
	add("telematik_id = ", owner)
	leading := 0
	for name := range q {
		if !slices.Contains(logParameters, name) {
			return nil, nil, "the log does not know the parameter " + strconv.QuoteToASCII(name[:min(len(name), 40)])
		}
		if slices.Contains(logLeading, name) {
			leading++
		}
	}
	switch {
	case leading > 1:
		return nil, nil, "these parameters cannot be combined"
	case q.Has("editorId") != q.Has("editorIdType"):
		return nil, nil, "editorId and editorIdType belong together"
	case q.Has("ldapUid"), q.Has("clientID"):
		return append(where, "1 = 0"), args, "" // entries of this directory have neither
	}
	if q.Has("editorId") {
		add("editor = ", q.Get("editorId"))
		if q.Get("editorIdType") != "Owner" {
			where = append(where, "1 = 0")
		}
	}
	for name, column := range map[string]string{"resourceId": "id", "operation": "operation", "resourceType": "type"} {
		if q.Has(name) {
			add(column+" = ", q.Get(name))
		}
	}
	for name, operator := range map[string]string{"logTimeFrom": "time >= ", "logTimeTo": "time <= "} {
		if !q.Has(name) {
			continue
		}
		at, err := time.Parse(time.RFC3339, q.Get(name))
		if err != nil {
			return nil, nil, name + " is no time (ISO 8601)"
		}
		add(operator, at.UnixMilli())
	}
	return where, args, ""
}
