// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// reindex computes what entries are found by, before and after the change, and prepares the difference; empty says that the index holds nothing of them
// yet.
func (w *writer) reindex(ctx context.Context, roots []string, empty bool) error {
	if err := w.load(ctx, roots); err != nil {
		return err
	}
	var linked []string
	for _, ref := range roots {
		for _, r := range []*fhir.Resource{w.items[ref].old, w.items[ref].now} {
			if r == nil {
				continue
			}
			for _, l := range links[r.Type()] {
				linked = append(linked, r.References(l.element)...)
			}
		}
	}
	if err := w.load(ctx, linked); err != nil {
		return err
	}
	before, after := make([]*rows, len(roots)), make([]*rows, len(roots))
	each(len(roots), func(n int) {
		i := w.items[roots[n]]
		if i.old != nil && i.doc != 0 && !empty {
			before[n] = index(i.old, func(ref string) *fhir.Resource { return w.items[ref].old })
		}
		if i.now != nil {
			after[n] = index(i.now, func(ref string) *fhir.Resource { return w.items[ref].now })
		}
	})
	for n, ref := range roots {
		if err := w.differ(ctx, w.items[ref], before[n], after[n]); err != nil {
			return err
		}
	}
	return nil
}

// differ prepares what changes in the index for an entry.
func (w *writer) differ(ctx context.Context, i *item, before, after *rows) error {
	if before == nil && after == nil {
		return nil
	}
	if i.doc == 0 { // stored before there was this index
		w.docs++
		i.doc = w.docs
		if _, err := w.tx.Exec(ctx, "UPDATE directory_resource SET doc = $2 WHERE nid = $1", i.nid, i.doc); err != nil {
			return fmt.Errorf("directory: %w", err)
		}
	}
	if before == nil {
		before = &rows{}
	}
	gone := after == nil
	if gone {
		after = &rows{}
	}
	w.compare(before.terms, after.terms, int(i.doc))
	if gone {
		w.entries = append(w.entries, i.doc, i.nid, w.version, int64(stateDeleted), []byte{}, []byte{}, i.updated)
		w.texts = append(w.texts, i.doc, []byte{})
		return nil
	}
	w.entries = append(w.entries, i.doc, i.nid, w.version, int64(after.state(i.now.Type())), encodePoints(after.positions), []byte(cut(after.sort)), i.updated)
	if before.encoded == nil || !bytes.Equal(before.encoded, after.encoded) {
		w.texts = append(w.texts, i.doc, append([]byte{}, after.encoded...))
	}
	return nil
}

// compare notes the terms, both lists being sorted, that an entry gets and loses.
func (w *writer) compare(before, after []term, doc int) {
	for len(before) > 0 || len(after) > 0 {
		switch order := compareHeads(before, after); {
		case order < 0:
			w.removed[before[0]] = append(w.removed[before[0]], doc)
			before = before[1:]
		case order > 0:
			w.added[after[0]] = append(w.added[after[0]], doc)
			after = after[1:]
		default:
			before, after = before[1:], after[1:]
		}
	}
}

// compareHeads compares the first terms of two lists; none comes last.
func compareHeads(x, y []term) int {
	switch {
	case len(x) == 0:
		return 1
	case len(y) == 0:
		return -1
	}
	return compareTerms(x[0], y[0])
}

// state packs what a search asks of every candidate.
func (r *rows) state(root string) uint8 {
	state := rootNumber[root]
	if r.active {
		state |= stateActive
	}
	if r.hidden {
		state |= stateHidden
	}
	return state
}

// flush writes what is prepared, many rows in a statement.
func (w *writer) flush(ctx context.Context) error {
	if err := w.forget(ctx); err != nil {
		return fmt.Errorf("directory: log: %w", err)
	}
	if _, err := w.tx.Exec(ctx, "UPDATE directory_clock SET docs = $1 WHERE one = 1", w.docs); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	if err := w.takeOut(ctx); err != nil {
		return fmt.Errorf("directory: the index: %w", err)
	}
	join := "CAST(directory_posting.docs || excluded.docs AS BLOB)"
	if w.big {
		join = "directory_posting.docs || excluded.docs"
	}
	for _, t := range []struct {
		head    string
		columns int
		rows    []any
		tail    string
	}{
		{"INSERT INTO directory_resource (nid, type, id, version, updated, owner, doc, json) VALUES ", 8, w.resourceRows(), ""},
		{"INSERT INTO directory_link (target, element, nid) VALUES ", 3, w.linkRows(), ""},
		{"INSERT INTO directory_entry (doc, nid, version, state, positions, sort, updated) VALUES ", 7, w.entries,
			" ON CONFLICT (doc) DO UPDATE SET version = excluded.version, state = excluded.state, positions = excluded.positions, sort = excluded.sort, updated = excluded.updated"},
		{"INSERT INTO directory_text (doc, texts) VALUES ", 2, w.texts, " ON CONFLICT (doc) DO UPDATE SET texts = excluded.texts"},
		{"INSERT INTO directory_posting (param, value, block, docs) VALUES ", 4, postingRows(w.added), " ON CONFLICT (param, value, block) DO UPDATE SET docs = " + join},
		{"INSERT INTO directory_log (nid, time, operation, type, id, telematik_id, editor) VALUES ", 7, w.notes, ""},
	} {
		if err := w.insert(ctx, t.head, t.columns, t.rows, t.tail); err != nil {
			return fmt.Errorf("directory: writing: %w", err)
		}
	}
	return nil
}

