// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// ownerOf finds who may change a resource: whom the extension OwnerTelematikIdEx names, otherwise whose Telematik-ID it carries; empty where neither
// is there, and then nobody may.
func ownerOf(r *fhir.Resource) string {
	for _, c := range ownerID(r) {
		return c.Code
	}
	return r.Identifier(fhir.SystemTelematikID)
}

// BulkError says which line of an import was refused; the lines before its block are stored.
type BulkError struct {
	Line int // from 1
	Err  error
}

// Error names the line.
func (e *BulkError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap gives the cause.
func (e *BulkError) Unwrap() error { return e.Err }

// line is one line of an import and what became of it.
type line struct {
	number int
	text   []byte
	entry  Entry
	err    error
}

// Import stores resources of an NDJSON text, one per line, as a card issuer's bulk delivery: new ones and changed ones alike, whatever version is
// there. Each is validated; the first that is wrong ends the import with a *[BulkError]. It returns how many were stored. While one block is stored the
// next one is read and checked.
func (s *Store) Import(ctx context.Context, in io.Reader) (stored int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	blocks := make(chan []line)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() {
		defer close(blocks)
		readBlocks(in, func(block []line) bool {
			select {
			case blocks <- block:
				return true
			case <-ctx.Done():
				return false
			}
		})
	})
	for block := range blocks {
		entries := make([]Entry, len(block))
		for i, l := range block {
			if l.err != nil {
				return stored, &BulkError{l.number, l.err}
			}
			entries[i] = l.entry
		}
		if err := s.Put(ctx, entries...); err != nil {
			return stored, &BulkError{block[len(block)-1].number, err}
		}
		stored += len(block)
	}
	return stored, ctx.Err()
}

// readBlocks cuts a text into blocks of as many lines as one transaction stores, and checks them on all processors. What cannot be read is a last line
// with its error.
func readBlocks(in io.Reader, take func([]line) bool) {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), fhir.MaxResource)
	var block []line
	n := 0
	for lines.Scan() {
		n++
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		if block = append(block, line{number: n, text: bytes.Clone(text)}); len(block) == perTransaction {
			checkLines(block)
			if !take(block) {
				return
			}
			block = nil
		}
	}
	checkLines(block)
	if err := lines.Err(); err != nil {
		block = append(block, line{number: n + 1, err: err})
	}
	if len(block) > 0 {
		take(block)
	}
}

func checkLines(block []line) {
	each(len(block), func(i int) {
		l := &block[i]
		r, err := imported(l.text)
		if l.err, l.text = err, nil; err == nil {
			l.entry = Entry{Resource: r, Owner: ownerOf(r), Quiet: true}
		}
	})
}

// imported reads and checks one line. The version that the resource had where it comes from says nothing here.
func imported(text []byte) (*fhir.Resource, error) {
	r, err := fhir.Parse(text)
	if err != nil {
		return nil, err
	}
	if r.ID() == "" {
		return nil, errors.New("the resource has no id")
	}
	if issues := fhir.Validate(r); len(issues) > 0 {
		return nil, &fhir.Error{Status: 422, Issues: issues}
	}
	m := map[string]any{}
	for _, v := range r.At("meta") {
		if old, ok := v.(map[string]any); ok {
			maps.Copy(m, old)
		}
	}
	if _, ok := m["versionId"]; !ok {
		return r, nil
	}
	delete(m, "versionId")
	return r.WithMeta(m)
}

// exportPage is how many resources one read transaction of an export takes.
const exportPage = 1000

// Export writes all resources as NDJSON, in no particular order, which [Store.Import] does not mind. Changes made meanwhile may be in it or not.
func (s *Store) Export(ctx context.Context, out io.Writer) (written int, err error) {
	w := bufio.NewWriter(out)
	type row struct {
		nid  int64
		text string
	}
	for after := int64(0); ; {
		rows, err := s.db.Query(ctx, "SELECT nid, json FROM directory_resource WHERE nid > $1 ORDER BY nid LIMIT $2", after, exportPage)
		page, err := database.All(rows, err, func(rows *sql.Rows) (r row, err error) {
			err = rows.Scan(&r.nid, &r.text)
			return r, err
		})
		if err != nil {
			return written, fmt.Errorf("directory: export: %w", err)
		}
		for _, r := range page {
			if _, err := w.WriteString(r.text + "\n"); err != nil {
				return written, err
			}
			after, written = r.nid, written+1
		}
		if len(page) < exportPage {
			return written, w.Flush()
		}
	}
}
