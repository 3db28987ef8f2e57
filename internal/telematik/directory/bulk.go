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

// importBlock is how many resources are handed on at once.
const importBlock = perTransaction

// Import stores resources of an NDJSON text, one per line, as a card issuer's bulk delivery: new ones and changed ones alike, whatever version is
// there. Each is validated; the first that is wrong ends the import with a *[BulkError]. It returns how many were stored.
func (s *Store) Import(ctx context.Context, in io.Reader) (stored int, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), fhir.MaxResource)
	var block []Entry
	flush := func() error {
		if err := s.Put(ctx, block...); err != nil {
			return err
		}
		stored, block = stored+len(block), block[:0]
		return nil
	}
	line := 0
	for lines.Scan() {
		line++
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		r, err := imported(text)
		if err != nil {
			return stored, &BulkError{line, err}
		}
		if block = append(block, Entry{Resource: r, Owner: ownerOf(r), Quiet: true}); len(block) == importBlock {
			if err := flush(); err != nil {
				return stored, &BulkError{line, err}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return stored, &BulkError{line + 1, err}
	}
	if len(block) == 0 {
		return stored, nil
	}
	if err := flush(); err != nil {
		return stored, &BulkError{line, err}
	}
	return stored, nil
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
	return r.With(map[string]any{"meta": m})
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
