// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// writer changes resources and their index within one transaction. What it needs of the database it reads in few queries before, and what has changed
// it writes in few statements after all has been computed.
type writer struct {
	tx     *database.Tx
	number func() int64
	now    time.Time
	big    bool // the database is PostgreSQL
	// version is the change's number in the index, docs how many numbers entries have.
	version, docs int64
	items         map[string]*item // by reference; what has been looked up and is not there is nowhere in the database
	// rows to write, by table; those of resources and links are sorted before
	resources             []resourceRow
	links                 []linkRow
	entries, texts, notes []any
	added, removed        map[term][]int // entries by what they are found by
}

// resourceRow is the row of a new resource.
type resourceRow struct {
	kind, id string
	*item
}

// linkRow is a row of the links.
type linkRow struct {
	directed
	nid int64
}

// item is a resource before and after the change; nil where it does not exist.
type item struct {
	old, now     *fhir.Resource
	nid, version int64
	doc          int64 // its number in the index; 0: none
	updated      int64 // in milliseconds
	owner        string
	failed       error
}

func (s *Store) writer(tx *database.Tx) *writer {
	return &writer{tx: tx, number: s.number, now: s.now(), big: s.db.Postgres(), items: map[string]*item{}, added: map[term][]int{}, removed: map[term][]int{}}
}

// lock waits for other writers of the index and begins its next version.
func (w *writer) lock(ctx context.Context) error {
	var format int64
	err := w.tx.QueryRow(ctx, "UPDATE directory_clock SET version = version + 1 WHERE one = 1 RETURNING version, docs, format").Scan(&w.version, &w.docs, &format)
	if err == nil && format == 0 {
		_, err = w.tx.Exec(ctx, "UPDATE directory_clock SET format = $1 WHERE one = 1", indexFormat)
	}
	if err != nil {
		return fmt.Errorf("directory: the index's clock: %w", err)
	}
	return nil
}

// change stores and removes resources and indexes every entry that they are part of.
func (w *writer) change(ctx context.Context, entries []Entry, removed []removal) error {
	if err := w.lock(ctx); err != nil {
		return err
	}
	changed := make([]string, 0, len(entries)+len(removed))
	for _, e := range entries {
		changed = append(changed, e.Resource.Reference())
	}
	for _, r := range removed {
		changed = append(changed, r.reference)
	}
	if err := w.load(ctx, changed); err != nil {
		return err
	}
	if err := w.store(ctx, entries); err != nil {
		return err
	}
	for _, r := range removed {
		if err := w.remove(ctx, r); err != nil {
			return err
		}
	}
	roots, err := w.roots(ctx, changed)
	if err != nil {
		return err
	}
	if err := w.reindex(ctx, roots, false); err != nil {
		return err
	}
	return w.flush(ctx)
}

// load reads resources that have not been looked up yet, in the order of their index, so that each of its pages is read once.
func (w *writer) load(ctx context.Context, references []string) error {
	byType := map[string][]any{}
	for _, ref := range slices.Sorted(slices.Values(references)) {
		if _, known := w.items[ref]; known {
			continue
		}
		w.items[ref] = &item{}
		kind, id, _ := strings.Cut(ref, "/")
		byType[kind] = append(byType[kind], id)
	}
	for kind, ids := range byType {
		err := chunks(ids, func(some []any) error {
			rows, err := w.tx.Query(ctx, "SELECT id, nid, version, doc, owner, updated, json FROM directory_resource WHERE type = $1 AND id IN ("+database.Marks(2, len(some))+")",
				append([]any{kind}, some...)...)
			_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
				var id string
				var text sql.RawBytes
				var i item
				if err := rows.Scan(&id, &i.nid, &i.version, &i.doc, &i.owner, &i.updated, &text); err != nil {
					return struct{}{}, err
				}
				r, err := fhir.Parse(text)
				i.old, i.now = r, r
				*w.items[kind+"/"+id] = i
				return struct{}{}, err
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("directory: %w", err)
		}
	}
	return nil
}

// chunkSizes are the lengths of lists in statements: few, so that the statements stay prepared.
var chunkSizes = []int{1, 5, 50, database.MaxMarks}

// chunks hands a list of arguments on in parts of few different lengths; the last one is filled up with its last argument, which changes nothing in a
// list behind IN.
func chunks(all []any, f func([]any) error) error {
	for some := range slices.Chunk(all, database.MaxMarks) {
		at, _ := slices.BinarySearch(chunkSizes, len(some))
		some = slices.Clone(some)
		for len(some) < chunkSizes[at] {
			some = append(some, some[len(some)-1])
		}
		if err := f(some); err != nil {
			return err
		}
	}
	return nil
}

// each runs f for every number below n, on all processors.
func each(n int, f func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), (n+31)/32)
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for {
				i := int(next.Add(32)) - 32
				if i >= n {
					return
				}
				for ; i%32 != 31 && i < n-1; i++ {
					f(i)
				}
				f(i)
			}
		})
	}
	all.Wait()
}

