// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
)

// span is a range of values of a parameter in the index.
type span struct {
	param    string
	from, to []byte // to is nil: exactly from
	inside   []byte // the value holds it somewhere; nil: whatever
}

// match is a filter's outcome: entries that pass, or may pass if a test of their texts says so.
type match struct {
	set  set
	test *textTest // nil: all of the set pass
	raw  *rawTest  // asked last of whoever passes; nil: nothing
	not  bool      // whoever passes is left out
}

// textTest looks at the texts of some parameters where words alone do not tell.
type textTest struct {
	params []uint64
	test   func(text []byte) bool
}

// maxSpans is how many ranges one query reads.
const maxSpans = 40

// finder answers one search: it reads the sets of entries that the filters name and intersects them in memory.
type finder struct {
	s       *Store
	root    string
	insured bool
	n       int // how many numbers entries have
	active  bool
	near    *circle
	matches []match
}

// finder begins a search on what is stored now.
func (s *Store) finder(ctx context.Context, root string, insured bool) (*finder, error) {
	n, err := s.entries.refresh(ctx, s.db)
	return &finder{s: s, root: root, insured: insured, n: n}, err
}

// read returns the entries that the index holds within any of some ranges.
func (f *finder) read(ctx context.Context, spans []span) (set, error) {
	found := newSet(f.n)
	for some := range slices.Chunk(spans, maxSpans) {
		var parts []string
		var args []any
		arg := func(v any) string {
			args = append(args, v)
			return "$" + strconv.Itoa(len(args))
		}
		for _, s := range some {
			where := "param = " + arg(s.param)
			if s.to == nil {
				where += " AND value = " + arg(s.from)
			} else {
				where += " AND value >= " + arg(s.from) + " AND value < " + arg(s.to)
			}
			switch { // a difference between the databases, which is what [database.DB.Postgres] may be asked for
			case s.inside == nil:
			case f.s.db.Postgres():
				where += " AND position(" + arg(s.inside) + "::bytea IN value) > 0"
			default:
				where += " AND instr(value, " + arg(s.inside) + ") > 0"
			}
			parts = append(parts, "SELECT block, docs FROM directory_posting WHERE "+where)
		}
		rows, err := f.s.db.Query(ctx, strings.Join(parts, " UNION ALL "), args...)
		_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
			var block int64
			var docs sql.RawBytes
			err := rows.Scan(&block, &docs)
			found.addBlock(block, docs)
			return struct{}{}, err
		})
		if err != nil {
			return nil, fmt.Errorf("directory: searching: %w", err)
		}
	}
	return found, nil
}

// candidates intersects the filters. It returns nil where every entry may match, and what must still be asked of the texts.
func (f *finder) candidates(ctx context.Context, matches []match) (set, []textTest, error) {
	var all set
	var tests []textTest
	for _, m := range matches {
		if !m.not {
			if m.test != nil {
				tests = append(tests, *m.test)
			}
			if all == nil {
				all = slices.Clone(m.set)
			} else {
				all.and(m.set)
			}
		}
	}
	for _, m := range matches {
		if !m.not {
			continue
		}
		out := slices.Clone(m.set)
		if all != nil {
			out.and(all)
		}
		if m.test != nil {
			passing, err := f.verify(ctx, slices.Collect(out.all()), []textTest{*m.test}, 0)
			if err != nil {
				return nil, nil, err
			}
			out = newSet(f.n)
			for _, doc := range passing {
				out.add(doc)
			}
		}
		out.invert()
		if all == nil {
			all = out
		} else {
			all.and(out)
		}
	}
	return all, tests, nil
}

// found lists the entries that match and may be seen; it ends at a limit, 0 is none.
func (f *finder) found(ctx context.Context, limit int) ([]int, error) {
	var raws []*rawTest
	for _, m := range f.matches {
		if m.raw != nil {
			raws = append(raws, m.raw)
		}
	}
	if len(raws) == 0 {
		return f.passing(ctx, limit)
	}
	docs, err := f.passing(ctx, 0)
	for i, raw := range raws {
		if err != nil {
			return nil, err
		}
		most := 0
		if i == len(raws)-1 {
			most = limit
		}
		docs, err = raw.compare(ctx, f, docs, most)
	}
	return docs, err
}

// passing is found as far as the index tells.
func (f *finder) passing(ctx context.Context, limit int) ([]int, error) {
	candidates, tests, err := f.candidates(ctx, f.matches)
	if err != nil {
		return nil, err
	}
	if len(tests) == 0 {
		return f.s.entries.visible(f.root, f.active, f.insured, candidates, limit), nil
	}
	return f.verify(ctx, f.s.entries.visible(f.root, f.active, f.insured, candidates, 0), tests, limit)
}

// verify keeps the entries whose texts pass all tests, up to a limit.
func (f *finder) verify(ctx context.Context, docs []int, tests []textTest, limit int) ([]int, error) {
	args := make([]any, len(docs))
	for i, doc := range docs {
		args[i] = int64(doc)
	}
	var passing []int
	err := chunks(args, func(some []any) error {
		if limit > 0 && len(passing) >= limit {
			return nil
		}
		rows, err := f.s.db.Query(ctx, "SELECT doc, texts FROM directory_text WHERE doc IN ("+database.Marks(1, len(some))+")", some...)
		_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
			var doc int64
			var texts sql.RawBytes
			if err := rows.Scan(&doc, &texts); err != nil {
				return struct{}{}, err
			}
			for _, t := range tests {
				if !anyText(texts, t.params, t.test) {
					return struct{}{}, nil
				}
			}
			passing = append(passing, int(doc))
			return struct{}{}, nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("directory: searching: %w", err)
	}
	if limit > 0 {
		passing = passing[:min(limit, len(passing))]
	}
	return passing, nil
}

// page returns the numbers of a page's entries in order and how many match.
func (f *finder) page(ctx context.Context, offset, count int) ([]int, int, error) {
	limit := maxCounted
	if f.near != nil {
		limit = 0 // the nearest of all
	}
	docs, err := f.found(ctx, limit)
	if err != nil {
		return nil, 0, err
	}
	var first []int
	total := len(docs)
	if f.near != nil {
		first, total = f.s.entries.within(docs, *f.near, offset+count)
		total = min(total, maxCounted)
	} else {
		first = f.s.entries.order(docs, offset+count)
	}
	return first[min(offset, len(first)):], total, nil
}

// phrase tests for words in a row: the text holds them from a word's start on; whole says that the last one may not go on.
func phrase(words string, whole bool) func(text []byte) bool {
	sought := []byte(words)
	return func(text []byte) bool {
		for {
			if rest, ok := bytes.CutPrefix(text, sought); ok && (!whole || len(rest) == 0 || rest[0] == ' ') {
				return true
			}
			blank := bytes.IndexByte(text, ' ')
			if blank < 0 {
				return false
			}
			text = text[blank+1:]
		}
	}
}
