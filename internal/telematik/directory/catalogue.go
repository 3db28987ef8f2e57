// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// The bits of an entry's state: the root type's number, then flags.
const (
	stateRoot    = 3
	stateActive  = 4
	stateHidden  = 8
	stateDeleted = 16
)

// rootNumber is the root type's number in an entry's state.
var rootNumber = map[string]uint8{fhir.PractitionerRole: 1, fhir.HealthcareService: 2, fhir.Endpoint: 3}

// point is a position in millionths of a degree.
type point struct{ latitude, longitude int32 }

// catalogue holds in memory what every search asks of its candidates: state, positions and what they are sorted by, about 70 bytes an entry. The
// database says which entries have changed since it was read last, so that every node sees every change, and nothing is lost with the process.
type catalogue struct {
	mu      sync.RWMutex
	state   []uint8
	first   []point         // an entry's first position, or nowhere
	more    map[int][]point // all positions of those that have several
	sort    []string
	updated []int64 // in milliseconds
	// version and doc say up to where the entries have been read.
	version, doc int64
}

// catalogued is how many entries one read takes.
const catalogued = 20_000

// refresh reads the entries that have changed and returns how many numbers there are.
func (c *catalogue) refresh(ctx context.Context, db *database.DB) (int, error) {
	var version int64
	if err := db.QueryRow(ctx, "SELECT version FROM directory_clock WHERE one = 1").Scan(&version); err != nil {
		return 0, fmt.Errorf("directory: %w", err)
	}
	c.mu.RLock()
	n, fresh := len(c.state), c.version >= version
	c.mu.RUnlock()
	if fresh {
		return n, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.version < version {
		read, err := c.page(ctx, db, version)
		if err != nil {
			return 0, fmt.Errorf("directory: reading the entries: %w", err)
		}
		if read < catalogued {
			c.version, c.doc = version, 0
		}
	}
	return len(c.state), nil
}

// page reads the next entries up to a version. A change that comes in between is read again with its own version.
func (c *catalogue) page(ctx context.Context, db *database.DB, upTo int64) (read int, err error) {
	rows, err := db.Query(ctx, fmt.Sprintf("SELECT doc, version, state, updated, positions, sort FROM directory_entry WHERE (version, doc) > ($1, $2) AND version <= $3 ORDER BY version, doc LIMIT %d", catalogued),
		c.version, c.doc, upTo)
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var doc, version, state, updated int64
		var positions, sort sql.RawBytes
		if err := rows.Scan(&doc, &version, &state, &updated, &positions, &sort); err != nil {
			return struct{}{}, err
		}
		c.set(int(doc), uint8(state), positions, string(sort))
		c.updated[doc] = updated
		c.version, c.doc = version, doc
		read++
		return struct{}{}, nil
	})
	return read, err
}

func (c *catalogue) set(doc int, state uint8, positions []byte, sort string) {
	if n := doc + 1 - len(c.state); n > 0 {
		c.state = append(c.state, make([]uint8, n)...)
		c.first = append(c.first, make([]point, n)...)
		c.sort = append(c.sort, make([]string, n)...)
		c.updated = append(c.updated, make([]int64, n)...)
	}
	c.state[doc], c.sort[doc], c.first[doc] = state, sort, nowhere
	delete(c.more, doc)
	all := decodePoints(positions)
	if len(all) > 0 {
		c.first[doc] = all[0]
	}
	if len(all) > 1 {
		if c.more == nil {
			c.more = map[int][]point{}
		}
		c.more[doc] = all
	}
}

// nowhere stands for no position.
var nowhere = point{latitude: 1 << 30}

func encodePoints(all []point) []byte {
	out := make([]byte, 0, 8*len(all))
	for _, p := range all {
		out = binary.LittleEndian.AppendUint32(out, uint32(p.latitude))
		out = binary.LittleEndian.AppendUint32(out, uint32(p.longitude))
	}
	return out
}