// resourceRows gives new resources in the order of their index, which writes each of its pages once: ids are at random.
func (w *writer) resourceRows() []any {
	slices.SortFunc(w.resources, func(x, y resourceRow) int {
		return cmp.Or(strings.Compare(x.kind, y.kind), strings.Compare(x.id, y.id))
	})
	all := make([]any, 0, 8*len(w.resources))
	for _, r := range w.resources {
		all = append(all, r.nid, r.kind, r.id, r.version, r.updated, r.owner, r.doc, string(r.now.JSON()))
	}
	return all
}

// linkRows gives new links in the order of their table.
func (w *writer) linkRows() []any {
	slices.SortFunc(w.links, func(x, y linkRow) int {
		return cmp.Or(strings.Compare(x.target, y.target), strings.Compare(x.element, y.element), cmp.Compare(x.nid, y.nid))
	})
	all := make([]any, 0, 3*len(w.links))
	for _, l := range w.links {
		all = append(all, l.target, l.element, l.nid)
	}
	return all
}

// insertSizes are how many rows one statement writes: few different texts, so that they stay prepared.
var insertSizes = []int{200, 20, 1}

func (w *writer) insert(ctx context.Context, head string, columns int, rows []any, tail string) error {
	for _, size := range insertSizes {
		if len(rows) < size*columns {
			continue
		}
		text := head + w.tuples(size, columns) + tail
		for len(rows) >= size*columns {
			if _, err := w.tx.Exec(ctx, text, rows[:size*columns]...); err != nil {
				return err
			}
			rows = rows[size*columns:]
		}
	}
	return nil
}

// tuples writes the placeholders of rows. SQLite's have no names there: the driver looks up each placeholder's name in a list of all of them.
func (w *writer) tuples(rows, columns int) string {
	one := "(" + strings.TrimSuffix(strings.Repeat("?,", columns), ",") + ")"
	all := make([]string, rows)
	for i := range all {
		if all[i] = one; w.big {
			all[i] = "(" + database.Marks(i*columns+1, columns) + ")"
		}
	}
	return strings.Join(all, ",")
}

// postingRows cuts the entries of each term into blocks, in the order of the table, which writes each page once.
func postingRows(all map[term][]int) []any {
	out := make([]any, 0, 4*len(all))
	eachBlock(all, func(t term, block int, docs []byte) { out = append(out, t.param, []byte(t.value), int64(block), docs) })
	return out
}

func eachBlock(all map[term][]int, take func(t term, block int, docs []byte)) {
	for _, t := range slices.SortedFunc(maps.Keys(all), compareTerms) {
		docs := all[t]
		slices.Sort(docs)
		for len(docs) > 0 {
			block := docs[0] / blockDocs
			var packed []byte
			for len(docs) > 0 && docs[0]/blockDocs == block {
				packed = binary.LittleEndian.AppendUint16(packed, uint16(docs[0]%blockDocs))
				docs = docs[1:]
			}
			take(t, block, packed)
		}
	}
}

// place is one row of the index.
type place struct {
	term
	block int
}

// takeOut removes entries from the terms that they had before.
func (w *writer) takeOut(ctx context.Context) error {
	gone := map[place][]byte{}
	var places []place
	eachBlock(w.removed, func(t term, block int, docs []byte) {
		places = append(places, place{t, block})
		gone[places[len(places)-1]] = docs
	})
	var rest []any
	for len(places) > 0 {
		some := places[:min(len(places), 50)]
		places = places[len(some):]
		left, err := w.without(ctx, some, gone)
		if err != nil {
			return err
		}
		rest = append(rest, left...)
	}
	return w.insert(ctx, "INSERT INTO directory_posting (param, value, block, docs) VALUES ", 4, rest, "")
}

// without deletes some rows and returns them as they are to be written again, without the entries that are gone; those with no entry left stay away.
func (w *writer) without(ctx context.Context, some []place, gone map[place][]byte) ([]any, error) {
	var where []string
	var args []any
	for _, p := range some {
		n := len(args)
		where = append(where, "param = $"+strconv.Itoa(n+1)+" AND value = $"+strconv.Itoa(n+2)+" AND block = $"+strconv.Itoa(n+3))
		args = append(args, p.param, []byte(p.value), int64(p.block))
	}
	rows, err := w.tx.Query(ctx, "DELETE FROM directory_posting WHERE "+strings.Join(where, " OR ")+" RETURNING param, value, block, docs", args...)
	var rest []any
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var param string
		var value, docs []byte
		var block int64
		if err := rows.Scan(&param, &value, &block, &docs); err != nil {
			return struct{}{}, err
		}
		if docs = subtract(docs, gone[place{term{param, string(value)}, int(block)}]); len(docs) > 0 {
			rest = append(rest, param, []byte(string(value)), block, docs) // an empty value must not become NULL
		}
		return struct{}{}, nil
	})
	return rest, err
}

// subtract returns the 16-bit numbers of one list that are not in another.
func subtract(docs, gone []byte) []byte {
	out := map[uint16]bool{}
	for ; len(gone) >= 2; gone = gone[2:] {
		out[binary.LittleEndian.Uint16(gone)] = true
	}
	var rest []byte
	for ; len(docs) >= 2; docs = docs[2:] {
		if !out[binary.LittleEndian.Uint16(docs)] {
			rest = append(rest, docs[0], docs[1])
		}
	}
	return rest
}
