// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// Store keeps and finds resources. It is safe for concurrent use.
type Store struct {
	db      *database.DB
	now     func() time.Time
	numbers atomic.Int64 // the newest number given to a resource
}

// number gives a new resource its number. Numbers grow with time, so that what is imported together lies together; nodes that write at once differ by
// the microsecond, and a clash would only fail one transaction.
func (s *Store) number() int64 {
	for {
		last := s.numbers.Load()
		next := max(last+1, time.Now().UnixMicro()<<11)
		if s.numbers.CompareAndSwap(last, next) {
			return next
		}
	}
}

// NewStore returns the directory's store; a nil clock is the system's.
func NewStore(db *database.DB, now func() time.Time) *Store {
	if now == nil {
		now = time.Now
	}
	return &Store{db: db, now: now}
}

// Entry is a resource to store and the Telematik-ID of whoever may change it.
type Entry struct {
	Resource *fhir.Resource
	Owner    string
	// By is the owner who makes the change, for the log; empty: the directory itself.
	By string
	// Quiet leaves a new resource out of the log: a first delivery is no change that anybody would look up.
	Quiet bool
}

// perTransaction bounds how many resources one transaction writes.
const perTransaction = 900

// Put stores resources under the ids they have, new ones and changed ones, and indexes every entry that they are part of. A resource that carries
// the version it was read at (meta.versionId) is refused with 409 when another one has been stored since. References among them
// may point forward.
func (s *Store) Put(ctx context.Context, entries ...Entry) error {
	for len(entries) > 0 {
		n := min(perTransaction, len(entries))
		if err := s.db.Write(ctx, func(tx *database.Tx) error {
			w := s.writer(tx)
			return w.put(ctx, entries[:n])
		}); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// Get reads a resource by "Type/id". It answers nil where there is none, and the owner's Telematik-ID.
func (s *Store) Get(ctx context.Context, reference string) (r *fhir.Resource, owner string, err error) {
	if !fhir.IsReference(reference) {
		return nil, "", nil
	}
	kind, id, _ := strings.Cut(reference, "/")
	return scanOne(s.db.QueryRow(ctx, "SELECT json, owner FROM directory_resource WHERE type = $1 AND id = $2", kind, id))
}

// Owned lists the resources of a type that a Telematik-ID owns, by id.
func (s *Store) Owned(ctx context.Context, owner, kind string) ([]*fhir.Resource, error) {
	if !fhir.IsReference(kind + "/x") {
		return nil, nil
	}
	rows, err := s.db.Query(ctx, "SELECT json FROM directory_resource WHERE owner = $1 AND type = $2 ORDER BY id LIMIT 100", owner, kind)
	return database.All(rows, err, func(rows *sql.Rows) (*fhir.Resource, error) {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		return fhir.Parse([]byte(text))
	})
}

func scanOne(row *sql.Row) (*fhir.Resource, string, error) {
	var text, owner string
	err := row.Scan(&text, &owner)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("directory: %w", err)
	}
	r, err := fhir.Parse([]byte(text))
	return r, owner, err
}

// writer changes resources and their index within one transaction.
type writer struct {
	tx     *database.Tx
	number func() int64
	now    time.Time
	known  map[string]*fhir.Resource // by reference; nil: does not exist
	stored map[string]existing       // by reference
	fresh  map[string]int            // new in this transaction: where its row waits in resources
	// pending rows, by table
	resources, strings, tokens, references, positions, notes []any
}

func (s *Store) writer(tx *database.Tx) *writer {
	return &writer{tx: tx, number: s.number, now: s.now(), known: map[string]*fhir.Resource{}, stored: map[string]existing{}, fresh: map[string]int{}}
}

func (w *writer) put(ctx context.Context, entries []Entry) error {
	if err := w.prefetch(ctx, entries); err != nil {
		return err
	}
	todo := map[string]bool{}
	var order []string
	add := func(ref string) {
		kind, _, _ := strings.Cut(ref, "/")
		if short[kind] != "" && !todo[ref] {
			todo[ref] = true
			order = append(order, ref)
		}
	}
	for _, e := range entries {
		if err := w.store(ctx, e); err != nil {
			return err
		}
		add(e.Resource.Reference())
	}
	targets := make([]any, len(entries))
	for i, e := range entries {
		targets[i] = e.Resource.Reference()
	}
	sources, err := w.sources(ctx, targets)
	if err != nil {
		return err
	}
	for _, source := range sources {
		add(source)
	}
	for _, ref := range order {
		if err := w.reindex(ctx, ref); err != nil {
			return err
		}
	}
	return w.flush(ctx)
}

// existing is what a stored resource has already.
type existing struct{ nid, version int64 }

// prefetch looks up which of the resources are stored already.
func (w *writer) prefetch(ctx context.Context, entries []Entry) error {
	byType := map[string][]any{}
	for _, e := range entries {
		byType[e.Resource.Type()] = append(byType[e.Resource.Type()], e.Resource.ID())
	}
	for kind, ids := range byType {
		for len(ids) > 0 {
			n := min(len(ids), prefetched)
			args := append([]any{kind}, ids[:n]...)
			for len(args) <= prefetched && n > 1 { // one statement text for all that are many
				args = append(args, ids[n-1])
			}
			if err := w.look(ctx, args); err != nil {
				return err
			}
			ids = ids[n:]
		}
	}
	return nil
}

// prefetched is how many resources of a type one query looks up.
const prefetched = 100

// look finds stored resources of a type: the type first, then ids.
func (w *writer) look(ctx context.Context, args []any) error {
	rows, err := w.tx.Query(ctx, "SELECT type, id, nid, version FROM directory_resource WHERE type = $1 AND id IN ("+database.Marks(2, len(args)-1)+")", args...)
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var kind, id string
		var e existing
		err := rows.Scan(&kind, &id, &e.nid, &e.version)
		w.stored[kind+"/"+id] = e
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	return nil
}

// sources lists the resources that refer to any of some.
func (w *writer) sources(ctx context.Context, targets []any) ([]string, error) {
	rows, err := w.tx.Query(ctx, "SELECT r.type, r.id FROM directory_reference f JOIN directory_resource r ON r.nid = f.nid WHERE f.target IN ("+
		database.Marks(1, len(targets))+") ORDER BY r.nid", targets...)
	return database.All(rows, err, func(rows *sql.Rows) (string, error) {
		var kind, id string
		err := rows.Scan(&kind, &id)
		return kind + "/" + id, err
	})
}

// store writes the resource's row and references and stamps its meta; a new row waits for the flush, with what the index says of it.
func (w *writer) store(ctx context.Context, e Entry) error {
	ref := e.Resource.Reference()
	if _, twice := w.fresh[ref]; twice {
		return fmt.Errorf("directory: %s twice", ref)
	}
	old, known := w.stored[ref]
	if !known {
		old.nid = w.number()
	}
	if based := e.Resource.Strings("meta", "versionId"); known && len(based) == 1 && based[0] != strconv.FormatInt(old.version, 10) {
		return conflict(ref)
	}
	old.version++
	r, err := stamp(e.Resource, old.version, w.now)
	if err != nil {
		return err
	}
	if known {
		w.note(opUpdate, ref, e.Owner, e.By)
		n, err := w.tx.Exec(ctx, "UPDATE directory_resource SET version = $2, updated = $3, owner = $4, json = $5 WHERE nid = $1 AND version = $2 - 1",
			old.nid, old.version, w.now.UnixMilli(), e.Owner, string(r.JSON()))
		if err != nil {
			return fmt.Errorf("directory: storing %s: %w", ref, err)
		}
		if n == 0 {
			return conflict(ref)
		}
		if _, err := w.tx.Exec(ctx, "DELETE FROM directory_reference WHERE nid = $1", old.nid); err != nil {
			return fmt.Errorf("directory: %w", err)
		}
	} else {
		if !e.Quiet {
			w.note(opCreate, ref, e.Owner, e.By)
		}
		w.fresh[ref] = len(w.resources)
		w.resources = append(w.resources, old.nid, r.Type(), r.ID(), old.version, w.now.UnixMilli(), e.Owner, false, false, []byte{}, string(r.JSON()))
	}
	seen := map[string]bool{}
	for _, l := range links[r.Type()] {
		for _, target := range r.References(l.element) {
			if !seen[l.element+" "+target] {
				seen[l.element+" "+target] = true
				w.references = append(w.references, old.nid, l.element, target)
			}
		}
	}
	w.known[ref], w.stored[ref] = r, old
	return nil
}

// conflict is answered when a resource has changed since the version that a change was based on.
func conflict(reference string) error {
	return fhir.Refuse(http.StatusConflict, fhir.CodeConflict, "%s has changed in the meantime", reference)
}

// stamp sets meta.versionId and meta.lastUpdated and keeps the rest of meta.
func stamp(r *fhir.Resource, version int64, now time.Time) (*fhir.Resource, error) {
	meta := map[string]any{}
	for _, v := range r.At("meta") {
		if m, ok := v.(map[string]any); ok {
			for k, v := range m {
				meta[k] = v
			}
		}
	}
	meta["versionId"], meta["lastUpdated"] = strconv.FormatInt(version, 10), now.UTC().Format("2006-01-02T15:04:05.000Z07:00")
	return r.With(map[string]any{"meta": meta})
}

// remove deletes a resource; whoever refers to it is indexed anew without it.
func (w *writer) remove(ctx context.Context, reference, by string) error {
	kind, id, _ := strings.Cut(reference, "/")
	var nid int64
	var owner string
	if err := w.tx.QueryRow(ctx, "SELECT nid, owner FROM directory_resource WHERE type = $1 AND id = $2", kind, id).Scan(&nid, &owner); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	w.note(opDelete, reference, owner, by)
	for _, table := range []string{"directory_resource", "directory_reference", "directory_string", "directory_token", "directory_position"} {
		if _, err := w.tx.Exec(ctx, "DELETE FROM "+table+" WHERE nid = $1", nid); err != nil {
			return fmt.Errorf("directory: deleting %s: %w", reference, err)
		}
	}
	w.known[reference] = nil
	sources, err := w.sources(ctx, []any{reference})
	if err != nil {
		return err
	}
	for _, source := range sources {
		if err := w.reindex(ctx, source); err != nil {
			return err
		}
	}
	return w.flush(ctx)
}

// reindex replaces the search values of a root.
func (w *writer) reindex(ctx context.Context, reference string) error {
	kind, id, _ := strings.Cut(reference, "/")
	if short[kind] == "" {
		return nil
	}
	var failed error
	find := func(ref string) *fhir.Resource {
		if r, ok := w.known[ref]; ok {
			return r
		}
		kind, id, _ := strings.Cut(ref, "/")
		r, _, err := scanOne(w.tx.QueryRow(ctx, "SELECT json, owner FROM directory_resource WHERE type = $1 AND id = $2", kind, id))
		if err != nil {
			failed = err
		}
		w.known[ref] = r
		return r
	}
	r := find(reference)
	if r == nil || failed != nil {
		return failed
	}
	if _, ok := w.stored[reference]; !ok {
		var e existing
		if err := w.tx.QueryRow(ctx, "SELECT nid, version FROM directory_resource WHERE type = $1 AND id = $2", kind, id).Scan(&e.nid, &e.version); err != nil {
			return fmt.Errorf("directory: %w", err)
		}
		w.stored[reference] = e
	}
	nid := w.stored[reference].nid
	out := index(r, find)
	if failed != nil {
		return failed
	}
	sort := []byte(cut(out.sort))
	if at, fresh := w.fresh[reference]; fresh {
		w.resources[at+6], w.resources[at+7], w.resources[at+8] = out.active, out.hidden, sort
	} else {
		for _, table := range []string{"directory_string", "directory_token", "directory_position"} {
			if _, err := w.tx.Exec(ctx, "DELETE FROM "+table+" WHERE nid = $1", nid); err != nil {
				return fmt.Errorf("directory: %w", err)
			}
		}
		if _, err := w.tx.Exec(ctx, "UPDATE directory_resource SET active = $2, hidden = $3, sort = $4 WHERE nid = $1", nid, out.active, out.hidden, sort); err != nil {
			return fmt.Errorf("directory: indexing %s: %w", reference, err)
		}
	}
	for row := range out.strings {
		w.strings = append(w.strings, nid, row[0], []byte(row[1]))
	}
	for row := range out.tokens {
		w.tokens = append(w.tokens, nid, row[0], row[1], row[2])
	}
	seen := map[[2]int64]bool{}
	for _, p := range out.positions {
		if !seen[p] {
			seen[p] = true
			w.positions = append(w.positions, nid, p[0], p[1])
		}
	}
	return nil
}

// flush writes the pending rows, many in a statement.
func (w *writer) flush(ctx context.Context) error {
	if err := w.forget(ctx); err != nil {
		return fmt.Errorf("directory: log: %w", err)
	}
	for _, t := range []struct {
		head    string
		columns int
		rows    *[]any
	}{
		{"INSERT INTO directory_resource (nid, type, id, version, updated, owner, active, hidden, sort, json) VALUES ", 10, &w.resources},
		{"INSERT INTO directory_reference (nid, element, target) VALUES ", 3, &w.references},
		{"INSERT INTO directory_string (nid, param, value) VALUES ", 3, &w.strings},
		{"INSERT INTO directory_token (nid, param, system, code) VALUES ", 4, &w.tokens},
		{"INSERT INTO directory_position (nid, latitude, longitude) VALUES ", 3, &w.positions},
		{"INSERT INTO directory_log (nid, time, operation, type, id, telematik_id, editor) VALUES ", 7, &w.notes},
	} {
		rest := *t.rows
		for _, size := range []int{100, 10, 1} { // few statement texts, so that they stay prepared
			for len(rest) >= size*t.columns {
				if _, err := w.tx.Exec(ctx, t.head+tuples(size, t.columns), rest[:size*t.columns]...); err != nil {
					return fmt.Errorf("directory: indexing: %w", err)
				}
				rest = rest[size*t.columns:]
			}
		}
		*t.rows = nil
	}
	return nil
}

func tuples(rows, columns int) string {
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("(" + database.Marks(i*columns+1, columns) + ")")
	}
	return b.String()
}