func decodePoints(b []byte) []point {
	var all []point
	for ; len(b) >= 8; b = b[8:] {
		all = append(all, point{int32(binary.LittleEndian.Uint32(b)), int32(binary.LittleEndian.Uint32(b[4:]))})
	}
	return all
}

// visible walks through candidates, all entries where there are none named, and returns those that the viewer may see: active entries of a root type,
// hidden ones only for professionals. It ends at a limit; 0 is none.
func (c *catalogue) visible(root string, active, insured bool, candidates set, limit int) []int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	mask, want := uint8(stateRoot|stateDeleted), rootNumber[root]
	if active {
		mask, want = mask|stateActive, want|stateActive
	}
	if insured {
		mask |= stateHidden
	}
	var found []int
	if candidates == nil {
		for doc, state := range c.state {
			if state&mask == want {
				if found = append(found, doc); len(found) == limit {
					break
				}
			}
		}
		return found
	}
	for doc := range candidates.all() {
		if doc < len(c.state) && c.state[doc]&mask == want {
			if found = append(found, doc); len(found) == limit {
				break
			}
		}
	}
	return found
}

// changed returns the entries that changed at a time that passes a test.
func (c *catalogue) changed(n int, test func(time.Time) bool) set {
	c.mu.RLock()
	defer c.mu.RUnlock()
	found := newSet(n)
	for doc, at := range c.updated {
		if test(time.UnixMilli(at)) {
			found.add(doc)
		}
	}
	return found
}

// order returns the first n entries by name.
func (c *catalogue) order(docs []int, n int) []int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return least(docs, n, func(x, y int) int { return cmp.Or(strings.Compare(c.sort[x], c.sort[y]), cmp.Compare(x, y)) })
}

// within returns the n nearest entries of those inside a circle, nearest first, and how many lie inside.
func (c *catalogue) within(docs []int, around circle, n int) (found []int, total int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	type place struct {
		doc      int
		distance float64
	}
	low, high := around.box()
	var inside []place
	for _, doc := range docs {
		best := -1.0
		for _, p := range c.positions(doc) {
			if p.latitude < low.latitude || p.latitude > high.latitude || p.longitude < low.longitude || p.longitude > high.longitude {
				continue
			}
			if d := distance(around.latitude, around.longitude, float64(p.latitude)/1e6, float64(p.longitude)/1e6); d <= around.kilometres && (best < 0 || d < best) {
				best = d
			}
		}
		if best >= 0 {
			inside = append(inside, place{doc, best})
		}
	}
	nearest := least(inside, n, func(x, y place) int {
		return cmp.Or(cmp.Compare(x.distance, y.distance), strings.Compare(c.sort[x.doc], c.sort[y.doc]), cmp.Compare(x.doc, y.doc))
	})
	for _, p := range nearest {
		found = append(found, p.doc)
	}
	return found, len(inside)
}

func (c *catalogue) positions(doc int) []point {
	if all, several := c.more[doc]; several {
		return all
	}
	if c.first[doc] == nowhere {
		return nil
	}
	return c.first[doc : doc+1]
}

// maxInserted is how many of the least are found one by one; for more of them sorting is faster.
const maxInserted = 200

// least returns the n least of many in order, without sorting them all.
func least[T any](all []T, n int, compare func(x, y T) int) []T {
	if n <= 0 {
		return nil
	}
	if n > maxInserted {
		sorted := slices.Clone(all)
		slices.SortFunc(sorted, compare)
		return sorted[:min(n, len(sorted))]
	}
	best := make([]T, 0, min(n, len(all)))
	for _, v := range all {
		if len(best) == n && compare(v, best[n-1]) >= 0 {
			continue
		}
		at, _ := slices.BinarySearchFunc(best, v, compare)
		if len(best) == n {
			best = best[:n-1]
		}
		best = slices.Insert(best, at, v)
	}
	return best
}