// store stamps resources and prepares their rows.
func (w *writer) store(ctx context.Context, entries []Entry) error {
	seen := make(map[string]bool, len(entries))
	for _, e := range entries {
		ref := e.Resource.Reference()
		if seen[ref] {
			return fmt.Errorf("directory: %s twice", ref)
		}
		seen[ref] = true
		i := w.items[ref]
		if based := e.Resource.Strings("meta", "versionId"); i.old != nil && len(based) == 1 && based[0] != strconv.FormatInt(i.version, 10) {
			return conflict(ref)
		}
		i.version++
	}
	items := make([]*item, len(entries))
	for n, e := range entries {
		items[n] = w.items[e.Resource.Reference()]
	}
	each(len(entries), func(n int) {
		items[n].now, items[n].failed = stamp(entries[n].Resource, items[n].version, w.now)
	})
	for n, e := range entries {
		i := items[n]
		if i.failed != nil {
			return i.failed
		}
		if err := w.row(ctx, i, e); err != nil {
			return err
		}
	}
	return nil
}

// row prepares the row of a new resource and changes that of an old one.
func (w *writer) row(ctx context.Context, i *item, e Entry) error {
	i.owner, i.updated = e.Owner, w.now.UnixMilli()
	if i.old == nil {
		i.nid = w.number()
		if rootNumber[i.now.Type()] != 0 {
			w.docs++
			i.doc = w.docs
		}
		if !e.Quiet {
			w.note(opCreate, i.now.Reference(), e.Owner, e.By)
		}
		w.resources = append(w.resources, resourceRow{i.now.Type(), i.now.ID(), i})
		w.link(i.now, i.nid)
		return nil
	}
	w.note(opUpdate, i.now.Reference(), e.Owner, e.By)
	n, err := w.tx.Exec(ctx, "UPDATE directory_resource SET version = $2, updated = $3, owner = $4, json = $5 WHERE nid = $1 AND version = $2 - 1",
		i.nid, i.version, w.now.UnixMilli(), e.Owner, string(i.now.JSON()))
	if err != nil {
		return fmt.Errorf("directory: storing %s: %w", i.now.Reference(), err)
	}
	if n == 0 {
		return conflict(i.now.Reference())
	}
	old, now := linksOf(i.old), linksOf(i.now)
	for l := range old {
		if !now[l] {
			if err := w.unlink(ctx, l, i.nid); err != nil {
				return err
			}
		}
	}
	for l := range now {
		if !old[l] {
			w.links = append(w.links, linkRow{l, i.nid})
		}
	}
	return nil
}

// directed is a reference by the element that holds it.
type directed struct{ element, target string }

// linksOf lists what a resource refers to by the elements that searches may follow.
func linksOf(r *fhir.Resource) map[directed]bool {
	all := map[directed]bool{}
	for _, l := range links[r.Type()] {
		for _, target := range r.References(l.element) {
			all[directed{l.element, target}] = true
		}
	}
	return all
}

func (w *writer) link(r *fhir.Resource, nid int64) {
	for l := range linksOf(r) {
		w.links = append(w.links, linkRow{l, nid})
	}
}

func (w *writer) unlink(ctx context.Context, l directed, nid int64) error {
	_, err := w.tx.Exec(ctx, "DELETE FROM directory_link WHERE target = $1 AND element = $2 AND nid = $3", l.target, l.element, nid)
	if err != nil {
		return fmt.Errorf("directory: %w", err)
	}
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
	return r.WithMeta(meta)
}

// removal is a resource to delete and who does it, for the log.
type removal struct{ reference, by string }

// remove deletes a resource; whoever refers to it is indexed anew without it.
func (w *writer) remove(ctx context.Context, r removal) error {
	i := w.items[r.reference]
	if i.old == nil {
		return fmt.Errorf("directory: %s: %w", r.reference, sql.ErrNoRows)
	}
	i.now = nil
	w.note(opDelete, r.reference, i.owner, r.by)
	if _, err := w.tx.Exec(ctx, "DELETE FROM directory_resource WHERE nid = $1", i.nid); err != nil {
		return fmt.Errorf("directory: deleting %s: %w", r.reference, err)
	}
	for l := range linksOf(i.old) {
		if err := w.unlink(ctx, l, i.nid); err != nil {
			return err
		}
	}
	return nil
}

// roots lists the entries that some resources are part of: themselves and those that refer to them.
func (w *writer) roots(ctx context.Context, changed []string) ([]string, error) {
	seen := map[string]bool{}
	var all []string
	add := func(ref string) {
		kind, _, _ := strings.Cut(ref, "/")
		if short[kind] != "" && !seen[ref] {
			seen[ref] = true
			all = append(all, ref)
		}
	}
	for _, ref := range changed {
		add(ref)
	}
	sources, err := w.sources(ctx, changed)
	if err != nil {
		return nil, err
	}
	for _, ref := range sources {
		add(ref)
	}
	return all, nil
}

// sources lists the stored resources that refer to any of some.
func (w *writer) sources(ctx context.Context, targets []string) (all []string, err error) {
	args := make([]any, len(targets))
	for i, t := range slices.Sorted(slices.Values(targets)) {
		args[i] = t
	}
	err = chunks(args, func(some []any) error {
		rows, err := w.tx.Query(ctx, "SELECT r.type, r.id FROM directory_link f JOIN directory_resource r ON r.nid = f.nid WHERE f.target IN ("+
			database.Marks(1, len(some))+") ORDER BY r.nid", some...)
		found, err := database.All(rows, err, func(rows *sql.Rows) (string, error) {
			var kind, id string
			err := rows.Scan(&kind, &id)
			return kind + "/" + id, err
		})
		all = append(all, found...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	return all, nil
}
